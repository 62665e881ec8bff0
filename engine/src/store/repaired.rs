//! Repaired blocks: one block of a chunk, whose bytes were bad or missing, lies elsewhere now.
//!
//! A repair changes nothing that other replicas see: the block keeps its index and its checksum,
//! only its place is another. So no entry says it, and it has to be journalled here.
//!
//! # The rules
//!
//! 1. The bytes are durable in the new place *before* the record is appended.
//! 2. The record is appended, and behind it in the same step the map swings ([`Store::relocate`]).
//!    What that releases is so tied to the record's batch or a later one: nobody can own the old
//!    place before a recovery finds the record.
//! 3. At recovery the repairs since the checkpoint began are done again in the order of the
//!    journal when all changes and entries were ([`Store::repaired`]), each only where the map has
//!    its index and checksum. A repair is forgotten where an install lists its block later in the
//!    journal.
//!
//! # Why that is enough
//!
//! *What a block's index wrote lies in one place after the other*: where its entry, or an install,
//! put it, then where repairs put it. An index never writes the same block twice: entries are
//! applied once, a later life of a chunk has later indexes, and repairs concern applied blocks
//! only. An install may bring a block again that was here already, and then lets go of its place,
//! repaired or not; therefore it makes void the repairs before it. So what counts is the last repair
//! of a block behind the last install that lists it; that is what rule 3 ends in, whether the
//! checkpoint's image of the chunk was made before the swing or after it.
//!
//! *The checkpoint.* Record and swing are one step. A record below the checkpoint's position was
//! followed by its swing before any chunk was captured, and the image has it.
//!
//! *The block was overwritten, discarded or deleted later.* The place was released then, and is free
//! only when a batch is durable that has the note that this was applied. A recovery that finds
//! that note applies it and drops the repair; one that does not find it also finds nobody else in
//! the place.
//!
//! *A repair that one recovery drops must be dropped by all that follow*, because its place is free
//! from then on. So the batch of the record has the note of what was applied as well
//! ([`append_repaired`](crate::shard::Shard::append_repaired)): a recovery that finds the record
//! finds the block as it was then, or what came of it later; and what is dropped then has been
//! overwritten, discarded or deleted, which no later recovery forgets. Behind a hole no record of a
//! group counts, this one neither.
//!
//! *A crash between the bytes and the record*: nobody names the new place, and it is free. *The
//! record's batch is torn*: so are all behind it, and the old place was not given away.
//!
//! *Above the mark* the payload of a repair is not verified by recovery as that of entries is: it
//! was durable before its record was written. Were it bad it would be found like any bad block,
//! and must not cost the group its tail.

use crate::ids::{BlockRange, LogIndex};
use crate::store::{BlockState, BlockStates, ChunkKey, Place, Store};

/// What a journalled repair says makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a repaired block lies outside of its chunk or of the data space")]
pub struct RepairError;

impl Store {
    /// Does a journalled repair again: the block lies at `to` if it is still the one that `index`
    /// wrote, with this checksum. Returns whether it is.
    ///
    /// # Errors
    ///
    /// [`RepairError`] where no repair of this shard can have said so.
    ///
    /// # Panics
    ///
    /// If the shard does not recover.
    pub fn repaired(
        &mut self,
        key: ChunkKey,
        block: u32,
        (index, crc): (LogIndex, u32),
        to: u32,
    ) -> Result<bool, RepairError> {
        assert!(self.space.is_none(), "recovery is over");
        if block >= self.geometry.chunk_blocks || to >= self.geometry.data_blocks {
            return Err(RepairError);
        }
        let Some(state) = self.block(key, block).filter(|state| state.place != Place::Hole) else {
            return Ok(false);
        };
        if (state.index, state.crc) != (index, crc) {
            return Ok(false);
        }
        Ok(self.relocate(key, block, state, to))
    }

    /// The state of one block; `None`: no such chunk.
    #[must_use]
    pub fn block(&self, key: ChunkKey, block: u32) -> Option<BlockState> {
        let mut states = BlockStates::new();
        self.lookup(key, BlockRange { first: block, blocks: 1 }, &mut states).then(|| states[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChunkId, CopysetId, Extent};
    use crate::store::Geometry;

    const KEY: ChunkKey = ChunkKey { copyset: CopysetId(1), chunk: ChunkId(7) };

    #[test]
    fn a_repair_is_done_again_only_where_its_block_is_still_the_same() {
        let geometry = Geometry { data_blocks: 100, chunk_blocks: 20, deallocate: false };
        let mut store = Store::recovering(geometry);
        let told = (LogIndex(5), 55);
        assert_eq!(store.repaired(KEY, 3, told, 50), Ok(false), "there is no such chunk");
        let write = |store: &mut Store, index, start, crc: u32| {
            let range = BlockRange { first: 3, blocks: 1 };
            let extent = Extent { start, blocks: 1 };
            store.write(KEY, LogIndex(index), range, &[extent], [crc].into_iter());
        };
        write(&mut store, 5, 10, 55);
        assert_eq!(store.repaired(KEY, 4, told, 50), Ok(false), "a hole");
        assert_eq!(store.repaired(KEY, 3, (LogIndex(5), 56), 50), Ok(false));
        assert_eq!(store.repaired(KEY, 3, (LogIndex(4), 55), 50), Ok(false));
        assert_eq!(store.repaired(KEY, 3, told, 50), Ok(true));
        assert_eq!(store.repaired(KEY, 3, told, 50), Ok(true), "twice is once");
        let state = store.block(KEY, 3).expect("a chunk");
        assert_eq!((state.place, state.crc, state.index), (Place::At(50), 55, LogIndex(5)));
        assert_eq!(store.chunk(KEY).expect("a chunk").applied, LogIndex(5));
        assert_eq!(store.repaired(KEY, 20, told, 50), Err(RepairError));
        assert_eq!(store.repaired(KEY, 3, told, 100), Err(RepairError));
        write(&mut store, 6, 11, 66);
        assert_eq!(store.repaired(KEY, 3, told, 50), Ok(false), "overwritten");
        store.finish_recovery([], &[]).expect("sound");
        assert_eq!(store.free_blocks(), 99);
    }
}
