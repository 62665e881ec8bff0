//! `culvert serve` in a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Lines of a server's log that are shown when it ended by itself.
const LOG_LINES: usize = 20;

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It runs.
    Up,
    /// It was stopped where it stood, and goes on later.
    Stopped,
    /// It was killed.
    Dead,
}

/// One node.
pub struct Server {
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    stopped: bool,
}

impl Server {
    /// The node of a configuration; `create` says that its replicas do not exist yet.
    pub fn start(config: &Path, create: bool) -> Server {
        let log = config.with_extension("log");
        let mut server = Server { config: config.to_owned(), log, child: None, stopped: false };
        server.spawn(create);
        server
    }

    /// How it is.
    pub fn health(&self) -> Health {
        match (&self.child, self.stopped) {
            (None, _) => Health::Dead,
            (Some(_), true) => Health::Stopped,
            (Some(_), false) => Health::Up,
        }
    }

    /// Kills it where it stands, and waits for its end.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it lives");
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
        self.stopped = false;
    }

    /// Stops it where it stands.
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        self.stopped = true;
    }

    /// Lets it live again, whatever was done to it.
    pub fn revive(&mut self) {
        match self.health() {
            Health::Up => {}
            Health::Stopped => {
                self.signal(Signal::CONT);
                self.stopped = false;
            }
            Health::Dead => self.spawn(false),
        }
    }

    /// Asserts that it did not end by itself.
    pub fn assert_lives(&mut self) {
        let Some(child) = &mut self.child else { return };
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

    fn spawn(&mut self, create: bool) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.args(["serve", "--end-with-parent", "--config"]).arg(&self.config);
        if create {
            command.arg("--create-replicas");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("a process"));
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("it lives"));
        kill_process(pid, signal).expect("a child of ours");
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
