//! The world of one seed: hosts, disks, clocks and wires, and time that moves from one event to the
//! next.

use std::collections::BTreeMap;

use culvert::chunkserver::{AbsentReplicas, CopysetStatus, rebuild};
use culvert::cluster::Cluster;
use culvert::config::NodeConfig;
use culvert::device::{FormatOptions, format};
use culvert::ids::CopysetId;
use culvert::node::NodeError;
use culvert::reactor::Clock;
use culvert::shard::ShardConfig;
use culvert::shard::check::check;
use culvert_memory::Pool;
use culvert_nvme::QueuePair;

use super::agreement::is_settled;
use super::clock::LocalClock;
use super::coverage::{self, Coverage, State};
use super::device::{Crash, Disk, DiskFaults, SimDevice};
use super::faults::{Deed, Fault, Ways};
use super::guest::Guest;
use super::history::History;
use super::network::{Fabric, FabricOptions, address_of};
use super::plots::Cast;
use super::process::Process;
use super::random::Random;
use super::scene::{self, NODES};
use super::temper::Temper;
use super::watch::{Elected, Watch};
use super::wound::Wound;

mod harm;

const MS: u64 = 1_000_000;

/// Starts in a million that do not come to their end, because the process or machine dies again.
const STARTS_CUT_SHORT: u32 = 250_000;

/// They die before one of so many commands of the device.
const OPENING_COMMANDS: u64 = 50;

/// The end of something that lasted.
#[derive(Clone, Copy, Debug)]
enum Relief {
    Start { node: usize },
    FastDevice { node: usize },
    Heal { from: usize, to: usize },
    FastLink { from: usize, to: usize },
    Crash { node: usize, down_ns: u64 },
    GoodDevice { node: usize, down_ns: u64 },
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
    /// Whether a checkpoint was under way when it was last looked at.
    checkpointing: bool,
    /// Checkpoints when it was last looked at, and batches of its journal in metadata when the last of
    /// them came to count; whether there were more since.
    checkpoints: (u64, u64),
    in_metadata: bool,
    /// Whether its device was ever damaged.
    damaged: bool,
    /// Its power fails so long after its next checkpoint, for so long.
    checkpoint_trap: Option<(u64, u64)>,
}

/// Something that happens as soon as a copyset has another leader.
#[derive(Clone, Copy, Debug)]
struct Trap {
    copyset: CopysetId,
    deed: Deed,
    until_ns: u64,
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
    /// The node whose device was damaged and that is not whole again.
    wound: Option<Wound>,
    reliefs: BTreeMap<(u64, u64), Relief>,
    relief_number: u64,
    /// Until when nothing passes, by hosts from and to.
    walls: BTreeMap<(usize, usize), u64>,
    traps: Vec<Trap>,
    watch: Watch,
    elected: Vec<Elected>,
    /// What faults met.
    pub coverage: Coverage,
    /// Whether nothing goes wrong any more.
    calm: bool,
    temper: Temper,
    random: Random,
}

impl World {
    /// A cluster that has just been formatted and started, and clients. `pools`: memory of the nodes
    /// and clients.
    pub fn new(seed: u64, guests: usize, pools: &[Pool], traced: bool) -> World {
        let mut random = Random::new(seed);
        let mut metadata = Random::new(seed).fork("metadata");
        let temper = Temper::new(&mut random.fork("temper"), &mut metadata);
        let fabric = Fabric::new(fabric_options(), random.fork("fabric"));
        let cluster = scene::cluster(address_of, temper.volume_blocks);
        let host = |node: usize| {
            let options = temper.disk(temper.metadata(&mut metadata), &mut random);
            let disk = Disk::new(options, random.fork("disk"));
            format_disk(node, &disk, &pools[node], 1);
            Host {
                config: scene::config(node, &temper),
                disk,
                pool: pools[node].clone(),
                clock: clock(&temper, &mut random),
                process: None,
                paused_ns: 0,
                checkpointing: false,
                checkpoints: (0, 0),
                in_metadata: false,
                damaged: false,
                checkpoint_trap: None,
            }
        };
        let hosts = (0..NODES).map(host).collect();
        let mut world = World {
            now_ns: 0,
            history: History::new(temper.volume_blocks),
            guests: Vec::new(),
            trace: traced.then(Vec::new),
            faults: 0,
            cluster,
            fabric,
            hosts,
            wound: None,
            reliefs: BTreeMap::new(),
            relief_number: 0,
            walls: BTreeMap::new(),
            traps: Vec::new(),
            watch: Watch::default(),
            elected: Vec::new(),
            coverage: Coverage::default(),
            calm: false,
            temper,
            random,
        };
        let words = format!("{:?}", world.temper);
        world.say(|| words);
        for node in 0..NODES {
            world.start(node, AbsentReplicas::Create);
        }
        for pool in &pools[NODES..NODES + guests] {
            world.add_guest(pool);
        }
        if world.temper.full {
            world.guests[0].fill();
        }
        world
    }

    /// Another client, which takes over from none.
    pub fn add_guest(&mut self, pool: &Pool) {
        let number = self.guests.len();
        let clock = clock(&self.temper, &mut self.random);
        let mut random = self.random.fork("guest");
        let habits = self.temper.habits(&mut random);
        let drivers = (pool, &self.fabric);
        let volume = (&self.cluster, self.temper.volume_blocks);
        self.guests.push(Guest::new(number, habits, volume, drivers, clock, random));
    }

    /// Who leads what clients want most.
    pub fn cast(&self, clients: usize) -> Cast {
        let volume = &self.cluster.volumes()[0];
        let part = self.cluster.layout(volume).part(self.temper.hot_block(), 1);
        let copyset = volume.copysets[part.copyset as usize];
        let leads = |node: &usize| {
            let process = self.hosts[*node].process.as_ref();
            let mut groups = process.into_iter().flat_map(|it| it.reactor.chunkserver().groups());
            groups.any(|(id, group)| id == copyset && group.is_leader())
        };
        Cast { copyset: copyset.0, leader: (0..NODES).find(leads), clients }
    }

    /// Whether the cluster is in the middle of something.
    pub fn is_in(&self, state: State) -> bool {
        match state {
            State::Paused => self.hosts.iter().any(|host| host.paused_ns > self.now_ns),
            State::Scrub => self.hosts.iter().any(|host| {
                let process = host.process.as_ref();
                process.is_some_and(|process| process.reactor.chunkserver().is_scrubbing())
            }),
            State::Metadata => self.hosts.iter().any(|host| host.in_metadata),
            State::Checkpoint => self.hosts.iter().any(|host| host.checkpointing),
            state => {
                let statuses = self.statuses();
                coverage::is_in(state, &statuses.concat()).unwrap_or(false)
            }
        }
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
        let damaged = self.wound.as_ref().is_some_and(|wound| wound.node == node && wound.rejoins);
        let absent = if damaged { AbsentReplicas::Rejoin } else { absent };
        let cut_short = !self.calm && absent != AbsentReplicas::Create;
        let commands = cut_short && self.random.chance(STARTS_CUT_SHORT);
        let commands = commands.then(|| self.random.below(OPENING_COMMANDS));
        let (mut process, is_cut) = self.open(node, absent, commands);
        if is_cut {
            // It has not come into being: what recovery has written so far is on the disk.
            drop(process);
            let kind = if self.random.chance(500_000) { Crash::Kill } else { Crash::Power };
            let died_ns = self.hosts[node].disk.now_ns();
            self.crash(node, kind);
            self.say(|| format!("node {node} dies at {died_ns} ns while it recovers"));
            let down_ns = self.random.within(MS / 10..50 * MS);
            let wait_ns = died_ns.saturating_sub(self.now_ns);
            return self.later(wait_ns + down_ns, Relief::Start { node });
        }
        if let Err(error) = &process
            && damaged
        {
            self.say(|| format!("node {node} does not start: {error:?}"));
            self.crash(node, Crash::Kill);
            self.wipe(node);
            (process, _) = self.open(node, absent, None);
        }
        match process {
            Ok(process) => self.hosts[node].process = Some(process),
            Err(error) => panic!("node {node} does not start: {error:?}"),
        }
        let ready_ns = self.hosts[node].process.as_ref().map_or(0, |process| process.ready_ns);
        self.say(|| format!("node {node} starts, and is ready at {ready_ns} ns"));
    }

    /// Opens a node's device. `commands`: it goes away after so many; returns whether it did.
    fn open(
        &mut self,
        node: usize,
        absent: AbsentReplicas,
        commands: Option<u64>,
    ) -> (Result<Process, NodeError>, bool) {
        let host = &mut self.hosts[node];
        host.clock.set_true(self.now_ns);
        host.disk.advance(self.now_ns);
        // Recovery is one piece: on a disk that is slow for a while it would last for minutes.
        let faults = host.disk.faults();
        host.disk.set_faults(DiskFaults { gone_after: commands, ..DiskFaults::default() });
        let process = Process::start(
            node,
            (&host.config, &self.cluster),
            &host.pool,
            (&host.disk, &self.fabric),
            (&mut host.clock, absent),
        );
        let is_cut = host.disk.faults().gone;
        if is_cut {
            host.disk.crash(host.disk.now_ns(), Crash::Kill);
        }
        host.disk.set_faults(faults);
        (process, is_cut)
    }

    fn crash(&mut self, node: usize, kind: Crash) {
        if let Some(wound) = self.wound.as_mut().filter(|wound| wound.node == node) {
            wound.died();
        }
        let host = &mut self.hosts[node];
        host.process = None;
        self.fabric.kill(node);
        host.disk.crash(self.now_ns, kind);
        host.paused_ns = 0;
        host.checkpointing = false;
        (host.checkpoints, host.in_metadata) = ((0, 0), false);
        self.watch.died(node);
    }

    /// Kills a node that is up, and has it started again later.
    fn take_down(&mut self, node: usize, kind: Crash, down_ns: u64) {
        if self.may_die(node) {
            self.crash(node, kind);
            self.later(down_ns, Relief::Start { node });
        }
    }

    fn may_die(&self, node: usize) -> bool {
        self.is_up(node) && !self.wound.as_ref().is_some_and(|wound| wound.protects(node))
    }

    /// Whether a node has a process that has recovered. One that recovers does so in one piece: its
    /// disk is where it will have ended, and a crash before then would make that the next one's
    /// beginning.
    fn is_up(&self, node: usize) -> bool {
        self.hosts[node].process.as_ref().is_some_and(|process| process.ready_ns <= self.now_ns)
    }

    fn later(&mut self, after_ns: u64, relief: Relief) {
        self.relief_number += 1;
        self.reliefs.insert((self.now_ns + after_ns, self.relief_number), relief);
    }

    /// Lets a fault come; clients have trouble with it for a while.
    pub fn suffer(&mut self, number: u64, fault: Fault, busy_ns: u64) {
        self.faults += 1;
        self.say(|| format!("fault {number}: {fault:?}"));
        self.note_what_it_met(&fault);
        for guest in &mut self.guests {
            guest.is_busy_until(self.now_ns + busy_ns, self.now_ns);
        }
        match fault {
            Fault::Crash { node, kind, down_ns } => self.take_down(node, kind, down_ns),
            Fault::Blackout { down_ns } => {
                for node in 0..NODES {
                    let spread = self.random.below(50 * MS);
                    self.take_down(node, Crash::Power, down_ns + spread);
                }
            }
            Fault::Damage { node, damage, kind, down_ns } => {
                if self.may_die(node) {
                    self.crash(node, kind);
                    self.damage(node, damage);
                    self.later(down_ns, Relief::Start { node });
                }
            }
            Fault::Rot { node, blocks, crash } => {
                self.harm(node, |wound, process, _, random| {
                    wound.rot((blocks, crash), process, random);
                });
            }
            Fault::BadWrite { node, how } => {
                let now_ns = self.now_ns;
                self.harm(node, |wound, process, disk, _| wound.strike(how, process, disk, now_ns));
            }
            Fault::BadReads { node, for_ns } => {
                let until_ns = self.now_ns + for_ns;
                self.harm(node, |wound, process, disk, _| wound.misread(process, disk, until_ns));
            }
            Fault::FailDevice { node, how, for_ns, down_ns } => {
                if self.may_die(node) {
                    self.fail_device(node, how);
                    self.later(for_ns, Relief::GoodDevice { node, down_ns });
                }
            }
            Fault::Pause { node, for_ns } => {
                let host = &mut self.hosts[node];
                host.paused_ns = host.paused_ns.max(self.now_ns + for_ns);
            }
            Fault::Jump { node, by_ns } => self.hosts[node].clock.jump(by_ns),
            Fault::SlowDevice { node, factor, for_ns } => {
                slow(&self.hosts[node].disk, factor.min(self.temper.slower_max()));
                self.later(for_ns, Relief::FastDevice { node });
            }
            fault => self.suffer_together(fault),
        }
    }

    /// What goes wrong between hosts, or waits for its moment.
    fn suffer_together(&mut self, fault: Fault) {
        match fault {
            Fault::Partition { from, to, for_ns } => self.part(from, to, for_ns),
            Fault::Isolate { node, from_clients, for_ns } => {
                let hosts = NODES + if from_clients { self.guests.len() } else { 0 };
                let others = ((1 << hosts) - 1) & !(1 << node);
                self.split((1 << node, others), Ways::Both, false, for_ns);
            }
            Fault::Split { one, other, ways, cut, for_ns } => {
                self.split((one, other), ways, cut, for_ns);
            }
            Fault::Cut { one, other } => self.fabric.cut(one, other),
            Fault::SlowLink { from, to, factor, for_ns } => {
                self.fabric.slow(from, to, factor.into());
                self.later(for_ns, Relief::FastLink { from, to });
            }
            Fault::Transfer { copyset, to } => self.transfer(CopysetId(copyset), to),
            Fault::Hush { hosts, for_ns } => {
                for (number, guest) in self.guests.iter_mut().enumerate() {
                    if hosts & 1 << Guest::host(number) != 0 {
                        guest.reads_until(self.now_ns + for_ns);
                    }
                }
            }
            Fault::Storm { for_ns } => {
                for guest in &mut self.guests {
                    guest.writes_until(self.now_ns + for_ns, self.now_ns);
                }
            }
            Fault::Trap { copyset, deed, for_ns } => {
                let until_ns = self.now_ns + for_ns;
                self.traps.push(Trap { copyset: CopysetId(copyset), deed, until_ns });
            }
            Fault::TrapCheckpoint { node, after_ns, down_ns } => {
                self.hosts[node].checkpoint_trap = Some((after_ns, down_ns));
            }
            _ => unreachable!("a fault of one node"),
        }
    }

    fn note_what_it_met(&mut self, fault: &Fault) {
        if coverage::kind_of(fault).is_some() && self.takes_effect(fault) {
            let mut coverage = std::mem::take(&mut self.coverage);
            let statuses = self.statuses().concat();
            coverage.note(fault, |state| {
                coverage::is_in(state, &statuses).unwrap_or_else(|| self.is_in(state))
            });
            self.coverage = coverage;
        }
    }

    fn part(&mut self, from: usize, to: usize, for_ns: u64) {
        let until_ns = self.now_ns + for_ns;
        let wall = self.walls.entry((from, to)).or_insert(0);
        *wall = until_ns.max(*wall);
        self.fabric.partition(from, to);
        self.later(for_ns, Relief::Heal { from, to });
    }

    fn split(&mut self, (one, other): (u32, u32), ways: Ways, cut: bool, for_ns: u64) {
        let hosts = NODES + self.guests.len();
        let of = |mask: u32| (0..hosts).filter(move |host| mask & 1 << host != 0);
        for one in of(one) {
            for other in of(other) {
                if ways != Ways::In {
                    self.part(one, other, for_ns);
                }
                if ways != Ways::Out {
                    self.part(other, one, for_ns);
                }
                if cut {
                    self.fabric.cut(one, other);
                }
            }
        }
    }

    /// Ends a partition that has lasted long enough, or at once.
    fn unite(&mut self, from: usize, to: usize, at_once: bool) {
        let is_over = self.walls.get(&(from, to)).is_some_and(|until| *until <= self.now_ns);
        if is_over || at_once {
            self.walls.remove(&(from, to));
            self.fabric.heal(from, to);
        }
    }

    fn transfer(&mut self, copyset: CopysetId, to: usize) {
        let known = self.cluster.copyset(copyset).expect("a copyset of the scene");
        let device = scene::device_uuid(to);
        let heir = known.replicas.iter().find(|replica| replica.device == device);
        let heir = heir.expect("every node has a replica").id;
        for node in 0..NODES {
            let paused = self.hosts[node].paused_ns > self.now_ns;
            let Some(process) = self.hosts[node].process.as_mut().filter(|_| !paused) else {
                continue;
            };
            if process.reactor.chunkserver_mut().transfer(copyset, heir) {
                process.wake_ns = self.now_ns;
            }
        }
    }

    /// What waited for new leaders.
    fn spring(&mut self) {
        for elected in std::mem::take(&mut self.elected) {
            self.say(|| format!("node {} leads copyset {}", elected.node, elected.copyset));
            let now_ns = self.now_ns;
            self.traps.retain(|trap| trap.until_ns > now_ns);
            let waits = self.traps.iter().position(|trap| trap.copyset == elected.copyset);
            let Some(at) = waits else { continue };
            match self.traps.swap_remove(at).deed {
                Deed::KillLeader { kind, down_ns } => self.take_down(elected.node, kind, down_ns),
                Deed::Usurp { old, kind, down_ns, for_ns } if old != elected.node => {
                    let voter = NODES - old - elected.node;
                    self.take_down(voter, kind, down_ns);
                    let others = ((1 << NODES) - 1) & !(1 << elected.node);
                    self.split((1 << elected.node, others), Ways::Both, false, for_ns);
                    self.unite(old, voter, true);
                    self.unite(voter, old, true);
                }
                Deed::Usurp { .. } => {}
            }
        }
    }

    fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Start { node } => self.start(node, AbsentReplicas::LeaveOut),
            Relief::FastDevice { node } => slow(&self.hosts[node].disk, 1),
            Relief::Heal { from, to } => self.unite(from, to, false),
            Relief::FastLink { from, to } => self.fabric.slow(from, to, 1),
            Relief::Crash { node, down_ns } => self.take_down(node, Crash::Power, down_ns),
            Relief::GoodDevice { node, down_ns } => {
                let disk = &self.hosts[node].disk;
                let faults = disk.faults();
                disk.set_faults(DiskFaults {
                    failed_write: 0,
                    failed_flush: 0,
                    gone: false,
                    ..faults
                });
                // Its process has seen the device fail; or it is another one by now, and struck.
                if self.may_die(node) {
                    self.crash(node, Crash::Kill);
                    self.later(down_ns, Relief::Start { node });
                } else if self.hosts[node].process.is_some() {
                    self.later(MS, relief);
                }
            }
        }
    }

    /// Ends everything that lasts, and starts whoever is down.
    pub fn heal(&mut self) {
        self.say(|| "all is well from here on".to_owned());
        self.calm = true;
        self.traps.clear();
        for (_, relief) in std::mem::take(&mut self.reliefs) {
            match relief {
                Relief::Heal { from, to } => self.unite(from, to, true),
                Relief::Crash { .. } => {}
                Relief::GoodDevice { node, .. } => {
                    self.relieve(Relief::GoodDevice { node, down_ns: 0 });
                }
                relief => self.relieve(relief),
            }
        }
        for host in &mut self.hosts {
            host.paused_ns = 0;
            host.checkpoint_trap = None;
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
                self.turn(node)?;
                self.outlived_leases()?;
            }
        }
        if !self.elected.is_empty() {
            self.spring();
        }
        self.nurse();
        let mut ended = 0;
        for guest in 0..self.guests.len() {
            if self.guest_runs_ns(guest) <= self.now_ns {
                ended += self.guests[guest].turn(&mut self.history, self.now_ns);
            }
        }
        Ok(ended)
    }

    /// Whoever was just elected is alone: all leases of earlier terms are over.
    fn outlived_leases(&mut self) -> Result<(), String> {
        for Elected { copyset, node: elected, term } in &self.elected {
            for (node, host) in self.hosts.iter_mut().enumerate() {
                let Some(process) = &host.process else { continue };
                host.clock.set_true(self.now_ns);
                let now_ns = host.clock.now_ns();
                let mut groups = process.reactor.chunkserver().groups();
                let group = groups.find(|(id, _)| id == copyset).map(|(_, group)| group);
                if group.is_some_and(|group| group.term() < *term && group.holds_lease(now_ns)) {
                    return Err(format!(
                        "node {elected} leads copyset {copyset} in term {term}, while node {node} \
                         holds the lease of an earlier one"
                    ));
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, node: usize) -> Result<(), String> {
        let cost_ns = self.random.within(500..6000);
        let host = &mut self.hosts[node];
        host.clock.set_true(self.now_ns);
        let Some(process) = &mut host.process else { return Ok(()) };
        process.turn(&mut host.clock, self.now_ns, cost_ns);
        for (copyset, group) in process.reactor.chunkserver().groups() {
            self.watch.look(node, copyset, group, &mut self.elected)?;
        }
        let counters = process.reactor.chunkserver().counters();
        let blocks = counters.bad_blocks - counters.missing_blocks + counters.mismatched_blocks;
        let payloads = counters.bad_payloads;
        if blocks + payloads > 0 && !host.damaged {
            return Err(format!(
                "node {node} meets {blocks} bad blocks and {payloads} bad payloads, and nobody \
                 damaged its device"
            ));
        }
        let shard = process.reactor.chunkserver_mut().shard_mut(0);
        let counted = (shard.counters().checkpoints, shard.counters().metadata_batches);
        if counted.0 > host.checkpoints.0 {
            host.checkpoints = counted;
        }
        host.in_metadata = counted.1 > host.checkpoints.1;
        let checkpointing = shard.is_checkpointing();
        if host.checkpointing
            && !checkpointing
            && let Some((after_ns, down_ns)) = host.checkpoint_trap.take()
        {
            host.checkpointing = checkpointing;
            self.later(after_ns, Relief::Crash { node, down_ns });
            return Ok(());
        }
        host.checkpointing = checkpointing;
        Ok(())
    }

    /// What each node that is up says of its replicas.
    pub fn statuses(&self) -> Vec<Vec<CopysetStatus>> {
        let up = self.hosts.iter().filter_map(|host| host.process.as_ref());
        up.map(|process| process.reactor.chunkserver().copyset_statuses()).collect()
    }

    /// Whether all replicas have applied the same, nothing is on its way, all space that was let go is
    /// free, and nothing is damaged.
    pub fn is_still(&self) -> bool {
        self.wound.is_none()
            && is_settled(&self.statuses())
            && self.hosts.iter().filter_map(|host| host.process.as_ref()).all(|process| {
                let chunkserver = process.reactor.chunkserver();
                // A scrub may go on for ever, with so many reads at once.
                let quiet = |reads| reads == 0 || chunkserver.is_scrubbing() && reads <= 4;
                let stores = chunkserver.store_statistics();
                stores.iter().all(|store| store.waiting_blocks == 0 && quiet(store.reads))
            })
    }

    /// In words, what each node that is up says of its replicas and its space.
    pub fn words(&self) -> String {
        let up = self.hosts.iter().filter_map(|host| host.process.as_ref());
        let stores: Vec<_> =
            up.map(|process| process.reactor.chunkserver().store_statistics()).collect();
        format!("{stores:?} {:?} {:#?}", self.wound, self.statuses())
    }

    /// Compares what the replicas hold; all nodes are up.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn compare(&mut self) -> Result<(), String> {
        let copysets: Vec<_> = self.cluster.copysets().iter().map(|copyset| copyset.id).collect();
        for &id in &copysets {
            let hosts = self.hosts.iter_mut();
            let mut nodes: Vec<_> =
                hosts.filter_map(|host| Some((host.process.as_mut()?, &host.disk))).collect();
            if nodes.len() < NODES {
                return Err("a node is down at the end".to_owned());
            }
            super::agreement::compare(id, &mut nodes)?;
        }
        for (node, host) in self.hosts.iter_mut().enumerate() {
            let Some(process) = &mut host.process else { continue };
            super::agreement::count(process, &copysets)
                .map_err(|what| format!("node {node}: {what}"))?;
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

fn clock(temper: &Temper, random: &mut Random) -> LocalClock {
    let drift_ppm = temper.drift_ppm(random);
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
        layout: scene::layout(disk.has_metadata()),
        force: true,
    };
    format(&mut open_driven(disk, pool), pool, &options).expect("a layout that fits");
    disk.crash(disk.now_ns(), Crash::Kill);
}
