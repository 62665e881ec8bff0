//! Real processes, real sockets, real faults, and the simulator's judge.
//!
//! Three `culvert serve`, each on a file through io_uring, and clients in threads of this process.
//! All their TCP leads through a [`proxy`] that cuts, delays, holds up or swallows it; servers are
//! stopped, killed and started again. Everybody's operations are recorded, and their history must be
//! linearizable, block by block ([`checker`]). Storms of faults change with calms: in a calm every
//! operation comes to its end, and every block is read once more.
//!
//! A seed decides faults and operations, but not how processes and sockets take them: it does not
//! repeat a run. `CULVERT_LINEARIZABLE_SECONDS` and `CULVERT_LINEARIZABLE_SEED` set how long and how.

#[allow(dead_code, reason = "the simulator needs more of it")]
mod checker;
mod guest;
mod proxy;
#[path = "../rig/mod.rs"]
mod rig;
mod server;

/// Where the checker's files look for their neighbours.
use checker as sim;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert::cluster::Cluster;
use culvert_transport::Address;
use tempfile::TempDir;

use checker::random::Random;
use guest::{Guest, Record};
use proxy::{DIRECTIONS, Route, Way};
use rig::plan::{Plan, Wishes};
use rig::random::number_from;
use server::{Health, Server};

const SECONDS: u64 = 20;
const SEED: u64 = 0x11ea_51ab;
const NODES: usize = 3;
const CLIENTS: u64 = 4;

/// A storm lasts for so many faults, each for so many operations or so long.
const FAULTS: u64 = 12;
const FAULT_OPERATIONS_MAX: u64 = 200;
const FAULT_TIME_MAX_MS: u64 = 700;

/// The longest delay of a way that is late.
const LATE_MS_MAX: u64 = 40;

/// How long it may take until everything has come to its end after a storm.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who connects to a node: another one, or the clients.
const SOURCES: usize = NODES + 1;

struct World {
    servers: Vec<Server>,
    /// By source and target; none leads from a node to itself.
    routes: Vec<Vec<Option<Route>>>,
    guests: Vec<Guest>,
    record: Arc<Record>,
    random: Random,
    faults: Faults,
    /// Those whose port is kept for them.
    _plan: Plan,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    kills: u64,
    stops: u64,
    cuts: u64,
    late: u64,
    held: u64,
    swallowed: u64,
    storms: u64,
}

impl World {
    fn start(files: &Path, folder: &Path, seed: u64) -> World {
        let device = |n: usize| format!("uring:{}/device-{n}?size=96MiB", files.display());
        let devices = (0..NODES).map(device).collect();
        let adjust = |config: &mut culvert::config::NodeConfig| {
            let (path, _) = config.devices[0].uri.split_once('?').expect("with its size");
            config.devices[0].uri = path.to_owned();
            // Small, so that many checkpoints fall into the time of the test.
            config.store.checkpoint_factor = 4;
            config.store.checkpoint_min_bytes = culvert::config::ByteSize::mib(2);
        };
        let wishes =
            Wishes { tcp: true, volume_bytes: 1 << 20, adjust, ..Wishes::new(folder, devices) };
        let plan = Plan::new(&wishes);
        let routes: Vec<Vec<Option<Route>>> = (0..SOURCES)
            .map(|source| {
                let target =
                    |node| (node != source).then(|| Route::new(listening(&plan.cluster, node)));
                (0..NODES).map(target).collect()
            })
            .collect();
        let mut servers = Vec::new();
        for (node, config) in plan.configs.iter().enumerate() {
            let mut config = config.clone();
            config.cluster_file = folder.join(format!("cluster-{node}.toml"));
            seen_from(&plan.cluster, &routes[node]).save(&config.cluster_file).expect("a file");
            let file = folder.join(format!("node-{node}.toml"));
            std::fs::write(&file, config.to_toml()).expect("a place for configurations");
            servers.push(Server::start(&file, true));
        }
        let cluster = seen_from(&plan.cluster, &routes[NODES]);
        let record = Record::new(wishes.volume_bytes / culvert::ids::BLOCK_SIZE as u64);
        let guests = (0..CLIENTS).map(|n| Guest::start(&cluster, n, seed, &record)).collect();
        let random = Random::new(seed);
        World { servers, routes, guests, record, random, faults: Faults::default(), _plan: plan }
    }

    /// Faults while clients ask, and then none until all has come to its end.
    fn storm_and_calm(&mut self) {
        self.faults.storms += 1;
        self.record.ask(true);
        self.guests.iter().for_each(Guest::run);
        for _ in 0..FAULTS {
            self.change();
            let operations = 1 + self.random.below(FAULT_OPERATIONS_MAX);
            let time = Duration::from_millis(1 + self.random.below(FAULT_TIME_MAX_MS));
            self.record.wait(operations, time);
            self.servers.iter_mut().for_each(Server::assert_lives);
        }
        self.record.ask(false);
        self.calm();
        self.join("the end of all operations");
        self.guests[0].read_all();
        self.join_one(0, "the last reads");
        self.record.judge();
    }

    fn calm(&mut self) {
        self.servers.iter_mut().for_each(Server::revive);
        for route in self.routes.iter().flatten().flatten() {
            route.set([Way::Open; DIRECTIONS]);
        }
    }

    fn join(&mut self, what: &str) {
        for guest in 0..self.guests.len() {
            self.join_one(guest, what);
        }
    }

    fn join_one(&mut self, guest: usize, what: &str) {
        if !self.guests[guest].join(PATIENCE) {
            self.servers.iter_mut().for_each(Server::assert_lives);
            let said: Vec<String> = self.servers.iter().map(Server::last_words).collect();
            panic!("client {guest} waits in vain: {what}\n{}", said.join("\n---\n"));
        }
    }

    /// One thing goes wrong, or right again.
    fn change(&mut self) {
        match self.random.below(10) {
            0..=1 => self.kill(),
            2..=3 => self.stop(),
            4 => self.cut(),
            5..=6 => self.disturb_one_route(),
            7 => self.disturb_a_node(),
            _ => self.mend(),
        }
    }

    fn kill(&mut self) {
        // Now and then all of them.
        let all = self.random.below(8) == 0;
        let one = self.random.below(NODES as u64) as usize;
        for node in (0..NODES).filter(|node| all || *node == one) {
            if self.servers[node].health() != Health::Dead {
                self.servers[node].kill();
                self.faults.kills += 1;
            }
            // Half of them come back at once.
            if all || self.random.below(2) == 0 {
                self.servers[node].revive();
            }
        }
    }

    fn stop(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
        if self.servers[node].health() == Health::Up {
            self.servers[node].stop();
            self.faults.stops += 1;
        }
    }

    fn cut(&mut self) {
        let (source, target) = self.any_route();
        self.faults.cuts += 1;
        self.route(source, target).cut();
    }

    fn disturb_one_route(&mut self) {
        let (source, target) = self.any_route();
        let ways = [self.any_way(), self.any_way()];
        self.route(source, target).set(ways);
    }

    /// Nothing reaches a node, or nothing comes from it, or both.
    fn disturb_a_node(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
        let (inwards, outwards) = (self.any_way(), self.any_way());
        for source in (0..SOURCES).filter(|source| *source != node) {
            self.route(source, node).set([inwards, outwards]);
        }
        for target in (0..NODES).filter(|target| *target != node) {
            self.route(node, target).set([outwards, inwards]);
        }
    }

    /// A node lives again, and everything reaches it.
    fn mend(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
        self.servers[node].revive();
        for (source, routes) in self.routes.iter().enumerate() {
            for (target, route) in routes.iter().enumerate() {
                if let Some(route) = route
                    && (source == node || target == node)
                {
                    route.set([Way::Open; DIRECTIONS]);
                }
            }
        }
    }

    fn any_route(&mut self) -> (usize, usize) {
        let target = self.random.below(NODES as u64) as usize;
        let other = 1 + self.random.below(SOURCES as u64 - 1) as usize;
        ((target + other) % SOURCES, target)
    }

    fn any_way(&mut self) -> Way {
        match self.random.below(8) {
            0..=2 => Way::Open,
            3..=5 => {
                self.faults.late += 1;
                Way::Late(Duration::from_millis(1 + self.random.below(LATE_MS_MAX)))
            }
            6 => {
                self.faults.held += 1;
                Way::Held
            }
            _ => {
                self.faults.swallowed += 1;
                Way::Swallowed
            }
        }
    }

    fn route(&self, source: usize, target: usize) -> &Route {
        self.routes[source][target].as_ref().expect("none leads from a node to itself")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Clients that go on asking would never end.
        self.record.ask(false);
    }
}

/// Where a node really listens.
fn listening(cluster: &Cluster, node: usize) -> std::net::SocketAddr {
    match &cluster.nodes()[node].reactors[0].addresses[..] {
        [Address::Tcp(address)] => *address,
        other => panic!("not one TCP address: {other:?}"),
    }
}

/// The cluster as somebody sees it whose connections take these routes.
fn seen_from(cluster: &Cluster, routes: &[Option<Route>]) -> Cluster {
    let mut document = cluster.document().clone();
    for (node, route) in document.nodes.iter_mut().zip(routes) {
        if let Some(route) = route {
            node.reactors[0].addresses = vec![Address::Tcp(route.address())];
        }
    }
    Cluster::check(document).expect("only addresses differ")
}

#[test]
fn what_clients_saw_has_an_order() {
    let seconds = number_from("CULVERT_LINEARIZABLE_SECONDS", SECONDS);
    let seed = number_from("CULVERT_LINEARIZABLE_SEED", SEED);
    println!("CULVERT_LINEARIZABLE_SEED={seed} CULVERT_LINEARIZABLE_SECONDS={seconds}");
    // Direct I/O needs a file system with a disk below it; configurations and logs do not.
    let files = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut world = World::start(files.path(), folder.path(), seed);
    let since = Instant::now();
    while world.faults.storms == 0 || since.elapsed() < Duration::from_secs(seconds) {
        world.storm_and_calm();
    }
    let counts = world.record.counts();
    println!("{:?}, {counts:?}", world.faults);
    assert!(counts.changes > 100, "nearly nothing was done: {counts:?}");
}
