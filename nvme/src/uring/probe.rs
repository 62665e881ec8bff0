#![allow(unsafe_code)]
//! One direct read into aligned memory, to find out what a file accepts.

use std::fs::File;

use culvert_memory::Mapping;
use rustix::io::Errno;

/// Reads `bytes` bytes at `offset` into `mapping`, which nobody else has seen.
pub(super) fn read(
    file: &File,
    mapping: &Mapping,
    bytes: usize,
    offset: u64,
) -> Result<usize, Errno> {
    assert!(bytes <= mapping.len(), "the block fits the memory");
    // SAFETY: the mapping is readable and writable, `bytes` long at least, and a memfd starts as
    // zeroes; the caller's mapping is used by nobody else while it is borrowed here.
    let target = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr().as_ptr(), bytes) };
    rustix::io::pread(file, target, offset)
}
