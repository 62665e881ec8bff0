#![allow(unsafe_code)]
//! Proof that the data plane allocates nothing.
//!
//! [`CountingAllocator`] is the system's allocator with counters in front, one set per thread: a
//! count for the whole process would cost an atomic increment, which waits for all stores before
//! it. A binary or a test installs it; where none is installed the counters stay at zero.
//!
//! ```
//! use culvert_memory::{CountingAllocator, allocations};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator::new();
//!
//! let before = allocations();
//! let value = Box::new(7_u32);
//! assert_eq!(allocations() - before, 1);
//! drop(value);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static THREAD_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static THREAD_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// Allocations made by this thread since it began; growing one in place counts as one.
pub fn allocations() -> u64 {
    THREAD_ALLOCATIONS.get()
}

/// Bytes asked for by this thread since it began.
pub fn allocated_bytes() -> u64 {
    THREAD_BYTES.get()
}

/// The system's allocator, counting.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// The allocator, to be installed as `#[global_allocator]`.
    pub const fn new() -> CountingAllocator {
        CountingAllocator
    }

    #[inline]
    fn count(bytes: usize) {
        // The counters have no destructor, so they outlive every allocation of their thread.
        THREAD_ALLOCATIONS.set(THREAD_ALLOCATIONS.get().wrapping_add(1));
        THREAD_BYTES.set(THREAD_BYTES.get().wrapping_add(bytes as u64));
    }
}

// SAFETY: every call is the system allocator's, unchanged; counting allocates nothing and does
// not unwind.
unsafe impl GlobalAlloc for CountingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Self::count(bytes);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(block, layout, bytes) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }
}
