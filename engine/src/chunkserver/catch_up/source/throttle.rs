//! How fast blocks may be sent: a bucket of bytes that fills with time.
//!
//! A frame is sent while the bucket is not in debt, and may bring it into debt by its own size, so
//! that any rate above zero makes progress. Over time no more than the rate is sent, and after a
//! pause no more than a sixteenth of a second's worth at once.

/// Parts of a second that the bucket holds.
const BURSTS_PER_SECOND: u64 = 16;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    /// Bytes that may be sent now; negative: a debt.
    available: i64,
    /// When it was last filled.
    filled_ns: u64,
}

impl Throttle {
    pub fn new(bytes_per_second: u64) -> Throttle {
        let bytes_per_second = bytes_per_second.clamp(1, i64::MAX as u64 / 2);
        Throttle { bytes_per_second, available: 0, filled_ns: 0 }
    }

    fn capacity(&self) -> i64 {
        (self.bytes_per_second / BURSTS_PER_SECOND).max(1) as i64
    }

    /// Fills the bucket. Time that is not worth a byte is left for the next call.
    pub fn fill(&mut self, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.filled_ns);
        let bytes = u128::from(elapsed) * u128::from(self.bytes_per_second) / NS_PER_SECOND;
        if bytes == 0 {
            return;
        }
        self.filled_ns = now_ns;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.available = self.available.saturating_add(bytes).min(self.capacity());
    }

    /// Whether a frame may be sent.
    pub fn is_open(&self) -> bool {
        self.available > 0
    }

    /// Notes that so many bytes were sent.
    pub fn take(&mut self, bytes: u64) {
        self.available -= bytes as i64;
    }

    /// When [`Self::is_open`] will hold.
    pub fn open_at_ns(&self) -> u64 {
        let debt = (1 - self.available).max(0) as u128;
        let wait = (debt * NS_PER_SECOND).div_ceil(u128::from(self.bytes_per_second));
        self.filled_ns.saturating_add(wait as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_at_its_rate_whatever_the_frames() {
        let mut throttle = Throttle::new(1 << 20);
        let (mut now_ns, mut sent) = (5_000_000_000, 0_u64);
        throttle.fill(now_ns);
        let end_ns = now_ns + 2_000_000_000;
        while now_ns < end_ns {
            throttle.fill(now_ns);
            if throttle.is_open() {
                throttle.take(131_072);
                sent += 131_072;
            } else {
                assert!(throttle.open_at_ns() > now_ns);
                now_ns = throttle.open_at_ns();
            }
        }
        assert!((2 << 20..=(2 << 20) + 3 * 131_072).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_saves_up_little() {
        let mut throttle = Throttle::new(1 << 20);
        throttle.fill(1_000_000_000_000);
        assert_eq!(throttle.available, 1 << 16);
        let mut slow = Throttle::new(3);
        slow.fill(1_000_000_000);
        slow.take(9);
        for ms in 1000..5000 {
            slow.fill(ms * 1_000_000);
        }
        assert!(slow.is_open(), "small steps add up");
    }
}
