//! Bytes of pages that the processor copied: what proves that a payload is not.
//!
//! Every method of a [`Buffer`](crate::Buffer), of [`Pages`](crate::Pages) or of
//! [`SharedBytes`](crate::SharedBytes) that copies bytes of pages counts them here, whatever the
//! copy is for: those that stand for a wire included, which their caller counts once more. Frames
//! and ring entries, which go through
//! [`SharedBytes::read_bytes`](crate::SharedBytes::read_bytes) and
//! [`SharedBytes::write_bytes`](crate::SharedBytes::write_bytes), are not bytes of pages and do not
//! count. Neither do copies that somebody makes through a slice: which files see pages as slices is
//! for the `tidy` test to watch.
//!
//! ```
//! use culvert_memory::{Pool, PoolOptions, page_bytes_copied};
//!
//! # fn main() -> Result<(), culvert_memory::MappingError> {
//! let pool = Pool::new(&PoolOptions::default())?;
//! let source = pool.acquire(2).expect("a fresh pool has free pages").freeze();
//! let before = page_bytes_copied();
//! pool.acquire(2).expect("free pages").copy_from(0, &source);
//! assert_eq!(page_bytes_copied() - before, 8192);
//! # Ok(())
//! # }
//! ```

use std::cell::Cell;

thread_local! {
    static THREAD_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// Bytes of pages that this thread has copied since it began.
#[inline]
pub fn page_bytes_copied() -> u64 {
    THREAD_BYTES.get()
}

#[inline]
pub(crate) fn count(bytes: usize) {
    THREAD_BYTES.set(THREAD_BYTES.get().wrapping_add(bytes as u64));
}
