//! What a group asks of whoever keeps its entries.

use culvert_memory::Pages;
use raft::eraftpb::ConfState;

use super::LogEntry;
use crate::ids::{BatchNumber, CopysetId, Extent, Extents, LogIndex, ReplicaId, Term};
use crate::record::RecordView;

/// What keeps a group's entries and carries out what was decided.
pub trait Host {
    /// The batch that is open: everything stored now becomes durable with it.
    fn open_batch(&self) -> BatchNumber;
    /// Stores the hard state in the open batch.
    fn store_hard_state(&mut self, copyset: CopysetId, term: Term, vote: u64, commit: LogIndex);
    /// Stores a record in the open batch and its payload in fresh extents, which are returned.
    /// `payload` holds the live blocks, in order; the extents cover all blocks of the range, those
    /// without payload by a run that starts at [`MISSING`](crate::store::MISSING).
    fn store_entry(&mut self, entry: &StoredEntry<'_>, payload: &[Pages]) -> Extents;
    /// Entries that never committed gave way to others: their extents are released by the open
    /// batch, which holds what replaced them.
    fn release(&mut self, extents: &[Extent]);
    /// The membership changed; stores it in the open batch.
    fn store_conf_state(&mut self, copyset: CopysetId, conf_state: &ConfState);
    /// Applies a committed entry. Called once per index, in order.
    fn apply(&mut self, entry: &LogEntry<'_>);
    /// The group starts anew behind a raft snapshot that a catch-up led to.
    fn install_snapshot(&mut self, index: LogIndex, term: Term, conf_state: &ConfState);
    /// The replica has been readmitted by its leader: says so in the open batch.
    fn doubt_over(&mut self, copyset: CopysetId);
    /// The group's role or leader changed.
    fn role_changed(&mut self, role: Role, leader: Option<ReplicaId>);
}

/// An entry on its way to the journal.
pub struct StoredEntry<'a> {
    /// The record.
    pub record: RecordView<'a>,
    /// Bit n: block n of the range has payload. All blocks of a write unless superseded.
    pub live_mask: u32,
    /// The later entry that overwrote what has no payload.
    pub superseded_by: Option<LogIndex>,
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes or pre-votes.
    Candidate,
    /// Leads the group.
    Leader,
}
