//! A follower that is stopped stops nobody, and comes back.

mod rig;

use std::time::{Duration, Instant};

use culvert::ids::OPERATION_BLOCKS_MAX;
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};

/// How long the load runs in each phase.
const PHASE: Duration = Duration::from_millis(1500);

/// Applied entries that the logs keep.
const RETAINED: u32 = 256;

/// Pages that may wait for one peer before its connection is given up.
const UNSENT_PAGES_MAX: u32 = 128;

/// The time that 99 of 100 writes of a phase took at most, and the fewest pages that the leader's
/// pool had free.
fn phase(nodes: &mut Nodes, load: &mut Load, leader: usize) -> (Duration, u32) {
    load.write_times.clear();
    let mut free = u32::MAX;
    let since = Instant::now();
    while since.elapsed() < PHASE {
        nodes.turn();
        load.turn();
        free = free.min(nodes.status(leader).pool_pages_free);
    }
    load.settle(|| nodes.turn());
    load.write_times.sort_unstable();
    let times = &load.write_times;
    assert!(times.len() > 100, "{} writes in {PHASE:?}", times.len());
    (times[times.len() * 99 / 100], free)
}

fn a_stopped_follower_stops_nobody(tcp: bool) {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        copysets: 1,
        tcp,
        adjust: |config| {
            config.transport.unsent_max_pages = UNSENT_PAGES_MAX;
            config.transport.feed_unsent_max_pages = UNSENT_PAGES_MAX - OPERATION_BLOCKS_MAX;
        },
        ..Wishes::new(folder.path(), emulated(folder.path(), "96MiB", ""))
    };
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 16, 1);
    load.write(0, 1);
    load.settle(|| nodes.turn());
    let leader = nodes.leader_of(1).expect("a leader");
    let (quiet, free_before) = phase(&mut nodes, &mut load, leader);

    let stopped = (leader + 1) % 3;
    nodes.paused.push(stopped);
    let (slow, free) = phase(&mut nodes, &mut load, leader);
    // A scheduler's whim counts in milliseconds; a wait for the stopped one in tenths of seconds.
    let bound = quiet * 5 + Duration::from_millis(50);
    assert!(slow < bound, "99 of 100 writes within {quiet:?} before, {slow:?} now");
    let held = free_before.saturating_sub(free);
    println!("p99 {quiet:?}, stopped {slow:?}; {held} pages more in use");
    assert!(held < 2 * UNSENT_PAGES_MAX, "{held} pages pile up for the stopped follower");
    let peers = nodes.status(leader).peers;
    assert!(peers.iter().all(|peer| peer.connected), "entries alone cost no connection");
    assert_eq!(nodes.leader_of(1), Some(leader), "the leader stays");
    load.read_all(|| nodes.turn());

    nodes.paused.clear();
    nodes.run_until("the follower has everything", |nodes| {
        let status = nodes.status(leader);
        let copyset = &status.copysets[0];
        copyset.peers.iter().all(|peer| peer.matched == copyset.last)
            && nodes.status(stopped).copysets[0].applied == copyset.applied
    });
    load.read_all(|| nodes.turn());
    // Its word counts again: without the other follower it is half of the majority.
    let other = (leader + 2) % 3;
    nodes.paused.push(other);
    let (again, _) = phase(&mut nodes, &mut load, leader);
    assert!(again < bound, "99 of 100 writes within {quiet:?} before, {again:?} with the one");
}

#[test]
fn a_stopped_follower_stops_nobody_over_shared_memory() {
    a_stopped_follower_stops_nobody(false);
}

#[test]
fn a_stopped_follower_stops_nobody_over_tcp() {
    a_stopped_follower_stops_nobody(true);
}

/// Away for longer than the logs remember, it gets what it lacks by block difference.
#[test]
fn a_follower_that_was_stopped_for_long_comes_back() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        copysets: 1,
        adjust: |config| config.store.retained_entries = RETAINED,
        ..Wishes::new(folder.path(), emulated(folder.path(), "96MiB", ""))
    };
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 16, 1);
    load.write(0, 1);
    load.settle(|| nodes.turn());
    let leader = nodes.leader_of(1).expect("a leader");
    let stopped = (leader + 1) % 3;
    nodes.paused.push(stopped);
    let before = nodes.status(leader).copysets[0].last;
    while nodes.status(leader).copysets[0].last < before + 8 * u64::from(RETAINED) {
        nodes.turn();
        load.turn();
    }
    load.settle(|| nodes.turn());
    nodes.paused.clear();
    nodes.run_until("the follower has everything", |nodes| {
        let applied = nodes.status(leader).copysets[0].applied;
        nodes.status(stopped).copysets[0].applied == applied
    });
    // What it got is what counts now: the other one is away.
    nodes.paused.push((leader + 2) % 3);
    nodes.kill(leader);
    nodes.open(leader, false);
    load.read_all(|| nodes.turn());
    phase(&mut nodes, &mut load, leader);
    load.read_all(|| nodes.turn());
}
