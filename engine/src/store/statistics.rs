//! Numbers to watch.

use crate::store::Store;

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Blocks of the data space.
    pub data_blocks: u64,
    /// Free blocks; zero while the shard recovers.
    pub free_blocks: u64,
    /// Blocks that nobody names, and that entries in metadata keep from being free.
    pub kept_blocks: u64,
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
    /// Read tickets out.
    pub reads: u64,
    /// Bytes of memory held by maps, allocator and queues.
    pub memory_bytes: u64,
}

impl Store {
    /// What the store holds now.
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            data_blocks: self.geometry.data_blocks.into(),
            free_blocks: self.free_blocks(),
            kept_blocks: self.space.as_ref().map_or(0, |space| space.kept_blocks().into()),
            mapped_blocks: self.map.mapped.iter().map(|(_, blocks)| blocks).sum(),
            waiting_blocks: self.releases.waiting_blocks(),
            deallocating_blocks: self.releases.deallocating_blocks(),
            chunks: self.map.chunks.len() as u64,
            frozen: self.map.frozen.count() as u64,
            reads: self.releases.reads(),
            memory_bytes: self.memory_bytes() as u64,
        }
    }

    /// Data blocks that are free; what admission asks for every write.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.space.as_ref().map_or(0, |space| space.free_blocks().into())
    }

    /// Whether blocks were released that no device was told of yet.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.releases.waiting_blocks() > self.releases.deallocating_blocks()
    }

    /// Bytes of memory held by maps, allocator and queues.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.map.memory_bytes()
            + self.releases.memory_bytes()
            + self.space.as_ref().map_or(0, |space| space.memory_bytes())
    }
}
