//! A controller in software behind real rings.
//!
//! The driver half is the one that drives hardware; behind its bus stands a controller that
//! fetches 64-byte entries, follows PRPs, and posts 16-byte completions with phase tags. So the
//! protocol is exercised byte for byte where there is no device, and faults can be had on demand.
//!
//! ```text
//! Emulated ── Driver ── LocalBus ── RegisterFile ── Controller ── Store ── Medium
//!             (queues, PRPs)        (doorbells)     (commands)    (cache)  (RAM, file)
//! ```
//!
//! Without `thread=1` the controller works inside [`QueuePair::poll`], on the caller's thread:
//! deterministic, without system calls, and nothing completes inside `submit` or `ring`.
//!
//! Each emulated controller is a device of its own. Two opened on the same file, with one claim,
//! share its bytes, but not their volatile write caches.

mod admin;
mod controller;
mod core;
mod faults;
mod host_memory;
mod local_bus;
mod medium;
mod options;
mod pending;
mod random;
mod register_file;
mod rings;
mod segments;
mod store;
mod thread;
mod write_cache;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;

use self::admin::Admin;
use self::controller::Controller;
use self::core::Core;
use self::host_memory::HostMemory;
use self::local_bus::{Engine, LocalBus};
use self::medium::Medium;
use self::pending::{Order, Pending};
use self::random::Random;
use self::register_file::RegisterFile;
use self::store::Store;
use self::thread::ControllerThread;
use crate::claim::{self, Access, Refused};
use crate::config::TRANSFER_PAGES_MAX;
use crate::contract::Lba;
use crate::driver::{Driver, queue_pair_over_driver};
use crate::identify::{Geometry, IdentifyController};
use crate::open::{OpenError, OpenOptions};
use crate::queue_memory::QueueMemory;

pub use self::faults::{ANYWHERE, FaultTarget, Faults, Times};
pub use self::medium::MediumError;
pub use self::options::{CommandOrder, EmulatedOptions, MediumKind};
pub use self::store::Loss;

/// The name of this backend in URIs.
pub(crate) const BACKEND: &str = "emulated";
const MODEL: &str = "Culvert emulated controller";

/// A queue pair on an emulated controller.
#[derive(Debug)]
pub struct Emulated {
    driver: Driver<LocalBus>,
    faults: Faults,
    losses: Random,
    /// Keeps the file claimed.
    _file: Option<Arc<File>>,
}

impl Emulated {
    /// Makes a controller and brings it up.
    ///
    /// # Errors
    ///
    /// When memory, the file or a thread cannot be had, or somebody else uses the file.
    pub fn open(device: &EmulatedOptions, options: &OpenOptions) -> Result<Emulated, OpenError> {
        let file = open_file(device, Access::Exclusive)?;
        Emulated::open_on(device, file.map(Arc::new), options)
    }

    /// Makes a controller over a file that is claimed, if there is one.
    pub(crate) fn open_on(
        device: &EmulatedOptions,
        file: Option<Arc<File>>,
        options: &OpenOptions,
    ) -> Result<Emulated, OpenError> {
        let depth = options.checked_depth()?;
        let geometry = Geometry {
            block_size: device.block_size,
            blocks: device.bytes / u64::from(device.block_size),
            metadata_bytes: device.metadata_bytes,
        };
        let medium = open_medium(device, geometry, file.as_deref())?;
        let copies = !matches!(medium, Medium::Null);
        let store = Store::new(geometry, medium, device.cache_blocks);
        // MDTS is a power of two of pages.
        let transfer_size_max = TRANSFER_PAGES_MAX.trailing_zeros() as u8;
        let serial = format!("EMULATED{:012x}", device.seed & 0xffff_ffff_ffff);
        let identify =
            IdentifyController::emulated(MODEL, &serial, transfer_size_max, store.has_cache());

        let registers = Arc::new(RegisterFile::default());
        let faults = Faults::default();
        let order = match device.order {
            CommandOrder::Fetched => Order::Fetched,
            CommandOrder::Shuffled => Order::Shuffled(Random::new(device.seed)),
        };
        let controller = Controller::new(
            Arc::clone(&registers),
            store,
            Admin::new(identify),
            faults.clone(),
            Pending::new(order),
        );
        let core = Core { controller, memory: HostMemory::default() };
        let engine = if device.thread {
            let thread = ControllerThread::start(core, Arc::clone(&registers));
            Engine::Thread(thread.map_err(OpenError::Thread)?)
        } else {
            Engine::Inline(Box::new(core))
        };
        let bus = LocalBus::new(engine, registers, options.regions_max, copies);
        let memory = QueueMemory::new(depth).map_err(OpenError::Memory)?;
        let driver = Driver::open(
            bus,
            crate::controller::Controller::new(None, BACKEND),
            memory,
            options.timeout,
        )?;
        Ok(Emulated { driver, faults, losses: Random::new(!device.seed), _file: file })
    }

    /// The faults of this device.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Number of blocks that a power failure would put at risk.
    pub fn unflushed(&mut self) -> usize {
        self.driver.bus_mut().with_core(|core| core.controller.store_mut().unflushed())
    }

    /// The power of the device fails: `decide` says for each unflushed block, in the order in
    /// which they became dirty, what became of it. The device goes on afterwards with what is on
    /// its medium; commands that were rung and not yet executed are executed after the failure.
    pub fn drop_unflushed(&mut self, decide: &mut impl FnMut(Lba) -> Loss) {
        self.driver.bus_mut().with_core(|core| core.controller.store_mut().drop_unflushed(decide));
    }

    /// The power of the device fails, and the seed of its URI decides: each unflushed block is
    /// lost, kept or torn with equal chances.
    pub fn lose_power(&mut self) {
        let Emulated { driver, losses, .. } = self;
        let decide = &mut |_| match losses.below(3) {
            0 => Loss::Lose,
            1 => Loss::Keep,
            _ => Loss::Tear { sectors: losses.bits() as u8 },
        };
        driver.bus_mut().with_core(|core| core.controller.store_mut().drop_unflushed(decide));
    }
}

queue_pair_over_driver!(Emulated);

/// Opens and claims the file of a device that has one; nothing is read or written yet.
pub(crate) fn open_file(
    device: &EmulatedOptions,
    access: Access,
) -> Result<Option<File>, OpenError> {
    let MediumKind::File(path) = &device.medium else { return Ok(None) };
    let failed = |source| OpenError::File { path: path.clone(), source };
    let file = medium::open(path).map_err(failed)?;
    match claim::lock(&file, access) {
        Ok(()) => Ok(Some(file)),
        Err(Refused::InUse(holder)) => Err(OpenError::InUse { path: path.clone(), holder }),
        Err(Refused::Failed(errno)) => Err(failed(MediumError::Lock(errno.into()))),
    }
}

fn open_medium(
    device: &EmulatedOptions,
    geometry: Geometry,
    file: Option<&File>,
) -> Result<Medium, OpenError> {
    // Metadata lie behind all blocks.
    let bytes = device.bytes + geometry.blocks * u64::from(geometry.metadata_bytes);
    match &device.medium {
        MediumKind::Null => Ok(Medium::Null),
        MediumKind::Memory => Medium::memory(bytes).map_err(OpenError::Medium),
        MediumKind::File(path) => {
            let file = file.expect("whoever claims a device with a file opens it");
            Medium::file(file, bytes)
                .map_err(|source| OpenError::File { path: path.clone(), source })
        }
    }
}
