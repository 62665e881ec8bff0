//! Membership changes in our own bytes: the library's encoding never comes from a peer or device.
//!
//! The body of a [`ConfChange`](crate::record::Operation::ConfChange) record is one 9-byte item
//! per change: a kind and a replica id. An empty body leaves a joint configuration.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use smallvec::SmallVec;

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

/// Bytes that are no membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored membership makes no sense")]
pub struct MembershipError;

/// The membership of a group: whether a joint configuration is left by itself, then four lists of
/// ids, each behind its length.
#[must_use]
pub fn encode_conf_state(conf_state: &ConfState) -> SmallVec<[u8; 128]> {
    let lists = [
        conf_state.get_voters(),
        conf_state.get_learners(),
        conf_state.get_voters_outgoing(),
        conf_state.get_learners_next(),
    ];
    let mut out = SmallVec::new();
    out.push(u8::from(conf_state.auto_leave));
    for list in lists {
        out.push(u8::try_from(list.len()).expect("a group has few replicas"));
        list.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    }
    out
}

/// Whether the library can take a peer's word for its membership: it panics on one that
/// contradicts itself. `replica` has to be in it.
#[must_use]
pub fn can_restore(conf_state: &ConfState, replica: ReplicaId) -> bool {
    let voters = conf_state.get_voters();
    let learners = conf_state.get_learners();
    let outgoing = conf_state.get_voters_outgoing();
    let next = conf_state.get_learners_next();
    let disjoint = |one: &[u64], other: &[u64]| one.iter().all(|id| !other.contains(id));
    let single = |list: &[u64]| {
        let twice = |at: usize| list[at + 1..].contains(&list[at]);
        (0..list.len()).all(|at| list[at] != 0 && !twice(at))
    };
    let joint = !outgoing.is_empty();
    let whole = [voters, learners, outgoing, next].into_iter().all(single);
    let apart = disjoint(voters, learners) && disjoint(outgoing, learners);
    let leaving = next.iter().all(|id| outgoing.contains(id)) && disjoint(next, voters);
    let member = [voters, learners, outgoing].into_iter().any(|list| list.contains(&replica.0));
    whole && apart && leaving && member && !voters.is_empty() && (joint || !conf_state.auto_leave)
}

/// Reads what [`encode_conf_state`] wrote.
///
/// # Errors
///
/// [`MembershipError`].
pub fn parse_conf_state(bytes: &[u8]) -> Result<ConfState, MembershipError> {
    let mut reader = Reader(bytes);
    let auto_leave = reader.u8()?;
    let mut lists = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for list in &mut lists {
        for _ in 0..reader.u8()? {
            list.push(reader.u64()?);
        }
    }
    if auto_leave > 1 || !reader.0.is_empty() || lists[0].is_empty() {
        return Err(MembershipError);
    }
    let [voters, learners, voters_outgoing, learners_next] = lists;
    Ok(ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave: auto_leave == 1,
        ..ConfState::default()
    })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u8(&mut self) -> Result<u8, MembershipError> {
        let (byte, rest) = self.0.split_first().ok_or(MembershipError)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u64(&mut self) -> Result<u64, MembershipError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(MembershipError)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }
}
