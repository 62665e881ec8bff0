//! Three nodes and a client in one thread, over the production drivers.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use culvert::client::{Client, ClientError, ClientOptions, Operation};
use culvert::cluster::PlanOptions;
use culvert::node::{LocalCluster, LocalOptions, SystemClock};
use culvert::reactor::Clock;
use culvert::stages::{StageFigures, StageStatus};
use culvert_transport::Transport;
use tempfile::TempDir;

const BLOCK: usize = 4096;

struct Rig {
    local: LocalCluster,
    client: Client<Transport>,
    paused: Vec<usize>,
    _folder: TempDir,
}

impl Rig {
    fn new(tcp: bool) -> Rig {
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
            plan: PlanOptions { chunk_size: 1 << 20, copysets: 3, replicas: 3, quota_blocks: 3000 },
            volume: ("disk".into(), 16 << 20),
            tcp,
            pool_bytes: 32 << 20,
            adjust: |_| {},
        };
        let local = LocalCluster::start(&options).expect("a local cluster");
        let transports =
            if tcp { culvert::client::Transports::Tcp } else { culvert::client::Transports::Shm };
        let client =
            local.client(16 << 20, ClientOptions { transports, ..ClientOptions::default() });
        Rig { local, client, paused: Vec::new(), _folder: folder }
    }

    /// Turns everything until `done`, which sees each completion's token and outcome.
    fn run(&mut self, mut done: impl FnMut(u64, Result<(), ClientError>, &[u8]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut over = false;
        while !over {
            assert!(Instant::now() < deadline, "nothing came of it in a minute");
            self.local.turn_except(&self.paused);
            self.client.poll(SystemClock.now_ns(), &mut |completion| {
                let mut bytes = vec![0; completion.data.len()];
                completion.data.copy_to_slice(&mut bytes);
                over |= done(completion.token, completion.result, &bytes);
            });
        }
    }

    fn write(&mut self, block: u64, blocks: u32, value: u8) {
        self.submit_write(block, blocks, value, 1);
        self.run(|token, ok, _| {
            assert_eq!((token, ok), (1, Ok(())));
            true
        });
    }

    fn submit_write(&mut self, block: u64, blocks: u32, value: u8, token: u64) {
        let volume = self.client.open_volume("disk").expect("the volume");
        let mut buffer = self.client.pool().acquire(blocks).expect("pages");
        for n in 0..blocks as usize {
            buffer.as_mut_slice()[n * BLOCK..(n + 1) * BLOCK].fill(value.wrapping_add(n as u8));
        }
        let pages = buffer.freeze();
        let write = Operation::Write { volume, offset_blocks: block, pages };
        self.client.submit(write, token).expect("room");
    }

    fn read(&mut self, block: u64, blocks: u32) -> Vec<u8> {
        let volume = self.client.open_volume("disk").expect("the volume");
        let read = Operation::Read { volume, offset_blocks: block, blocks };
        self.client.submit(read, 2).expect("room");
        let mut out = Vec::new();
        self.run(|token, ok, bytes| {
            assert_eq!((token, ok), (2, Ok(())));
            out = bytes.to_vec();
            true
        });
        out
    }

    fn leader_of(&mut self, copyset: u32) -> Option<usize> {
        (0..3).find(|n| {
            let Some(node) = self.local.node(*n) else { return false };
            let status = node.reactor().chunkserver().status();
            status.copysets.iter().any(|c| c.id == copyset && c.role == "leader")
        })
    }
}

fn reads_what_was_written(tcp: bool) {
    let mut rig = Rig::new(tcp);
    rig.write(7, 1, 42);
    assert!(rig.read(7, 1).iter().all(|byte| *byte == 42));
    assert!(rig.read(100, 4).iter().all(|byte| *byte == 0), "never written: zeroes");
    rig.write(200, 256, 1);
    let bytes = rig.read(200, 256);
    for n in 0..256 {
        assert!(bytes[n * BLOCK..(n + 1) * BLOCK].iter().all(|b| *b == 1u8.wrapping_add(n as u8)));
    }
}

#[test]
fn reads_what_was_written_over_shared_memory() {
    reads_what_was_written(false);
}

#[test]
fn reads_what_was_written_over_tcp() {
    reads_what_was_written(true);
}

/// Many writes at once while the leader dies, comes back and dies again.
fn survives_the_death_of_leaders(tcp: bool) {
    let mut rig = Rig::new(tcp);
    let mut model: HashMap<u64, u8> = HashMap::new();
    let mut value = 0u8;
    for round in 0..4 {
        for block in 0..100u64 {
            value = value.wrapping_add(1);
            rig.submit_write(block * 7, 1, value, 1000 + block);
            model.insert(block * 7, value);
        }
        if round > 0 {
            let leader = rig.leader_of(1 + round % 3).expect("somebody leads");
            rig.local.kill(leader);
            let mut left = 100;
            rig.run(|_, ok, _| {
                assert_eq!(ok, Ok(()), "a write failed although a majority lives");
                left -= 1;
                left == 0
            });
            rig.local.open(leader, false).expect("it comes back");
        } else {
            let mut left = 100;
            rig.run(|_, ok, _| {
                assert_eq!(ok, Ok(()));
                left -= 1;
                left == 0
            });
        }
        for (block, value) in &model {
            let bytes = rig.read(*block, 1);
            assert!(bytes.iter().all(|byte| byte == value), "block {block} lost its last write");
        }
    }
}

#[test]
fn survives_the_death_of_leaders_over_shared_memory() {
    survives_the_death_of_leaders(false);
}

#[test]
fn survives_the_death_of_leaders_over_tcp() {
    survives_the_death_of_leaders(true);
}

/// A client that comes to a cluster whose leaders are settled, but does not know them, with a full
/// queue: it asks once per copyset, and sends the rest where it belongs.
#[test]
fn a_client_asks_once_for_each_leader() {
    for only_reads in [false, true] {
        let mut rig = Rig::new(false);
        rig.write(0, 256, 1);
        let copysets = 3;
        let options = ClientOptions {
            transports: culvert::client::Transports::Shm,
            ..ClientOptions::default()
        };
        rig.client = rig.local.client(16 << 20, options);
        let mut operations = 0;
        let volume = rig.client.open_volume("disk").expect("the volume");
        for block in (0..200).step_by(8) {
            operations += 1;
            if only_reads || block % 16 == 0 {
                let read = Operation::Read { volume, offset_blocks: block, blocks: 8 };
                rig.client.submit(read, block).expect("room");
            } else {
                rig.submit_write(block, 8, 1, block);
            }
        }
        let mut left = operations;
        rig.run(|_, ok, _| {
            assert_eq!(ok, Ok(()));
            left -= 1;
            left == 0
        });
        let statistics = rig.client.statistics();
        assert!(statistics.retries <= 2 * copysets, "{statistics:?}");
    }
}

/// Sockets that were not there at first: the client falls back to TCP, and returns under load.
#[test]
fn a_client_returns_to_shared_memory() {
    let mut rig = Rig::new(true);
    rig.client = rig.local.client(16 << 20, ClientOptions::default());
    let folder = rig._folder.path().to_owned();
    let socket = |n: u32| folder.join(format!("node-{n}.sock"));
    let aside = |n: u32| folder.join(format!("node-{n}.aside"));
    (0..3).for_each(|n| std::fs::rename(socket(n), aside(n)).expect("it listens there"));
    rig.write(0, 256, 1);
    let before = *rig.client.statistics();
    assert_eq!(before.returns, 0);
    assert!(before.connects_failed >= before.connects, "shared memory comes first: {before:?}");
    (0..3).for_each(|n| std::fs::rename(aside(n), socket(n)).expect("a folder of ours"));
    let since = Instant::now();
    let mut value = 2;
    while rig.client.statistics().returns < before.connects {
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", rig.client.statistics());
        value = if value == 200 { 2 } else { value + 1 };
        rig.write(0, 64, value);
        assert_eq!(rig.read(5, 1)[0], value + 5);
    }
    rig.write(0, 256, 1);
    let after = *rig.client.statistics();
    assert_eq!((after.retries, after.timeouts), (before.retries, before.timeouts), "{after:?}");
    println!("returned after {:?}", since.elapsed());
}

/// What the stages of each node counted.
fn stages(rig: &mut Rig) -> Vec<BTreeMap<&'static str, StageStatus>> {
    let of = |n| rig.local.node(n).expect("it runs").reactor().chunkserver().status().stages;
    (0..3).map(of).collect()
}

/// What is counted on the way of writes and reads of one block.
fn every_operation_passes_every_stage(tcp: bool) {
    const OPERATIONS: u64 = 200;
    let mut rig = Rig::new(tcp);
    for block in 0..OPERATIONS {
        rig.submit_write(block, 1, block as u8, block);
    }
    let mut left = OPERATIONS;
    rig.run(|_, ok, _| {
        assert_eq!(ok, Ok(()));
        left -= 1;
        left == 0
    });
    for block in 0..OPERATIONS {
        rig.read(block, 1);
    }
    let sum = |nodes: &[BTreeMap<&'static str, StageStatus>], name: &str| {
        nodes.iter().map(|stages| stages[name].figures.count).sum::<u64>()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    // What a turn posts gets the time of the next one.
    rig.local.turn();
    let mut nodes = stages(&mut rig);
    while sum(&nodes, "append_reply") < 2 * OPERATIONS {
        assert!(Instant::now() < deadline, "followers do not get everything");
        rig.local.turn();
        nodes = stages(&mut rig);
    }
    for (name, expected) in [
        ("write_submit", OPERATIONS),
        ("write_durable", OPERATIONS),
        ("write_commit", OPERATIONS),
        ("write_reply", OPERATIONS),
        ("append_durable", 2 * OPERATIONS),
        ("append_reply", 2 * OPERATIONS),
        ("read_submit", OPERATIONS),
        ("read_verified", OPERATIONS),
        ("read_reply", OPERATIONS),
        ("device_write", 3 * OPERATIONS),
        ("device_read", OPERATIONS),
    ] {
        assert_eq!(sum(&nodes, name), expected, "{name}");
    }
    assert!(sum(&nodes, "journal_write") > 3);
    for stages in &nodes {
        for (before, after) in [
            ("write_submit", "write_durable"),
            ("write_submit", "write_commit"),
            ("write_commit", "write_reply"),
            ("append_durable", "append_reply"),
            ("read_submit", "read_verified"),
            ("read_verified", "read_reply"),
        ] {
            let figures = |name: &str| {
                let StageFigures { p50_us, p99_us, p999_us, max_us, .. } = stages[name].figures;
                [p50_us, p99_us, p999_us, max_us]
            };
            let pairs = figures(before).into_iter().zip(figures(after));
            assert!(pairs.clone().all(|(b, a)| b <= a), "{before} {after} {pairs:?}");
            let counts = [before, after].map(|name| stages[name].figures.count);
            assert_eq!(counts[0], counts[1], "{before} {after}");
        }
    }
}

#[test]
fn every_operation_passes_every_stage_over_shared_memory() {
    every_operation_passes_every_stage(false);
}

#[test]
fn every_operation_passes_every_stage_over_tcp() {
    every_operation_passes_every_stage(true);
}
