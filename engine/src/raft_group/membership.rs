//! Membership changes in our own bytes: the library's encoding never comes from a peer or device.
//!
//! The body of a [`ConfChange`](crate::record::Operation::ConfChange) record is one 9-byte item
//! per change: a kind and a replica id. An empty body leaves a joint configuration.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::ids::ReplicaId;
use crate::record::RECORD_BODY_BYTES_MAX;

/// One step of a membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The replica votes from now on.
    AddVoter(ReplicaId),
    /// The replica follows without a vote.
    AddLearner(ReplicaId),
    /// The replica leaves.
    Remove(ReplicaId),
}

const ITEM_BYTES: usize = 9;

/// Changes that fit one record.
pub const CHANGES_MAX: usize = RECORD_BODY_BYTES_MAX / ITEM_BYTES;

/// The record body of `changes`.
#[must_use]
pub fn encode(changes: &[Change]) -> Vec<u8> {
    assert!(changes.len() <= CHANGES_MAX);
    let mut body = Vec::with_capacity(changes.len() * ITEM_BYTES);
    for change in changes {
        let (kind, replica) = match change {
            Change::AddVoter(replica) => (1, replica),
            Change::AddLearner(replica) => (2, replica),
            Change::Remove(replica) => (3, replica),
        };
        body.push(kind);
        body.extend_from_slice(&replica.0.to_le_bytes());
    }
    body
}

/// The library's form of a record body; `None` for a body no version wrote.
#[must_use]
pub fn decode(body: &[u8]) -> Option<ConfChangeV2> {
    let mut change = ConfChangeV2::default();
    if body.is_empty() {
        return Some(change);
    }
    let items = body.chunks_exact(ITEM_BYTES);
    if !items.remainder().is_empty() {
        return None;
    }
    let mut singles = Vec::with_capacity(CHANGES_MAX);
    for item in items {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(match item[0] {
            1 => ConfChangeType::AddNode,
            2 => ConfChangeType::AddLearnerNode,
            3 => ConfChangeType::RemoveNode,
            _ => return None,
        });
        single.node_id = u64::from_le_bytes(item[1..].try_into().ok()?);
        if single.node_id == 0 {
            return None;
        }
        singles.push(single);
    }
    change.set_transition(ConfChangeTransition::Auto);
    change.set_changes(singles.into());
    Some(change)
}
