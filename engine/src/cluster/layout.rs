//! Where a volume's blocks lie: block to stripe to chunk to copyset.
//!
//! A volume is cut into *chunk sets* of as many chunks as the volume has copysets (16 at most).
//! Within a set, stripes go round the chunks, so that neighbouring stripes lie in different
//! copysets; chunks go round the copysets. With 3 copysets, chunks of 8 blocks and stripes of 4:
//!
//! | block | 0..4 | 4..8 | 8..12 | 12..16 | 16..20 | 20..24 | 24..28 |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | chunk number | 0 | 1 | 2 | 0 | 1 | 2 | 3 |
//! | block of the chunk | 0..4 | 0..4 | 0..4 | 4..8 | 4..8 | 4..8 | 0..4 |
//! | copyset (index) | 0 | 1 | 2 | 0 | 1 | 2 | 0 |
//!
//! The mapping is part of the format: changing it loses every volume. Pure arithmetic; it knows
//! neither cluster nor client.

use crate::ids::{BlockRange, ChunkId};

/// Chunks over which a volume is striped at most.
pub const STRIPE_CHUNKS_MAX: u32 = 16;

/// The shortest stripe, in blocks.
pub const STRIPE_BLOCKS_MIN: u32 = 4;

/// The arithmetic of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeLayout {
    volume: u32,
    blocks: u64,
    chunk_blocks: u32,
    stripe_blocks: u32,
    copysets: u32,
}

/// A run of blocks of a volume that lies in one chunk without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First block in the volume.
    pub offset: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// The blocks of the chunk.
    pub range: BlockRange,
    /// Index of the copyset in the volume's list.
    pub copyset: u32,
}

impl VolumeLayout {
    /// The layout of volume number `volume` with `blocks` blocks over `copysets` copysets.
    ///
    /// # Panics
    ///
    /// If a measure is zero, the stripe does not divide the chunk, or the volume has more than
    /// 2^32 chunks: the cluster file's checks refuse all of them.
    #[must_use]
    pub fn new(
        volume: u32,
        blocks: u64,
        chunk_blocks: u32,
        stripe_blocks: u32,
        copysets: u32,
    ) -> VolumeLayout {
        assert!(blocks > 0, "a volume has blocks");
        assert!(stripe_blocks > 0, "a stripe has blocks");
        assert!(copysets > 0, "a volume has copysets");
        assert_eq!(chunk_blocks % stripe_blocks, 0, "stripes divide the chunk");
        let layout = VolumeLayout { volume, blocks, chunk_blocks, stripe_blocks, copysets };
        assert!(layout.chunks() <= 1 << 32, "chunk numbers have 32 bits");
        layout
    }

    /// Blocks of the volume.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Chunks over which a stripe set goes.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.copysets.min(STRIPE_CHUNKS_MAX)
    }

    /// Blocks of one chunk set.
    #[must_use]
    pub fn set_blocks(&self) -> u64 {
        u64::from(self.width()) * u64::from(self.chunk_blocks)
    }

    /// Chunk numbers in use: whole sets.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.blocks.div_ceil(self.set_blocks()) * u64::from(self.width())
    }

    /// The part that starts at block `offset` and has at most `blocks_max` blocks: it ends at the
    /// end of the stripe at the latest.
    ///
    /// # Panics
    ///
    /// If `offset` is not in the volume or `blocks_max` is zero.
    #[must_use]
    pub fn part(&self, offset: u64, blocks_max: u64) -> Part {
        assert!(offset < self.blocks, "block {offset} of {}", self.blocks);
        assert!(blocks_max > 0, "a part has blocks");
        let stripe = u64::from(self.stripe_blocks);
        let width = u64::from(self.width());
        let set = offset / self.set_blocks();
        let in_set = offset % self.set_blocks();
        let row = in_set / (width * stripe);
        let column = in_set % (width * stripe) / stripe;
        let in_stripe = in_set % stripe;
        let blocks = (stripe - in_stripe).min(blocks_max).min(self.blocks - offset);
        let first = (row * stripe + in_stripe) as u32;
        let range = BlockRange { first, blocks: blocks as u32 };
        self.in_chunk(offset, set * width + column, range)
    }

    /// The parts of a run, split where stripes end and after `part_blocks_max` blocks.
    ///
    /// # Panics
    ///
    /// If the run is not in the volume or `part_blocks_max` is zero.
    pub fn parts(
        &self,
        offset: u64,
        blocks: u64,
        part_blocks_max: u32,
    ) -> impl Iterator<Item = Part> + use<> {
        let layout = *self;
        let end = offset.checked_add(blocks).expect("a run ends below 2^64");
        assert!(end <= layout.blocks, "blocks {offset}..{end} of {}", layout.blocks);
        let mut at = offset;
        std::iter::from_fn(move || {
            let left = (end - at).min(u64::from(part_blocks_max));
            let part = (at < end).then(|| layout.part(at, left))?;
            at += u64::from(part.range.blocks);
            Some(part)
        })
    }

    /// A run as one part for each chunk that it touches: a run of a volume is a run in each of
    /// its chunks. `offset` of such a part is that of its first block.
    ///
    /// # Panics
    ///
    /// If the run is not in the volume.
    pub fn chunk_parts(&self, offset: u64, blocks: u64) -> impl Iterator<Item = Part> + use<> {
        let layout = *self;
        let end = offset.checked_add(blocks).expect("a run ends below 2^64");
        assert!(end <= layout.blocks, "blocks {offset}..{end} of {}", layout.blocks);
        let width = u64::from(layout.width());
        let set_blocks = layout.set_blocks();
        let first_chunk = offset / set_blocks * width;
        let end_chunk = end.div_ceil(set_blocks) * width;
        (first_chunk..end_chunk).filter_map(move |number| {
            let set_start = number / width * set_blocks;
            let from = offset.max(set_start) - set_start;
            let to = (end - set_start).min(set_blocks);
            layout.column_part(number, set_start, from, to)
        })
    }

    /// Blocks of the volume that lie in each copyset of its list, by index.
    pub fn copyset_blocks(&self) -> Vec<u64> {
        let mut blocks = vec![0; self.copysets as usize];
        for number in 0..self.chunks() {
            let width = u64::from(self.width());
            let set_start = number / width * self.set_blocks();
            let end = (self.blocks - set_start).min(self.set_blocks());
            blocks[(number % u64::from(self.copysets)) as usize] +=
                u64::from(self.column_blocks(number % width, end));
        }
        blocks
    }

    /// The part of chunk `number` among the blocks `from..to` of its set.
    fn column_part(&self, number: u64, set_start: u64, from: u64, to: u64) -> Option<Part> {
        let column = number % u64::from(self.width());
        let first = self.column_blocks(column, from);
        let blocks = self.column_blocks(column, to) - first;
        if blocks == 0 {
            return None;
        }
        let stripe = u64::from(self.stripe_blocks);
        let row = u64::from(first) / stripe;
        let stripe_start = (row * u64::from(self.width()) + column) * stripe;
        let offset = set_start + stripe_start + u64::from(first) % stripe;
        Some(self.in_chunk(offset, number, BlockRange { first, blocks }))
    }

    /// How many of the first `blocks` blocks of a set lie in its chunk `column`.
    fn column_blocks(&self, column: u64, blocks: u64) -> u32 {
        let stripe = u64::from(self.stripe_blocks);
        let row = u64::from(self.width()) * stripe;
        let in_row = (blocks % row).saturating_sub(column * stripe).min(stripe);
        (blocks / row * stripe + in_row) as u32
    }

    fn in_chunk(&self, offset: u64, number: u64, range: BlockRange) -> Part {
        let chunk = ChunkId(u64::from(self.volume) << 32 | number);
        let copyset = (number % u64::from(self.copysets)) as u32;
        Part { offset, chunk, range, copyset }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn layouts() -> impl Strategy<Value = VolumeLayout> {
        (1u64..600, 1u32..5, 1u32..9, 1u32..22).prop_map(|(blocks, stripe, stripes, copysets)| {
            VolumeLayout::new(7, blocks, stripe * stripes, stripe, copysets)
        })
    }

    #[test]
    fn the_example_of_the_module_is_pinned() {
        let layout = VolumeLayout::new(2, 28, 8, 4, 3);
        let parts: Vec<_> = layout
            .parts(0, 28, 32)
            .map(|part| (part.offset, part.chunk.0, part.range.first, part.copyset))
            .collect();
        let chunk = 2u64 << 32;
        assert_eq!(
            parts,
            [
                (0, chunk, 0, 0),
                (4, chunk + 1, 0, 1),
                (8, chunk + 2, 0, 2),
                (12, chunk, 4, 0),
                (16, chunk + 1, 4, 1),
                (20, chunk + 2, 4, 2),
                (24, chunk + 3, 0, 0),
            ]
        );
        assert_eq!(layout.copyset_blocks(), [12, 8, 8]);
    }

    #[test]
    fn more_copysets_than_a_set_has_chunks_take_turns() {
        let layout = VolumeLayout::new(1, 16 * 4 * 3, 4, 4, 20);
        assert_eq!(layout.width(), 16);
        let copyset = |block| layout.part(block, 1).copyset;
        assert_eq!((copyset(0), copyset(60), copyset(64), copyset(80)), (0, 15, 16, 0));
    }

    proptest! {
        #[test]
        fn every_block_has_a_place_of_its_own(layout in layouts()) {
            let mut places = HashSet::new();
            let mut copysets = vec![0u64; layout.copysets as usize];
            for block in 0..layout.blocks() {
                let part = layout.part(block, 1);
                prop_assert_eq!(part.range.blocks, 1);
                prop_assert!(part.range.first < layout.chunk_blocks);
                prop_assert_eq!(part.chunk.0 >> 32, 7);
                prop_assert!(u64::from(part.chunk.0 as u32) < layout.chunks());
                prop_assert_eq!(part.chunk.0 % (1 << 32) % u64::from(layout.copysets), u64::from(part.copyset));
                prop_assert!(places.insert((part.chunk, part.range.first)));
                copysets[part.copyset as usize] += 1;
            }
            prop_assert_eq!(copysets, layout.copyset_blocks());
        }

        #[test]
        fn parts_cover_a_run_in_order(layout in layouts(), a in any::<u64>(), b in any::<u64>(), max in 1u32..9) {
            let offset = a % layout.blocks();
            let blocks = b % (layout.blocks() - offset + 1);
            let mut at = offset;
            for part in layout.parts(offset, blocks, max) {
                prop_assert_eq!(part.offset, at);
                prop_assert!((1..=max).contains(&part.range.blocks));
                for i in 0..part.range.blocks {
                    let single = layout.part(at + u64::from(i), 1);
                    prop_assert_eq!(single.chunk, part.chunk);
                    prop_assert_eq!(single.range.first, part.range.first + i);
                }
                at += u64::from(part.range.blocks);
            }
            prop_assert_eq!(at, offset + blocks);
        }

        #[test]
        fn chunk_parts_cover_a_run_once_per_chunk(layout in layouts(), a in any::<u64>(), b in any::<u64>()) {
            let offset = a % layout.blocks();
            let blocks = b % (layout.blocks() - offset + 1);
            let single: HashSet<_> =
                (offset..offset + blocks).map(|block| layout.part(block, 1)).map(|part| (part.chunk, part.range.first)).collect();
            let mut merged = HashSet::new();
            let mut chunks = HashSet::new();
            for part in layout.chunk_parts(offset, blocks) {
                prop_assert!(chunks.insert(part.chunk));
                let first = layout.part(part.offset, 1);
                prop_assert_eq!((first.chunk, first.range.first, first.copyset), (part.chunk, part.range.first, part.copyset));
                merged.extend((part.range.first..part.range.first + part.range.blocks).map(|block| (part.chunk, block)));
            }
            prop_assert_eq!(merged, single);
        }
    }
}
