//! The in-memory raft log of one group, and the library's view of it.
//!
//! The library orders (term, index) pairs only: its entries carry no data, except for
//! configuration changes, which it wants to see. The records live here, each encoded once, beside
//! the extents that hold its payload on this replica and, while the operation is in flight, the
//! pages that hold it in memory. Durability is the journal's business, not this module's.

use std::cell::Cell;
use std::collections::VecDeque;

use culvert_memory::Pages;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::arena::Arena;
use crate::ids::{Extent, Extents, LogIndex, OPERATION_EXTENTS_MAX, ReplicaId, Term};
use crate::record::{Operation, RecordView};

/// One entry, apart from its bytes.
struct Slot {
    term: u64,
    position: u64,
    record_bytes: u16,
    extents: u8,
    operation: Operation,
    superseded_by: u64,
    payload: Option<Pages>,
}

/// An entry as read back from the log.
pub struct LogEntry<'a> {
    /// The record.
    pub record: RecordView<'a>,
    extents: &'a [u8],
    /// A committed later entry that overwrote the payload before this replica got it.
    pub superseded_by: Option<LogIndex>,
    /// The payload in memory, while the operation is in flight.
    pub payload: Option<&'a Pages>,
}

impl LogEntry<'_> {
    /// Where its payload lies on this replica; empty where it has none.
    #[must_use]
    pub fn extents(&self) -> Extents {
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let extents = self.extents.chunks_exact(8);
        extents.map(|b| Extent { start: number(b), blocks: number(&b[4..]) }).collect()
    }

    /// Whether it has payload on this replica.
    #[must_use]
    pub fn has_extents(&self) -> bool {
        !self.extents.is_empty()
    }
}

/// See the module's documentation.
pub struct Log {
    hard_state: HardState,
    conf_state: ConfState,
    base_index: u64,
    base_term: u64,
    slots: VecDeque<Slot>,
    arena: Arena,
    /// The raft snapshots that end catch-ups, where one is ready: at most one for a replica.
    offers: Vec<(ReplicaId, LogIndex, Term)>,
    /// A replica for which the library asked for a raft snapshot.
    snapshot_wanted: Cell<Option<ReplicaId>>,
}

impl Log {
    /// An empty log whose first entry will follow `base`.
    #[must_use]
    pub fn new(hard_state: HardState, conf_state: ConfState, base: (LogIndex, Term)) -> Log {
        Log {
            hard_state,
            conf_state,
            base_index: base.0.0,
            base_term: base.1.0,
            slots: VecDeque::new(),
            arena: Arena::default(),
            offers: Vec::new(),
            snapshot_wanted: Cell::new(None),
        }
    }

    /// Index of the entry before the first one kept, and its term.
    #[must_use]
    pub fn base(&self) -> (LogIndex, Term) {
        (LogIndex(self.base_index), Term(self.base_term))
    }

    /// Index of the newest entry.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.base_index + self.slots.len() as u64)
    }

    /// Entries kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no entry is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Term of the entry at `index`, where the log still knows it.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index.0 == self.base_index {
            return Some(Term(self.base_term));
        }
        self.slot(index).map(|slot| Term(slot.term))
    }

    fn slot(&self, index: LogIndex) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.0.checked_sub(self.base_index + 1)?).ok()?)
    }

    /// Appends an entry behind the last one.
    ///
    /// # Panics
    ///
    /// If the record's index does not follow on the last one.
    pub fn append(
        &mut self,
        record: &RecordView<'_>,
        extents: &[Extent],
        superseded_by: Option<LogIndex>,
        payload: Option<Pages>,
    ) {
        assert_eq!(record.index(), self.last().next(), "log entries are contiguous");
        let mut extent_bytes = [0; OPERATION_EXTENTS_MAX * 8];
        for (extent, bytes) in extents.iter().zip(extent_bytes.chunks_exact_mut(8)) {
            bytes[..4].copy_from_slice(&extent.start.to_le_bytes());
            bytes[4..].copy_from_slice(&extent.blocks.to_le_bytes());
        }
        let position = self.arena.push(&[record.bytes(), &extent_bytes[..extents.len() * 8]]);
        self.slots.push_back(Slot {
            term: record.term().0,
            position,
            record_bytes: record.bytes().len() as u16,
            extents: extents.len() as u8,
            operation: record.operation(),
            superseded_by: superseded_by.map_or(0, |index| index.0),
            payload,
        });
    }

    /// The entry at `index`, or `None` where the log does not hold it.
    #[must_use]
    pub fn get(&self, index: LogIndex) -> Option<LogEntry<'_>> {
        let slot = self.slot(index)?;
        let record_bytes = usize::from(slot.record_bytes);
        let bytes = self.arena.get(slot.position, record_bytes + usize::from(slot.extents) * 8);
        let (record, extents) = bytes.split_at(record_bytes);
        Some(LogEntry {
            record: RecordView::trusted(record),
            extents,
            superseded_by: (slot.superseded_by != 0).then_some(LogIndex(slot.superseded_by)),
            payload: slot.payload.as_ref(),
        })
    }

    /// Lets go of the payload pages of the entry at `index`; its device extents stay.
    pub fn drop_payload(&mut self, index: LogIndex) {
        let Some(at) = index.0.checked_sub(self.base_index + 1) else { return };
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.payload = None;
        }
    }

    /// The entry's payload is no longer its own: the chunk it writes to is already past it, at
    /// `covered_by` or below.
    pub fn drop_extents(&mut self, index: LogIndex, covered_by: LogIndex) {
        let Some(at) = index.0.checked_sub(self.base_index + 1) else { return };
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.extents = 0;
            slot.superseded_by = slot.superseded_by.max(covered_by.0);
        }
    }

    /// Drops the entries from `index` on, calling `dropped` with each one's extents.
    pub fn truncate(&mut self, index: LogIndex, mut dropped: impl FnMut(Extents)) {
        while self.last() >= index && !self.slots.is_empty() {
            let last = self.last();
            let extents = self.get(last).expect("an entry that is kept").extents();
            dropped(extents);
            let slot = self.slots.pop_back().expect("an entry that is kept");
            self.arena.drop_back(slot.position);
        }
    }

    /// Drops the entries up to and including `index`.
    pub fn compact(&mut self, index: LogIndex) {
        while self.base_index < index.0 {
            let Some(slot) = self.slots.pop_front() else { return };
            self.base_index += 1;
            self.base_term = slot.term;
        }
        let front = self.slots.front().map_or(self.arena.end(), |slot| slot.position);
        self.arena.drop_front(front);
    }

    /// Forgets every entry: the log continues behind a raft snapshot.
    pub fn restart_at(&mut self, index: LogIndex, term: Term, conf_state: ConfState) {
        self.slots.clear();
        self.arena.drop_front(self.arena.end());
        self.base_index = index.0;
        self.base_term = term.0;
        self.conf_state = conf_state;
        self.offers.clear();
    }

    /// Term, vote and commit index as last handed over by the library.
    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Replaces it.
    pub fn set_hard_state(&mut self, hard_state: &HardState) {
        let HardState { term, vote, commit, .. } = *hard_state;
        (self.hard_state.term, self.hard_state.vote) = (term, vote);
        self.hard_state.commit = commit;
    }

    /// The group's membership.
    #[must_use]
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Replaces it.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Offers `to` a raft snapshot: its catch-up has brought it to `index`.
    pub fn offer_snapshot(&mut self, to: ReplicaId, index: LogIndex, term: Term) {
        self.withdraw_snapshot(to);
        self.offers.push((to, index, term));
    }

    /// Takes back what was offered to `to`: it has it, or will never have it.
    pub fn withdraw_snapshot(&mut self, to: ReplicaId) {
        self.offers.retain(|(offered_to, ..)| *offered_to != to);
    }

    /// Whether [`Self::take_snapshot_wanted`] has something to say.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.snapshot_wanted.get().is_some()
    }

    /// The replica that the library wants a raft snapshot for, once per request.
    pub fn take_snapshot_wanted(&mut self) -> Option<ReplicaId> {
        self.snapshot_wanted.take()
    }

    fn entry(&self, index: u64) -> Entry {
        let slot = &self.slots[(index - self.base_index - 1) as usize];
        let mut entry = Entry { index, term: slot.term, ..Entry::default() };
        if slot.operation == Operation::ConfChange {
            let record = self.get(LogIndex(index)).expect("an entry that is kept").record;
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry.data = record.body().to_vec().into();
        }
        entry
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last().0 + 1, "the library asked past the log's end");
        // An entry without data encodes to some ten bytes; the limit is one of number in effect.
        let limit = max_size.into().map_or(u64::MAX, |bytes| (bytes / 16).max(1));
        let high = high.min(low.saturating_add(limit));
        Ok((low..high).map(|index| self.entry(index)).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base_index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(LogIndex(index)).map(|term| term.0).ok_or(StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let offered = self.offers.iter().find(|(offered_to, index, _)| {
            offered_to.0 == to && index.0 >= request_index && index.0 >= self.base_index
        });
        let Some(&(_, index, term)) = offered else {
            self.snapshot_wanted.set(Some(ReplicaId(to)));
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = index.0;
        metadata.term = term.0;
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}
