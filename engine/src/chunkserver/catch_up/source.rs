//! The sending side: one task for each replica that catches up, at its leader.

use std::collections::VecDeque;

use culvert_memory::{Buffer, Pages, Pool};
use culvert_nvme::Status;
use zerocopy::IntoBytes;

use super::blocks::BlockReads;
use super::sending::{Sending, Work};
use super::throttle::Throttle;
use super::{
    FRAMES_PER_TURN, LOG_RETAINED_FACTOR, OFFER_NS, Parties, REST_LONG_NS, REST_NS, SILENCE_NS,
    TASKS_MAX, WINDOW_FRAMES, plain_head,
};
use crate::chunkserver::{Chunkserver, Copyset, RunningShard};
use crate::counters::Counters;
use crate::ids::{ChunkId, LogIndex, ReplicaId, Term};
use crate::network::{Class, ConnectionId, Network, Placement, SendError};
use crate::raft_group::encode_conf_state;
use crate::store::{ChunkKey, ReadTicket, Store};
use crate::wire::{
    CATCH_UP_BODY_BYTES, CHUNK_NAMES_MAX, CatchUpHead, CatchUpKind, ChunkName, FRAME_BYTES_MAX,
    ManifestItem, emit_catch_up,
};

/// Why a task ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ending {
    #[error("the connection is closed")]
    Closed,
    #[error("this replica no longer leads")]
    Deposed,
    #[error("the receiver does not answer")]
    Silent,
    #[error("the receiver gave it up")]
    Refused,
    #[error("the receiver's answers make no sense")]
    Nonsense,
    #[error("a block is missing here and waits to be repaired")]
    Missing,
    #[error("a block is bad here")]
    BadBlock,
    #[error("the raft snapshot was lost")]
    SnapshotLost,
}

impl Ending {
    /// How long the receiver is left alone. Longer where another task will most likely end alike.
    fn rest_ns(self) -> u64 {
        match self {
            Ending::Closed | Ending::Deposed | Ending::SnapshotLost => REST_NS,
            Ending::Silent
            | Ending::Refused
            | Ending::Nonsense
            | Ending::Missing
            | Ending::BadBlock => REST_LONG_NS,
        }
    }
}

/// What keeps a task from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// An answer, a read, the clock.
    Wait,
    /// Room on the connection.
    Blocked,
    /// Something that ends it.
    End(Ending),
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The round is to be announced.
    Beginning,
    /// The list of chunks goes out; so many names have.
    Listing(usize),
    /// The receiver is to be asked what it holds, behind this chunk.
    Asking(Option<ChunkId>),
    /// Its answer is awaited.
    Asked(Option<ChunkId>),
    /// Chunks go out.
    Sending,
    /// All chunks are out; their answers are awaited.
    Settling,
    /// The state goes out; so many bytes have.
    State(usize),
    /// The receiver makes everything durable.
    Confirming,
    /// The library has the raft snapshot to send, since then.
    Offered(u64),
    /// The receiver has it, and now follows the log that was held back for it.
    Following,
}

/// What a round begins with, all of it as of one index.
pub(super) struct Round {
    pub index: LogIndex,
    term: Term,
    conf_state: Vec<u8>,
    state: Vec<u8>,
    chunks: Vec<ChunkId>,
}

impl Round {
    fn begin(copyset: &Copyset, store: &Store) -> Round {
        let mut state = Vec::with_capacity(copyset.state.image_bytes());
        copyset.state.encode(&mut state);
        let mut chunks = Vec::new();
        let mut after = None;
        while let Some(chunk) = store.chunk_after(copyset.id, after) {
            after = Some(chunk.key.chunk);
            chunks.push(chunk.key.chunk);
        }
        Round {
            index: copyset.state.applied(),
            term: copyset.state.applied_term(),
            conf_state: encode_conf_state(copyset.group.log().conf_state()).to_vec(),
            state,
            chunks,
        }
    }
}

/// See the module's documentation.
pub(super) struct Source {
    pub position: u32,
    pub whom: Parties,
    connection: ConnectionId,
    pub phase: Phase,
    round: Round,
    pub rounds: u32,
    /// Frames sent, and how many of them were answered.
    sent: u64,
    answered: u64,
    /// When the last answer came, or the first frame that waits for one was sent.
    heard_ns: u64,
    blocked: bool,
    manifest: Vec<ManifestItem>,
    work: VecDeque<Work>,
    pub work_total: usize,
    chunk: Option<Sending>,
    pub blocks_sent: u64,
    pub bytes_sent: u64,
    pub started_ns: u64,
}

/// What a task may use in one step.
pub(super) struct Desk<'a, N> {
    pub copyset: &'a mut Copyset,
    pub running: &'a mut RunningShard,
    pub pool: &'a Pool,
    pub network: &'a mut N,
    pub connection: ConnectionId,
    pub reads: &'a mut BlockReads,
    throttle: &'a mut Throttle,
    frame: &'a mut [u8; FRAME_BYTES_MAX],
    counters: &'a mut Counters,
    now_ns: u64,
}

impl Source {
    /// Chunks of the round that are dealt with.
    pub fn work_done(&self) -> usize {
        self.work_total - self.work.len() - usize::from(self.chunk.is_some())
    }

    /// The first index that the leader's log has to keep for it, less one.
    fn floor(&self, copyset: &Copyset) -> LogIndex {
        match self.phase {
            Phase::Following => copyset.group.matched(self.whom.to).unwrap_or_default(),
            _ => self.round.index,
        }
    }

    /// Goes on as far as possible.
    fn step<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Stop {
        let waits = self.sent > self.answered;
        if waits && desk.now_ns.saturating_sub(self.heard_ns) > SILENCE_NS {
            return Stop::End(Ending::Silent);
        }
        for _ in 0..FRAMES_PER_TURN {
            if let Err(stop) = self.advance(desk) {
                return stop;
            }
        }
        Stop::Wait
    }

    /// The next step of the round: at most one frame.
    fn advance<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let idle = self.sent == self.answered;
        match self.phase {
            Phase::Beginning => self.send_begin(desk),
            Phase::Listing(from) => self.send_list(from, desk),
            Phase::Asking(after) => self.ask(after, desk),
            Phase::Asked(_) => Err(Stop::Wait),
            Phase::Sending => self.send_chunk(desk),
            Phase::Settling | Phase::Confirming if !idle => Err(Stop::Wait),
            Phase::Settling if self.is_outrun(desk) => self.begin_again(desk),
            Phase::Settling => {
                self.phase = Phase::State(0);
                Ok(())
            }
            Phase::State(from) => self.send_state(from, desk),
            Phase::Confirming => {
                let (to, index, term) = (self.whom.to, self.round.index, self.round.term);
                desk.copyset.group.log_mut().offer_snapshot(to, index, term);
                self.phase = Phase::Offered(desk.now_ns);
                Ok(())
            }
            Phase::Offered(since_ns) => self.await_snapshot(since_ns, desk),
            Phase::Following => Err(Stop::Wait),
        }
    }

    /// Whether the log no longer reaches back to where the round began.
    fn is_outrun<N>(&self, desk: &Desk<'_, N>) -> bool {
        desk.copyset.group.log().base().0 > self.round.index
    }

    fn begin_again<N>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        desk.copyset.group.log_mut().withdraw_snapshot(self.whom.to);
        self.round = Round::begin(desk.copyset, desk.running.shard.store());
        self.rounds += 1;
        self.phase = Phase::Beginning;
        Ok(())
    }

    fn send_begin<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let head = CatchUpHead { index_term: self.round.term, ..self.head(CatchUpKind::Begin) };
        let conf_state = std::mem::take(&mut self.round.conf_state);
        let sent = self.send(head, 0, &conf_state, &[], desk);
        self.round.conf_state = conf_state;
        sent?;
        self.manifest.clear();
        self.work.clear();
        self.work_total = 0;
        self.phase = Phase::Listing(0);
        Ok(())
    }

    fn send_list<N: Network>(&mut self, from: usize, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let to = self.round.chunks.len().min(from + CHUNK_NAMES_MAX);
        let names: Vec<ChunkName> =
            self.round.chunks[from..to].iter().map(|chunk| chunk.0.into()).collect();
        let head = CatchUpHead {
            first: from == 0,
            last: to == self.round.chunks.len(),
            total: self.round.chunks.len() as u32,
            ..self.head(CatchUpKind::Retain)
        };
        self.send(head, names.len() as u16, names.as_bytes(), &[], desk)?;
        self.phase = if head.last { Phase::Asking(None) } else { Phase::Listing(to) };
        Ok(())
    }

    fn ask<N: Network>(
        &mut self,
        after: Option<ChunkId>,
        desk: &mut Desk<'_, N>,
    ) -> Result<(), Stop> {
        let head = CatchUpHead {
            first: after.is_none(),
            chunk: after.unwrap_or_default(),
            ..self.head(CatchUpKind::List)
        };
        self.send(head, 0, &[], &[], desk)?;
        self.phase = Phase::Asked(after);
        Ok(())
    }

    /// Takes an answer.
    fn answer(
        &mut self,
        head: &CatchUpHead,
        items: &[ManifestItem],
        now_ns: u64,
    ) -> Result<(), Ending> {
        if head.number != self.answered + 1 || head.number > self.sent {
            return Err(Ending::Nonsense);
        }
        self.answered = head.number;
        self.heard_ns = now_ns;
        if head.kind != CatchUpKind::Manifest {
            return Ok(());
        }
        let Phase::Asked(mut after) = self.phase else { return Err(Ending::Nonsense) };
        for item in items {
            let chunk = ChunkId(item.chunk.get());
            if after.is_some_and(|after| chunk <= after) {
                return Err(Ending::Nonsense);
            }
            after = Some(chunk);
            self.manifest.push(*item);
        }
        if items.is_empty() && !head.last {
            return Err(Ending::Nonsense);
        }
        self.phase = if head.last { Phase::Sending } else { Phase::Asking(after) };
        self.work_total = usize::MAX;
        Ok(())
    }

    /// Compares the list with what the receiver holds.
    fn plan<N>(&mut self, desk: &Desk<'_, N>) {
        let store = desk.running.shard.store();
        let held = |chunk: ChunkId| {
            let at = self.manifest.binary_search_by_key(&chunk.0, |item| item.chunk.get()).ok()?;
            Some(&self.manifest[at])
        };
        let work = self.round.chunks.iter().filter_map(|chunk| {
            let summary = store.chunk(ChunkKey { copyset: desk.copyset.id, chunk: *chunk })?;
            Work::of(&summary, held(*chunk), self.round.index)
        });
        let mut work: Vec<Work> = work.collect();
        work.sort_by_key(|work| !work.shrinks);
        self.work_total = work.len();
        self.work = work.into();
        self.manifest = Vec::new();
    }

    fn send_chunk<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        if self.work_total == usize::MAX {
            self.plan(desk);
        }
        if self.chunk.is_none() {
            let Some(work) = self.work.front() else {
                self.phase = Phase::Settling;
                return Ok(());
            };
            let opened = Sending::open(work, self.round.index, desk)?;
            self.work.pop_front();
            self.chunk = opened;
        }
        let Some(mut chunk) = self.chunk.take() else { return Ok(()) };
        let sent = self.send_blocks(&mut chunk, desk);
        if sent == Ok(true) {
            chunk.close(desk);
        } else {
            self.chunk = Some(chunk);
        }
        sent.map(drop)
    }

    /// Sends a frame of a chunk. Returns whether it was the last.
    fn send_blocks<N: Network>(
        &mut self,
        chunk: &mut Sending,
        desk: &mut Desk<'_, N>,
    ) -> Result<bool, Stop> {
        chunk.read_ahead(self.whom.task, desk)?;
        if !desk.throttle.is_open() || !self.has_window() {
            return Err(Stop::Wait);
        }
        let mut batch = chunk.batch(desk)?;
        let head = CatchUpHead {
            first: chunk.first,
            last: batch.last,
            index: chunk.as_of,
            chunk: chunk.summary.key.chunk,
            birth: chunk.summary.birth,
            applied: chunk.summary.applied,
            since: chunk.since,
            ..self.head(CatchUpKind::Chunk)
        };
        let count = batch.items.len() as u16;
        if let Err(stop) = self.send(head, count, batch.bytes(), &batch.payloads, desk) {
            batch.cancel(desk);
            return Err(stop);
        }
        chunk.sent(&batch);
        let bytes = batch.payload_bytes();
        desk.throttle.take(bytes);
        desk.counters.catch_up_bytes_sent += bytes;
        self.blocks_sent += u64::from(count);
        self.bytes_sent += bytes;
        Ok(batch.last)
    }

    fn send_state<N: Network>(&mut self, from: usize, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let state = std::mem::take(&mut self.round.state);
        let to = state.len().min(from + CATCH_UP_BODY_BYTES);
        let head = CatchUpHead {
            first: from == 0,
            last: to == state.len(),
            index_term: self.round.term,
            total: state.len() as u32,
            ..self.head(CatchUpKind::State)
        };
        let sent = self.send(head, 0, &state[from..to], &[], desk);
        self.round.state = state;
        sent?;
        self.phase = if head.last { Phase::Confirming } else { Phase::State(to) };
        Ok(())
    }

    fn await_snapshot<N>(&mut self, since_ns: u64, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let matched = desk.copyset.group.matched(self.whom.to).unwrap_or_default();
        if matched >= self.round.index {
            desk.copyset.group.log_mut().withdraw_snapshot(self.whom.to);
            self.phase = Phase::Following;
            tracing::info!(copyset = %self.whom.copyset, receiver = %self.whom.to, index = %self.round.index, "catch-up done");
            return Ok(());
        }
        if desk.now_ns.saturating_sub(since_ns) > OFFER_NS {
            return Err(Stop::End(Ending::SnapshotLost));
        }
        if self.is_outrun(desk) {
            // The library is told, or it waits for a snapshot that nobody sends any more.
            desk.copyset.group.report_snapshot_failed(self.whom.to);
            return self.begin_again(desk);
        }
        Err(Stop::Wait)
    }

    /// Whether the receiver follows the log like any other again.
    fn is_over(&self, copyset: &Copyset, log_retained: u64) -> bool {
        let matched = copyset.group.matched(self.whom.to).unwrap_or_default();
        let behind = copyset.group.applied().0.saturating_sub(matched.0);
        self.phase == Phase::Following && behind <= log_retained / 2
    }

    fn head(&self, kind: CatchUpKind) -> CatchUpHead {
        let head = plain_head(kind, &self.whom, self.sent + 1);
        CatchUpHead { index: self.round.index, ..head }
    }

    fn has_window(&self) -> bool {
        self.sent - self.answered < WINDOW_FRAMES
    }

    fn send<N: Network>(
        &mut self,
        head: CatchUpHead,
        count: u16,
        body: &[u8],
        payloads: &[(Placement, Pages)],
        desk: &mut Desk<'_, N>,
    ) -> Result<(), Stop> {
        if !self.has_window() {
            return Err(Stop::Wait);
        }
        let frame = emit_catch_up(&head, count, body, desk.frame);
        match desk.network.send(self.connection, Class::Data, frame, payloads) {
            Ok(()) => {}
            Err(SendError::Full) => return Err(Stop::Blocked),
            Err(_closed) => return Err(Stop::End(Ending::Closed)),
        }
        if self.sent == self.answered {
            self.heard_ns = desk.now_ns;
        }
        self.sent += 1;
        Ok(())
    }

    /// Ends it: what it froze is thawed, and the library is not left waiting.
    fn end<N: Network>(mut self, ending: Ending, desk: &mut Desk<'_, N>) {
        if let Some(chunk) = self.chunk.take() {
            chunk.close(desk);
        }
        let group = &mut desk.copyset.group;
        group.log_mut().withdraw_snapshot(self.whom.to);
        group.report_snapshot_failed(self.whom.to);
        if !matches!(ending, Ending::Closed | Ending::Refused) {
            let head = plain_head(CatchUpKind::Abort, &self.whom, self.sent + 1);
            let frame = emit_catch_up(&head, 0, &[], desk.frame);
            // Where it cannot be sent the receiver waits for a next task, which replaces this one.
            let _full = desk.network.send(self.connection, Class::Data, frame, &[]);
        }
        tracing::warn!(copyset = %self.whom.copyset, receiver = %self.whom.to, reason = %ending, "catch-up interrupted");
    }
}

/// The tasks of one reactor.
pub(in crate::chunkserver) struct Sources {
    pub(super) tasks: Vec<Source>,
    reads: BlockReads,
    throttle: Throttle,
    frame: Box<[u8; FRAME_BYTES_MAX]>,
    next_task: u64,
    /// Replicas to which no task is started before a time.
    rests: Vec<(u32, ReplicaId, u64)>,
    /// Tasks that an answer has ended.
    ended: Vec<(u64, Ending)>,
    /// Whether the last turn moved anything, here or at a receiver.
    pub busy: bool,
}

impl Sources {
    pub fn new(bytes_per_second: u64) -> Sources {
        Sources {
            tasks: Vec::new(),
            reads: BlockReads::default(),
            throttle: Throttle::new(bytes_per_second),
            frame: Box::new([0; FRAME_BYTES_MAX]),
            next_task: 1,
            rests: Vec::new(),
            ended: Vec::new(),
            busy: false,
        }
    }

    /// When a task that the throttle holds back may go on.
    pub fn deadline_ns(&self) -> u64 {
        let sends = self.tasks.iter().any(|task| task.phase == Phase::Sending);
        if sends && !self.throttle.is_open() { self.throttle.open_at_ns() } else { u64::MAX }
    }

    /// Room came back on a connection.
    pub fn wake(&mut self, connection: ConnectionId) {
        let there = self.tasks.iter_mut().filter(|task| task.connection == connection);
        there.for_each(|task| task.blocked = false);
    }

    fn find(&mut self, connection: ConnectionId, head: &CatchUpHead) -> Option<&mut Source> {
        self.tasks.iter_mut().find(|task| {
            task.connection == connection
                && task.whom.task == head.task
                && (task.whom.copyset, task.whom.to) == (head.copyset, head.from)
        })
    }

    /// Takes an answer of a receiver.
    pub(super) fn answer(
        &mut self,
        connection: ConnectionId,
        head: &CatchUpHead,
        items: &[ManifestItem],
        now_ns: u64,
    ) {
        let Some(task) = self.find(connection, head) else { return };
        if let Err(ending) = task.answer(head, items, now_ns) {
            self.ended.push((head.task, ending));
        }
    }

    /// A receiver gave its task up.
    pub(super) fn abort(&mut self, connection: ConnectionId, head: &CatchUpHead) {
        if self.find(connection, head).is_some() {
            self.ended.push((head.task, Ending::Refused));
        }
    }

    /// A read has ended; its ticket goes to `end`. Returns whether it brought what it should.
    pub(super) fn read_done(
        &mut self,
        token: u64,
        buffer: Buffer,
        status: Status,
        end: impl FnOnce(usize, ReadTicket),
    ) -> bool {
        let Some(done) = self.reads.end(token) else { return true };
        end(done.shard, done.ticket);
        let task = self.tasks.iter_mut().find(|task| task.whom.task == done.task);
        let chunk = task.and_then(|task| task.chunk.as_mut());
        chunk.is_none_or(|chunk| chunk.read_done(done.piece, buffer, status))
    }
}

impl Chunkserver {
    /// The library wants a raft snapshot for a replica: starts a task, if one may be started. It
    /// asks again with the replica's next heartbeat.
    pub(in crate::chunkserver) fn want_catch_up(&mut self, position: u32, to: ReplicaId) {
        let now_ns = self.now_ns;
        let sources = &mut self.sources;
        sources.rests.retain(|(.., until_ns)| *until_ns > now_ns);
        // One that only follows has been outrun; what it held back of the log goes.
        let tasks = sources.tasks.len();
        sources.tasks.retain(|task| {
            (task.position, task.whom.to) != (position, to) || task.phase != Phase::Following
        });
        if sources.tasks.len() < tasks {
            self.hold_logs();
        }
        let copyset = &self.copysets[position as usize];
        let sources = &mut self.sources;
        let has_task =
            sources.tasks.iter().any(|task| (task.position, task.whom.to) == (position, to));
        let rests = sources.rests.iter().any(|(at, replica, _)| (*at, *replica) == (position, to));
        if has_task || rests || sources.tasks.len() >= TASKS_MAX {
            return;
        }
        let exact =
            copyset.group.has_applied_own_term() && copyset.ahead <= copyset.group.applied();
        let connection = copyset.peer_of(to).and_then(|peer| self.peers.connection(peer));
        let (true, Some(connection)) = (exact, connection) else { return };
        let round = Round::begin(copyset, self.shards[copyset.shard].shard.store());
        let whom = Parties {
            copyset: copyset.id,
            from: copyset.group.replica(),
            to,
            term: copyset.group.term(),
            task: sources.next_task,
        };
        tracing::info!(copyset = %whom.copyset, receiver = %to, index = %round.index, chunks = round.chunks.len(), "catch-up begins");
        sources.next_task += 1;
        sources.tasks.push(Source {
            position,
            whom,
            connection,
            phase: Phase::Beginning,
            round,
            rounds: 1,
            sent: 0,
            answered: 0,
            heard_ns: now_ns,
            blocked: false,
            manifest: Vec::new(),
            work: VecDeque::new(),
            work_total: 0,
            chunk: None,
            blocks_sent: 0,
            bytes_sent: 0,
            started_ns: now_ns,
        });
        self.hold_logs();
    }

    pub(super) fn run_sources<N: Network>(&mut self, network: &mut N) {
        if self.sources.tasks.is_empty() {
            self.sources.ended.clear();
            return;
        }
        self.sources.throttle.fill(self.now_ns);
        let tasks = std::mem::take(&mut self.sources.tasks);
        for task in tasks {
            self.run_source(task, network);
        }
        self.sources.ended.clear();
        self.hold_logs();
    }

    fn run_source<N: Network>(&mut self, mut task: Source, network: &mut N) {
        let log_retained = self.retained;
        let copyset = &mut self.copysets[task.position as usize];
        let running = &mut self.shards[copyset.shard];
        let peer = copyset.peer_of(task.whom.to);
        let connected = peer.and_then(|peer| self.peers.connection(peer));
        let sources = &mut self.sources;
        let ended = sources.ended.iter().find(|(id, _)| *id == task.whom.task);
        let leads = copyset.group.is_leader() && copyset.group.term() == task.whom.term;
        let ending = match ended {
            Some((_, ending)) => Some(*ending),
            None if connected != Some(task.connection) => Some(Ending::Closed),
            None if !leads || running.failed => Some(Ending::Deposed),
            None => None,
        };
        if ending.is_none() && task.is_over(copyset, log_retained) {
            return;
        }
        let mut desk = Desk {
            copyset,
            running,
            pool: &self.pool,
            network,
            connection: task.connection,
            reads: &mut sources.reads,
            throttle: &mut sources.throttle,
            frame: &mut sources.frame,
            counters: &mut self.counters,
            now_ns: self.now_ns,
        };
        let sent = task.sent;
        let stop = match ending {
            Some(ending) => Stop::End(ending),
            None if task.blocked => Stop::Blocked,
            None => task.step(&mut desk),
        };
        task.blocked = stop == Stop::Blocked;
        if let Stop::End(ending) = stop {
            let (position, to) = (task.position, task.whom.to);
            task.end(ending, &mut desk);
            let until_ns = self.now_ns + ending.rest_ns();
            self.sources.rests.push((position, to, until_ns));
            self.mark_dirty(position);
        } else {
            self.sources.busy |= task.sent > sent;
            self.sources.tasks.push(task);
        }
    }

    /// Says to every log how far it may be let go.
    fn hold_logs(&mut self) {
        for copyset in &mut self.copysets {
            copyset.floor = None;
        }
        for task in &self.sources.tasks {
            let copyset = &mut self.copysets[task.position as usize];
            let floor = task.floor(copyset);
            copyset.floor = Some(copyset.floor.map_or(floor, |other| other.min(floor)));
        }
    }
}

/// The index up to which a log of `applied` entries may be let go.
pub(in crate::chunkserver) fn let_go_index(
    applied: LogIndex,
    retained: u64,
    floor: Option<LogIndex>,
) -> LogIndex {
    let usual = applied.0.saturating_sub(retained);
    let held = floor.map_or(usual, |floor| usual.min(floor.0));
    let least = applied.0.saturating_sub(retained.saturating_mul(LOG_RETAINED_FACTOR));
    LogIndex(held.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_held_back_within_bounds() {
        let index = |applied, floor: Option<u64>| {
            let_go_index(LogIndex(applied), 100, floor.map(LogIndex)).0
        };
        assert_eq!(index(50, None), 0);
        assert_eq!(index(1000, None), 900);
        assert_eq!(index(1000, Some(950)), 900);
        assert_eq!(index(1000, Some(300)), 300);
        assert_eq!(index(1000, Some(10)), 200, "eight times as much at most");
    }
}
