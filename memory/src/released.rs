//! The queue of runs released by a window's buffers.
//!
//! A single-threaded ring of fixed size behind shared references: pushed by the drop of a buffer,
//! popped when credits are given back.

use std::cell::Cell;

/// Runs waiting for their credit to be given back, oldest first.
#[derive(Debug)]
pub(crate) struct ReleasedRing {
    runs: Box<[Cell<(u32, u32)>]>,
    /// Index of the oldest run.
    head: Cell<u32>,
    /// Number of runs.
    len: Cell<u32>,
}

impl ReleasedRing {
    /// A ring for `capacity` runs.
    pub(crate) fn new(capacity: u32) -> Self {
        ReleasedRing {
            runs: (0..capacity).map(|_| Cell::new((0, 0))).collect(),
            head: Cell::new(0),
            len: Cell::new(0),
        }
    }

    /// Number of runs waiting.
    pub(crate) fn len(&self) -> u32 {
        self.len.get()
    }

    /// Appends a run.
    ///
    /// # Panics
    ///
    /// When the ring is full, which its user excludes.
    pub(crate) fn push(&self, page: u32, pages: u32) {
        let len = self.len.get();
        assert!((len as usize) < self.runs.len(), "never more runs than pages");
        let tail = self.index(self.head.get() as usize + len as usize);
        self.runs[tail].set((page, pages));
        self.len.set(len + 1);
    }

    /// Takes the oldest run.
    pub(crate) fn pop(&self) -> Option<(u32, u32)> {
        let len = self.len.get().checked_sub(1)?;
        let head = self.head.get() as usize;
        let run = self.runs[head].get();
        self.head.set(self.index(head + 1) as u32);
        self.len.set(len);
        Some(run)
    }

    /// Wraps a position that is less than twice the capacity.
    fn index(&self, position: usize) -> usize {
        if position >= self.runs.len() { position - self.runs.len() } else { position }
    }
}
