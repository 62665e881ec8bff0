//! The power of devices fails at random moments, and with it goes what they had not flushed.
//!
//! Three nodes and a client in one thread, over emulated devices with a volatile write cache. Again
//! and again the power of one node, or of all, fails in the middle of the load: each unflushed
//! block of its device is lost, kept or torn, the node is dropped and comes back. Every read is
//! judged against what was acknowledged.
//!
//! `CULVERT_POWER_SEEDS` and `CULVERT_POWER_SEED` set how many seeds and where they begin.

mod rig;

use culvert::config::ByteSize;
use culvert_nvme::Loss;
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};
use rig::random::{Random, number_from};

const SEEDS: u64 = 4;
const FAILURES: u64 = 12;
const DEPTH: usize = 24;

/// What became of unflushed blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    lost: u64,
    torn: u64,
    kept: u64,
    /// Batches of the last lives that stand in metadata.
    in_metadata: u64,
}

fn power_fails(nodes: &mut Nodes, victim: usize, random: &mut Random, lost: &mut Lost) {
    nodes.device(victim).drop_unflushed(&mut |_| match random.below(3) {
        0 => {
            lost.lost += 1;
            Loss::Lose
        }
        1 => {
            lost.kept += 1;
            Loss::Keep
        }
        _ => {
            lost.torn += 1;
            Loss::Tear { sectors: random.bits() as u8 }
        }
    });
    nodes.kill(victim);
}

/// A number of turns of everybody, some of them of the client only.
fn run(nodes: &mut Nodes, load: &mut Load, turns: u64) {
    for _ in 0..turns {
        nodes.turn();
        load.turn();
    }
}

/// Batches of a node's journal that stand in metadata.
fn in_metadata(nodes: &mut Nodes, node: usize) -> u64 {
    nodes.status(node).shards[0].counters.metadata_batches
}

fn survives(seed: u64, options: &str) -> Lost {
    println!("CULVERT_POWER_SEED={seed}{options}");
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let options = format!("&cache=volatile&order=shuffled&seed={seed}{options}");
    let wishes = Wishes {
        adjust: |config| {
            // Short, because nothing but the thread's own turns stands between the nodes.
            config.raft.tick_ms = 10;
            config.raft.lease_drift_margin_ms = 10;
            config.store.checkpoint_factor = 4;
            config.store.checkpoint_min_bytes = ByteSize::mib(1);
        },
        ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", &options))
    };
    // Entries that come alone go to metadata, from the second checkpoint of a life on.
    let (depth, turns) = if options.contains("metadata") { (1, 12_000) } else { (DEPTH, 1500) };
    let mut random = Random::new(seed);
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(seed), VOLUME, depth, seed);
    load.write(0, 1);
    load.settle(|| nodes.turn());
    let mut lost = Lost::default();
    for _ in 0..FAILURES {
        run(&mut nodes, &mut load, 100 + random.below(turns));
        let one = random.below(3) as usize;
        let victims = match random.below(4) {
            0 | 1 => vec![one],
            2 => vec![one, (one + 1) % 3],
            _ => vec![0, 1, 2],
        };
        for victim in &victims {
            power_fails(&mut nodes, *victim, &mut random, &mut lost);
            run(&mut nodes, &mut load, random.below(4));
        }
        for victim in &victims {
            nodes.open(*victim, false);
        }
        load.settle(|| nodes.turn());
        load.read_all(|| nodes.turn());
    }
    lost.in_metadata = (0..3).map(|node| in_metadata(&mut nodes, node)).sum();
    println!("{:?}, unflushed: {lost:?}", load.done);
    lost
}

fn survives_many(options: &str) {
    let first = number_from("CULVERT_POWER_SEED", 1);
    let mut sum = Lost::default();
    for seed in first..first + number_from("CULVERT_POWER_SEEDS", SEEDS) {
        let lost = survives(seed, options);
        sum = Lost {
            lost: sum.lost + lost.lost,
            torn: sum.torn + lost.torn,
            kept: sum.kept + lost.kept,
            in_metadata: sum.in_metadata + lost.in_metadata,
        };
    }
    let metadata = options.contains("metadata");
    assert_eq!(metadata, sum.in_metadata > 0, "entries in metadata: the test shows nothing");
    assert!(sum.lost > 0, "no failure found anything unflushed: the test shows nothing");
    assert!(sum.torn > 0, "nothing was torn: the test shows nothing");
}

#[test]
fn what_was_acknowledged_survives_on_blocks_of_4096_bytes() {
    survives_many("");
}

#[test]
fn what_was_acknowledged_survives_on_blocks_of_512_bytes() {
    survives_many("&block=512");
}

#[test]
fn what_was_acknowledged_survives_with_entries_in_metadata() {
    survives_many("&metadata=64");
}

/// So small a cache writes back by itself all the time, in the order in which blocks became dirty.
#[test]
fn what_was_acknowledged_survives_under_a_cache_of_16_blocks() {
    survives_many("&cache_blocks=16");
}
