//! Who may use a device: one process that writes, or any number that only read.
//!
//! A claim is an advisory lock (`flock`) on the very file through which the device is read and
//! written, and is taken before anything else is done with it. A block device is opened with
//! `O_EXCL` besides, which keeps mounted file systems and whoever else claims it so away. The lock
//! lives as long as that open file: until the last queue pair on it is gone and, for io_uring, the
//! last request in flight has reached the device, also when the process was killed. A namespace as a character
//! device is claimed by its block device. It never
//! outlives its users, so there is nothing to clean up after a crash. A controller behind VFIO is
//! claimed by the kernel's own rule that an IOMMU group is opened once, whoever only reads or not.
//!
//! **Fault model.** The lock is advisory: it keeps away what asks for it, and every queue pair of
//! this crate does. A program that writes to the device without asking is not kept away.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::emulated::EmulatedOptions;
use crate::open::OpenError;
#[cfg(feature = "spdk")]
use crate::spdk::{SpdkController, SpdkOptions};
use crate::uri::{Device, DeviceUri};
use crate::uring::{Generic, Target, UringOptions};
use crate::vfio::{self, VfioOptions};

/// How long a claim waits for another to end: a process may be just ending, and udev takes a lock
/// for a moment to look at a device that was just written.
const PATIENCE: Duration = Duration::from_secs(1);

/// ... and where the holder is gone already. Then the kernel still has its open file: its last
/// requests are under way and may yet be written, or its io_uring is being taken down, which was
/// seen to take more than fifteen seconds on a machine with much else to do.
const PATIENCE_GONE: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Where the kernel lists locks and who holds them.
const LOCKS: &str = "/proc/locks";

/// Looks at that list until the holder is found in it.
const LOOKS_MAX: u32 = 32;

/// What a claim allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing: nobody else has a claim.
    Exclusive,
    /// Reading: others may read, and nobody writes. The holder must not write either; this is not
    /// enforced.
    Shared,
}

/// Who is in the way of a claim, as far as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Us,
    /// Another process, by its number.
    Process(u32),
    /// A process that is gone, whose last requests are under way; or one in a container that this
    /// process cannot see into.
    Gone,
    /// Somebody.
    Unknown,
    /// A mounted file system, or a program that opened the block device exclusively.
    Exclusive,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Us => f.write_str("this process itself"),
            Holder::Process(process) => write!(f, "process {process}"),
            Holder::Gone => {
                f.write_str("the last requests of a process that is gone, or another container")
            }
            Holder::Unknown => f.write_str("another process"),
            Holder::Exclusive => f.write_str("a mounted file system or another program"),
        }
    }
}

/// The right to use a device, and the device's open file. Clones share it: several queue pairs of
/// one program, each on a thread of its own, are opened with one claim by
/// [`open_claimed`](crate::open_claimed).
#[derive(Clone, Debug)]
pub struct DeviceClaim {
    pub(crate) device: Claimed,
}

/// A device that was claimed.
#[derive(Clone, Debug)]
pub(crate) enum Claimed {
    /// Its file, unless it is in memory: then each queue pair has a device of its own.
    Emulated(EmulatedOptions, Option<Arc<File>>),
    /// A file or block device.
    Uring(UringOptions, Arc<Target>),
    /// A namespace that the kernel drives, as a character device.
    Generic(UringOptions, Arc<Generic>),
    /// A controller, whose IOMMU group is open.
    Vfio(VfioOptions, Arc<vfio::Device>),
    /// A controller that SPDK has connected to.
    #[cfg(feature = "spdk")]
    Spdk(SpdkOptions, Arc<SpdkController>),
}

impl DeviceClaim {
    /// Claims the device that a URI names; a file that the URI describes is made if it is missing.
    /// Waits up to a second for a process that is just ending, and longer for what one has left
    /// under way.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] when somebody else uses the device; others when it is not there or
    /// cannot do what is needed.
    pub fn take(uri: &DeviceUri, access: Access) -> Result<DeviceClaim, OpenError> {
        let device = match uri.device() {
            Device::Emulated(options) => {
                let file = crate::emulated::open_file(options, access)?;
                Claimed::Emulated(options.clone(), file.map(Arc::new))
            }
            Device::Uring(options) if Generic::is_at(options) => {
                let generic = Generic::open(options, access)?;
                Claimed::Generic(options.clone(), Arc::new(generic))
            }
            Device::Uring(options) => {
                let target = Target::open(options, access)?;
                Claimed::Uring(options.clone(), Arc::new(target))
            }
            Device::Vfio(options) => {
                let device = vfio::open_device(options)?;
                Claimed::Vfio(options.clone(), Arc::new(device))
            }
            #[cfg(feature = "spdk")]
            Device::Spdk(options) => {
                let connected = SpdkController::connect(options);
                let target = options.target.clone();
                let controller = connected.map_err(|source| OpenError::Spdk { target, source })?;
                Claimed::Spdk(options.clone(), Arc::new(controller))
            }
        };
        Ok(DeviceClaim { device })
    }
}

/// Why a file cannot be claimed.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Somebody has a claim that excludes this one.
    InUse(Holder),
    /// The kernel refused for another reason.
    Failed(Errno),
}

/// Locks a file that was just opened.
pub(crate) fn lock(file: &File, access: Access) -> Result<(), Refused> {
    let operation = match access {
        Access::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Access::Shared => FlockOperation::NonBlockingLockShared,
    };
    let since = Instant::now();
    let mut said = false;
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => {
                let waited_ms = since.elapsed().as_millis() as u64;
                if waited_ms > 0 {
                    tracing::info!(waited_ms, "waited for the device's last user");
                }
                return Ok(());
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(Refused::Failed(errno)),
        }
        if since.elapsed() >= PATIENCE {
            let holder = holder_of(file);
            if holder != Holder::Gone || since.elapsed() >= PATIENCE_GONE {
                return Err(Refused::InUse(holder));
            }
            if !said {
                said = true;
                tracing::warn!(
                    patience_s = PATIENCE_GONE.as_secs(),
                    "waiting for the last requests of the device's last user, which is gone"
                );
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Ends the lock of a file, however many handles it has.
pub(crate) fn unlock(file: &File) {
    if let Err(error) = rustix::fs::flock(file, FlockOperation::Unlock) {
        tracing::warn!(%error, "a device could not be unlocked");
    }
}

/// Repeats for a while what fails because somebody is in the way.
pub(crate) fn patiently<T, E>(
    is_in_the_way: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_in_the_way(&error) && since.elapsed() < PATIENCE => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn holder_of(file: &File) -> Holder {
    let Ok(metadata) = file.metadata() else { return Holder::Unknown };
    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    // The list is no snapshot: where others lock and unlock meanwhile, it may leave one out.
    let found = (0..LOOKS_MAX).find_map(|_| {
        let locks = std::fs::read_to_string(LOCKS).unwrap_or_default();
        find_holder(&locks, device, metadata.ino())
    });
    match found {
        Some(process) if process == std::process::id() => Holder::Us,
        // What is listed as 0 has no folder there.
        Some(process) if std::fs::exists(format!("/proc/{process}")).unwrap_or(true) => {
            Holder::Process(process)
        }
        Some(_) => Holder::Gone,
        None => Holder::Unknown,
    }
}

/// Looks for a lock on a file, by its file system's device and its inode, in lines such as
/// `1: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF`.
fn find_holder(locks: &str, (major, minor): (u32, u32), inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, place, ..] = fields[..] else { return None };
        // A holder that is gone, or outside of this process namespace, is listed as 0.
        process.parse().ok().filter(|_| place == file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_from_the_kernels_list() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 00:1b:42 0 EOF
2: -> FLOCK  ADVISORY  WRITE 12 00:1b:42 0 EOF
3: FLOCK  ADVISORY  WRITE 13 00:1b:43 0 EOF
4: FLOCK  ADVISORY  WRITE 14 fd:01:42 0 EOF
5: FLOCK  ADVISORY  READ  15 00:1b:42 0 EOF
6: FLOCK  ADVISORY  READ  0 00:1b:44 0 EOF
";
        assert_eq!(find_holder(locks, (0, 0x1b), 42), Some(15));
        assert_eq!(find_holder(locks, (0xfd, 1), 42), Some(14));
        assert_eq!(find_holder(locks, (0, 0x1b), 44), Some(0));
        assert_eq!(find_holder(locks, (0, 0x1b), 45), None);
        assert_eq!(find_holder("", (0, 0), 1), None);
    }
}
