//! The registers of an emulated controller: memory that the driver half and the controller share.
//!
//! Each register is an atomic, each doorbell in a cache line of its own (that is also the doorbell
//! stride that the emulated CAP announces). Doorbells are stored with release and loaded with
//! acquire, which is what makes queue entries written before them visible; configuration and
//! status work the same way.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::registers::{
    self, ALL_ONES, AdminQueueAttributes, Capabilities, Configuration, ControllerStatus, DOORBELLS,
    Register,
};

/// Distance of doorbells: one cache line.
const DOORBELL_STRIDE: u32 = 64;
/// Doorbells of the admin queues and of one pair of I/O queues.
const DOORBELL_COUNT: usize = 4;
/// Most entries of an I/O queue.
pub(super) const QUEUE_ENTRIES_MAX: u32 = 1 << 16;
/// CAP.TO: 10 s, far more than any emulated step takes.
const TIMEOUT_500MS: u8 = 20;
/// VS: 2.0.0.
const VERSION: u32 = 0x0002_0000;

/// A doorbell in its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Doorbell(AtomicU32);

/// The registers.
#[derive(Debug, Default)]
pub(super) struct RegisterFile {
    configuration: AtomicU32,
    status: AtomicU32,
    admin_queue_attributes: AtomicU32,
    admin_submission_queue: AtomicU64,
    admin_completion_queue: AtomicU64,
    gone: AtomicBool,
    /// In order of their offsets: tail and head of queue 0, tail and head of queue 1.
    doorbells: [Doorbell; DOORBELL_COUNT],
}

/// What the driver half sees.
impl RegisterFile {
    pub(super) fn read32(&self, register: Register) -> u32 {
        if self.is_gone() {
            return ALL_ONES;
        }
        match register {
            registers::VERSION => VERSION,
            registers::CONFIGURATION => self.configuration.load(Ordering::Acquire),
            registers::STATUS => self.status.load(Ordering::Acquire),
            registers::ADMIN_QUEUE_ATTRIBUTES => {
                self.admin_queue_attributes.load(Ordering::Acquire)
            }
            _ => 0,
        }
    }

    pub(super) fn read64(&self, register: Register) -> u64 {
        if self.is_gone() {
            return u64::MAX;
        }
        match register {
            registers::CAPABILITIES => {
                Capabilities::new(QUEUE_ENTRIES_MAX, TIMEOUT_500MS, DOORBELL_STRIDE).0
            }
            registers::ADMIN_SUBMISSION_QUEUE => {
                self.admin_submission_queue.load(Ordering::Acquire)
            }
            registers::ADMIN_COMPLETION_QUEUE => {
                self.admin_completion_queue.load(Ordering::Acquire)
            }
            _ => 0,
        }
    }

    pub(super) fn write32(&self, register: Register, value: u32) {
        match register {
            registers::CONFIGURATION => self.configuration.store(value, Ordering::Release),
            registers::ADMIN_QUEUE_ATTRIBUTES => {
                self.admin_queue_attributes.store(value, Ordering::Release);
            }
            // Everything else is read-only or not there: ignored, as on a bus.
            _ => {}
        }
    }

    pub(super) fn write64(&self, register: Register, value: u64) {
        match register {
            registers::ADMIN_SUBMISSION_QUEUE => {
                self.admin_submission_queue.store(value, Ordering::Release);
            }
            registers::ADMIN_COMPLETION_QUEUE => {
                self.admin_completion_queue.store(value, Ordering::Release);
            }
            _ => {}
        }
    }

    /// Stores a doorbell, after everything written before it.
    #[inline]
    pub(super) fn ring(&self, register: Register, value: u16) {
        let index = register.0.wrapping_sub(DOORBELLS) / DOORBELL_STRIDE;
        if let Some(doorbell) = self.doorbells.get(index as usize) {
            doorbell.0.store(u32::from(value), Ordering::Release);
        }
    }

    /// Whether the device has gone away, and touches no memory any more.
    #[inline]
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// What the controller sees.
impl RegisterFile {
    #[inline]
    pub(super) fn configuration(&self) -> Configuration {
        Configuration(self.configuration.load(Ordering::Acquire))
    }

    pub(super) fn set_status(&self, status: ControllerStatus) {
        self.status.store(status.0, Ordering::Release);
    }

    pub(super) fn admin_queue_attributes(&self) -> AdminQueueAttributes {
        AdminQueueAttributes(self.admin_queue_attributes.load(Ordering::Acquire))
    }

    pub(super) fn admin_submission_queue(&self) -> u64 {
        self.admin_submission_queue.load(Ordering::Acquire)
    }

    pub(super) fn admin_completion_queue(&self) -> u64 {
        self.admin_completion_queue.load(Ordering::Acquire)
    }

    /// Tail of submission queue `queue`, 0 or 1, as last rung.
    #[inline]
    pub(super) fn tail(&self, queue: u16) -> u32 {
        self.doorbells[usize::from(queue) * 2].0.load(Ordering::Acquire)
    }

    /// Head of completion queue `queue`, 0 or 1, as last rung.
    #[inline]
    pub(super) fn head(&self, queue: u16) -> u32 {
        self.doorbells[usize::from(queue) * 2 + 1].0.load(Ordering::Acquire)
    }

    /// Clears the doorbells of a queue that is created.
    pub(super) fn clear_doorbells(&self, queue: u16) {
        for index in [usize::from(queue) * 2, usize::from(queue) * 2 + 1] {
            self.doorbells[index].0.store(0, Ordering::Relaxed);
        }
    }

    /// Says that the device has gone away; it must not touch memory afterwards.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }
}
