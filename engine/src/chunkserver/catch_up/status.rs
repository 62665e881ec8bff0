//! What `status` shows of catch-ups.

use serde::Serialize;

use super::source::{Phase, Source};
use crate::chunkserver::Chunkserver;

/// A catch-up as its leader sees it.
#[derive(Clone, Debug, Serialize)]
pub struct CatchUpStatus {
    /// Raft id of the receiver.
    pub receiver: u64,
    /// What it is at: `comparing`, `sending`, `finishing` or `following`.
    pub phase: &'static str,
    /// The round, counted from 1.
    pub round: u32,
    /// Chunks of this round that were dealt with.
    pub chunks_done: u64,
    /// Chunks of this round in which the receiver differs, as far as that is known.
    pub chunks_known: u64,
    /// Blocks sent in all rounds, holes included.
    pub blocks_sent: u64,
    /// Bytes of blocks sent in all rounds.
    pub bytes_sent: u64,
    /// ... in a second, on average.
    pub bytes_per_second: u64,
}

impl CatchUpStatus {
    fn of(source: &Source, now_ns: u64) -> CatchUpStatus {
        let elapsed_ns = u128::from(now_ns.saturating_sub(source.started_ns)).max(1);
        let rate = u128::from(source.bytes_sent) * 1_000_000_000 / elapsed_ns;
        CatchUpStatus {
            receiver: source.whom.to.0,
            phase: match source.phase {
                Phase::Beginning
                | Phase::Listing(_)
                | Phase::Asking(_)
                | Phase::Asked(_)
                | Phase::Comparing => "comparing",
                Phase::Sending | Phase::Settling => "sending",
                Phase::State(_) | Phase::Confirming | Phase::Offered(_) => "finishing",
                Phase::Following => "following",
            },
            round: source.rounds,
            chunks_done: source.chunks_done() as u64,
            chunks_known: source.chunks_known() as u64,
            blocks_sent: source.blocks_sent,
            bytes_sent: source.bytes_sent,
            bytes_per_second: rate as u64,
        }
    }
}

impl Chunkserver {
    /// The catch-ups that the copyset at `position` leads.
    pub(in crate::chunkserver) fn catch_up_status(&self, position: usize) -> Vec<CatchUpStatus> {
        let tasks = self.sources.tasks.iter().filter(|task| task.position as usize == position);
        tasks.map(|task| CatchUpStatus::of(task, self.now_ns)).collect()
    }
}
