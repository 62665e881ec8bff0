#![allow(unsafe_code)]
//! The driver's end of a completion queue.
//!
//! A ring of [`CompletionEntry`] in memory that the controller writes: NVM Express Base
//! Specification 2.0, sections 3.3.1 and 3.3.3.2.2. The controller inverts the phase tag at every
//! lap, so an entry is new when its phase tag is the one of this lap; memory starts as zeroes and
//! the first lap has phase 1. The driver tells how far it has read through the head doorbell.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::FromZeros;
use zerocopy::little_endian::U16;

use crate::completion_entry::CompletionEntry;
use crate::registers::Register;

/// The consumer of a completion queue.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    entries: NonNull<CompletionEntry>,
    size: u16,
    doorbell: Register,
    /// Next entry to read.
    head: u16,
    /// Head that the controller knows.
    rung: u16,
    /// Phase tag of new entries in this lap.
    phase: bool,
}

// SAFETY: the entries are the queue's alone (see `new`) and belong to no thread.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// A queue of `size` entries at `entries`, all of them zero.
    ///
    /// # Safety
    ///
    /// `entries` points to `size` entries, aligned, readable, and mapped for as long as the queue
    /// is used; besides [`CompletionQueue::reset`] only the controller writes them, and dword 3 of
    /// each last and atomically.
    pub(crate) unsafe fn new(
        entries: NonNull<CompletionEntry>,
        size: u16,
        doorbell: Register,
    ) -> CompletionQueue {
        assert!(size >= 2, "a ring of N entries holds N - 1");
        CompletionQueue { entries, size, doorbell, head: 0, rung: 0, phase: true }
    }

    /// Starts anew, with zeroed entries. The controller must be disabled.
    pub(crate) fn reset(&mut self) {
        let entries = usize::from(self.size);
        // SAFETY: the entries are the queue's (see `new`), zero is a valid entry, and a disabled
        // controller writes none.
        unsafe { self.entries.write_bytes(0, entries) };
        self.head = 0;
        self.rung = 0;
        self.phase = true;
    }

    /// Whether a new entry waits.
    #[inline]
    pub(crate) fn has_entry(&self) -> bool {
        CompletionEntry::phase_of(self.load_dword3()) == self.phase
    }

    /// Takes the next new entry.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<CompletionEntry> {
        let dword3 = self.load_dword3();
        if CompletionEntry::phase_of(dword3) != self.phase {
            return None;
        }
        // SAFETY: `head` is below `size`, so the entry is inside the queue (see `new`).
        let entry = unsafe { self.entries.add(usize::from(self.head)) };
        // SAFETY: dwords 0 to 2 were written before the phase tag, which was loaded with acquire;
        // the controller does not touch the entry again before the head doorbell passes it. Dword
        // 3 is read as an atomic only.
        let head = unsafe { entry.cast::<[u32; 3]>().read_volatile() };
        self.head += 1;
        if self.head == self.size {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some(assemble(head, dword3))
    }

    /// The doorbell write that is due, if any entry was taken since the last one.
    #[inline]
    pub(crate) fn take_doorbell(&mut self) -> Option<(Register, u16)> {
        if self.rung == self.head {
            return None;
        }
        self.rung = self.head;
        Some((self.doorbell, self.head))
    }

    /// Dword 3 of the entry at the head.
    #[inline]
    fn load_dword3(&self) -> u32 {
        // SAFETY: `head` is below `size`, so the entry is inside the queue (see `new`).
        let entry = unsafe { self.entries.add(usize::from(self.head)) };
        // SAFETY: an entry is four dwords long.
        let dword3 = unsafe { entry.cast::<u32>().add(3) };
        // SAFETY: the dword is aligned and mapped (see `new`), and is accessed only atomically
        // while the controller may write it.
        let dword3 = unsafe { AtomicU32::from_ptr(dword3.as_ptr()) };
        u32::from_le(dword3.load(Ordering::Acquire))
    }
}

/// Puts an entry together from its dwords, the first three as they lie in memory.
#[inline]
fn assemble(head: [u32; 3], dword3: u32) -> CompletionEntry {
    let mut entry = <CompletionEntry as FromZeros>::new_zeroed();
    entry.result = u32::from_le(head[0]).into();
    entry.dword1 = u32::from_le(head[1]).into();
    let dword2 = u32::from_le(head[2]);
    entry.submission_head = U16::new(dword2 as u16);
    entry.submission_queue = U16::new((dword2 >> 16) as u16);
    entry.command_id = U16::new(dword3 as u16);
    entry.status_and_phase = U16::new((dword3 >> 16) as u16);
    entry
}
