#![allow(unsafe_code)]
//! Scattered reads and writes over pages.
//!
//! The standard library's vectors are made of slices; pages that somebody else may still write, or
//! that another handle of this process may look at, are never slices. So the vectors here are raw,
//! and each entry is made by a function that knows who keeps its memory.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, PAGE_SIZE, Pages};
use rustix::io::Errno;

use crate::config::VECTORS_MAX;
use crate::window::landing::NamedPages;

/// Vectors that live as long as the borrow `'a` of all the memory they name.
pub(crate) struct Vectors<'a> {
    list: ArrayVec<libc::iovec, VECTORS_MAX>,
    bytes: usize,
    memory: PhantomData<&'a mut [u8]>,
}

/// Memory to be read into.
pub(crate) struct Target<'a>(Vectors<'a>);

/// Memory to be written from.
pub(crate) struct Source<'a>(Vectors<'a>);

impl Vectors<'_> {
    fn new() -> Self {
        Self { list: ArrayVec::new(), bytes: 0, memory: PhantomData }
    }

    fn is_full(&self) -> bool {
        self.list.is_full()
    }

    /// Appends `bytes` bytes at `address`, to the last vector where they continue it. The caller
    /// sees to it that there is a free vector.
    fn push(&mut self, address: *mut u8, bytes: usize) {
        self.bytes += bytes;
        if let Some(last) = self.list.last_mut()
            && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == address
        {
            last.iov_len += bytes;
            return;
        }
        self.list.push(libc::iovec { iov_base: address.cast(), iov_len: bytes });
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: all fields of msghdr are integers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.list.as_mut_ptr();
        message.msg_iovlen = self.list.len() as _;
        message
    }
}

impl<'a> Target<'a> {
    pub(crate) fn new() -> Self {
        Self(Vectors::new())
    }

    /// Bytes that a full read would fill.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Whether no further memory can be named, leaving one vector free for the head that follows.
    pub(crate) fn is_full(&self) -> bool {
        self.0.list.remaining_capacity() <= 1
    }

    /// Appends a slice.
    pub(crate) fn push_slice(&mut self, slice: &'a mut [u8]) {
        if !slice.is_empty() && !self.0.is_full() {
            self.0.push(slice.as_mut_ptr(), slice.len());
        }
    }

    /// Appends a buffer from `offset` on.
    pub(crate) fn push_buffer(&mut self, buffer: &'a mut Buffer, offset: usize) {
        debug_assert!(offset < buffer.len());
        self.0.push(buffer.as_ptr().as_ptr().wrapping_add(offset), buffer.len() - offset);
    }

    /// Appends pages of a window from `offset` on.
    pub(crate) fn push_named(&mut self, named: &'a NamedPages, offset: usize) {
        let bytes = named.pages() as usize * PAGE_SIZE;
        debug_assert!(offset < bytes);
        self.0.push(named.address().as_ptr().wrapping_add(offset), bytes - offset);
    }

    /// Reads from a socket; 0 is its end, `AGAIN` that there is nothing now.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        let mut message = self.0.message();
        // SAFETY: each vector was made from memory that is borrowed for 'a: slices and buffers
        // exclusively, named pages by their type, which are never seen as slices.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        answer(received)
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new() -> Self {
        Self(Vectors::new())
    }

    /// Appends a slice; false when there is no vector left.
    pub(crate) fn push_slice(&mut self, slice: &'a [u8]) -> bool {
        if self.0.is_full() {
            return false;
        }
        if !slice.is_empty() {
            self.0.push(slice.as_ptr().cast_mut(), slice.len());
        }
        true
    }

    /// Appends pages from `offset` on; false when there is no vector left.
    pub(crate) fn push_pages(&mut self, pages: &'a Pages, offset: usize) -> bool {
        if self.0.is_full() {
            return false;
        }
        debug_assert!(offset < pages.len());
        self.0.push(pages.as_ptr().as_ptr().wrapping_add(offset), pages.len() - offset);
        true
    }

    /// Writes to a socket; `AGAIN` when it takes nothing now.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        let message = self.0.message();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each vector was made from memory that is borrowed for 'a; the kernel only reads
        // it.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
        answer(sent)
    }
}

/// The result of a system call.
fn answer(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(code)
    })
}
