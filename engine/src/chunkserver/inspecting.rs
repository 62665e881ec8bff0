//! A replica as its journal tells it, without starting it: for the offline check.
//!
//! The same replay as at start, on a store that nothing will be written through.

use raft::eraftpb::{ConfState, HardState};

use super::replaying;
use super::start::first_base;
use crate::copyset::CopysetState;
use crate::raft_group::Log;
use crate::shard::RecoveredGroup;
use crate::shard::check::HeldPayload;
use crate::store::Store;

/// Brings the maps of one group up to what it has applied, and returns the payload of its entries
/// behind. A damaged group is replayed as far as it hangs together. `None` where its state or a
/// record of a catch-up cannot be read.
#[must_use]
pub fn rebuild(store: &mut Store, found: &RecoveredGroup) -> Option<Vec<HeldPayload>> {
    // The quota is looked at when a request is admitted, never when an entry is applied.
    let quota = 0;
    for past in &found.past {
        replaying::past(past, found.copyset, quota, store).ok()?;
    }
    let mut state = match &found.image {
        Some(bytes) => CopysetState::parse(bytes).ok()?,
        None => CopysetState::new(found.copyset, quota),
    };
    let base = found.log_start.unwrap_or(first_base());
    let mut log = Log::new(HardState::default(), ConfState::default(), base);
    let gap = replaying::fill(&mut log, &found.entries);
    let ahead = replaying::changes(&found.changes, &log, &mut state, store).ok()?;
    let through = found.applied_note.min(log.last());
    let behind = replaying::apply(&log, &mut state, through, store);
    if found.damaged.is_none() && (gap.is_err() || behind.is_err()) {
        return None;
    }
    replaying::drop_covered(&mut log, &state, ahead, store);
    Some(held_payload(&log, &state))
}

fn held_payload(log: &Log, state: &CopysetState) -> Vec<HeldPayload> {
    let of = |(key, index, extents)| {
        let entry = log.get(index).expect("an index within the log");
        HeldPayload { key, index, extents, crcs: entry.record.crcs().collect() }
    };
    replaying::live_payload(log, state).into_iter().map(of).collect()
}
