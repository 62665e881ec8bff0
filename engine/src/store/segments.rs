//! Open segments: where blocks go whose journal entries stand in their own metadata.
//!
//! Recovery finds such entries only where superblocks tell it to look, and a block that is written
//! again loses its entry. So single blocks go to the free blocks of one *active* segment, a range of
//! the data space; and of what was written there nothing is free again before the segment is closed,
//! whatever maps and records say.
//!
//! With each superblock a segment is opened, and the fifth newest closed. The active one is the newest
//! but one: both superblock slots name it, so that losing one of them loses no entry. Example: the
//! superblock with number 8 names segments 6, 7 and 8. From then on segment 7 is active, until number
//! 9 counts. Number 10 stands for a checkpoint that began when 9 counted and nothing went to segment 7
//! any more: whoever starts from it needs no entry of segment 7. Number 11 overwrites 9, the last that
//! such an entry may be needed from, and closes segment 7.
//!
//! | block of a segment | in `spare` | in `written` |
//! | --- | --- | --- |
//! | free when it was opened, and set aside | yes | |
//! | handed out | | yes |
//! | handed out and freed: free when it is closed | yes | yes |
//! | used by others since before, or freed by them | | |

use arrayvec::ArrayVec;

use crate::ids::{Extent, SEGMENT_LENGTH_FACTOR, SEGMENTS_MAX, SEGMENTS_NAMED};
use crate::store::bitmap::Bitmap;

/// Segments that the superblocks on a device name.
const SEGMENTS_OPEN: usize = SEGMENTS_MAX - 1;

/// A range of the data space. Blocks count from its start in the sets.
#[derive(Clone, Debug)]
struct Segment {
    extent: Extent,
    /// Blocks to hand out, when it was opened; none of a segment that an opening found.
    blocks: u32,
    /// The next block to hand out is not before this one.
    cursor: u32,
    spare: Bitmap,
    written: Bitmap,
}

impl Segment {
    fn new(blocks_max: u32) -> Segment {
        let sets = Bitmap::empty(blocks_max);
        Segment {
            extent: Extent::default(),
            blocks: 0,
            cursor: 0,
            spare: sets.clone(),
            written: sets,
        }
    }

    fn at(&self, block: u32) -> Option<u32> {
        let at = block.checked_sub(self.extent.start)?;
        (at < self.extent.blocks).then_some(at)
    }
}

/// The open segments of a data space, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    /// Free blocks that a segment is to have.
    blocks: u32,
    open: ArrayVec<Segment, SEGMENTS_MAX>,
    unused: ArrayVec<Segment, SEGMENTS_MAX>,
    active: Option<usize>,
}

impl Segments {
    /// No segment; those to come are to have so many free blocks.
    pub(super) fn new(blocks: u32) -> Segments {
        let unused =
            (0..SEGMENTS_MAX).map(|_| Segment::new(blocks * SEGMENT_LENGTH_FACTOR)).collect();
        Segments { blocks, open: ArrayVec::new(), unused, active: None }
    }

    /// The segments that the next superblock names.
    pub(super) fn named(&self) -> [Extent; SEGMENTS_NAMED] {
        let mut named = [Extent::default(); SEGMENTS_NAMED];
        let newest = self.open.iter().rev().take(SEGMENTS_NAMED);
        for (slot, segment) in named.iter_mut().zip(newest) {
            *slot = segment.extent;
        }
        named.reverse();
        named
    }

    /// Opens the segments that the superblock in force names. `places`: blocks that hold what recovery
    /// may need again; nothing is handed out. Returns how many blocks it takes out of the free ones.
    pub(super) fn restore(&mut self, named: &[Extent], places: &[u32], free: &mut Bitmap) -> u32 {
        let mut taken = 0;
        for &extent in named {
            let mut segment = self.unused.pop().expect("as many as superblocks name");
            segment.extent = extent;
            segment.cursor = extent.blocks;
            for &block in places {
                let Some(at) = segment.at(block) else { continue };
                if segment.written.contains(at) {
                    continue;
                }
                segment.written.insert(at, 1).expect("looked at");
                if free.contains(block) {
                    free.remove(block, 1).expect("looked at");
                    segment.spare.insert(at, 1).expect("it is new");
                    taken += 1;
                }
            }
            self.open.push(segment);
        }
        taken
    }

    /// Opens a segment near `from`, empty where there is no room; returns how many blocks it takes out
    /// of the free ones.
    pub(super) fn open(&mut self, from: u32, bound: u32, free: &mut Bitmap) -> u32 {
        let mut segment = self.unused.pop().expect("one is closed with each superblock");
        let (extent, taken) = self.choose(from, bound, free);
        segment.extent = extent;
        segment.blocks = taken;
        segment.cursor = 0;
        let mut block = extent.start;
        while let Some(start) = free.next(block).filter(|&start| start < extent.end()) {
            let blocks = free.run(start, extent.end() - start);
            free.remove(start, blocks).expect("a run of free blocks");
            segment.spare.insert(start - extent.start, blocks).expect("it was empty");
            block = start + blocks;
        }
        self.open.push(segment);
        taken
    }

    /// The range from `from` on, from behind an open segment, or from the start of the data space,
    /// that comes closest to what a segment is to have, and what it has.
    fn choose(&self, from: u32, bound: u32, free: &Bitmap) -> (Extent, u32) {
        let behind = self.open.iter().map(|segment| segment.extent.end());
        let mut best = (Extent::default(), 0);
        for start in std::iter::once(from).chain(behind).chain([0]) {
            let found = self.measure(start, bound, free);
            if found.1 > best.1 {
                best = found;
            }
            if best.1 == self.blocks {
                break;
            }
        }
        best
    }

    /// The range from `start` on that a segment could have, up to the next open one.
    fn measure(&self, start: u32, bound: u32, free: &Bitmap) -> (Extent, u32) {
        let inside = |segment: &Segment| segment.at(start).is_some();
        if self.open.iter().any(inside) {
            return (Extent::default(), 0);
        }
        let next = self.open.iter().filter(|segment| segment.extent.blocks > 0);
        let next = next.map(|segment| segment.extent.start).filter(|&other| other >= start).min();
        let longest = start.saturating_add(self.blocks * SEGMENT_LENGTH_FACTOR);
        let limit = next.unwrap_or(bound).min(longest);
        let (mut block, mut end, mut found) = (start, start, 0);
        while found < self.blocks
            && let Some(run) = free.next(block).filter(|&run| run < limit)
        {
            let blocks = free.run(run, (limit - run).min(self.blocks - found));
            found += blocks;
            end = run + blocks;
            block = end;
        }
        (Extent { start, blocks: end - start }, found)
    }

    /// The superblock that names the newest segment counts: closes the one that no superblock names any
    /// more, and makes active the newest that the one before names, too. Returns how many blocks are
    /// free with that.
    pub(super) fn advance(&mut self, free: &mut Bitmap) -> u32 {
        self.active = self.open.len().checked_sub(2);
        if self.open.len() <= SEGMENTS_OPEN {
            return 0;
        }
        let mut segment = self.open.remove(0);
        self.active = self.active.map(|active| active - 1);
        let mut freed = 0;
        let mut at = 0;
        while let Some(start) = segment.spare.next(at) {
            let blocks = segment.spare.run(start, segment.extent.blocks - start);
            free.insert(segment.extent.start + start, blocks).expect("it was set aside");
            freed += blocks;
            at = start + blocks;
        }
        segment.spare.clear();
        segment.written.clear();
        segment.extent = Extent::default();
        self.unused.push(segment);
        freed
    }

    /// Hands out a block of the active segment.
    pub(super) fn take(&mut self) -> Option<u32> {
        let segment = &mut self.open[self.active?];
        let at = segment.spare.next(segment.cursor)?;
        segment.spare.remove(at, 1).expect("just found");
        segment.written.insert(at, 1).expect("it is handed out once");
        segment.cursor = at + 1;
        Some(segment.extent.start + at)
    }

    /// Whether the active segment has blocks to hand out.
    pub(super) fn has_active(&self) -> bool {
        let active = self.active.map(|active| &self.open[active]);
        active.is_some_and(|segment| segment.spare.next(segment.cursor).is_some())
    }

    /// Blocks that the newest segment is to hand out once it is active.
    pub(super) fn next_blocks(&self) -> u32 {
        self.open.last().map_or(0, |segment| segment.blocks)
    }

    /// Whether a block was handed out by the segment that is active now.
    pub(super) fn is_active(&self, block: u32) -> bool {
        let active = self.active.map(|active| &self.open[active]);
        active
            .is_some_and(|segment| segment.at(block).is_some_and(|at| segment.written.contains(at)))
    }

    /// Whether a block may hold what recovery needs.
    pub(super) fn is_written(&self, block: u32) -> bool {
        let written = |segment: &Segment| segment.at(block).map(|at| segment.written.contains(at));
        self.open.iter().find_map(written).unwrap_or(false)
    }

    /// Whether a block is set aside: nobody's, and not to be had.
    pub(super) fn is_spare(&self, block: u32) -> bool {
        let spare = |segment: &Segment| segment.at(block).map(|at| segment.spare.contains(at));
        self.open.iter().find_map(spare).unwrap_or(false)
    }

    /// Whether a range has a block that may hold what recovery needs.
    pub(super) fn holds(&self, extent: Extent) -> bool {
        let apart = |segment: &Segment| {
            segment.extent.end() <= extent.start || extent.end() <= segment.extent.start
        };
        !self.open.iter().all(apart) && (extent.start..extent.end()).any(|at| self.is_written(at))
    }

    /// A block that was handed out is nobody's any more: it is kept until its segment is closed. False:
    /// it is none of theirs.
    pub(super) fn keep(&mut self, block: u32) -> bool {
        for segment in &mut self.open {
            let Some(at) = segment.at(block) else { continue };
            if segment.written.contains(at) {
                if segment.spare.insert(at, 1).is_err() {
                    panic!("block {block} of a segment is freed twice");
                }
                return true;
            }
        }
        false
    }

    /// Blocks set aside.
    pub(super) fn spare_blocks(&self) -> u32 {
        self.open.iter().map(|segment| segment.spare.count()).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let all = self.open.iter().chain(&self.unused);
        all.map(|segment| segment.spare.memory_bytes() + segment.written.memory_bytes()).sum()
    }
}
