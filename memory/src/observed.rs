#![allow(unsafe_code)]
//! Who allocates: the counting allocator with an observer behind it.
//!
//! For tests that must tell one piece of code's allocations from another's. No server installs it:
//! [`CountingAllocator`] asks nobody.
//!
//! ```
//! use std::cell::Cell;
//! use culvert_memory::{ObservedAllocator, observe_allocations};
//!
//! #[global_allocator]
//! static ALLOCATOR: ObservedAllocator = ObservedAllocator::new();
//!
//! thread_local!(static BYTES: Cell<usize> = const { Cell::new(0) });
//!
//! let value = observe_allocations(|bytes| BYTES.set(BYTES.get() + bytes), || Box::new(7_u32));
//! assert_eq!((*value, BYTES.get()), (7, 4));
//! ```

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use crate::counting::CountingAllocator;

thread_local! {
    static OBSERVER: Cell<Option<fn(usize)>> = const { Cell::new(None) };
}

/// Runs `run` and calls `observer` with the size of each allocation that this thread makes
/// meanwhile, before it is made; growing one in place counts as one. What the observer allocates
/// itself is not observed. It must not panic: an allocator may not unwind.
pub fn observe_allocations<T>(observer: fn(usize), run: impl FnOnce() -> T) -> T {
    let before = OBSERVER.replace(Some(observer));
    let result = run();
    OBSERVER.set(before);
    result
}

/// [`CountingAllocator`], with an observer where [`observe_allocations`] set one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObservedAllocator;

impl ObservedAllocator {
    /// The allocator, to be installed as `#[global_allocator]`.
    pub const fn new() -> ObservedAllocator {
        ObservedAllocator
    }

    fn observe(bytes: usize) {
        // Taken out while it runs, so that it may allocate.
        if let Some(observer) = OBSERVER.take() {
            observer(bytes);
            OBSERVER.set(Some(observer));
        }
    }
}

// SAFETY: every call is the counting allocator's, unchanged; observers do not unwind.
unsafe impl GlobalAlloc for ObservedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::observe(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { CountingAllocator.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::observe(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { CountingAllocator.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Self::observe(bytes);
        // SAFETY: as promised by the caller.
        unsafe { CountingAllocator.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { CountingAllocator.dealloc(block, layout) }
    }
}
