#![allow(unsafe_code)]
//! A shared mapping of a memfd, a peer's memfd, or a file.
//!
//! A [`Mapping`] owns an address range and the file behind it, and nothing else: who may look at
//! which bytes is decided by [`Region`](crate::Region) and the handles above it.
//!
//! **Backing.** Hugepages are asked for when the memfd is created, but the kernel only says that
//! it has none when the memfd is mapped (`memfd_create` succeeds, `mmap` answers `ENOMEM`). So
//! the probe is the mapping itself, and [`Backing::HugeOrOrdinary`] falls back there, with one
//! warning per process. Setting the environment variable `CULVERT_TEST_ORDINARY=1` makes every
//! [`Mapping::create`] use ordinary pages, so that a test suite runs where none are reserved; with
//! `CULVERT_TEST_HUGE=1` there is no falling back, so that a test suite that passes has used
//! hugepages.
//!
//! **Fault model.** A touch of a page that its file does not have is `SIGBUS`, which ends the
//! process. So a peer's memfd is only mapped when it is sealed against shrinking and has the size
//! agreed on, and pages are populated by a call that answers with an error instead. What remains:
//! a peer on this machine can punch holes into a memfd that it holds. Ordinary pages then come
//! back as zeros; a *hugepage* comes back only while the machine has one left.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Once;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use thiserror::Error;

use crate::numa;
use crate::{HUGE_PAGE_SIZE, PAGE_SIZE};

/// Size of a 1 GiB hugepage, in bytes.
const GIGANTIC_PAGE_SIZE: usize = 1 << 30;

/// `f_type` of hugetlbfs, where hugepage memfds live.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// What kind of pages a mapping is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// 2 MiB hugepages, or an error.
    Huge2M,
    /// 1 GiB hugepages, or an error.
    Huge1G,
    /// Pages of 4 KiB.
    Ordinary,
    /// 2 MiB hugepages where the machine has them, otherwise ordinary pages and one warning.
    #[default]
    HugeOrOrdinary,
}

impl Backing {
    /// The size in bytes to which a mapping of this backing is rounded up.
    const fn granule(self) -> usize {
        match self {
            Backing::Huge2M | Backing::HugeOrOrdinary => HUGE_PAGE_SIZE,
            Backing::Huge1G => GIGANTIC_PAGE_SIZE,
            Backing::Ordinary => PAGE_SIZE,
        }
    }

    /// The one place where `CULVERT_TEST_ORDINARY` and `CULVERT_TEST_HUGE` take effect.
    fn or_forced(self) -> Backing {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
        if is_set("CULVERT_TEST_ORDINARY") {
            Backing::Ordinary
        } else if self == Backing::HugeOrOrdinary && is_set("CULVERT_TEST_HUGE") {
            Backing::Huge2M
        } else {
            self
        }
    }
}

/// How to create a [`Mapping`].
#[derive(Clone, Debug)]
pub struct MappingOptions {
    /// Name shown in `/proc/PID/maps`; at most 249 bytes and no NUL.
    pub name: String,
    /// Size in bytes, rounded up to the page size of the backing; not zero.
    pub bytes: usize,
    /// Kind of pages.
    pub backing: Backing,
    /// NUMA node preferred for the pages; other nodes serve when it has none left.
    pub numa_node: Option<u32>,
    /// Lock ordinary pages into memory (hugepages are never swapped). When the limit of locked
    /// memory forbids it, that is said once and the mapping is used unlocked.
    pub lock: bool,
    /// Allocate every page now and not at its first touch.
    pub populate: bool,
    /// Seal the file against any change of its size, which a peer demands before it maps it.
    pub seal: bool,
}

impl Default for MappingOptions {
    fn default() -> Self {
        MappingOptions {
            name: String::from("culvert"),
            bytes: 0,
            backing: Backing::default(),
            numa_node: None,
            lock: false,
            populate: true,
            seal: false,
        }
    }
}

/// Why memory could not be mapped.
#[derive(Debug, Error)]
pub enum MappingError {
    /// Caller: a size of zero, or one that the address space or page counter cannot hold.
    #[error("a mapping of {bytes} bytes is not possible")]
    InvalidSize {
        /// The size asked for, in bytes.
        bytes: usize,
    },
    /// Machine: no hugepages, and the backing asked for does not allow for others.
    #[error("no hugepages for {bytes} bytes (see /proc/sys/vm/nr_hugepages)")]
    NoHugePages {
        /// The size asked for, in bytes.
        bytes: usize,
        /// What the kernel answered.
        source: Errno,
    },
    /// Machine: the memfd could not be created.
    #[error("memfd_create failed")]
    Create(#[source] Errno),
    /// Machine: the file could not be given its size.
    #[error("sizing the memory file failed")]
    Resize(#[source] Errno),
    /// Machine: the file could not be sealed.
    #[error("sealing the memory file failed")]
    Seal(#[source] Errno),
    /// Machine: size, seals or kind of the file could not be read.
    #[error("inspecting the memory file failed")]
    Inspect(#[source] Errno),
    /// Machine: the address range could not be mapped.
    #[error("mapping {bytes} bytes failed")]
    Map {
        /// The size asked for, in bytes.
        bytes: usize,
        /// What the kernel answered.
        source: Errno,
    },
    /// Machine: not enough memory to populate the mapping.
    #[error("populating {bytes} bytes failed")]
    Populate {
        /// The size asked for, in bytes.
        bytes: usize,
        /// What the kernel answered.
        source: Errno,
    },
    /// Peer: its file is not sealed against shrinking, so it could end this process.
    #[error("the peer's memory file is not sealed against shrinking")]
    Unsealed,
    /// Peer: its file does not have the size agreed on.
    #[error("the memory file has {actual} bytes where {expected} were agreed on")]
    SizeMismatch {
        /// The size agreed on, in bytes.
        expected: usize,
        /// The size of the file, in bytes.
        actual: u64,
    },
}

/// A readable and writable shared mapping; unmapped when dropped.
///
/// It hands out its address only as a raw pointer. Whoever reads or writes through that pointer
/// answers for every other user of the same bytes, in this process and outside it.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
    fd: OwnedFd,
    huge: bool,
}

// SAFETY: the address range belongs to the mapping and not to a thread, and the mapping itself
// never reads or writes it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Creates a memfd and maps it.
    ///
    /// # Errors
    ///
    /// [`MappingError::NoHugePages`] when the backing demands hugepages and there are none;
    /// otherwise what the kernel refused. A failure to lock or to place pages is no error.
    pub fn create(options: &MappingOptions) -> Result<Mapping, MappingError> {
        let backing = options.backing.or_forced();
        match backing {
            Backing::Ordinary => Self::create_backed(options, Backing::Ordinary),
            Backing::Huge2M | Backing::Huge1G => Self::create_backed(options, backing)
                .map_err(|error| huge_page_error(error, options.bytes)),
            Backing::HugeOrOrdinary => {
                Self::create_backed(options, Backing::Huge2M).or_else(|error| match error {
                    MappingError::InvalidSize { .. } => Err(error),
                    _ => {
                        warn_of_ordinary_pages(&error);
                        Self::create_backed(options, Backing::Ordinary)
                    }
                })
            }
        }
    }

    /// Maps a peer's memfd of exactly `bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`MappingError::Unsealed`] or [`MappingError::SizeMismatch`] when the file could shrink or
    /// is not of the size agreed on; otherwise what the kernel refused.
    pub fn from_fd(fd: OwnedFd, bytes: usize) -> Result<Mapping, MappingError> {
        let seals = match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) => seals,
            // Not a memfd at all.
            Err(Errno::INVAL) => return Err(MappingError::Unsealed),
            Err(error) => return Err(MappingError::Inspect(error)),
        };
        if !seals.contains(SealFlags::SHRINK) {
            return Err(MappingError::Unsealed);
        }
        let size = file_size(&fd)?;
        if size != bytes as u64 {
            return Err(MappingError::SizeMismatch { expected: bytes, actual: size });
        }
        let mapping = Self::map(fd, 0, bytes)?;
        mapping.populate()?;
        Ok(mapping)
    }

    /// Maps the first `bytes` bytes of a regular file, which the caller keeps from shrinking.
    ///
    /// Pages are allocated at their first touch, so a sparse file stays sparse.
    ///
    /// # Errors
    ///
    /// [`MappingError::SizeMismatch`] when the file is shorter than `bytes`; otherwise what the
    /// kernel refused.
    pub fn from_file(file: &File, bytes: usize) -> Result<Mapping, MappingError> {
        let fd = duplicate(file.as_fd())?;
        let size = file_size(&fd)?;
        if size < bytes as u64 {
            return Err(MappingError::SizeMismatch { expected: bytes, actual: size });
        }
        let mapping = Self::map(fd, 0, bytes)?;
        // The first touch of a page costs a fault of microseconds; here nobody waits for it.
        mapping.populate()?;
        Ok(mapping)
    }

    /// Maps `bytes` bytes of a device file from `offset` on: registers behind VFIO, for example.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn from_device(
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: usize,
    ) -> Result<Mapping, MappingError> {
        Self::map(duplicate(fd)?, offset, bytes)
    }

    /// Size in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Address of the first byte, aligned to the page size.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.address
    }

    /// The file behind the mapping.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the pages are hugepages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Creates the mapping with exactly this backing.
    fn create_backed(options: &MappingOptions, backing: Backing) -> Result<Mapping, MappingError> {
        let bytes = rounded_size(options.bytes, backing.granule())?;
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        flags |= match backing {
            Backing::Huge2M | Backing::HugeOrOrdinary => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            Backing::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
            Backing::Ordinary => MemfdFlags::empty(),
        };
        let fd =
            rustix::fs::memfd_create(options.name.as_str(), flags).map_err(MappingError::Create)?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(MappingError::Resize)?;
        if options.seal {
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&fd, seals).map_err(MappingError::Seal)?;
        }
        let mapping = Self::map(fd, 0, bytes)?;
        if let Some(node) = options.numa_node {
            numa::prefer(&mapping, node);
        }
        if options.populate {
            mapping.populate()?;
        }
        if options.lock && !mapping.huge {
            mapping.lock();
        }
        Ok(mapping)
    }

    /// Maps an open file.
    fn map(fd: OwnedFd, offset: u64, bytes: usize) -> Result<Mapping, MappingError> {
        if bytes == 0 || bytes > isize::MAX as usize {
            return Err(MappingError::InvalidSize { bytes });
        }
        let huge = is_huge_page_file(&fd)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with no address given the kernel picks a free range, so no memory in use is
        // replaced.
        let address = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &fd, offset)
        }
        .map_err(|source| MappingError::Map { bytes, source })?;
        let address = NonNull::new(address.cast::<u8>()).expect("mmap does not map page zero");
        Ok(Mapping { address, bytes, fd, huge })
    }

    /// Allocates every page, so that later touches cannot fail.
    fn populate(&self) -> Result<(), MappingError> {
        // SAFETY: the range is this mapping's, and populating changes no byte of it.
        let populated = unsafe {
            rustix::mm::madvise(
                self.address.as_ptr().cast(),
                self.bytes,
                Advice::LinuxPopulateWrite,
            )
        };
        match populated {
            Ok(()) => Ok(()),
            Err(Errno::INVAL) => {
                // Linux before 5.14.
                self.touch_every_page();
                Ok(())
            }
            Err(source) => Err(MappingError::Populate { bytes: self.bytes, source }),
        }
    }

    /// Reads one byte of every page, which makes the kernel allocate it.
    fn touch_every_page(&self) {
        for offset in (0..self.bytes).step_by(PAGE_SIZE) {
            // SAFETY: `offset` lies inside the mapping.
            let byte = unsafe { self.address.add(offset) };
            // SAFETY: `byte` is mapped and readable; the read is volatile since a peer may write.
            unsafe { byte.read_volatile() };
        }
    }

    /// Locks the pages into memory, or says once that it may not.
    fn lock(&self) {
        // SAFETY: the range is this mapping's, and locking changes no byte of it.
        let locked = unsafe { rustix::mm::mlock(self.address.as_ptr().cast(), self.bytes) };
        if let Err(error) = locked {
            warn_of_unlocked_pages(error, self.bytes);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, is unmapped only here, and every handle that can
        // reach it keeps this mapping alive.
        let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping: {unmapped:?}");
    }
}

/// Rounds `bytes` up to whole pages of `granule` bytes.
fn rounded_size(bytes: usize, granule: usize) -> Result<usize, MappingError> {
    match bytes.checked_next_multiple_of(granule) {
        Some(rounded) if rounded > 0 && rounded <= isize::MAX as usize => Ok(rounded),
        _ => Err(MappingError::InvalidSize { bytes }),
    }
}

/// Size of the file in bytes.
fn file_size(fd: &OwnedFd) -> Result<u64, MappingError> {
    let status = rustix::fs::fstat(fd).map_err(MappingError::Inspect)?;
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

/// Whether the file lives on hugetlbfs. Files that cannot say (devices) do not.
fn is_huge_page_file(fd: &OwnedFd) -> Result<bool, MappingError> {
    match rustix::fs::fstatfs(fd) {
        #[allow(clippy::unnecessary_cast, reason = "the field's type depends on the target")]
        Ok(status) => Ok(status.f_type as u64 == HUGETLBFS_MAGIC),
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(MappingError::Inspect(error)),
    }
}

/// A second descriptor of the same open file, closed on exec.
fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, MappingError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(MappingError::Inspect)
}

/// Turns the kernel's refusal of a hugepage mapping into the error that names its cause.
fn huge_page_error(error: MappingError, bytes: usize) -> MappingError {
    match error {
        MappingError::Create(source)
        | MappingError::Map { source, .. }
        | MappingError::Populate { source, .. } => MappingError::NoHugePages { bytes, source },
        other => other,
    }
}

/// Says, once per process, that ordinary pages stand in for hugepages.
fn warn_of_ordinary_pages(error: &MappingError) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            %error,
            "no 2 MiB hugepages: using ordinary pages, which costs address translations on every \
             transfer; reserve some by writing their number to /proc/sys/vm/nr_hugepages"
        );
    });
}

/// Says, once per process, that memory stays unlocked.
fn warn_of_unlocked_pages(error: Errno, bytes: usize) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            %error,
            bytes,
            "memory could not be locked and may be swapped; raise RLIMIT_MEMLOCK (ulimit -l) or \
             grant CAP_IPC_LOCK"
        );
    });
}

#[cfg(test)]
mod tests;
