//! Nodes, clients and a model of what they wrote, in one thread over the production drivers.
#![allow(dead_code)]

pub mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use culvert::chunkserver::{ChunkserverStatus, CopysetStatus};
use culvert::client::{Client, ClientError, ClientOptions, Operation, Transports};
use culvert::cluster::PlanOptions;
use culvert::config::NodeConfig;
use culvert::ids::{BlockRange, CopysetId, LogIndex};
use culvert::node::{LocalCluster, LocalOptions, SystemClock};
use culvert::reactor::Clock;
use culvert::store::{BlockStates, ChunkKey, Place};
use culvert_transport::Transport;
use tempfile::TempDir;

pub const BLOCK: usize = 4096;
pub const CHUNK_BLOCKS: u32 = 256;
pub const COPYSETS: u32 = 3;
pub const VOLUME_BLOCKS: u64 = 4096;

/// Small numbers from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub struct Rig {
    pub local: LocalCluster,
    pub client: Client<Transport>,
    pub paused: Vec<usize>,
    /// Value of each block that was ever touched; 0: zeroes.
    pub model: BTreeMap<u64, u8>,
    pub dice: Dice,
    pub folder: TempDir,
}

impl Rig {
    pub fn new(tcp: bool, seed: u64, adjust: fn(&mut NodeConfig)) -> Rig {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _set_before =
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let device = |n: usize| {
            format!("emulated:64MiB?file={}", folder.path().join(format!("device-{n}")).display())
        };
        let options = LocalOptions {
            folder: folder.path().into(),
            devices: (0..3).map(device).collect(),
            plan: PlanOptions {
                chunk_size: u64::from(CHUNK_BLOCKS) * BLOCK as u64,
                copysets: COPYSETS,
                replicas: 3,
                quota_blocks: 3000,
            },
            volume: ("disk".into(), VOLUME_BLOCKS * BLOCK as u64),
            tcp,
            pool_bytes: 32 << 20,
            adjust,
        };
        let local = LocalCluster::start(&options).expect("a local cluster");
        let transports = if tcp { Transports::Tcp } else { Transports::Shm };
        let client =
            local.client(16 << 20, ClientOptions { transports, ..ClientOptions::default() });
        let (model, dice) = (BTreeMap::new(), Dice::new(seed));
        Rig { local, client, paused: Vec::new(), model, dice, folder }
    }

    /// One turn of everything; completions go to `done`.
    pub fn turn(&mut self, mut done: impl FnMut(u64, Result<(), ClientError>, &[u8])) {
        self.local.turn_except(&self.paused);
        self.client.poll(SystemClock.now_ns(), &mut |completion| {
            let mut bytes = vec![0; completion.data.len()];
            completion.data.copy_to_slice(&mut bytes);
            done(completion.token, completion.result, &bytes);
        });
    }

    /// Turns everything until `done` says so.
    pub fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Rig) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < deadline, "in vain for a minute: {what}\n{:#?}", self.state());
            self.turn(|_, _, _| panic!("no operation is in flight"));
        }
    }

    /// Writes, and some discards, to `count` different blocks at once; returns when all are done.
    /// `during` is called each turn.
    pub fn change(&mut self, count: u64, mut during: impl FnMut(&mut Rig)) {
        let volume = self.client.open_volume("disk").expect("the volume");
        let mut blocks = BTreeSet::new();
        while (blocks.len() as u64) < count {
            blocks.insert(self.dice.below(VOLUME_BLOCKS));
        }
        for block in &blocks {
            let value = self.dice.below(256) as u8;
            self.model.insert(*block, value);
            let operation = if value == 0 {
                Operation::Discard { volume, offset_blocks: *block, blocks: 1 }
            } else {
                let mut buffer = self.client.pool().acquire(1).expect("a page");
                buffer.as_mut_slice().fill(value);
                Operation::Write { volume, offset_blocks: *block, pages: buffer.freeze() }
            };
            self.client.submit(operation, *block).expect("room");
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while !blocks.is_empty() {
            assert!(Instant::now() < deadline, "in vain for a minute\n{:#?}", self.state());
            let mut failed = None;
            self.turn(|token, result, _| {
                blocks.remove(&token);
                failed = result.err().map(|error| (token, error)).or(failed);
            });
            assert_eq!(failed, None, "{:#?}", self.state());
            during(self);
        }
    }

    /// Many changes.
    pub fn churn(&mut self, changes: u64) {
        for _ in 0..changes.div_ceil(64) {
            self.change(64, |_| {});
        }
    }

    /// Reads everything that the model knows and compares.
    pub fn check_model(&mut self) {
        let volume = self.client.open_volume("disk").expect("the volume");
        let model = self.model.clone();
        for (block, value) in model {
            let read = Operation::Read { volume, offset_blocks: block, blocks: 1 };
            self.client.submit(read, block).expect("room");
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut over = false;
            while !over {
                assert!(Instant::now() < deadline, "a read came to nothing");
                self.turn(|token, result, bytes| {
                    assert_eq!((token, result), (block, Ok(())));
                    assert!(
                        bytes.iter().all(|byte| *byte == value),
                        "block {block} is not {value}"
                    );
                    over = true;
                });
            }
        }
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
        for _ in 0..2000 {
            self.turn(|_, _, _| {});
        }
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

/// A chunk's key.
pub fn key(copyset: u32, chunk: u64) -> ChunkKey {
    ChunkKey { copyset: CopysetId(copyset), chunk: culvert::ids::ChunkId(chunk) }
}
