//! Which batches are durable.
//!
//! A batch is *complete* when its journal write and every payload write counted to it were seen
//! to complete. It is *durable* when it and all before it are complete and, on a device with a
//! volatile write cache, covered: by a flush that was submitted after that, or by force unit
//! access where the batch had no payload, or went to the device with its payload, in one block.

use std::collections::VecDeque;

use super::config::BATCHES_MAX;
use crate::ids::BatchNumber;

#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    /// Payload writes outstanding.
    payloads: u32,
    /// Journal commands outstanding.
    journal: u32,
    /// Whether the journal write was submitted.
    submitted: bool,
    had_payload: bool,
    /// Whether the journal write forces unit access.
    forced: bool,
    /// Whether its entry stands in the metadata of its payload, whose write forces unit access.
    in_metadata: bool,
    /// Whether it needs no flush any more.
    covered: bool,
    /// Position behind its last block.
    end: u64,
    /// The mark in its blocks.
    mark: u64,
}

impl Batch {
    fn is_complete(&self) -> bool {
        self.submitted && self.journal == 0 && self.payloads == 0
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Batches {
    /// From the oldest batch that is not durable to the open one.
    batches: VecDeque<Batch>,
    durable: BatchNumber,
    /// Position behind the last durable block.
    durable_end: u64,
    /// The highest mark in a durable block.
    durable_mark: u64,
    /// Durable batches whose end the durable mark has not reached: number and end.
    unmarked: VecDeque<(BatchNumber, u64)>,
    /// All batches up to this one lie below the durable mark.
    marked: BatchNumber,
    volatile: bool,
    /// The last batch that the flush in flight covers.
    flushing: Option<BatchNumber>,
}

impl Batches {
    /// No batch yet; the journal is durable up to `end` and says so itself (`mark`).
    pub(super) fn new(volatile: bool, end: u64, mark: u64) -> Batches {
        let mut batches = VecDeque::with_capacity(BATCHES_MAX);
        batches.push_back(Batch::default());
        Batches {
            batches,
            durable: BatchNumber(0),
            durable_end: end,
            durable_mark: mark,
            unmarked: VecDeque::with_capacity(2 * BATCHES_MAX),
            marked: BatchNumber(0),
            volatile,
            flushing: None,
        }
    }

    /// All batches up to this one are durable.
    pub(super) fn durable(&self) -> BatchNumber {
        self.durable
    }

    /// Position behind the last durable block: the mark for the next write.
    pub(super) fn durable_end(&self) -> u64 {
        self.durable_end
    }

    /// All batches up to this one lie below a mark that is durable itself: what they released may
    /// be written again.
    pub(super) fn marked(&self) -> BatchNumber {
        self.marked
    }

    /// The batch that is being filled.
    pub(super) fn open(&self) -> BatchNumber {
        BatchNumber(self.durable.0 + self.batches.len() as u64)
    }

    /// Whether the open batch may be closed: another one fits behind it.
    pub(super) fn has_room(&self) -> bool {
        self.batches.len() < BATCHES_MAX
    }

    /// Payload writes of the open batch that are outstanding.
    pub(super) fn open_payloads(&self) -> u32 {
        self.batches.back().expect("the open batch").payloads
    }

    /// Whether the open batch has payload.
    pub(super) fn open_has_payload(&self) -> bool {
        self.batches.back().expect("the open batch").had_payload
    }

    /// Counts a payload write to the open batch.
    pub(super) fn add_payload(&mut self) -> BatchNumber {
        let open = self.open();
        let batch = self.batches.back_mut().expect("the open batch");
        batch.payloads += 1;
        batch.had_payload = true;
        open
    }

    /// Closes the open batch and opens the next.
    pub(super) fn close(&mut self) -> BatchNumber {
        assert!(self.has_room(), "room was looked for");
        let closed = self.open();
        self.batches.push_back(Batch::default());
        closed
    }

    /// Whether the journal write of a batch may force unit access instead of a flush.
    pub(super) fn may_force(&self, batch: BatchNumber) -> bool {
        self.volatile && !self.batches[self.at(batch)].had_payload
    }

    /// Notes the journal write of a closed batch.
    pub(super) fn submitted(&mut self, batch: BatchNumber, commands: u32, end: u64, mark: u64) {
        let forced = self.may_force(batch);
        let at = self.at(batch);
        let state = &mut self.batches[at];
        assert!(!state.submitted, "a batch is written once");
        state.submitted = true;
        state.journal = commands;
        state.forced = forced;
        state.end = end;
        state.mark = mark;
    }

    /// Notes that a closed batch has no journal write: its entry goes with its only payload.
    pub(super) fn submitted_in_metadata(&mut self, batch: BatchNumber, end: u64, mark: u64) {
        self.submitted(batch, 0, end, mark);
        let at = self.at(batch);
        self.batches[at].in_metadata = true;
    }

    /// Notes a payload write that was seen to complete.
    pub(super) fn payload_done(&mut self, batch: BatchNumber) {
        let at = self.at(batch);
        self.batches[at].payloads -= 1;
        self.look_at(at);
    }

    /// Notes a journal command that was seen to complete; returns whether it was the last one.
    pub(super) fn journal_done(&mut self, batch: BatchNumber) -> bool {
        let at = self.at(batch);
        self.batches[at].journal -= 1;
        self.look_at(at);
        self.batches[at].journal == 0
    }

    fn look_at(&mut self, at: usize) {
        let state = &mut self.batches[at];
        if state.is_complete() {
            let forced = state.in_metadata || (state.forced && !state.had_payload);
            state.covered = !self.volatile || forced;
        }
    }

    /// Begins a flush if one is due and none is in flight; it is to be submitted right away.
    pub(super) fn begin_flush(&mut self) -> Option<BatchNumber> {
        if !self.volatile || self.flushing.is_some() {
            return None;
        }
        let complete = self.batches.iter().take_while(|batch| batch.is_complete()).count();
        let due = self.batches.iter().take(complete).any(|batch| !batch.covered);
        self.flushing = due.then_some(BatchNumber(self.durable.0 + complete as u64));
        self.flushing
    }

    /// Notes that the flush completed.
    pub(super) fn flush_done(&mut self) {
        let covers = self.flushing.take().expect("a flush was in flight");
        let last = self.at(covers);
        for batch in self.batches.iter_mut().take(last + 1) {
            batch.covered = true;
        }
    }

    /// Moves the durable number; returns it if it moved.
    pub(super) fn advance(&mut self) -> Option<BatchNumber> {
        let before = self.durable;
        while self.batches.front().is_some_and(|batch| batch.is_complete() && batch.covered) {
            let batch = self.batches.pop_front().expect("looked at");
            self.durable.0 += 1;
            self.durable_end = batch.end;
            self.durable_mark = self.durable_mark.max(batch.mark);
            self.unmarked.push_back((self.durable, batch.end));
        }
        while let Some(&(batch, end)) = self.unmarked.front()
            && end <= self.durable_mark
        {
            self.unmarked.pop_front();
            self.marked = batch;
        }
        (self.durable > before).then_some(self.durable)
    }

    fn at(&self, batch: BatchNumber) -> usize {
        let at = batch.0.checked_sub(self.durable.0 + 1).expect("the batch is not durable yet");
        at as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(batches: &mut Batches, end: u64) -> BatchNumber {
        let batch = batches.close();
        let mark = batches.durable_end();
        batches.submitted(batch, 1, end, mark);
        batch
    }

    #[test]
    fn without_a_volatile_cache_completion_is_enough() {
        let mut batches = Batches::new(false, 0, 0);
        let first = batches.add_payload();
        assert_eq!(write(&mut batches, 1), first);
        assert!(batches.journal_done(first));
        assert_eq!(batches.advance(), None, "the payload is still out");
        let second = write(&mut batches, 2);
        batches.journal_done(second);
        assert_eq!(batches.advance(), None, "batches are durable in order");
        batches.payload_done(first);
        assert_eq!(batches.begin_flush(), None);
        assert_eq!(batches.advance(), Some(second));
        assert_eq!(batches.durable_end(), 2);
        assert_eq!(batches.marked(), BatchNumber(0), "no durable block says so yet");
        let third = write(&mut batches, 3);
        batches.journal_done(third);
        assert_eq!(batches.advance(), Some(third));
        assert_eq!(batches.marked(), second);
    }

    #[test]
    fn a_flush_covers_what_was_seen_before_it() {
        let mut batches = Batches::new(true, 0, 0);
        let first = batches.add_payload();
        write(&mut batches, 1);
        batches.journal_done(first);
        assert_eq!(batches.begin_flush(), None, "the payload is still out");
        batches.payload_done(first);
        assert_eq!(batches.begin_flush(), Some(first));
        let second = batches.add_payload();
        write(&mut batches, 2);
        batches.journal_done(second);
        batches.payload_done(second);
        assert_eq!(batches.begin_flush(), None, "one at a time");
        assert_eq!(batches.advance(), None);
        batches.flush_done();
        assert_eq!(batches.advance(), Some(first));
        assert_eq!(batches.begin_flush(), Some(second));
        batches.flush_done();
        assert_eq!(batches.advance(), Some(second));
    }

    #[test]
    fn a_batch_in_metadata_is_durable_with_its_payload() {
        let mut batches = Batches::new(true, 7, 7);
        let first = batches.add_payload();
        assert_eq!(batches.close(), first);
        batches.submitted_in_metadata(first, 8, 7);
        assert_eq!(batches.advance(), None);
        batches.payload_done(first);
        assert_eq!(batches.begin_flush(), None);
        assert_eq!(batches.advance(), Some(first));
        assert_eq!(batches.durable_end(), 8);
    }

    #[test]
    fn forced_writes_need_no_flush() {
        let mut batches = Batches::new(true, 0, 0);
        assert!(batches.may_force(BatchNumber(1)));
        let first = write(&mut batches, 1);
        batches.journal_done(first);
        assert_eq!(batches.begin_flush(), None);
        assert_eq!(batches.advance(), Some(first));
    }
}
