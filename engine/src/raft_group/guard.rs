//! What a peer may say without reaching one of the library's panics.
//!
//! The library trusts its peers: it panics on a commit index beyond its log, on a probe below what
//! it has compacted, on an acknowledged index that was never sent. A replica that lost its tail
//! (and was told so by recovery), an old message or a hostile peer must not end the process, so
//! every message passes here first. Each refusal says which rule it broke.

use super::message::CONTEXT_TRANSFER;
use super::{Group, Role};
use crate::ids::{LogIndex, Term};
use crate::wire::{AppendHeader, PeerMessage, PeerMessageKind};

/// A term or index past this is no count of anything that happened.
const COUNT_MAX: u64 = 1 << 56;

/// Why a message was not given to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A term or index is absurd.
    #[error("term or index is beyond any real count")]
    Absurd,
    /// The message is for another replica.
    #[error("message is for another replica")]
    NotForUs,
    /// The sender claims to be this replica.
    #[error("message claims to come from this replica")]
    FromUs,
    /// A leader's log must hold what is committed here.
    #[error("sender's log contradicts what is committed here")]
    ContradictsCommitted,
    /// Entries of a log never go back in term.
    #[error("terms run backwards")]
    TermsRunBackwards,
    /// Two leaders in one term.
    #[error("another replica claims to lead in the term that this one leads")]
    TwoLeaders,
    /// An answer acknowledges entries that were never sent.
    #[error("acknowledged index lies beyond the log")]
    BeyondLog,
    /// This replica has promised a leader not to vote for others yet; or may have, before it was
    /// started.
    #[error("this replica has promised a leader to give no vote yet")]
    Promised,
    /// A raft snapshot for which no catch-up prepared this replica.
    #[error("raft snapshot without a finished catch-up")]
    UnpreparedSnapshot,
    /// This replica may have forgotten what it promised, and waits to be readmitted.
    #[error("this replica is in doubt")]
    InDoubt,
    /// A raft snapshot is on its way to the device.
    #[error("this replica is just being restored")]
    Restoring,
}

/// Checks an append message.
pub(super) fn append(group: &Group, header: &AppendHeader) -> Result<(), Refusal> {
    let (index, term) = (header.previous_index, header.previous_term);
    if header.term.0.max(index.0).max(term.0).max(header.commit.0) > COUNT_MAX {
        return Err(Refusal::Absurd);
    }
    if header.to != group.replica {
        return Err(Refusal::NotForUs);
    }
    if header.from == group.replica || header.from.0 == 0 {
        return Err(Refusal::FromUs);
    }
    if group.role == Role::Leader && group.is_leader() && header.term == group.term() {
        return Err(Refusal::TwoLeaders);
    }
    if header.term == Term(0) || term > header.term {
        return Err(Refusal::TermsRunBackwards);
    }
    let commit = group.commit();
    if index >= commit && header.term >= group.term() {
        let committed_term = group.log_term(commit).unwrap_or(Term(0));
        if term < committed_term || (index == commit && term != committed_term) {
            return Err(Refusal::ContradictsCommitted);
        }
    }
    Ok(())
}

/// Checks and where need be clamps any other message.
pub(super) fn message(
    group: &Group,
    message: &PeerMessage,
    now_ns: u64,
) -> Result<PeerMessage, Refusal> {
    let mut message = *message;
    let largest = [
        message.term.0,
        message.log_term.0,
        message.index.0,
        message.commit.0,
        message.commit_term.0,
        message.reject_hint.0,
        message.request_snapshot.0,
    ];
    if largest.into_iter().any(|count| count > COUNT_MAX) || message.term == Term(0) {
        return Err(Refusal::Absurd);
    }
    if message.to != group.replica {
        return Err(Refusal::NotForUs);
    }
    if message.from == group.replica || message.from.0 == 0 {
        return Err(Refusal::FromUs);
    }
    let last = LogIndex(group.raw.raft.raft_log.last_index());
    match message.kind {
        PeerMessageKind::RequestVote | PeerMessageKind::RequestPreVote
            if now_ns < group.promised_until_ns && message.context != CONTEXT_TRANSFER =>
        {
            return Err(Refusal::Promised);
        }
        PeerMessageKind::Heartbeat => {
            if group.is_leader() && message.term == group.term() {
                return Err(Refusal::TwoLeaders);
            }
            // A follower whose tail was torn holds less than its leader saw it acknowledge.
            message.commit = message.commit.min(last);
        }
        PeerMessageKind::AppendResponse => answer(group, &mut message, last)?,
        PeerMessageKind::HeartbeatResponse => message.commit = message.commit.min(last),
        PeerMessageKind::Snapshot if !group.expects_snapshot(message.index, message.log_term) => {
            return Err(Refusal::UnpreparedSnapshot);
        }
        PeerMessageKind::TimeoutNow if group.is_restoring() => return Err(Refusal::Restoring),
        _ => {}
    }
    Ok(message)
}

fn answer(group: &Group, message: &mut PeerMessage, last: LogIndex) -> Result<(), Refusal> {
    if message.term < group.term() || !group.is_leader() {
        return Ok(());
    }
    if message.index > last || message.reject_hint > last {
        return Err(Refusal::BeyondLog);
    }
    message.commit = message.commit.min(last);
    // This node starts no catch-up because a follower asks; it decides by the follower's index.
    message.request_snapshot = LogIndex(0);
    Ok(())
}
