//! Nothing is left behind: not after an error, a Ctrl-C, or a SIGKILL of an earlier run.
//!
//! A [`Scratch`] folder and the server processes are noted while they exist. They go when their
//! owners are dropped; on SIGINT, SIGTERM or SIGHUP a thread ends the processes, removes the
//! folders, and ends this process. Servers also end with their parent, and a folder whose maker is
//! gone, so that its lock is free, is removed by the next run.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code after a signal.
const INTERRUPTED: i32 = 130;

/// Names of scratch folders: `culvert-PID-COUNT`.
const PREFIX: &str = "culvert-";

/// A file in each scratch folder, locked while its maker runs.
const LOCK: &str = "lock";

#[derive(Default)]
struct Noted {
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

static NOTED: Mutex<Noted> = Mutex::new(Noted { processes: Vec::new(), folders: Vec::new() });

fn noted() -> MutexGuard<'static, Noted> {
    // Lists of names are right whatever panicked meanwhile.
    NOTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that cleans up after a signal. Once per process.
///
/// # Errors
///
/// When the signals cannot be taken over.
pub fn on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            let noted = noted();
            noted.processes.iter().for_each(|pid| end_process(*pid));
            noted.folders.iter().for_each(|folder| remove(folder));
            exit(INTERRUPTED);
        }
    })?;
    Ok(())
}

/// A process ends with this one.
pub(super) fn note_process(pid: u32) {
    noted().processes.push(pid);
}

/// A process has ended and has been waited for.
pub(super) fn forget_process(pid: u32) {
    noted().processes.retain(|noted| *noted != pid);
}

fn end_process(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// What cannot be removed now is removed by the next run.
fn remove(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}

/// A folder of this process alone, in memory where the machine has `/dev/shm`.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a folder, after removing those that earlier runs left.
    ///
    /// # Errors
    ///
    /// When there is no place for it.
    pub fn new() -> io::Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent = Scratch::parent();
        remove_stale(&parent);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
        fs::create_dir(&folder)?;
        noted().folders.push(folder.clone());
        let lock = File::create(folder.join(LOCK))?;
        lock.lock()?;
        Ok(Scratch { folder, _lock: lock })
    }

    /// The folder that all of them are made in.
    #[must_use]
    pub fn parent() -> PathBuf {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
    }

    /// A path inside.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
        noted().folders.retain(|folder| *folder != self.folder);
    }
}

fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = File::open(entry.path().join(LOCK));
        if ours && lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_owner_and_stale_ones_with_the_next() {
        let scratch = Scratch::new().expect("a place for it");
        let folder = scratch.path("");
        let stale = folder.with_file_name(format!("{PREFIX}stale-{}", std::process::id()));
        fs::create_dir_all(&stale).expect("a place for it");
        drop(Scratch::new().expect("a place for it"));
        assert!(stale.exists(), "not known to be ours without its lock");
        File::create(stale.join(LOCK)).expect("a place for it");
        drop(Scratch::new().expect("a place for it"));
        assert!(!stale.exists(), "nobody holds its lock");
        assert!(folder.exists(), "its maker runs");
        drop(scratch);
        assert!(!folder.exists());
    }
}
