//! Quota: how many logical blocks a copyset may map, and what the leader has promised of them; and
//! of sessions, which are bounded too.
//!
//! A follower cannot refuse an entry, so the leader decides before it proposes, from what is
//! mapped and from what is in flight. Every proposed write is charged the blocks that were not
//! mapped when it was admitted. A discard or delete gives nothing back before it is applied, and
//! then not to everybody at once: a write that was admitted before it, as an overwrite of what it
//! unmapped and hence for nothing, maps those blocks anew. What it unmapped is therefore *held*
//! until all that was in flight when it was applied has been applied too.
//!
//! Worked example: quota 10, all mapped. A discard of block 3 and a write to block 3 are proposed;
//! the write is charged nothing. The discard is applied: 9 mapped, 1 held. A write to an unmapped
//! block is refused: 9 + 1 + 1 > 10. The write to block 3 is applied: 10 mapped, none held.

use std::collections::VecDeque;

use crate::ids::LogIndex;

/// Room for charges at the start; more than a leader has in flight.
const CHARGES: usize = 256;

/// The leader's proposals in flight.
#[derive(Clone, Debug)]
pub(super) struct Proposals {
    /// Charges above zero, in order of index.
    charges: VecDeque<(LogIndex, u32)>,
    charged: u64,
    /// What was unmapped, and the index whose application gives it back, in order of index.
    held: VecDeque<(LogIndex, u64)>,
    held_blocks: u64,
    /// Sessions that are being opened, in order of index.
    openings: VecDeque<LogIndex>,
    /// The highest index proposed.
    last: LogIndex,
}

impl Proposals {
    pub(super) fn new() -> Proposals {
        Proposals {
            charges: VecDeque::with_capacity(CHARGES),
            charged: 0,
            held: VecDeque::with_capacity(CHARGES),
            held_blocks: 0,
            openings: VecDeque::new(),
            last: LogIndex(0),
        }
    }

    pub(super) fn reset(&mut self) {
        self.charges.clear();
        self.held.clear();
        self.openings.clear();
        (self.charged, self.held_blocks, self.last) = (0, 0, LogIndex(0));
    }

    pub(super) fn proposed(&mut self, index: LogIndex, charge: u32) {
        assert!(index > self.last, "proposals ascend");
        self.last = index;
        if charge > 0 {
            self.charges.push_back((index, charge));
            self.charged += u64::from(charge);
        }
    }

    /// The proposal at `index`, the last one, opens a session.
    pub(super) fn opening(&mut self, index: LogIndex) {
        assert_eq!(index, self.last, "it was proposed");
        self.openings.push_back(index);
    }

    /// Sessions that are being opened.
    pub(super) fn openings(&self) -> usize {
        self.openings.len()
    }

    /// The entry at `index` was applied and unmapped `unmapped` blocks.
    pub(super) fn applied(&mut self, index: LogIndex, unmapped: u64) {
        while let Some(&(of, charge)) = self.charges.front()
            && of <= index
        {
            self.charges.pop_front();
            self.charged -= u64::from(charge);
        }
        while let Some(&(until, blocks)) = self.held.front()
            && until <= index
        {
            self.held.pop_front();
            self.held_blocks -= blocks;
        }
        while self.openings.front().is_some_and(|of| *of <= index) {
            self.openings.pop_front();
        }
        if unmapped > 0 && self.last > index {
            self.hold(unmapped);
        }
    }

    fn hold(&mut self, blocks: u64) {
        self.held_blocks += blocks;
        match self.held.back_mut() {
            Some((until, held)) if *until == self.last => *held += blocks,
            _ => self.held.push_back((self.last, blocks)),
        }
    }

    /// Blocks that must be counted beside the mapped ones.
    pub(super) fn promised(&self) -> u64 {
        self.charged + self.held_blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_settled_in_order_and_what_was_unmapped_is_held() {
        let mut proposals = Proposals::new();
        proposals.proposed(LogIndex(5), 4);
        proposals.proposed(LogIndex(6), 0);
        proposals.proposed(LogIndex(7), 2);
        assert_eq!(proposals.promised(), 6);
        proposals.applied(LogIndex(5), 0);
        assert_eq!(proposals.promised(), 2);
        proposals.applied(LogIndex(6), 9);
        assert_eq!(proposals.promised(), 11);
        proposals.proposed(LogIndex(8), 1);
        proposals.applied(LogIndex(7), 0);
        assert_eq!(proposals.promised(), 1);
        proposals.applied(LogIndex(8), 3);
        assert_eq!(proposals.promised(), 0);
        proposals.proposed(LogIndex(9), 1);
        proposals.reset();
        assert_eq!(proposals.promised(), 0);
        proposals.proposed(LogIndex(9), 1);
    }
}
