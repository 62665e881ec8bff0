//! What an `spdk:` URI says.

use crate::vfio::PciAddress;

/// A controller that SPDK drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpdkOptions {
    /// A PCI address, or what SPDK calls a transport identifier, as in
    /// `trtype:TCP traddr:127.0.0.1 trsvcid:4420 subnqn:nqn.2016-06.io.spdk:cnode1`.
    pub target: String,
    /// Its namespace; the first active one if none is named.
    pub namespace: Option<u32>,
}

impl SpdkOptions {
    /// The first namespace of a controller.
    pub fn new(target: String) -> SpdkOptions {
        SpdkOptions { target, namespace: None }
    }

    /// The transport identifier.
    pub(super) fn transport(&self) -> String {
        match self.target.parse::<PciAddress>() {
            Ok(address) => format!("trtype:PCIe traddr:{address}"),
            Err(_) => self.target.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_is_enough() {
        let transport = |target: &str| SpdkOptions::new(target.to_owned()).transport();
        assert_eq!(transport("0000:5e:00.0"), "trtype:PCIe traddr:0000:5e:00.0");
        assert_eq!(transport("5e:00.0"), "trtype:PCIe traddr:0000:5e:00.0");
        let tcp = "trtype:TCP traddr:127.0.0.1 trsvcid:4420 subnqn:nqn.2016-06.io.spdk:cnode1";
        assert_eq!(transport(tcp), tcp);
    }
}
