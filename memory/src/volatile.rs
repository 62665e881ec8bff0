#![allow(unsafe_code)]
//! Views of memory that a device or another process shares with us.
//!
//! Rings, doorbells and registers lie in memory whose other side changes it at any time. A
//! [`SharedBytes`] is the only way to such memory: every access is bounds-checked and volatile or
//! atomic, integers are little-endian, and each method name says its ordering. What it returns is
//! the other side's word, valid only once checked.
//!
//! **Ordering.** The plain reads and writes order nothing but themselves among other volatile
//! accesses. To publish, write the entries and then [`store_release_u32`] the index; to consume,
//! [`load_acquire_u32`] the index and then read the entries. Towards devices use the barriers of
//! this module between entries in memory and the doorbell.
//!
//! [`store_release_u32`]: SharedBytes::store_release_u32
//! [`load_acquire_u32`]: SharedBytes::load_acquire_u32

use std::any::Any;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::{Buffer, Mapping, Pages, Region, checksum, copied, raw};

/// A view of bytes that somebody else may read and write at the same time; cloning shares it.
///
/// No method hands out a reference to the bytes, and none ever exists while a view does: the
/// constructors see to that. So the methods take `&self` and are safe.
#[derive(Clone, Debug)]
pub struct SharedBytes {
    base: NonNull<u8>,
    len: usize,
    /// What keeps the bytes mapped; held, never looked at.
    keeper: Rc<dyn Any>,
}

impl SharedBytes {
    /// All of a mapping: a peer's memfd, a device's registers, an emulated medium.
    pub fn of_mapping(mapping: Rc<Mapping>) -> SharedBytes {
        SharedBytes { base: mapping.as_ptr(), len: mapping.len(), keeper: mapping }
    }

    /// All of a region that is shared with a peer, a landing window for example.
    ///
    /// # Panics
    ///
    /// When the region is private: its buffers can be seen as slices.
    pub fn of_region(region: &Region) -> SharedBytes {
        assert!(region.shared_with_peer(), "a private region can be seen as slices");
        Self::of_whole_region(region)
    }

    /// A private region as a device sees it, by address: what an emulated controller transfers to
    /// and from.
    ///
    /// # Safety
    ///
    /// The caller touches only pages whose [`Buffer`] or [`Pages`] was handed to it for the time
    /// of the access, and writes only pages whose `Buffer` was: just as a real device must.
    pub unsafe fn of_private_region(region: &Region) -> SharedBytes {
        Self::of_whole_region(region)
    }

    /// The pages of a buffer, which live as long as the view: a queue that a device reads.
    pub fn of_buffer(buffer: Buffer) -> SharedBytes {
        let base = buffer.as_ptr();
        let len = buffer.len();
        SharedBytes { base, len, keeper: Rc::new(buffer) }
    }

    fn of_whole_region(region: &Region) -> SharedBytes {
        let keeper = region.keeper();
        SharedBytes { base: region.base(), len: region.len(), keeper }
    }

    /// A view of `len` bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// When they are not inside this view.
    pub fn slice(&self, offset: usize, len: usize) -> SharedBytes {
        SharedBytes { base: self.bytes_at(offset, len), len, keeper: self.keeper.clone() }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, to tell it to a device.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// Reads the little-endian word at `offset`, volatile.
    ///
    /// # Panics
    ///
    /// Like every access here: when the bytes are outside the view, or a word is misaligned.
    #[inline]
    pub fn read_u32(&self, offset: usize) -> u32 {
        let word = self.word_at::<u32>(offset);
        // SAFETY: `word` is inside the view, aligned, and mapped as long as the view lives.
        u32::from_le(unsafe { word.read_volatile() })
    }

    /// Writes the little-endian word at `offset`, volatile.
    #[inline]
    pub fn write_u32(&self, offset: usize, value: u32) {
        let word = self.word_at::<u32>(offset);
        // SAFETY: as in `read_u32`; no reference to the bytes exists.
        unsafe { word.write_volatile(value.to_le()) };
    }

    /// Reads the little-endian double word at `offset`, volatile.
    #[inline]
    pub fn read_u64(&self, offset: usize) -> u64 {
        let word = self.word_at::<u64>(offset);
        // SAFETY: as in `read_u32`.
        u64::from_le(unsafe { word.read_volatile() })
    }

    /// Writes the little-endian double word at `offset`, volatile.
    #[inline]
    pub fn write_u64(&self, offset: usize, value: u64) {
        let word = self.word_at::<u64>(offset);
        // SAFETY: as in `write_u32`.
        unsafe { word.write_volatile(value.to_le()) };
    }

    /// Reads the word at `offset` before everything that follows.
    #[inline]
    pub fn load_acquire_u32(&self, offset: usize) -> u32 {
        u32::from_le(self.atomic_u32(offset).load(Ordering::Acquire))
    }

    /// Writes the word at `offset` after everything that went before.
    #[inline]
    pub fn store_release_u32(&self, offset: usize, value: u32) {
        self.atomic_u32(offset).store(value.to_le(), Ordering::Release);
    }

    /// Reads the double word at `offset` before everything that follows.
    #[inline]
    pub fn load_acquire_u64(&self, offset: usize) -> u64 {
        u64::from_le(self.atomic_u64(offset).load(Ordering::Acquire))
    }

    /// Writes the double word at `offset` after everything that went before.
    #[inline]
    pub fn store_release_u64(&self, offset: usize, value: u64) {
        self.atomic_u64(offset).store(value.to_le(), Ordering::Release);
    }

    /// Copies the bytes from `offset` on to `target`.
    #[inline]
    pub fn read_bytes(&self, offset: usize, target: &mut [u8]) {
        let source = self.bytes_at(offset, target.len());
        // SAFETY: `source` has that many bytes, and no slice is part of a view.
        unsafe { raw::copy(source.as_ptr(), target.as_mut_ptr(), target.len()) };
    }

    /// Copies `source` to the bytes from `offset` on.
    #[inline]
    pub fn write_bytes(&self, offset: usize, source: &[u8]) {
        let target = self.bytes_at(offset, source.len());
        // SAFETY: `target` has that many bytes, and no slice is part of a view.
        unsafe { raw::copy(source.as_ptr(), target.as_ptr(), source.len()) };
    }

    /// Sets `len` bytes from `offset` on to zero.
    pub fn fill_zero(&self, offset: usize, len: usize) {
        let target = self.bytes_at(offset, len);
        // SAFETY: the bytes are inside the view and no reference to them exists.
        unsafe { raw::fill_zero(target.as_ptr(), len) };
    }

    /// CRC-32C of `len` bytes from `offset` on.
    pub fn crc32c(&self, offset: usize, len: usize) -> u32 {
        let bytes = self.bytes_at(offset, len);
        // SAFETY: the bytes are inside the view and mapped as long as it lives.
        unsafe { checksum::crc32c(bytes.as_ptr(), len) }
    }

    /// Copies all of `source` to the bytes from `offset` on: the copy that stands for a wire or
    /// for a device's DMA.
    pub fn copy_from_pages(&self, offset: usize, source: &Pages) {
        self.copy_range_from_pages(offset, source, 0..source.len());
    }

    /// Copies the bytes `range` of `source` to the bytes from `offset` on.
    pub fn copy_range_from_pages(&self, offset: usize, source: &Pages, range: Range<usize>) {
        let from = source.bytes_at(range.start, range.len());
        self.copy_in(offset, from, range.len());
    }

    /// Copies the bytes `range` of `source` to the bytes from `offset` on.
    pub fn copy_from_buffer(&self, offset: usize, source: &Buffer, range: Range<usize>) {
        let from = source.bytes_at(range.start, range.len());
        self.copy_in(offset, from, range.len());
    }

    /// Copies the bytes from `offset` on to the bytes `range` of `target`.
    pub fn copy_to_buffer(&self, offset: usize, target: &mut Buffer, range: Range<usize>) {
        let source = self.bytes_at(offset, range.len());
        let target = target.bytes_at(range.start, range.len());
        copied::count(range.len());
        // SAFETY: both runs have that many bytes and are mapped; the target is borrowed for this.
        unsafe { raw::copy_overlapping(source.as_ptr(), target.as_ptr(), range.len()) };
    }

    /// Copies the bytes `range` of another view to the bytes from `offset` on.
    pub fn copy_from(&self, offset: usize, source: &SharedBytes, range: Range<usize>) {
        let from = source.bytes_at(range.start, range.len());
        self.copy_in(offset, from, range.len());
    }

    /// Copies `len` bytes at `source`, mapped for the call, to the bytes from `offset` on.
    fn copy_in(&self, offset: usize, source: NonNull<u8>, len: usize) {
        let target = self.bytes_at(offset, len);
        copied::count(len);
        // SAFETY: both runs have `len` bytes and are mapped; no reference to the target exists.
        unsafe { raw::copy_overlapping(source.as_ptr(), target.as_ptr(), len) };
    }

    #[inline]
    fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the word is inside the view, aligned, mapped as long as the view is borrowed,
        // and every other access to it in this process is volatile or atomic.
        unsafe { AtomicU32::from_ptr(self.word_at::<u32>(offset)) }
    }

    #[inline]
    fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `atomic_u32`.
        unsafe { AtomicU64::from_ptr(self.word_at::<u64>(offset)) }
    }

    /// Address of an aligned word inside the view.
    #[inline]
    fn word_at<T>(&self, offset: usize) -> *mut T {
        let word = self.bytes_at(offset, size_of::<T>()).as_ptr().cast::<T>();
        assert!(word.is_aligned(), "a word at {offset} is misaligned");
        word
    }

    #[inline]
    fn bytes_at(&self, offset: usize, len: usize) -> NonNull<u8> {
        raw::bytes_at(self.base, self.len, offset, len)
    }
}

/// Orders every access before it against every access after it, stores before loads included:
/// between announcing that one sleeps and looking at a ring for the last time.
#[inline]
pub fn full_barrier() {
    fence(Ordering::SeqCst);
}

/// Between writing entries that a device will fetch and ringing its doorbell.
#[inline]
pub fn device_write_barrier() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no register and no memory.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    // x86 keeps stores in order, to device memory too, so only the compiler is held back there.
    fence(Ordering::Release);
}

/// Between seeing that a device has written an entry and reading the rest of it.
#[inline]
pub fn device_read_barrier() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no register and no memory.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    fence(Ordering::Acquire);
}

#[cfg(test)]
mod tests;
