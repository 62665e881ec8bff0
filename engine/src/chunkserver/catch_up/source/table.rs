//! The tasks of one reactor: where they begin, get their turns and end.

use culvert_memory::Buffer;
use culvert_nvme::Status;

use super::super::{Parties, TASKS_MAX};
use super::blocks::BlockReads;
use super::ending::{Ending, Stop};
use super::round::Round;
use super::throttle::Throttle;
use super::{Desk, Phase, Source};
use crate::chunkserver::Chunkserver;
use crate::chunkserver::repair::Spot;
use crate::ids::ReplicaId;
use crate::network::{ConnectionId, Network};
use crate::store::ReadTicket;
use crate::wire::{CatchUpHead, FRAME_BYTES_MAX, ManifestItem};

/// The tasks of one reactor.
pub(in crate::chunkserver) struct Sources {
    pub(in crate::chunkserver::catch_up) tasks: Vec<Source>,
    reads: BlockReads,
    /// Blocks that are bad or missing here.
    suspects: Vec<Spot>,
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
            suspects: Vec::new(),
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
        let sends = self.tasks.iter().any(|task| task.phase.is_throttled());
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
    pub(in crate::chunkserver::catch_up) fn answer(
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
    pub(in crate::chunkserver::catch_up) fn abort(
        &mut self,
        connection: ConnectionId,
        head: &CatchUpHead,
    ) {
        if self.find(connection, head).is_some() {
            self.ended.push((head.task, Ending::Refused));
        }
    }

    /// A read has ended; its ticket goes to `end`.
    pub(in crate::chunkserver::catch_up) fn read_done(
        &mut self,
        token: u64,
        buffer: Buffer,
        status: Status,
        end: impl FnOnce(usize, ReadTicket),
    ) {
        let Some(done) = self.reads.end(token) else { return };
        end(done.shard, done.ticket);
        let task = self.tasks.iter_mut().find(|task| task.whom.task == done.task);
        let Some(task) = task else { return };
        if let Some(chunk) = task.chunk.as_mut() {
            chunk.read_done(done.piece, (buffer, status), task.position, &mut self.suspects);
        }
    }

    /// Takes a block that was found bad or missing here.
    pub(in crate::chunkserver::catch_up) fn take_suspect(&mut self) -> Option<Spot> {
        self.suspects.pop()
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
        // A leader that cannot commit before this replica has caught up has to be a source, too:
        // what it applied is committed, whoever led then.
        let exact = copyset.group.is_leader() && !copyset.is_in_the_middle();
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
        sources.tasks.push(Source::new(position, whom, connection, round, now_ns));
        self.hold_logs();
    }

    pub(in crate::chunkserver::catch_up) fn run_sources<N: Network>(&mut self, network: &mut N) {
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
            position: task.position,
            copyset,
            running,
            pool: &self.pool,
            network,
            connection: task.connection,
            reads: &mut sources.reads,
            suspects: &mut sources.suspects,
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
}
