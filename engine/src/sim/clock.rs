//! A node's own clock: true time, run a little fast or slow, and set forward now and then.

use culvert::reactor::Clock;

/// See the module's documentation. It never goes back.
#[derive(Clone, Copy, Debug)]
pub struct LocalClock {
    /// What it shows at true time zero.
    base_ns: u64,
    /// How much faster than true time it runs, in parts per million; slower where negative.
    drift_ppm: i64,
    /// True time.
    true_ns: u64,
}

const MILLION: i128 = 1_000_000;

impl LocalClock {
    /// A clock that shows `base_ns` at true time zero.
    pub fn new(base_ns: u64, drift_ppm: i64) -> LocalClock {
        assert!(drift_ppm.abs() < 100_000, "a clock, not a stopwatch");
        LocalClock { base_ns, drift_ppm, true_ns: 0 }
    }

    /// It is this late in truth.
    pub fn set_true(&mut self, true_ns: u64) {
        debug_assert!(true_ns >= self.true_ns, "time goes forward");
        self.true_ns = true_ns;
    }

    /// It is set forward, as after a suspend.
    pub fn jump(&mut self, by_ns: u64) {
        self.base_ns += by_ns;
    }

    fn shows_at(&self, true_ns: u64) -> u64 {
        let rate = MILLION + i128::from(self.drift_ppm);
        self.base_ns + (i128::from(true_ns) * rate / MILLION) as u64
    }

    /// The true time at which it will show `local_ns`; now, where it does already.
    pub fn true_time_of(&self, local_ns: u64) -> u64 {
        let Some(ahead) = local_ns.checked_sub(self.shows_at(self.true_ns)) else {
            return self.true_ns;
        };
        let rate = MILLION + i128::from(self.drift_ppm);
        let wait = i128::from(ahead) * MILLION / rate + 1;
        u64::try_from(wait).map_or(u64::MAX, |wait| self.true_ns.saturating_add(wait))
    }
}

impl Clock for LocalClock {
    fn now_ns(&mut self) -> u64 {
        self.shows_at(self.true_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_met_and_not_long_passed() {
        for drift_ppm in [-5000, 0, 1, 5000] {
            let mut clock = LocalClock::new(77, drift_ppm);
            clock.set_true(1_000_000_007);
            let deadline = clock.now_ns() + 25_000_001;
            let at = clock.true_time_of(deadline);
            assert!(clock.shows_at(at) >= deadline);
            assert!(clock.shows_at(at - 3) < deadline);
            assert_eq!(clock.true_time_of(3), 1_000_000_007, "it is past already");
            clock.jump(1 << 40);
            assert_eq!(clock.true_time_of(deadline), 1_000_000_007);
        }
        assert_eq!(LocalClock::new(0, 0).true_time_of(u64::MAX), u64::MAX);
    }
}
