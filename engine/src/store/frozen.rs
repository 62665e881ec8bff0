//! Frozen images: a chunk as it was at one index, for checkpoints, catch-up and snapshots.
//!
//! Freezing copies no entry and no data: the image shares the chunk's leaves, which the map copies
//! when it next writes to them. What an image names is not released before the image is thawed,
//! however long that takes. The images are few and their leaves bound what they hold.

use crate::store::leaf::{LEAF_BLOCKS, LeafId, LeafPool};
use crate::store::{ChunkKey, ChunkSummary, Place};

/// Images of a shard that may exist at once.
pub const FROZEN_MAX: usize = 16;

/// A frozen image of a chunk, valid until it is thawed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenId {
    slot: u32,
    generation: u32,
}

/// Lists of leaves that are kept for the next images: a checkpoint freezes one chunk at a time.
const SPARE_MAX: usize = 2;

/// Why a chunk was not frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreezeError {
    /// There is no such chunk.
    #[error("no such chunk")]
    NoChunk,
    /// [`FROZEN_MAX`] images are out.
    #[error("too many frozen chunks")]
    Full,
}

/// An image.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) summary: ChunkSummary,
    pub(super) leaves: Vec<LeafId>,
}

/// The images of a shard.
#[derive(Debug, Default)]
pub(super) struct FrozenTable {
    slots: Vec<Option<Frozen>>,
    generations: Vec<u32>,
    count: usize,
    /// Lists of images that were thawed.
    spare: Vec<Vec<LeafId>>,
}

impl FrozenTable {
    /// A copy of `leaves` for an image.
    pub(super) fn copy(&mut self, leaves: &[LeafId]) -> Vec<LeafId> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(leaves);
        copy
    }

    /// Takes back the list of an image that was thawed.
    pub(super) fn recycle(&mut self, mut leaves: Vec<LeafId>) {
        if self.spare.len() < SPARE_MAX {
            leaves.clear();
            self.spare.push(leaves);
        }
    }

    pub(super) fn insert(&mut self, frozen: Frozen) -> Result<FrozenId, FreezeError> {
        if self.count == FROZEN_MAX {
            return Err(FreezeError::Full);
        }
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(frozen);
        self.count += 1;
        Ok(FrozenId { slot: slot as u32, generation: self.generations[slot] })
    }

    pub(super) fn remove(&mut self, id: FrozenId) -> Frozen {
        let slot = id.slot as usize;
        assert_eq!(self.generations[slot], id.generation, "the image was thawed");
        self.generations[slot] += 1;
        self.count -= 1;
        self.slots[slot].take().expect("the image was thawed")
    }

    pub(super) fn get(&self, id: FrozenId) -> &Frozen {
        assert_eq!(self.generations[id.slot as usize], id.generation, "the image was thawed");
        self.slots[id.slot as usize].as_ref().expect("the image was thawed")
    }

    /// Images out.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// All images.
    pub(super) fn images(&self) -> impl Iterator<Item = &Frozen> {
        self.slots.iter().flatten()
    }

    /// Whether there is an image of a chunk of this name, of this or an earlier life.
    pub(super) fn holds(&self, key: ChunkKey) -> bool {
        self.count > 0 && self.images().any(|image| image.summary.key == key)
    }

    /// Whether an image of the chunk has its block at `place` of the data space.
    pub(super) fn names(&self, key: ChunkKey, block: u32, place: Place, leaves: &LeafPool) -> bool {
        let (leaf, at) = ((block / LEAF_BLOCKS) as usize, block % LEAF_BLOCKS);
        self.images()
            .filter(|image| image.summary.key == key)
            .any(|image| leaves.entry(image.leaves[leaf], at).place() == place)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let leaves: usize = self.images().map(|image| size_of_val(&*image.leaves)).sum();
        leaves + self.slots.capacity() * size_of::<Option<Frozen>>()
    }
}
