//! The raft snapshot that ends a catch-up: expected, installed, and on its way to the device.

use raft::eraftpb::{ConfState, SnapshotMetadata};

use super::{Group, Host};
use crate::ids::{LogIndex, ReplicaId, Term};

/// The raft snapshot that a catch-up has prepared this replica for.
#[derive(Clone, Debug)]
pub struct ExpectedSnapshot {
    /// Its index.
    pub index: LogIndex,
    /// Term of the entry there.
    pub term: Term,
    /// The membership as of its index.
    pub conf_state: ConfState,
}

impl Group {
    /// The raft snapshot offered to `peer` was refused or lost.
    pub fn report_snapshot_failed(&mut self, peer: ReplicaId) {
        if self.is_leader() {
            self.raw.report_snapshot(peer.0, raft::SnapshotStatus::Failure);
        }
    }

    /// A catch-up has brought this replica to where the raft snapshot that ends it may come; or, with
    /// `None`, begins anew, and what was expected before must not come any more.
    pub fn expect_snapshot(&mut self, expected: Option<ExpectedSnapshot>) {
        self.expected_snapshot = expected;
    }

    pub(super) fn expects_snapshot(&self, index: LogIndex, term: Term) -> bool {
        let expected = self.expected_snapshot.as_ref();
        expected.is_some_and(|expected| (expected.index, expected.term) == (index, term))
    }

    /// Whether a raft snapshot is on its way to the device. The library must not campaign then: it
    /// would look for the entries behind what it thinks was applied, and panic because the log
    /// does not have them.
    pub(super) fn is_restoring(&self) -> bool {
        self.raw.raft.raft_log.applied < self.applied.0
    }

    pub(super) fn install<H: Host>(&mut self, metadata: &SnapshotMetadata, host: &mut H) {
        let (index, term) = (LogIndex(metadata.index), Term(metadata.term));
        // Stored before anything is released: a release counts with the batch that is open then.
        host.install_snapshot(index, term, metadata.get_conf_state());
        // The payload of entries that were applied is the chunks'.
        let log = self.raw.mut_store();
        log.truncate(self.applied.next(), |extents| host.release(&extents));
        log.restart_at(index, term, metadata.get_conf_state().clone());
        self.applied = index;
        self.expected_snapshot = None;
    }
}
