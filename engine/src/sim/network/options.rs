//! Sizes and times of the modelled network.

use std::ops::Range;

/// How the network behaves when nobody disturbs it, and how long it takes to notice that somebody
/// did. Ranges are drawn from anew each time.
#[derive(Clone, Debug)]
pub struct FabricOptions {
    /// From the post of a frame to its arrival; the same for credits and other notices.
    pub latency_ns: Range<u64>,
    /// From a call to connect until the other side hears of it.
    pub connect_ns: Range<u64>,
    /// How long an end needs to notice that its peer died or that the connection broke.
    pub break_detection_ns: Range<u64>,
    /// How long a partition lasts until the connections across it break.
    pub partition_break_ns: Range<u64>,
    /// How long a handshake may take.
    pub handshake_timeout_ns: u64,
    /// Pages of a landing window at first.
    pub window_pages_initial: u32,
    /// Pages to which a landing window may grow.
    pub window_pages_max: u32,
    /// Pages by which it grows.
    pub segment_pages: u32,
    /// Bytes of data frames sent on a connection and not yet taken by the receiver's poll,
    /// envelopes included.
    pub data_queue_bytes: usize,
    /// The same for control frames.
    pub control_queue_bytes: usize,
    /// Bytes of one frame.
    pub frame_bytes_max: usize,
    /// Payload pages not yet read by the wire, per connection; past it the connection is reset.
    pub unsent_pages_max: u32,
    /// Connections of one process.
    pub connections_max: u32,
}

impl FabricOptions {
    /// Checks what the model relies on.
    ///
    /// # Panics
    ///
    /// When a range is empty or a size makes no sense: a bug of the test that chose it.
    pub(super) fn check(&self) {
        let ranges = [
            &self.latency_ns,
            &self.connect_ns,
            &self.break_detection_ns,
            &self.partition_break_ns,
        ];
        assert!(ranges.iter().all(|range| !range.is_empty()), "a range of times is empty");
        assert!(self.window_pages_initial > 0, "a window has pages");
        assert!(self.window_pages_initial <= self.window_pages_max, "a window only grows");
        assert!(self.segment_pages > 0, "a window grows by pages");
        assert!(self.data_queue_bytes >= QUEUE_BYTES_MIN, "a queue holds a few frames");
        assert!(self.control_queue_bytes >= QUEUE_BYTES_MIN, "a queue holds a few frames");
    }
}

/// The smallest queue: twice an envelope with all its payloads, and frames.
const QUEUE_BYTES_MIN: usize = 4 << 10;

impl Default for FabricOptions {
    /// A local network, and windows that begin small.
    fn default() -> FabricOptions {
        FabricOptions {
            latency_ns: 5_000..200_000,
            connect_ns: 50_000..2_000_000,
            break_detection_ns: 100_000..50_000_000,
            partition_break_ns: 2_000_000_000..10_000_000_000,
            handshake_timeout_ns: 5_000_000_000,
            window_pages_initial: 8,
            window_pages_max: 1024,
            segment_pages: 512,
            data_queue_bytes: 64 << 10,
            control_queue_bytes: 8 << 10,
            frame_bytes_max: 8 << 10,
            unsent_pages_max: 2048,
            connections_max: 1024,
        }
    }
}

/// What was done to the network, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FabricInjected {
    /// Processes that died.
    pub kills: u64,
    /// One-way partitions begun.
    pub partitions: u64,
    /// Partitions healed.
    pub heals: u64,
    /// Ways made slower.
    pub slowdowns: u64,
    /// Pairs of hosts whose connections were cut.
    pub cuts: u64,
    /// Connections that broke: by a cut, or because a partition lasted.
    pub connections_broken: u64,
    /// Handshakes that came to nothing.
    pub handshakes_failed: u64,
    /// Frames under way that never arrived.
    pub frames_lost: u64,
    /// Things under way that a partition held up.
    pub held: u64,
    /// Sectors of payload that landed when their sender had closed or was dead.
    pub late_sectors: u64,
}
