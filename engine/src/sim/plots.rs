//! Plots: faults that belong together, aimed at who leads and who follows, at moments at which a
//! wrong promise would show.
//!
//! Each is a situation that a bug of such systems needs: a leader that does not know that it was
//! deposed while clients still reach it, a voter that dies between two candidates, a follower that
//! misses more than the log holds. None knows of any bug; durations and sides are left to chance.

use super::device::Crash;
use super::faults::{Deed, Fault, Profile, Ways, of_device};
use super::random::Random;
use super::scene::NODES;
use super::wound::BadWrite;

const MS: u64 = 1_000_000;

/// Who plays which part.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// The copyset that the plot is about.
    pub copyset: u32,
    /// The node that leads it.
    pub leader: Option<usize>,
    /// Clients, by hosts.
    pub clients: usize,
}

/// Faults by the time after which each comes, and how long all of it lasts.
pub struct Plot {
    pub steps: Vec<(u64, Fault)>,
    pub length_ns: u64,
}

/// The parts, given names.
struct Parts<'a> {
    copyset: u32,
    leader: usize,
    /// The followers, in any order.
    one: usize,
    other: usize,
    /// Clients on the leader's side, and all others, as masks of hosts.
    near: u32,
    far: u32,
    random: &'a mut Random,
}

type Scene = fn(&mut Parts<'_>) -> Plot;

/// Plots of processes alone, of networks alone, of devices, and of processes and networks.
const PROCESSES: [Scene; 6] = [
    dies_when_elected,
    crash_loop,
    dark_after_storm,
    dark_after_checkpoint,
    left_behind,
    blackouts,
];
const NETWORKS: [Scene; 6] =
    [two_sides, late_answers, late_answers, late_transfer, late_transfer, missed_writes];
const DEVICES: [Scene; 2] = [bad_tail, harmed_heir];
const BOTH: [Scene; 5] = [sleeper, forgotten_promise, forgotten_promise, usurper, slow_heir];

/// Composes a plot of the profile.
pub fn compose(profile: Profile, cast: &Cast, random: &mut Random) -> Plot {
    let mut scenes: Vec<Scene> = Vec::new();
    if profile.has_crashes() {
        scenes.extend(PROCESSES);
    }
    if profile.has_network() {
        scenes.extend(NETWORKS);
    }
    if profile.has_crashes() && profile.has_network() {
        scenes.extend(BOTH);
    }
    if profile.has_damage() {
        scenes.extend(DEVICES);
    }
    let scene = scenes[random.below(scenes.len() as u64) as usize];
    scene(&mut Parts::new(cast, random))
}

fn bit(host: usize) -> u32 {
    1 << host
}

impl Parts<'_> {
    fn new<'a>(cast: &Cast, random: &'a mut Random) -> Parts<'a> {
        let leader = cast.leader.expect("somebody leads");
        let turn = 1 + random.below(2) as usize;
        let (one, other) = ((leader + turn) % NODES, (leader + 3 - turn) % NODES);
        // Never all clients on one side.
        let all = (1 << cast.clients) - 1;
        let near = 1 + random.below(all - 1);
        let (near, far) = ((near as u32) << NODES, ((all & !near) as u32) << NODES);
        Parts { copyset: cast.copyset, leader, one, other, near, far, random }
    }

    fn ms(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random.within(range.start * MS..range.end * MS)
    }

    fn kind(&mut self) -> Crash {
        if self.random.chance(500_000) { Crash::Kill } else { Crash::Power }
    }

    fn leader_side(&self) -> u32 {
        bit(self.leader) | self.near
    }

    fn other_side(&self) -> u32 {
        bit(self.one) | bit(self.other) | self.far
    }

    /// The leader and some clients on one side, all others on the other.
    fn split(&mut self, for_ns: u64) -> Fault {
        let (one, other) = (self.leader_side(), self.other_side());
        Fault::Split { one, other, ways: Ways::Both, cut: self.random.chance(700_000), for_ns }
    }

    fn crash(&mut self, node: usize, down_ns: u64) -> Fault {
        Fault::Crash { node, kind: self.kind(), down_ns }
    }
}

/// Two sides, each with clients of its own; those of the deposed leader read.
fn two_sides(parts: &mut Parts<'_>) -> Plot {
    let for_ns = parts.ms(250..1300);
    let mut steps = vec![(0, parts.split(for_ns))];
    steps.push((0, Fault::Hush { hosts: parts.near, for_ns }));
    if parts.random.chance(300_000) {
        let node = parts.random.below(NODES as u64) as usize;
        steps.push((parts.ms(0..200), Fault::Jump { node, by_ns: parts.ms(10..300) }));
    }
    Plot { steps, length_ns: for_ns + 50 * MS }
}

/// A leader is stopped, and goes on reading its old mail when others have elected a new one.
fn sleeper(parts: &mut Parts<'_>) -> Plot {
    let lead_ns = parts.ms(1..60);
    let sleep_ns = parts.ms(280..900);
    let awake_ns = parts.ms(50..400);
    let mut steps = Vec::new();
    for follower in [parts.one, parts.other] {
        let factor = 1 << parts.random.below(9);
        let for_ns = lead_ns + sleep_ns;
        steps.push((0, Fault::SlowLink { from: follower, to: parts.leader, factor, for_ns }));
    }
    steps.push((lead_ns, Fault::Pause { node: parts.leader, for_ns: sleep_ns }));
    let split_ns = lead_ns + parts.ms(1..40);
    let for_ns = lead_ns + sleep_ns + awake_ns - split_ns;
    steps.push((split_ns, parts.split(for_ns)));
    steps.push((split_ns, Fault::Hush { hosts: parts.near, for_ns }));
    Plot { steps, length_ns: split_ns + for_ns }
}

/// Answers to the leader take longer than an election, and then nobody hears it any more.
fn late_answers(parts: &mut Parts<'_>) -> Plot {
    let lead_ns = parts.ms(150..600);
    let silent_ns = parts.ms(300..1000);
    let length_ns = lead_ns + silent_ns;
    let mut steps = Vec::new();
    for follower in [parts.one, parts.other] {
        let factor = parts.random.within(700..2500) as u32;
        let (from, to) = (follower, parts.leader);
        steps.push((0, Fault::SlowLink { from, to, factor, for_ns: length_ns }));
    }
    let followers = bit(parts.one) | bit(parts.other);
    steps.push((
        lead_ns,
        Fault::Split {
            one: bit(parts.leader),
            other: followers,
            ways: Ways::Out,
            cut: false,
            for_ns: silent_ns,
        },
    ));
    steps.push((
        lead_ns,
        Fault::Split {
            one: bit(parts.leader),
            other: parts.far,
            ways: Ways::Both,
            cut: true,
            for_ns: silent_ns,
        },
    ));
    steps.push((lead_ns, Fault::Hush { hosts: parts.near, for_ns: silent_ns }));
    Plot { steps, length_ns }
}

/// A follower that has promised its vote dies and is back at once, while the other, which has not
/// heard of the leader for long, asks for it.
fn forgotten_promise(parts: &mut Parts<'_>) -> Plot {
    let lead_ns = parts.ms(240..900);
    let after_ns = parts.ms(100..700);
    let length_ns = lead_ns + after_ns;
    let down_ns = parts.ms(1..60);
    let steps = vec![
        (0, Fault::Hush { hosts: parts.near | parts.far, for_ns: lead_ns }),
        (
            0,
            Fault::Split {
                one: bit(parts.leader),
                other: bit(parts.one),
                ways: Ways::Both,
                cut: parts.random.chance(300_000),
                for_ns: length_ns,
            },
        ),
        (lead_ns, parts.crash(parts.other, down_ns)),
        (
            lead_ns,
            Fault::Split {
                one: parts.leader_side(),
                other: parts.other_side(),
                ways: Ways::Both,
                cut: true,
                for_ns: after_ns,
            },
        ),
        (lead_ns, Fault::Hush { hosts: parts.near, for_ns: after_ns }),
    ];
    Plot { steps, length_ns }
}

/// A leader is cut off until there is another; then the voter dies for a moment, the new leader is
/// alone, and the old one asks for the vote again.
fn usurper(parts: &mut Parts<'_>) -> Plot {
    let for_ns = parts.ms(700..1400);
    let deed = Deed::Usurp {
        old: parts.leader,
        kind: parts.kind(),
        down_ns: parts.random.within(MS / 2..20 * MS),
        for_ns,
    };
    let trap = Fault::Trap { copyset: parts.copyset, deed, for_ns: 1500 * MS };
    let followers = bit(parts.one) | bit(parts.other);
    let split = Fault::Split {
        one: bit(parts.leader),
        other: followers,
        ways: Ways::Both,
        cut: false,
        for_ns: 1500 * MS,
    };
    Plot { steps: vec![(0, trap), (0, split)], length_ns: 1000 * MS + for_ns }
}

/// The order to take over arrives when it was given up long ago. Nobody writes before it is sent, so
/// that the heir has everything and it is sent at once.
fn late_transfer(parts: &mut Parts<'_>) -> Plot {
    let (leader, heir) = (parts.leader, parts.one);
    let lead_ns = parts.ms(40..150);
    let wait_ns = parts.ms(220..360);
    let after_ns = parts.ms(150..400);
    let length_ns = lead_ns + wait_ns + after_ns;
    let factor = parts.random.within(1800..2600) as u32;
    let (followers, far) = (bit(parts.one) | bit(parts.other), parts.far);
    let from_ns = lead_ns + wait_ns;
    let split =
        |other, ways, cut| Fault::Split { one: bit(leader), other, ways, cut, for_ns: after_ns };
    let (near, copyset) = (parts.near, parts.copyset);
    let slow_ns = length_ns - lead_ns;
    let steps = vec![
        (0, Fault::Hush { hosts: near | far, for_ns: lead_ns + MS }),
        (lead_ns, Fault::SlowLink { from: leader, to: heir, factor, for_ns: slow_ns }),
        (lead_ns, Fault::Transfer { copyset, to: heir }),
        (from_ns, split(followers, Ways::In, false)),
        (from_ns, split(far, Ways::Both, true)),
        (from_ns, Fault::Hush { hosts: near, for_ns: after_ns }),
    ];
    Plot { steps, length_ns }
}

/// The leader dies while the others hardly reach each other: whoever follows it is long in doubt
/// about what was committed.
fn slow_heir(parts: &mut Parts<'_>) -> Plot {
    let lead_ns = parts.ms(5..60);
    let length_ns = lead_ns + parts.ms(800..2000);
    let mut steps = vec![(0, Fault::Storm { for_ns: lead_ns })];
    for (from, to) in [(parts.one, parts.other), (parts.other, parts.one)] {
        let factor = parts.random.within(200..900) as u32;
        steps.push((lead_ns, Fault::SlowLink { from, to, factor, for_ns: length_ns - lead_ns }));
    }
    steps.push((lead_ns, parts.crash(parts.leader, length_ns - lead_ns)));
    let hosts = parts.near | parts.far;
    steps.push((lead_ns, Fault::Hush { hosts, for_ns: length_ns - lead_ns }));
    Plot { steps, length_ns }
}

/// Who was just elected dies.
fn dies_when_elected(parts: &mut Parts<'_>) -> Plot {
    let deed = Deed::KillLeader { kind: parts.kind(), down_ns: parts.ms(1..300) };
    let trap = Fault::Trap { copyset: parts.copyset, deed, for_ns: 1000 * MS };
    let down_ns = parts.ms(100..1000);
    Plot { steps: vec![(0, trap), (0, parts.crash(parts.leader, down_ns))], length_ns: 700 * MS }
}

/// A node dies again and again, soon after it was started.
fn crash_loop(parts: &mut Parts<'_>) -> Plot {
    let nodes = [parts.leader, parts.one, parts.other];
    let node = nodes[parts.random.below(3) as usize];
    let mut at_ns = 0;
    let mut steps = Vec::new();
    for _ in 0..2 + parts.random.below(5) {
        let down_ns = parts.random.within(MS..10 * MS);
        steps.push((at_ns, parts.crash(node, down_ns)));
        at_ns += down_ns + parts.random.within(MS / 10..30 * MS);
    }
    Plot { steps, length_ns: at_ns + 20 * MS }
}

/// Clients write as fast as they can, and somebody's power fails; again and again.
fn dark_after_storm(parts: &mut Parts<'_>) -> Plot {
    let mut at_ns = 0;
    let mut steps = Vec::new();
    for _ in 0..1 + parts.random.below(4) {
        let for_ns = parts.ms(8..40);
        steps.push((at_ns, Fault::Storm { for_ns: for_ns + 5 * MS }));
        at_ns += for_ns;
        let node = parts.random.below(NODES as u64) as usize;
        let down_ns = parts.ms(1..20);
        let fault = match parts.random.below(4) {
            0 => Fault::Blackout { down_ns },
            _ => parts.crash(node, down_ns),
        };
        steps.push((at_ns, fault));
        at_ns += down_ns + parts.ms(5..60);
    }
    Plot { steps, length_ns: at_ns }
}

/// Power fails right after a checkpoint.
fn dark_after_checkpoint(parts: &mut Parts<'_>) -> Plot {
    let nodes = [parts.leader, parts.one, parts.other];
    let mut steps = vec![(0, Fault::Storm { for_ns: parts.ms(20..80) })];
    for node in nodes {
        let (after_ns, down_ns) = (parts.random.below(2 * MS), parts.ms(1..100));
        steps.push((0, Fault::TrapCheckpoint { node, after_ns, down_ns }));
    }
    Plot { steps, length_ns: 200 * MS }
}

/// A follower is down while so much is written that the log forgets what it misses.
fn left_behind(parts: &mut Parts<'_>) -> Plot {
    let down_ns = parts.ms(150..500);
    let mut steps = vec![(0, parts.crash(parts.one, down_ns))];
    steps.push((0, Fault::Storm { for_ns: parts.ms(50..150) }));
    if parts.random.chance(500_000) {
        // ... and somebody dies while it catches up.
        let node = if parts.random.chance(500_000) { parts.leader } else { parts.one };
        let soon_ns = down_ns + parts.random.within(MS..40 * MS);
        let down_ns = parts.ms(1..50);
        steps.push((soon_ns, parts.crash(node, down_ns)));
    }
    Plot { steps, length_ns: down_ns + 100 * MS }
}

/// The same, but the follower is only not reached.
fn missed_writes(parts: &mut Parts<'_>) -> Plot {
    let for_ns = parts.ms(150..600);
    let isolate = Fault::Isolate { node: parts.one, from_clients: false, for_ns };
    let storm = Fault::Storm { for_ns: parts.ms(50..150) };
    Plot { steps: vec![(0, isolate), (0, storm)], length_ns: for_ns + 100 * MS }
}

/// A leader that is left alone writes what goes bad on its device, dies, and may lead again with
/// entries that nobody else has and that it cannot read.
fn bad_tail(parts: &mut Parts<'_>) -> Plot {
    let alone_ns = parts.ms(1..5);
    let again_ns = alone_ns + parts.ms(50..150);
    let down_ns = parts.ms(1..10);
    let others_ns = again_ns - alone_ns + parts.ms(1..60);
    let how = [BadWrite::Lost, BadWrite::Flipped][parts.random.below(2) as usize];
    let mut steps = vec![(0, Fault::Storm { for_ns: again_ns })];
    steps.push((alone_ns, parts.crash(parts.one, others_ns)));
    steps.push((alone_ns, parts.crash(parts.other, others_ns)));
    let strike_ns = alone_ns + parts.random.within(MS / 2..5 * MS);
    steps.push((strike_ns, Fault::BadWrite { node: parts.leader, how }));
    steps.push((again_ns, parts.crash(parts.leader, down_ns)));
    Plot { steps, length_ns: again_ns + 300 * MS }
}

/// A follower misses more than the log holds, and devices fail and lie while it catches up.
fn harmed_heir(parts: &mut Parts<'_>) -> Plot {
    let down_ns = parts.ms(150..500);
    let storm = Fault::Storm { for_ns: parts.ms(50..150) };
    let mut steps = vec![(0, parts.crash(parts.one, down_ns)), (0, storm)];
    let harmed = if parts.random.chance(500_000) { parts.leader } else { parts.one };
    for _ in 0..4 {
        let at_ns = down_ns + parts.ms(1..120);
        steps.push((at_ns, of_device(harmed, parts.random)));
    }
    Plot { steps, length_ns: down_ns + 200 * MS }
}

/// All power fails twice.
fn blackouts(parts: &mut Parts<'_>) -> Plot {
    let storm_ns = parts.ms(1..20);
    let down_ns = parts.ms(1..30);
    let again_ns = storm_ns + down_ns + parts.ms(1..400);
    let steps = vec![
        (0, Fault::Storm { for_ns: storm_ns + MS }),
        (storm_ns, Fault::Blackout { down_ns }),
        (again_ns, Fault::Blackout { down_ns }),
    ];
    Plot { steps, length_ns: again_ns + 200 * MS }
}
