//! What a `vfio:` URI says.

use super::address::PciAddress;

/// An NVMe controller that is bound to vfio-pci.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioOptions {
    /// Which.
    pub address: PciAddress,
    /// Its namespace; the first active one if none is named.
    pub namespace: Option<u32>,
    /// Whether completions interrupt, so that a thread can sleep while commands are in flight. A
    /// thread that always polls is better off without.
    pub interrupts: bool,
}

impl VfioOptions {
    /// The first namespace of a controller, with interrupts.
    pub fn new(address: PciAddress) -> VfioOptions {
        VfioOptions { address, namespace: None, interrupts: true }
    }
}
