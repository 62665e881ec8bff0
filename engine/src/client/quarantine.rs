//! Landing pages of reads that were given up.
//!
//! The server may still write to them, so they must not be used for anything else before it has
//! answered all the same or its connection is closed.

use culvert_memory::Buffer;

use crate::network::ConnectionId;

#[derive(Debug)]
struct Entry {
    connection: ConnectionId,
    token: u64,
    _pages: Buffer,
}

/// A bounded set of such pages.
#[derive(Debug)]
pub(super) struct Quarantine {
    entries: Vec<Entry>,
    capacity: usize,
}

impl Quarantine {
    pub(super) fn new(capacity: usize) -> Quarantine {
        Quarantine { entries: Vec::with_capacity(capacity), capacity }
    }

    /// Whether nothing more can be taken in: then the connection must be closed instead.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() == self.capacity
    }

    /// Number of reads whose pages are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether pages of that connection's window are kept.
    pub(super) fn holds(&self, connection: ConnectionId) -> bool {
        self.entries.iter().any(|entry| entry.connection == connection)
    }

    /// Keeps the pages of a read.
    ///
    /// # Panics
    ///
    /// If it is full.
    pub(super) fn keep(&mut self, connection: ConnectionId, token: u64, pages: Buffer) {
        assert!(!self.is_full(), "the caller looks first");
        self.entries.push(Entry { connection, token, _pages: pages });
    }

    /// The server has answered that read after all.
    pub(super) fn release(&mut self, connection: ConnectionId, token: u64) {
        let found = self
            .entries
            .iter()
            .position(|entry| entry.token == token && entry.connection == connection);
        if let Some(index) = found {
            self.entries.swap_remove(index);
        }
    }

    /// The connection is closed.
    pub(super) fn release_connection(&mut self, connection: ConnectionId) {
        self.entries.retain(|entry| entry.connection != connection);
    }
}
