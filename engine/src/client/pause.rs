//! How long to wait before the next attempt.

use super::options::ClientOptions;

/// Pauses that double up to a limit, each less a random part so that clients spread.
#[derive(Debug)]
pub(super) struct Pauses {
    initial_ns: u64,
    max_ns: u64,
    random: u64,
}

impl Pauses {
    pub(super) fn new(options: &ClientOptions) -> Pauses {
        Pauses {
            initial_ns: options.backoff_initial.as_nanos() as u64,
            max_ns: options.backoff_max.as_nanos() as u64,
            random: options.seed ^ 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The pause after `before` earlier ones: three quarters of it are certain.
    pub(super) fn length_ns(&mut self, before: u32) -> u64 {
        let doubled = self.initial_ns.saturating_mul(1 << before.min(32));
        let whole = doubled.min(self.max_ns);
        whole - self.next_random() % (whole / 4 + 1)
    }

    /// SplitMix64: good enough to spread clients, and the same in every run with one seed.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut pauses = Pauses::new(&ClientOptions::default());
        for (before, whole_ms) in [(0, 1), (1, 2), (5, 32), (8, 200), (4_000_000_000, 200)] {
            let whole = whole_ms * 1_000_000;
            for _ in 0..100 {
                let pause = pauses.length_ns(before);
                assert!((whole * 3 / 4..=whole).contains(&pause), "{pause} after {before}");
            }
        }
    }
}
