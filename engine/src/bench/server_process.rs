//! A server in a process of its own: this binary, started with `serve`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cleanup::{forget_process, note_process};

/// How long a server may take to end after SIGTERM before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Lines of a server's log that are shown when it ended by itself.
const LOG_LINES: usize = 15;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `culvert serve` with a configuration; what it says is appended to `log`.
    ///
    /// # Errors
    ///
    /// When the process or its log cannot be made.
    pub fn start(config: &Path, log: &Path, arguments: &[&str]) -> io::Result<ServerProcess> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--end-with-parent", "--config"])
            .arg(config)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        note_process(child.id());
        Ok(ServerProcess { child, log: log.to_owned() })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The end of what it said.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When the system refuses, or the process is gone.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        match pid.filter(|_| matches!(self.child.try_wait(), Ok(None))) {
            Some(pid) => Ok(kill_process(pid, signal)?),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        forget_process(self.child.id());
        Ok(())
    }

    /// Asks it to end, and kills it when it does not.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn stop(&mut self) -> io::Result<()> {
        if self.ended()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > END_PATIENCE {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        forget_process(self.child.id());
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Nothing is left to do about one that cannot be killed.
        let _ = self.kill();
    }
}
