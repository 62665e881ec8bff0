//! A device that fails takes its replicas out of service, and the others go on.

mod rig;

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

    let status = nodes.status(victim);
    let failure = &status.shards[0].failure;
    assert!(!failure.is_empty(), "the shard says that it failed");
    let replica = &status.copysets[0];
    assert_eq!(replica.role, "out of service");
    assert_eq!(&replica.reason, failure, "the replica says why");
    println!("{failure}");
    assert!(failure.contains("write") || failure.contains("flush"), "{failure}");
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
