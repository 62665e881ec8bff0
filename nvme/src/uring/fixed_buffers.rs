#![allow(unsafe_code)]
//! Regions registered with an io_uring instance as fixed buffers.
//!
//! The kernel pins registered memory once, and requests name it by its place in a table. One place
//! holds at most 1 GiB, so a larger region takes several adjacent ones; a transfer that crosses
//! from one into the next is sent as an ordinary request, as are all of them on kernels without
//! sparse tables (before Linux 5.19).

use std::io;
use std::ptr::NonNull;

use culvert_memory::{Region, RegionId};
use io_uring::Submitter;

use crate::contract::RegisterError;

/// Most bytes of one place: the kernel's limit.
const PLACE_BYTES: usize = 1 << 30;

/// Where the bytes of a transfer are for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Inside one place of the table.
    Place(u16),
    /// Registered, but not inside one place.
    Ordinary,
}

#[derive(Debug)]
struct Registered {
    /// Keeps the memory mapped.
    region: Region,
    first: u32,
    places: u32,
}

/// The table.
#[derive(Debug)]
pub(crate) struct FixedBuffers {
    /// Sorted by region number.
    registered: Vec<Registered>,
    /// The entry that was found last.
    recent: usize,
    /// Which places are taken.
    taken: Vec<bool>,
    /// Whether the kernel has a table.
    sparse: bool,
}

impl FixedBuffers {
    /// A table of `places` places.
    pub(super) fn new(submitter: &Submitter<'_>, places: u32) -> FixedBuffers {
        let sparse = submitter.register_buffers_sparse(places);
        if let Err(error) = &sparse {
            tracing::warn!(%error, "no table of fixed buffers: requests pin their memory each time");
        }
        FixedBuffers {
            registered: Vec::new(),
            recent: 0,
            taken: vec![false; places as usize],
            sparse: sparse.is_ok(),
        }
    }

    /// Adds a region.
    pub(super) fn insert(
        &mut self,
        submitter: &Submitter<'_>,
        region: &Region,
    ) -> Result<(), RegisterError> {
        let Err(at) = self.position(region.id()) else { return Ok(()) };
        let places = region.len().div_ceil(PLACE_BYTES) as u32;
        let first = self
            .find_places(places)
            .ok_or(RegisterError::TableFull { regions_max: self.taken.len() as u32 })?;
        if self.sparse {
            register(submitter, region, first)
                .inspect_err(|_| clear(submitter, first, places))
                .map_err(|error| refusal(error, region.len()))?;
        }
        self.taken[first as usize..(first + places) as usize].fill(true);
        self.registered.insert(at, Registered { region: region.clone(), first, places });
        Ok(())
    }

    /// Removes a region. Requests in flight keep its memory pinned until they complete.
    pub(super) fn remove(&mut self, submitter: &Submitter<'_>, region: &Region) {
        let Ok(at) = self.position(region.id()) else { return };
        let Registered { first, places, .. } = self.registered.remove(at);
        if self.sparse {
            clear(submitter, first, places);
        }
        self.taken[first as usize..(first + places) as usize].fill(false);
    }

    /// Where `bytes` bytes at `pointer` are, which lie in `region`; `None` when that is not
    /// registered.
    #[inline]
    pub(super) fn locate(
        &mut self,
        region: &Region,
        pointer: NonNull<u8>,
        bytes: usize,
    ) -> Option<Location> {
        let id = region.id();
        let known = match self.registered.get(self.recent) {
            Some(recent) if recent.region.id() == id => recent,
            _ => {
                self.recent = self.position(id).ok()?;
                &self.registered[self.recent]
            }
        };
        let offset = pointer.as_ptr() as usize - known.region.base().as_ptr() as usize;
        let place = offset / PLACE_BYTES;
        let crosses = (offset + bytes - 1) / PLACE_BYTES != place;
        if !self.sparse || crosses {
            return Some(Location::Ordinary);
        }
        Some(Location::Place((known.first as usize + place) as u16))
    }

    fn position(&self, id: RegionId) -> Result<usize, usize> {
        self.registered.binary_search_by_key(&id, |known| known.region.id())
    }

    /// The first of `places` adjacent free places.
    fn find_places(&self, places: u32) -> Option<u32> {
        let mut run = 0;
        for (index, taken) in self.taken.iter().enumerate() {
            run = if *taken { 0 } else { run + 1 };
            if run == places {
                return Some(index as u32 + 1 - places);
            }
        }
        None
    }
}

/// Puts a region into the kernel's table, from place `first` on.
fn register(submitter: &Submitter<'_>, region: &Region, first: u32) -> io::Result<()> {
    for (index, start) in (0..region.len()).step_by(PLACE_BYTES).enumerate() {
        // SAFETY: `start` is inside the region.
        let base = unsafe { region.base().add(start) };
        let bytes = PLACE_BYTES.min(region.len() - start);
        let place = libc::iovec { iov_base: base.as_ptr().cast(), iov_len: bytes };
        // SAFETY: the region stays mapped while `Registered` holds it, which is until its places
        // are cleared.
        unsafe { submitter.register_buffers_update(first + index as u32, &[place], None) }?;
    }
    Ok(())
}

/// Empties places of the kernel's table.
fn clear(submitter: &Submitter<'_>, first: u32, places: u32) {
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    for place in first..first + places {
        // SAFETY: an empty place refers to no memory.
        let cleared = unsafe { submitter.register_buffers_update(place, &[empty], None) };
        if let Err(error) = cleared {
            tracing::warn!(%error, place, "a fixed buffer could not be unregistered");
        }
    }
}

/// Tells the limit of locked memory from other refusals.
fn refusal(source: io::Error, bytes: usize) -> RegisterError {
    match source.raw_os_error() {
        Some(libc::ENOMEM | libc::EPERM) => RegisterError::LockedMemoryLimit { bytes },
        _ => RegisterError::Refused { bytes, source },
    }
}
