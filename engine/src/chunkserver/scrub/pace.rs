//! When the scrub reads: in strokes, as many in a second as keep to its rate.
//!
//! A stroke reads what a sixteenth of a second allows, at once, and then nothing is done until it is
//! paid for; so a server that is idle otherwise is woken sixteen times a second, and only while a
//! pass is under way. What a slow device holds up is not made up for.

use crate::ids::BLOCK_SIZE;

/// Strokes of a second.
const STROKES_PER_SECOND: u64 = 16;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// Blocks that the stroke under way may still read.
    left: u32,
    /// Blocks that it has read.
    read: u32,
    /// When the next stroke begins, or this one goes on.
    next_ns: u64,
}

impl Pace {
    /// `bytes_per_second` above zero.
    pub fn new(bytes_per_second: u64, now_ns: u64) -> Pace {
        Pace { bytes_per_second, left: 0, read: 0, next_ns: now_ns }
    }

    /// Blocks that may be read now; a new stroke begins where one is due.
    pub fn left(&mut self, now_ns: u64) -> u32 {
        if self.left == 0 && now_ns >= self.next_ns {
            let blocks = self.bytes_per_second / STROKES_PER_SECOND / BLOCK_SIZE as u64;
            self.left = blocks.clamp(1, u32::MAX.into()) as u32;
            self.read = 0;
        }
        self.left
    }

    /// Notes that blocks are being read.
    pub fn take(&mut self, blocks: u32, now_ns: u64) {
        self.read += blocks;
        self.left = self.left.saturating_sub(blocks);
        if self.left == 0 {
            self.end(now_ns);
        }
    }

    /// The stroke is over, however much it has read.
    pub fn end(&mut self, now_ns: u64) {
        let bytes = u128::from(self.read) * BLOCK_SIZE as u128;
        let cost_ns = bytes * NS_PER_SECOND / u128::from(self.bytes_per_second.max(1));
        self.next_ns = self.next_ns.max(now_ns) + cost_ns as u64;
        (self.left, self.read) = (0, 0);
    }

    /// Goes on at a later time.
    pub fn pause(&mut self, until_ns: u64) {
        self.next_ns = self.next_ns.max(until_ns);
    }

    /// When there is something to do by the clock.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_keep_to_the_rate() {
        for rate in [1, 4096, 1 << 20, 16 << 20, 1 << 33] {
            let start_ns = 7_000_000_000;
            let mut pace = Pace::new(rate, start_ns);
            let (mut now_ns, mut bytes, mut wakes) = (start_ns, 0_u64, 0_u64);
            while now_ns < start_ns + 4_000_000_000 {
                while pace.left(now_ns) > 0 {
                    let blocks = pace.left(now_ns).min(32);
                    pace.take(blocks, now_ns);
                    bytes += u64::from(blocks) * BLOCK_SIZE as u64;
                }
                wakes += 1;
                assert!(pace.next_ns() > now_ns);
                now_ns = pace.next_ns();
            }
            let most = 4 * rate + (rate / 16).max(BLOCK_SIZE as u64);
            assert!(bytes <= most, "{rate}: {bytes} of {most}");
            assert!(bytes >= 4 * rate - rate / 8, "{rate}: {bytes}");
            assert!(wakes <= 4 * 17, "{rate}: {wakes} wakes");
        }
    }

    #[test]
    fn what_was_held_up_is_not_made_up_for() {
        let mut pace = Pace::new(16 << 20, 0);
        let stroke = pace.left(0);
        pace.take(stroke - 1, 0);
        pace.pause(900_000_000);
        assert_eq!(pace.left(0), 1, "the stroke goes on when it is allowed to");
        pace.take(1, 1_000_000_000);
        assert_eq!(pace.left(1_000_000_000), 0);
        assert_eq!(pace.next_ns(), 1_062_500_000);
    }
}
