//! Where the time of operations goes: a histogram of latencies for each stage.
//!
//! Times of day are arguments. An event that is [noted](Stages::note) gets the next time that the
//! reactor reads, of which there are few in a turn, so that no operation costs a clock reading of
//! its own; events of one stage that began at the same moment are recorded together. Recording
//! allocates nothing; all stages of a reactor take about 400 KiB, however long they run. Nothing is
//! reset: whoever wants an interval subtracts [`StageStatus::buckets`].
//!
//! `docs/ARCHITECTURE.md` defines from when to when each stage counts.

use std::collections::BTreeMap;

use arrayvec::ArrayVec;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies beyond this count as this much.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Decimal digits of a latency that are told apart.
const DIGITS: u8 = 2;

/// Events of different stages or beginnings that wait for the next time.
const NOTED_MAX: usize = 512;

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident = $name:literal,)*) => {
        /// A part of the way of an operation, or a device command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$doc])* $stage,)*
        }

        impl Stage {
            /// All stages, in the order in which operations pass them.
            pub const ALL: &'static [Stage] = &[$(Stage::$stage,)*];

            /// The name in the status.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Stage::$stage => $name,)*
                }
            }
        }
    };
}

stages! {
    /// Leader: from the poll that took a write request to the submission of its payload to the
    /// device and of its entry to the followers.
    WriteSubmit = "write_submit",
    /// Leader: to payload and journal being durable on its own device.
    WriteDurable = "write_durable",
    /// Leader: to the commit by a majority, and the apply.
    WriteCommit = "write_commit",
    /// Leader: to the reply being posted.
    WriteReply = "write_reply",
    /// Follower: from the poll that took an entry of a write to payload and journal being durable.
    AppendDurable = "append_durable",
    /// Follower: to its answer being posted.
    AppendReply = "append_reply",
    /// From the poll that took a read request to the submission of its device reads: waits for
    /// the lease or for a read-index round, and for pages.
    ReadSubmit = "read_submit",
    /// To all blocks being there and verified.
    ReadVerified = "read_verified",
    /// To the reply being posted.
    ReadReply = "read_reply",
    /// One device command that writes payload, from its submission to its completion.
    DeviceWrite = "device_write",
    /// One device command that reads.
    DeviceRead = "device_read",
    /// One flush.
    DeviceFlush = "device_flush",
    /// One journal write, which carries a batch of records.
    JournalWrite = "journal_write",
}

/// Events that began at the same moment and wait for the time.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    since_ns: u64,
    count: u64,
}

const _: () = assert!(Stage::ALL.len() <= u32::BITS as usize);

/// The histograms of one reactor. See the module's documentation.
#[derive(Debug)]
pub struct Stages {
    histograms: Box<[Histogram<u64>]>,
    /// The latest of each stage.
    latest: [Noted; Stage::ALL.len()],
    /// Bit n: `latest[n]` waits. Without any there are no earlier ones either.
    waiting: u32,
    /// Those before them that began at other moments.
    earlier: ArrayVec<(Stage, Noted), NOTED_MAX>,
    /// The last time that was told.
    now_ns: u64,
}

impl Default for Stages {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS);
        let histograms = Stage::ALL.iter().map(|_| histogram().expect("valid bounds"));
        Stages {
            histograms: histograms.collect(),
            latest: Default::default(),
            waiting: 0,
            earlier: ArrayVec::new(),
            now_ns: 0,
        }
    }
}

impl Stages {
    /// `count` operations that began at `since_ns` passed a stage at `now_ns`.
    pub fn record(&mut self, stage: Stage, since_ns: u64, now_ns: u64, count: u64) {
        let latency_ns = now_ns.saturating_sub(since_ns);
        self.histograms[stage as usize].saturating_record_n(latency_ns, count);
    }

    /// An operation that began at `since_ns` has just passed a stage: at the time that the next
    /// [`Self::settle`] tells.
    #[inline]
    pub fn note(&mut self, stage: Stage, since_ns: u64, count: u64) {
        let bit = 1 << stage as u32;
        let latest = &mut self.latest[stage as usize];
        if self.waiting & bit == 0 {
            *latest = Noted { since_ns, count };
            self.waiting |= bit;
        } else if latest.since_ns == since_ns {
            latest.count += count;
        } else {
            let before = std::mem::replace(latest, Noted { since_ns, count });
            if self.earlier.try_push((stage, before)).is_err() {
                self.record(stage, before.since_ns, self.now_ns, before.count);
            }
        }
    }

    /// What was noted so far happened at `now_ns`.
    #[inline]
    pub fn settle(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if self.waiting != 0 {
            self.settle_noted(now_ns);
        }
    }

    fn settle_noted(&mut self, now_ns: u64) {
        for at in 0..self.earlier.len() {
            let (stage, Noted { since_ns, count }) = self.earlier[at];
            self.record(stage, since_ns, now_ns, count);
        }
        self.earlier.clear();
        while self.waiting != 0 {
            let stage = Stage::ALL[self.waiting.trailing_zeros() as usize];
            let Noted { since_ns, count } = self.latest[stage as usize];
            self.record(stage, since_ns, now_ns, count);
            self.waiting &= self.waiting - 1;
        }
    }

    /// What each stage counted, by its name.
    #[must_use]
    pub fn status(&self) -> BTreeMap<&'static str, StageStatus> {
        let of = |stage: Stage| {
            let recorded = self.histograms[stage as usize].iter_recorded();
            let buckets: BTreeMap<u64, u64> =
                recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
            StageStatus { figures: StageFigures::of(&buckets), buckets }
        };
        Stage::ALL.iter().map(|stage| (stage.name(), of(*stage))).collect()
    }
}

/// The figures of one stage. Times are in microseconds, and up to 1% too high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    /// Operations or commands that passed the stage.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// None took longer.
    pub max_us: f64,
}

impl StageFigures {
    /// The figures of what `buckets` count: see [`StageStatus::buckets`].
    #[must_use]
    pub fn of(buckets: &BTreeMap<u64, u64>) -> StageFigures {
        let count: u64 = buckets.values().sum();
        let at = |thousandths: u64| {
            let wanted = (count * thousandths).div_ceil(1000).max(1);
            let mut seen = 0;
            let reached = buckets.iter().find(|(_, here)| {
                seen += **here;
                seen >= wanted
            });
            reached.map_or(0.0, |(latency_ns, _)| *latency_ns as f64 / 1e3)
        };
        let (p50_us, p99_us, p999_us, max_us) = (at(500), at(990), at(999), at(1000));
        StageFigures { count, p50_us, p99_us, p999_us, max_us }
    }
}

/// What one stage has counted since its reactor started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageStatus {
    /// Count and percentiles.
    #[serde(flatten)]
    pub figures: StageFigures,
    /// How many took so many nanoseconds, by the upper end of each range that is told apart;
    /// ranges without any are left out. They only grow: a difference is what an interval counted.
    pub buckets: BTreeMap<u64, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_buckets() {
        let mut stages = Stages::default();
        stages.record(Stage::WriteCommit, 1_000, 101_000, 985);
        stages.record(Stage::WriteCommit, 0, 200_000, 13);
        stages.record(Stage::WriteCommit, 0, 9_000_000, 2);
        let status = stages.status();
        let StageStatus { figures: commit, buckets } = &status["write_commit"];
        assert_eq!(commit.count, 1000);
        let near = |value: f64, expected: f64| value >= expected && value < expected * 1.01;
        assert!(near(commit.p50_us, 100.0), "{commit:?}");
        assert!(near(commit.p99_us, 200.0), "{commit:?}");
        assert!(near(commit.p999_us, 9000.0), "{commit:?}");
        assert!(near(commit.max_us, 9000.0), "{commit:?}");
        assert_eq!(buckets.len(), 3);
        assert_eq!(status["write_reply"], StageStatus::default());
    }

    #[test]
    fn what_is_noted_gets_the_next_time() {
        let mut stages = Stages::default();
        stages.note(Stage::ReadReply, 1_000, 1);
        stages.note(Stage::WriteReply, 1_000, 1);
        stages.note(Stage::ReadReply, 1_000, 2);
        stages.note(Stage::ReadReply, 2_000, 1);
        assert_eq!(stages.earlier.len(), 1, "equal ones are noted once");
        stages.settle(3_000);
        stages.settle(9_000);
        let status = stages.status();
        assert_eq!(status["read_reply"].figures.count, 4);
        assert_eq!(status["write_reply"].figures.count, 1);
        assert_eq!(status["read_reply"].figures.max_us.floor(), 2.0);
    }

    #[test]
    fn more_than_can_be_noted_is_recorded_all_the_same() {
        let mut stages = Stages::default();
        stages.settle(1_000);
        for since_ns in 0..3 * NOTED_MAX as u64 {
            stages.note(Stage::DeviceRead, since_ns, 1);
        }
        stages.settle(2_000);
        assert_eq!(stages.status()["device_read"].figures.count, 3 * NOTED_MAX as u64);
    }

    #[test]
    fn all_stages_fit_half_a_mebibyte() {
        let stages = Stages::default();
        let counts: usize = stages.histograms.iter().map(Histogram::distinct_values).sum();
        assert!(counts * size_of::<u64>() < 512 << 10, "{counts} counts");
    }

    #[test]
    fn a_clock_that_was_told_late_counts_as_nothing() {
        let mut stages = Stages::default();
        stages.record(Stage::DeviceFlush, 5, 4, 1);
        stages.record(Stage::DeviceFlush, 0, u64::MAX, 1);
        assert_eq!(stages.status()["device_flush"].figures.count, 2);
    }
}
