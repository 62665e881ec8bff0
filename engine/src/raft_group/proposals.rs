//! Records between their arrival and the library's ready: proposals of this leader, entries from
//! another.
//!
//! The library assigns places; records wait here under the (index, term) they claim. A leader
//! knows the place of a proposal beforehand, because nothing else appends between a proposal and
//! its [flush](super::Group::flush_proposals), so that a record is encoded once.

use std::ops::Range;

use culvert_memory::Pages;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::membership::{self, Change};
use super::{Group, StoredEntry, handover};
use crate::ids::{LogIndex, ReplicaId, Term};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use crate::wire::live_mask_of;

/// A proposal came to a replica that cannot append it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLeader {
    /// The leader this replica knows of.
    pub hint: Option<ReplicaId>,
}

struct Waiting {
    index: LogIndex,
    term: Term,
    start: usize,
    length: usize,
    live_mask: u32,
    superseded_by: Option<LogIndex>,
    /// Its runs in [`Stash::pages`].
    runs: Range<usize>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Stash {
    bytes: Vec<u8>,
    /// Payload of all records, claimed or not: it goes back when all of them are cleared.
    pages: Vec<Pages>,
    /// Not a queue: each turn begins at the front again, in memory that is at hand.
    waiting: Vec<Waiting>,
    /// How many of them were claimed or overtaken.
    passed: usize,
    /// Records at the end of `waiting` that the library was not asked to append yet.
    proposals: usize,
}

impl Stash {
    /// Whether no record waits, neither to be proposed nor to be claimed or dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.len() == self.passed
    }

    /// Drops what nobody claimed; payload pages go back to where they came from.
    pub(super) fn clear(&mut self) {
        assert_eq!(self.proposals, 0);
        self.waiting.clear();
        self.passed = 0;
        self.bytes.clear();
        self.pages.clear();
    }

    pub(super) fn push(&mut self, entry: &StoredEntry<'_>, payload: &[Pages]) {
        let first_run = self.pages.len();
        self.pages.extend_from_slice(payload);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(entry.record.bytes());
        self.waiting.push(Waiting {
            index: entry.record.index(),
            term: entry.record.term(),
            start,
            length: entry.record.bytes().len(),
            live_mask: entry.live_mask,
            superseded_by: entry.superseded_by,
            runs: first_run..self.pages.len(),
        });
    }

    /// The record for the place that the library gave it. The library hands entries over in
    /// order, so what stands before the claimed one was overtaken and is dropped.
    pub(super) fn claim(
        &mut self,
        index: LogIndex,
        term: Term,
    ) -> Option<(StoredEntry<'_>, &[Pages])> {
        let rest = &self.waiting[self.passed..];
        let at = rest.iter().position(|w| w.index == index && w.term == term)?;
        let waiting = &rest[at];
        self.passed += at + 1;
        let bytes = &self.bytes[waiting.start..waiting.start + waiting.length];
        let entry = StoredEntry {
            record: RecordView::trusted(bytes),
            live_mask: waiting.live_mask,
            superseded_by: waiting.superseded_by,
        };
        Some((entry, &self.pages[waiting.runs.clone()]))
    }
}

/// What the library keeps of a record.
pub(super) fn library_entry(record: &RecordView<'_>) -> Entry {
    let mut entry = Entry { index: record.index().0, term: record.term().0, ..Entry::default() };
    if record.operation() == Operation::ConfChange {
        entry.set_entry_type(EntryType::EntryConfChangeV2);
    }
    entry
}

/// What an entry of the library's own making does.
pub(super) fn operation_of(entry: &Entry) -> Operation {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Operation::Noop,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => Operation::ConfChange,
    }
}

impl Group {
    /// Proposes an operation. Its entry takes the returned place, unless a leader change voids it;
    /// it is handed to the library with all others of the turn.
    ///
    /// # Errors
    ///
    /// [`NotLeader`] where this replica does not lead, or is handing leadership over.
    pub fn propose(
        &mut self,
        proposal: &Proposal<'_>,
        payload: Option<Pages>,
    ) -> Result<(LogIndex, Term), NotLeader> {
        if !self.is_leader() || self.raw.raft.lead_transferee.is_some() {
            return Err(NotLeader { hint: self.leader() });
        }
        let last = self.raw.raft.raft_log.last_index() + self.stash.proposals as u64;
        let (index, term) = (LogIndex(last + 1), self.term());
        let mut bytes = [0; RECORD_BYTES_MAX];
        let record = RecordView::trusted(proposal.emit(self.copyset, term, index, &mut bytes));
        let live_mask = live_mask_of(record.payload_blocks());
        self.stash
            .push(&StoredEntry { record, live_mask, superseded_by: None }, payload.as_slice());
        self.stash.proposals += 1;
        Ok((index, term))
    }

    /// Proposes a change of membership; more than one step goes through a joint configuration.
    ///
    /// # Errors
    ///
    /// [`NotLeader`] as for [`Self::propose`]. A change that the library refuses, because another
    /// one is under way, becomes an empty entry.
    pub fn propose_membership(&mut self, changes: &[Change]) -> Result<LogIndex, NotLeader> {
        self.flush_proposals();
        if !self.is_leader() || self.raw.raft.lead_transferee.is_some() {
            return Err(NotLeader { hint: self.leader() });
        }
        let body = membership::encode(changes);
        let change = membership::decode(&body).expect("an encoded change");
        let last = self.raw.raft.raft_log.last_index();
        self.raw.propose_conf_change(Vec::new(), change).map_err(|_| NotLeader { hint: None })?;
        let (index, term) = (LogIndex(last + 1), self.term());
        if self.raw.raft.pending_conf_index == index.0 {
            let proposal =
                Proposal { operation: Operation::ConfChange, body: &body, ..Proposal::noop() };
            let mut bytes = [0; RECORD_BYTES_MAX];
            let record = RecordView::trusted(proposal.emit(self.copyset, term, index, &mut bytes));
            self.stash.push(&StoredEntry { record, live_mask: 0, superseded_by: None }, &[]);
        }
        Ok(index)
    }

    /// Hands the turn's proposals to the library. Called before anything that could change the
    /// term or append an entry, so that each proposal takes the place it was promised.
    pub fn flush_proposals(&mut self) {
        let count = std::mem::take(&mut self.stash.proposals);
        if count == 0 {
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        let mut message = Message { from: self.replica.0, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let mut proposals = handover::entries(count);
        proposals.resize_with(count, Entry::default);
        message.set_entries(proposals.into());
        if self.raw.raft.step(message).is_ok() {
            assert_eq!(
                self.raw.raft.raft_log.last_index(),
                last + count as u64,
                "proposals take the places they were promised"
            );
        } else {
            // Their records must not be claimed by what takes those places instead. Whoever waits
            // for the places learns of the failure when it sees another entry or term there.
            let keep = self.stash.waiting.len() - count;
            self.stash.waiting.truncate(keep);
        }
    }
}
