//! One replica of a copyset, as this reactor runs it.

use std::collections::VecDeque;

use crate::copyset::CopysetState;
use crate::ids::{BatchNumber, CopysetId, LogIndex, ReplicaId, Term};
use crate::journal::ScrubNote;
use crate::network::ConnectionId;
use crate::raft_group::Group;
use crate::wire::ReplyStatus;

use super::catch_up::{Arrival, Receiver, let_go_index, mark};
use super::lanes::Lanes;
use super::reading::QueuedRead;
use super::replication::Feed;
use super::replies::{QueuedReply, Replies};

/// Where a replica of a copyset lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaPlace {
    /// Its name in raft.
    pub replica: ReplicaId,
    /// Position of its node's endpoint among the peers; `None`: here.
    pub peer: Option<usize>,
}

/// A client that waits for the entry at a place in the log.
pub(super) struct Waiting {
    pub index: LogIndex,
    pub term: Term,
    pub connection: ConnectionId,
    pub token: u64,
    /// When its request was taken off the wire.
    pub taken_ns: u64,
}

/// A read that waits for a read-index round.
pub(super) struct RoundRead {
    pub context: u64,
    /// Set once a majority confirmed the round.
    pub index: Option<LogIndex>,
    pub read: QueuedRead,
}

/// See the module's documentation.
pub struct Copyset {
    pub(super) id: CopysetId,
    /// Position of its shard.
    pub(super) shard: usize,
    pub(super) group: Group,
    pub(super) state: CopysetState,
    pub(super) places: Vec<ReplicaPlace>,
    /// Clients waiting for their entries to be applied, in log order.
    pub(super) waiting: VecDeque<Waiting>,
    /// One per other replica: what the library wants sent and is not sent yet.
    pub(super) feeds: Vec<Feed>,
    pub(super) round_reads: VecDeque<RoundRead>,
    /// The context of the read-index round under way.
    pub(super) round: Option<u64>,
    /// The catch-up that brings this replica up to date.
    pub(super) receiver: Option<Box<Receiver>>,
    /// The state that a catch-up brought, for the raft snapshot that ends it.
    pub(super) arrival: Option<Box<Arrival>>,
    /// Chunks may be ahead of the state up to here, because a catch-up installed them. Durable;
    /// means nothing once it is applied.
    pub(super) ahead: LogIndex,
    /// What a replica that catches up still needs of the log lies behind this index.
    pub(super) floor: Option<LogIndex>,
    /// Where the scrub stands with it.
    pub(super) scrubbed: Option<ScrubNote>,
    /// The last batch for which it is among those that wait for their shard.
    pub(super) waits_in: BatchNumber,
    pub(super) dirty: bool,
    /// Whether it is among those whose feeds have work.
    pub(super) feeding: bool,
}

impl Copyset {
    /// The copyset's id.
    #[must_use]
    pub fn id(&self) -> CopysetId {
        self.id
    }

    /// Whether this replica's chunks are ahead of its state.
    pub(super) fn is_in_the_middle(&self) -> bool {
        self.ahead > self.state.applied()
    }

    /// Whether a catch-up is under way, or was. The map may name blocks that are just being written.
    pub(super) fn is_catching_up(&self) -> bool {
        self.receiver.is_some() || self.is_in_the_middle()
    }

    /// The mark that a checkpoint keeps, while there is need of one.
    pub(super) fn catch_up_mark(&self) -> Option<[u8; 8]> {
        self.is_in_the_middle().then(|| mark::emit(self.ahead))
    }

    /// What of a state on its way is journalled already, and how many bytes all of it has.
    pub(super) fn partial_state(&self) -> Option<(u32, &[u8])> {
        let receiver = self.receiver.as_ref().and_then(|receiver| receiver.journalled_state());
        receiver.or_else(|| self.arrival.as_ref().map(|arrival| arrival.journalled()))
    }

    /// Lets go of applied entries that are older than what the log retains.
    pub(super) fn compact(&mut self, retained: u64) {
        let keep_from = let_go_index(self.group.applied(), retained, self.floor).0;
        // Entries are let go in runs, not one at a time.
        if keep_from > self.group.log().base().0.0 + retained / 4 {
            self.group.compact(LogIndex(keep_from));
        }
    }

    /// Reads of a confirmed round whose index is applied may be served.
    pub(super) fn settle_reads(&mut self, applied: LogIndex, lanes: &mut Lanes) {
        while let Some(front) = self.round_reads.front() {
            if front.index.is_none_or(|index| index > applied) {
                return;
            }
            let front = self.round_reads.pop_front().expect("a front that was seen");
            lanes.confirmed(front.read);
        }
    }

    /// Read-index rounds end with leadership: who waits for one asks the next leader.
    pub(super) fn refuse_round_reads(&mut self, replies: &mut Replies, lanes: &mut Lanes) {
        let hint = self.group.leader().map_or(0, |leader| leader.0);
        for round in self.round_reads.drain(..) {
            let (connection, token) = (round.read.connection, round.read.token);
            let mut reply = QueuedReply::new(connection, token, ReplyStatus::NotLeader);
            reply.value = hint;
            replies.push(reply);
            lanes.leave(&round.read, false);
        }
    }

    /// Answers everybody who waits: this replica can do nothing for them.
    pub(super) fn abandon(&mut self, replies: &mut Replies, lanes: &mut Lanes) {
        for waiting in self.waiting.drain(..) {
            let (connection, token) = (waiting.connection, waiting.token);
            replies.push(QueuedReply::new(connection, token, ReplyStatus::DeviceFailed));
        }
        for read in self.round_reads.drain(..).map(|round| round.read) {
            replies.push(QueuedReply::new(read.connection, read.token, ReplyStatus::DeviceFailed));
            lanes.leave(&read, false);
        }
        for feed in &mut self.feeds {
            feed.clear();
        }
        self.group.abandon();
    }
}
