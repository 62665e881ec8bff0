//! Between the library's messages and ours: the network never carries the library's encoding.

use raft::eraftpb::{ConfState, Message, MessageType};

use crate::ids::{CopysetId, LogIndex, ReplicaId, Term};
use crate::wire::{PeerMessage, PeerMessageKind};

/// The library's mark of a campaign that a leader asked for; such a vote request is not subject
/// to the receiver's promise to its leader.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// [`PeerMessage::context`] of such a vote request. Read-index rounds start above it.
pub const CONTEXT_TRANSFER: u64 = 1;

/// Our form of a message that is not appended entries; `None` for what never leaves a node.
#[must_use]
pub fn outgoing(copyset: CopysetId, message: &Message) -> Option<PeerMessage> {
    let kind = match message.get_msg_type() {
        MessageType::MsgAppendResponse => PeerMessageKind::AppendResponse,
        MessageType::MsgRequestVote => PeerMessageKind::RequestVote,
        MessageType::MsgRequestVoteResponse => PeerMessageKind::RequestVoteResponse,
        MessageType::MsgRequestPreVote => PeerMessageKind::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => PeerMessageKind::RequestPreVoteResponse,
        MessageType::MsgHeartbeat => PeerMessageKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => PeerMessageKind::HeartbeatResponse,
        MessageType::MsgTimeoutNow => PeerMessageKind::TimeoutNow,
        MessageType::MsgSnapshot => PeerMessageKind::Snapshot,
        _ => return None,
    };
    let snapshot = message.get_snapshot().get_metadata();
    let (index, log_term) = if kind == PeerMessageKind::Snapshot {
        (snapshot.index, snapshot.term)
    } else {
        (message.index, message.log_term)
    };
    let context = match &message.context[..] {
        b"" => 0,
        CAMPAIGN_TRANSFER => CONTEXT_TRANSFER,
        bytes => bytes.try_into().map_or(0, u64::from_le_bytes),
    };
    Some(PeerMessage {
        kind,
        reject: message.reject,
        copyset,
        from: ReplicaId(message.from),
        to: ReplicaId(message.to),
        term: Term(message.term),
        log_term: Term(log_term),
        index: LogIndex(index),
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject_hint: LogIndex(message.reject_hint),
        request_snapshot: LogIndex(message.request_snapshot),
        sent_ns: 0,
        context,
    })
}

/// The library's form of a received message. `conf_state` is that of a raft snapshot.
#[must_use]
pub fn incoming(message: &PeerMessage, conf_state: &ConfState) -> Message {
    let mut out = Message {
        to: message.to.0,
        from: message.from.0,
        term: message.term.0,
        log_term: message.log_term.0,
        index: message.index.0,
        commit: message.commit.0,
        commit_term: message.commit_term.0,
        request_snapshot: message.request_snapshot.0,
        reject: message.reject,
        reject_hint: message.reject_hint.0,
        ..Message::default()
    };
    out.set_msg_type(match message.kind {
        PeerMessageKind::AppendResponse => MessageType::MsgAppendResponse,
        PeerMessageKind::RequestVote => MessageType::MsgRequestVote,
        PeerMessageKind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
        PeerMessageKind::RequestPreVote => MessageType::MsgRequestPreVote,
        PeerMessageKind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        PeerMessageKind::Heartbeat => MessageType::MsgHeartbeat,
        PeerMessageKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        PeerMessageKind::TimeoutNow => MessageType::MsgTimeoutNow,
        PeerMessageKind::Snapshot => MessageType::MsgSnapshot,
        PeerMessageKind::Doubt | PeerMessageKind::Readmit => unreachable!("not the library's"),
    });
    match message.context {
        0 => {}
        CONTEXT_TRANSFER => out.context = CAMPAIGN_TRANSFER.into(),
        round => out.context = round.to_le_bytes().to_vec().into(),
    }
    if message.kind == PeerMessageKind::Snapshot {
        let metadata = out.mut_snapshot().mut_metadata();
        metadata.index = message.index.0;
        metadata.term = message.log_term.0;
        metadata.set_conf_state(conf_state.clone());
    }
    out
}
