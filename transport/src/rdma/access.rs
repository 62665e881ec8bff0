#![allow(unsafe_code)]
//! What one peer may write: a segment of our window, by a key that holds for its queue pair alone.
//!
//! All connections of a device share one protection domain, because they share receives, and the key
//! of a registration holds for every queue pair of a domain: a peer that guesses it could write into
//! the window of another. So a registration lets nobody write; a memory window of type 2B is bound to
//! it, over the peer's own queue pair, and the peer gets the key of that. A device that has no such
//! windows lets the registration itself be written, and [`Device::open`] says so.
//!
//! The device looks at a key for each write: without a right to read in it, nothing can be read.

use std::ptr::NonNull;
use std::rc::Rc;

use culvert_memory::{PAGE_SIZE, Window};
use rustix::io::Errno;

use super::device::{Device, Domain, Registration};
use super::ffi::{self, BindInfo, BindWindow, Mw};
use super::link::Place;

/// See the module's documentation. It goes before its peer's queue pair, and within it the memory
/// window before what it is bound to.
pub(super) struct Access {
    memory_window: Option<MemoryWindow>,
    registration: Registration,
    address: u64,
    bytes: u64,
}

/// A memory window of type 2B.
struct MemoryWindow {
    raw: NonNull<Mw>,
    domain: Rc<Domain>,
    /// With which it is bound.
    rkey: u32,
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not used any more: its driver takes it back bound or not.
        let freed = unsafe { (self.domain.driver().dealloc_mw)(self.raw.as_ptr()) };
        if freed != 0 {
            tracing::warn!(error = freed, "ibv_dealloc_mw");
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl Access {
    /// Registers a segment. Where [`Access::binding`] has something, its peer may write it when that
    /// is done.
    pub(super) fn new(device: &Device, window: &Window) -> Result<Self, Errno> {
        let (start, bytes) = (window.as_ptr(), window.pages() as usize * PAGE_SIZE);
        let binds = device.binds_windows();
        let right = if binds { ffi::ACCESS_WINDOW_BIND } else { ffi::ACCESS_REMOTE_WRITE };
        let registration = device.register(window.region(), start, bytes, right)?;
        let memory_window = if binds { Some(MemoryWindow::new(device.domain())?) } else { None };
        let address = start.as_ptr() as u64;
        Ok(Self { memory_window, registration, address, bytes: bytes as u64 })
    }

    /// Where it is for the peer.
    pub(super) fn place(&self) -> Place {
        let rkey = match &self.memory_window {
            Some(window) => window.rkey,
            None => self.registration.rkey(),
        };
        Place { address: self.address, rkey }
    }

    /// What the peer's queue pair is to be posted.
    pub(super) fn binding(&self) -> Option<BindWindow> {
        let MemoryWindow { raw, rkey, .. } = self.memory_window.as_ref()?;
        let info = BindInfo {
            mr: self.registration.raw(),
            addr: self.address,
            length: self.bytes,
            mw_access_flags: ffi::ACCESS_REMOTE_WRITE as u32,
        };
        Some(BindWindow { mw: raw.as_ptr(), rkey: *rkey, info })
    }
}

impl MemoryWindow {
    fn new(domain: &Rc<Domain>) -> Result<Self, Errno> {
        let alloc = domain.driver().alloc_mw.ok_or(Errno::OPNOTSUPP)?;
        // SAFETY: the domain is open.
        let raw = unsafe { alloc(domain.raw(), ffi::WINDOW_TYPE_2) };
        let raw = NonNull::new(raw).ok_or_else(super::cm::last_errno)?;
        // SAFETY: it was made above; the field is set once.
        let key = unsafe { (*raw.as_ptr()).rkey };
        // Its owner chooses the lowest byte, another one each time it is bound.
        let rkey = (key & !0xff) | (key.wrapping_add(1) & 0xff);
        Ok(Self { raw, domain: Rc::clone(domain), rkey })
    }
}
