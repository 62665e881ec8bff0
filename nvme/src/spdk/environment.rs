#![allow(unsafe_code)]
//! What SPDK wants of a process: its environment, which is set up once, and memory that it knows.
//!
//! It is to leave the process as it is: one core is named to it, the calling thread goes back to the
//! cores it had, and what SPDK says goes into the log.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use culvert_memory::{Region, RegionId};
use rustix::io::Errno;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::ffi;
use crate::contract::RegisterError;

/// SPDK registers memory by hugepages of this size.
const GRANULE: usize = 2 << 20;

/// Regions that are registered, and how many queue pairs want each: SPDK has one list for a process.
static REGISTERED: Mutex<BTreeMap<RegionId, usize>> = Mutex::new(BTreeMap::new());

/// Sets SPDK's environment up, if that was not done before.
///
/// # Errors
///
/// What SPDK answered; always the same.
pub(super) fn set_up() -> Result<(), Errno> {
    static DONE: OnceLock<Result<(), Errno>> = OnceLock::new();
    *DONE.get_or_init(|| {
        let cores = sched_getaffinity(None)?;
        let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|core| cores.is_set(*core));
        let core = CString::new(format!("[{}]", core.unwrap_or(0))).expect("digits");
        let mut options = ffi::EnvironmentOptions::zeroed();
        // SAFETY: the structure is SPDK's, and says how long it is.
        unsafe { ffi::spdk_env_opts_init(&mut options) };
        options.name = c"culvert".as_ptr();
        options.core_mask = core.as_ptr();
        options.opts_size = size_of::<ffi::EnvironmentOptions>();
        // SAFETY: the callback lives for ever.
        unsafe { ffi::spdk_log_open(Some(log)) };
        // SAFETY: as above; SPDK copies the texts.
        let result = unsafe { ffi::spdk_env_init(&options) };
        // It has bound this thread to the core that was named.
        sched_setaffinity(None, &cores)?;
        if result == 0 { Ok(()) } else { Err(errno(result)) }
    })
}

/// What a negative result says.
pub(super) fn errno(result: c_int) -> Errno {
    Errno::from_raw_os_error(result.unsigned_abs() as i32)
}

/// What SPDK says, as events of ours.
unsafe extern "C" fn log(
    level: c_int,
    _file: *const c_char,
    _line: c_int,
    function: *const c_char,
    format: *const c_char,
    arguments: *mut c_void,
) {
    let mut text = [0u8; 512];
    // SAFETY: the buffer has the length named, and the others are SPDK's to `vprintf`.
    unsafe { ffi::vsnprintf(text.as_mut_ptr().cast(), text.len(), format, arguments) };
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
    let function = if function.is_null() {
        c""
    } else {
        // SAFETY: a text of SPDK's that does not change.
        unsafe { CStr::from_ptr(function) }
    };
    let (text, function) = (text.trim_end(), function.to_string_lossy());
    match level {
        0 => tracing::error!(target: "spdk", %function, "{text}"),
        1 => tracing::warn!(target: "spdk", %function, "{text}"),
        2 | 3 => tracing::info!(target: "spdk", %function, "{text}"),
        _ => tracing::debug!(target: "spdk", %function, "{text}"),
    }
}

/// Makes a region known to SPDK, and with it to all devices.
pub(super) fn register(region: &Region) -> Result<(), RegisterError> {
    let (base, bytes) = (region.base().as_ptr(), region.len());
    let refused = |source| RegisterError::Refused { bytes, source };
    if !(base as usize).is_multiple_of(GRANULE) || !bytes.is_multiple_of(GRANULE) {
        let text = "SPDK takes whole hugepages of 2 MiB: reserve some (`sysctl vm.nr_hugepages`)";
        return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    match registered.entry(region.id()) {
        Entry::Occupied(mut users) => *users.get_mut() += 1,
        Entry::Vacant(users) => {
            // SAFETY: whoever registers a region keeps it mapped until it is unregistered.
            let result = unsafe { ffi::spdk_mem_register(base.cast(), bytes) };
            if result != 0 {
                return Err(refused(errno(result).into()));
            }
            users.insert(1);
        }
    }
    Ok(())
}

/// Ends that of [`register`]; no command that names the region is under way on its queue pair.
pub(super) fn unregister(region: &Region) {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(users) = registered.get_mut(&region.id()) else { return };
    *users -= 1;
    if *users > 0 {
        return;
    }
    registered.remove(&region.id());
    // SAFETY: it was registered, as it is.
    let result = unsafe { ffi::spdk_mem_unregister(region.base().as_ptr().cast(), region.len()) };
    if result != 0 {
        tracing::error!(error = %errno(result), "SPDK does not let go of memory: it is kept mapped");
        std::mem::forget(region.clone());
    }
}
