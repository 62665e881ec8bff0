//! The clock of production: monotonic, and counting the time that the machine was suspended,
//! because a lease must not outlive a suspend.

use rustix::time::{ClockId, clock_gettime};

use crate::reactor::Clock;

/// `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&mut self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}
