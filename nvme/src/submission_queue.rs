#![allow(unsafe_code)]
//! The driver's end of a submission queue.
//!
//! A ring of [`SubmissionEntry`] in memory that the controller reads: NVM Express Base
//! Specification 2.0, section 3.3.1. The driver fills entries at the tail and tells the controller
//! the new tail through the doorbell; the controller says in each completion how far it has
//! fetched (SQHD). A ring of N entries holds N - 1.

use std::ptr::NonNull;

use crate::registers::Register;
use crate::submission_entry::SubmissionEntry;

/// The producer of a submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    entries: NonNull<SubmissionEntry>,
    size: u16,
    doorbell: Register,
    /// Next entry to fill.
    tail: u16,
    /// Tail that the controller knows.
    rung: u16,
    /// Next entry that the controller fetches, as it last said.
    head: u16,
}

// SAFETY: the entries are the queue's alone (see `new`) and belong to no thread.
unsafe impl Send for SubmissionQueue {}

impl SubmissionQueue {
    /// A queue of `size` entries at `entries`.
    ///
    /// # Safety
    ///
    /// `entries` points to `size` entries, aligned, writable, and mapped for as long as the queue
    /// is used; nobody else writes them.
    pub(crate) unsafe fn new(
        entries: NonNull<SubmissionEntry>,
        size: u16,
        doorbell: Register,
    ) -> SubmissionQueue {
        assert!(size >= 2, "a ring of N entries holds N - 1");
        SubmissionQueue { entries, size, doorbell, tail: 0, rung: 0, head: 0 }
    }

    /// Starts anew, as the controller does when the queue is created.
    pub(crate) fn reset(&mut self) {
        self.tail = 0;
        self.rung = 0;
        self.head = 0;
    }

    /// Fills the next entry.
    ///
    /// There is room whenever fewer than `size - 1` commands are in flight: entries between the
    /// controller's head and the tail are commands it has not completed.
    #[inline]
    pub(crate) fn push(&mut self, entry: &SubmissionEntry) {
        let next = self.following(self.tail);
        assert!(next != self.head, "commands in flight are bounded by the queue");
        // SAFETY: `tail` is below `size`, so the entry is inside the queue (see `new`).
        let slot = unsafe { self.entries.add(usize::from(self.tail)) };
        // SAFETY: the slot is aligned and writable (see `new`), and the controller does not read
        // it before the doorbell says so.
        unsafe { slot.write(*entry) };
        self.tail = next;
    }

    /// The doorbell write that is due, if any entry was filled since the last one.
    #[inline]
    pub(crate) fn take_doorbell(&mut self) -> Option<(Register, u16)> {
        if self.rung == self.tail {
            return None;
        }
        self.rung = self.tail;
        Some((self.doorbell, self.tail))
    }

    /// Notes how far the controller has fetched. A head outside the ring is the controller's
    /// mistake and ignored.
    #[inline]
    pub(crate) fn note_head(&mut self, head: u16) {
        if head < self.size {
            self.head = head;
        }
    }

    #[inline]
    fn following(&self, index: u16) -> u16 {
        if index + 1 == self.size { 0 } else { index + 1 }
    }
}
