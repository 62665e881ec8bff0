//! The volatile write cache: blocks that were written and would be lost with the power.
//!
//! A fixed number of slots, found by block number and kept in the order in which their blocks
//! became dirty. Each remembers the number of the completion that made it dirty *first*: a flush
//! covers what was completed before it was submitted, and a block that was dirty then must not
//! stay as it was on the medium, whatever was written to it since.
//!
//! Example: completion 7 writes block 5 and is seen; then a second write of block 5 and a flush
//! are submitted together. The flush covers completions below 8. Block 5 has been dirty since 7,
//! so it is destaged, with the bytes of the second write if that has been executed already: both
//! are legal outcomes of a crash, the bytes before completion 7 are not.

/// No slot.
const NONE: u32 = u32::MAX;

/// A slot of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheSlot(u32);

#[derive(Clone, Copy, Debug)]
struct Entry {
    block: u64,
    /// Number of the completion that made the block dirty first.
    dirty_since: u64,
    older: u32,
    newer: u32,
}

/// The dirty blocks of a namespace.
#[derive(Debug)]
pub(super) struct WriteCache {
    block_size: usize,
    /// For each block of the namespace its slot plus one, or zero.
    slots_by_block: Vec<u32>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl WriteCache {
    /// A cache of `capacity` blocks, not zero, for a namespace of `blocks` blocks.
    pub(super) fn new(block_size: u32, blocks: u64, capacity: u32) -> WriteCache {
        assert!(capacity > 0, "a cache holds something");
        let block_size = block_size as usize;
        let entry = Entry { block: 0, dirty_since: 0, older: NONE, newer: NONE };
        WriteCache {
            block_size,
            slots_by_block: vec![0; blocks as usize],
            entries: vec![entry; capacity as usize],
            bytes: vec![0; capacity as usize * block_size],
            free: (0..capacity).rev().collect(),
            oldest: NONE,
            newest: NONE,
        }
    }

    /// Whether nothing is dirty.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.oldest == NONE
    }

    /// Number of dirty blocks.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether a further block needs another one to leave first.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The slot of a block, if it is dirty.
    #[inline]
    pub(super) fn find(&self, block: u64) -> Option<CacheSlot> {
        self.slots_by_block[block as usize].checked_sub(1).map(CacheSlot)
    }

    /// The slot of a block that completion `sequence` makes dirty. A new slot has the bytes of
    /// whatever was there before.
    ///
    /// # Panics
    ///
    /// When the block is not dirty and the cache is full.
    pub(super) fn claim(&mut self, block: u64, sequence: u64) -> CacheSlot {
        if let Some(slot) = self.find(block) {
            return slot;
        }
        let slot = self.free.pop().expect("the caller made room");
        let older = self.newest;
        self.entries[slot as usize] = Entry { block, dirty_since: sequence, older, newer: NONE };
        match older {
            NONE => self.oldest = slot,
            older => self.entries[older as usize].newer = slot,
        }
        self.newest = slot;
        self.slots_by_block[block as usize] = slot + 1;
        CacheSlot(slot)
    }

    /// The block that has been dirty longest, and since which completion.
    pub(super) fn oldest(&self) -> Option<(CacheSlot, u64, u64)> {
        if self.oldest == NONE {
            return None;
        }
        let entry = &self.entries[self.oldest as usize];
        Some((CacheSlot(self.oldest), entry.block, entry.dirty_since))
    }

    /// Forgets a slot.
    pub(super) fn release(&mut self, slot: CacheSlot) {
        let Entry { block, older, newer, .. } = self.entries[slot.0 as usize];
        debug_assert_eq!(self.find(block), Some(slot), "a slot in use is found by its block");
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        self.slots_by_block[block as usize] = 0;
        self.free.push(slot.0);
    }

    /// The bytes of a slot.
    #[inline]
    pub(super) fn bytes(&self, slot: CacheSlot) -> &[u8] {
        let start = slot.0 as usize * self.block_size;
        &self.bytes[start..start + self.block_size]
    }

    /// The bytes of a slot.
    #[inline]
    pub(super) fn bytes_mut(&mut self, slot: CacheSlot) -> &mut [u8] {
        let start = slot.0 as usize * self.block_size;
        &mut self.bytes[start..start + self.block_size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_stays_dirty_since_its_first_write() {
        let mut cache = WriteCache::new(512, 10, 2);
        let slot = cache.claim(3, 7);
        cache.bytes_mut(slot).fill(1);
        assert_eq!(cache.claim(3, 9), slot);
        assert_eq!(cache.oldest(), Some((slot, 3, 7)));
        assert_eq!(cache.bytes(slot), [1; 512]);
        cache.release(slot);
        assert!(cache.is_empty());
        assert_eq!(cache.find(3), None);
    }

    proptest! {
        /// The cache against a list of (block, since) in order.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((any::<bool>(), 0u64..12), 0..200)) {
            let mut cache = WriteCache::new(512, 12, 5);
            let mut model: Vec<(u64, u64)> = Vec::new();
            for (sequence, (write, block)) in steps.into_iter().enumerate() {
                let sequence = sequence as u64;
                let known = model.iter().any(|(other, _)| *other == block);
                if write {
                    if !known && cache.is_full() {
                        prop_assert_eq!(model.len(), 5);
                        let (slot, ..) = cache.oldest().expect("full");
                        cache.release(slot);
                        model.remove(0);
                    }
                    cache.claim(block, sequence);
                    if !known {
                        model.push((block, sequence));
                    }
                } else if let Some(slot) = cache.find(block) {
                    prop_assert!(known);
                    cache.release(slot);
                    model.retain(|(other, _)| *other != block);
                }
                prop_assert_eq!(cache.len(), model.len());
                let oldest = cache.oldest().map(|(_, block, since)| (block, since));
                prop_assert_eq!(oldest, model.first().copied());
            }
        }
    }
}
