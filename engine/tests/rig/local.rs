//! Three nodes, a client and a model of what it wrote, in one thread over the production drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use culvert::chunkserver::{ChunkserverStatus, CopysetStatus, rebuild};
use culvert::client::{Client, ClientError, ClientOptions, Operation, Transports, VolumeHandle};
use culvert::cluster::PlanOptions;
use culvert::config::NodeConfig;
use culvert::ids::{BlockRange, CopysetId, LogIndex};
use culvert::network::Address;
use culvert::node::{LocalCluster, LocalOptions, SystemClock};
use culvert::reactor::Clock;
use culvert::shard::ShardConfig;
use culvert::shard::check::{CheckReport, check};
use culvert::store::{BlockState, BlockStates, ChunkKey, Place};
use culvert_nvme::{Faults, Lba, QueuePair};
use culvert_transport::{PeerKind, Transport};
use tempfile::TempDir;
use uuid::Uuid;

use super::history::{BLOCK, History, Sequence, fill};
use super::plan::{VOLUME, emulated, open_device, pool};
use super::random::Random;
use super::raw::{Raw, spot};

pub const CHUNK_BLOCKS: u32 = 256;
pub const COPYSETS: u32 = 3;
pub const VOLUME_BLOCKS: u64 = 4096;

/// See the module's documentation.
pub struct Rig {
    pub local: LocalCluster,
    pub folder: TempDir,
    pub random: Random,
    pub client: Client<Transport>,
    volume: VolumeHandle,
    history: History,
    /// Blocks that were ever changed.
    touched: BTreeSet<u64>,
    /// What is under way, by its first block, which is the token.
    pending: BTreeMap<u64, Pending>,
}

/// An operation under way.
enum Pending {
    /// Of so many blocks.
    Change(u32),
    /// That must find at least this.
    Read(Vec<Sequence>),
}

impl Rig {
    pub fn new(tcp: bool, seed: u64, adjust: fn(&mut NodeConfig)) -> Rig {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _set_before =
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let options = LocalOptions {
            folder: folder.path().into(),
            devices: emulated(folder.path(), "96MiB", ""),
            plan: PlanOptions {
                chunk_size: u64::from(CHUNK_BLOCKS) * BLOCK as u64,
                copysets: COPYSETS,
                replicas: 3,
                quota_blocks: 3000,
            },
            volume: (VOLUME.into(), VOLUME_BLOCKS * BLOCK as u64),
            tcp,
            pool_bytes: 32 << 20,
            adjust,
        };
        let local = LocalCluster::start(&options).expect("a local cluster");
        let transports = if tcp { Transports::Tcp } else { Transports::Shm };
        let mut client =
            local.client(16 << 20, ClientOptions { transports, ..ClientOptions::default() });
        Rig {
            volume: client.open_volume(VOLUME).expect("the volume"),
            local,
            folder,
            random: Random::new(seed),
            client,
            history: History::new(VOLUME_BLOCKS),
            touched: BTreeSet::new(),
            pending: BTreeMap::new(),
        }
    }

    /// One turn of everything; completions go to `done`.
    pub fn turn(&mut self, mut done: impl FnMut(u64, Result<(), ClientError>, &[u8])) {
        self.local.turn();
        self.client.poll(SystemClock.now_ns(), &mut |completion| {
            let mut bytes = vec![0; completion.data.len()];
            completion.data.copy_to_slice(&mut bytes);
            done(completion.token, completion.result, &bytes);
        });
    }

    /// Many turns, in which no operation ends.
    pub fn turns(&mut self, turns: u64) {
        for _ in 0..turns {
            self.turn(|_, _, _| panic!("no operation is in flight"));
        }
    }

    /// Turns everything until `done` says so.
    pub fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Rig) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < deadline, "in vain for a minute: {what}\n{:#?}", self.state());
            self.go_on();
        }
    }

    /// Begins a write of a run of blocks, whose content is what the history says.
    pub fn submit_write(&mut self, first: u64, blocks: u32) {
        let mut buffer = self.client.pool().acquire(blocks).expect("pages");
        for (block, bytes) in (first..).zip(buffer.as_mut_slice().chunks_exact_mut(BLOCK)) {
            fill(block, self.history.submit(block, false), bytes);
        }
        let pages = buffer.freeze();
        let write = Operation::Write { volume: self.volume, offset_blocks: first, pages };
        self.submit(write, first, Pending::Change(blocks));
    }

    /// Begins a discard of one block.
    pub fn submit_discard(&mut self, block: u64) {
        self.history.submit(block, true);
        let discard = Operation::Discard { volume: self.volume, offset_blocks: block, blocks: 1 };
        self.submit(discard, block, Pending::Change(1));
    }

    /// Begins the deletion of the volume's first chunks, as many as go together.
    pub fn submit_deletion(&mut self) {
        let blocks = self.volume.set_blocks();
        for block in 0..blocks {
            self.history.submit(block, true);
        }
        let deletion = Operation::Delete { volume: self.volume, offset_blocks: 0, blocks };
        self.submit(deletion, 0, Pending::Change(blocks as u32));
    }

    /// Begins a read of a run of blocks.
    pub fn submit_read(&mut self, first: u64, blocks: u32) {
        let read = Operation::Read { volume: self.volume, offset_blocks: first, blocks };
        let floors = self.history.floors(first, blocks);
        self.submit(read, first, Pending::Read(floors));
    }

    fn submit(&mut self, operation: Operation, first: u64, pending: Pending) {
        if let Pending::Change(blocks) = pending {
            self.touched.extend(first..first + u64::from(blocks));
        }
        self.client.submit(operation, first).expect("room");
        let other = self.pending.insert(first, pending);
        assert!(other.is_none(), "one operation at a time begins at a block");
    }

    /// Waits until all operations have ended; none may fail, and what was read is judged.
    pub fn finish(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.pending.is_empty() {
            assert!(Instant::now() < deadline, "in vain for a minute\n{:#?}", self.state());
            self.go_on();
        }
    }

    /// One turn; what ends is judged as [`Rig::finish`] does.
    pub fn go_on(&mut self) {
        let mut ended = Vec::new();
        self.turn(|token, result, bytes| ended.push((token, result, bytes.to_vec())));
        for (first, result, bytes) in ended {
            assert_eq!(result, Ok(()), "at block {first}: {:#?}", self.state());
            match self.pending.remove(&first).expect("an operation under way") {
                Pending::Change(blocks) => self.history.acknowledge(first, blocks),
                Pending::Read(floors) => self.history.check(first, &floors, &bytes),
            }
        }
    }

    /// Writes a run of blocks.
    pub fn write(&mut self, first: u64, blocks: u32) {
        self.submit_write(first, blocks);
        self.finish();
    }

    /// Reads a run of blocks.
    pub fn read(&mut self, first: u64, blocks: u32) {
        self.submit_read(first, blocks);
        self.finish();
    }

    /// Reads a run of blocks in vain, and says why.
    pub fn read_in_vain(&mut self, first: u64, blocks: u32) -> ClientError {
        assert!(self.pending.is_empty());
        self.submit_read(first, blocks);
        self.pending.clear();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut ended = None;
        while ended.is_none() {
            assert!(Instant::now() < deadline, "in vain for a minute\n{:#?}", self.state());
            self.turn(|_, result, _| ended = Some(result));
        }
        ended.expect("waited for").expect_err("nobody has these blocks")
    }

    /// What a node's map says of a block of the volume, if there is such a chunk.
    pub fn mapped(&mut self, node: usize, block: u64) -> Option<BlockState> {
        let spot = spot(self.local.cluster(), block);
        let key = ChunkKey { copyset: spot.copyset, chunk: spot.chunk };
        let server = self.local.node(node).expect("it runs").reactor().chunkserver_mut();
        server.shard_mut(0).store().block(key, spot.range.first)
    }

    /// What a node's map says of a block of the volume.
    pub fn stored(&mut self, node: usize, block: u64) -> BlockState {
        self.mapped(node, block).expect("a chunk")
    }

    /// The device's blocks that hold a block of the volume on a node, and its faults.
    pub fn place(&mut self, node: usize, block: u64) -> (Range<Lba>, Faults) {
        let Place::At(place) = self.stored(node, block).place else { panic!("it is mapped") };
        let reactor = self.local.node(node).expect("it runs").reactor();
        let data = reactor.chunkserver_mut().shard_mut(0).layout().data();
        let pair = &mut reactor.devices_mut()[0].queue_pair;
        let block_size = u64::from(pair.namespace().block_size);
        let first = (data + u64::from(place) * BLOCK as u64) / block_size;
        let faults = pair.as_emulated_mut().expect("an emulated device").faults();
        (Lba(first)..Lba(first + BLOCK as u64 / block_size), faults)
    }

    /// Flips bits of a block of the volume on one node's device.
    pub fn spoil(&mut self, node: usize, block: u64) {
        let (blocks, faults) = self.place(node, block);
        faults.flip_bits(blocks.start, 100, 0x18);
    }

    /// Kills a node and looks at its device as `culvert check` does.
    pub fn check_offline(&mut self, node: usize) -> CheckReport {
        self.local.kill(node);
        let uri = format!("emulated:96MiB?file={}/device-{node}", self.folder.path().display());
        let pool = pool("check", 8 << 20);
        let mut device = open_device(&uri, &pool);
        let config = ShardConfig::default();
        check(&mut device, &pool, &config, &mut rebuild, &mut |_| {}).expect("pages")
    }

    /// Goes on with another client.
    pub fn change_client(&mut self, options: ClientOptions) {
        assert!(self.pending.is_empty());
        self.client = self.local.client(16 << 20, options);
        self.volume = self.client.open_volume(VOLUME).expect("the volume");
    }

    /// Changes `count` different blocks at once, most by writes, some by discards.
    pub fn change(&mut self, count: u64) {
        let mut blocks = BTreeSet::new();
        while (blocks.len() as u64) < count {
            blocks.insert(self.random.below(VOLUME_BLOCKS));
        }
        for block in blocks {
            match self.random.below(256) {
                0 => self.submit_discard(block),
                _ => self.submit_write(block, 1),
            }
        }
        self.finish();
    }

    /// Many changes.
    pub fn churn(&mut self, changes: u64) {
        for _ in 0..changes.div_ceil(64) {
            self.change(64);
        }
    }

    /// Reads everything that was ever changed.
    pub fn read_all(&mut self) {
        for block in self.touched.clone() {
            self.read(block, 1);
        }
    }

    /// A connection to a node that says what it likes.
    pub fn raw(&mut self, node: usize, kind: PeerKind, name: Uuid) -> Raw {
        let address = Address::Shm(self.folder.path().join(format!("node-{node}.sock")));
        Raw::connect(&address, kind, name, &mut || self.local.turn())
    }

    pub fn status(&mut self, node: usize) -> Option<ChunkserverStatus> {
        let node = self.local.node(node)?;
        Some(node.reactor().chunkserver().status())
    }

    pub fn copyset(&mut self, node: usize, copyset: u32) -> Option<CopysetStatus> {
        self.status(node)?.copysets.into_iter().find(|status| status.id == copyset)
    }

    pub fn leader_of(&mut self, copyset: u32) -> Option<usize> {
        (0..3).find(|node| self.copyset(*node, copyset).is_some_and(|s| s.role == "leader"))
    }

    fn state(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for node in 0..3 {
            let Some(status) = self.status(node) else { continue };
            out.push(format!("node {node}: {:?} {:?}", status.shards, status.counters));
            out.extend(status.copysets.iter().map(|copyset| format!("node {node}: {copyset:?}")));
        }
        out
    }

    /// Whether all replicas have applied the same and nobody catches up.
    pub fn is_settled(&mut self) -> bool {
        (1..=COPYSETS).all(|id| {
            let all: Vec<_> = (0..3).filter_map(|node| self.copyset(node, id)).collect();
            let applied = all.iter().map(|status| status.applied).max();
            all.len() == 3
                && all.iter().any(|status| status.role == "leader")
                && all.iter().all(|status| Some(status.applied) == applied)
                && all.iter().all(|status| status.last == status.applied)
                && all.iter().all(|s| !s.catching_up && s.catch_ups.is_empty())
        })
    }

    pub fn settle(&mut self) {
        self.turn_until("all replicas are equal", Rig::is_settled);
        // What is durable is on the devices when the last flush is.
        self.turns(2000);
    }

    /// Compares what the three nodes hold, block by block, with each other and with the devices.
    pub fn compare_stores(&mut self) {
        self.compare_stores_of(&[0, 1, 2]);
    }

    /// As [`Rig::compare_stores`], of some nodes.
    pub fn compare_stores_of(&mut self, nodes: &[usize]) {
        for id in (1..=COPYSETS).map(CopysetId) {
            let first = self.content(nodes[0], id);
            for node in nodes[1..].iter().copied() {
                let other = self.content(node, id);
                let keys = |content: &Content| content.keys().copied().collect::<Vec<_>>();
                assert_eq!(keys(&first), keys(&other), "chunks of copyset {id} on node {node}");
                for (chunk, content) in &first {
                    assert_eq!(content.0, other[chunk].0, "copyset {id} chunk {chunk} node {node}");
                    let blocks = content.1.iter().zip(&other[chunk].1).enumerate();
                    for (block, (one, other)) in blocks {
                        assert_eq!(
                            one, other,
                            "copyset {id} chunk {chunk:x} block {block} node {node}"
                        );
                    }
                }
            }
        }
        for node in nodes {
            self.check_device(*node);
        }
    }

    /// Whether two nodes hold the same.
    pub fn hold_the_same(&mut self, one: usize, other: usize) -> bool {
        (1..=COPYSETS).map(CopysetId).all(|id| self.content(one, id) == self.content(other, id))
    }

    fn content(&mut self, node: usize, copyset: CopysetId) -> Content {
        let shard =
            self.local.node(node).expect("it runs").reactor().chunkserver_mut().shard_mut(0);
        let (store, mut content, mut after) = (shard.store(), Content::new(), None);
        while let Some(chunk) = store.chunk_after(copyset, after) {
            after = Some(chunk.key.chunk);
            let mut blocks = Vec::new();
            for first in (0..CHUNK_BLOCKS).step_by(32) {
                let mut states = BlockStates::new();
                store.lookup(chunk.key, BlockRange { first, blocks: 32 }, &mut states);
                for state in states {
                    assert!(state.place != Place::Missing, "{chunk:?}");
                    blocks.push((state.place == Place::Hole, state.crc, state.index));
                }
            }
            let head = (chunk.birth, chunk.applied, chunk.mapped);
            content.insert(chunk.key.chunk.0, (head, blocks));
        }
        content
    }

    /// Whether every mapped block of a node is on its device.
    fn check_device(&mut self, node: usize) {
        use std::os::unix::fs::FileExt;
        let path = self.folder.path().join(format!("device-{node}"));
        let file = std::fs::File::open(path).expect("the device's file");
        let mut buffer = self.client.pool().acquire(1).expect("a page");
        let shard =
            self.local.node(node).expect("it runs").reactor().chunkserver_mut().shard_mut(0);
        let data = shard.layout().data();
        for copyset in (1..=COPYSETS).map(CopysetId) {
            let mut after = None;
            while let Some(chunk) = shard.store().chunk_after(copyset, after) {
                after = Some(chunk.key.chunk);
                for first in (0..CHUNK_BLOCKS).step_by(32) {
                    let mut states = BlockStates::new();
                    let range = BlockRange { first, blocks: 32 };
                    shard.store().lookup(chunk.key, range, &mut states);
                    for state in states {
                        let Place::At(place) = state.place else { continue };
                        let at = data + u64::from(place) * BLOCK as u64;
                        file.read_exact_at(buffer.as_mut_slice(), at).expect("a readable file");
                        let crc = buffer.crc32c(0, BLOCK);
                        assert_eq!(crc, state.crc, "node {node}: {chunk:?} at {place}");
                    }
                }
            }
        }
    }

    /// Kills a node and makes its absence long enough that no log reaches back.
    pub fn leave_behind(&mut self, node: usize) {
        self.local.kill(node);
        self.churn(3 * 1000);
    }

    pub fn reopen(&mut self, node: usize) {
        self.local.open(node, false).expect("it comes back");
    }

    /// The bytes that all nodes have sent for catch-ups.
    pub fn catch_up_bytes(&mut self) -> u64 {
        (0..3).filter_map(|node| self.status(node)).map(|s| s.counters.catch_up_bytes_sent).sum()
    }

    /// Whether the node is in the middle of a catch-up of any copyset.
    pub fn catches_up(&mut self, node: usize) -> bool {
        let status = self.status(node);
        status.is_some_and(|status| status.copysets.iter().any(|copyset| copyset.catching_up))
    }
}

/// Per chunk: birth, applied, mapped; and per block whether it is a hole, its checksum and index.
type Content = BTreeMap<u64, ((LogIndex, LogIndex, u32), Vec<(bool, u32, LogIndex)>)>;
