//! A controller that works on a thread of its own.
//!
//! The rings are then really shared between threads: entries are published by doorbells and phase
//! tags, with release and acquire, as they are between a CPU and a device. The mutex here guards
//! the controller's inside against configuration calls (registering memory, power failures); the
//! data path does not take it on the driver's side.
//!
//! When it finds nothing to do for a while the thread parks, and the next doorbell unparks it. When
//! the driver has armed a wake-up, the next completion writes to an eventfd. Both hand-overs are
//! the same pattern: announce, fence, look again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use super::core::Core;
use super::register_file::RegisterFile;
use crate::config::IDLE_TURNS_MAX;

/// Commands executed before the mutex is released for others.
const COMMANDS_PER_TURN: usize = 32;
/// Idle turns between two chances for another thread on the same core.
const TURNS_PER_YIELD: u32 = 64;

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    registers: Arc<RegisterFile>,
    /// Configuration calls that wait for the mutex.
    callers: AtomicU32,
    stop: AtomicBool,
    /// The thread is parked, or about to.
    parked: AtomicBool,
    /// The next completion writes to `event`.
    armed: AtomicBool,
    event: OwnedFd,
}

/// The handle of the thread; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct ControllerThread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl ControllerThread {
    /// Starts a controller.
    ///
    /// # Errors
    ///
    /// When the kernel grants no thread or no eventfd.
    pub(super) fn start(core: Core, registers: Arc<RegisterFile>) -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            registers,
            callers: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            event,
        });
        let of_thread = Arc::clone(&shared);
        let handle = std::thread::Builder::new()
            .name(String::from("culvert-nvme"))
            .spawn(move || of_thread.run())?;
        Ok(ControllerThread { shared, handle: Some(handle) })
    }

    /// Calls `act` while the controller stands still.
    pub(super) fn with_core<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        self.shared.callers.fetch_add(1, Ordering::Relaxed);
        let result = act(&mut self.shared.lock());
        self.shared.callers.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Unparks the thread if it is parked, after a register was written. Returns the number of
    /// system calls that took.
    #[inline]
    pub(super) fn notify(&self) -> u64 {
        // The store to the register comes before the load of `parked`, as the store to `parked`
        // comes before the thread's last look at the registers: one of the two sees the other.
        fence(Ordering::SeqCst);
        if !self.shared.parked.load(Ordering::Relaxed) {
            return 0;
        }
        if !self.shared.parked.swap(false, Ordering::AcqRel) {
            return 0;
        }
        self.unpark();
        1
    }

    /// Descriptor that becomes readable after [`ControllerThread::arm`].
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// Makes the next completion write to the eventfd. The caller looks for completions once more
    /// afterwards.
    pub(super) fn arm(&self) {
        self.shared.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Ends that and clears the eventfd; returns the number of system calls.
    pub(super) fn disarm(&self) -> u64 {
        self.shared.armed.store(false, Ordering::Relaxed);
        // Cleared in any case: a write that was on its way may otherwise stay for good.
        match rustix::io::read(&self.shared.event, &mut [0u8; 8]) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => tracing::warn!(%error, "clearing an eventfd failed"),
        }
        1
    }

    fn unpark(&self) {
        if let Some(handle) = &self.handle {
            handle.thread().unpark();
        }
    }
}

impl Drop for ControllerThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.unpark();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the emulated controller's thread had panicked");
        }
    }
}

/// Says that the device has gone away when its thread ends by a panic.
struct GoneOnPanic<'a>(&'a Shared);

impl Drop for GoneOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.registers.set_gone();
            self.0.signal();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // After a panic in the controller the device counts as gone, and its inside is only
        // changed by calls that leave it whole.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self) {
        let _guard = GoneOnPanic(self);
        let mut idle_turns = 0;
        while !self.stop.load(Ordering::Acquire) {
            if self.turn() {
                idle_turns = 0;
                continue;
            }
            idle_turns += 1;
            if idle_turns >= IDLE_TURNS_MAX {
                self.park();
                idle_turns = 0;
            } else if idle_turns % TURNS_PER_YIELD == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Works once; false when there was nothing to do.
    fn turn(&self) -> bool {
        while self.callers.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        let was_gone = self.registers.is_gone();
        let mut core = self.lock();
        let posted = core.step(COMMANDS_PER_TURN);
        let has_work = core.has_work();
        drop(core);
        if posted > 0 || self.registers.is_gone() != was_gone {
            self.signal();
        }
        posted > 0 || has_work
    }

    /// Writes to the eventfd if somebody asked for it.
    fn signal(&self) {
        // The phase tags were stored before `armed` is loaded, as `armed` was stored before the
        // driver's last look at the phase tags.
        fence(Ordering::SeqCst);
        if !self.armed.load(Ordering::Relaxed) || !self.armed.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "writing to an eventfd failed");
        }
    }

    fn park(&self) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let must_stay = self.stop.load(Ordering::Acquire) || self.lock().has_work();
        if !must_stay {
            std::thread::park();
        }
        self.parked.store(false, Ordering::Relaxed);
    }
}
