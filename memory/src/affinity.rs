//! Which core a thread runs on.

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use thiserror::Error;

/// Why a thread could not be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AffinityError {
    /// Caller: the number is beyond what the kernel's set of cores holds.
    #[error("there is no core {core}")]
    NoSuchCore {
        /// The core asked for.
        core: usize,
    },
    /// Machine: the kernel refused, because the core is absent or not allowed to this process.
    #[error("the kernel refused to pin the thread to core {core}")]
    Refused {
        /// The core asked for.
        core: usize,
        /// What the kernel answered.
        source: Errno,
    },
    /// Machine: the allowed cores could not be read.
    #[error("the allowed cores could not be read")]
    Unreadable(#[source] Errno),
}

/// Lets the current thread run on `core` only.
///
/// # Errors
///
/// When there is no such core or this process may not use it.
pub fn pin_current_thread(core: usize) -> Result<(), AffinityError> {
    if core >= CpuSet::MAX_CPU {
        return Err(AffinityError::NoSuchCore { core });
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).map_err(|source| AffinityError::Refused { core, source })
}

/// The cores that the current thread may run on, in ascending order.
///
/// # Errors
///
/// When the kernel does not say.
pub fn allowed_cores() -> Result<Vec<usize>, AffinityError> {
    let cores = sched_getaffinity(None).map_err(AffinityError::Unreadable)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).collect())
}

/// The NUMA node of a core; `None` where the kernel does not say.
pub fn numa_node_of(core: usize) -> Option<u32> {
    let directory = format!("/sys/devices/system/cpu/cpu{core}");
    std::fs::read_dir(directory)
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_to_an_allowed_core() {
        std::thread::spawn(|| {
            let core = *allowed_cores().unwrap().last().unwrap();
            pin_current_thread(core).unwrap();
            assert_eq!(allowed_cores().unwrap(), [core]);
            assert_eq!(rustix::thread::sched_getcpu(), core);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_absent_core_is_an_error() {
        let error = pin_current_thread(CpuSet::MAX_CPU).unwrap_err();
        assert_eq!(error, AffinityError::NoSuchCore { core: CpuSet::MAX_CPU });
        assert!(matches!(
            pin_current_thread(CpuSet::MAX_CPU - 1),
            Err(AffinityError::Refused { .. })
        ));
    }
}
