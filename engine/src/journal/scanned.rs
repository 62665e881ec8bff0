//! What a scan found: items and holes, in the order of the ring.

use super::item::{Item, ItemError};

/// A block that counts, or may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) position: u64,
    pub(super) mark: u64,
    pub(super) start: u64,
    pub(super) incarnation: u32,
    pub(super) first_of_batch: bool,
    pub(super) last_of_batch: bool,
    /// Where its body lies among all bodies.
    pub(super) body: usize,
    pub(super) body_bytes: u16,
    /// Where in the body the first item begins.
    pub(super) first_item: Option<u16>,
}

impl Held {
    /// Whether a writer may have put this block right behind `before`.
    pub(super) fn follows(&self, before: &Held) -> bool {
        let same = self.incarnation == before.incarnation;
        let begins = !same && self.start == self.position;
        self.first_of_batch == before.last_of_batch && (same || (begins && self.first_of_batch))
    }

    pub(super) fn body_end(&self) -> usize {
        self.body + usize::from(self.body_bytes)
    }
}

/// A part of the ring.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// Blocks that follow each other.
    Run { first: usize, blocks: usize },
    /// Everything from `sure` up to `to` is lost: blocks that are damaged, and before them items
    /// that are in doubt.
    Hole { sure: u64, to: u64 },
}

/// An item and where it stands.
#[derive(Clone)]
pub struct Located<'a> {
    /// Position of the first block of its batch; below the mark, where that block may be lost, of
    /// the block in which the item begins or of one before it.
    pub batch: u64,
    /// The item.
    pub item: Item<'a>,
}

/// A step through a scanned ring.
#[derive(Clone)]
pub enum Step<'a> {
    /// An item.
    Item(Located<'a>),
    /// Damage: whatever stood in these positions is lost.
    Hole(std::ops::Range<u64>),
}

/// A block is whole, but an item in it is not: another version wrote it, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal block at position {position} holds what this version cannot read")]
pub struct MalformedItem {
    /// Position of the block.
    pub position: u64,
    /// What is wrong.
    pub source: ItemError,
}

/// What counts of a ring.
pub struct Scanned {
    /// Position from which the ring was scanned.
    pub from: u64,
    /// The highest mark.
    pub mark: u64,
    /// Where the next incarnation starts.
    pub end: u64,
    /// The latest incarnation seen, superblock included.
    pub incarnation: u32,
    /// Blocks that fail their checksum, could not be read, or stand in a slot that is not theirs.
    pub bad_blocks: u64,
    /// Blocks that a later incarnation had given up.
    pub stale_blocks: u64,
    /// Good blocks behind the end: a torn tail.
    pub torn_blocks: u64,
    /// A block of a later lap than the superblock's position allows: that superblock is not the
    /// newest there was.
    pub ahead: Option<u64>,
    /// Blocks of the data space whose metadata are needed: they hold entries from `from` on.
    pub places: Vec<u32>,
    pub(super) held: Vec<Held>,
    pub(super) bytes: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    /// Per piece: from which position on its items are in doubt because of a hole behind it.
    pub(super) doubts: Vec<u64>,
}

impl Scanned {
    /// Items and holes in the order of the ring, up to the end.
    pub fn steps(&self) -> impl Iterator<Item = Result<Step<'_>, MalformedItem>> {
        Steps {
            scanned: self,
            piece: 0,
            block: 0,
            block_end: 0,
            batch: 0,
            offset: 0,
            run_end: 0,
            doubt: 0,
        }
    }

    /// The damaged positions below the mark, items in doubt included.
    pub fn holes(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        self.pieces.iter().filter_map(|piece| match *piece {
            Piece::Hole { to, sure } => Some(sure..to),
            Piece::Run { .. } => None,
        })
    }
}

/// The iterator behind [`Scanned::steps`].
struct Steps<'a> {
    scanned: &'a Scanned,
    /// The piece to look at next.
    piece: usize,
    /// The block in which the next item begins, and the one behind the run.
    block: usize,
    block_end: usize,
    /// Position of the first block of the batch at hand.
    batch: u64,
    /// Where the next item begins among all bodies, and where the run ends.
    offset: usize,
    run_end: usize,
    /// From which position on items of the run are in doubt.
    doubt: u64,
}

impl<'a> Steps<'a> {
    /// Enters a run; after a hole its first blocks may only continue an item that is lost.
    fn enter(&mut self, first: usize, blocks: usize) {
        let held = &self.scanned.held[first..first + blocks];
        self.block = first;
        self.block_end = first + blocks;
        self.run_end = held.last().map_or(0, Held::body_end);
        self.offset = self.run_end;
        let begin = held.iter().position(|block| block.first_item.is_some());
        if let Some(at) = begin {
            let first_item = held[at].first_item.expect("just looked for");
            self.block = first + at;
            self.batch = held[at].position;
            self.offset = held[at].body + usize::from(first_item);
        }
    }

    /// The next item of the run and the position of its block; `None` at the run's end.
    fn item(&mut self) -> Option<Result<(u64, Located<'a>), MalformedItem>> {
        let scanned = self.scanned;
        if self.offset >= self.run_end {
            return None;
        }
        while scanned.held[self.block].body_end() <= self.offset {
            self.block += 1;
            if scanned.held[self.block].first_of_batch {
                self.batch = scanned.held[self.block].position;
            }
        }
        let (batch, position) = (self.batch, scanned.held[self.block].position);
        match Item::parse(&scanned.bytes[self.offset..self.run_end]) {
            Ok((item, length)) => {
                self.offset += length;
                Some(Ok((position, Located { batch, item })))
            }
            Err(ItemError::Truncated) if self.cut_by_hole() => {
                self.offset = self.run_end;
                None
            }
            Err(source) => {
                self.offset = self.run_end;
                Some(Err(MalformedItem { position, source }))
            }
        }
    }

    /// Whether the run ends in the middle of a batch.
    fn cut_by_hole(&self) -> bool {
        !self.scanned.held[self.block_end - 1].last_of_batch
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<Step<'a>, MalformedItem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.item() {
                Some(Ok((position, located))) => {
                    if position < self.doubt {
                        return Some(Ok(Step::Item(located)));
                    }
                }
                Some(Err(malformed)) => return Some(Err(malformed)),
                None => {
                    let piece = *self.scanned.pieces.get(self.piece)?;
                    self.doubt = self.scanned.doubts[self.piece];
                    self.piece += 1;
                    match piece {
                        Piece::Run { first, blocks } => self.enter(first, blocks),
                        Piece::Hole { to, sure } => {
                            return Some(Ok(Step::Hole(sure..to)));
                        }
                    }
                }
            }
        }
    }
}
