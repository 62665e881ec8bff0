//! The arithmetic of a ring: two positions that only ever advance.
//!
//! A [`RingCursor`] knows nothing of what the ring holds or where it lies. Positions are
//! free-running 32-bit counters: they wrap at 2^32 and not at the capacity, so a full ring and an
//! empty one differ without a wasted entry. The capacity is a power of two, so that an index is
//! the position's low bits even across the wrap. Worked example, capacity 8: tail 2 (after the
//! wrap), head 4294967293 (= -3): 5 entries are used, at indices 5, 6, 7, 0, 1.
//!
//! **Fault model.** A position read from shared memory is the peer's word: it is taken over only
//! through [`RingCursor::accept_head`] and [`RingCursor::accept_tail`], which refuse one that no
//! honest peer could have reached.

use thiserror::Error;

/// A position that no honest peer could have reached. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the peer moved a ring position from {from} to {to}, past the allowed {allowed} entries")]
pub struct CursorError {
    /// The position held so far.
    pub from: u32,
    /// The position the peer claims.
    pub to: u32,
    /// How far it might have moved.
    pub allowed: u32,
}

/// Head and tail of a ring: entries are consumed at the head and produced at the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingCursor {
    head: u32,
    tail: u32,
    capacity: u32,
}

impl RingCursor {
    /// An empty ring of `capacity` entries, both positions zero.
    ///
    /// # Panics
    ///
    /// When the capacity is not a power of two of at most 2^31.
    pub const fn new(capacity: u32) -> RingCursor {
        RingCursor::starting_at(capacity, 0)
    }

    /// An empty ring whose positions start at `position`.
    ///
    /// # Panics
    ///
    /// As [`RingCursor::new`].
    pub const fn starting_at(capacity: u32, position: u32) -> RingCursor {
        assert!(capacity.is_power_of_two(), "the capacity of a ring is a power of two");
        RingCursor { head: position, tail: position, capacity }
    }

    /// Number of entries the ring has.
    #[inline]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Position of the oldest entry.
    #[inline]
    pub const fn head(&self) -> u32 {
        self.head
    }

    /// Position of the next entry to be produced.
    #[inline]
    pub const fn tail(&self) -> u32 {
        self.tail
    }

    /// Number of entries produced and not consumed.
    #[inline]
    pub const fn used(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Number of entries that can be produced.
    #[inline]
    pub const fn free(&self) -> u32 {
        self.capacity - self.used()
    }

    /// Whether there is nothing to consume.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.used() == 0
    }

    /// Whether nothing more can be produced.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Index in the ring of a position.
    #[inline]
    pub const fn index(&self, position: u32) -> u32 {
        position & (self.capacity - 1)
    }

    /// Index of the oldest entry.
    #[inline]
    pub const fn head_index(&self) -> u32 {
        self.index(self.head)
    }

    /// Index of the next entry to be produced.
    #[inline]
    pub const fn tail_index(&self) -> u32 {
        self.index(self.tail)
    }

    /// Number of used entries from the head on that lie side by side, before the ring's end.
    #[inline]
    pub const fn contiguous_used(&self) -> u32 {
        let to_end = self.capacity - self.head_index();
        if self.used() < to_end { self.used() } else { to_end }
    }

    /// Number of free entries from the tail on that lie side by side, before the ring's end.
    #[inline]
    pub const fn contiguous_free(&self) -> u32 {
        let to_end = self.capacity - self.tail_index();
        if self.free() < to_end { self.free() } else { to_end }
    }

    /// Produces one entry and answers its index; `None` when the ring is full.
    #[inline]
    pub const fn push(&mut self) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let index = self.tail_index();
        self.tail = self.tail.wrapping_add(1);
        Some(index)
    }

    /// Consumes one entry and answers its index; `None` when the ring is empty.
    #[inline]
    pub const fn pop(&mut self) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let index = self.head_index();
        self.head = self.head.wrapping_add(1);
        Some(index)
    }

    /// Produces `entries` entries.
    ///
    /// # Panics
    ///
    /// When fewer are free.
    #[inline]
    pub const fn advance_tail(&mut self, entries: u32) {
        assert!(entries <= self.free(), "no more entries are produced than are free");
        self.tail = self.tail.wrapping_add(entries);
    }

    /// Consumes `entries` entries.
    ///
    /// # Panics
    ///
    /// When fewer are used.
    #[inline]
    pub const fn advance_head(&mut self, entries: u32) {
        assert!(entries <= self.used(), "no more entries are consumed than are used");
        self.head = self.head.wrapping_add(entries);
    }

    /// Takes over the head of a peer that consumes; answers the number of entries it consumed.
    ///
    /// # Errors
    ///
    /// When the peer would have consumed more than was produced; nothing changes then.
    #[inline]
    pub const fn accept_head(&mut self, head: u32) -> Result<u32, CursorError> {
        let consumed = head.wrapping_sub(self.head);
        if consumed > self.used() {
            return Err(CursorError { from: self.head, to: head, allowed: self.used() });
        }
        self.head = head;
        Ok(consumed)
    }

    /// Takes over the tail of a peer that produces; answers the number of entries it produced.
    ///
    /// # Errors
    ///
    /// When the peer would have produced more than was free; nothing changes then.
    #[inline]
    pub const fn accept_tail(&mut self, tail: u32) -> Result<u32, CursorError> {
        let produced = tail.wrapping_sub(self.tail);
        if produced > self.free() {
            return Err(CursorError { from: self.tail, to: tail, allowed: self.free() });
        }
        self.tail = tail;
        Ok(produced)
    }
}

#[cfg(test)]
mod tests;
