//! An NVMe controller driven from user space, through VFIO.
//!
//! The driver half is the one that drives the emulated controller; behind its bus stands a device
//! whose registers are mapped into this process, and whose reach into memory the IOMMU limits to
//! what was registered. An operation makes no system call: entries and PRPs are written to memory,
//! doorbells to registers, completions are read from memory.
//!
//! | part | what |
//! | --- | --- |
//! | [`Vfio`], here | a queue pair |
//! | [`options`], [`address`] | what a URI says; PCI addresses and sysfs |
//! | `device` | one controller: its file, registers, interrupts; shared by its queue pairs |
//! | `bus` | the way of one queue pair to it |
//! | `container`, `iova` | memory that it can reach, and at which addresses |
//! | `ioctl` | the kernel's interface |
//!
//! **Fault model.** The device is believed nothing that the driver half does not check. What it
//! may reach is memory that was registered, and nothing else, whatever it does.

mod address;
mod bus;
mod container;
mod device;
mod error;
mod ioctl;
mod iova;
mod options;

use std::sync::Arc;

pub use address::{NoPciAddress, PciAddress};
pub(crate) use device::Device;
pub use error::VfioError;
pub use options::VfioOptions;

use self::bus::VfioBus;
use crate::claim::{self, Holder};
use crate::driver::{Driver, queue_pair_over_driver};
use crate::open::{OpenError, OpenOptions};
use crate::queue_memory::QueueMemory;

/// The name of this backend in URIs.
pub(crate) const BACKEND: &str = "vfio";

/// A queue pair on a controller behind VFIO.
#[derive(Debug)]
pub struct Vfio {
    driver: Driver<VfioBus>,
}

/// Opens and claims a controller. VFIO itself keeps everybody else away from it.
pub(crate) fn open_device(options: &VfioOptions) -> Result<Device, OpenError> {
    let opened = claim::patiently(container::is_busy, || Device::open(options));
    opened.map_err(|source| match source {
        source if container::is_busy(&source) => {
            OpenError::InUse { path: options.address.folder(), holder: Holder::Unknown }
        }
        source => OpenError::Vfio { address: options.address, source },
    })
}

impl Vfio {
    /// A queue pair on a controller that is claimed.
    pub(crate) fn open_on(
        options: &VfioOptions,
        device: Arc<Device>,
        open: &OpenOptions,
    ) -> Result<Vfio, OpenError> {
        let depth = open.checked_depth()?;
        let failed = |source| OpenError::Vfio { address: options.address, source };
        let bus = VfioBus::new(Arc::clone(&device), open.regions_max).map_err(failed)?;
        let memory = QueueMemory::new(depth).map_err(OpenError::Memory)?;
        let driver = Driver::open(bus, device.controller.clone(), memory, open.timeout)?;
        Ok(Vfio { driver })
    }
}

queue_pair_over_driver!(Vfio);
