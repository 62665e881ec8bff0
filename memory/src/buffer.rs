#![allow(unsafe_code)]
//! The unique owner of a run of pages.
//!
//! A [`Buffer`] is moved into a device operation and comes back in its completion: whoever holds
//! it may use the pages, nobody else of this process can. Dropping it releases the pages to where
//! they came from. Where a peer may write the pages all the same (a landing window in shared
//! memory), their bytes are only copied and checksummed, never seen as a slice.

use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::owner::PageOwner;
use crate::region::Region;
use crate::{PAGE_SIZE, Pages, checksum, copied, raw};

/// A run of adjacent pages with one owner.
///
/// It stays on the thread of the reactor that made its pool:
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<culvert_memory::Buffer>();
/// ```
#[derive(Debug)]
pub struct Buffer {
    owner: Rc<PageOwner>,
    /// First page, as a page of the region.
    page: u32,
    pages: u32,
}

impl Buffer {
    /// The handle of a run that `owner` has just taken from its free pages.
    #[inline]
    pub(crate) fn new(owner: Rc<PageOwner>, page: u32, pages: u32) -> Buffer {
        Buffer { owner, page, pages }
    }

    /// Takes the buffer apart without releasing its pages.
    fn into_parts(self) -> (Rc<PageOwner>, u32, u32) {
        let buffer = std::mem::ManuallyDrop::new(self);
        // SAFETY: `buffer` is never dropped, so its pointer is read out exactly once.
        let owner = unsafe { std::ptr::read(&buffer.owner) };
        (owner, buffer.page, buffer.pages)
    }

    /// Number of pages.
    #[inline]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Size in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.pages as usize * PAGE_SIZE
    }

    /// The region the pages lie in.
    #[inline]
    pub fn region(&self) -> &Region {
        self.owner.region()
    }

    /// First page, as a page of the region.
    #[inline]
    pub fn page(&self) -> u32 {
        self.page
    }

    /// Address of the first byte.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.owner.page_ptr(self.page)
    }

    /// Whether nobody but this process and the devices it hands the buffer to can write the
    /// pages, so that they may be seen as a slice.
    #[inline]
    pub fn is_private(&self) -> bool {
        self.owner.is_private()
    }

    /// Copies `source` to the bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// When they do not fit.
    pub fn copy_from_slice(&mut self, offset: usize, source: &[u8]) {
        let target = self.bytes_at(offset, source.len());
        copied::count(source.len());
        // SAFETY: `target` has `source.len()` bytes by the check above; they cannot be part of
        // `source`, since this buffer is their only owner and is borrowed for itself.
        unsafe { raw::copy(source.as_ptr(), target.as_ptr(), source.len()) };
    }

    /// Copies the bytes from `offset` on to `target`.
    ///
    /// # Panics
    ///
    /// When there are fewer than `target` holds.
    pub fn copy_to_slice(&self, offset: usize, target: &mut [u8]) {
        let source = self.bytes_at(offset, target.len());
        copied::count(target.len());
        // SAFETY: `source` has `target.len()` bytes by the check above; an exclusive slice cannot
        // be part of this buffer, which is borrowed.
        unsafe { raw::copy(source.as_ptr(), target.as_mut_ptr(), target.len()) };
    }

    /// Copies all of `source` to the bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// When it does not fit.
    pub fn copy_from(&mut self, offset: usize, source: &Pages) {
        self.copy_range_from(offset, source, 0..source.len());
    }

    /// Copies the bytes `range` of `source` to the bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// When `range` is not inside `source` or does not fit here.
    pub fn copy_range_from(&mut self, offset: usize, source: &Pages, range: Range<usize>) {
        let from = source.bytes_at(range.start, range.len());
        let to = self.bytes_at(offset, range.len());
        copied::count(range.len());
        // SAFETY: both runs have `range.len()` bytes by the checks above and share no page, since
        // this buffer is the only owner of its own.
        unsafe { raw::copy(from.as_ptr(), to.as_ptr(), range.len()) };
    }

    /// Sets the bytes `range` to zero.
    ///
    /// # Panics
    ///
    /// When `range` is not inside the buffer.
    pub fn fill_zero(&mut self, range: Range<usize>) {
        let target = self.bytes_at(range.start, range.len());
        // SAFETY: the bytes are this buffer's by the check above, and borrowed for itself.
        unsafe { raw::fill_zero(target.as_ptr(), range.len()) };
    }

    /// CRC-32C of `len` bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// When they are not inside the buffer.
    pub fn crc32c(&self, offset: usize, len: usize) -> u32 {
        let bytes = self.bytes_at(offset, len);
        // SAFETY: the bytes are this buffer's by the check above and stay mapped while borrowed.
        unsafe { checksum::crc32c(bytes.as_ptr(), len) }
    }

    /// The bytes of private memory.
    ///
    /// # Panics
    ///
    /// When a peer may write the pages ([`Buffer::is_private`]).
    pub fn as_slice(&self) -> &[u8] {
        self.assert_private();
        // SAFETY: the pages are mapped and initialised (a memfd starts as zeros), private, owned
        // by this buffer alone, and not with a device, which would have taken the buffer.
        unsafe { std::slice::from_raw_parts(self.as_ptr().as_ptr(), self.len()) }
    }

    /// The bytes of private memory, to be changed.
    ///
    /// # Panics
    ///
    /// When a peer may write the pages ([`Buffer::is_private`]).
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.assert_private();
        // SAFETY: as in `as_slice`, and the buffer is borrowed for itself.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().as_ptr(), self.len()) }
    }

    /// Shares the pages, read-only from now on. Allocates nothing.
    pub fn freeze(self) -> Pages {
        let (owner, page, pages) = self.into_parts();
        Pages::new(owner, page, pages)
    }

    /// Address of `len` bytes from `offset` on.
    #[inline]
    pub(crate) fn bytes_at(&self, offset: usize, len: usize) -> NonNull<u8> {
        raw::bytes_at(self.as_ptr(), self.len(), offset, len)
    }

    fn assert_private(&self) {
        assert!(self.is_private(), "memory that a peer may write is never a slice");
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        self.owner.release(self.page, self.pages);
    }
}

#[cfg(test)]
mod tests;
