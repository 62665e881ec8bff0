//! What the machine did meanwhile: time stolen, time used, and how fast it copies memory.
//!
//! Figures of a shared machine mean little without these beside them.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

/// Jiffies of all cores together since the machine started, from `/proc/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTimes {
    total: u64,
    stolen: u64,
}

impl CoreTimes {
    /// Now. All zeroes where the kernel does not say.
    #[must_use]
    pub fn now() -> CoreTimes {
        CoreTimes::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line is `cpu user nice system idle iowait irq softirq steal guest guest_nice`;
    /// guest times are part of user times.
    fn parse(text: &str) -> CoreTimes {
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let times: Vec<u64> =
            line.unwrap_or_default().split_whitespace().map_while(|t| t.parse().ok()).collect();
        CoreTimes { total: times.iter().take(8).sum(), stolen: times.get(7).copied().unwrap_or(0) }
    }

    /// The share of time that the hypervisor gave to somebody else since `before`, in percent.
    #[must_use]
    pub fn steal_percent_since(self, before: CoreTimes) -> f64 {
        let total = self.total.saturating_sub(before.total);
        let stolen = self.stolen.saturating_sub(before.stolen);
        if total == 0 { 0.0 } else { stolen as f64 * 100.0 / total as f64 }
    }
}

/// Processor time of a process, all its threads together, in nanoseconds. Threads that have ended
/// do not count. Zero once it is gone.
#[must_use]
pub fn process_time_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Bytes per copy when the bandwidth is measured: larger than the caches that one core has for
/// itself.
const COPY_BYTES: usize = 64 << 20;

/// How fast one core copies memory that is not in its caches, in 10^9 bytes a second.
#[must_use]
pub fn memcpy_gb_s() -> f64 {
    let source = vec![1u8; COPY_BYTES];
    let mut target = vec![2u8; COPY_BYTES];
    let mut best = 0.0f64;
    for _ in 0..4 {
        let start = Instant::now();
        target.copy_from_slice(black_box(&source));
        black_box(&mut target);
        best = best.max(COPY_BYTES as f64 / 1e9 / start.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_column() {
        let before = CoreTimes::parse("cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1 2 3\n");
        let after = CoreTimes::parse("cpu  150 0 150 880 0 0 0 120 99 0\n");
        assert_eq!(before.total, 1000);
        let percent = after.steal_percent_since(before);
        assert!((percent - 20.0 / 3.0).abs() < 1e-9, "{percent}");
        assert_eq!(before.steal_percent_since(after), 0.0);
        assert_eq!(CoreTimes::parse("").steal_percent_since(before), 0.0);
    }

    #[test]
    fn this_process_has_used_time() {
        let before = process_time_ns(std::process::id());
        let start = Instant::now();
        while start.elapsed().as_millis() < 30 {
            black_box(start);
        }
        assert!(process_time_ns(std::process::id()) > before);
        assert_eq!(process_time_ns(u32::MAX), 0);
    }
}
