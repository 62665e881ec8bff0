//! Request numbers of one session.
//!
//! Each change of a session has a number; its retries keep it. Servers remember the outcomes of a
//! window of numbers, so the client keeps the distance between its oldest number without an
//! outcome and its newest below the window's width.

use super::config::NUMBERS_OUTSTANDING_MAX;
use crate::ids::RequestNumber;

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = (NUMBERS_OUTSTANDING_MAX / WORD_BITS) as usize;
const _: () = assert!(NUMBERS_OUTSTANDING_MAX.is_multiple_of(WORD_BITS));

/// The numbers given out and not yet settled.
#[derive(Debug)]
pub(super) struct Numbers {
    /// The oldest number without an outcome, or `next`.
    oldest: u64,
    next: u64,
    /// Settled numbers from `oldest` on: a ring of bits.
    settled: [u64; WORDS],
}

impl Numbers {
    /// The numbers of a new session.
    pub(super) fn new() -> Numbers {
        Numbers { oldest: 1, next: 1, settled: [0; WORDS] }
    }

    /// The next number; `None` while the oldest lags too far behind.
    pub(super) fn take(&mut self) -> Option<RequestNumber> {
        if self.is_exhausted() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(RequestNumber(number))
    }

    /// Whether there is no number to take just now.
    pub(super) fn is_exhausted(&self) -> bool {
        self.next - self.oldest >= NUMBERS_OUTSTANDING_MAX
    }

    /// Notes that a number has an outcome, or that nobody asks for it any more.
    ///
    /// # Panics
    ///
    /// If the number is not outstanding.
    pub(super) fn settle(&mut self, number: RequestNumber) {
        assert!((self.oldest..self.next).contains(&number.0), "number {number} is outstanding");
        let (word, bit) = place(number.0);
        assert_eq!(self.settled[word] & bit, 0, "number {number} is settled once");
        self.settled[word] |= bit;
        while self.oldest < self.next {
            let (word, bit) = place(self.oldest);
            if self.settled[word] & bit == 0 {
                break;
            }
            self.settled[word] &= !bit;
            self.oldest += 1;
        }
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % NUMBERS_OUTSTANDING_MAX;
    ((at / WORD_BITS) as usize, 1 << (at % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_holds_the_others_back() {
        let mut numbers = Numbers::new();
        let taken: Vec<_> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(taken.len() as u64, NUMBERS_OUTSTANDING_MAX);
        assert_eq!(taken[0], RequestNumber(1));
        taken[1..].iter().for_each(|number| numbers.settle(*number));
        assert!(numbers.is_exhausted());
        numbers.settle(taken[0]);
        assert_eq!(numbers.take(), Some(RequestNumber(NUMBERS_OUTSTANDING_MAX + 1)));
    }

    proptest! {
        #[test]
        fn the_span_is_bounded(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..4000)) {
            let mut numbers = Numbers::new();
            let mut outstanding = BTreeSet::new();
            let mut highest = 0;
            for (take, pick) in steps {
                if take || outstanding.is_empty() {
                    if let Some(number) = numbers.take() {
                        prop_assert_eq!(number.0, highest + 1);
                        highest += 1;
                        outstanding.insert(number.0);
                    }
                } else {
                    let number = *outstanding.iter().nth(pick.index(outstanding.len())).expect("in range");
                    outstanding.remove(&number);
                    numbers.settle(RequestNumber(number));
                }
                let span = outstanding.first().map_or(0, |oldest| highest + 1 - oldest);
                prop_assert!(span <= NUMBERS_OUTSTANDING_MAX);
                prop_assert_eq!(numbers.is_exhausted(), span == NUMBERS_OUTSTANDING_MAX);
            }
        }
    }
}
