//! Reading: all blocks of a ring go in, in the order of the positions expected of them, and the
//! entries that stand in metadata; what counts comes out.

use std::cmp::Reverse;

use super::block::{BlockError, BlockView, Stamp};
use super::metadata::MetadataEntry;
use super::scanned::{Held, Piece, Scanned};
use crate::device::Salt;

/// The scan of one ring.
///
/// The slots are passed from the slot of position `from` on, once around: slot `(from + i) %
/// blocks` is expected to hold position `from + i`. Bodies of blocks that do are kept until
/// [`Scan::finish`] knows the highest mark and with it what a missing block means.
pub struct Scan {
    salt: Salt,
    from: u64,
    ring_blocks: u64,
    /// Position expected in the next slot.
    next: u64,
    mark: u64,
    incarnation: u32,
    held: Vec<Held>,
    bytes: Vec<u8>,
    bad_blocks: u64,
    stale_blocks: u64,
    ahead: Option<u64>,
    /// The incarnation that wrote the superblock, and with it gave up what earlier ones left here.
    begun: u32,
    /// Blocks of the data space with an entry in their metadata, from `from` on.
    places: Vec<u32>,
}

impl Scan {
    /// A scan from a superblock's position on; `mark` and `incarnation` are the superblock's.
    #[must_use]
    pub fn new(salt: Salt, ring_blocks: u64, from: u64, mark: u64, incarnation: u32) -> Scan {
        Scan {
            salt,
            from,
            ring_blocks,
            next: from,
            mark,
            incarnation,
            held: Vec::new(),
            bytes: Vec::new(),
            bad_blocks: 0,
            stale_blocks: 0,
            ahead: None,
            begun: incarnation,
            places: Vec::new(),
        }
    }

    /// Blocks not passed yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.from + self.ring_blocks - self.next
    }

    /// Passes the block of the next slot.
    pub fn block(&mut self, bytes: &[u8]) {
        debug_assert!(self.remaining() > 0, "once around");
        let expected = self.next;
        self.next += 1;
        let block = match BlockView::parse(bytes, self.salt) {
            Ok(block) => block,
            Err(BlockError::Missing) => return,
            Err(BlockError::Checksum | BlockError::Field(_)) => {
                self.bad_blocks += 1;
                return;
            }
        };
        if block.position() != expected {
            let own_slot = block.position() % self.ring_blocks == expected % self.ring_blocks;
            if !own_slot {
                self.bad_blocks += 1;
            } else if block.position() > expected {
                self.ahead = Some(block.position());
            }
            return;
        }
        let held = Held {
            position: expected,
            mark: block.mark(),
            start: block.start(),
            incarnation: block.incarnation(),
            first_of_batch: block.is_first(),
            last_of_batch: block.is_last(),
            body: self.bytes.len(),
            body_bytes: block.body().len() as u16,
            first_item: block.first_item().map(|at| at as u16),
        };
        self.bytes.extend_from_slice(block.body());
        self.hold(held);
    }

    /// Passes an entry that stands in the metadata of its block; in any order.
    pub fn metadata(&mut self, entry: &MetadataEntry) {
        let Stamp { position, mark, start, incarnation } = entry.stamp;
        if position < self.from {
            return;
        }
        self.places.push(entry.place());
        if position >= self.from + self.ring_blocks {
            self.ahead = Some(position);
            return;
        }
        let body = self.bytes.len();
        entry.emit(&mut self.bytes);
        self.hold(Held {
            position,
            mark,
            start,
            incarnation,
            first_of_batch: true,
            last_of_batch: true,
            body,
            body_bytes: (self.bytes.len() - body) as u16,
            first_item: Some(0),
        });
    }

    fn hold(&mut self, held: Held) {
        if held.incarnation < self.begun {
            self.stale_blocks += 1;
            return;
        }
        self.mark = self.mark.max(held.mark);
        self.incarnation = self.incarnation.max(held.incarnation);
        self.held.push(held);
    }

    /// Passes slots that could not be read.
    pub fn unreadable(&mut self, blocks: u64) {
        debug_assert!(self.remaining() >= blocks, "once around");
        self.next += blocks;
        self.bad_blocks += blocks;
    }

    /// Says what counts.
    #[must_use]
    pub fn finish(mut self) -> Scanned {
        let seen = self.held.len();
        self.drop_stale();
        let stale_blocks = self.stale_blocks + (seen - self.held.len()) as u64;
        self.sort();
        let mut pieces = Vec::new();
        let (used, after_mark) = self.pieces_below_mark(&mut pieces);
        let (end, used) = self.batches_from_mark(&mut pieces, used, after_mark);
        Scanned {
            from: self.from,
            mark: self.mark,
            end,
            incarnation: self.incarnation,
            bad_blocks: self.bad_blocks,
            stale_blocks,
            torn_blocks: (self.held.len() - used) as u64,
            ahead: self.ahead,
            places: self.places,
            held: self.held,
            bytes: self.bytes,
            doubts: doubts(&pieces),
            pieces,
        }
    }

    /// Drops blocks at positions that a later incarnation had already given up.
    fn drop_stale(&mut self) {
        let mut starts: Vec<(u32, u64)> = Vec::new();
        for block in &self.held {
            let begun = (block.incarnation, block.start);
            if starts.last() != Some(&begun) && !starts.contains(&begun) {
                starts.push(begun);
            }
        }
        if starts.len() < 2 {
            return;
        }
        self.held.retain(|block| {
            !starts.iter().any(|&(incarnation, start)| {
                incarnation > block.incarnation && start <= block.position
            })
        });
    }

    /// Puts what stands in metadata where its position is; items may span blocks that follow each
    /// other, so the bodies go with them.
    fn sort(&mut self) {
        if self.places.is_empty() {
            return;
        }
        self.held.sort_unstable_by_key(|block| (block.position, Reverse(block.incarnation)));
        // No writer says a position twice; of what does, one at most can be right.
        let all = self.held.len();
        self.held.dedup_by_key(|block| block.position);
        self.bad_blocks += (all - self.held.len()) as u64;
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for block in &mut self.held {
            let body = block.body..block.body_end();
            block.body = bytes.len();
            bytes.extend_from_slice(&self.bytes[body]);
        }
        self.bytes = bytes;
    }

    /// Cuts the blocks below the mark into runs and holes. Returns the number of blocks used and
    /// the position from which batches count only as a whole.
    fn pieces_below_mark(&self, pieces: &mut Vec<Piece>) -> (usize, u64) {
        let mark = self.mark.max(self.from);
        let mut position = self.from;
        let mut used = 0;
        while position < mark {
            let run = self.run_length(used, position, mark);
            if run > 0 {
                pieces.push(Piece::Run { first: used, blocks: run });
                used += run;
                position += run as u64;
            }
            if position >= mark {
                break;
            }
            let next = self.held.get(used).map_or(mark, |block| block.position.min(mark));
            self.push_hole(pieces, used, position, next);
            position = next;
        }
        (used, position)
    }

    /// How many blocks from number `first` on follow each other from `position` on, below `mark`,
    /// with batches that fit each other.
    fn run_length(&self, first: usize, position: u64, mark: u64) -> usize {
        let mut length = 0;
        for (block, expected) in self.held[first..].iter().zip(position..mark) {
            if block.position != expected {
                break;
            }
            let fits = match length {
                0 => true,
                _ => block.follows(&self.held[first + length - 1]),
            };
            if !fits {
                break;
            }
            length += 1;
        }
        length
    }

    /// Notes a hole before block number `next`. Where an incarnation may have begun in it, a verdict
    /// may be lost, which could have voided anything above the marks seen before: so the hole begins
    /// there.
    fn push_hole(&self, pieces: &mut Vec<Piece>, next: usize, from: u64, to: u64) {
        let before = next.checked_sub(1).map(|at| &self.held[at]);
        let after = self.held.get(next);
        let same = match (before, after) {
            (Some(before), Some(after)) => {
                let one_later = after.incarnation.checked_sub(1) == Some(before.incarnation);
                let behind = one_later && after.start >= to;
                behind || after.incarnation == before.incarnation
            }
            _ => false,
        };
        let sure = if same {
            from
        } else {
            before.map_or(self.from, |block| block.mark.clamp(self.from, from))
        };
        pieces.push(Piece::Hole { sure, to });
    }

    /// Accepts whole batches from the mark on. Returns the end and the number of blocks used.
    fn batches_from_mark(
        &self,
        pieces: &mut Vec<Piece>,
        mut used: usize,
        mut position: u64,
    ) -> (u64, usize) {
        while let Some(blocks) = self.whole_batch(used, position) {
            match pieces.last_mut() {
                Some(Piece::Run { first, blocks: run }) if *first + *run == used => *run += blocks,
                _ => pieces.push(Piece::Run { first: used, blocks }),
            }
            used += blocks;
            position += blocks as u64;
        }
        (position, used)
    }

    /// Blocks of the batch that begins with block number `first` at `position`, if it is whole.
    fn whole_batch(&self, first: usize, position: u64) -> Option<usize> {
        let head = self.held.get(first)?;
        if head.position != position || !head.first_of_batch {
            return None;
        }
        let before = first.checked_sub(1).map(|at| &self.held[at]);
        let adjacent = before.is_some_and(|before| before.position + 1 == position);
        if adjacent && !before.is_some_and(|before| head.follows(before)) {
            return None;
        }
        let mut blocks = 1;
        let mut last = head;
        while !last.last_of_batch {
            let next = self.held.get(first + blocks)?;
            if next.position != last.position + 1 || !next.follows(last) {
                return None;
            }
            last = next;
            blocks += 1;
        }
        Some(blocks)
    }
}

/// Per piece: from which position on its items are in doubt because of a hole behind it.
fn doubts(pieces: &[Piece]) -> Vec<u64> {
    let mut doubts = vec![u64::MAX; pieces.len()];
    let mut doubt = u64::MAX;
    for (piece, slot) in pieces.iter().zip(&mut doubts).rev() {
        *slot = doubt;
        if let Piece::Hole { sure, .. } = piece {
            doubt = doubt.min(*sure);
        }
    }
    doubts
}
