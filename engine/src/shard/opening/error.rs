//! Why a shard cannot be opened.

use culvert_nvme::Status;

use crate::checkpoint::CheckpointError;
use crate::device::SuperblockError;
use crate::journal::{ItemError, MalformedItem};
use crate::store::ImageError;

/// Where on the device something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first flush.
    Flush,
    /// A superblock slot.
    Superblock,
    /// The metadata of a segment's blocks.
    Metadata,
    /// The verdict.
    Verdict,
}

/// Why a shard cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Device: a command failed that cannot be done without.
    #[error("{status} at {place:?}")]
    Device {
        /// What it was.
        place: Place,
        /// What the device said.
        status: Status,
    },
    /// Device: neither superblock slot holds one.
    #[error("no valid superblock: {0}; {1}")]
    Superblock(SuperblockError, SuperblockError),
    /// Device: the checkpoint is damaged, and there is no older one that could do.
    #[error("the checkpoint is damaged")]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint holds items that this version cannot read.
    #[error("the checkpoint's section of a copyset")]
    CheckpointItem(#[from] ItemError),
    /// The checkpoint holds a chunk that cannot be.
    #[error("the checkpoint's section of a chunk")]
    Chunk(#[from] ImageError),
    /// The journal holds items that this version cannot read.
    #[error(transparent)]
    Journal(#[from] MalformedItem),
    /// Device: the ring is newer than the superblock allows; the newest superblock is lost.
    #[error("the journal at position {position} is newer than the superblock")]
    SuperblockLost {
        /// A position found.
        position: u64,
    },
    /// Device: the ring has no room for a verdict, and for a checkpoint behind it. Too many openings
    /// crashed in a row, or the newest superblock is lost.
    #[error(
        "the journal has no room for another opening: too many crashed in a row, or a superblock is lost"
    )]
    RingFull,
    /// Caller: the pool has too few pages.
    #[error("too few pages in the pool to open a shard")]
    Memory,
    /// Caller: the device has no such shard.
    #[error("the device has no shard {shard}")]
    NoShard {
        /// The number asked for.
        shard: u32,
    },
}
