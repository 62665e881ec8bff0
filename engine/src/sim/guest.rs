//! A client of the simulated cluster: the production client, and what it asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use culvert::client::{
    Client, ClientError, ClientOptions, Completion, Operation, OperationKind, VolumeHandle,
};
use culvert::cluster::Cluster;
use culvert::network::{Identity, Network, PeerKind};
use culvert::reactor::Clock;
use culvert_memory::Pool;
use uuid::Uuid;

use super::clock::LocalClock;
use super::history::{History, Kind, OperationId};
use super::network::{Fabric, SimNetwork};
use super::random::Random;
use super::scene::{NODES, VOLUME};
use super::temper::Habits;

/// Blocks of the longest write of a flood.
const FLOOD_BLOCKS: u64 = 32;

/// How long a client thinks at most while it writes as fast as it can.
const STORM_NS: u64 = 600_000;

/// How many discards are of whole chunks, in a million.
const DELETES: u32 = 150_000;

/// Blocks that the writing of a whole volume writes at a time.
const FILL_BLOCKS: u64 = 12;

/// See the module's documentation.
pub struct Guest {
    number: usize,
    client: Client<SimNetwork>,
    volume: VolumeHandle,
    clock: LocalClock,
    random: Random,
    in_flight: BTreeMap<u64, Asked>,
    next_token: u64,
    habits: Habits,
    volume_blocks: u64,
    /// Writes and discards under way.
    changes: usize,
    /// Blocks of the volume that it still writes before it does anything else.
    fills: std::ops::Range<u64>,
    /// It only reads until then.
    hushed_ns: u64,
    /// There is trouble until then.
    busy_ns: u64,
    /// It does nothing but write until then.
    storm_ns: u64,
    /// An operation was refused that nothing in this world gives cause to refuse.
    pub wronged: Option<String>,
    /// When it asks again.
    pub asks_ns: u64,
    /// True time at which it has to run although nothing comes in.
    pub wake_ns: u64,
}

/// An operation under way.
struct Asked {
    id: OperationId,
    blocks: u64,
    changes: bool,
}

/// What one turn of a guest saw.
pub struct Ended {
    token: u64,
    kind: OperationKind,
    result: Result<(), ClientError>,
    bytes: Vec<u8>,
}

impl Guest {
    /// Client number `number`, on a host of its own.
    pub fn new(
        number: usize,
        habits: Habits,
        (cluster, volume_blocks): (&Cluster, u64),
        (pool, fabric): (&Pool, &Fabric),
        clock: LocalClock,
        mut random: Random,
    ) -> Guest {
        let name = Uuid::from_u128(0xc11e_0000 + number as u128);
        let identity = Identity { node: name, kind: PeerKind::Client, endpoint: 0 };
        let network = fabric.host(Guest::host(number), identity);
        let options = ClientOptions {
            in_flight_max: habits.depth as u32,
            request_timeout: Duration::from_secs(20),
            attempt_timeout: Duration::from_millis(500),
            seed: random.bits(),
            ..ClientOptions::default()
        };
        let client = Client::new(cluster.clone(), network, pool.clone(), options);
        let mut client = client.expect("options that make sense");
        let volume = client.open_volume(VOLUME).expect("the scene's volume");
        Guest {
            number,
            client,
            volume,
            clock,
            in_flight: BTreeMap::new(),
            next_token: 0,
            habits,
            volume_blocks,
            changes: 0,
            fills: 0..0,
            hushed_ns: 0,
            busy_ns: 0,
            storm_ns: 0,
            wronged: None,
            asks_ns: 0,
            random,
            wake_ns: 0,
        }
    }

    /// The host that a client's process is on.
    pub fn host(number: usize) -> usize {
        NODES + number
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Writes the whole volume first.
    pub fn fill(&mut self) {
        self.fills = 0..self.volume_blocks;
    }

    /// Whether it still does.
    pub fn fills(&self) -> bool {
        !self.fills.is_empty()
    }

    /// There is trouble until a time: it asks more often.
    pub fn is_busy_until(&mut self, until_ns: u64, now_ns: u64) {
        self.busy_ns = self.busy_ns.max(until_ns);
        let soon_ns = now_ns + self.random.below(self.habits.busy_ns);
        self.asks_ns = self.asks_ns.min(soon_ns);
    }

    /// It only reads until a time.
    pub fn reads_until(&mut self, until_ns: u64) {
        self.hushed_ns = self.hushed_ns.max(until_ns);
    }

    /// It does nothing but write until a time.
    pub fn writes_until(&mut self, until_ns: u64, now_ns: u64) {
        self.storm_ns = self.storm_ns.max(until_ns);
        self.asks_ns = self.asks_ns.min(now_ns + self.random.below(STORM_NS));
    }

    /// Asks for something new, if it is time and there is room.
    pub fn ask(&mut self, history: &mut History, now_ns: u64) {
        if now_ns < self.asks_ns {
            return;
        }
        let storms = now_ns < self.storm_ns;
        let think_ns = match (storms || self.fills(), now_ns < self.busy_ns) {
            (true, _) => STORM_NS,
            (false, true) => self.habits.busy_ns,
            (false, false) => self.habits.idle_ns,
        };
        self.asks_ns = now_ns + 1 + self.random.below(think_ns);
        if self.in_flight.len() >= self.habits.depth {
            return;
        }
        if let Some(first) = self.fills.next() {
            let blocks = FILL_BLOCKS.min(self.volume_blocks - first);
            self.fills = first + blocks..self.volume_blocks;
            return self.write(history, first, blocks as u32, now_ns);
        }
        let floods = storms && self.habits.floods;
        let hot = self.random.chance(800_000) && !floods;
        let (from, to) = if hot { self.habits.hot } else { (0, self.volume_blocks) };
        let longest = match (floods, self.random.chance(750_000)) {
            (true, _) => FLOOD_BLOCKS,
            (false, true) => 1,
            (false, false) => self.habits.blocks_max,
        };
        let blocks = 1 + self.random.below(longest.min(to - from));
        let first = from + self.random.below(to - from - blocks + 1);
        // What waits for a leader must not keep it from reading.
        let depth = self.habits.depth;
        let changes = now_ns >= self.hushed_ns && (self.changes < depth.div_ceil(2) || storms);
        // ... nor what waits for a slow read from writing.
        let reads = self.in_flight.len() - self.changes;
        let clogged = depth > 1 && reads >= depth.div_ceil(2);
        let writes = if storms || clogged { 95 } else { self.habits.writes };
        match self.random.below(100) {
            kind if changes && kind < writes => self.write(history, first, blocks as u32, now_ns),
            kind if changes && kind < writes + writes / 20 => {
                let whole = self.random.chance(DELETES);
                self.discard(history, first, blocks, whole, now_ns);
            }
            _ => self.read(history, first, blocks as u32, now_ns),
        }
    }

    fn write(&mut self, history: &mut History, first: u64, blocks: u32, now_ns: u64) {
        let Some(mut buffer) = self.client.pool().acquire(blocks) else { return };
        let id = history.invoke(Kind::Write, self.number as u32, first, blocks.into(), now_ns);
        history.fill(id, buffer.as_mut_slice());
        let write =
            Operation::Write { volume: self.volume, offset_blocks: first, pages: buffer.freeze() };
        self.submit(write, id, blocks.into(), true);
        self.wake_ns = now_ns;
    }

    /// Unmaps a run of blocks, or deletes the chunks that its first block is among: to those who read
    /// that is the same.
    fn discard(
        &mut self,
        history: &mut History,
        first: u64,
        blocks: u64,
        whole: bool,
        now_ns: u64,
    ) {
        let volume = self.volume;
        let set = volume.set_blocks();
        let set_first = first - first % set;
        let set_blocks = set.min(self.volume_blocks - set_first);
        let (first, blocks) = if whole { (set_first, set_blocks) } else { (first, blocks) };
        let id = history.invoke(Kind::Discard, self.number as u32, first, blocks, now_ns);
        let offset_blocks = first;
        let operation = match whole {
            true => Operation::Delete { volume, offset_blocks, blocks },
            false => Operation::Discard { volume, offset_blocks, blocks },
        };
        self.submit(operation, id, blocks, true);
        self.wake_ns = now_ns;
    }

    /// Reads a run of blocks.
    pub fn read(&mut self, history: &mut History, first: u64, blocks: u32, now_ns: u64) {
        let id = history.invoke(Kind::Read, self.number as u32, first, blocks.into(), now_ns);
        let read = Operation::Read { volume: self.volume, offset_blocks: first, blocks };
        self.submit(read, id, blocks.into(), false);
        self.wake_ns = now_ns;
    }

    fn submit(&mut self, operation: Operation, id: OperationId, blocks: u64, changes: bool) {
        let token = self.next_token;
        self.next_token += 1;
        self.client.submit(operation, token).expect("room was looked for");
        self.changes += usize::from(changes);
        self.in_flight.insert(token, Asked { id, blocks, changes });
    }

    /// One turn at a true time. Returns how many operations ended.
    pub fn turn(&mut self, history: &mut History, now_ns: u64) -> usize {
        self.clock.set_true(now_ns);
        let mut ended = Vec::new();
        let turn = self.client.poll(self.clock.now_ns(), &mut |completion: Completion<'_>| {
            let mut bytes = vec![0; completion.data.len()];
            completion.data.copy_to_slice(&mut bytes);
            ended.push(Ended {
                token: completion.token,
                kind: completion.kind,
                result: completion.result,
                bytes,
            });
        });
        for end in &ended {
            self.record(history, end, now_ns);
        }
        let timers = [self.client.next_timer_ns(), self.client.network().next_deadline_ns()];
        let timer = timers.into_iter().flatten().min();
        let timer = timer.map_or(u64::MAX, |at| self.clock.true_time_of(at));
        self.wake_ns = if turn.active { now_ns + 1000 } else { timer.max(now_ns + 1000) };
        ended.len()
    }

    fn record(&mut self, history: &mut History, end: &Ended, now_ns: u64) {
        let asked = self.in_flight.remove(&end.token).expect("an operation under way");
        self.changes -= usize::from(asked.changes);
        if let Err(error) = end.result
            && matches!(error, ClientError::Media | ClientError::Corrupt | ClientError::Refused)
        {
            self.wronged.get_or_insert(format!("client {}: {error}", self.number));
        }
        match (end.kind, end.result) {
            (OperationKind::Read, Ok(())) => {
                // What is wrong with it, the check says as well.
                let _violation = history.complete_read(asked.id, now_ns, &end.bytes);
            }
            (_, Ok(())) => history.complete(asked.id, now_ns),
            // A block is one piece, and of one piece the client says whether it was executed.
            (_, Err(error)) if error != ClientError::OutcomeUnknown && asked.blocks == 1 => {
                history.failed_cleanly(asked.id, now_ns);
            }
            (_, Err(_)) => history.unknown(asked.id, now_ns),
        }
    }

    /// It was not answered and never will be: the run is over.
    pub fn abandon(&mut self, history: &mut History, now_ns: u64) {
        for (_, asked) in std::mem::take(&mut self.in_flight) {
            history.unknown(asked.id, now_ns);
        }
    }
}
