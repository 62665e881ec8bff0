//! What the map says of one block, and how a chunk is named.

use arrayvec::ArrayVec;

use crate::ids::{ChunkId, CopysetId, Extent, LogIndex, OPERATION_BLOCKS_MAX};

/// The start of an [`Extent`](crate::ids::Extent) that stands for payload this replica does not
/// hold, because a later committed entry supersedes it (or because it waits to be repaired).
///
/// The blocks it covers are mapped as [`Place::Missing`].
pub const MISSING: u32 = u32::MAX;

/// Blocks that the data space of one shard may have at most: two values of a 32-bit block number
/// stand for a hole and for missing payload.
pub const DATA_BLOCKS_MAX: u32 = u32::MAX - 1;

/// Log indexes end here: the map keeps 48 bits of them (9 years at a million entries a second).
pub const LOG_INDEX_MAX: LogIndex = LogIndex((1 << 48) - 1);

/// The measures of a shard's store; equal at every start of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of the data space, at most [`DATA_BLOCKS_MAX`].
    pub data_blocks: u32,
    /// Blocks of every chunk. Must be equal on all replicas of a copyset.
    pub chunk_blocks: u32,
    /// Whether extents that were discarded or deleted are handed out for a device deallocate
    /// before they are free.
    pub deallocate: bool,
}

impl Geometry {
    /// Whether an extent that was read from somewhere may be given to the store: it lies within
    /// the data space, or stands for missing payload.
    #[must_use]
    pub fn holds(&self, extent: Extent) -> bool {
        extent.start == MISSING
            || extent.blocks <= self.data_blocks && extent.start <= self.data_blocks - extent.blocks
    }
}

/// A chunk, within its copyset.
///
/// The copyset is part of the name: two copysets that share a shard here may lie on different
/// shards elsewhere, so that one must never see a chunk of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The owner.
    pub copyset: CopysetId,
    /// The chunk.
    pub chunk: ChunkId,
}

/// Where a block of a chunk lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// Nowhere: it reads as zeroes.
    #[default]
    Hole,
    /// In this block of the shard's data space.
    At(u32),
    /// Mapped, but this replica lacks the bytes: never served, scrubbed or sent. It counts as
    /// mapped, so that the count is equal on all replicas.
    Missing,
}

/// The state of one block of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockState {
    /// Where its bytes lie.
    pub place: Place,
    /// CRC-32C of its bytes; zero for a hole.
    pub crc: u32,
    /// The log index that wrote or unmapped it; zero if nothing did since the chunk's birth.
    pub index: LogIndex,
}

/// The states of the blocks of one operation, in order.
pub type BlockStates = ArrayVec<BlockState, { OPERATION_BLOCKS_MAX as usize }>;

/// What is said of a chunk as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSummary {
    /// Its name.
    pub key: ChunkKey,
    /// The index of the write that brought it into being.
    pub birth: LogIndex,
    /// The index of the last entry that touched it. Two replicas whose birth and applied index of
    /// a chunk are equal hold the same chunk. An entry not above it is skipped.
    pub applied: LogIndex,
    /// Its mapped blocks.
    pub mapped: u32,
}

/// Whether a change took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It did.
    Made,
    /// It did not: the chunk (or the knowledge of its absence) is already at or beyond this index.
    /// Payload extents given with it were released as far as the map does not name them.
    Skipped,
}
