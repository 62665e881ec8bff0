//! What `culvert status` says of a scrub.

use serde::Serialize;

use super::Scrub;
use crate::chunkserver::Chunkserver;

/// The scrub of one shard.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ScrubStatus {
    /// Bytes that it may read in a second; 0: it is switched off.
    pub bytes_per_second: u64,
    /// The pass under way, or the last one; counted from 1 and through restarts.
    pub pass: u32,
    /// Whether a pass is under way.
    pub running: bool,
    /// How much of the pass is done.
    pub percent: u32,
    /// When the pass began, in nanoseconds of the node's clock (`CLOCK_BOOTTIME`) and as if the
    /// server had run since.
    pub began_ns: u64,
    /// When the last pass ended; 0 where none did since the start.
    pub ended_ns: u64,
    /// Blocks of the pass read since the start of the server.
    pub blocks_verified: u64,
    /// Blocks of them that did not match, or could not be read.
    pub blocks_suspected: u64,
}

impl Scrub {
    fn status(&self, mapped: u64) -> ScrubStatus {
        let done = (self.before + self.verified).min(mapped);
        let percent = match (self.running, self.pass) {
            (true, _) => done.saturating_mul(100).checked_div(mapped).unwrap_or(100) as u32,
            (false, pass) => u32::from(pass > 0) * 100,
        };
        ScrubStatus {
            bytes_per_second: self.options.bytes_per_second,
            pass: self.pass,
            running: self.running,
            percent,
            began_ns: self.began_ns,
            ended_ns: self.ended_ns,
            blocks_verified: self.verified,
            blocks_suspected: self.suspected,
        }
    }
}

impl Chunkserver {
    /// Whether a pass is under way on some shard.
    #[must_use]
    pub fn is_scrubbing(&self) -> bool {
        self.shards.iter().any(|running| running.scrub.running)
    }

    pub(in crate::chunkserver) fn scrub_status(&self, shard: usize) -> ScrubStatus {
        let running = &self.shards[shard];
        let of_shard = self.copysets.iter().filter(|copyset| copyset.shard == shard);
        let store = running.shard.store();
        let mapped = of_shard.map(|copyset| store.mapped_blocks(copyset.id)).sum();
        running.scrub.status(mapped)
    }
}
