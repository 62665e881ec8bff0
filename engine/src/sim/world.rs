//! The world of one seed: hosts, disks, clocks and wires, and time that moves from one event to the
//! next.

use std::collections::BTreeMap;

use culvert::chunkserver::{AbsentReplicas, CopysetStatus, rebuild};
use culvert::cluster::Cluster;
use culvert::config::NodeConfig;
use culvert::device::{FormatOptions, format};
use culvert::node::NodeError;
use culvert::shard::ShardConfig;
use culvert::shard::check::check;
use culvert_memory::Pool;
use culvert_nvme::QueuePair;

use super::agreement::Leaders;
use super::clock::LocalClock;
use super::damage::{self, Damage};
use super::device::{Crash, Disk, DiskFaults, DiskOptions, SimDevice};
use super::faults::Fault;
use super::guest::Guest;
use super::history::History;
use super::network::{Fabric, FabricOptions, address_of};
use super::process::Process;
use super::random::Random;
use super::scene::{self, NODES};

const MS: u64 = 1_000_000;

/// How often leaders are looked at.
const LOOK_NS: u64 = 10 * MS;

/// How fast or slow clocks run at most: two of them differ by less than the lease allows for.
const DRIFT_PPM_MAX: i64 = 4000;

/// The end of something that lasted.
#[derive(Clone, Copy, Debug)]
enum Relief {
    Start { node: usize },
    FastDevice { node: usize },
    Heal { from: usize, to: usize },
    FastLink { from: usize, to: usize },
}

/// A node's machine.
struct Host {
    config: NodeConfig,
    disk: Disk,
    pool: Pool,
    clock: LocalClock,
    process: Option<Process>,
    /// Its process is stopped until then.
    paused_ns: u64,
}

/// See the module's documentation.
pub struct World {
    pub now_ns: u64,
    pub history: History,
    pub guests: Vec<Guest>,
    /// What happened, in words, if anybody wants to know.
    pub trace: Option<Vec<String>>,
    /// Faults that came.
    pub faults: u64,
    cluster: Cluster,
    fabric: Fabric,
    hosts: Vec<Host>,
    /// The node whose device was damaged and whose replicas do not promise again yet.
    wounded: Option<usize>,
    reliefs: BTreeMap<(u64, u64), Relief>,
    relief_number: u64,
    leaders: Leaders,
    looked_ns: u64,
    random: Random,
}

impl World {
    /// A cluster that has just been formatted and started, and clients with `depth` operations in
    /// flight each. `pools`: memory of the nodes and clients.
    pub fn new(seed: u64, depths: &[usize], pools: &[Pool], traced: bool) -> World {
        let mut random = Random::new(seed);
        let fabric = Fabric::new(fabric_options(), random.fork("fabric"));
        let cluster = scene::cluster(address_of);
        let host = |node: usize| {
            let cached = random.chance(750_000);
            let options = DiskOptions {
                blocks: scene::DEVICE_BLOCKS,
                volatile_write_cache: cached,
                ..DiskOptions::default()
            };
            let disk = Disk::new(options, random.fork("disk"));
            format_disk(node, &disk, &pools[node], 1);
            Host {
                config: scene::config(node),
                disk,
                pool: pools[node].clone(),
                clock: clock(&mut random),
                process: None,
                paused_ns: 0,
            }
        };
        let hosts = (0..NODES).map(host).collect();
        let mut world = World {
            now_ns: 0,
            history: History::new(scene::VOLUME_BLOCKS),
            guests: Vec::new(),
            trace: traced.then(Vec::new),
            faults: 0,
            cluster,
            fabric,
            hosts,
            wounded: None,
            reliefs: BTreeMap::new(),
            relief_number: 0,
            leaders: Leaders::default(),
            looked_ns: 0,
            random,
        };
        for node in 0..NODES {
            world.start(node, AbsentReplicas::Create);
        }
        for (number, depth) in depths.iter().enumerate() {
            world.add_guest(*depth, &pools[Guest::host(number)]);
        }
        world
    }

    /// Another client, which takes over from none.
    pub fn add_guest(&mut self, depth: usize, pool: &Pool) {
        let number = self.guests.len();
        let clock = clock(&mut self.random);
        let random = self.random.fork("guest");
        let drivers = (pool, &self.fabric);
        self.guests.push(Guest::new(number, depth, &self.cluster, drivers, clock, random));
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>14} ns  {}", self.now_ns, what()));
        }
    }

    /// Starts the process of a node, unless it runs.
    fn start(&mut self, node: usize, absent: AbsentReplicas) {
        if self.hosts[node].process.is_some() {
            return;
        }
        // What its operator would do: what went with the damage comes from the leaders, and a
        // device of which nothing is to be made is replaced.
        let damaged = self.wounded == Some(node);
        let absent = if damaged { AbsentReplicas::Rejoin } else { absent };
        let mut process = self.open(node, absent);
        if let Err(error) = &process
            && damaged
        {
            self.say(|| format!("node {node} does not start: {error:?}"));
            self.crash(node, Crash::Kill);
            self.wipe(node);
            process = self.open(node, absent);
        }
        match process {
            Ok(process) => self.hosts[node].process = Some(process),
            Err(error) => panic!("node {node} does not start: {error:?}"),
        }
        self.say(|| format!("node {node} starts"));
    }

    fn open(&mut self, node: usize, absent: AbsentReplicas) -> Result<Process, NodeError> {
        let host = &mut self.hosts[node];
        host.clock.set_true(self.now_ns);
        host.disk.advance(self.now_ns);
        Process::start(
            node,
            (&host.config, &self.cluster),
            &host.pool,
            (&host.disk, &self.fabric),
            (&mut host.clock, absent),
        )
    }

    fn crash(&mut self, node: usize, kind: Crash) {
        let host = &mut self.hosts[node];
        host.process = None;
        self.fabric.kill(node);
        host.disk.crash(self.now_ns, kind);
        host.paused_ns = 0;
    }

    /// Kills a node that is up, and has it started again later.
    fn take_down(&mut self, node: usize, kind: Crash, down_ns: u64) {
        if self.hosts[node].process.is_some() {
            self.crash(node, kind);
            self.later(down_ns, Relief::Start { node });
        }
    }

    /// Puts an empty device in the place of a node's own.
    fn wipe(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        format_disk(node, &host.disk, &host.pool, self.now_ns);
    }

    /// Damages the device of a node that is down, unless another is still not whole.
    fn damage(&mut self, node: usize, damage: Damage) {
        let whole = self.wounded.is_none_or(|wounded| wounded == node);
        if !whole {
            return;
        }
        self.wounded = Some(node);
        let host = &self.hosts[node];
        let hit = damage::inflict(damage, &host.disk, &host.pool, &mut self.random);
        self.say(|| format!("node {node}: {hit} goes bad"));
        if damage == Damage::Wipe {
            self.wipe(node);
        }
    }

    /// A damaged node is whole when all its replicas promise again.
    fn note_recovery(&mut self) {
        let Some(node) = self.wounded else { return };
        let Some(process) = &self.hosts[node].process else { return };
        let copysets = process.reactor.chunkserver().status().copysets;
        let well = |role: &str| ["leader", "follower", "candidate"].contains(&role);
        if copysets.iter().all(|copyset| well(copyset.role)) {
            self.wounded = None;
            self.say(|| format!("node {node} promises again"));
        }
    }

    fn later(&mut self, after_ns: u64, relief: Relief) {
        self.relief_number += 1;
        self.reliefs.insert((self.now_ns + after_ns, self.relief_number), relief);
    }

    /// Lets a fault come.
    pub fn suffer(&mut self, fault: Fault) {
        self.faults += 1;
        self.say(|| format!("{fault:?}"));
        match fault {
            Fault::Crash { node, kind, down_ns } => self.take_down(node, kind, down_ns),
            Fault::Blackout { down_ns } => {
                for node in 0..NODES {
                    let spread = self.random.below(50 * MS);
                    self.take_down(node, Crash::Power, down_ns + spread);
                }
            }
            Fault::Damage { node, damage, kind, down_ns } => {
                if self.hosts[node].process.is_some() {
                    self.crash(node, kind);
                    self.damage(node, damage);
                    self.later(down_ns, Relief::Start { node });
                }
            }
            Fault::Pause { node, for_ns } => {
                let host = &mut self.hosts[node];
                host.paused_ns = host.paused_ns.max(self.now_ns + for_ns);
            }
            Fault::Jump { node, by_ns } => self.hosts[node].clock.jump(by_ns),
            Fault::SlowDevice { node, factor, for_ns } => {
                slow(&self.hosts[node].disk, factor);
                self.later(for_ns, Relief::FastDevice { node });
            }
            Fault::Partition { from, to, for_ns } => {
                self.fabric.partition(from, to);
                self.later(for_ns, Relief::Heal { from, to });
            }
            Fault::Isolate { node, from_clients, for_ns } => {
                let hosts = NODES + if from_clients { self.guests.len() } else { 0 };
                for other in (0..hosts).filter(|other| *other != node) {
                    for (from, to) in [(node, other), (other, node)] {
                        self.fabric.partition(from, to);
                        self.later(for_ns, Relief::Heal { from, to });
                    }
                }
            }
            Fault::Cut { one, other } => self.fabric.cut(one, other),
            Fault::SlowLink { from, to, factor, for_ns } => {
                self.fabric.slow(from, to, factor.into());
                self.later(for_ns, Relief::FastLink { from, to });
            }
        }
    }

    fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Start { node } => self.start(node, AbsentReplicas::LeaveOut),
            Relief::FastDevice { node } => slow(&self.hosts[node].disk, 1),
            Relief::Heal { from, to } => self.fabric.heal(from, to),
            Relief::FastLink { from, to } => self.fabric.slow(from, to, 1),
        }
    }

    /// Ends everything that lasts, and starts whoever is down.
    pub fn heal(&mut self) {
        self.say(|| "all is well from here on".to_owned());
        for (_, relief) in std::mem::take(&mut self.reliefs) {
            self.relieve(relief);
        }
        for host in &mut self.hosts {
            host.paused_ns = 0;
        }
    }

    /// When the next thing happens.
    fn next_ns(&self) -> u64 {
        let disks = self.hosts.iter().filter_map(|host| host.disk.next_ns());
        let wires = self.fabric.next_ns();
        let reliefs = self.reliefs.keys().next().map(|(at, _)| *at);
        let nodes = (0..NODES).filter_map(|node| self.runs_ns(node));
        let guests = (0..self.guests.len()).map(|guest| self.guest_runs_ns(guest));
        let first = disks.chain(wires).chain(reliefs).chain(nodes).chain(guests).min();
        first.unwrap_or(u64::MAX).max(self.now_ns)
    }

    /// When a node's process runs next, as far as is known.
    fn runs_ns(&self, node: usize) -> Option<u64> {
        let host = &self.hosts[node];
        let process = host.process.as_ref()?;
        let called = self.fabric.has_events(node) || host.disk.has_completions();
        let wanted = if called { self.now_ns } else { process.wake_ns };
        Some(wanted.max(process.free_ns).max(host.paused_ns))
    }

    fn guest_runs_ns(&self, guest: usize) -> u64 {
        let called = self.fabric.has_events(Guest::host(guest));
        if called { self.now_ns } else { self.guests[guest].wake_ns }
    }

    /// Goes on to the next event, but not past `until_ns`. Returns how many operations ended.
    ///
    /// # Errors
    ///
    /// An invariant does not hold.
    pub fn step(&mut self, until_ns: u64) -> Result<usize, String> {
        self.now_ns = self.next_ns().min(until_ns);
        self.fabric.advance(self.now_ns);
        for host in &self.hosts {
            host.disk.advance(self.now_ns);
        }
        while let Some(entry) = self.reliefs.first_entry()
            && entry.key().0 <= self.now_ns
        {
            let relief = entry.remove();
            self.relieve(relief);
        }
        for node in 0..NODES {
            if self.runs_ns(node).is_some_and(|at| at <= self.now_ns) {
                self.turn(node);
            }
        }
        let mut ended = 0;
        for guest in 0..self.guests.len() {
            if self.guest_runs_ns(guest) <= self.now_ns {
                ended += self.guests[guest].turn(&mut self.history, self.now_ns);
            }
        }
        if self.now_ns >= self.looked_ns + LOOK_NS {
            self.looked_ns = self.now_ns;
            for copysets in self.statuses() {
                self.leaders.note(&copysets)?;
            }
            self.note_recovery();
        }
        Ok(ended)
    }

    fn turn(&mut self, node: usize) {
        let cost_ns = self.random.within(500..6000);
        let host = &mut self.hosts[node];
        host.clock.set_true(self.now_ns);
        if let Some(process) = &mut host.process {
            process.turn(&mut host.clock, self.now_ns, cost_ns);
        }
    }

    /// What each node that is up says of its replicas.
    pub fn statuses(&self) -> Vec<Vec<CopysetStatus>> {
        let up = self.hosts.iter().filter_map(|host| host.process.as_ref());
        up.map(|process| process.reactor.chunkserver().status().copysets).collect()
    }

    /// Compares what the replicas hold; all nodes are up.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn compare(&mut self) -> Result<(), String> {
        let copysets: Vec<_> = self.cluster.copysets().iter().map(|copyset| copyset.id).collect();
        for id in copysets {
            let hosts = self.hosts.iter_mut();
            let mut nodes: Vec<_> =
                hosts.filter_map(|host| Some((host.process.as_mut()?, &host.disk))).collect();
            if nodes.len() < NODES {
                return Err("a node is down at the end".to_owned());
            }
            super::agreement::compare(id, &mut nodes)?;
        }
        Ok(())
    }

    /// Stops all nodes and verifies their devices offline, as `culvert check` does.
    ///
    /// # Errors
    ///
    /// What a check found.
    pub fn check_disks(&mut self) -> Result<(), String> {
        for node in 0..NODES {
            self.crash(node, Crash::Kill);
            let host = &self.hosts[node];
            let mut device = open_driven(&host.disk, &host.pool);
            let config = ShardConfig::default();
            let report = check(&mut device, &host.pool, &config, &mut rebuild, &mut |_| ());
            let report = report.map_err(|error| format!("node {node}: {error}"))?;
            if !report.is_clean() {
                return Err(format!(
                    "the check of node {node} finds {:#?} {:#?}",
                    report.findings, report.shards[0].recovery
                ));
            }
        }
        Ok(())
    }

    /// A number that two runs share only if the same happened in both.
    pub fn hash(&self) -> u64 {
        let disks = self.hosts.iter().map(|host| host.disk.hash());
        [self.history.hash(), self.now_ns].into_iter().chain(disks).fold(0, |hash: u64, part| {
            (hash.rotate_left(5) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }
}

/// Windows so small that credits run out now and then, and are cheap to make.
fn fabric_options() -> FabricOptions {
    FabricOptions { window_pages_max: 72, segment_pages: 64, ..FabricOptions::default() }
}

fn slow(disk: &Disk, factor: u32) {
    disk.set_faults(DiskFaults { latency_factor: factor.into(), ..disk.faults() });
}

fn clock(random: &mut Random) -> LocalClock {
    let drift_ppm = random.below(2 * DRIFT_PPM_MAX as u64 + 1) as i64 - DRIFT_PPM_MAX;
    LocalClock::new(random.within(1..1 << 50), drift_ppm)
}

/// A queue pair of a program that has the disk to itself, so that time goes on while it waits.
pub fn open_driven(disk: &Disk, pool: &Pool) -> SimDevice {
    let mut device = disk.open();
    device.set_driven(true);
    for region in pool.regions() {
        device.register(region).expect("room for a region");
    }
    device
}

fn format_disk(node: usize, disk: &Disk, pool: &Pool, now_ns: u64) {
    let options = FormatOptions {
        uuid: scene::device_uuid(node),
        now_ns,
        layout: scene::layout(),
        force: true,
    };
    format(&mut open_driven(disk, pool), pool, &options).expect("a layout that fits");
    disk.crash(disk.now_ns(), Crash::Kill);
}
