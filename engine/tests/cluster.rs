//! Three nodes and a client in one thread, over the production drivers.

mod rig;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use culvert::client::{ClientOptions, Transports};
use culvert::stages::{StageFigures, StageStatus};

use rig::local::Rig;

fn reads_what_was_written(tcp: bool) {
    let mut rig = Rig::new(tcp, 1, |_| {});
    rig.write(7, 1);
    rig.read(7, 1);
    // Never written: zeroes.
    rig.read(100, 4);
    rig.write(200, 256);
    rig.read(200, 256);
}

#[test]
fn reads_what_was_written_over_shared_memory() {
    reads_what_was_written(false);
}

#[test]
fn reads_what_was_written_over_tcp() {
    reads_what_was_written(true);
}

/// Many writes at once while the leader dies, comes back and dies again. None may fail, because a
/// majority lives, and none may be lost.
fn survives_the_death_of_leaders(tcp: bool) {
    let mut rig = Rig::new(tcp, 1, |_| {});
    for round in 0..4 {
        for block in 0..100 {
            rig.submit_write(block * 7, 1);
        }
        if round > 0 {
            let leader = rig.leader_of(1 + round % 3).expect("somebody leads");
            rig.local.kill(leader);
            rig.finish();
            rig.local.open(leader, false).expect("it comes back");
        } else {
            rig.finish();
        }
        rig.read_all();
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
        let mut rig = Rig::new(false, 1, |_| {});
        rig.write(0, 256);
        let copysets = 3;
        let options = ClientOptions { transports: Transports::Shm, ..ClientOptions::default() };
        rig.change_client(options);
        for block in (0..200).step_by(8) {
            if only_reads || block % 16 == 0 {
                rig.submit_read(block, 8);
            } else {
                rig.submit_write(block, 8);
            }
        }
        rig.finish();
        let statistics = rig.client.statistics();
        assert!(statistics.retries <= 2 * copysets, "{statistics:?}");
    }
}

/// Sockets that were not there at first: the client falls back to TCP, and returns under load.
#[test]
fn a_client_returns_to_shared_memory() {
    let mut rig = Rig::new(true, 1, |_| {});
    rig.change_client(ClientOptions::default());
    let folder = rig.folder.path().to_owned();
    let socket = |n: u32| folder.join(format!("node-{n}.sock"));
    let aside = |n: u32| folder.join(format!("node-{n}.aside"));
    (0..3).for_each(|n| std::fs::rename(socket(n), aside(n)).expect("it listens there"));
    rig.write(0, 256);
    let before = *rig.client.statistics();
    assert_eq!(before.returns, 0);
    assert!(before.connects_failed >= before.connects, "shared memory comes first: {before:?}");
    (0..3).for_each(|n| std::fs::rename(aside(n), socket(n)).expect("a folder of ours"));
    let since = Instant::now();
    while rig.client.statistics().returns < before.connects {
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", rig.client.statistics());
        rig.write(0, 64);
        rig.read(5, 1);
    }
    rig.write(0, 256);
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
    let mut rig = Rig::new(tcp, 1, |_| {});
    for block in 0..OPERATIONS {
        rig.submit_write(block, 1);
    }
    rig.finish();
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
