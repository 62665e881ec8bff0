//! A device that fails takes its replicas out of service, and the others go on.

mod rig;

use std::time::{Duration, Instant};

use culvert::ids::LogIndex;
use culvert_nvme::{ANYWHERE, FaultTarget, Faults, Times};
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};

/// The client's operations after the failure.
const OPERATIONS: u64 = 400;

fn run(nodes: &mut Nodes, load: &mut Load, operations: u64) {
    let goal = load.operations() + operations;
    while load.operations() < goal {
        let busy = nodes.turn();
        if !load.turn() && !busy {
            std::thread::yield_now();
        }
    }
    load.settle(|| nodes.turn());
}

/// The device of the leader fails, or that of a follower, in the way that `fail` says.
fn its_replicas_leave_service(of_leader: bool, fail: fn(&Faults)) {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let devices = emulated(folder.path(), "64MiB", "&cache=volatile");
    let wishes = Wishes { copysets: 1, ..Wishes::new(folder.path(), devices) };
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 16, 1);
    run(&mut nodes, &mut load, 200);

    let leader = nodes.leader_of(1).expect("a leader");
    let victim = if of_leader { leader } else { (leader + 1) % 3 };
    fail(&nodes.device(victim).faults());
    run(&mut nodes, &mut load, OPERATIONS);
    load.read_all(|| nodes.turn());
    is_out_of_service(&mut nodes, victim);
}

fn is_out_of_service(nodes: &mut Nodes, victim: usize) {
    let status = nodes.status(victim);
    let failure = &status.shards[0].failure;
    assert!(!failure.is_empty(), "the shard says that it failed");
    let replica = &status.copysets[0];
    assert_eq!(replica.role, "out of service");
    assert_eq!(&replica.reason, failure, "the replica says why");
    for (_, group) in nodes.node(victim).reactor().chunkserver().groups() {
        let log = group.log();
        let held = (log.base().0.0 + 1..=log.last().0)
            .filter(|index| log.get(LogIndex(*index)).is_some_and(|entry| entry.payload.is_some()));
        assert_eq!(held.count(), 0, "pages of windows that never come back");
    }
    let commands = ["write", "flush", "read"];
    assert!(commands.iter().any(|command| failure.contains(command)), "{failure}");
    for other in (0..3).filter(|other| *other != victim) {
        let status = nodes.status(other);
        assert_eq!(status.shards[0].failure, "", "the others are well");
        assert_ne!(status.copysets[0].role, "out of service");
    }
    let leader = nodes.leader_of(1).expect("a leader");
    assert_ne!(leader, victim, "a replica without device does not lead");
}

fn writes_fail(faults: &Faults) {
    faults.fail(FaultTarget::Writes, ANYWHERE, Times::Always);
}

fn one_write_fails(faults: &Faults) {
    faults.fail(FaultTarget::Writes, ANYWHERE, Times::Next(1));
}

fn one_flush_fails(faults: &Faults) {
    faults.fail(FaultTarget::Flushes, ANYWHERE, Times::Next(1));
}

fn it_goes_away(faults: &Faults) {
    faults.remove_device();
}

#[test]
fn a_leader_whose_device_writes_no_more() {
    its_replicas_leave_service(true, writes_fail);
}

#[test]
fn a_follower_whose_device_writes_no_more() {
    its_replicas_leave_service(false, writes_fail);
}

#[test]
fn a_leader_whose_device_failed_one_write() {
    its_replicas_leave_service(true, one_write_fails);
}

#[test]
fn a_follower_whose_device_failed_one_flush() {
    its_replicas_leave_service(false, one_flush_fails);
}

#[test]
fn a_leader_whose_device_failed_one_flush() {
    its_replicas_leave_service(true, one_flush_fails);
}

#[test]
fn a_leader_whose_device_goes_away() {
    its_replicas_leave_service(true, it_goes_away);
}

#[test]
fn a_follower_whose_device_goes_away() {
    its_replicas_leave_service(false, it_goes_away);
}

/// Nothing is written any more, so that only a read can find out.
#[test]
fn a_leader_whose_device_goes_away_under_reads() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes =
        Wishes { copysets: 1, ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", "")) };
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 16, 1);
    run(&mut nodes, &mut load, 200);
    let leader = nodes.leader_of(1).expect("a leader");
    let (mut commands, mut since) = (0, Instant::now());
    nodes.run_until("the last mark of the journal is written", |nodes| {
        let now = nodes.status(leader).drivers.commands;
        if std::mem::replace(&mut commands, now) != now {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_millis(100)
    });
    nodes.device(leader).faults().remove_device();
    load.read_all(|| nodes.turn());
    is_out_of_service(&mut nodes, leader);
    let failure = nodes.status(leader).shards[0].failure.clone();
    assert!(failure.starts_with("a read failed"), "{failure}");
}
