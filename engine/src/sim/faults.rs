//! The fault plan: what goes wrong, when, and for how long.
//!
//! It keeps within what the design promises to survive and what is built so far: processes and
//! machines may die at any moment, all of them at once too, since what was acknowledged is durable
//! on a majority; networks may fail in every way; devices may be slow; one of them at a time may be
//! damaged (`damage`).

use super::damage::Damage;
use super::device::Crash;
use super::random::Random;
use super::scene::NODES;

/// What kinds of faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Processes and machines die, are stopped, and come back
    Crash,
    /// Messages are late, connections break, networks part
    Network,
    /// Devices go bad while their node is down, or are replaced by empty ones
    Disk,
    /// All of it
    All,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node's process or machine dies, and starts again after a while.
    Crash { node: usize, kind: Crash, down_ns: u64 },
    /// All machines lose their power at once.
    Blackout { down_ns: u64 },
    /// A node dies, and its device is damaged before it starts again.
    Damage { node: usize, damage: Damage, kind: Crash, down_ns: u64 },
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
    /// All connections between two hosts break.
    Cut { one: usize, other: usize },
    /// What one host sends to another takes longer, by a factor.
    SlowLink { from: usize, to: usize, factor: u32, for_ns: u64 },
}

const MS: u64 = 1_000_000;

/// Chooses faults one after the other.
pub struct FaultPlan {
    profile: Profile,
    random: Random,
    /// Hosts: nodes first, then clients.
    hosts: usize,
    /// When the next comes.
    pub next_ns: u64,
}

impl FaultPlan {
    /// A plan for so many hosts, from `now_ns` on.
    pub fn new(profile: Profile, hosts: usize, now_ns: u64, mut random: Random) -> FaultPlan {
        let next_ns = now_ns + random.within(MS..100 * MS);
        FaultPlan { profile, random, hosts, next_ns }
    }

    /// The fault that is due, and the time of the next.
    pub fn take(&mut self, now_ns: u64) -> Fault {
        // Sometimes one upon the other, sometimes after a rest.
        let pause = match self.random.below(4) {
            0 => 2 * MS,
            1 => 20 * MS,
            2 => 150 * MS,
            _ => 1500 * MS,
        };
        self.next_ns = now_ns + self.random.within(MS / 10..pause);
        let kind = match self.profile {
            Profile::Crash => 0,
            Profile::Network => 5,
            Profile::Disk => [0, 9][self.random.below(2) as usize],
            Profile::All => self.random.below(10),
        };
        match kind {
            0..5 => self.of_process(),
            5..9 => self.of_network(),
            _ => self.of_device(),
        }
    }

    /// Mostly short, now and then longer than everybody's patience.
    fn duration(&mut self) -> u64 {
        match self.random.below(4) {
            0 | 1 => self.random.within(MS..60 * MS),
            2 => self.random.within(60 * MS..700 * MS),
            _ => self.random.within(700 * MS..4000 * MS),
        }
    }

    fn of_process(&mut self) -> Fault {
        let node = self.random.below(NODES as u64) as usize;
        let for_ns = self.duration();
        match self.random.below(12) {
            0..4 => Fault::Crash { node, kind: Crash::Kill, down_ns: for_ns },
            4..7 => Fault::Crash { node, kind: Crash::Power, down_ns: for_ns },
            7 => Fault::Blackout { down_ns: for_ns },
            8 => Fault::Jump { node, by_ns: for_ns },
            9 => Fault::SlowDevice { node, factor: 2 << self.random.below(7), for_ns },
            _ => Fault::Pause { node, for_ns },
        }
    }

    fn of_device(&mut self) -> Fault {
        let node = self.random.below(NODES as u64) as usize;
        let damage = Damage::draw(&mut self.random);
        let kind = if self.random.chance(500_000) { Crash::Kill } else { Crash::Power };
        Fault::Damage { node, damage, kind, down_ns: self.duration() }
    }

    fn of_network(&mut self) -> Fault {
        let from = self.random.below(self.hosts as u64) as usize;
        let to = (from + 1 + self.random.below(self.hosts as u64 - 1) as usize) % self.hosts;
        let for_ns = self.duration();
        match self.random.below(8) {
            0 | 1 => Fault::Partition { from, to, for_ns },
            2 | 3 => Fault::Isolate {
                node: from % NODES,
                from_clients: self.random.chance(500_000),
                for_ns,
            },
            4 | 5 => Fault::Cut { one: from, other: to },
            _ => Fault::SlowLink { from, to, factor: 2 << self.random.below(8), for_ns },
        }
    }
}
