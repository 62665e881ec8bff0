//! The name of a connection within one transport.

use std::fmt;

/// A slot of the transport's connection table with the generation of its use.
///
/// Once a connection has closed, its id is never given out again: every call with it is answered
/// "closed".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    slot: u32,
    generation: u32,
}

impl ConnectionId {
    /// Makes an id from its parts; for tables of an upper layer or of a modelled network.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The index in the connection table, below `connections_max`: fit for a table beside it.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// How often the slot was used before.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}
