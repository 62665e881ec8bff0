#![allow(unsafe_code)]
//! The controller's ends of the queues.
//!
//! The mirror image of the driver's: entries are fetched from a submission queue up to its tail
//! doorbell, and completions posted to a completion queue up to its head doorbell, with the phase
//! tag written last and with release.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::host_memory::HostMemory;
use crate::completion_entry::CompletionEntry;
use crate::status::Status;
use crate::submission_entry::{CommandId, SubmissionEntry};

/// The consumer of a submission queue.
#[derive(Debug)]
pub(super) struct SubmissionRing {
    address: u64,
    entries: NonNull<SubmissionEntry>,
    size: u32,
    /// Next entry to fetch.
    head: u32,
}

/// The producer of a completion queue.
#[derive(Debug)]
pub(super) struct CompletionRing {
    address: u64,
    entries: NonNull<CompletionEntry>,
    size: u32,
    /// Next entry to post.
    tail: u32,
    phase: bool,
}

// SAFETY: a ring is an address in registered memory, which stays mapped whichever thread uses it;
// the controller looks it up again when a registration ends (see `Controller::check_rings`).
unsafe impl Send for SubmissionRing {}
// SAFETY: as above.
unsafe impl Send for CompletionRing {}

/// What a completion says besides which queue it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) id: CommandId,
    pub(super) status: Status,
    pub(super) result: u32,
}

impl SubmissionRing {
    /// A queue of `size` entries at a device address; `None` when that is not registered memory
    /// or not aligned to a page.
    pub(super) fn new(address: u64, size: u32, memory: &HostMemory) -> Option<SubmissionRing> {
        let entries = look_up(address, size, memory)?;
        Some(SubmissionRing { address, entries, size, head: 0 })
    }

    /// Whether the queue is still in registered memory.
    pub(super) fn is_mapped(&self, memory: &HostMemory) -> bool {
        look_up::<SubmissionEntry>(self.address, self.size, memory) == Some(self.entries)
    }

    /// Number of entries.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Next entry to fetch, as completions report it.
    #[inline]
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// Fetches the next entry before `tail`, which is below the size and was loaded with acquire.
    #[inline]
    pub(super) fn fetch(&mut self, tail: u32) -> Option<SubmissionEntry> {
        if self.head == tail {
            return None;
        }
        // SAFETY: `head` is below `size`, and the queue is mapped (see `is_mapped`).
        let entry = unsafe { self.entries.add(self.head as usize) };
        // SAFETY: the driver wrote the entry before it rang the doorbell, and writes it again only
        // after a completion told it that it was fetched. Any bytes are an entry.
        let entry = unsafe { entry.read() };
        self.head = if self.head + 1 == self.size { 0 } else { self.head + 1 };
        Some(entry)
    }
}

impl CompletionRing {
    /// A queue of `size` entries at a device address; `None` when that is not registered memory
    /// or not aligned to a page.
    pub(super) fn new(address: u64, size: u32, memory: &HostMemory) -> Option<CompletionRing> {
        let entries = look_up(address, size, memory)?;
        Some(CompletionRing { address, entries, size, tail: 0, phase: true })
    }

    /// Whether the queue is still in registered memory.
    pub(super) fn is_mapped(&self, memory: &HostMemory) -> bool {
        look_up::<CompletionEntry>(self.address, self.size, memory) == Some(self.entries)
    }

    /// Whether one more completion fits while the driver has read up to `head`.
    #[inline]
    pub(super) fn has_room(&self, head: u32) -> bool {
        let next = if self.tail + 1 == self.size { 0 } else { self.tail + 1 };
        next != head
    }

    /// Posts a completion for which there is room.
    #[inline]
    pub(super) fn post(&mut self, answer: Answer, queue: u16, submission_head: u32) {
        // SAFETY: `tail` is below `size`, and the queue is mapped (see `is_mapped`).
        let entry = unsafe { self.entries.add(self.tail as usize) };
        let dword2 = u32::from(queue) << 16 | submission_head;
        let head = [answer.result.to_le(), 0, dword2.to_le()];
        let dword3 = CompletionEntry::dword3(answer.id, answer.status, self.phase);
        // SAFETY: the driver reads dwords 0 to 2 only after it has seen the new phase tag, which is
        // stored below; there is room, so it has read what was here before.
        unsafe { entry.cast::<[u32; 3]>().write_volatile(head) };
        // SAFETY: an entry is four dwords long.
        let last = unsafe { entry.cast::<u32>().add(3) };
        // SAFETY: the dword is aligned and mapped, and accessed by both sides only atomically.
        let last = unsafe { AtomicU32::from_ptr(last.as_ptr()) };
        last.store(dword3.to_le(), Ordering::Release);
        self.tail += 1;
        if self.tail == self.size {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}

/// The entries of a queue.
fn look_up<T>(address: u64, size: u32, memory: &HostMemory) -> Option<NonNull<T>> {
    if !address.is_multiple_of(culvert_memory::PAGE_SIZE as u64) {
        return None;
    }
    let bytes = memory.translate(address, size as usize * size_of::<T>())?;
    Some(bytes.pointer().cast())
}
