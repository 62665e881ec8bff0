//! What this reactor gives to a shard's checkpoint of each copyset.

use super::catch_up::mark;
use super::{Chunkserver, RunningShard};
use crate::copyset::{CopysetState, SESSION_IMAGE_BYTES, SESSIONS_MAX};
use crate::ids::{CopysetId, Extent, LogIndex, ReplicaId, Term};
use crate::journal::{HardState, ScrubNote};
use crate::raft_group::{Log, encode_conf_state};
use crate::shard::MAP_BYTES_PER_BLOCK;

/// Copysets that one turn gives to a checkpoint at most: each costs its log tail.
const COPYSETS_PER_TURN: usize = 4;

/// Applied entries that a checkpoint keeps of each log at most. A follower that lags further behind a
/// replica that has just started catches up by block difference.
const ENTRIES_KEPT: u64 = 128;

/// Bytes of a checkpoint for each copyset beside its sessions and its log tail.
const COPYSET_BYTES: u64 = 1024;

/// Bytes of an entry in a checkpoint beside its record.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Sessions of each copyset for which there must be room at least.
pub(super) const SESSIONS_MIN: usize = 16;

/// What a checkpoint area has room for beside the map, for each of the shard's copysets. Without
/// these bounds checkpoints could outgrow their area, and the ring behind them would never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Sessions that this replica opens as leader.
    pub sessions_max: usize,
    /// Bytes of applied entries that are kept for followers.
    pub tail_bytes: usize,
}

impl Room {
    /// Half of what the map leaves goes to sessions, the other to log tails.
    pub(super) fn of(checkpoint_bytes: u64, data_blocks: u64, copysets: usize) -> Room {
        let rest = checkpoint_bytes.saturating_sub(data_blocks * MAP_BYTES_PER_BLOCK);
        let half = (rest / copysets.max(1) as u64).saturating_sub(COPYSET_BYTES) / 2;
        Room {
            sessions_max: (half as usize / SESSION_IMAGE_BYTES).min(SESSIONS_MAX),
            tail_bytes: half as usize,
        }
    }
}

/// A replica that does not serve. It is carried from checkpoint to checkpoint as it was found.
pub(super) struct Held {
    pub id: CopysetId,
    pub shard: usize,
    pub log: Log,
    pub state: CopysetState,
    /// See [`Copyset::ahead`](super::Copyset).
    pub ahead: LogIndex,
}

impl Chunkserver {
    /// Hands the state of copysets to checkpoints that wait for it.
    pub(super) fn feed_checkpoints(&mut self) {
        for (position, running) in self.shards.iter_mut().enumerate() {
            running.checkpoint_times.note(running.shard.is_checkpointing(), self.now_ns);
            for _ in 0..COPYSETS_PER_TURN {
                let Some(id) = running.shard.checkpoint_wants() else { break };
                if let Some(at) = self.by_id.get(id) {
                    let copyset = &self.copysets[*at as usize];
                    let kept = Kept {
                        mark: copyset.catch_up_mark(),
                        partial: copyset.partial_state(),
                        scrubbed: copyset.scrubbed,
                    };
                    give(running, id, copyset.group.log(), &copyset.state, &kept);
                    continue;
                }
                let held = self.held.iter().find(|held| held.shard == position && held.id == id);
                let held = held.expect("every group of a shard is served or held");
                let mark = (held.ahead > held.state.applied()).then(|| mark::emit(held.ahead));
                let kept = Kept { mark, partial: None, scrubbed: None };
                give(running, id, &held.log, &held.state, &kept);
            }
        }
    }
}

/// What of a replica is kept beside its log and its state.
struct Kept<'a> {
    mark: Option<[u8; 8]>,
    partial: Option<(u32, &'a [u8])>,
    scrubbed: Option<ScrubNote>,
}

fn give(
    running: &mut RunningShard,
    id: CopysetId,
    log: &Log,
    state: &CopysetState,
    kept: &Kept<'_>,
) {
    let tail_bytes = running.room.tail_bytes;
    running.shard.checkpoint_copyset(id, |image| {
        let base = kept_from(log, state.applied(), tail_bytes);
        let base_term = log.term_at(base).expect("an index within the log");
        let hard_state = log.hard_state();
        image.log_start(base, base_term);
        image.hard_state(HardState {
            term: Term(hard_state.term),
            vote: ReplicaId(hard_state.vote),
            commit: LogIndex(hard_state.commit),
        });
        image.conf_state(&encode_conf_state(log.conf_state()));
        for index in base.0 + 1..=log.last().0 {
            let entry = log.get(LogIndex(index)).expect("an index within the log");
            image.entry(entry.record, &entry.extents(), entry.superseded_by);
        }
        if let Some(mark) = &kept.mark {
            image.catch_up(mark);
        }
        if let Some((total, bytes)) = kept.partial {
            image.partial_state(total, bytes);
        }
        if let Some(note) = &kept.scrubbed {
            image.scrub(note);
        }
        state.encode(image.state());
    });
}

/// The index behind which entries are kept: all that are not applied, and as many applied ones as
/// there is room for.
fn kept_from(log: &Log, applied: LogIndex, tail_bytes: usize) -> LogIndex {
    let oldest = log.base().0.max(LogIndex(applied.0.saturating_sub(ENTRIES_KEPT)));
    let mut base = applied.max(oldest);
    let mut left = tail_bytes;
    while base > oldest {
        let entry = log.get(base).expect("an index within the log");
        let extents = entry.extents().len() * size_of::<Extent>();
        let bytes = entry.record.bytes().len() + extents + ENTRY_OVERHEAD_BYTES;
        let Some(rest) = left.checked_sub(bytes) else { break };
        left = rest;
        base = LogIndex(base.0 - 1);
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_checkpoint_area_has_room_for_what_is_promised() {
        for (device, copysets) in [(1024 * MIB, 16), (2048 * MIB, 256), (1 << 40, 1000)] {
            let (area, blocks) = (device / 100, device / 4096);
            let room = Room::of(area, blocks, copysets);
            let each = room.sessions_max * SESSION_IMAGE_BYTES + room.tail_bytes;
            let all = copysets as u64 * (each as u64 + COPYSET_BYTES);
            assert!(blocks * MAP_BYTES_PER_BLOCK + all <= area, "{device}, {copysets}: {room:?}");
            assert!(room.sessions_max >= 64, "{device}, {copysets}: {room:?}");
        }
        assert_eq!(Room::of(MIB, 65_536, 16).sessions_max, 0, "the map alone fills it");
    }
}
