//! One NVMe controller that is bound to vfio-pci: its file, its registers, its interrupts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use culvert_memory::{Mapping, SharedBytes};
use rustix::event::EventfdFlags;
use vfio_bindings::bindings::vfio as sys;

use super::address::PciAddress;
use super::container::Container;
use super::error::VfioError;
use super::ioctl::{self, DeviceRegion, Interrupts};
use super::options::VfioOptions;
use crate::config::IO_QUEUES_MAX;
use crate::controller::Controller;
use crate::submission_entry::NamespaceId;

/// The command register of configuration space, and its bits for memory and bus mastering.
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 1 << 1 | 1 << 2;

const VFIO_PCI: &str = "vfio-pci";

/// See the module's documentation. One for all queue pairs of a controller, whatever their threads.
#[derive(Debug)]
pub(crate) struct Device {
    pub(super) controller: Controller,
    /// What is open of it, until it has gone away.
    opened: Mutex<Option<Arc<Opened>>>,
    /// By MSI-X vector: what a completion on it signals. Empty: nobody is to be woken.
    events: Vec<OwnedFd>,
    /// What the kernel signals when it wants the device back, or reports an error of it.
    removal: Vec<OwnedFd>,
    gone: AtomicBool,
}

/// An open device. It has been let go of when the last user, and the last mapping of its registers,
/// is gone.
///
/// Fields are dropped in order: the device's file before the container that it belongs to.
#[derive(Debug)]
pub(super) struct Opened {
    file: OwnedFd,
    registers: DeviceRegion,
    pub(super) container: Container,
}

impl Device {
    /// Opens a controller; nobody else can until this is dropped.
    pub(crate) fn open(options: &VfioOptions) -> Result<Device, VfioError> {
        let address = options.address;
        let group = check(address)?;
        let container = Container::open(group)?;
        let file = container.device(address)?;
        let registers = ioctl::region(file.as_fd(), sys::VFIO_PCI_BAR0_REGION_INDEX)
            .map_err(VfioError::of("asking for the registers"))?;
        if !registers.mappable || registers.bytes == 0 {
            return Err(VfioError::NoRegisters);
        }
        switch_on(file.as_fd()).map_err(VfioError::of("enabling bus mastering"))?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let vectors = (threads + 1).min(usize::from(IO_QUEUES_MAX) + 1);
        let vectors = if options.interrupts { vectors } else { 0 };
        let events = make_events(file.as_fd(), Interrupts::MsiX, vectors)?;
        let mut removal = make_events(file.as_fd(), Interrupts::Request, 1)?;
        removal.extend(make_events(file.as_fd(), Interrupts::Error, 1)?);
        let controller = Controller::new(options.namespace.map(NamespaceId), super::BACKEND);
        let opened = Mutex::new(Some(Arc::new(Opened { file, registers, container })));
        Ok(Device { controller, opened, events, removal, gone: AtomicBool::new(false) })
    }

    /// The open device.
    pub(super) fn opened(&self) -> Result<Arc<Opened>, VfioError> {
        self.lock().clone().ok_or(VfioError::Gone)
    }

    /// What a completion on a vector signals; `None` where there is no such vector.
    pub(super) fn event(&self, vector: u16) -> Option<BorrowedFd<'_>> {
        self.events.get(usize::from(vector)).map(AsFd::as_fd)
    }

    /// Looks whether the kernel wants the device back, or has seen it fail.
    pub(super) fn check_removal(&self) {
        let mut count = [0; 8];
        let asked = |event| rustix::io::read(event, &mut count[..]).is_ok();
        if self.removal.iter().any(asked) && !self.gone.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the system removes the device, or reports that it failed; it is let go"
            );
        }
    }

    /// Whether the device is not there any more, or is to be given back.
    #[inline]
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// The device is not there any more.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Lets go of it, as far as it is ours.
    pub(super) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Opened>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    /// Maps the registers for one thread.
    pub(super) fn map_registers(&self) -> Result<SharedBytes, VfioError> {
        let DeviceRegion { offset, bytes, .. } = self.registers;
        let mapping = Mapping::from_device(self.file.as_fd(), offset, bytes as usize);
        let mapping = mapping.map_err(|error| {
            tracing::error!(%error, "mapping the registers");
            VfioError::NoRegisters
        })?;
        Ok(SharedBytes::of_mapping(Rc::new(mapping)))
    }
}

/// Whether a device can be driven; returns its IOMMU group.
fn check(address: PciAddress) -> Result<u32, VfioError> {
    if !address.exists() {
        return Err(VfioError::NotThere);
    }
    if !address.is_nvme() {
        return Err(VfioError::NotNvme);
    }
    let group = address.iommu_group().ok_or(VfioError::NoIommu)?;
    match address.driver() {
        Some(driver) if driver == VFIO_PCI => Ok(group),
        driver => {
            let driver = driver.unwrap_or_else(|| "none".into());
            Err(VfioError::Driver { address, driver })
        }
    }
}

/// Lets the device answer at its registers and reach memory.
fn switch_on(device: BorrowedFd<'_>) -> std::io::Result<()> {
    let config = ioctl::region(device, sys::VFIO_PCI_CONFIG_REGION_INDEX)?;
    let at = config.offset + COMMAND;
    let mut bytes = [0; 2];
    rustix::io::pread(device, &mut bytes[..], at)?;
    let command = u16::from_le_bytes(bytes) | MEMORY_AND_MASTER;
    rustix::io::pwrite(device, &command.to_le_bytes(), at)?;
    Ok(())
}

/// An eventfd for each interrupt of a kind, as far as there are so many.
fn make_events(
    device: BorrowedFd<'_>,
    kind: Interrupts,
    wanted: usize,
) -> Result<Vec<OwnedFd>, VfioError> {
    let count = ioctl::count(device, kind).map_err(VfioError::of("asking for interrupts"))?;
    let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let events: Result<Vec<OwnedFd>, _> =
        (0..wanted.min(count as usize)).map(|_| event()).collect();
    let events = events.map_err(VfioError::of("making an eventfd"))?;
    if !events.is_empty() {
        ioctl::set_events(device, kind, &events).map_err(VfioError::of("enabling interrupts"))?;
    }
    Ok(events)
}
