//! A follower that is stopped stops nobody, and comes back.

mod rig;

use std::time::{Duration, Instant};

use culvert::ids::OPERATION_BLOCKS_MAX;
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};

/// A phase is this many windows of so long; its figure is the median of theirs, so that a whim of
/// the machine's scheduler counts in one of them.
const WINDOWS: usize = 7;
const WINDOW: Duration = Duration::from_millis(250);

/// Applied entries that the logs keep.
const RETAINED: u32 = 256;

/// Pages that may wait for one peer before its connection is given up.
const UNSENT_PAGES_MAX: u32 = 128;

/// What a phase was like, over its windows.
#[derive(Debug)]
struct Phase {
    /// The time that 99 of 100 writes took at most.
    p99: Duration,
    /// Writes of the best window.
    writes: usize,
    /// The fewest pages that the leader's pool had free.
    free: u32,
}

impl Phase {
    fn measure(nodes: &mut Nodes, load: &mut Load, leader: usize) -> Phase {
        let mut free = u32::MAX;
        let (mut p99s, mut counts) = (Vec::new(), Vec::new());
        for _ in 0..WINDOWS {
            load.write_times.clear();
            let since = Instant::now();
            while since.elapsed() < WINDOW {
                nodes.turn();
                load.turn();
                free = free.min(nodes.status(leader).pool_pages_free);
            }
            // Those that are still on their way belong to the window as well.
            load.settle(|| nodes.turn());
            let times = &mut load.write_times;
            times.sort_unstable();
            assert!(times.len() > 20, "{} writes in {WINDOW:?}", times.len());
            p99s.push(times[times.len() * 99 / 100]);
            counts.push(times.len());
        }
        p99s.sort_unstable();
        counts.sort_unstable();
        Phase { p99: p99s[WINDOWS / 2], writes: counts[WINDOWS - 1], free }
    }

    /// Asserts that writes went on as in `quiet`: 99 of 100 took at most three times as long, and
    /// there were a third as many at least. Whoever waits for a stopped follower waits for a timer,
    /// and those run in ticks: what takes less than one is the machine's noise.
    fn assert_like(&self, quiet: &Phase, tick: Duration, what: &str) {
        let bound = (quiet.p99 * 3).max(tick);
        assert!(self.p99 <= bound, "{what}: {self:?}, quiet: {quiet:?}");
        assert!(self.writes >= quiet.writes / 3, "{what}: {self:?}, quiet: {quiet:?}");
    }
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
    let tick = Duration::from_millis(nodes.plan.configs[leader].raft.tick_ms.into());
    let quiet = Phase::measure(&mut nodes, &mut load, leader);

    let stopped = (leader + 1) % 3;
    nodes.paused.push(stopped);
    let without = Phase::measure(&mut nodes, &mut load, leader);
    println!("quiet {quiet:?}, one stopped {without:?}");
    without.assert_like(&quiet, tick, "one stopped");
    let held = quiet.free.saturating_sub(without.free);
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
    let again = Phase::measure(&mut nodes, &mut load, leader);
    again.assert_like(&quiet, tick, "the other one stopped");
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
    Phase::measure(&mut nodes, &mut load, leader);
    load.read_all(|| nodes.turn());
}
