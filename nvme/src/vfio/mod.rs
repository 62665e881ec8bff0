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

use culvert_memory::Region;

pub use address::{NoPciAddress, PciAddress};
pub(crate) use device::Device;
pub use error::VfioError;
pub use options::VfioOptions;

use self::bus::VfioBus;
use crate::claim::{self, Holder};
use crate::contract::{Completion, Namespace, QueuePair, RegisterError, Submission, Tag, Wake};
use crate::controller_error::ControllerError;
use crate::counters::Counters;
use crate::driver::Driver;
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

    /// Resets the controller: Base Specification 2.0, section 3.7. Commands in flight, also those
    /// of its other queue pairs, complete with
    /// [`Status::ABORTED_BY_HOST`](crate::Status::ABORTED_BY_HOST).
    ///
    /// # Errors
    ///
    /// When the controller does not come back; the queue pair is then lost.
    pub fn reset(&mut self) -> Result<(), ControllerError> {
        self.driver.reset()
    }

    /// Asks the controller to abort the command with this tag. True when it completes as aborted;
    /// false when it was too late, was not rung, or is unknown.
    ///
    /// # Errors
    ///
    /// When the controller does not answer.
    pub fn abort(&mut self, tag: Tag) -> Result<bool, ControllerError> {
        self.driver.abort(tag)
    }
}

impl QueuePair for Vfio {
    fn namespace(&self) -> &Namespace {
        self.driver.namespace()
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.driver.register(region)
    }

    fn unregister(&mut self, region: &Region) {
        self.driver.unregister(region);
    }

    #[inline]
    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        self.driver.submit(submission)
    }

    #[inline]
    fn ring(&mut self) {
        self.driver.ring();
    }

    #[inline]
    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        self.driver.poll(budget, complete)
    }

    fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }

    fn depth(&self) -> usize {
        self.driver.depth()
    }

    fn wake(&self) -> Wake<'_> {
        self.driver.wake()
    }

    fn arm(&mut self) -> bool {
        self.driver.arm()
    }

    fn counters(&self) -> &Counters {
        self.driver.counters()
    }

    fn tend(&mut self, now_ns: u64) {
        self.driver.tend(now_ns);
    }
}
