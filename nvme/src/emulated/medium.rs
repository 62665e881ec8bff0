#![allow(unsafe_code)]
//! Where an emulated namespace keeps its blocks.
//!
//! Memory of this process, a file mapped into it, or nothing at all. A file on tmpfs outlives the
//! process and so serves crash tests; it is allocated in full when it is opened, so that a full
//! file system is an error then and not a fault later. The contents of a file are shared with
//! whoever maps it, but each emulated controller has its own volatile write cache.
//!
//! Bytes are touched only through copies between here and [`HostBytes`]; nothing here is a slice.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::ptr::NonNull;

use culvert_memory::{Backing, Mapping, MappingError, MappingOptions};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::host_memory::HostBytes;

/// The blocks, as bytes.
#[derive(Debug)]
pub(super) enum Medium {
    /// Memory, or a file mapped into memory.
    Mapped(Mapping),
    /// Nothing: writes vanish and reads leave the buffer as it is. For measuring everything else.
    Null,
}

/// Why a file cannot serve as medium.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// Machine: the file could not be opened or created.
    #[error("opening failed")]
    Open(#[source] io::Error),
    /// Machine: the file could not be locked; its file system may not offer that.
    #[error("locking it failed")]
    Lock(#[source] io::Error),
    /// Machine: the file could not be brought to its size, for example because the file system
    /// is full.
    #[error("allocating {bytes} bytes failed")]
    Allocate {
        /// The size asked for.
        bytes: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Caller: the file has more bytes than the URI names; the rest would be out of reach.
    #[error("has {actual} bytes where the URI names {expected}; name its real size, or remove it")]
    Larger {
        /// The size named.
        expected: u64,
        /// The size it has.
        actual: u64,
    },
    /// Machine: the memory could not be mapped.
    #[error("mapping failed")]
    Map(#[from] MappingError),
}

impl Medium {
    /// Memory of `bytes` bytes, zeroed and allocated.
    pub(super) fn memory(bytes: u64) -> Result<Medium, MediumError> {
        // Ordinary pages: hugepages are few, and the pools need them.
        let mapping = Mapping::create(&MappingOptions {
            name: String::from("culvert-nvme-medium"),
            bytes: address_size(bytes),
            backing: Backing::Ordinary,
            ..MappingOptions::default()
        })?;
        Ok(Medium::Mapped(mapping))
    }

    /// The first `bytes` bytes of a file, which is extended as needed.
    pub(super) fn file(file: &File, bytes: u64) -> Result<Medium, MediumError> {
        let actual = file.metadata().map_err(MediumError::Open)?.len();
        if actual > bytes {
            return Err(MediumError::Larger { expected: bytes, actual });
        }
        allocate(file, bytes)
            .map_err(|errno| MediumError::Allocate { bytes, source: errno.into() })?;
        Ok(Medium::Mapped(Mapping::from_file(file, address_size(bytes))?))
    }

    /// Copies from `offset` on to `target`.
    ///
    /// # Panics
    ///
    /// When the bytes are not all inside the medium.
    #[inline]
    pub(super) fn read(&self, offset: u64, target: HostBytes<'_>) {
        let Medium::Mapped(mapping) = self else { return };
        let source = bytes_at(mapping, offset, target.len());
        // SAFETY: both runs are mapped and `target.len()` long; the medium is no registered memory,
        // so they do not meet. Whoever owns the target lent it to this command.
        unsafe { source.copy_to_nonoverlapping(target.pointer(), target.len()) };
    }

    /// Copies `source` to `offset`.
    ///
    /// # Panics
    ///
    /// When the bytes are not all inside the medium.
    #[inline]
    pub(super) fn write(&mut self, offset: u64, source: HostBytes<'_>) {
        let Medium::Mapped(mapping) = self else { return };
        let target = bytes_at(mapping, offset, source.len());
        // SAFETY: as in `read`; the source is read-only while the command is in flight.
        unsafe { source.pointer().copy_to_nonoverlapping(target, source.len()) };
    }

    /// Copies `source` to `offset`.
    ///
    /// # Panics
    ///
    /// When the bytes are not all inside the medium.
    pub(super) fn write_slice(&mut self, offset: u64, source: &[u8]) {
        let Medium::Mapped(mapping) = self else { return };
        let target = bytes_at(mapping, offset, source.len());
        // SAFETY: the target is mapped and `source.len()` long; nobody has a slice of it.
        unsafe { target.as_ptr().copy_from_nonoverlapping(source.as_ptr(), source.len()) };
    }

    /// Copies from `offset` on to `target`.
    ///
    /// # Panics
    ///
    /// When the bytes are not all inside the medium.
    pub(super) fn read_slice(&self, offset: u64, target: &mut [u8]) {
        let Medium::Mapped(mapping) = self else { return };
        let source = bytes_at(mapping, offset, target.len());
        // SAFETY: the source is mapped and `target.len()` long; nobody has a slice of it.
        unsafe { source.as_ptr().copy_to_nonoverlapping(target.as_mut_ptr(), target.len()) };
    }

    /// Makes `bytes` bytes from `offset` on zero.
    ///
    /// # Panics
    ///
    /// When they are not all inside the medium.
    pub(super) fn zero(&mut self, offset: u64, bytes: u64) {
        let Medium::Mapped(mapping) = self else { return };
        let target = bytes_at(mapping, offset, bytes as usize);
        // SAFETY: the target is mapped and `bytes` long; nobody has a slice of it.
        unsafe { target.write_bytes(0, bytes as usize) };
    }
}

/// Opens the file of a medium, which is created if it is missing.
pub(super) fn open(path: &Path) -> Result<File, MediumError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(MediumError::Open)
}

/// Brings a file to `bytes` bytes, allocated.
fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(file, bytes),
        result => result,
    }
}

/// A size as the address space counts it.
fn address_size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Address of `bytes` bytes from `offset` on.
#[inline]
fn bytes_at(mapping: &Mapping, offset: u64, bytes: usize) -> NonNull<u8> {
    let size = mapping.len() as u64;
    assert!(offset <= size, "the medium was checked to hold the range");
    assert!(bytes as u64 <= size - offset, "the medium was checked to hold the range");
    // SAFETY: `offset` is inside the mapping by the check above.
    unsafe { mapping.as_ptr().add(offset as usize) }
}
