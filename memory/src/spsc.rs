#![allow(unsafe_code)]
//! A bounded queue between two threads: mailboxes to and from reactors.
//!
//! One [`Producer`], one [`Consumer`], a fixed number of entries, no lock. Each side keeps a copy
//! of the other's position and looks at the real one only when the copy says full or empty, so
//! that in a stream of messages the cache line of a position seldom crosses cores. A full queue
//! is a normal answer. Waking a sleeping reader is not its business.
//!
//! Model-checked with loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p culvert-memory --release spsc_loom`.

use std::mem::MaybeUninit;

use sync::{Arc, AtomicU32, Ordering, UnsafeCell, fence};

use crate::RingCursor;

/// Atomics and cells: the standard ones, or those that loom watches.
mod sync {
    #[cfg(loom)]
    pub(super) use loom::{
        cell::UnsafeCell,
        sync::Arc,
        sync::atomic::{AtomicU32, Ordering, fence},
    };
    #[cfg(not(loom))]
    pub(super) use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    };

    /// The standard cell with loom's interface.
    #[cfg(not(loom))]
    #[derive(Debug)]
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        pub(super) const fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline]
        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// A value with cache lines of its own; two, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct CacheLine<T>(T);

/// What both sides share.
///
/// Invariant: entries from head to tail are initialised and the consumer's, all others are the
/// producer's. Only the consumer stores `head`, only the producer stores `tail`.
#[derive(Debug)]
struct Shared<T> {
    head: CacheLine<AtomicU32>,
    tail: CacheLine<AtomicU32>,
    entries: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: an entry is only ever reached by the side that the invariant above gives it to, and
// passes between them by a release store and an acquire load of a position.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: it owns its entries.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let capacity = self.entries.len() as u32;
        let mut position = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        while position != tail {
            let entry = &self.entries[(position & (capacity - 1)) as usize];
            // SAFETY: entries from head to tail are initialised, and both sides are gone.
            entry.with_mut(|value| unsafe { value.cast::<T>().drop_in_place() });
            position = position.wrapping_add(1);
        }
    }
}

/// Makes a queue of at least `capacity` entries: the next power of two.
///
/// # Panics
///
/// When the capacity is zero or more than 2^31.
pub fn spsc<T: Send>(capacity: u32) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a queue has at least one entry");
    let capacity = capacity.checked_next_power_of_two().expect("at most 2^31 entries");
    let shared = Arc::new(Shared {
        head: CacheLine(AtomicU32::new(0)),
        tail: CacheLine(AtomicU32::new(0)),
        entries: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let cursor = RingCursor::new(capacity);
    let producer = Producer { shared: Arc::clone(&shared), cursor };
    (producer, Consumer { shared, cursor })
}

/// The writing side of a queue.
#[derive(Debug)]
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Own tail, and the head as last seen.
    cursor: RingCursor,
}

impl<T: Send> Producer<T> {
    /// Appends a value.
    ///
    /// # Errors
    ///
    /// The value itself, when the queue is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.cursor.is_full() {
            self.refresh();
        }
        let Some(index) = self.cursor.push() else {
            return Err(value);
        };
        let entry = &self.shared.entries[index as usize];
        // SAFETY: the entry is not between head and tail, so it is the producer's and holds no
        // value; acquiring the head made the consumer's last read of it happen before.
        entry.with_mut(|slot| unsafe { slot.cast::<T>().write(value) });
        self.shared.tail.0.store(self.cursor.tail(), Ordering::Release);
        Ok(())
    }

    /// Number of values that can be appended for sure.
    pub fn free(&mut self) -> u32 {
        self.refresh();
        self.cursor.free()
    }

    /// Number of entries.
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Whether the reading side is gone, so that nobody will take what is appended.
    pub fn is_abandoned(&self) -> bool {
        is_alone(&self.shared)
    }

    fn refresh(&mut self) {
        let head = self.shared.head.0.load(Ordering::Acquire);
        self.cursor.accept_head(head).expect("the consumer stays behind the tail");
    }
}

/// The reading side of a queue.
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// Own head, and the tail as last seen.
    cursor: RingCursor,
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest value; `None` when the queue is empty.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.cursor.is_empty() {
            self.refresh();
        }
        let index = self.cursor.pop()?;
        let entry = &self.shared.entries[index as usize];
        // SAFETY: the entry lies between head and tail, so it is the consumer's and initialised;
        // acquiring the tail made the producer's write of it happen before. It is read once,
        // because the head moves past it below.
        let value = entry.with(|slot| unsafe { slot.cast::<T>().read() });
        self.shared.head.0.store(self.cursor.head(), Ordering::Release);
        Some(value)
    }

    /// Number of values that can be taken for sure.
    pub fn available(&mut self) -> u32 {
        self.refresh();
        self.cursor.used()
    }

    /// Number of entries.
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Whether the writing side is gone. Values may still be there: take them after asking.
    pub fn is_abandoned(&self) -> bool {
        is_alone(&self.shared)
    }

    fn refresh(&mut self) {
        let tail = self.shared.tail.0.load(Ordering::Acquire);
        self.cursor.accept_tail(tail).expect("the producer stays within the capacity");
    }
}

/// Whether the other side is gone; then everything it did happened before.
fn is_alone<T>(shared: &Arc<Shared<T>>) -> bool {
    let alone = Arc::strong_count(shared) == 1;
    // The count is read relaxed and given up by release.
    fence(Ordering::Acquire);
    alone
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod spsc_loom;
