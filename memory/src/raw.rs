#![allow(unsafe_code)]
//! Copying bytes that somebody else may be writing.
//!
//! Memory that a peer or a device can reach is never a `&[u8]`: the compiler may read a slice
//! twice and take for granted that it finds the same. Here such memory is touched through raw
//! pointers only, and each copy stands between two points at which the compiler must assume that
//! all memory has changed. So a copy is made exactly once, when it is asked for: bytes that were
//! copied out and then checked are the bytes that are used, whatever the other side does
//! meanwhile. What a copy holds that was taken during a write of the other side is any mixture of
//! old and new bytes. The copy itself is the C library's, because nothing is faster.

use std::ptr::NonNull;

/// Address of `len` bytes at `offset` of a run of `run_len` bytes at `base`.
///
/// # Panics
///
/// When they are not inside the run.
#[inline]
pub(crate) fn bytes_at(
    base: NonNull<u8>,
    run_len: usize,
    offset: usize,
    len: usize,
) -> NonNull<u8> {
    let inside = offset <= run_len && len <= run_len - offset;
    assert!(inside, "{len} bytes at {offset} of a run of {run_len}");
    // SAFETY: the offset lies inside the run, or one past its end.
    unsafe { base.add(offset) }
}

/// Copies `len` bytes between two runs that do not overlap.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `len` bytes, and they must not overlap.
#[inline]
pub(crate) unsafe fn copy(source: *const u8, target: *mut u8, len: usize) {
    assume_memory_changed();
    // SAFETY: as promised by the caller.
    unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
    assume_memory_changed();
}

/// Copies `len` bytes between two runs that may overlap.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `len` bytes.
#[inline]
pub(crate) unsafe fn copy_overlapping(source: *const u8, target: *mut u8, len: usize) {
    assume_memory_changed();
    // SAFETY: as promised by the caller.
    unsafe { std::ptr::copy(source, target, len) };
    assume_memory_changed();
}

/// Sets `len` bytes to zero.
///
/// # Safety
///
/// `target` must be writable for `len` bytes.
#[inline]
pub(crate) unsafe fn fill_zero(target: *mut u8, len: usize) {
    assume_memory_changed();
    // SAFETY: as promised by the caller.
    unsafe { target.write_bytes(0, len) };
    assume_memory_changed();
}

/// A point that the compiler carries no knowledge of memory across. No instruction.
#[inline]
fn assume_memory_changed() {
    // SAFETY: the block is empty; the compiler merely has to assume that it reads and writes
    // whatever memory it can reach.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) };
}
