//! What this reactor gives to a shard's checkpoint of each copyset.

use super::catch_up::mark;
use super::{Chunkserver, RunningShard};
use crate::copyset::CopysetState;
use crate::ids::{CopysetId, LogIndex, ReplicaId, Term};
use crate::journal::HardState;
use crate::raft_group::{Log, encode_conf_state};

/// Copysets that one turn gives to a checkpoint at most: each costs its log tail.
const COPYSETS_PER_TURN: usize = 4;

/// Applied entries that a checkpoint keeps of each log. A follower that lags further behind a
/// replica that has just started catches up by block difference.
const ENTRIES_KEPT: u64 = 128;

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
            for _ in 0..COPYSETS_PER_TURN {
                let Some(id) = running.shard.checkpoint_wants() else { break };
                let served = self.by_id.binary_search_by_key(&id, |(id, _)| *id);
                if let Ok(at) = served {
                    let copyset = &self.copysets[self.by_id[at].1 as usize];
                    let mark = copyset.catch_up_mark();
                    let partial = copyset.partial_state();
                    give(running, id, copyset.group.log(), &copyset.state, mark, partial);
                    continue;
                }
                let held = self.held.iter().find(|held| held.shard == position && held.id == id);
                let held = held.expect("every group of a shard is served or held");
                let mark = (held.ahead > held.state.applied()).then(|| mark::emit(held.ahead));
                give(running, id, &held.log, &held.state, mark, None);
            }
        }
    }
}

fn give(
    running: &mut RunningShard,
    id: CopysetId,
    log: &Log,
    state: &CopysetState,
    mark: Option<[u8; 8]>,
    partial: Option<(u32, &[u8])>,
) {
    running.shard.checkpoint_copyset(id, |image| {
        let recent = LogIndex(state.applied().0.saturating_sub(ENTRIES_KEPT));
        let base = log.base().0.max(recent);
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
        if let Some(mark) = &mark {
            image.catch_up(mark);
        }
        if let Some((total, bytes)) = partial {
            image.partial_state(total, bytes);
        }
        state.encode(image.state());
    });
}
