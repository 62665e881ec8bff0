//! The allocator: which blocks of the shard's data space are free.
//!
//! Free space is derived, never stored: a shard starts with [`Allocator::new`] and marks what its
//! maps and live records name. Allocation is next-fit, so that the device sees ascending writes:
//! a new extent begins where the last one ended as long as there is room.
//!
//! It knows nothing of why a block is used; a block freed twice, or used twice, is a bug of the
//! caller (or, while a shard recovers, damage), and is noticed.

use crate::ids::{Extent, Extents, OPERATION_BLOCKS_MAX, OPERATION_EXTENTS_MAX, SEGMENTS_NAMED};
use crate::store::DATA_BLOCKS_MAX;
use crate::store::bitmap::Bitmap;
use crate::store::segments::Segments;

/// Free runs looked at in search of one that is long enough before the operation is scattered.
const PROBES_MAX: u32 = 32;

/// The free blocks of a data space.
#[derive(Clone, Debug)]
pub struct Allocator {
    free: Bitmap,
    blocks: u32,
    free_blocks: u32,
    /// Where the next search begins: below the end.
    cursor: u32,
    /// Where journal entries stand in metadata.
    segments: Option<Segments>,
}

impl Allocator {
    /// A data space of `blocks` blocks, all free.
    ///
    /// # Panics
    ///
    /// If there are more than [`DATA_BLOCKS_MAX`].
    #[must_use]
    pub fn new(blocks: u32) -> Allocator {
        assert!(blocks <= DATA_BLOCKS_MAX);
        let free = Bitmap::full(blocks);
        Allocator { free, blocks, free_blocks: blocks, cursor: 0, segments: None }
    }

    /// Blocks of the data space.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Free blocks.
    #[must_use]
    pub fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// Whether a block is free.
    ///
    /// # Panics
    ///
    /// If it lies behind the end.
    #[must_use]
    pub fn is_free(&self, block: u32) -> bool {
        assert!(block < self.blocks);
        self.free.contains(block)
    }

    /// Takes `blocks` free blocks: one extent where a run near the cursor is long enough, at most
    /// [`OPERATION_EXTENTS_MAX`] otherwise, ascending. `None` if there are not as many free, or not
    /// in so few runs.
    ///
    /// # Panics
    ///
    /// If `blocks` is zero or above [`OPERATION_BLOCKS_MAX`].
    pub fn allocate(&mut self, blocks: u32) -> Option<Extents> {
        assert!((1..=OPERATION_BLOCKS_MAX).contains(&blocks));
        if blocks > self.free_blocks {
            return None;
        }
        let mut extents = Extents::new();
        match self.next_run(self.cursor, self.blocks, blocks) {
            Some(run) if run.blocks == blocks => extents.push(run),
            _ => extents = self.choose(blocks)?,
        }
        for extent in &extents {
            self.free.remove(extent.start, extent.blocks).expect("chosen blocks are free");
        }
        self.free_blocks -= blocks;
        let end = extents[extents.len() - 1].end();
        self.cursor = if end < self.blocks { end } else { 0 };
        Some(extents)
    }

    /// The first run of free blocks in `from..end`, cut to `blocks`.
    fn next_run(&self, from: u32, end: u32, blocks: u32) -> Option<Extent> {
        let start = self.free.next(from).filter(|&start| start < end)?;
        Some(Extent { start, blocks: self.free.run(start, blocks.min(end - start)) })
    }

    /// Chooses free extents without taking them.
    fn choose(&self, blocks: u32) -> Option<Extents> {
        let mut best = Extents::new();
        let mut probes = 0;
        let (mut from, mut end) = (self.cursor, self.blocks);
        loop {
            let Some(run) = self.next_run(from, end, blocks) else {
                if end == self.cursor {
                    return scatter(best, blocks);
                }
                (from, end) = (0, self.cursor);
                continue;
            };
            if run.blocks == blocks {
                best.clear();
                best.push(run);
                return Some(best);
            }
            keep_longest(&mut best, run);
            probes += 1;
            if probes >= PROBES_MAX && total(&best) >= blocks {
                return scatter(best, blocks);
            }
            from = run.end();
        }
    }

    /// Gives blocks back.
    ///
    /// # Panics
    ///
    /// If one of them is free already or lies behind the end.
    pub fn free(&mut self, extent: Extent) {
        assert!(extent.blocks <= self.blocks, "{extent:?} lies behind the end");
        assert!(extent.start <= self.blocks - extent.blocks, "{extent:?} lies behind the end");
        if self.holds(extent) {
            for start in extent.start..extent.end() {
                if !self.segments.as_mut().is_some_and(|segments| segments.keep(start)) {
                    self.insert(Extent { start, blocks: 1 });
                }
            }
        } else {
            self.insert(extent);
        }
    }

    fn insert(&mut self, extent: Extent) {
        if let Err(block) = self.free.insert(extent.start, extent.blocks) {
            panic!("block {block} of {extent:?} is freed twice");
        }
        self.free_blocks += extent.blocks;
    }

    /// Takes blocks that something found at recovery names.
    ///
    /// # Errors
    ///
    /// The first block that was used already or lies behind the end; nothing is taken then.
    pub fn mark_used(&mut self, extent: Extent) -> Result<(), u32> {
        let room = self.blocks.saturating_sub(extent.start);
        let run = self.free.run(extent.start, extent.blocks.min(room));
        if run < extent.blocks {
            return Err(extent.start.saturating_add(run));
        }
        self.free.remove(extent.start, extent.blocks).expect("a run of free blocks");
        self.free_blocks -= extent.blocks;
        Ok(())
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.free.memory_bytes() + self.segments.as_ref().map_or(0, Segments::memory_bytes)
    }
}

/// Segments: see [`segments`](crate::store::segments).
impl Allocator {
    /// Begins with segments of so many blocks each: first those that the superblock in force names,
    /// where `places` hold what recovery may need again.
    pub(super) fn restore_segments(&mut self, blocks: u32, named: &[Extent], places: &[u32]) {
        let mut segments = Segments::new(blocks);
        self.free_blocks -= segments.restore(named, places, &mut self.free);
        self.segments = Some(segments);
    }

    /// Opens the segment that the next superblock is the first to name; returns all that it names.
    pub(super) fn open_segment(&mut self) -> [Extent; SEGMENTS_NAMED] {
        let Some(segments) = &mut self.segments else { return Default::default() };
        self.free_blocks -= segments.open(self.cursor, self.blocks, &mut self.free);
        segments.named()
    }

    /// That superblock counts.
    pub(super) fn advance_segments(&mut self) {
        if let Some(segments) = &mut self.segments {
            self.free_blocks += segments.advance(&mut self.free);
        }
    }

    /// Whether the active segment has blocks to hand out.
    pub(super) fn has_segment(&self) -> bool {
        self.segments.as_ref().is_some_and(Segments::has_active)
    }

    /// Blocks that the newest segment is to hand out.
    pub(super) fn next_segment_blocks(&self) -> u32 {
        self.segments.as_ref().map_or(0, Segments::next_blocks)
    }

    /// Takes a block of the active segment.
    pub(super) fn allocate_in_segment(&mut self) -> Option<Extents> {
        let start = self.segments.as_mut()?.take()?;
        Some(Extents::from_iter([Extent { start, blocks: 1 }]))
    }

    /// Whether a block was taken from the segment that is active now.
    pub(super) fn is_active(&self, block: u32) -> bool {
        self.segments.as_ref().is_some_and(|segments| segments.is_active(block))
    }

    /// Whether blocks of an extent may hold what recovery needs, in their metadata.
    pub(super) fn holds(&self, extent: Extent) -> bool {
        self.segments.as_ref().is_some_and(|segments| segments.holds(extent))
    }

    /// Blocks that segments have set aside.
    pub(super) fn kept_blocks(&self) -> u32 {
        self.segments.as_ref().map_or(0, Segments::spare_blocks)
    }

    /// Whether a block is nobody's: free, or set aside by a segment.
    pub(super) fn is_unused(&self, block: u32) -> bool {
        self.is_free(block) || self.segments.as_ref().is_some_and(|all| all.is_spare(block))
    }
}

fn total(extents: &[Extent]) -> u32 {
    extents.iter().map(|extent| extent.blocks).sum()
}

/// Keeps the longest runs seen.
fn keep_longest(best: &mut Extents, run: Extent) {
    if best.len() < OPERATION_EXTENTS_MAX {
        best.push(run);
        return;
    }
    let shortest = best.iter_mut().min_by_key(|extent| extent.blocks).expect("it is full");
    if shortest.blocks < run.blocks {
        *shortest = run;
    }
}

/// The longest of `best` that make up `blocks` blocks, ascending.
fn scatter(mut best: Extents, blocks: u32) -> Option<Extents> {
    best.sort_unstable_by_key(|extent| (std::cmp::Reverse(extent.blocks), extent.start));
    let mut chosen = Extents::new();
    let mut missing = blocks;
    for extent in best {
        let take = extent.blocks.min(missing);
        chosen.push(Extent { start: extent.start, blocks: take });
        missing -= take;
        if missing == 0 {
            chosen.sort_unstable();
            return Some(chosen);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn one(start: u32, blocks: u32) -> Extent {
        Extent { start, blocks }
    }

    #[test]
    fn goes_on_where_it_ended_and_wraps() {
        let mut space = Allocator::new(100);
        assert_eq!(space.allocate(4).expect("room")[..], [one(0, 4)]);
        assert_eq!(space.allocate(1).expect("room")[..], [one(4, 1)]);
        space.free(one(0, 4));
        assert_eq!(space.allocate(32).expect("room")[..], [one(5, 32)]);
        assert_eq!(space.allocate(32).expect("room")[..], [one(37, 32)]);
        assert_eq!(space.allocate(31).expect("room")[..], [one(69, 31)]);
        assert_eq!(space.allocate(5), None);
        assert_eq!(space.allocate(4).expect("room")[..], [one(0, 4)]);
        assert_eq!(space.free_blocks(), 0);
    }

    #[test]
    fn scatters_over_the_longest_runs() {
        let mut space = Allocator::new(64);
        for start in (0..64).step_by(4) {
            space.mark_used(one(start, 1)).expect("free");
        }
        let extents = space.allocate(8).expect("room");
        assert_eq!(extents[..], [one(1, 3), one(5, 3), one(9, 2)]);
        let fits = OPERATION_EXTENTS_MAX * 3 >= 32;
        assert_eq!(space.allocate(32).is_some(), fits, "no run left is longer than 3");
    }

    #[test]
    fn double_use_is_named() {
        let mut space = Allocator::new(200);
        space.mark_used(one(60, 10)).expect("free");
        assert_eq!(space.mark_used(one(50, 11)), Err(60));
        assert_eq!(space.mark_used(one(198, 3)), Err(200));
        assert_eq!(space.mark_used(one(u32::MAX - 2, 2)), Err(u32::MAX - 2));
        assert_eq!(space.free_blocks(), 190);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn double_free_is_a_bug() {
        let mut space = Allocator::new(200);
        space.mark_used(one(0, 10)).expect("free");
        space.free(one(5, 6));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            blocks in 1_u32..20_000,
            used in prop::collection::vec((0_u32..20_000, 1_u32..200), 0..80),
            steps in prop::collection::vec((1_u32..=32, any::<prop::sample::Index>()), 1..300),
        ) {
            let mut space = Allocator::new(blocks);
            let mut free: BTreeSet<u32> = (0..blocks).collect();
            for (start, length) in used {
                for block in start..start + length {
                    let was_free = free.remove(&block);
                    prop_assert_eq!(space.mark_used(one(block, 1)).is_ok(), was_free);
                }
            }
            let mut held = Vec::new();
            for (wanted, pick) in steps {
                if let Some(extents) = space.allocate(wanted) {
                    prop_assert_eq!(total(&extents), wanted);
                    for extent in extents {
                        for block in extent.start..extent.end() {
                            prop_assert!(free.remove(&block));
                        }
                        held.push(extent);
                    }
                }
                if !held.is_empty() && wanted % 3 == 0 {
                    let extent = held.swap_remove(pick.index(held.len()));
                    free.extend(extent.start..extent.end());
                    space.free(extent);
                }
                prop_assert_eq!(space.free_blocks() as usize, free.len());
            }
            for block in 0..blocks {
                prop_assert_eq!(space.is_free(block), free.contains(&block));
            }
        }
    }
}
