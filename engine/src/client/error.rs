//! How operations fail, and whose fault it is.

use crate::ids::Epoch;

/// What an operation was last waiting for when its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Obstacle {
    /// No connection to any replica.
    #[error("a connection")]
    Connection,
    /// No session with the copyset.
    #[error("a session")]
    Session,
    /// The copyset holds as many sessions as it may.
    #[error("another client to end: the copyset holds as many sessions as it may")]
    SessionsFull,
    /// The server granted no pages, or the connection's queue was full.
    #[error("room on the connection")]
    Room,
    /// No pages to read into: all are in buffers of earlier reads.
    #[error("pages to read into")]
    LandingPages,
    /// Too many operations of the session have no outcome yet.
    #[error("older operations of its session")]
    Numbers,
    /// No replica said that it leads.
    #[error("a leader")]
    Leader,
    /// The leader was out of some resource.
    #[error("a busy leader")]
    Busy,
    /// An attempt was not answered.
    #[error("an answer")]
    Answer,
    /// The payload arrived damaged, again and again.
    #[error("an undamaged transfer")]
    Transfer,
    /// The block is bad on the replica that was asked.
    #[error("a block to be repaired")]
    Media,
    /// The replicas that were asked cannot use their device.
    #[error("a replica in service")]
    Replica,
}

/// How an operation failed. Where an operation had several pieces, this is the first failure, and
/// other pieces may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ClientError {
    /// Cluster: time or attempts were used up. What changes something was *not* executed.
    #[error("gave up waiting for {0}")]
    TimedOut(Obstacle),
    /// Cluster: what changes something may have been executed or may still be. Reading tells.
    #[error("outcome unknown: the connection or the session was lost on the way")]
    OutcomeUnknown,
    /// Cluster: the copyset is at its quota.
    #[error("no space: the copyset is at its quota")]
    NoSpace,
    /// Caller: somebody has raised the copyset's fencing epoch.
    #[error("fenced: the copyset's epoch is {0}")]
    Fenced(Epoch),
    /// Cluster: the block is bad on its replica, and could not be repaired.
    #[error("a stored block is bad")]
    Media,
    /// Cluster or network: the bytes that landed do not match the checksums stored with them.
    #[error("the data does not match its checksums")]
    Corrupt,
    /// Cluster: the server does not know the range or the request; versions or files differ.
    #[error("refused by the server as out of range or malformed")]
    Refused,
}

/// Why a volume cannot be opened. The caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The cluster file has no such volume.
    #[error("there is no volume named {0:?} in the cluster file")]
    Unknown(String),
    /// A reactor that runs one of the volume's replicas has no address of the allowed kind.
    #[error("none of the addresses of the volume's replicas may be used")]
    NoAddress,
}
