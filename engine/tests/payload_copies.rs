//! Nobody copies a payload, and where somebody does, the counters say so.
//!
//! Whole nodes in the thread of the test. The queue pairs that they run over may be told to copy
//! every page that goes to the device, as a careless driver or engine would: that copy must be in
//! the figure that otherwise is zero.

mod rig;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::path::Path;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::{Duration, Instant};

use culvert::client::{Client, ClientOptions, Operation};
use culvert::counters::{Counters, DriverCounters};
use culvert::node::{NodeReactor, SystemClock};
use culvert::reactor::Clock;
use culvert_memory::{Buffer, Pool, Region};
use culvert_nvme::{
    AnyQueuePair, Completion, Counters as DeviceCounters, Namespace, QueuePair, RegisterError,
    Submission, Wake,
};
use culvert_transport::Transport;
use tempfile::TempDir;

use rig::history::BLOCK;
use rig::plan::{Plan, VOLUME, Wishes, client_from, emulated, pool};

/// Blocks that the test writes, and then reads.
const BLOCKS: u64 = 512;
/// Blocks of one operation.
const RUN: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(20);
const BYTES: u64 = BLOCKS * BLOCK as u64;

/// What was copied on purpose; nothing while it is `None`.
type Deliberate = Rc<Cell<Option<u64>>>;

/// What the device of one node was told to write: where it lies in memory, which is what the driver
/// posts as its PRP, and how many bytes.
type Written = Rc<RefCell<Vec<(NonNull<u8>, u64)>>>;

struct Copying {
    inner: AnyQueuePair,
    scratch: Buffer,
    _pool: Pool,
    deliberate: Deliberate,
    written: Written,
}

impl Copying {
    fn new(inner: AnyQueuePair, deliberate: &Deliberate, written: Written) -> Copying {
        let pool = pool("scratch", 1 << 20);
        let scratch = pool.acquire(32).expect("a fresh pool");
        Copying { inner, scratch, _pool: pool, deliberate: Rc::clone(deliberate), written }
    }
}

impl QueuePair for Copying {
    fn namespace(&self) -> &Namespace {
        self.inner.namespace()
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.inner.register(region)
    }

    fn unregister(&mut self, region: &Region) {
        self.inner.unregister(region);
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        if let culvert_nvme::Operation::Write { pages, .. } = &submission.operation {
            self.written.borrow_mut().push((pages.as_ptr(), pages.len() as u64));
        }
        if let culvert_nvme::Operation::Write { pages, .. } = &submission.operation
            && let Some(copied) = self.deliberate.get()
        {
            self.scratch.copy_from(0, &pages.slice(0, 1));
            self.deliberate.set(Some(copied + BLOCK as u64));
        }
        self.inner.submit(submission)
    }

    fn ring(&mut self) {
        self.inner.ring();
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        self.inner.poll(budget, complete)
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn wake(&self) -> Wake<'_> {
        self.inner.wake()
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn counters(&self) -> &DeviceCounters {
        self.inner.counters()
    }
}

struct Rig {
    nodes: Vec<NodeReactor<Copying>>,
    client: Client<Transport>,
    deliberate: Deliberate,
    /// By node.
    written: Vec<Written>,
}

impl Rig {
    fn start(folder: &Path, tcp: bool) -> Rig {
        let devices = emulated(folder, "96MiB", "");
        Rig::with(Wishes { copysets: 1, tcp, ..Wishes::new(folder, devices) }, None)
    }

    /// A cluster, and a client that connects from an address.
    fn with(wishes: Wishes, source: Option<IpAddr>) -> Rig {
        let plan = Plan::new(&wishes);
        let deliberate = Deliberate::default();
        let written: Vec<Written> = plan.configs.iter().map(|_| Written::default()).collect();
        let open = |(config, written): (_, &Written)| {
            let wrap = |_: &_, inner| Copying::new(inner, &deliberate, Rc::clone(written));
            NodeReactor::open_with(config, &plan.cluster, 0, true, wrap).expect("a node")
        };
        let nodes = plan.configs.iter().zip(&written).map(open).collect();
        let client = client_from(&plan.cluster, 1, ClientOptions::default(), source);
        Rig { nodes, client, deliberate, written }
    }

    /// Carries out operations, one for each run of the test's blocks.
    fn all(&mut self, operation: impl Fn(&Client<Transport>, u64) -> Operation) {
        for first in (0..BLOCKS).step_by(RUN as usize) {
            let operation = operation(&self.client, first);
            self.client.submit(operation, first).expect("room");
            while self.client.in_flight() > 0 {
                self.turn();
            }
        }
    }

    /// Waits until all replicas have applied so many bytes.
    fn settle(&mut self, bytes: u64) {
        let since = Instant::now();
        while self.counted().iter().any(|(counters, _)| counters.user_bytes_written < bytes) {
            assert!(since.elapsed() < PATIENCE, "{:?}", self.counted());
            self.turn();
        }
        // What was counted in a turn is told in the next.
        self.turn();
    }

    fn turn(&mut self) {
        for node in &mut self.nodes {
            node.turn();
        }
        let check = &mut |done: culvert::client::Completion<'_>| assert_eq!(done.result, Ok(()));
        self.client.poll(SystemClock.now_ns(), check);
    }

    fn write(&mut self) {
        let volume = self.client.open_volume(VOLUME).expect("the volume");
        self.all(|client, first| {
            let mut buffer = client.pool().acquire(RUN).expect("pages");
            buffer.as_mut_slice().fill(first as u8);
            Operation::Write { volume, offset_blocks: first, pages: buffer.freeze() }
        });
    }

    fn read(&mut self) {
        let volume = self.client.open_volume(VOLUME).expect("the volume");
        self.all(|_, first| Operation::Read { volume, offset_blocks: first, blocks: RUN });
    }

    fn counted(&mut self) -> Vec<(Counters, DriverCounters)> {
        let status = |node: &mut NodeReactor<Copying>| {
            let status = node.reactor().chunkserver().status();
            (status.counters, status.drivers)
        };
        self.nodes.iter_mut().map(status).collect()
    }
}

fn payloads_are_copied_by_nobody(tcp: bool) {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut rig = Rig::start(folder.path(), tcp);
    rig.write();
    rig.settle(BYTES);
    rig.read();
    rig.settle(BYTES);
    let (mut read, mut wire) = (0, 0);
    for (counters, drivers) in rig.counted() {
        assert_eq!(drivers.payload_bytes_copied, 0, "{drivers:?}");
        assert_eq!(counters.user_bytes_written, BYTES, "every replica: {counters:?}");
        assert!(drivers.device_bytes_copied >= BYTES, "{drivers:?}");
        read += counters.user_bytes_read;
        wire += drivers.wire_bytes_copied;
    }
    assert_eq!(read, BYTES);
    // To two followers, and back to the client.
    assert_eq!(wire, if tcp { 0 } else { 3 * BYTES });
    let client = rig.client.network().counters().wire_copy_bytes;
    assert_eq!(client, if tcp { 0 } else { BYTES });
    assert_eq!(rig.client.statistics().copied_bytes, 0);
}

#[test]
fn payloads_are_copied_by_nobody_over_shared_memory() {
    payloads_are_copied_by_nobody(false);
}

#[test]
fn payloads_are_copied_by_nobody_over_tcp() {
    payloads_are_copied_by_nobody(true);
}

/// A payload is written to the device from the memory that the wire wrote it to, once, on the leader
/// and on both followers.
fn payloads_are_written_from_where_they_landed(mut rig: Rig) {
    rig.write();
    rig.settle(BYTES);
    for (node, written) in rig.nodes.iter_mut().zip(&rig.written) {
        let network = node.reactor().network_mut();
        let written = written.borrow();
        let landed = written.iter().filter(|(address, _)| network.is_landing_memory(*address));
        assert_eq!(landed.map(|(_, bytes)| bytes).sum::<u64>(), BYTES);
    }
    for (_, drivers) in rig.counted() {
        assert_eq!(drivers.payload_bytes_copied, 0, "{drivers:?}");
    }
}

#[test]
fn payloads_are_written_from_where_shared_memory_put_them() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    payloads_are_written_from_where_they_landed(Rig::start(folder.path(), false));
}

/// Over RDMA no processor has touched them on the way: `transport/src/rdma/hostile.rs` shows that a
/// payload is handed out at the address that the peer's work request named.
#[test]
fn payloads_are_written_from_where_rdma_put_them() {
    let Ok(devices) = std::env::var("CULVERT_TEST_RDMA") else {
        println!(
            "skipped: no RDMA devices here (CULVERT_TEST_RDMA); scripts/softroce test has some"
        );
        return;
    };
    let (server, client) =
        devices.split_once(',').expect("two addresses with a comma between them");
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        copysets: 1,
        rdma: Some(server.parse().expect("an address")),
        ..Wishes::new(folder.path(), emulated(folder.path(), "96MiB", ""))
    };
    let client = client.parse().expect("an address");
    payloads_are_written_from_where_they_landed(Rig::with(wishes, Some(client)));
}

#[test]
fn a_deliberate_copy_shows() {
    for tcp in [false, true] {
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let mut rig = Rig::start(folder.path(), tcp);
        rig.write();
        rig.settle(BYTES);
        rig.deliberate.set(Some(0));
        rig.write();
        rig.settle(2 * BYTES);
        let copied = rig.deliberate.take().expect("set above");
        assert!(copied >= 3 * BYTES / u64::from(RUN), "a page of each write on each node");
        let counted: u64 = rig.counted().iter().map(|(_, d)| d.payload_bytes_copied).sum();
        assert_eq!(counted, copied);
    }
}
