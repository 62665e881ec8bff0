//! What both sides of a connection can take.

use crate::config::CREDIT_RUNS_MAX;
use crate::envelope::{ENVELOPE_BYTES_MAX, PLACEMENT_BYTES};
use crate::handshake::message::Introduction;
use crate::{Class, TransportOptions};

/// The longest body of a record between the two transports.
const INTERNAL_BYTES_MAX: usize = CREDIT_RUNS_MAX * PLACEMENT_BYTES;

/// Lengths that follow from both sides' options; both compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    data_bytes_max: usize,
    control_bytes_max: usize,
    /// The longest record, envelope included.
    pub(crate) record_bytes_max: usize,
    /// The largest window, of either side.
    pub(crate) window_pages_max: u32,
}

impl Limits {
    /// The smaller of both wherever they differ. A frame takes at most half of its queue.
    pub(crate) fn new(options: &TransportOptions, peer: &Introduction) -> Self {
        let frame_bytes_max = options.frame_bytes_max.min(peer.frame_bytes_max as usize);
        let class_max = |mine: usize, theirs: u32| {
            frame_bytes_max.min(mine.min(theirs as usize) / 2 - ENVELOPE_BYTES_MAX)
        };
        Self {
            data_bytes_max: class_max(options.data_queue_bytes, peer.data_queue_bytes),
            control_bytes_max: class_max(options.control_queue_bytes, peer.control_queue_bytes),
            record_bytes_max: ENVELOPE_BYTES_MAX + frame_bytes_max.max(INTERNAL_BYTES_MAX),
            window_pages_max: options.window_pages_max.min(peer.window_pages_max),
        }
    }

    /// The longest frame of a class.
    pub(crate) fn frame_bytes_max(&self, class: Class) -> usize {
        match class {
            Class::Data => self.data_bytes_max,
            Class::Control => self.control_bytes_max,
        }
    }
}
