//! The chunk maps: for each chunk its birth and applied index, and for each of its blocks where
//! it lies, its checksum, and the log index that wrote or unmapped it.
//!
//! Invariants:
//!
//! - no block's index is above its chunk's applied index, and none that was touched is below its
//!   chunk's birth;
//! - a chunk's birth is above every index at which a chunk of that name was deleted;
//! - two blocks never name the same block of the data space, except a block of a chunk and the
//!   same block of that chunk's frozen images.
//!
//! How entries change it is in `change.rs`; how a chunk comes from elsewhere in `install.rs` and
//! `image.rs`.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::by_copyset::ByCopyset;
use crate::ids::{BlockRange, ChunkId, CopysetId, LogIndex};
use crate::store::absence::Absences;
use crate::store::frozen::{Frozen, FrozenId, FrozenTable};
use crate::store::leaf::{Entry, LEAF_BLOCKS, LeafId, LeafPool};
use crate::store::releases::Releases;
use crate::store::{BlockState, BlockStates, ChunkKey, ChunkSummary, FreezeError, Place};

/// One chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) birth: LogIndex,
    pub(super) applied: LogIndex,
    pub(super) mapped: u32,
    /// What has a later index differs from the checkpoint's image of the chunk, and nothing else
    /// does; zero: nothing is known of such an image.
    pub(super) saved: LogIndex,
    pub(super) leaves: Box<[LeafId]>,
}

impl Chunk {
    /// A chunk without a touched block.
    pub(super) fn born(index: LogIndex, chunk_blocks: u32) -> Chunk {
        let leaves = vec![LeafId::NONE; chunk_blocks.div_ceil(LEAF_BLOCKS) as usize];
        Chunk {
            birth: index,
            applied: index,
            mapped: 0,
            saved: LogIndex(0),
            leaves: leaves.into_boxed_slice(),
        }
    }

    fn summary(&self, key: ChunkKey) -> ChunkSummary {
        ChunkSummary { key, birth: self.birth, applied: self.applied, mapped: self.mapped }
    }
}

/// The chunks of a shard.
#[derive(Debug)]
pub(super) struct ChunkMap {
    pub(super) chunk_blocks: u32,
    pub(super) chunks: BTreeMap<ChunkKey, Chunk>,
    /// Mapped blocks per copyset.
    pub(super) mapped: ByCopyset<u64>,
    pub(super) absences: Absences,
    pub(super) leaves: LeafPool,
    pub(super) frozen: FrozenTable,
}

/// Where the copyset's chunks behind `after` begin.
pub(super) fn behind(copyset: CopysetId, after: Option<ChunkId>) -> Bound<ChunkKey> {
    match after {
        Some(chunk) => Bound::Excluded(ChunkKey { copyset, chunk }),
        None => Bound::Included(ChunkKey { copyset, chunk: ChunkId(0) }),
    }
}

/// Where the copyset's chunks end.
pub(super) fn end(copyset: CopysetId) -> Bound<ChunkKey> {
    Bound::Included(ChunkKey { copyset, chunk: ChunkId(u64::MAX) })
}

impl ChunkMap {
    pub(super) fn new(chunk_blocks: u32) -> ChunkMap {
        assert!(chunk_blocks > 0);
        ChunkMap {
            chunk_blocks,
            chunks: BTreeMap::new(),
            mapped: ByCopyset::default(),
            absences: Absences::default(),
            leaves: LeafPool::default(),
            frozen: FrozenTable::default(),
        }
    }

    /// Checks that a range lies within a chunk: a bug of the caller if it does not.
    pub(super) fn check_range(&self, range: BlockRange) {
        assert!(range.blocks <= self.chunk_blocks, "{range:?}");
        assert!(range.first <= self.chunk_blocks - range.blocks, "{range:?}");
    }

    pub(super) fn lookup(&self, key: ChunkKey, range: BlockRange, out: &mut BlockStates) -> bool {
        self.check_range(range);
        let Some(chunk) = self.chunks.get(&key) else { return false };
        let (mut block, end) = (range.first, range.first + range.blocks);
        while block < end {
            let leaf = chunk.leaves[(block / LEAF_BLOCKS) as usize];
            let count = (LEAF_BLOCKS - block % LEAF_BLOCKS).min(end - block);
            let at = (block % LEAF_BLOCKS) as usize;
            if leaf == LeafId::NONE {
                out.extend((0..count).map(|_| BlockState::default()));
            } else {
                let entries = self.leaves.entries(leaf).skip(at).take(count as usize);
                out.extend(entries.map(Entry::state));
            }
            block += count;
        }
        true
    }

    pub(super) fn state(&self, chunk: &Chunk, block: u32) -> BlockState {
        let leaf = chunk.leaves[(block / LEAF_BLOCKS) as usize];
        self.leaves.entry(leaf, block % LEAF_BLOCKS).state()
    }

    pub(super) fn unmapped_in(&self, key: ChunkKey, range: BlockRange) -> u32 {
        self.check_range(range);
        let Some(chunk) = self.chunks.get(&key) else { return range.blocks };
        let unmapped = |block: &u32| self.state(chunk, *block).place == Place::Hole;
        (range.first..range.first + range.blocks).filter(unmapped).count() as u32
    }

    /// Whether the chunk, or what is known of its absence, is at or beyond `index`.
    pub(super) fn covers(&self, key: ChunkKey, index: LogIndex) -> bool {
        match self.chunks.get(&key) {
            Some(chunk) => index <= chunk.applied,
            None => self.absences.covers(key, index),
        }
    }

    pub(super) fn chunk(&self, key: ChunkKey) -> Option<ChunkSummary> {
        self.chunks.get(&key).map(|chunk| chunk.summary(key))
    }

    pub(super) fn chunk_after(
        &self,
        copyset: CopysetId,
        after: Option<ChunkId>,
    ) -> Option<ChunkSummary> {
        let (key, chunk) = self.chunks.range((behind(copyset, after), end(copyset))).next()?;
        Some(chunk.summary(*key))
    }

    pub(super) fn mapped_blocks(&self, copyset: CopysetId) -> u64 {
        self.mapped.get(copyset).copied().unwrap_or(0)
    }

    pub(super) fn freeze(&mut self, key: ChunkKey) -> Result<FrozenId, FreezeError> {
        let chunk = self.chunks.get(&key).ok_or(FreezeError::NoChunk)?;
        let (summary, leaves) = (chunk.summary(key), self.frozen.copy(&chunk.leaves));
        let id = self.frozen.insert(Frozen { summary, leaves })?;
        for &leaf in chunk.leaves.iter().filter(|&&leaf| leaf != LeafId::NONE) {
            self.leaves.share(leaf);
        }
        Ok(id)
    }

    /// Freezes a chunk for a checkpoint; returns what [`Store::freeze_changes`](super::Store::freeze_changes)
    /// does.
    pub(super) fn freeze_changes(
        &mut self,
        key: ChunkKey,
    ) -> Result<(FrozenId, LogIndex), FreezeError> {
        let frozen = self.freeze(key)?;
        let chunk = self.chunks.get_mut(&key).expect("just frozen");
        Ok((frozen, std::mem::replace(&mut chunk.saved, chunk.applied)))
    }

    pub(super) fn thaw(&mut self, id: FrozenId, releases: &mut Releases) {
        let frozen = self.frozen.remove(id);
        self.drop_leaves(frozen.summary.key, &frozen.leaves, releases);
        self.frozen.recycle(frozen.leaves);
    }

    /// Blocks of an image from `from` on whose index is above `above`.
    pub(super) fn frozen_blocks(
        &self,
        id: FrozenId,
        above: LogIndex,
        from: u32,
    ) -> impl Iterator<Item = (u32, BlockState)> + '_ {
        let newer = move |&(_, leaf): &(u32, LeafId)| self.leaves.newest(leaf) > above;
        let leaves = self.frozen.get(id).leaves.iter().copied();
        (0..).zip(leaves).skip((from / LEAF_BLOCKS) as usize).filter(newer).flat_map(
            move |(number, leaf)| {
                (number * LEAF_BLOCKS..)
                    .zip(self.leaves.entries(leaf))
                    .filter(move |(block, entry)| *block >= from && entry.index() > above)
                    .map(|(block, entry)| (block, entry.state()))
            },
        )
    }

    /// Takes leaves off a map or an image that is gone, and releases what nobody else names.
    pub(super) fn drop_leaves(
        &mut self,
        key: ChunkKey,
        leaves: &[LeafId],
        releases: &mut Releases,
    ) {
        let live = self.chunks.get(&key);
        let shared = live.is_some() || self.frozen.holds(key);
        for (number, &leaf) in leaves.iter().enumerate() {
            if leaf == LeafId::NONE || !self.leaves.abandon(leaf) {
                continue;
            }
            if !shared {
                releases.release_leaf(leaf, &mut self.leaves);
                continue;
            }
            let live = live.map_or(LeafId::NONE, |chunk| chunk.leaves[number]);
            for (at, entry) in (0..).zip(self.leaves.entries(leaf)) {
                let Place::At(start) = entry.place() else { continue };
                let block = number as u32 * LEAF_BLOCKS + at;
                if self.leaves.entry(live, at).place() != entry.place()
                    && !self.frozen.names(key, block, entry.place(), &self.leaves)
                {
                    releases.release(crate::ids::Extent { start, blocks: 1 });
                }
            }
            self.leaves.reuse(leaf);
        }
    }

    /// Adds to the copyset's count of mapped blocks.
    pub(super) fn count(mapped: &mut ByCopyset<u64>, copyset: CopysetId, change: i64) {
        if change == 0 {
            return;
        }
        let sum =
            |count: u64| count.checked_add_signed(change).expect("fewer unmapped than mapped");
        match mapped.get_mut(copyset) {
            Some(count) => *count = sum(*count),
            None => mapped.insert(copyset, sum(0)),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let leaves = self.chunk_blocks.div_ceil(LEAF_BLOCKS) as usize * size_of::<LeafId>();
        self.chunks.len() * (leaves + 2 * size_of::<(ChunkKey, Chunk)>())
            + self.mapped.len() * 2 * size_of::<(CopysetId, u64)>()
            + self.leaves.memory_bytes()
            + self.frozen.memory_bytes()
            + self.absences.memory_bytes()
    }
}
