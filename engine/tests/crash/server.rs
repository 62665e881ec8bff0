//! A server in a process of its own: this test binary again, told so by its environment.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert::cluster::Cluster;
use culvert::config::NodeConfig;
use culvert::node::NodeReactor;
use rustix::process::{Pid, Signal, kill_process};

use super::undo_log::{Cut, Taken, UndoLogged, take_back};
use crate::rig::random::Random;

/// Path of the configuration; a process that has it is a server.
const CONFIG: &str = "CULVERT_CRASH_TEST_CONFIG";
/// Path of the side file.
const SIDE: &str = "CULVERT_CRASH_TEST_SIDE";
/// Set where replicas are to be created.
const CREATE: &str = "CULVERT_CRASH_TEST_CREATE";

/// Lines of a server's log that are shown when it ended by itself.
const LOG_LINES: usize = 20;

/// One node and its process.
pub struct Server {
    config: PathBuf,
    device: PathBuf,
    side: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// The node of a configuration, whose only device is on the file `device`. It does not run yet.
    pub fn new(config: &Path, device: &Path) -> Server {
        Server {
            config: config.to_owned(),
            device: device.to_owned(),
            side: config.with_extension("undo"),
            log: config.with_extension("log"),
            child: None,
        }
    }

    /// Starts the process.
    pub fn start(&mut self, create: bool) -> io::Result<()> {
        assert!(self.child.is_none(), "it does not run");
        let output = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--exact", "serves_where_the_environment_says_so", "--nocapture"])
            .env(CONFIG, &self.config)
            .env(SIDE, &self.side)
            // What it says at its end stands in the last lines of its log.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if create {
            command.env(CREATE, "1");
        }
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Kills the process where it stands, without waiting for its end.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.as_mut().expect("it runs").kill()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("it runs"));
        kill_process(pid, signal).expect("a child of ours");
    }

    /// Waits for the end of a process that was killed, and lets the device lose what it may.
    pub fn lose(&mut self, cut: Cut, random: &mut Random) -> io::Result<Taken> {
        self.child.take().expect("it was killed").wait()?;
        take_back(&self.device, &self.side, cut, random)
    }

    /// Asserts that the process runs.
    pub fn assert_runs(&mut self) {
        let child = self.child.as_mut().expect("it runs");
        if let Some(status) = child.try_wait().expect("a child of ours") {
            panic!("a server ended by itself: {status}\n{}", self.last_words());
        }
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended needs no killing.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

/// Serves for ever, if this process was started as a server.
pub fn serve_if_asked() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let side = PathBuf::from(std::env::var_os(SIDE).expect("a side file"));
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .expect("a signal at the parent's end");
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let config = NodeConfig::load(Path::new(&config)).expect("a configuration");
    let cluster = Cluster::load(&config.cluster_file).expect("a cluster file");
    let create = std::env::var_os(CREATE).is_some();
    let mut reactor = NodeReactor::open_with(&config, &cluster, 0, create, |device, inner| {
        let path = device.uri.strip_prefix("uring:").expect("a file through io_uring");
        UndoLogged::new(inner, Path::new(path), &side).expect("files")
    })
    .unwrap_or_else(|error| panic!("node {}: {:#}", config.node, anyhow::Error::from(error)));
    loop {
        reactor.turn_or_idle();
    }
}
