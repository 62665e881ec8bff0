#![allow(unsafe_code)]
//! What a device can reach: a VFIO container with one group, and the memory mapped into it.
//!
//! Memory is counted by its users, which are queue pairs of one controller on several threads; it
//! has one device address for all of them.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_memory::{Mapping, PAGE_SIZE};
use rustix::io::Errno;

use super::address::PciAddress;
use super::error::VfioError;
use super::ioctl;
use super::iova::IovaSpace;
use crate::contract::RegisterError;

const CONTAINER: &str = "/dev/vfio/vfio";
const HUGE: u64 = 2 << 20;

/// See the module's documentation.
///
/// Fields are dropped in order: the group and the container, and with them the device's reach,
/// before the memory. The device's own file is closed before (`Device`).
#[derive(Debug)]
pub(super) struct Container {
    group: OwnedFd,
    container: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Everything was unmapped, for good.
    revoked: bool,
    space: IovaSpace,
    mapped: Vec<Mapped>,
    /// Memory of the controller itself.
    own: Option<(Mapping, u64)>,
}

#[derive(Debug)]
struct Mapped {
    base: usize,
    bytes: usize,
    address: u64,
    users: u32,
}

/// Whether the group is another process's.
pub(super) fn is_busy(error: &VfioError) -> bool {
    matches!(error, VfioError::NoVfio { source, .. } if Errno::from_io_error(source) == Some(Errno::BUSY))
}

fn open(path: &str) -> Result<OwnedFd, VfioError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|source| VfioError::NoVfio { path: path.to_owned(), source })
}

impl Container {
    /// Opens a group; nobody else can until this is dropped.
    pub(super) fn open(group: u32) -> Result<Container, VfioError> {
        let container = open(CONTAINER)?;
        let usable = ioctl::is_usable(container.as_fd()).map_err(VfioError::of("asking VFIO"))?;
        if !usable {
            return Err(VfioError::Unsupported);
        }
        let number = group;
        let group = open(&format!("/dev/vfio/{group}"))?;
        if !ioctl::is_viable(group.as_fd()).map_err(VfioError::of("asking the IOMMU group"))? {
            return Err(VfioError::NotViable { group: number });
        }
        ioctl::attach(group.as_fd(), container.as_fd())
            .map_err(VfioError::of("giving the IOMMU group its container"))?;
        let ranges = ioctl::address_ranges(container.as_fd())
            .map_err(VfioError::of("asking the IOMMU for its addresses"))?;
        let space = IovaSpace::new(ranges);
        let state = State { revoked: false, space, mapped: Vec::new(), own: None };
        Ok(Container { group, container, state: Mutex::new(state) })
    }

    /// Opens a device of the group.
    pub(super) fn device(&self, address: PciAddress) -> Result<OwnedFd, VfioError> {
        ioctl::device(self.group.as_fd(), &address.name())
            .map_err(VfioError::of("opening the device"))
    }

    /// Makes memory reachable, and says where.
    ///
    /// # Safety
    ///
    /// The memory stays mapped in this process until [`Container::unmap`] was called as often, and
    /// nobody relies on its bytes against what devices are told to do.
    pub(super) unsafe fn map(&self, base: NonNull<u8>, bytes: usize) -> Result<u64, RegisterError> {
        let mut state = self.lock();
        let start = base.as_ptr() as usize;
        if let Some(known) = state.mapped.iter_mut().find(|known| known.base == start) {
            assert_eq!(known.bytes, bytes, "memory is mapped whole");
            known.users += 1;
            return Ok(known.address);
        }
        // SAFETY: as the caller promises.
        let address = unsafe { self.map_new(&mut state, base, bytes) }?;
        state.mapped.push(Mapped { base: start, bytes, address, users: 1 });
        Ok(address)
    }

    /// Takes memory away from the device, unless somebody else has mapped it too. On return the
    /// device cannot reach what it has lost.
    pub(super) fn unmap(&self, base: NonNull<u8>) -> io::Result<()> {
        let mut state = self.lock();
        if state.revoked {
            return Ok(());
        }
        let start = base.as_ptr() as usize;
        let index = state.mapped.iter().position(|known| known.base == start);
        let index = index.expect("only what was mapped is unmapped");
        state.mapped[index].users -= 1;
        if state.mapped[index].users > 0 {
            return Ok(());
        }
        let Mapped { address, bytes, .. } = state.mapped.swap_remove(index);
        ioctl::unmap(self.container.as_fd(), address, bytes)?;
        state.space.give_back(address, bytes as u64);
        Ok(())
    }

    /// Takes all memory away from the device, whoever mapped it, for good. On success the device can
    /// reach nothing.
    pub(super) fn revoke(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.revoked {
            return Ok(());
        }
        let container = self.container.as_fd();
        // Where one fails, all stay listed for those who unmap theirs; to unmap twice is no error.
        for Mapped { address, bytes, .. } in &state.mapped {
            ioctl::unmap(container, *address, *bytes)?;
        }
        // Its memory stays: the driver half may know where it is.
        if let Some((mapping, address)) = &state.own {
            ioctl::unmap(container, *address, mapping.len())?;
        }
        state.mapped.clear();
        state.revoked = true;
        Ok(())
    }

    /// Memory of the controller itself, which lives as long as this: the same each time.
    pub(super) fn own(
        &self,
        make: impl FnOnce() -> Option<Mapping>,
    ) -> Result<(NonNull<u8>, u64), RegisterError> {
        let mut state = self.lock();
        if let Some((mapping, address)) = &state.own {
            return Ok((mapping.as_ptr(), *address));
        }
        let mapping = make().ok_or_else(|| refused(0, Errno::NOMEM))?;
        let base = mapping.as_ptr();
        // SAFETY: the mapping is dropped after the container, and nobody but the driver half, which
        // shares it with the controller, has seen it.
        let address = unsafe { self.map_new(&mut state, base, mapping.len()) }?;
        state.own = Some((mapping, address));
        Ok((base, address))
    }

    /// # Safety
    ///
    /// As [`Container::map`].
    unsafe fn map_new(
        &self,
        state: &mut State,
        base: NonNull<u8>,
        bytes: usize,
    ) -> Result<u64, RegisterError> {
        if state.revoked {
            return Err(refused(bytes, Errno::NODEV));
        }
        // So that an IOMMU can use its large pages where memory does.
        let alignment = if bytes as u64 >= HUGE { HUGE } else { PAGE_SIZE as u64 };
        let address = state.space.take(bytes as u64, alignment);
        let address = address.ok_or_else(|| refused(bytes, Errno::NOSPC))?;
        // SAFETY: as the caller promises.
        let mapped = unsafe { ioctl::map(self.container.as_fd(), base, bytes, address) };
        mapped.map_err(|source| {
            state.space.give_back(address, bytes as u64);
            match Errno::from_io_error(&source) {
                Some(Errno::NOMEM) => RegisterError::LockedMemoryLimit { bytes },
                _ => RegisterError::Refused { bytes, source },
            }
        })?;
        Ok(address)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(bytes: usize, errno: Errno) -> RegisterError {
    RegisterError::Refused { bytes, source: errno.into() }
}
