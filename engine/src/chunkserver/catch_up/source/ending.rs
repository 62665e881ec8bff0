//! What keeps a task from going on, and what ends it before its end.

use super::super::{REST_LONG_NS, REST_NS};

/// Why a task ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ending {
    #[error("the connection is closed")]
    Closed,
    #[error("this replica no longer leads")]
    Deposed,
    #[error("the receiver does not answer")]
    Silent,
    #[error("the receiver gave it up")]
    Refused,
    #[error("the receiver's answers make no sense")]
    Nonsense,
    #[error("a block is missing here and waits to be repaired")]
    Missing,
    #[error("a block is bad here and waits to be repaired")]
    BadBlock,
    #[error("the raft snapshot was lost")]
    SnapshotLost,
    #[error("the log was cut behind its last round")]
    Outrun,
}

impl Ending {
    /// How long the receiver is left alone. Longer where another task will most likely end alike.
    pub fn rest_ns(self) -> u64 {
        match self {
            Ending::Closed | Ending::Deposed | Ending::SnapshotLost | Ending::Outrun => REST_NS,
            Ending::Silent
            | Ending::Refused
            | Ending::Nonsense
            | Ending::Missing
            | Ending::BadBlock => REST_LONG_NS,
        }
    }

    /// Whether the receiver is to be told: not where it said so itself, or cannot be reached.
    pub fn is_to_be_told(self) -> bool {
        !matches!(self, Ending::Closed | Ending::Refused)
    }
}

/// What keeps a task from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// An answer, a read, the clock.
    Wait,
    /// Room on the connection.
    Blocked,
    /// Something that ends it.
    End(Ending),
}
