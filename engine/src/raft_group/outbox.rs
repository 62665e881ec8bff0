//! What a group wants sent.

use raft::eraftpb::{Message, MessageType};

use super::{Group, message};
use crate::ids::{LogIndex, ReplicaId, Term};
use crate::wire::{PeerMessage, PeerMessageKind};

/// Appended entries to send: the caller reads them from the log by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendRange {
    /// To whom.
    pub to: ReplicaId,
    /// Sender's term; the range is void in any other.
    pub term: Term,
    /// Index of the entry before the first.
    pub previous_index: LogIndex,
    /// Term of that entry.
    pub previous_term: Term,
    /// Entries in the range.
    pub count: u32,
    /// Commit index to tell.
    pub commit: LogIndex,
}

/// What a group wants sent; emptied by the caller.
#[derive(Default)]
pub struct Outbox {
    /// Entries for followers.
    pub appends: Vec<AppendRange>,
    /// Everything else.
    pub messages: Vec<PeerMessage>,
    /// Read-index rounds that a majority confirmed: context and index to wait for.
    pub reads: Vec<(u64, LogIndex)>,
}

impl Group {
    pub(super) fn send(&mut self, message: &Message, outbox: &mut Outbox, now_ns: u64) {
        if message.get_msg_type() == MessageType::MsgAppend {
            // A leader that is deposed before its ready leaves its messages to the follower that it
            // has become. Its log may have lost those entries to the new leader meanwhile.
            if !self.is_leader() || message.term != self.raw.raft.term {
                return;
            }
            outbox.appends.push(AppendRange {
                to: ReplicaId(message.to),
                term: Term(message.term),
                previous_index: LogIndex(message.index),
                previous_term: Term(message.log_term),
                count: message.entries.len() as u32,
                commit: LogIndex(message.commit),
            });
            return;
        }
        let Some(mut out) = message::outgoing(self.copyset, message) else { return };
        out.sent_ns = match out.kind {
            PeerMessageKind::Heartbeat => now_ns,
            PeerMessageKind::AppendResponse | PeerMessageKind::HeartbeatResponse
                if out.term == self.heard_term =>
            {
                self.heard_sent_ns
            }
            _ => 0,
        };
        outbox.messages.push(out);
    }
}
