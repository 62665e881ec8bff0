//! The store: which block of the shard's data space holds which block of which chunk.

mod block;

pub use block::{
    BlockState, BlockStates, Change, ChunkKey, ChunkSummary, DATA_BLOCKS_MAX, LOG_INDEX_MAX,
    MISSING, Place,
};

use crate::ids::{BatchNumber, BlockRange, ChunkId, CopysetId, Extent, Extents, LogIndex};

/// The measures of a shard's store; equal at every start of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of the data space.
    pub data_blocks: u32,
    /// Blocks of every chunk. Must be equal on all replicas of a copyset.
    pub chunk_blocks: u32,
    /// Whether extents freed by discard and delete are handed out for a device deallocate first.
    pub deallocate: bool,
}

/// Proof that a read, send or copy of extents is in flight; goes back by [`Store::read_end`].
#[must_use = "extents released after this ticket began are never free until it is ended"]
#[derive(Debug)]
pub struct ReadTicket {
    _epoch: u64,
}

/// A frozen image of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenId {
    slot: u32,
    generation: u32,
}

/// Why a chunk was not frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreezeError {
    /// There is no such chunk.
    #[error("no such chunk")]
    NoChunk,
    /// All slots for frozen images are taken.
    #[error("too many frozen chunks")]
    Full,
}

/// Payload that an unapplied record of the journal holds.
#[derive(Clone, Copy, Debug)]
pub struct LivePayload<'a> {
    /// The chunk the record writes to.
    pub key: ChunkKey,
    /// The record's index.
    pub index: LogIndex,
    /// The blocks it writes.
    pub range: BlockRange,
    /// Where their bytes lie.
    pub extents: &'a [Extent],
}

/// Who names a block of the data space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The map of a chunk.
    Chunk {
        /// The chunk.
        key: ChunkKey,
        /// Its block.
        block: u32,
    },
    /// A record of the journal.
    Record {
        /// The chunk it writes to.
        key: ChunkKey,
        /// Its index.
        index: LogIndex,
    },
}

/// Maps, records and free space contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// Two users name one block of the data space.
    #[error("block {block} of the data space is used twice: by {first:?} and {second:?}")]
    DoubleUse {
        /// The block.
        block: u32,
        /// The user found first.
        first: User,
        /// The user found second.
        second: User,
    },
    /// A user names a block behind the end of the data space.
    #[error("{user:?} names block {block} behind the end of the data space")]
    Outside {
        /// The block.
        block: u32,
        /// Its user.
        user: User,
    },
    /// The last piece of a chunk's image was never loaded.
    #[error("the image of chunk {0:?} ends early")]
    Unfinished(ChunkKey),
}

/// What an image piece brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// A part of a chunk; more pieces follow.
    Part(ChunkKey),
    /// The last piece of a chunk.
    Chunk(ChunkKey),
    /// What is known of chunks that do not exist.
    Absences(CopysetId),
}

/// Why bytes are not a piece of a chunk's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Fewer bytes than the piece says it has.
    #[error("image piece is truncated")]
    Truncated,
    /// A field holds a value that no writer produces.
    #[error("image field {0} holds an impossible value")]
    Field(&'static str),
    /// The piece does not follow the one before it.
    #[error("image piece is out of order")]
    Order,
}

/// One block of a chunk that a receiver installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallBlock {
    /// The block, counted from the start of the chunk.
    pub block: u32,
    /// Its state; a place is one of the receiver's own.
    pub state: BlockState,
}

/// A chunk, or what changed of it, that a receiver installs in one step.
#[derive(Clone, Copy, Debug)]
pub struct ChunkInstall<'a> {
    /// The chunk.
    pub key: ChunkKey,
    /// Its birth on the sender.
    pub birth: LogIndex,
    /// Its applied index on the sender when it was frozen.
    pub applied: LogIndex,
    /// The copyset's applied index on the sender when the chunk was frozen.
    pub as_of: LogIndex,
    /// The blocks hold every change above this index; zero: all.
    pub since: LogIndex,
    /// What changed, blocks ascending.
    pub blocks: &'a [InstallBlock],
}

/// Why a chunk cannot be installed; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// The difference begins above what the receiver holds.
    #[error("the difference starts above what is held here")]
    Gap,
    /// A field holds a value that no sender produces.
    #[error("install field {0} holds an impossible value")]
    Field(&'static str),
}

/// The result of encoding one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded<N> {
    /// Bytes written to the front of the buffer.
    pub bytes: usize,
    /// Where the next piece begins; `None`: this was the last.
    pub next: Option<N>,
}

/// Numbers to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Blocks of the data space.
    pub data_blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Logical blocks mapped, over all copysets.
    pub mapped_blocks: u64,
    /// Blocks released and not yet free.
    pub waiting_blocks: u64,
    /// Of those, blocks handed out to, or queued for, a device deallocate.
    pub deallocating_blocks: u64,
    /// Chunks.
    pub chunks: u64,
    /// Frozen images.
    pub frozen: u64,
    /// Reads, sends and copies in flight.
    pub reads: u64,
    /// Bytes of memory held by maps, allocator and queues.
    pub memory_bytes: u64,
}

/// The map, the free space and the releases of one shard.
#[derive(Debug)]
pub struct Store {
    geometry: Geometry,
}

#[allow(missing_docs, unused_variables, clippy::todo)]
impl Store {
    /// The store of a newly formatted shard: no chunk, all space free.
    #[must_use]
    pub fn new(geometry: Geometry) -> Store {
        Store { geometry }
    }

    /// A store to be filled by [`Store::load`] and by applying entries, without free space until
    /// [`Store::finish_recovery`].
    #[must_use]
    pub fn recovering(geometry: Geometry) -> Store {
        Store { geometry }
    }

    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    // Recovery.
    pub fn load(&mut self, piece: &[u8]) -> Result<Loaded, ImageError> {
        todo!()
    }
    /// Derives the free space: what neither a map nor an unapplied live record names.
    pub fn finish_recovery<'a>(
        &mut self,
        live: impl IntoIterator<Item = LivePayload<'a>>,
    ) -> Result<(), SpaceError> {
        todo!()
    }
    /// The offline check; returns the blocks that are allocated and named by nobody (a leak).
    pub fn verify<'a>(
        &self,
        live: impl IntoIterator<Item = LivePayload<'a>>,
    ) -> Result<u64, SpaceError> {
        todo!()
    }

    // Space.
    pub fn allocate(&mut self, blocks: u32) -> Option<Extents> {
        todo!()
    }
    pub fn release(&mut self, extent: Extent) {
        todo!()
    }
    pub fn seal(&mut self, batch: BatchNumber) {
        todo!()
    }
    pub fn durable(&mut self, batch: BatchNumber) {
        todo!()
    }
    /// A bounded amount of freeing; call once a turn. Returns whether there is more to do now.
    pub fn reclaim(&mut self) -> bool {
        todo!()
    }
    pub fn read_begin(&mut self) -> ReadTicket {
        todo!()
    }
    pub fn read_end(&mut self, ticket: ReadTicket) {
        todo!()
    }
    /// Moves up to `max` extents to `out` for a device deallocate.
    pub fn take_deallocations(&mut self, max: usize, out: &mut Vec<Extent>) {
        todo!()
    }
    pub fn deallocated(&mut self, extent: Extent) {
        todo!()
    }

    // Maps.
    /// Appends the states of the blocks to `out`; false (and nothing appended): no such chunk.
    pub fn lookup(&self, key: ChunkKey, range: BlockRange, out: &mut BlockStates) -> bool {
        todo!()
    }
    pub fn write(
        &mut self,
        key: ChunkKey,
        index: LogIndex,
        range: BlockRange,
        extents: &[Extent],
        crcs: impl ExactSizeIterator<Item = u32>,
    ) -> Change {
        todo!()
    }
    pub fn discard(&mut self, key: ChunkKey, index: LogIndex, range: BlockRange) -> Change {
        todo!()
    }
    pub fn delete(&mut self, key: ChunkKey, index: LogIndex) -> Change {
        todo!()
    }
    /// Moves one block to another extent (repair); false, and `to` released, if its state is no
    /// longer `expected`.
    pub fn relocate(&mut self, key: ChunkKey, block: u32, expected: BlockState, to: u32) -> bool {
        todo!()
    }
    #[must_use]
    pub fn chunk(&self, key: ChunkKey) -> Option<ChunkSummary> {
        todo!()
    }
    /// The chunk of the copyset that follows `after` in order of id: a cursor that survives change.
    #[must_use]
    pub fn chunk_after(&self, copyset: CopysetId, after: Option<ChunkId>) -> Option<ChunkSummary> {
        todo!()
    }
    #[must_use]
    pub fn mapped_blocks(&self, copyset: CopysetId) -> u64 {
        todo!()
    }
    /// Blocks of the range that are not mapped now.
    #[must_use]
    pub fn unmapped_in(&self, key: ChunkKey, range: BlockRange) -> u32 {
        todo!()
    }
    /// Deletes every chunk of a copyset and forgets it: the replica was removed.
    pub fn remove_copyset(&mut self, copyset: CopysetId) {
        todo!()
    }

    // Frozen images: checkpoint pieces, catch-up's source.
    pub fn freeze(&mut self, key: ChunkKey) -> Result<FrozenId, FreezeError> {
        todo!()
    }
    pub fn thaw(&mut self, frozen: FrozenId) {
        todo!()
    }
    #[must_use]
    pub fn frozen_summary(&self, frozen: FrozenId) -> ChunkSummary {
        todo!()
    }
    /// Blocks from `from` on whose index is above `above`, ascending, holes included.
    pub fn frozen_blocks(
        &self,
        frozen: FrozenId,
        above: LogIndex,
        from: u32,
    ) -> impl Iterator<Item = (u32, BlockState)> + '_ {
        std::iter::empty()
    }
    /// Encodes as much of the frozen chunk as fits, from block `from` on.
    pub fn encode_chunk(&self, frozen: FrozenId, from: u32, out: &mut [u8]) -> Encoded<u32> {
        todo!()
    }
    /// Encodes what is known of the copyset's chunks that do not exist; after its last chunk.
    pub fn encode_absences(
        &self,
        copyset: CopysetId,
        after: Option<ChunkId>,
        out: &mut [u8],
    ) -> Encoded<ChunkId> {
        todo!()
    }
    /// Forgets deletions up to `through`: a checkpoint is valid from which no entry of the copyset
    /// at or below it is replayed any more.
    pub fn forget_deletions(&mut self, copyset: CopysetId, through: LogIndex) {
        todo!()
    }

    // Catch-up's receiver.
    pub fn install(&mut self, install: &ChunkInstall<'_>) -> Result<Change, InstallError> {
        todo!()
    }
    /// Deletes the copyset's chunks that are not in `present` (ascending), the sender's list at its
    /// applied index `as_of`.
    pub fn retain_chunks(&mut self, copyset: CopysetId, as_of: LogIndex, present: &[ChunkId]) {
        todo!()
    }

    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        todo!()
    }
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }
}
