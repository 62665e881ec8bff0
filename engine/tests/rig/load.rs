//! A client under load whose every answer is judged.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use culvert::client::{Client, ClientError, Completion, Operation, VolumeHandle};
use culvert::cluster::EndpointIndex;
use culvert::node::SystemClock;
use culvert::reactor::Clock;
use culvert_transport::Transport;

use super::history::{BLOCK, History, Sequence, fill};
use super::random::Random;

/// Blocks of one operation at most.
const RUN_BLOCKS_MAX: u64 = 8;

/// How long anything may take before the test gives up; the client's own patience is less.
const PATIENCE: Duration = Duration::from_secs(120);

/// Operations at random, continuously.
pub struct Load {
    client: Client<Transport>,
    volume: VolumeHandle,
    history: History,
    random: Random,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    depth: usize,
    /// How many operations of each kind were acknowledged.
    pub done: Done,
    /// Time from submission to acknowledgement of writes.
    pub write_times: Vec<Duration>,
    /// Whether a write may be refused for want of space.
    pub space_may_end: bool,
    /// Whether it only writes and reads.
    pub keeps_all: bool,
    /// What is told of acknowledged writes, from a block on.
    pub on_settled: fn(u64, &[Sequence]),
}

/// What was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Writes.
    pub writes: u64,
    /// Reads.
    pub reads: u64,
    /// Discards.
    pub discards: u64,
    /// Writes refused for want of space.
    pub no_space: u64,
}

enum Pending {
    Change { first: u64, blocks: u32, discard: bool, since: Instant },
    Read { first: u64, floors: Vec<Sequence>, since: Instant },
}

impl Pending {
    fn since(&self) -> Instant {
        match self {
            Pending::Change { since, .. } | Pending::Read { since, .. } => *since,
        }
    }
}

impl Load {
    /// Operations on `blocks` blocks of a volume that was never written, `depth` at a time.
    pub fn new(mut client: Client<Transport>, volume: &str, depth: usize, seed: u64) -> Load {
        let volume = client.open_volume(volume).expect("the volume");
        Load {
            history: History::new(volume.blocks()),
            client,
            volume,
            random: Random::new(seed),
            pending: HashMap::new(),
            next_token: 0,
            depth,
            done: Done::default(),
            write_times: Vec::new(),
            space_may_end: false,
            keeps_all: false,
            on_settled: |_, _| {},
        }
    }

    /// The volume was written by somebody else: what was acknowledged, block by block.
    pub fn recall(&mut self, settled: &[Sequence]) {
        assert_eq!(settled.len() as u64, self.history.blocks());
        self.history = History::recalled(settled);
    }

    /// Blocks of its volume.
    pub fn blocks(&self) -> u64 {
        self.history.blocks()
    }

    /// Goes on with other numbers.
    pub fn reseed(&mut self, random: Random) {
        self.random = random;
    }

    /// All was read: what each block holds.
    pub fn know(&mut self) -> Vec<Sequence> {
        self.history.know();
        self.history.floors(0, self.history.blocks() as u32)
    }

    /// The client.
    pub fn client(&mut self) -> &mut Client<Transport> {
        &mut self.client
    }

    /// Acknowledged operations.
    pub fn operations(&self) -> u64 {
        self.done.writes + self.done.reads + self.done.discards
    }

    /// Acknowledged writes and discards.
    pub fn changes(&self) -> u64 {
        self.done.writes + self.done.discards
    }

    /// Writes and discards that have no answer yet.
    pub fn changes_in_flight(&self) -> usize {
        let is_change = |pending: &&Pending| matches!(pending, Pending::Change { .. });
        self.pending.values().filter(is_change).count()
    }

    /// How long the oldest operation in flight has waited.
    pub fn longest_wait(&self) -> Duration {
        let waits = self.pending.values().map(|pending| pending.since().elapsed());
        waits.max().unwrap_or_default()
    }

    /// Fills the client up to the depth with operations at random, and polls it.
    pub fn turn(&mut self) -> bool {
        while self.pending.len() < self.depth {
            let blocks = 1 + self.random.below(RUN_BLOCKS_MAX) as u32;
            let first = self.random.below(self.history.blocks() - u64::from(blocks) + 1);
            match self.random.below(16) {
                0..=3 => self.read(first, blocks),
                4 if !self.keeps_all && self.history.is_idle(first, blocks) => {
                    self.discard(first, blocks)
                }
                _ if self.history.is_idle(first, blocks) => self.write(first, blocks),
                _ => self.read(first, blocks),
            }
        }
        self.poll()
    }

    /// Whether no change of any of these blocks is in flight.
    pub fn is_idle(&self, first: u64, blocks: u32) -> bool {
        self.history.is_idle(first, blocks)
    }

    /// Writes blocks that are idle.
    pub fn write(&mut self, first: u64, blocks: u32) {
        let mut buffer = self.client.pool().acquire(blocks).expect("pages for the load");
        for (block, bytes) in (first..).zip(buffer.as_mut_slice().chunks_exact_mut(BLOCK)) {
            fill(block, self.history.submit(block, false), bytes);
        }
        let write =
            Operation::Write { volume: self.volume, offset_blocks: first, pages: buffer.freeze() };
        let since = Instant::now();
        self.submit(write, Pending::Change { first, blocks, discard: false, since });
    }

    /// Unmaps blocks that are idle.
    pub fn discard(&mut self, first: u64, blocks: u32) {
        for block in first..first + u64::from(blocks) {
            self.history.submit(block, true);
        }
        let volume = self.volume;
        let discard = Operation::Discard { volume, offset_blocks: first, blocks: blocks.into() };
        let since = Instant::now();
        self.submit(discard, Pending::Change { first, blocks, discard: true, since });
    }

    /// Reads blocks.
    pub fn read(&mut self, first: u64, blocks: u32) {
        let floors = self.history.floors(first, blocks);
        let read = Operation::Read { volume: self.volume, offset_blocks: first, blocks };
        self.submit(read, Pending::Read { first, floors, since: Instant::now() });
    }

    /// Reads the whole volume, while `turn` lets the cluster work.
    pub fn read_all(&mut self, mut turn: impl FnMut() -> bool) {
        let step = RUN_BLOCKS_MAX as u32;
        for first in (0..self.history.blocks()).step_by(step as usize) {
            let blocks = u64::from(step).min(self.history.blocks() - first) as u32;
            self.read(first, blocks);
            self.settle_to(self.depth, &mut turn);
        }
        self.settle(turn);
    }

    /// Waits for everything in flight, while `turn` lets the cluster work.
    pub fn settle(&mut self, mut turn: impl FnMut() -> bool) {
        self.settle_to(0, &mut turn);
    }

    fn settle_to(&mut self, most: usize, turn: &mut impl FnMut() -> bool) {
        let since = Instant::now();
        while self.pending.len() > most {
            let busy = turn();
            if !self.poll() && !busy {
                std::thread::yield_now();
            }
            let left = self.pending.len();
            assert!(since.elapsed() < PATIENCE, "{left} operations had no answer");
        }
    }

    fn submit(&mut self, operation: Operation, pending: Pending) {
        self.next_token += 1;
        self.client.submit(operation, self.next_token).expect("the client has room for the load");
        self.pending.insert(self.next_token, pending);
    }

    /// The status of a reactor, or why there is none.
    pub fn status(&mut self, of: EndpointIndex) -> String {
        self.client.request_status(of).expect("one at a time");
        loop {
            self.poll();
            match self.client.take_status() {
                Some(Ok(status)) => return status,
                Some(Err(error)) => return error.to_string(),
                None => std::thread::yield_now(),
            }
        }
    }

    /// Takes answers and judges them.
    pub fn poll(&mut self) -> bool {
        let Load { client, history, pending, done, write_times, .. } = self;
        let (space_may_end, on_settled) = (self.space_may_end, self.on_settled);
        let turn = client.poll(SystemClock.now_ns(), &mut |completion: Completion<'_>| {
            let known = pending.remove(&completion.token).expect("an operation of this load");
            match (known, completion.result) {
                (Pending::Change { first, blocks, discard, since }, Ok(())) => {
                    history.acknowledge(first, blocks);
                    on_settled(first, &history.floors(first, blocks));
                    done.discards += u64::from(discard);
                    done.writes += u64::from(!discard);
                    write_times.push(since.elapsed());
                }
                (Pending::Change { first, blocks, .. }, Err(ClientError::NoSpace))
                    if space_may_end =>
                {
                    history.refuse(first, blocks);
                    done.no_space += 1;
                }
                (Pending::Read { first, floors, .. }, Ok(())) => {
                    let mut bytes = vec![0; completion.data.len()];
                    completion.data.copy_to_slice(&mut bytes);
                    history.check(first, &floors, &bytes);
                    done.reads += 1;
                }
                (_, Err(error)) => panic!("{:?} failed: {error}", completion.kind),
            }
        });
        turn.active
    }
}

/// Reads one block with a client that does nothing else.
pub fn read_block(
    client: &mut Client<Transport>,
    block: u64,
    mut turn: impl FnMut() -> bool,
    mut found: impl FnMut(&[u8]),
) {
    let volume = client.open_volume(super::plan::VOLUME).expect("the volume");
    let read = Operation::Read { volume, offset_blocks: block, blocks: 1 };
    client.submit(read, 0).expect("it has room");
    while client.in_flight() > 0 {
        turn();
        client.poll(SystemClock.now_ns(), &mut |completion| {
            assert_eq!(completion.result, Ok(()));
            let mut bytes = [0; BLOCK];
            completion.data.copy_to_slice(&mut bytes);
            found(&bytes);
        });
    }
}
