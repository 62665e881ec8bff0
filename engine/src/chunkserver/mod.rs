//! The chunkserver: copysets, shards and connections of one reactor, put together.
//!
//! Frames, device completions and ticks come in between [`Chunkserver::begin`] and
//! [`Chunkserver::run`]; `run` lets the groups decide, applies, answers, replicates and reads.
//! Everything that must not wait for another connection or copyset is bounded and kept per
//! connection or per copyset. It owns no driver: the network is an argument, and devices are fed
//! by whoever drains the shards' submissions.

mod admission;
mod catch_up;
mod checkpoint;
mod copyset;
mod host;
mod lanes;
mod peers;
mod reading;
mod repair;
mod replaying;
mod replication;
mod replies;
mod scrub;
mod start;
mod status;
mod timers;

use std::collections::VecDeque;

use culvert_memory::{Buffer, Pool};
use culvert_nvme::{Completion, Status};

pub use catch_up::{CatchUpStatus, journal_write_bytes_min};
pub use copyset::{Copyset, ReplicaPlace};
pub use peers::{Endpoint, PeerOptions};
pub use replaying::rebuild;
pub use scrub::{ScrubOptions, ScrubStatus};
pub use start::{AbsentReplicas, ReplicaPlan, ShardPlan, StartError};
pub use status::{ChunkserverStatus, CopysetStatus, DeviceStatus, OutOfService};

use crate::by_copyset::ByCopyset;
use crate::counters::{Counters, DriverCounters};
use crate::ids::{BatchNumber, CopysetId};
use crate::network::{Class, ConnectionId, Event, Identity, Network, Payloads, PeerKind};
use crate::raft_group::{GroupOptions, Outbox};
use crate::shard::{self, Shard};
use crate::stages::{Stage, Stages};
use crate::wire::{self, AppendReader, FrameError, FrameKind, PeerMessages, Request};
use peers::Peers;
use reading::Reads;
use replies::Replies;

/// Capacities and timings of a chunkserver. Every one is set by configuration.
#[derive(Clone, Debug)]
pub struct ChunkserverOptions {
    /// Of every raft group.
    pub group: GroupOptions,
    /// Reads in flight.
    pub reads_max: u32,
    /// Pages that a follower's feed may hold, accepted for sending and not sent.
    pub feed_unsent_pages_max: u32,
    /// Requests of one connection without an answer.
    pub requests_max: u32,
    /// Applied entries that all logs together keep for followers that lag.
    pub log_entries_retained: u64,
    /// A session that was silent for so long expires.
    pub session_idle_ns: u64,
    /// Blocks of the data space that are left to entries already proposed, beside those that are
    /// left to catch-ups.
    pub reserve_blocks: u32,
    /// Bytes of blocks sent in a second to replicas that lack more than the log holds.
    pub catch_up_bytes_per_second: u64,
    /// Of the scrub of every shard.
    pub scrub: ScrubOptions,
    /// Blocks of a chunk.
    pub chunk_blocks: u32,
    /// Connections to other nodes.
    pub peers: PeerOptions,
}

/// A shard that this reactor runs, and who waits for its durability.
struct RunningShard {
    shard: Shard,
    device: DeviceStatus,
    /// Copysets with unpersisted entries, by the batch they wait for.
    waiting: VecDeque<(BatchNumber, u32)>,
    /// Writes that are stored and not durable yet, in the order of their batches.
    stored: VecDeque<Stored>,
    failed: bool,
    /// What the turn has taken in and its groups will give to the shard.
    staged: Staged,
    checkpoint_times: CheckpointTimes,
    /// What the checkpoints have room for.
    room: checkpoint::Room,
    scrub: scrub::Scrub,
}

/// When the newest checkpoint was begun and ended, to a turn; zero where none was.
#[derive(Clone, Copy, Debug, Default)]
struct CheckpointTimes {
    began_ns: u64,
    ended_ns: u64,
}

impl CheckpointTimes {
    fn note(&mut self, running: bool, now_ns: u64) {
        match (running, self.began_ns > self.ended_ns) {
            (true, false) => self.began_ns = now_ns,
            (false, true) => self.ended_ns = now_ns,
            _ => {}
        }
    }
}

/// Writes whose entries a group stored in one turn.
#[derive(Clone, Copy, Debug)]
struct Stored {
    batch: BatchNumber,
    /// When they were taken off the wire.
    taken_ns: u64,
    count: u64,
    leads: bool,
}

/// Journal bytes, commands and data blocks that entries already taken in will need.
#[derive(Clone, Copy, Debug, Default)]
struct Staged {
    bytes: usize,
    commands: u32,
    blocks: u32,
}

impl RunningShard {
    fn new(
        shard: Shard,
        device: DeviceStatus,
        room: checkpoint::Room,
        scrub: scrub::Scrub,
    ) -> RunningShard {
        RunningShard {
            shard,
            device,
            scrub,
            waiting: VecDeque::new(),
            stored: VecDeque::new(),
            failed: false,
            staged: Staged::default(),
            checkpoint_times: CheckpointTimes::default(),
            room,
        }
    }

    /// Notes writes that were stored; together with those before them where they are alike.
    fn note_stored(&mut self, stored: Stored) {
        match self.stored.back_mut() {
            Some(last)
                if (last.batch, last.taken_ns, last.leads)
                    == (stored.batch, stored.taken_ns, stored.leads) =>
            {
                last.count += stored.count;
            }
            _ => self.stored.push_back(stored),
        }
    }

    /// Sets room aside for an entry; `false` where the shard has none this turn. What an entry
    /// needs beside its record: its item, hard state, and what the library adds by itself.
    fn stage(&mut self, record_bytes: usize, blocks: u32) -> bool {
        let bytes = self.staged.bytes + record_bytes + ENTRY_OVERHEAD_BYTES;
        let commands = self.staged.commands + blocks + 1;
        // What was overwritten is free only behind a durable mark: a slow device may owe it.
        let total = self.staged.blocks + blocks;
        let spacious = blocks == 0 || u64::from(total) <= self.shard.store().spare_blocks();
        if !spacious || bytes > self.shard.room() || commands > self.shard.commands_free() {
            return false;
        }
        self.staged = Staged { bytes, commands, blocks: total };
        true
    }
}

/// Item head, extents, and the entry's part of hard states and empty entries.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// See the module's documentation.
pub struct Chunkserver {
    options: ChunkserverOptions,
    pool: Pool,
    shards: Vec<RunningShard>,
    copysets: Vec<Copyset>,
    /// Positions in `copysets`, ordered by id.
    by_id: ByCopyset<u32>,
    out_of_service: Vec<OutOfService>,
    /// Replicas on these shards that do not serve.
    held: Vec<checkpoint::Held>,
    peers: Peers,
    reads: Reads,
    replies: Replies,
    /// Replicas that this reactor's leaders bring up to date.
    sources: catch_up::Sources,
    /// Blocks that are bad here, and those that peers ask for.
    repairs: repair::Repairs,
    /// Copysets with something to do, each at most once.
    dirty: VecDeque<u32>,
    // A turn must not look at every copyset: with hundreds of them that alone would cost more than
    // what the turn has to do. Each of these lists those that it has something to do for.
    /// Copysets whose feeds have something to send.
    feeding: Vec<u32>,
    /// Copysets that are being brought up to date.
    receiving: Vec<u32>,
    /// Copysets whose read-index round of this turn takes further reads.
    rounds: Vec<u32>,
    outbox: Outbox,
    shard_events: Vec<shard::Event>,
    counters: Counters,
    stages: Stages,
    now_ns: u64,
    /// When the turn began: the time at which its requests and frames were taken.
    taken_ns: u64,
    /// Applied entries that each log keeps.
    retained: u64,
    ticker: timers::Ticker,
    next_expiry_ns: u64,
    /// What the drivers counted, for `status`.
    drivers: DriverCounters,
}

/// A frame that its sender should not have sent: the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// Not a frame of this protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A client spoke as a node, or a node as a client.
    #[error("frame kind {0:?} does not belong on this connection")]
    Role(FrameKind),
    /// A node that shares no copyset with this reactor, or is none of the cluster's.
    #[error("{0} is no peer of this reactor by the cluster file")]
    Stranger(Identity),
    /// The frame's payload does not match what it says.
    #[error("payload does not fit the frame: {said} blocks said, {came} pages came")]
    Payload {
        /// Blocks that the frame speaks of.
        said: u32,
        /// Pages that came with it.
        came: u32,
    },
    /// A client that asks on without taking its answers.
    #[error("more than {0} requests of one connection are without an answer")]
    Requests(u32),
}

impl Offence {
    /// Why the connection is closed, in a word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Offence::Requests(_) => "too many requests without an answer",
            _ => "peer broke the protocol",
        }
    }
}

impl Chunkserver {
    /// What this reactor counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The shards, in the order in which they were given.
    pub fn shards_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.shards.iter_mut().map(|running| &mut running.shard)
    }

    /// The shard at `position`.
    pub fn shard_mut(&mut self, position: usize) -> &mut Shard {
        &mut self.shards[position].shard
    }

    /// Starts a turn: what comes in until [`Self::run`] came at `now_ns`.
    pub fn begin(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.taken_ns = now_ns;
        // A turn that did something is followed by the next at once: what it submitted, sent and
        // answered was posted just now.
        self.stages.settle(now_ns);
        for running in &mut self.shards {
            running.shard.submitted(now_ns);
        }
    }

    /// Counts a turn.
    pub fn count_turn(&mut self, busy: bool) {
        self.counters.turns += 1;
        self.counters.empty_turns += u64::from(!busy);
    }

    /// Counts a sleep.
    pub fn count_sleep(&mut self) {
        self.counters.sleeps += 1;
    }

    /// What the drivers counted, to be shown in the status.
    pub fn set_drivers(&mut self, drivers: DriverCounters) {
        self.drivers = drivers;
    }

    /// Takes one event of the network. Events of nodes and clients that break the protocol are
    /// answered by closing their connection, which the caller does.
    ///
    /// # Errors
    ///
    /// [`Offence`]: close the connection and say why.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), (ConnectionId, Offence)> {
        match event {
            Event::Connected { connection, peer, scheme, .. } => match peer.kind {
                PeerKind::Node => self
                    .peer_connected(connection, peer, scheme)
                    .map_err(|offence| (connection, offence))?,
                PeerKind::Client => {
                    self.replies.connected(connection, peer, scheme);
                    self.reads.lanes.connected(connection);
                }
            },
            Event::Frame { connection, class, bytes, payloads } => self
                .frame(connection, class, bytes, payloads)
                .map_err(|offence| (connection, offence))?,
            Event::Writable { connection } => {
                if self.replies.writable(connection) {
                    self.reads.lanes.writable(connection);
                }
                self.wake_feeds(connection);
                self.sources.wake(connection);
            }
            Event::Closed { connection, reason } => {
                if self.replies.closed(connection) {
                    self.reads.lanes.closed(connection);
                }
                self.peer_closed(connection, reason);
            }
        }
        Ok(())
    }

    fn frame(
        &mut self,
        connection: ConnectionId,
        _class: Class,
        bytes: &[u8],
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let (kind, count, body) = wire::parse_header(bytes)?;
        let Some(from_node) = self.is_from_peer(connection) else { return Ok(()) };
        match kind {
            FrameKind::Request if self.replies.identity(connection).is_some() => {
                let request = Request::parse(body)?;
                if !self.replies.reserve(connection) {
                    return Err(Offence::Requests(self.options.requests_max));
                }
                self.request(connection, &request, payloads)
            }
            FrameKind::Append if from_node => {
                let reader = AppendReader::parse(count, body)?;
                self.append(connection, reader, payloads)
            }
            FrameKind::PeerMessages if from_node => {
                for message in PeerMessages::parse(count, body)? {
                    self.peer_message(connection, &message?);
                }
                Ok(())
            }
            FrameKind::CatchUp if from_node => {
                self.catch_up_frame(connection, count, body, payloads)
            }
            FrameKind::Repair if from_node => self.repair_frame(connection, count, body, payloads),
            other => Err(Offence::Role(other)),
        }
    }

    /// A command of the shard at `position` has completed.
    pub fn completed(&mut self, position: usize, now_ns: u64, completion: Completion) {
        let mut events = std::mem::take(&mut self.shard_events);
        let shard = &mut self.shards[position].shard;
        if let Some((stage, submitted_ns)) = shard.complete(now_ns, completion, &mut events) {
            self.stages.note(stage, submitted_ns, 1);
        }
        for event in events.drain(..) {
            match event {
                shard::Event::ReadDone { token, buffer, status } => {
                    self.read_done(token, buffer, status);
                }
                shard::Event::Failed(failure) => self.shard_failed(position, &failure),
                shard::Event::Durable(_) => {}
                shard::Event::CheckpointDone { pages } => {
                    tracing::debug!(shard = position, pages, "checkpoint done");
                    // Every checkpoint of this process began behind its start.
                    for copyset in self.copysets.iter_mut().filter(|c| c.shard == position) {
                        copyset.group.settle_doubt();
                    }
                }
                shard::Event::CheckpointTooLarge => {
                    tracing::error!(
                        shard = position,
                        "a checkpoint does not fit its area: the old one counts, and changes are \
                         refused when the journal is full; format the device with a larger \
                         --checkpoint-size and let the replica catch up"
                    );
                }
            }
        }
        self.shard_events = events;
    }

    /// A device read of a shard has ended.
    fn read_done(&mut self, token: u64, buffer: Buffer, status: Status) {
        if let Some(feed) = replication::feed_of(token) {
            self.feed_read_done(feed, token, buffer, status);
        } else if catch_up::is_catch_up(token) {
            self.catch_up_read_done(token, buffer, status);
        } else if repair::is_repair(token) {
            self.repair_read_done(token, buffer, status);
        } else if scrub::is_scrub(token) {
            self.scrub_read_done(token, buffer, status);
        } else {
            let done = (token, buffer, status);
            self.reads.piece_done(done, &mut self.stages, &mut self.counters);
        }
    }

    /// Lets everything that can go on go on. `now_ns` was read after the last event of the turn.
    pub fn run<N: Network>(&mut self, now_ns: u64, network: &mut N) {
        self.now_ns = now_ns;
        self.stages.settle(now_ns);
        self.settle_durable();
        self.run_timers();
        self.run_groups();
        self.pump_feeds(network);
        self.run_catch_ups(network);
        self.run_repairs(network);
        self.run_scrubs();
        self.feed_checkpoints();
        self.start_reads();
        self.finish_reads(network);
        if self.replies.wants_text() {
            self.counters.status_texts += 1;
            let text = self.status_text().into();
            self.replies.set_text(&text);
        }
        self.replies.send(network, &mut self.counters, &mut self.stages);
        self.peers.flush(network);
        self.peers.dial(now_ns, network);
    }

    /// Passes the shards' durability on to the groups that wait for it.
    fn settle_durable(&mut self) {
        let now_ns = self.now_ns;
        for shard in 0..self.shards.len() {
            let running = &mut self.shards[shard];
            let durable = running.shard.durable();
            while let Some(stored) = running.stored.front().copied() {
                if stored.batch > durable {
                    break;
                }
                running.stored.pop_front();
                let Stored { taken_ns, count, .. } = stored;
                if stored.leads {
                    self.stages.record(Stage::WriteDurable, taken_ns, now_ns, count);
                } else {
                    self.stages.record(Stage::AppendDurable, taken_ns, now_ns, count);
                    // The answer leaves in this turn.
                    self.stages.note(Stage::AppendReply, taken_ns, count);
                }
            }
            while let Some(&(batch, position)) = self.shards[shard].waiting.front() {
                if batch > durable {
                    break;
                }
                self.shards[shard].waiting.pop_front();
                let group = &mut self.copysets[position as usize].group;
                group.durable(durable, &mut self.outbox, now_ns);
                // Answers that waited for durability; only followers have them.
                self.route_outbox(position);
                self.mark_ready(position);
            }
        }
    }

    /// Runs the state machine of every copyset that has something to do.
    fn run_groups(&mut self) {
        let mut left = self.dirty.len();
        while left > 0 {
            left -= 1;
            let Some(position) = self.dirty.pop_front() else { break };
            self.run_group(position);
        }
        for running in &mut self.shards {
            running.staged = Staged::default();
        }
    }

    fn run_group(&mut self, position: u32) {
        let copyset = &mut self.copysets[position as usize];
        copyset.dirty = false;
        let running = &mut self.shards[copyset.shard];
        if running.failed {
            return;
        }
        let applied_before = copyset.group.applied();
        let mut host = host::CopysetHost {
            id: copyset.id,
            shard: &mut running.shard,
            state: &mut copyset.state,
            waiting: &mut copyset.waiting,
            replies: &mut self.replies,
            arrival: &mut copyset.arrival,
            counters: &mut self.counters,
            stages: &mut self.stages,
            now_ns: self.now_ns,
            writes_stored: 0,
            starved: false,
        };
        copyset.group.ready(&mut host, &mut self.outbox, self.now_ns);
        let (starved, count) = (host.starved, host.writes_stored);
        if count > 0 {
            let (batch, leads) = (running.shard.open_batch(), copyset.group.is_leader());
            running.note_stored(Stored { batch, taken_ns: self.taken_ns, count, leads });
            if leads {
                self.stages.note(Stage::WriteSubmit, self.taken_ns, count);
            }
        }
        let applied = copyset.group.applied();
        if applied > applied_before {
            running.shard.note_applied(copyset.id, applied);
            copyset.compact(self.retained);
            copyset.settle_reads(applied, &mut self.reads.lanes);
        }
        if !copyset.group.is_leader() {
            copyset.refuse_round_reads(&mut self.replies, &mut self.reads.lanes);
        }
        if let Some(batch) = copyset.group.waits_for()
            && batch > copyset.waits_in
        {
            copyset.waits_in = batch;
            running.waiting.push_back((batch, position));
        }
        let wanted = copyset.group.log_mut().take_snapshot_wanted();
        self.mark_ready(position);
        self.route_outbox(position);
        if let Some(to) = wanted {
            self.want_catch_up(position, to);
        }
        if starved {
            self.fail_shard_of(position, "its data space is full although space is admitted");
        }
    }

    fn mark(dirty: &mut VecDeque<u32>, copyset: &mut Copyset, position: u32) {
        if !copyset.dirty {
            copyset.dirty = true;
            dirty.push_back(position);
        }
    }

    /// Marks it dirty if its group has anything to do: most answers of a second follower change
    /// nothing that must be carried out.
    fn mark_ready(&mut self, position: u32) {
        let copyset = &mut self.copysets[position as usize];
        if copyset.group.has_ready() {
            Self::mark(&mut self.dirty, copyset, position);
        }
    }

    fn mark_dirty(&mut self, position: u32) {
        Self::mark(&mut self.dirty, &mut self.copysets[position as usize], position);
    }

    fn position(&self, id: CopysetId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// The shard's device failed: its replicas stop at once; the process and the others go on.
    pub fn shard_failed(&mut self, shard: usize, reason: &dyn std::fmt::Display) {
        if std::mem::replace(&mut self.shards[shard].failed, true) {
            return;
        }
        for position in 0..self.copysets.len() {
            if self.copysets[position].shard == shard {
                let copyset = &mut self.copysets[position];
                copyset.abandon(&mut self.replies, &mut self.reads.lanes);
                self.out_of_service.push(OutOfService {
                    copyset: copyset.id,
                    shard,
                    reason: reason.to_string(),
                });
            }
        }
        tracing::error!(shard, %reason, "device failed: its replicas leave service");
    }

    fn fail_shard_of(&mut self, position: u32, reason: &'static str) {
        let shard = self.copysets[position as usize].shard;
        self.shard_failed(shard, &reason);
    }

    fn in_service(&self, position: u32) -> bool {
        !self.shards[self.copysets[position as usize].shard].failed
    }

    /// Whether a turn without new events would do anything.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let waiting = self.reads.has_work() || self.replies.has_work();
        !self.dirty.is_empty() || waiting || self.sources.busy || self.repairs.busy
    }

    /// When [`Self::run`] must be called next at the latest.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        let shards = self.shards.iter().filter_map(|running| running.shard.deadline());
        let (peers, sources) = (self.peers.deadline_ns(), self.sources.deadline_ns());
        let others = [peers, sources, self.repairs.deadline_ns(), self.scrubs_deadline_ns()];
        shards.chain(others).fold(self.ticker.next_ns, u64::min)
    }
}
