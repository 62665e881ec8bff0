//! Commands of a shard: queued, in flight, and what each is for.
//!
//! A command takes a slot when it is queued and keeps it until its completion; its tag names the
//! slot, the slot's generation and the shard. So a completion that is not ours, or comes twice,
//! finds nothing.

use std::collections::VecDeque;

use culvert_memory::{SlotId, SlotTable};
use culvert_nvme::{Operation, Submission, Tag};

/// A command in its slot.
struct InFlight<P> {
    purpose: P,
    /// When the device last got it.
    submitted_ns: u64,
}

/// See the module's documentation. `P`: what a command is for.
pub(super) struct Commands<P> {
    slots: SlotTable<InFlight<P>>,
    queue: VecDeque<Submission>,
    prefix: u16,
    /// Commands that the device has and nobody said since when.
    fresh: Vec<SlotId>,
}

impl<P> Commands<P> {
    pub(super) fn new(prefix: u16, capacity: u32) -> Commands<P> {
        let queue = VecDeque::with_capacity(capacity as usize);
        let fresh = Vec::with_capacity(capacity as usize);
        Commands { slots: SlotTable::new(capacity), queue, prefix, fresh }
    }

    /// Slots that are free.
    pub(super) fn free(&self) -> u32 {
        self.slots.capacity() - self.slots.len()
    }

    /// Commands queued or in flight.
    pub(super) fn len(&self) -> u32 {
        self.slots.len()
    }

    /// Queues a command, and names it.
    ///
    /// # Panics
    ///
    /// If all slots are taken; callers look at [`Commands::free`] first.
    pub(super) fn push(&mut self, purpose: P, operation: Operation) -> Tag {
        let command = InFlight { purpose, submitted_ns: 0 };
        let Ok(slot) = self.slots.insert(command) else { panic!("a command slot is free") };
        let tag = self.tag(slot);
        self.queue.push_back(Submission { tag, operation });
        tag
    }

    /// Changes a command that the device has not seen; `None` if it has.
    pub(super) fn queued_mut(&mut self, tag: Tag) -> Option<(&mut P, &mut Operation)> {
        let submission = self.queue.iter_mut().rev().find(|queued| queued.tag == tag)?;
        let command = self.slots.get_mut(slot_of(tag))?;
        Some((&mut command.purpose, &mut submission.operation))
    }

    /// The next command for the device.
    pub(super) fn pop(&mut self) -> Option<Submission> {
        let submission = self.queue.pop_front()?;
        if self.fresh.len() < self.fresh.capacity() {
            self.fresh.push(slot_of(submission.tag));
        }
        Some(submission)
    }

    /// The device got all commands taken so far at `now_ns`, if it was not said before.
    #[inline]
    pub(super) fn submitted(&mut self, now_ns: u64) {
        for slot in self.fresh.drain(..) {
            if let Some(command) = self.slots.get_mut(slot) {
                command.submitted_ns = now_ns;
            }
        }
    }

    /// Takes back a command that the device had no room for.
    pub(super) fn give_back(&mut self, submission: Submission) {
        self.queue.push_front(submission);
    }

    /// Drops all commands that the device has not seen, and says what each was for.
    pub(super) fn drop_queued(&mut self, mut dropped: impl FnMut(P, Operation)) {
        while let Some(submission) = self.queue.pop_front() {
            if let Some((purpose, _)) = self.finish(submission.tag) {
                dropped(purpose, submission.operation);
            }
        }
    }

    /// Whether a tag is one of this shard's.
    pub(super) fn owns(&self, tag: Tag) -> bool {
        tag.0 >> 48 == u64::from(self.prefix)
    }

    /// Frees the slot of a completed command and says what it was for, and when the device got it.
    pub(super) fn finish(&mut self, tag: Tag) -> Option<(P, u64)> {
        if !self.owns(tag) {
            return None;
        }
        let command = self.slots.remove(slot_of(tag))?;
        Some((command.purpose, command.submitted_ns))
    }

    fn tag(&self, slot: SlotId) -> Tag {
        let upper = u64::from(self.prefix) << 48 | u64::from(slot.index) << 32;
        Tag(upper | u64::from(slot.generation))
    }
}

/// The slot that a tag of ours names.
fn slot_of(tag: Tag) -> SlotId {
    let index = (tag.0 >> 32) as u16;
    SlotId { index: u32::from(index), generation: tag.0 as u32 }
}
