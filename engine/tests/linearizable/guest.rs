//! The production client in a thread of its own, with random operations whose course is recorded.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert::client::{
    Client, ClientError, ClientOptions, Clock, Completion, Operation, OperationKind, VolumeHandle,
};
use culvert::cluster::Cluster;
use culvert_transport::Transport;

use super::checker::history::{History, Kind, OperationId};
use super::checker::random::Random;
use crate::rig::plan::{VOLUME, client};

/// Blocks that most operations go to, so that they meet.
const HOT_BLOCKS: u64 = 32;

/// Blocks of the longest operation.
const BLOCKS_MAX: u64 = 12;

/// Operations in flight of one client.
const DEPTH: usize = 3;

/// How long one operation may take before the client gives it up, and how long one attempt: short,
/// so that some are given up whose outcome nobody knows.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1200);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// What clients and the test share.
pub struct Record {
    inner: Mutex<Inner>,
    ended: Condvar,
    start: Instant,
}

struct Inner {
    history: History,
    counts: Counts,
    /// Clients go on asking.
    asking: bool,
}

/// How many operations ended, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Reads that found something.
    pub reads: u64,
    /// Writes and discards that were acknowledged.
    pub changes: u64,
    /// Operations that certainly failed.
    pub failed: u64,
    /// Operations of which nobody knows.
    pub unknown: u64,
}

impl Counts {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.reads + self.changes + self.failed + self.unknown
    }
}

impl Record {
    /// Nothing has happened yet to a volume of so many blocks.
    pub fn new(blocks: u64) -> Arc<Record> {
        let inner =
            Inner { history: History::new(blocks), counts: Counts::default(), asking: false };
        Arc::new(Record { inner: Mutex::new(inner), ended: Condvar::new(), start: Instant::now() })
    }

    /// What has ended so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Lets clients ask, or stop asking.
    pub fn ask(&self, asking: bool) {
        self.lock().asking = asking;
    }

    /// Waits until so many more operations have ended, or for so long.
    pub fn wait(&self, operations: u64, at_most: Duration) {
        let inner = self.lock();
        let goal = inner.counts.all() + operations;
        let waiting = |inner: &mut Inner| inner.counts.all() < goal;
        drop(self.ended.wait_timeout_while(inner, at_most, waiting).expect("as below"));
    }

    /// Judges all that happened, while nothing is in flight, and forgets what need not be known.
    ///
    /// # Panics
    ///
    /// If no store of blocks can have said so.
    pub fn judge(&self) {
        let mut inner = self.lock();
        assert_eq!(inner.history.in_flight(), 0, "everything came to its end");
        if let Err(violation) = inner.history.settle() {
            drop(inner);
            panic!("{violation}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// What a client is to do next.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Ask for anything until nobody asks any more, and come to an end.
    Run,
    /// Read every block.
    ReadAll,
}

/// A client and its thread.
pub struct Guest {
    orders: Sender<Order>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Client number `number` of a cluster.
    pub fn start(cluster: &Cluster, number: u64, seed: u64, record: &Arc<Record>) -> Guest {
        let (orders, taken) = channel();
        let (report, done) = channel();
        let (cluster, record) = (cluster.clone(), Arc::clone(record));
        let thread = std::thread::spawn(move || {
            let mut asker = Asker::new(&cluster, number, seed, record);
            while let Ok(order) = taken.recv() {
                match order {
                    Order::Run => asker.run(),
                    Order::ReadAll => asker.read_all(),
                }
                report.send(()).expect("the test waits for it");
            }
        });
        Guest { orders, done, thread: Some(thread) }
    }

    /// Starts to ask.
    pub fn run(&self) {
        self.orders.send(Order::Run).expect("it lives");
    }

    /// Starts to read every block.
    pub fn read_all(&self) {
        self.orders.send(Order::ReadAll).expect("it lives");
    }

    /// Waits until it has done what it was told; false: in vain.
    pub fn join(&self, patience: Duration) -> bool {
        self.done.recv_timeout(patience).is_ok()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let (orders, _) = channel();
        self.orders = orders;
        let ended = self.thread.take().expect("dropped once").join();
        if !std::thread::panicking() {
            ended.expect("a client does not panic");
        }
    }
}

struct Asker {
    number: u32,
    client: Client<Transport>,
    clock: Clock,
    volume: VolumeHandle,
    random: Random,
    record: Arc<Record>,
    in_flight: BTreeMap<u64, (OperationId, u64)>,
    next_token: u64,
}

impl Asker {
    fn new(cluster: &Cluster, number: u64, seed: u64, record: Arc<Record>) -> Asker {
        let options = ClientOptions {
            request_timeout: REQUEST_TIMEOUT,
            attempt_timeout: ATTEMPT_TIMEOUT,
            ..ClientOptions::default()
        };
        let mut client = client(cluster, number, options);
        let volume = client.open_volume(VOLUME).expect("the volume");
        Asker {
            number: number as u32,
            client,
            clock: Clock::default(),
            volume,
            random: Random::new(seed).fork(&format!("client {number}")),
            record,
            in_flight: BTreeMap::new(),
            next_token: 0,
        }
    }

    fn run(&mut self) {
        loop {
            let asking = self.record.lock().asking;
            while asking && self.in_flight.len() < DEPTH {
                self.ask();
            }
            if self.in_flight.is_empty() {
                return;
            }
            self.wait();
        }
    }

    fn read_all(&mut self) {
        let blocks = self.volume.blocks();
        for first in (0..blocks).step_by(BLOCKS_MAX as usize) {
            self.read(first, BLOCKS_MAX.min(blocks - first));
            while self.in_flight.len() >= DEPTH {
                self.wait();
            }
        }
        while !self.in_flight.is_empty() {
            self.wait();
        }
    }

    fn ask(&mut self) {
        let volume = self.volume.blocks();
        let from = if self.random.chance(800_000) { HOT_BLOCKS.min(volume) } else { volume };
        let longest = if self.random.chance(750_000) { 1 } else { BLOCKS_MAX };
        let blocks = 1 + self.random.below(longest);
        let first = self.random.below(from - blocks + 1);
        match self.random.below(100) {
            0..45 => self.write(first, blocks),
            45..50 => self.discard(first, blocks),
            _ => self.read(first, blocks),
        }
    }

    fn write(&mut self, first: u64, blocks: u64) {
        let mut buffer = self.client.pool().acquire(blocks as u32).expect("pages for so few");
        let now_ns = self.record.now_ns();
        let mut inner = self.record.lock();
        let id = inner.history.invoke(Kind::Write, self.number, first, blocks, now_ns);
        inner.history.fill(id, buffer.as_mut_slice());
        drop(inner);
        let pages = buffer.freeze();
        self.submit(
            Operation::Write { volume: self.volume, offset_blocks: first, pages },
            id,
            blocks,
        );
    }

    fn discard(&mut self, first: u64, blocks: u64) {
        let id = self.invoke(Kind::Discard, first, blocks);
        let volume = self.volume;
        self.submit(Operation::Discard { volume, offset_blocks: first, blocks }, id, blocks);
    }

    fn read(&mut self, first: u64, blocks: u64) {
        let id = self.invoke(Kind::Read, first, blocks);
        let read =
            Operation::Read { volume: self.volume, offset_blocks: first, blocks: blocks as u32 };
        self.submit(read, id, blocks);
    }

    fn invoke(&self, kind: Kind, first: u64, blocks: u64) -> OperationId {
        let now_ns = self.record.now_ns();
        self.record.lock().history.invoke(kind, self.number, first, blocks, now_ns)
    }

    fn submit(&mut self, operation: Operation, id: OperationId, blocks: u64) {
        self.next_token += 1;
        self.client.submit(operation, self.next_token).expect("the client has room");
        self.in_flight.insert(self.next_token, (id, blocks));
    }

    /// Waits until something has come back, and records it.
    fn wait(&mut self) {
        let Asker { client, clock, record, in_flight, .. } = self;
        client.wait(clock, &mut |completion: Completion<'_>| {
            let mut bytes = vec![0; completion.data.len()];
            completion.data.copy_to_slice(&mut bytes);
            let (id, blocks) = in_flight.remove(&completion.token).expect("an operation of ours");
            let now_ns = record.now_ns();
            let mut inner = record.lock();
            let Inner { history, counts, .. } = &mut *inner;
            match (completion.kind, completion.result) {
                (OperationKind::Read, Ok(())) => {
                    counts.reads += 1;
                    // What is wrong with it, the judge says as well.
                    let _violation = history.complete_read(id, now_ns, &bytes);
                }
                (_, Ok(())) => {
                    counts.changes += 1;
                    history.complete(id, now_ns);
                }
                // Of one block the client says whether it was executed.
                (_, Err(error)) if error != ClientError::OutcomeUnknown && blocks == 1 => {
                    counts.failed += 1;
                    history.failed_cleanly(id, now_ns);
                }
                (_, Err(_)) => {
                    counts.unknown += 1;
                    history.unknown(id, now_ns);
                }
            }
            record.ended.notify_all();
        });
    }
}
