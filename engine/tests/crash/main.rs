//! Server processes are killed under load, and their devices lose what they were free to lose.
//!
//! Three servers, each a process with a device on a file through io_uring, and a client in this
//! process that never stops. SIGKILL alone cannot show a missing flush, because the kernel keeps
//! what a dead process has written: so the servers log what they overwrite ([`undo_log`]), and
//! after each kill every block that was not flushed is lost, torn or kept at random; or, one time
//! in four, all of them are lost, so that the image holds flushed blocks and nothing else. Then the
//! server comes back, and every block must hold its last acknowledged write or a later one, whole.
//!
//! `CULVERT_CRASH_CYCLES` and `CULVERT_CRASH_SEED` set how long and how.

#[path = "../rig/mod.rs"]
mod rig;
mod server;
mod undo_log;

use std::path::Path;
use std::time::Duration;

use culvert::client::ClientOptions;
use culvert::cluster::EndpointIndex;
use rustix::process::Signal;
use tempfile::TempDir;

use rig::load::Load;
use rig::plan::{Plan, VOLUME, Wishes, client};
use rig::random::{Random, number_from};
use server::Server;
use undo_log::{Cut, Taken};

/// Moments at which servers are killed.
const CYCLES: u64 = 50;
const SEED: u64 = 0x0c01_fe17;
const DEPTH: usize = 24;
/// Writes and discards without an answer at every kill, at least.
const IN_FLIGHT_MIN: usize = DEPTH / 4;

/// How long one operation may take, deaths and elections included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an operation may wait because a leader is stopped.
const WAIT_MAX: Duration = Duration::from_millis(1500);

/// Not a test: what the server processes run.
#[test]
fn serves_where_the_environment_says_so() {
    server::serve_if_asked();
}

struct Crash {
    servers: Vec<Server>,
    load: Load,
    random: Random,
    taken: Taken,
    /// Moments at which one server or several were killed.
    kills: u64,
    /// Those after which devices held what was flushed and nothing else.
    only_flushed: u64,
    /// The longest that an operation was seen to wait.
    waited: Duration,
    /// Servers that were.
    killed: u64,
    /// Writes and discards that were in flight at kills.
    in_flight: u64,
}

impl Crash {
    fn start(files: &Path, folder: &Path, seed: u64, tcp: bool) -> Crash {
        let paths: Vec<_> = (0..3).map(|n| files.join(format!("device-{n}"))).collect();
        let sized = paths.iter().map(|path| format!("uring:{}?size=96MiB", path.display()));
        let wishes = Wishes {
            tcp,
            adjust: |config| {
                let (path, _) = config.devices[0].uri.split_once('?').expect("with its size");
                config.devices[0].uri = path.to_owned();
                // Small, so that many checkpoints fall into the time of the test.
                config.store.checkpoint_factor = 4;
                config.store.checkpoint_min_bytes = culvert::config::ByteSize::mib(2);
            },
            ..Wishes::new(folder, sized.collect())
        };
        let plan = Plan::new(&wishes);
        let mut servers = Vec::new();
        for (number, (config, path)) in plan.configs.iter().zip(&paths).enumerate() {
            let file = folder.join(format!("node-{number}.toml"));
            std::fs::write(&file, config.to_toml()).expect("a place for configurations");
            let mut server = Server::new(&file, path);
            server.start(true).expect("a process");
            servers.push(server);
        }
        // Nothing is ever given up: whatever is in flight when servers die must come to an end.
        let options = ClientOptions {
            request_timeout: Duration::from_secs(100),
            attempts_max: u32::MAX,
            ..ClientOptions::default()
        };
        let load = Load::new(client(&plan.cluster, seed, options), VOLUME, DEPTH, seed);
        let random = Random::new(seed);
        Crash {
            servers,
            load,
            random,
            taken: Taken::default(),
            kills: 0,
            only_flushed: 0,
            waited: Duration::ZERO,
            killed: 0,
            in_flight: 0,
        }
    }

    /// Lets the load run until so many more operations are acknowledged.
    fn run(&mut self, operations: u64) {
        let goal = self.load.operations() + operations;
        while self.load.operations() < goal {
            self.turn();
        }
    }

    fn turn(&mut self) {
        if !self.load.turn() {
            std::thread::yield_now();
        }
        let waited = self.load.longest_wait();
        self.waited = self.waited.max(waited);
        if waited > PATIENCE {
            self.give_up();
        }
    }

    /// Lets the load run up to a moment at which a change was acknowledged just now and others are
    /// on their way: whoever is killed next is killed at work.
    fn run_into_the_middle(&mut self, operations: u64) {
        self.run(operations);
        let acknowledged = self.load.changes();
        while self.load.changes() == acknowledged || self.load.changes_in_flight() < IN_FLIGHT_MIN {
            self.turn();
        }
    }

    /// Says all that is known of why an operation does not end.
    fn give_up(&mut self) -> ! {
        self.servers.iter_mut().for_each(Server::assert_runs);
        let mut known: Vec<String> = self.servers.iter().map(Server::last_words).collect();
        for node in 0..3 {
            known.push(self.load.status(EndpointIndex { node, reactor: 0 }));
        }
        panic!("the load stands still:\n{}", known.join("\n"));
    }

    /// Kills servers under load, lets their devices lose what they may, and starts them again.
    fn kill(&mut self, victims: &[usize]) {
        for victim in victims {
            self.servers[*victim].assert_runs();
        }
        // The load is not polled from here on: this is what the dying servers leave unanswered.
        let in_flight = self.load.changes_in_flight();
        assert!(in_flight >= IN_FLIGHT_MIN, "{in_flight} changes in flight: no load to be killed");
        assert!(self.load.longest_wait() > Duration::ZERO);
        self.in_flight += in_flight as u64;
        for victim in victims {
            self.servers[*victim].kill().expect("a child of ours");
        }
        let cut = if self.random.below(4) == 0 { Cut::OnlyFlushed } else { Cut::AtRandom };
        self.only_flushed += u64::from(cut == Cut::OnlyFlushed);
        for victim in victims {
            let taken = self.servers[*victim].lose(cut, &mut self.random).expect("files of ours");
            self.taken.lost += taken.lost;
            self.taken.torn += taken.torn;
            self.taken.kept += taken.kept;
        }
        for victim in victims {
            self.servers[*victim].start(false).expect("a process");
        }
        self.kills += 1;
        self.killed += victims.len() as u64;
    }

    /// Who dies next: one, all, or two one after another.
    fn victims(&mut self) -> Vec<usize> {
        let one = self.random.below(3) as usize;
        match self.random.below(10) {
            0..=4 => vec![one],
            5..=6 => vec![one, (one + 1) % 3],
            _ => vec![0, 1, 2],
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kills_and_lost_writes() {
    let cycles = number_from("CULVERT_CRASH_CYCLES", CYCLES);
    let seed = number_from("CULVERT_CRASH_SEED", SEED);
    println!("CULVERT_CRASH_SEED={seed} CULVERT_CRASH_CYCLES={cycles}");
    // Direct I/O needs a file system with a disk below it; sockets and logs do not.
    let files = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut crash = Crash::start(files.path(), folder.path(), seed, false);
    crash.run(200);
    while crash.kills < cycles {
        let operations = 50 + crash.random.below(200);
        crash.run_into_the_middle(operations);
        let victims = crash.victims();
        crash.kill(&victims);
        // Some die again before the others have heard that they are back.
        let operations = crash.random.below(200);
        crash.run(operations);
        if crash.random.below(4) > 0 {
            crash.load.read_all(|| false);
        }
    }
    crash.load.read_all(|| false);
    crash.servers.iter_mut().for_each(Server::assert_runs);
    let Crash { kills, killed, only_flushed, in_flight, load, taken, .. } = &crash;
    println!("{kills} kills of {killed} servers, {in_flight} changes in flight");
    println!("{only_flushed} left what was flushed and nothing else");
    println!("{:?}, unflushed: {taken:?}", load.done);
    assert!(crash.taken.lost > 0, "no kill found anything unflushed: the test shows nothing");
    assert!(crash.taken.torn > 0, "nothing was torn: the test shows nothing");
}

/// SIGSTOP: the process is there, its connections are open, and it does nothing. An election takes
/// half a second, and the client notices soon afterwards, long before its attempts time out.
fn a_process_that_is_stopped_stops_nobody(tcp: bool) {
    let seed = number_from("CULVERT_CRASH_SEED", SEED);
    println!("CULVERT_CRASH_SEED={seed}");
    let files = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut crash = Crash::start(files.path(), folder.path(), seed, tcp);
    crash.run(200);
    for stopped in 0..3 {
        crash.run_into_the_middle(50);
        crash.waited = Duration::ZERO;
        crash.servers[stopped].signal(Signal::STOP);
        // Each of them led something: that takes an election, and then nothing waits for it.
        crash.run(400);
        let statistics = crash.load.client().statistics();
        println!("node {stopped} stopped: the longest wait was {:?}; {statistics:?}", crash.waited);
        assert!(crash.waited < WAIT_MAX, "{:?}", crash.waited);
        crash.load.read_all(|| false);
        crash.servers[stopped].signal(Signal::CONT);
        crash.run(100);
    }
    crash.load.read_all(|| false);
    crash.servers.iter_mut().for_each(Server::assert_runs);
}

#[test]
fn a_process_that_is_stopped_stops_nobody_over_shared_memory() {
    a_process_that_is_stopped_stops_nobody(false);
}

#[test]
fn a_process_that_is_stopped_stops_nobody_over_tcp() {
    a_process_that_is_stopped_stops_nobody(true);
}
