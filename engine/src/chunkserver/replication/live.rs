//! Which blocks of an entry of the log still live, and where.

use arrayvec::ArrayVec;

use crate::chunkserver::RunningShard;
use crate::ids::{Extent, LogIndex};
use crate::raft_group::LogEntry;
use crate::store::{BlockState, BlockStates, ChunkKey, MISSING, Place};

/// What a follower must apply before it may miss blocks of an entry: what this replica has applied,
/// and what it was told itself. The entry's own index is enough where it was not carried out, as
/// with a repeated request.
pub(super) fn superseded_by(entry: &LogEntry<'_>, applied: LogIndex) -> LogIndex {
    let index = entry.record.index();
    let by = applied.max(entry.superseded_by.unwrap_or_default());
    debug_assert!(by >= index, "blocks are missed of applied entries only");
    by.max(index)
}

/// The data block of each block of an entry; `None` where a later applied entry overwrote it.
pub(super) fn live_blocks(
    entry: &LogEntry<'_>,
    key: ChunkKey,
    applied: LogIndex,
    shard: &RunningShard,
) -> ArrayVec<Option<u32>, 32> {
    let index = entry.record.index();
    if index > applied && !shard.shard.store().covers(key, index) {
        let block_of = |extent: &Extent, at| (extent.start != MISSING).then(|| extent.start + at);
        let extents = entry.extents();
        return extents
            .iter()
            .flat_map(|extent| (0..extent.blocks).map(move |at| block_of(extent, at)))
            .collect();
    }
    let range = entry.record.range();
    let mut states = BlockStates::new();
    if !shard.shard.store().lookup(key, range, &mut states) {
        return (0..range.blocks).map(|_| None).collect();
    }
    states
        .iter()
        .map(|state| match state.place {
            Place::At(block) if state.index == index => Some(block),
            _ => None,
        })
        .collect()
}

/// Blocks of an entry, by their bits, that nothing has overwritten and that are missing here: they
/// wait to be repaired. Those of an entry that this replica got without payload do not count until
/// what superseded them is applied.
pub(super) fn missing_blocks(
    entry: &LogEntry<'_>,
    key: ChunkKey,
    applied: LogIndex,
    shard: &RunningShard,
) -> u32 {
    let index = entry.record.index();
    if index > applied || entry.superseded_by.is_some_and(|by| by > applied) {
        return 0;
    }
    let mut states = BlockStates::new();
    if !shard.shard.store().lookup(key, entry.record.range(), &mut states) {
        return 0;
    }
    let missing = |state: &BlockState| state.place == Place::Missing && state.index == index;
    let bits = states.iter().enumerate();
    bits.fold(0, |bits, (at, state)| bits | u32::from(missing(state)) << at)
}
