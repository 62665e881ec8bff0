//! Where the next request goes.

use super::case::Pattern;

/// Offsets, in blocks of 4 KiB, of one client's requests: a fixed sequence for each seed.
#[derive(Clone, Debug)]
pub struct Places {
    /// Places for a whole request.
    slots: u64,
    request_blocks: u64,
    random: Option<u64>,
    next: u64,
}

impl Places {
    /// Places of requests of `request_blocks` blocks in a volume of `volume_blocks`.
    ///
    /// # Panics
    ///
    /// If not even one request fits.
    #[must_use]
    pub fn new(pattern: Pattern, volume_blocks: u64, request_blocks: u64, seed: u64) -> Places {
        let slots = volume_blocks / request_blocks;
        assert!(slots > 0, "a request of {request_blocks} blocks in {volume_blocks}");
        // An odd multiplier keeps seeds apart, and zero would stay zero.
        let random = pattern.is_random().then(|| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Places { slots, request_blocks, random, next: 0 }
    }

    /// First block of the next request.
    pub fn next_block(&mut self) -> u64 {
        let slot = match &mut self.random {
            None => {
                let slot = self.next;
                self.next = (self.next + 1) % self.slots;
                slot
            }
            Some(state) => {
                // xorshift64*: quick, and even enough for places.
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                let drawn = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
                ((u128::from(drawn) * u128::from(self.slots)) >> 64) as u64
            }
        };
        slot * self.request_blocks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sequential_places_wrap_around() {
        let mut places = Places::new(Pattern::Write, 11, 4, 1);
        let drawn: Vec<u64> = (0..4).map(|_| places.next_block()).collect();
        assert_eq!(drawn, [0, 4, 0, 4]);
    }

    #[test]
    fn random_places_are_aligned_spread_and_repeatable() {
        let draw = |seed| {
            let mut places = Places::new(Pattern::Randwrite, 4096, 4, seed);
            (0..10_000).map(|_| places.next_block()).collect::<Vec<u64>>()
        };
        let drawn = draw(7);
        assert!(drawn.iter().all(|block| block % 4 == 0 && *block < 4096));
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 1024, "each place is reached");
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
    }
}
