//! The fault plan: what goes wrong, when, and for how long.
//!
//! It keeps within what the design promises to survive and what is built so far: processes and
//! machines may die at any moment, all of them at once too, since what was acknowledged is durable
//! on a majority; networks may fail in every way; devices may be slow or fail; one of them at a time
//! may be damaged, while its node is down (`damage`) or runs (`wound`).
//!
//! Faults come one by one, or as a *plot*: several of them, each aimed at who leads or follows,
//! at the moments at which they hurt most (`plots`).

use std::collections::BTreeMap;

use super::damage::Damage;
use super::device::Crash;
use super::plots::{self, Cast};
use super::random::Random;
use super::scene::NODES;
use super::wound::{BadWrite, Failing};

/// What kinds of faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Processes and machines die, are stopped, and come back
    Crash,
    /// Messages are late, connections break, networks part
    Network,
    /// Devices fail, go bad, lie, or are replaced by empty ones
    Disk,
    /// All of it
    All,
}

impl Profile {
    /// Whether processes and machines fail.
    pub fn has_crashes(self) -> bool {
        self != Profile::Network
    }

    /// Whether devices are damaged.
    pub fn has_damage(self) -> bool {
        matches!(self, Profile::Disk | Profile::All)
    }

    /// Whether networks fail.
    pub fn has_network(self) -> bool {
        matches!(self, Profile::Network | Profile::All)
    }
}

/// Which way between two groups of hosts nothing passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    Both,
    /// From the first group to the second.
    Out,
    /// From the second to the first.
    In,
}

/// What happens when a copyset gets another leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The new leader dies.
    KillLeader { kind: Crash, down_ns: u64 },
    /// The follower that is not `old` dies, the new leader is alone, and all others meet again.
    Usurp { old: usize, kind: Crash, down_ns: u64, for_ns: u64 },
}

/// One thing that goes wrong. Sets of hosts are masks: bit 0 is node 0; clients follow the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node's process or machine dies, and starts again after a while.
    Crash { node: usize, kind: Crash, down_ns: u64 },
    /// All machines lose their power at once.
    Blackout { down_ns: u64 },
    /// A node dies, and its device is damaged before it starts again.
    Damage { node: usize, damage: Damage, kind: Crash, down_ns: u64 },
    /// Stored blocks go bad while the node runs, or while it is down for a while.
    Rot { node: usize, blocks: u32, crash: Option<(Crash, u64)> },
    /// A write goes wrong, and is reported as done.
    BadWrite { node: usize, how: BadWrite },
    /// Reads find other data now and then.
    BadReads { node: usize, for_ns: u64 },
    /// A device fails; its node is restarted with a good one that holds the same.
    FailDevice { node: usize, how: Failing, for_ns: u64, down_ns: u64 },
    /// A node's process is stopped for a while.
    Pause { node: usize, for_ns: u64 },
    /// A node's clock is set forward.
    Jump { node: usize, by_ns: u64 },
    /// A node's device takes longer, by a factor.
    SlowDevice { node: usize, factor: u32, for_ns: u64 },
    /// Nothing that one host sends arrives at another.
    Partition { from: usize, to: usize, for_ns: u64 },
    /// A node hears and reaches nobody, or no other node although clients reach it.
    Isolate { node: usize, from_clients: bool, for_ns: u64 },
    /// Nothing passes between two sets of hosts; with `cut`, their connections break at once.
    Split { one: u32, other: u32, ways: Ways, cut: bool, for_ns: u64 },
    /// All connections between two hosts break.
    Cut { one: usize, other: usize },
    /// What one host sends to another takes longer, by a factor.
    SlowLink { from: usize, to: usize, factor: u32, for_ns: u64 },
    /// Leadership of a copyset is handed to a node.
    Transfer { copyset: u32, to: usize },
    /// Some clients only read for a while.
    Hush { hosts: u32, for_ns: u64 },
    /// Clients write as fast as they can for a while.
    Storm { for_ns: u64 },
    /// Something happens as soon as a copyset has another leader.
    Trap { copyset: u32, deed: Deed, for_ns: u64 },
    /// A machine loses its power as soon as its checkpoint has ended.
    TrapCheckpoint { node: usize, after_ns: u64, down_ns: u64 },
}

const MS: u64 = 1_000_000;

/// A fault, its number in the plan, and for how long clients are busy with it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Counted from 0; `culvert sim --without` leaves some out.
    pub number: u64,
    pub fault: Fault,
    pub busy_ns: u64,
}

/// Chooses faults one after the other.
pub struct FaultPlan {
    profile: Profile,
    random: Random,
    /// Hosts: nodes first, then clients.
    hosts: usize,
    /// What a plot has yet to do.
    script: BTreeMap<(u64, u64), Fault>,
    busy_until_ns: u64,
    taken: u64,
    /// When something of its own choice comes.
    choice_ns: u64,
    /// The longest rest, as this seed likes it.
    rest_ns: u64,
}

impl FaultPlan {
    /// A plan for so many hosts, from `now_ns` on.
    pub fn new(profile: Profile, hosts: usize, now_ns: u64, mut random: Random) -> FaultPlan {
        let choice_ns = now_ns + random.within(MS..100 * MS);
        let rest_ns = [500 * MS, 1500 * MS, 4000 * MS][random.below(3) as usize];
        FaultPlan {
            profile,
            random,
            hosts,
            script: BTreeMap::new(),
            busy_until_ns: 0,
            taken: 0,
            choice_ns,
            rest_ns,
        }
    }

    /// When the next comes.
    pub fn next_ns(&self) -> u64 {
        let script = self.script.keys().next().map_or(u64::MAX, |(at, _)| *at);
        script.min(self.choice_ns)
    }

    /// The fault that is due. `cast` says who leads.
    pub fn take(&mut self, now_ns: u64, cast: impl FnOnce() -> Cast) -> Step {
        let due = self.script.first_key_value().is_some_and(|((at, _), _)| *at <= now_ns);
        if !due {
            self.choose(now_ns, cast);
        }
        let (_, fault) = self.script.pop_first().expect("something was chosen");
        let number = self.taken;
        self.taken += 1;
        Step { number, fault, busy_ns: self.busy_until_ns.saturating_sub(now_ns) }
    }

    /// Chooses what comes next, and when the choice after that is made.
    fn choose(&mut self, now_ns: u64, cast: impl FnOnce() -> Cast) {
        let plot = self.random.chance(350_000);
        let cast = plot.then(cast).filter(|cast| cast.leader.is_some());
        let mut end_ns = now_ns;
        if let Some(cast) = cast {
            let plot = plots::compose(self.profile, &cast, &mut self.random);
            for (number, (after_ns, fault)) in plot.steps.into_iter().enumerate() {
                self.script.insert((now_ns + after_ns, number as u64), fault);
            }
            end_ns += plot.length_ns;
            self.busy_until_ns = self.busy_until_ns.max(end_ns);
        } else {
            let kind = match self.profile {
                Profile::Crash => 0,
                Profile::Network => 5,
                Profile::Disk => [0, 9][self.random.below(2) as usize],
                Profile::All => self.random.below(11),
            };
            let fault = match kind {
                0..5 => self.of_process(),
                5..9 => self.of_network(),
                _ => {
                    let node = self.random.below(NODES as u64) as usize;
                    of_device(node, &mut self.random)
                }
            };
            self.script.insert((now_ns, 0), fault);
            let busy_ns = self.random.within(10 * MS..400 * MS);
            self.busy_until_ns = self.busy_until_ns.max(now_ns + busy_ns);
        }
        // Sometimes one upon the other, sometimes after a rest.
        let pause = match self.random.below(4) {
            0 => 2 * MS,
            1 => 20 * MS,
            2 => 200 * MS,
            _ => self.rest_ns,
        };
        self.choice_ns = end_ns + self.random.within(MS / 10..pause);
    }

    fn of_process(&mut self) -> Fault {
        let node = self.random.below(NODES as u64) as usize;
        let for_ns = duration(&mut self.random);
        match self.random.below(14) {
            0..4 => Fault::Crash { node, kind: Crash::Kill, down_ns: for_ns },
            4..7 => Fault::Crash { node, kind: Crash::Power, down_ns: for_ns },
            7 => Fault::Blackout { down_ns: for_ns },
            8 => Fault::Jump { node, by_ns: for_ns },
            9 => Fault::SlowDevice { node, factor: 2 << self.random.below(7), for_ns },
            10 => Fault::Transfer { copyset: 1 + self.random.below(3) as u32, to: node },
            11 => Fault::Storm { for_ns: self.random.within(5 * MS..60 * MS) },
            _ => Fault::Pause { node, for_ns },
        }
    }

    fn of_network(&mut self) -> Fault {
        let from = self.random.below(self.hosts as u64) as usize;
        let to = (from + 1 + self.random.below(self.hosts as u64 - 1) as usize) % self.hosts;
        let for_ns = duration(&mut self.random);
        match self.random.below(9) {
            0 | 1 => Fault::Partition { from, to, for_ns },
            2 | 3 => Fault::Isolate {
                node: from % NODES,
                from_clients: self.random.chance(500_000),
                for_ns,
            },
            4 | 5 => Fault::Cut { one: from, other: to },
            6 => Fault::Transfer { copyset: 1 + self.random.below(3) as u32, to: from % NODES },
            _ => Fault::SlowLink { from, to, factor: 2 << self.random.below(8), for_ns },
        }
    }
}

/// Something that goes wrong with a node's device.
pub fn of_device(node: usize, random: &mut Random) -> Fault {
    let kind = if random.chance(500_000) { Crash::Kill } else { Crash::Power };
    let for_ns = duration(random);
    match random.below(10) {
        0..3 => Fault::Damage { node, damage: Damage::draw(random), kind, down_ns: for_ns },
        3..5 => {
            let crash = random.chance(500_000).then_some((kind, for_ns));
            Fault::Rot { node, blocks: 1 << random.below(6), crash }
        }
        5..7 => {
            let how = [BadWrite::Lost, BadWrite::Misdirected, BadWrite::Flipped];
            Fault::BadWrite { node, how: how[random.below(3) as usize] }
        }
        7 => Fault::BadReads { node, for_ns },
        _ => {
            let how = [Failing::Write, Failing::Flush, Failing::Gone];
            let how = how[random.below(3) as usize];
            Fault::FailDevice { node, how, for_ns, down_ns: duration(random) }
        }
    }
}

/// Mostly short, now and then longer than everybody's patience.
fn duration(random: &mut Random) -> u64 {
    match random.below(4) {
        0 | 1 => random.within(MS..60 * MS),
        2 => random.within(60 * MS..700 * MS),
        _ => random.within(700 * MS..4000 * MS),
    }
}
