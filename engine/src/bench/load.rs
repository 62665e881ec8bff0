//! One client's load: so many requests in flight, each followed by the next.

use std::time::Duration;

use culvert_memory::Pages;
use hdrhistogram::Histogram;

use super::case::Row;
use super::places::Places;
use super::result::LatencyUs;
use super::turns::Turns;
use culvert::client::{Client, Clock, Operation, VolumeHandle};
use culvert::ids::BLOCK_SIZE;
use culvert::network::Network;

/// Latencies up to this are told apart.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Why no load could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The client's pool is too small for a payload of every request.
    #[error("the client's pool has no pages for {depth} requests of {block_size} bytes")]
    NoPages {
        /// Requests in flight.
        depth: u32,
        /// Bytes of each.
        block_size: u64,
    },
    /// The volume is smaller than a request, or the client refuses it for good.
    #[error("the client refuses the requests: {0}")]
    Refused(culvert::client::Refusal),
}

/// What a load has measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed after the client's retries.
    pub errors: u64,
    /// From the first submission to the last completion.
    pub elapsed: Duration,
    latencies: Histogram<u64>,
}

impl Measured {
    /// Operations in a second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Percentiles of the latency.
    #[must_use]
    pub fn latency_us(&self) -> LatencyUs {
        let at = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        LatencyUs { p50: at(0.50), p99: at(0.99), p999: at(0.999) }
    }
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// After so much time.
    At {
        /// How much.
        duration: Duration,
    },
    /// After so many operations.
    After {
        /// How many.
        operations: u64,
    },
}

/// A load on one volume.
pub struct Load {
    row: Row,
    volume: VolumeHandle,
    places: Places,
    /// Payload of each slot's writes; the same again and again.
    payloads: Vec<Pages>,
    /// When each slot's request was submitted; `None` while it has none.
    submitted_ns: Vec<Option<u64>>,
    /// Slots whose request is over, and whether it failed; emptied after each turn.
    over: Vec<(usize, bool)>,
}

impl Load {
    /// A load of `row` on `volume`. Writes carry pages of `client`'s pool.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoPages`] where the pool is too small.
    pub fn new<N: Network>(
        client: &Client<N>,
        volume: VolumeHandle,
        row: Row,
        seed: u64,
    ) -> Result<Load, LoadError> {
        let blocks = row.block_size.bytes() / BLOCK_SIZE as u64;
        let payload = |slot: u32| {
            let mut buffer = client.pool().acquire(blocks as u32)?;
            for (index, bytes) in buffer.as_mut_slice().chunks_exact_mut(8).enumerate() {
                let value = (u64::from(slot) << 32 | index as u64).wrapping_mul(seed | 1);
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            Some(buffer.freeze())
        };
        let payloads: Option<Vec<Pages>> = if row.pattern.is_write() {
            (0..row.depth).map(payload).collect()
        } else {
            Some(vec![])
        };
        let no_pages = LoadError::NoPages { depth: row.depth, block_size: row.block_size.bytes() };
        Ok(Load {
            row,
            volume,
            places: Places::new(row.pattern, volume.blocks(), blocks, seed),
            payloads: payloads.ok_or(no_pages)?,
            submitted_ns: vec![None; row.depth as usize],
            over: Vec::with_capacity(row.depth as usize),
        })
    }

    /// Runs until `end`, then lets what is in flight come to its own.
    ///
    /// # Errors
    ///
    /// [`LoadError::Refused`] where the client takes no request of this kind.
    pub fn run<N: Network>(
        &mut self,
        client: &mut Client<N>,
        clock: &Clock,
        end: End,
        turns: &mut dyn Turns<N>,
    ) -> Result<Measured, LoadError> {
        self.run_observed(client, clock, end, turns, &mut |_, _| {})
    }

    /// As [`Load::run`]; `observe` is told when each operation that succeeded was submitted and
    /// when it was over, in the clock's nanoseconds.
    ///
    /// # Errors
    ///
    /// As [`Load::run`].
    pub fn run_observed<N: Network>(
        &mut self,
        client: &mut Client<N>,
        clock: &Clock,
        end: End,
        turns: &mut dyn Turns<N>,
        observe: &mut dyn FnMut(u64, u64),
    ) -> Result<Measured, LoadError> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("valid bounds");
        let mut measured =
            Measured { operations: 0, errors: 0, elapsed: Duration::ZERO, latencies };
        let started_ns = clock.now_ns();
        let (end_ns, mut left) = match end {
            End::At { duration } => (started_ns + duration.as_nanos() as u64, u64::MAX),
            End::After { operations } => (u64::MAX, operations),
        };
        let mut now_ns = started_ns;
        for slot in 0..self.submitted_ns.len().min(left as usize) {
            self.submit(client, slot, now_ns)?;
            left -= 1;
        }
        while client.in_flight() > 0 {
            let over = &mut self.over;
            turns.turn(client, clock, &mut |completion| {
                over.push((completion.token as usize, completion.result.is_err()));
            });
            now_ns = clock.now_ns();
            for index in 0..self.over.len() {
                let (slot, failed) = self.over[index];
                let submitted_ns = self.submitted_ns[slot].take().expect("it was in flight");
                if failed {
                    measured.errors += 1;
                } else {
                    measured.operations += 1;
                    measured.latencies.saturating_record(now_ns - submitted_ns);
                    observe(submitted_ns, now_ns);
                }
                if now_ns < end_ns && left > 0 {
                    self.submit(client, slot, now_ns)?;
                    left -= 1;
                }
            }
            self.over.clear();
        }
        measured.elapsed = Duration::from_nanos(now_ns - started_ns);
        Ok(measured)
    }

    fn submit<N: Network>(
        &mut self,
        client: &mut Client<N>,
        slot: usize,
        now_ns: u64,
    ) -> Result<(), LoadError> {
        let offset_blocks = self.places.next_block();
        let volume = self.volume;
        let operation = if self.row.pattern.is_write() {
            Operation::Write { volume, offset_blocks, pages: self.payloads[slot].clone() }
        } else {
            let blocks = (self.row.block_size.bytes() / BLOCK_SIZE as u64) as u32;
            Operation::Read { volume, offset_blocks, blocks }
        };
        client
            .submit(operation, slot as u64)
            .map_err(|refused| LoadError::Refused(refused.reason))?;
        self.submitted_ns[slot] = Some(now_ns);
        Ok(())
    }
}
