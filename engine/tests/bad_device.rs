//! Devices and configurations that are not what they should be: refused, with words that say what
//! and where.

mod rig;

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert::config::{ByteSize, NodeConfig};
use culvert::device::{LayoutOptions, STRUCTURE_BYTES};
use culvert::node::NodeReactor;
use tempfile::TempDir;
use uuid::Uuid;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{Plan, VOLUME, Wishes, emulated, format_device};

/// Where the second copy of the header lies.
const HEADER_COPY_AT: u64 = (1 << 20) - STRUCTURE_BYTES as u64;
/// Where the version stands in a header.
const VERSION_AT: u64 = 8;

struct Bench {
    folder: TempDir,
    plan: Plan,
}

impl Bench {
    fn new() -> Bench {
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let devices = emulated(folder.path(), "64MiB", "");
        let plan = Plan::new(&Wishes { copysets: 1, ..Wishes::new(folder.path(), devices) });
        Bench { folder, plan }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("device-0")
    }

    /// Overwrites bytes of node 0's device.
    fn overwrite(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.file()).expect("its file");
        file.write_all_at(bytes, at).expect("its file");
    }

    /// Why node 0 does not start.
    fn refusal(&self) -> String {
        match NodeReactor::open(&self.plan.configs[0], &self.plan.cluster, 0, true) {
            Ok(_) => panic!("it started"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        }
    }

    fn is_refused(&self, words: &str) {
        let said = self.refusal();
        assert_eq!(said.matches(words).count(), 1, "{words:?} once in {said:?}");
        assert!(said.contains("device-0"), "it says which device: {said:?}");
    }
}

fn layout(bench: &Bench) -> LayoutOptions {
    let chunk_blocks = bench.plan.cluster.chunk_blocks();
    LayoutOptions { chunk_blocks, ..LayoutOptions::default() }
}

#[test]
fn a_device_that_was_never_formatted() {
    let bench = Bench::new();
    for byte in [0, 0x5a] {
        bench.overwrite(0, &[byte; STRUCTURE_BYTES]);
        bench.overwrite(HEADER_COPY_AT, &[byte; STRUCTURE_BYTES]);
        bench.is_refused("not a Culvert device");
    }
}

#[test]
fn a_header_that_is_damaged() {
    let bench = Bench::new();
    bench.overwrite(100, &[0x5a]);
    let node = NodeReactor::open(&bench.plan.configs[0], &bench.plan.cluster, 0, true);
    drop(node.expect("one good copy will do"));
    bench.overwrite(HEADER_COPY_AT + 100, &[0x5a]);
    let node = NodeReactor::open(&bench.plan.configs[0], &bench.plan.cluster, 0, true);
    drop(node.expect("the first was written anew"));
    bench.overwrite(100, &[0x5a]);
    bench.overwrite(HEADER_COPY_AT + 100, &[0x5a]);
    bench.is_refused("the device header is damaged");
}

#[test]
fn a_header_of_another_version() {
    let bench = Bench::new();
    for at in [0, HEADER_COPY_AT] {
        bench.overwrite(at + VERSION_AT, &77u32.to_le_bytes());
    }
    bench.is_refused("format version 77");
    let uri = &bench.plan.configs[0].devices[0].uri;
    let refused = format_device(uri, Uuid::from_u128(1), layout(&bench), false);
    let said = refused.expect_err("another version's data").to_string();
    assert!(said.contains("another version of Culvert (format version 77)"), "{said}");
}

#[test]
fn a_header_that_was_copied_to_a_smaller_device() {
    let mut bench = Bench::new();
    let file = OpenOptions::new().write(true).open(bench.file()).expect("its file");
    file.set_len(32 << 20).expect("its file");
    let uri = &mut bench.plan.configs[0].devices[0].uri;
    *uri = uri.replace("64MiB", "32MiB");
    bench.is_refused("the header was written for 67108864 bytes");
}

#[test]
fn superblocks_that_are_gone() {
    let bench = Bench::new();
    for slot in 1..3 {
        bench.overwrite(slot * STRUCTURE_BYTES as u64, &[0; STRUCTURE_BYTES]);
    }
    bench.is_refused("no valid superblock");
}

#[test]
fn a_device_that_is_formatted_already() {
    let bench = Bench::new();
    let uri = &bench.plan.configs[0].devices[0].uri;
    let before = std::fs::read(bench.file()).expect("its file");
    let refused = format_device(uri, Uuid::from_u128(1), layout(&bench), false);
    let said = refused.expect_err("its data would be lost").to_string();
    let name = bench.plan.cluster.devices()[0].uuid.to_string();
    assert!(said.contains(&name), "{said}");
    assert!(said.contains("formatting would destroy it"), "{said}");
    assert!(std::fs::read(bench.file()).expect("its file") == before, "nothing was written");
}

#[test]
fn a_device_that_the_cluster_does_not_list() {
    let bench = Bench::new();
    let uri = &bench.plan.configs[0].devices[0].uri;
    let other = Uuid::from_u128(0xd017_4711);
    format_device(uri, other, layout(&bench), true).expect("with force");
    bench.is_refused(&format!("the cluster file lists no device {other} for this node"));
}

#[test]
fn a_device_of_another_node() {
    let mut bench = Bench::new();
    bench.plan.configs[0].devices = bench.plan.configs[1].devices.clone();
    let said = bench.refusal();
    assert!(said.contains("lists no device"), "{said}");
    assert!(said.contains("for this node"), "{said}");
    assert!(said.contains("device-1"), "{said}");
}

#[test]
fn a_device_with_chunks_of_another_size() {
    let bench = Bench::new();
    let uri = &bench.plan.configs[0].devices[0].uri;
    let layout = LayoutOptions { chunk_blocks: 7, ..LayoutOptions::default() };
    let name = bench.plan.cluster.devices()[0].uuid;
    format_device(uri, name, layout, true).expect("with force");
    bench.is_refused("formatted for chunks of 7 blocks");
}

/// A catch-up stages a chunk beside the one that it replaces.
#[test]
fn a_reserve_that_does_not_hold_two_chunks() {
    let mut bench = Bench::new();
    let chunk_blocks = bench.plan.cluster.chunk_blocks();
    bench.plan.configs[0].store.reserve_blocks = 2 * chunk_blocks - 1;
    let said = bench.refusal();
    assert!(said.contains(&format!("store.reserve_blocks is {}", 2 * chunk_blocks - 1)), "{said}");
    assert!(said.contains(&format!("to at least {}", 2 * chunk_blocks)), "{said}");
    bench.plan.configs[0].store.reserve_blocks = 2 * chunk_blocks;
    let node = NodeReactor::open(&bench.plan.configs[0], &bench.plan.cluster, 0, true);
    drop(node.expect("mended as it was told"));
}

/// Chunks of 128 MiB: a catch-up installs one with a record of some 670 kB.
#[test]
fn chunks_that_no_journal_write_can_install() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let devices = emulated(folder.path(), "512MiB", "");
    let chunk_bytes = 128 << 20;
    let plan = Plan::new(&Wishes {
        copysets: 1,
        chunk_bytes,
        quota_blocks: chunk_bytes / 4096,
        volume_bytes: chunk_bytes,
        adjust: |config| config.store.reserve_blocks = 2 * 32_768,
        ..Wishes::new(folder.path(), devices)
    });
    let mut bench = Bench { folder, plan };
    let with_ring = |bench: &Bench, bytes| {
        let layout = LayoutOptions { ring_bytes: Some(bytes), ..layout(bench) };
        let device = bench.plan.cluster.devices()[0];
        let uri = &bench.plan.configs[0].devices[0].uri;
        format_device(uri, device.uuid, layout, true).expect("with force");
    };
    // The smallest ring, of which a batch may take a sixteenth.
    with_ring(&bench, 4 << 20);
    bench.is_refused("with a journal of 4MiB");
    let said = bench.refusal();
    assert!(said.contains("a catch-up of chunks of 128MiB needs 671"), "{said}");
    assert!(said.contains("--ring-size"), "{said}");

    bench.plan.configs[0].store.batch_bytes = ByteSize(256 << 10);
    let said = bench.refusal();
    assert!(said.contains("store.batch_bytes is 256KiB"), "{said}");
    assert!(said.contains("raise store.batch_bytes to at least that"), "{said}");

    with_ring(&bench, 16 << 20);
    bench.plan.configs[0].store.batch_bytes = ByteSize::mib(1);
    let node = NodeReactor::open(&bench.plan.configs[0], &bench.plan.cluster, 0, true);
    drop(node.expect("mended as it was told"));
}

#[test]
fn a_replica_that_nobody_created() {
    let bench = Bench::new();
    let node = NodeReactor::open(&bench.plan.configs[0], &bench.plan.cluster, 0, false);
    let status = node.expect("it starts").reactor().chunkserver().status();
    assert_eq!(status.copysets.len(), 1);
    assert_eq!(status.copysets[0].role, "out of service");
    let reason = &status.copysets[0].reason;
    assert!(reason.contains("--create-replicas"), "it says what to do: {reason}");
}

/// Formatted anew under its old name, it must not vote: what it once acknowledged is gone.
#[test]
fn a_device_that_was_wiped_votes_for_nothing() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let devices = emulated(folder.path(), "64MiB", "");
    let mut nodes = Nodes::start(&Wishes { copysets: 1, ..Wishes::new(folder.path(), devices) });
    let mut load = Load::new(nodes.client(1), VOLUME, 8, 1);
    load.write(0, 8);
    load.settle(|| nodes.turn());
    let leader = nodes.leader_of(1).expect("a leader");
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);

    nodes.kill(wiped);
    let chunk_blocks = nodes.plan.cluster.chunk_blocks();
    let layout = LayoutOptions { chunk_blocks, ..LayoutOptions::default() };
    let name = nodes.plan.cluster.devices()[wiped].uuid;
    format_device(&nodes.plan.configs[wiped].devices[0].uri, name, layout, true).expect("force");
    nodes.open(wiped, false);
    assert_eq!(nodes.status(wiped).copysets[0].role, "out of service");
    load.write(0, 8);
    load.settle(|| nodes.turn());

    // With one replica dead and one wiped, one of three is no majority: nobody may lead.
    nodes.kill(leader);
    let since = Instant::now();
    nodes.run_until("many election timeouts pass", |nodes| {
        assert_eq!(nodes.leader_of(1), None, "elected with the vote of a wiped device");
        since.elapsed() > Duration::from_secs(3)
    });
    assert!(nodes.status(other).copysets[0].term > 0);

    nodes.open(leader, false);
    load.write(0, 8);
    load.settle(|| nodes.turn());
    load.read_all(|| nodes.turn());
}

#[test]
fn a_configuration_with_an_unknown_key() {
    let bench = Bench::new();
    let path = bench.folder.path().join("node.toml");
    let text = bench.plan.configs[0].to_toml();
    for (key, line) in [("tick_mss", "[raft]"), ("pool_byte", "[[reactors]]")] {
        let wrong = text.replace(line, &format!("{line}\n{key} = 7"));
        assert_ne!(wrong, text, "the section is there");
        std::fs::write(&path, wrong).expect("a file");
        let error = NodeConfig::load(&path).expect_err("nobody knows the key");
        let mut said = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            said = format!("{said}: {cause}");
            source = cause.source();
        }
        assert!(said.contains("node.toml"), "{said}");
        assert!(said.contains(&format!("unknown field `{key}`")), "{said}");
        assert!(said.contains("line "), "{said}");
    }
}
