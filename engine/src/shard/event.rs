//! What a shard tells its composer.

use culvert_memory::Buffer;
use culvert_nvme::Status;

use crate::ids::BatchNumber;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// All batches up to this one are durable.
    Durable(BatchNumber),
    /// A read came back.
    ReadDone {
        /// As given to [`Shard::read`](super::Shard::read).
        token: u64,
        /// The bytes; they mean something only after success, and are not verified here.
        buffer: Buffer,
        /// What the device said.
        status: Status,
    },
    /// The device failed: nothing is acknowledged any more. Told once.
    Failed(Failure),
    /// A checkpoint counts now.
    CheckpointDone {
        /// Its pages.
        pages: u32,
    },
    /// A checkpoint did not fit its area and was given up; the old one still counts.
    CheckpointTooLarge,
}

/// Why a shard is poisoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} failed: {status}")]
pub struct Failure {
    /// What failed.
    pub what: FailedCommand,
    /// What the device said.
    pub status: Status,
}

/// A command whose failure poisons a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedCommand {
    /// A write of payload.
    Payload,
    /// A write of the journal.
    Journal,
    /// A flush.
    Flush,
    /// A write of a checkpoint.
    Checkpoint,
    /// A write of a superblock.
    Superblock,
    /// A read, because the device has gone away. A block that cannot be read is not the device's
    /// end: it poisons nothing.
    Read,
}

impl std::fmt::Display for FailedCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FailedCommand::Payload => "a write of payload",
            FailedCommand::Journal => "a write of the journal",
            FailedCommand::Flush => "a flush",
            FailedCommand::Checkpoint => "a write of a checkpoint",
            FailedCommand::Superblock => "a write of a superblock",
            FailedCommand::Read => "a read",
        })
    }
}
