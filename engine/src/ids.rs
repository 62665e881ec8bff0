//! The identifiers and small measures that every part of the engine speaks.
//!
//! Newtypes only: an index of one kind never stands where another is meant.

use std::fmt;

/// The granule of map, checksum and replication, in bytes, on every device.
pub const BLOCK_SIZE: usize = 4096;

/// Blocks that one operation (one raft entry) covers at most: 128 KiB.
pub const OPERATION_BLOCKS_MAX: u32 = 32;

/// Extents that the blocks of one operation may be scattered over at most: each may lie alone,
/// because a follower cannot refuse an entry for want of a longer run.
pub const OPERATION_EXTENTS_MAX: usize = OPERATION_BLOCKS_MAX as usize;

/// Segments of journal entries in metadata that a superblock names.
pub const SEGMENTS_NAMED: usize = 3;

/// ... one that only the superblock before names, and one that the next will.
pub const SEGMENTS_MAX: usize = SEGMENTS_NAMED + 2;

/// A segment is at most so many times as long as it is to have free blocks.
pub const SEGMENT_LENGTH_FACTOR: u32 = 2;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identifier!(
    /// A replicated group of chunks: one raft group, three replicas, one shard on each device.
    CopysetId(u32)
);
identifier!(
    /// A chunk, unique in the cluster: volume number in the upper 32 bits, position in the lower.
    ChunkId(u64)
);
identifier!(
    /// The 64-bit name raft knows a replica by: minted with the replica, never reused, never zero.
    ReplicaId(u64)
);
identifier!(
    /// A raft term.
    Term(u64)
);
identifier!(
    /// An index in a copyset's raft log; the first entry has index 1.
    LogIndex(u64)
);
identifier!(
    /// A fencing number: operations of an older epoch are refused.
    Epoch(u64)
);
identifier!(
    /// A client's session with one copyset: the log index of the entry that opened it. Zero: none.
    SessionId(u64)
);
identifier!(
    /// The number of a request within its session, counted from 1 by the client.
    RequestNumber(u64)
);
identifier!(
    /// A journal batch of one shard: all that one journal write carries. Counted from 1.
    BatchNumber(u64)
);

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

/// A run of blocks in a shard's data space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First block, counted from the start of the shard's data space.
    pub start: u32,
    /// Length in blocks.
    pub blocks: u32,
}

impl Extent {
    /// The block after the last one.
    #[must_use]
    pub fn end(self) -> u32 {
        self.start + self.blocks
    }
}

/// The extents of one operation's payload, in the order of its blocks. However scattered they are,
/// they need no allocation; what only looks at them takes a slice.
pub type Extents = arrayvec::ArrayVec<Extent, OPERATION_EXTENTS_MAX>;

/// A run of blocks within a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// First block of the run, counted from the start of the chunk.
    pub first: u32,
    /// Length in blocks.
    pub blocks: u32,
}
