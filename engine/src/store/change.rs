//! Changes: how the entries of the log change the chunk maps.
//!
//! An entry that is not above its chunk's applied index is skipped whole. Chunks are captured and
//! installed whole, each at one index, so that "above the chunk" implies "above each of its
//! blocks"; that is checked, in debug builds, at every block.

use std::collections::btree_map::Entry;

use crate::by_copyset::ByCopyset;
use crate::ids::{BlockRange, CopysetId, Extent, LogIndex};
use crate::store::chunk_map::{Chunk, ChunkMap};
use crate::store::frozen::FrozenTable;
use crate::store::leaf::{LEAF_BLOCKS, LeafId, LeafPool};
use crate::store::releases::Releases;
use crate::store::{BlockState, Change, ChunkKey, LOG_INDEX_MAX, MISSING, Place};

/// The hand on one chunk while its blocks are swung.
pub(super) struct Swing<'a> {
    key: ChunkKey,
    chunk: &'a mut Chunk,
    leaves: &'a mut LeafPool,
    frozen: &'a FrozenTable,
    mapped: &'a mut ByCopyset<u64>,
    /// Whether images of the chunk may name what it lets go.
    shared: bool,
    /// Blocks newly mapped, less those unmapped.
    change: i64,
}

impl Swing<'_> {
    /// Replaces the state of a block and returns the place that nobody names any more.
    pub(super) fn set(&mut self, block: u32, state: BlockState) -> Option<u32> {
        let leaf = &mut self.chunk.leaves[(block / LEAF_BLOCKS) as usize];
        *leaf = match *leaf {
            LeafId::NONE => self.leaves.acquire(),
            leaf => self.leaves.private(leaf),
        };
        let old = self.leaves.replace(*leaf, block % LEAF_BLOCKS, state);
        self.change +=
            i64::from(state.place != Place::Hole) - i64::from(old.place() != Place::Hole);
        let Place::At(start) = old.place() else { return None };
        let named = self.shared && self.frozen.names(self.key, block, old.place(), self.leaves);
        (!named).then_some(start)
    }

    fn state(&self, block: u32) -> BlockState {
        let leaf = self.chunk.leaves[(block / LEAF_BLOCKS) as usize];
        self.leaves.entry(leaf, block % LEAF_BLOCKS).state()
    }

    /// Accounts for what was newly mapped and unmapped.
    pub(super) fn finish(self) {
        self.chunk.mapped = self
            .chunk
            .mapped
            .checked_add_signed(self.change as i32)
            .expect("fewer unmapped than mapped");
        ChunkMap::count(self.mapped, self.key.copyset, self.change);
    }
}

/// The blocks that extents cover, in order.
pub(super) fn places(extents: &[Extent]) -> impl Iterator<Item = Place> {
    extents.iter().flat_map(|extent| {
        (0..extent.blocks).map(|block| match extent.start {
            MISSING => Place::Missing,
            start => Place::At(start + block),
        })
    })
}

impl ChunkMap {
    /// Takes the chunk in hand for a change at `index`; `None` if it has seen the entry, or is
    /// absent and not to be born.
    pub(super) fn swing(
        &mut self,
        key: ChunkKey,
        index: LogIndex,
        bear: bool,
    ) -> Option<Swing<'_>> {
        assert!(index > LogIndex(0));
        assert!(index <= LOG_INDEX_MAX);
        let chunk = match self.chunks.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                if !bear || self.absences.covers(key, index) {
                    return None;
                }
                let mut chunk = Chunk::born(index, self.chunk_blocks);
                chunk.applied = LogIndex(0);
                entry.insert(chunk)
            }
        };
        if index <= chunk.applied {
            return None;
        }
        chunk.applied = index;
        Some(Swing {
            key,
            chunk,
            leaves: &mut self.leaves,
            shared: self.frozen.holds(key),
            frozen: &self.frozen,
            mapped: &mut self.mapped,
            change: 0,
        })
    }

    pub(super) fn write(
        &mut self,
        key: ChunkKey,
        index: LogIndex,
        range: BlockRange,
        extents: &[Extent],
        crcs: impl ExactSizeIterator<Item = u32>,
        releases: &mut Releases,
    ) -> Change {
        self.check_range(range);
        assert_eq!(crcs.len(), range.blocks as usize);
        assert_eq!(extents.iter().map(|extent| extent.blocks).sum::<u32>(), range.blocks);
        let Some(mut swing) = self.swing(key, index, true) else {
            self.release_unnamed(key, range, extents, releases);
            return Change::Skipped;
        };
        for ((block, place), crc) in (range.first..).zip(places(extents)).zip(crcs) {
            debug_assert!(swing.state(block).index < index);
            if let Some(start) = swing.set(block, BlockState { place, crc, index }) {
                releases.release(Extent { start, blocks: 1 });
            }
        }
        swing.finish();
        Change::Made
    }

    /// Releases the payload of a skipped write, except what the map names: that is the chunk's.
    pub(super) fn release_unnamed(
        &self,
        key: ChunkKey,
        range: BlockRange,
        extents: &[Extent],
        releases: &mut Releases,
    ) {
        let chunk = self.chunks.get(&key);
        for (block, place) in (range.first..).zip(places(extents)) {
            let Place::At(start) = place else { continue };
            let named = chunk.is_some_and(|chunk| self.state(chunk, block).place == place);
            if !named {
                releases.release(Extent { start, blocks: 1 });
            }
        }
    }

    /// Unmaps a range. A block that is a hole stays as it is: whoever has seen the entry that made
    /// it a hole, or its chunk's birth, holds a hole there too.
    pub(super) fn discard(
        &mut self,
        key: ChunkKey,
        index: LogIndex,
        range: BlockRange,
        releases: &mut Releases,
    ) -> Change {
        self.check_range(range);
        let Some(mut swing) = self.swing(key, index, false) else { return Change::Skipped };
        let hole = BlockState { place: Place::Hole, crc: 0, index };
        let (mut block, end) = (range.first, range.first + range.blocks);
        while block < end {
            let leaf = swing.chunk.leaves[(block / LEAF_BLOCKS) as usize];
            if swing.leaves.mapped(leaf) == 0 {
                block = (block / LEAF_BLOCKS + 1) * LEAF_BLOCKS;
                continue;
            }
            if swing.state(block).place != Place::Hole
                && let Some(start) = swing.set(block, hole)
            {
                releases.release_discarded(Extent { start, blocks: 1 });
            }
            block += 1;
        }
        swing.finish();
        Change::Made
    }

    pub(super) fn delete(
        &mut self,
        key: ChunkKey,
        index: LogIndex,
        releases: &mut Releases,
    ) -> Change {
        let exists = self.chunks.contains_key(&key);
        if !exists || self.covers(key, index) {
            return Change::Skipped;
        }
        self.absences.deleted(key, index);
        self.drop_chunk(key, releases);
        Change::Made
    }

    /// Drops a chunk without a trace.
    pub(super) fn drop_chunk(&mut self, key: ChunkKey, releases: &mut Releases) {
        let chunk = self.chunks.remove(&key).expect("a chunk");
        ChunkMap::count(&mut self.mapped, key.copyset, -i64::from(chunk.mapped));
        self.drop_leaves(key, &chunk.leaves, releases);
    }

    pub(super) fn remove_copyset(&mut self, copyset: CopysetId, releases: &mut Releases) {
        while let Some(chunk) = self.chunk_after(copyset, None) {
            self.drop_chunk(chunk.key, releases);
        }
        self.absences.remove_copyset(copyset);
        self.mapped.remove(copyset);
    }

    pub(super) fn relocate(
        &mut self,
        key: ChunkKey,
        block: u32,
        expected: BlockState,
        to: u32,
        releases: &mut Releases,
    ) -> bool {
        self.check_range(BlockRange { first: block, blocks: 1 });
        let current = self.chunks.get(&key).map(|chunk| self.state(chunk, block));
        if current != Some(expected) || expected.place == Place::Hole {
            releases.release(Extent { start: to, blocks: 1 });
            return false;
        }
        let mut swing = self.reopen(key);
        if let Some(start) = swing.set(block, BlockState { place: Place::At(to), ..expected }) {
            releases.release(Extent { start, blocks: 1 });
        }
        swing.finish();
        true
    }

    /// Notes that a mapped block is not stored here any more; what was there is not released.
    pub(super) fn lose(&mut self, key: ChunkKey, block: u32) {
        let state = self.state(&self.chunks[&key], block);
        let mut swing = self.reopen(key);
        let _not_ours = swing.set(block, BlockState { place: Place::Missing, ..state });
        swing.finish();
    }

    /// Takes a chunk in hand without moving its applied index: what changes keeps its index, or
    /// has one that was not the chunk's last. So its next image has to be a whole one.
    pub(super) fn reopen(&mut self, key: ChunkKey) -> Swing<'_> {
        let chunk = self.chunks.get_mut(&key).expect("a chunk");
        chunk.saved = LogIndex(0);
        Swing {
            key,
            chunk,
            leaves: &mut self.leaves,
            shared: self.frozen.holds(key),
            frozen: &self.frozen,
            mapped: &mut self.mapped,
            change: 0,
        }
    }
}
