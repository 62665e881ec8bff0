//! Bytes that are appended at one end and dropped at both: the records of a raft log.
//!
//! Positions run freely and never repeat within an arena's life, so an entry is found by the
//! position it was pushed at. A piece lies in one segment and can be borrowed as one slice.
//! Segments are recycled: in steady state nothing is allocated.

use std::collections::VecDeque;

/// Bytes of a segment; no piece may be longer.
pub const SEGMENT_BYTES: usize = 16 << 10;

/// Spare segments that are kept for reuse, however few are in use.
const SPARE_MIN: usize = 2;

/// See the module's documentation.
#[derive(Default)]
pub struct Arena {
    segments: VecDeque<Box<[u8]>>,
    spare: Vec<Box<[u8]>>,
    /// Number of the segment at the front.
    first_segment: u64,
    /// Position behind the newest piece.
    end: u64,
}

impl Arena {
    /// Appends the concatenation of `pieces` and returns its position.
    ///
    /// # Panics
    ///
    /// If it is longer than [`SEGMENT_BYTES`].
    pub fn push(&mut self, pieces: &[&[u8]]) -> u64 {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert!(length <= SEGMENT_BYTES);
        let room = SEGMENT_BYTES - (self.end % SEGMENT_BYTES as u64) as usize;
        if length > room {
            self.end += room as u64;
        }
        let position = self.end;
        let segment = (position / SEGMENT_BYTES as u64 - self.first_segment) as usize;
        while self.segments.len() <= segment {
            let fresh = self.spare.pop();
            self.segments.push_back(fresh.unwrap_or_else(|| vec![0; SEGMENT_BYTES].into()));
        }
        let mut at = (position % SEGMENT_BYTES as u64) as usize;
        for piece in pieces {
            self.segments[segment][at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        self.end += length as u64;
        position
    }

    /// The `length` bytes at `position`.
    ///
    /// # Panics
    ///
    /// If they were dropped or never pushed.
    #[must_use]
    pub fn get(&self, position: u64, length: usize) -> &[u8] {
        assert!(position + length as u64 <= self.end);
        let segment = (position / SEGMENT_BYTES as u64 - self.first_segment) as usize;
        let at = (position % SEGMENT_BYTES as u64) as usize;
        &self.segments[segment][at..at + length]
    }

    /// Drops everything in front of `position`, which is that of a piece or the end.
    pub fn drop_front(&mut self, position: u64) {
        let keep = position / SEGMENT_BYTES as u64;
        while self.first_segment < keep {
            if let Some(segment) = self.segments.pop_front() {
                self.recycle(segment);
            }
            self.first_segment += 1;
        }
    }

    /// Drops the piece at `position` and everything behind it.
    pub fn drop_back(&mut self, position: u64) {
        assert!(position <= self.end);
        self.end = position;
        let keep = (position / SEGMENT_BYTES as u64 - self.first_segment) as usize + 1;
        while self.segments.len() > keep {
            if let Some(segment) = self.segments.pop_back() {
                self.recycle(segment);
            }
        }
    }

    /// Position behind the newest piece.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    fn recycle(&mut self, segment: Box<[u8]>) {
        // A log lets go of its oldest quarter at once and fills it up again.
        if self.spare.len() < SPARE_MIN + self.segments.len() / 2 {
            self.spare.push(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain queue of byte strings, under pushes and drops at both ends.
        #[test]
        fn behaves_like_a_queue(steps in prop::collection::vec((0u8..8, 1usize..3000), 1..300)) {
            let mut arena = Arena::default();
            let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
            for (number, (action, size)) in steps.into_iter().enumerate() {
                match action {
                    0 => {
                        model.pop_front();
                        let front = model.front().map_or(arena.end(), |(position, _)| *position);
                        arena.drop_front(front);
                    }
                    1 => {
                        if let Some((position, _)) = model.pop_back() {
                            arena.drop_back(position);
                        }
                    }
                    _ => {
                        let bytes = vec![number as u8; size];
                        let (head, tail) = bytes.split_at(size / 2);
                        model.push_back((arena.push(&[head, tail]), bytes));
                    }
                }
                for (position, bytes) in &model {
                    prop_assert_eq!(arena.get(*position, bytes.len()), &bytes[..]);
                }
            }
        }
    }
}
