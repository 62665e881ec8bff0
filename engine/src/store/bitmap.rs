//! A set of block numbers as a tree of bitmaps: one bit per block, and above it one bit per word
//! that is not empty, up to a single word.
//!
//! The next member at or behind a block is found in at most one word per level (six for the
//! largest data space), however empty the set is. The upper levels add 1/63 to the first.

/// A set of the numbers below a fixed bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// The first level has one bit per number; bit `i` of each other level says whether word `i`
    /// of the level below has a bit set.
    levels: Vec<Vec<u64>>,
}

/// The bits `from..from + count` of a word.
fn mask(from: u32, count: u32) -> u64 {
    debug_assert!(count > 0);
    debug_assert!(from + count <= 64);
    (!0 >> (64 - count)) << from
}

impl Bitmap {
    /// The set of all numbers below `bound`.
    pub(super) fn full(bound: u32) -> Bitmap {
        let mut levels = Vec::new();
        let mut bits = bound as usize;
        loop {
            let mut words = vec![!0_u64; bits.div_ceil(64).max(1)];
            let used = bits % 64;
            if bits == 0 {
                words[0] = 0;
            } else if used != 0 {
                *words.last_mut().expect("at least one word") = mask(0, used as u32);
            }
            bits = words.len();
            levels.push(words);
            if bits == 1 {
                return Bitmap { levels };
            }
        }
    }

    /// The empty set, for numbers below `bound`.
    pub(super) fn empty(bound: u32) -> Bitmap {
        let mut set = Bitmap::full(bound);
        set.clear();
        set
    }

    /// Removes all members.
    pub(super) fn clear(&mut self) {
        self.levels.iter_mut().for_each(|level| level.fill(0));
    }

    /// Number of members.
    pub(super) fn count(&self) -> u32 {
        self.levels[0].iter().map(|word| word.count_ones()).sum()
    }

    /// Whether `number` is a member.
    pub(super) fn contains(&self, number: u32) -> bool {
        self.levels[0][number as usize / 64] >> (number % 64) & 1 != 0
    }

    /// The first member that is not below `from`.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        let word = from as usize / 64;
        let bits = self.levels[0].get(word)? & (!0 << (from % 64));
        if bits != 0 {
            return Some(word as u32 * 64 + bits.trailing_zeros());
        }
        self.next_above(word + 1)
    }

    /// The first member in or behind a word of the first level.
    fn next_above(&self, word: usize) -> Option<u32> {
        let mut at = word;
        for level in 1..self.levels.len() {
            let word = at / 64;
            let bits = self.levels[level].get(word)? & (!0 << (at % 64));
            if bits != 0 {
                let found = word * 64 + bits.trailing_zeros() as usize;
                return Some(self.descend(level, found));
            }
            at = word + 1;
        }
        None
    }

    /// The first member below bit `at` of `level`, which is set.
    fn descend(&self, level: usize, mut at: usize) -> u32 {
        for lower in self.levels[..level].iter().rev() {
            at = at * 64 + lower[at].trailing_zeros() as usize;
        }
        at as u32
    }

    /// How many members follow each other from `from` on; at most `max` are counted.
    pub(super) fn run(&self, from: u32, max: u32) -> u32 {
        let words = &self.levels[0];
        let mut length = 0;
        while length < max {
            let at = from + length;
            let Some(word) = words.get(at as usize / 64) else { break };
            let rest = 64 - at % 64;
            let ones = (word >> (at % 64)).trailing_ones().min(rest);
            length += ones;
            if ones < rest {
                break;
            }
        }
        length.min(max)
    }

    /// Adds `count` numbers from `from` on. A number that is a member already is an error, after
    /// which the set is not to be used.
    pub(super) fn insert(&mut self, from: u32, count: u32) -> Result<(), u32> {
        self.each_word(from, count, |levels, word, bits| {
            let old = levels[0][word];
            if old & bits != 0 {
                return Err(word as u32 * 64 + (old & bits).trailing_zeros());
            }
            levels[0][word] = old | bits;
            if old == 0 {
                Bitmap::propagate(levels, word, true);
            }
            Ok(())
        })
    }

    /// Removes `count` numbers from `from` on. A number that is no member is an error, after which
    /// the set is not to be used.
    pub(super) fn remove(&mut self, from: u32, count: u32) -> Result<(), u32> {
        self.each_word(from, count, |levels, word, bits| {
            let old = levels[0][word];
            if old & bits != bits {
                return Err(word as u32 * 64 + (!old & bits).trailing_zeros());
            }
            levels[0][word] = old & !bits;
            if old == bits {
                Bitmap::propagate(levels, word, false);
            }
            Ok(())
        })
    }

    fn each_word(
        &mut self,
        from: u32,
        count: u32,
        mut change: impl FnMut(&mut [Vec<u64>], usize, u64) -> Result<(), u32>,
    ) -> Result<(), u32> {
        let end = from + count;
        let mut at = from;
        while at < end {
            let here = (64 - at % 64).min(end - at);
            change(&mut self.levels, at as usize / 64, mask(at % 64, here))?;
            at += here;
        }
        Ok(())
    }

    /// Tells the upper levels that `word` of the first became empty, or no longer is.
    fn propagate(levels: &mut [Vec<u64>], mut word: usize, occupied: bool) {
        for level in &mut levels[1..] {
            let upper = &mut level[word / 64];
            let before = *upper;
            if occupied {
                *upper |= 1 << (word % 64);
            } else {
                *upper &= !(1 << (word % 64));
            }
            if before != 0 && *upper != 0 {
                return;
            }
            word /= 64;
        }
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.capacity() * size_of::<u64>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(
            bound in prop_oneof![1_u32..200, 4000_u32..4200],
            removed in prop::collection::vec((any::<prop::sample::Index>(), 1_u32..900), 0..30),
            asked in prop::collection::vec((any::<prop::sample::Index>(), 1_u32..300), 20),
        ) {
            let mut bitmap = Bitmap::full(bound);
            let mut set: BTreeSet<u32> = (0..bound).collect();
            for (from, count) in removed {
                let from = from.index(bound as usize) as u32;
                for number in from..bound.min(from + count) {
                    prop_assert_eq!(bitmap.contains(number), set.contains(&number));
                    if set.remove(&number) {
                        bitmap.remove(number, 1).expect("a member");
                    }
                }
            }
            for (from, max) in asked {
                let from = from.index(bound as usize) as u32;
                prop_assert_eq!(bitmap.next(from), set.range(from..).next().copied());
                let run = (from..).take_while(|number| set.contains(number)).take(max as usize);
                prop_assert_eq!(bitmap.run(from, max) as usize, run.count());
            }
            let holes: Vec<u32> = (0..bound).filter(|number| !set.contains(number)).collect();
            for number in holes {
                bitmap.insert(number, 1).expect("no member");
            }
            prop_assert_eq!(&bitmap, &Bitmap::full(bound));
            bitmap.clear();
            prop_assert_eq!(bitmap, Bitmap::empty(bound));
        }
    }
}
