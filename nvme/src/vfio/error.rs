//! Why a device cannot be driven through VFIO.

use std::io;

use super::address::PciAddress;

/// See the module's documentation.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// Caller: no such device.
    #[error("there is no such PCI device (`lspci -D` lists them)")]
    NotThere,
    /// Caller: another kind of device.
    #[error("it is no NVMe controller")]
    NotNvme,
    /// Machine: the kernel or somebody else has it.
    #[error(
        "it is bound to the driver {driver:?}, and has to be bound to vfio-pci; where nobody uses its \
         disks: culvert nvme bind {address}"
    )]
    Driver {
        /// The device.
        address: PciAddress,
        /// Its driver; `none` if it has none.
        driver: String,
    },
    /// Machine: no IOMMU, so nothing would keep the device from memory that is not its own.
    #[error(
        "it has no IOMMU group: switch the IOMMU on (VT-d or AMD-Vi in the firmware, and \
         intel_iommu=on or amd_iommu=on on the kernel's command line)"
    )]
    NoIommu,
    /// Machine: VFIO is not loaded, or this process may not use it.
    #[error("{path}: is the module vfio-pci loaded, and may this user open the file?")]
    NoVfio {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Machine: another kind of IOMMU.
    #[error("this kernel's VFIO has no IOMMU of type 1")]
    Unsupported,
    /// Machine: other devices of the group belong to other drivers.
    #[error(
        "IOMMU group {group} holds other devices, which are not bound to vfio-pci; bind them too, \
         or put the controller into another slot"
    )]
    NotViable {
        /// The group.
        group: u32,
    },
    /// The device has gone away, or was given back when the system asked for it.
    #[error("the device has gone away since it was opened")]
    Gone,
    /// Device: its registers cannot be mapped.
    #[error("its registers cannot be mapped into memory")]
    NoRegisters,
    /// Machine: a call failed.
    #[error("{what}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl VfioError {
    /// For `map_err`: a call that was to do `what` failed.
    pub(super) fn of<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> VfioError {
        move |source| VfioError::System { what, source: source.into() }
    }
}
