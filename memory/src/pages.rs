#![allow(unsafe_code)]
//! A run of pages with several users.
//!
//! One landing page is under a device write and two transport writes at the same time. Each holds
//! a clone of the same [`Pages`]; the count of users lies in the owner's record of the run, so a
//! clone allocates nothing and is not atomic. The pages are released with the last one.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::owner::{PageOwner, Run};
use crate::region::Region;
use crate::{Buffer, PAGE_SIZE, checksum, copied, raw};

/// A shared, read-only handle to a run of adjacent pages, or to a part of one.
#[derive(Debug)]
pub struct Pages {
    owner: Rc<PageOwner>,
    /// First page of the whole run, where its users are counted.
    head: u32,
    /// First page of this handle.
    page: u32,
    pages: u32,
}

impl Pages {
    /// The first handle of a run that the caller owned alone.
    pub(crate) fn new(owner: Rc<PageOwner>, page: u32, pages: u32) -> Pages {
        let run = owner.run(page);
        debug_assert_eq!(run.users.get(), 0, "a buffer's pages are not shared");
        run.users.set(1);
        run.pages.set(pages);
        Pages { owner, head: page, page, pages }
    }

    /// Number of pages.
    #[inline]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Size in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> usize {
        self.pages as usize * PAGE_SIZE
    }

    /// Address of the first byte.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.owner.page_ptr(self.page)
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

    /// Number of handles that share the run, this one included.
    pub fn users(&self) -> u32 {
        self.run().users.get()
    }

    /// A handle to `pages` pages from page `first` of this one on, sharing its run.
    ///
    /// # Panics
    ///
    /// When they are not inside this handle, or are none.
    pub fn slice(&self, first: u32, pages: u32) -> Pages {
        let end = first.checked_add(pages).expect("a run has less than 2^32 pages");
        assert!(end <= self.pages, "pages {first}..{end} of a run of {}", self.pages);
        assert!(pages > 0, "a run is never empty");
        let mut part = self.clone();
        part.page += first;
        part.pages = pages;
        part
    }

    /// CRC-32C of `len` bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// When they are not inside the run.
    pub fn crc32c(&self, offset: usize, len: usize) -> u32 {
        let bytes = self.bytes_at(offset, len);
        // SAFETY: the bytes are this run's by the check above and stay mapped while borrowed.
        unsafe { checksum::crc32c(bytes.as_ptr(), len) }
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
        // be part of pages that are shared.
        unsafe { raw::copy(source.as_ptr(), target.as_mut_ptr(), target.len()) };
    }

    /// Takes the run back for one owner.
    ///
    /// # Errors
    ///
    /// The handle itself when it is not the last one or is only a part of the run.
    pub fn try_into_buffer(self) -> Result<Buffer, Pages> {
        let run = self.run();
        let whole = self.page == self.head && self.pages == run.pages.get();
        if !whole || run.users.get() != 1 {
            return Err(self);
        }
        run.users.set(0);
        let handle = ManuallyDrop::new(self);
        // SAFETY: `handle` is never dropped, so its pointer is read out exactly once.
        let owner = unsafe { std::ptr::read(&handle.owner) };
        Ok(Buffer::new(owner, handle.page, handle.pages))
    }

    /// Address of `len` bytes from `offset` on.
    #[inline]
    pub(crate) fn bytes_at(&self, offset: usize, len: usize) -> NonNull<u8> {
        raw::bytes_at(self.as_ptr(), self.len(), offset, len)
    }

    fn run(&self) -> &Run {
        self.owner.run(self.head)
    }
}

impl Clone for Pages {
    #[inline]
    fn clone(&self) -> Pages {
        let users = &self.run().users;
        users.set(users.get().checked_add(1).expect("less than 2^32 users"));
        Pages { owner: Rc::clone(&self.owner), head: self.head, page: self.page, pages: self.pages }
    }
}

impl Drop for Pages {
    #[inline]
    fn drop(&mut self) {
        let run = self.run();
        let users = run.users.get() - 1;
        run.users.set(users);
        if users == 0 {
            self.owner.release(self.head, run.pages.get());
        }
    }
}

#[cfg(test)]
mod tests;
