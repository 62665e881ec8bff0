//! What a raft group stores and applies, carried out on its shard and its replicated state.

use std::collections::VecDeque;

use culvert_memory::Pages;
use raft::eraftpb::ConfState;

use super::catch_up::Arrival;
use super::copyset::Waiting;
use super::replies::{QueuedReply, Replies, status_of};
use crate::copyset::CopysetState;
use crate::counters::Counters;
use crate::ids::{BLOCK_SIZE, BatchNumber, CopysetId, Extent, Extents, LogIndex, ReplicaId, Term};
use crate::journal::{HardState, Item};
use crate::raft_group::{Host, LogEntry, Role, StoredEntry, encode_conf_state};
use crate::record::Operation;
use crate::shard::Shard;
use crate::stages::{Stage, Stages};
use crate::store::MISSING;
use crate::wire::ReplyStatus;

/// Borrowed for one call of [`Group::ready`](crate::raft_group::Group::ready).
pub(super) struct CopysetHost<'a> {
    pub id: CopysetId,
    pub shard: &'a mut Shard,
    pub state: &'a mut CopysetState,
    pub waiting: &'a mut VecDeque<Waiting>,
    pub replies: &'a mut Replies,
    /// The state that a catch-up brought.
    pub arrival: &'a mut Option<Box<Arrival>>,
    pub counters: &'a mut Counters,
    pub stages: &'a mut Stages,
    pub now_ns: u64,
    /// Entries of writes that were stored.
    pub writes_stored: u64,
    /// The data space ran out under an entry, which admission should have prevented.
    pub starved: bool,
}

impl CopysetHost<'_> {
    /// Extents for all blocks of an entry; dead blocks become runs at [`MISSING`].
    fn allocate(&mut self, blocks: u32, live_mask: u32) -> Option<Extents> {
        if live_mask == crate::wire::live_mask_of(blocks) {
            return self.shard.store_mut().allocate(blocks);
        }
        let mut extents = Extents::new();
        let mut block = 0;
        while block < blocks {
            let rest = live_mask >> block;
            let live = rest & 1 == 1;
            let run = if live { rest.trailing_ones() } else { rest.trailing_zeros() };
            let run = run.min(blocks - block);
            if live {
                for extent in self.shard.store_mut().allocate(run)? {
                    extents.push(extent);
                }
            } else {
                extents.push(Extent { start: MISSING, blocks: run });
            }
            block += run;
        }
        Some(extents)
    }

    /// Writes the payload runs to the extents that are not missing. Both are in block order and
    /// cover the same blocks, but may be cut in different places.
    fn write(&mut self, extents: &[Extent], payload: &[Pages]) {
        let mut runs = payload.iter();
        let mut run = runs.next();
        let mut used = 0;
        for extent in extents.iter().filter(|extent| extent.start != MISSING) {
            let mut done = 0;
            while done < extent.blocks {
                let pages = run.expect("payload covers the live blocks");
                let count = (extent.blocks - done).min(pages.pages() - used);
                let part = Extent { start: extent.start + done, blocks: count };
                self.shard.write_payload(&[part], &pages.slice(used, count));
                done += count;
                used += count;
                if used == pages.pages() {
                    run = runs.next();
                    used = 0;
                }
            }
        }
    }
}

impl Host for CopysetHost<'_> {
    fn open_batch(&self) -> BatchNumber {
        self.shard.open_batch()
    }

    fn store_hard_state(&mut self, copyset: CopysetId, term: Term, vote: u64, commit: LogIndex) {
        self.shard.append_hard_state(copyset, HardState { term, vote: ReplicaId(vote), commit });
    }

    fn store_entry(&mut self, entry: &StoredEntry<'_>, payload: &[Pages]) -> Extents {
        let blocks = entry.record.payload_blocks();
        let extents = if blocks == 0 {
            Extents::new()
        } else {
            let Some(extents) = self.allocate(blocks, entry.live_mask) else {
                // Nothing of this turn's batch becomes durable once the shard has failed.
                self.starved = true;
                return Extents::new();
            };
            self.write(&extents, payload);
            extents
        };
        self.shard.append(entry.record.bytes(), &extents, entry.superseded_by);
        self.counters.entries_stored += 1;
        self.writes_stored += u64::from(entry.record.operation() == Operation::Write);
        extents
    }

    fn release(&mut self, extents: &[Extent]) {
        for extent in extents.iter().filter(|extent| extent.start != MISSING) {
            self.shard.store_mut().release(*extent);
        }
    }

    fn store_conf_state(&mut self, copyset: CopysetId, conf_state: &ConfState) {
        let bytes = encode_conf_state(conf_state);
        self.shard.append_item(&Item::ConfState(copyset, &bytes));
    }

    fn apply(&mut self, entry: &LogEntry<'_>) {
        let store = self.shard.store_mut();
        let applied = self.state.apply(entry.record, &entry.extents(), store);
        self.counters.entries_applied += 1;
        let blocks = u64::from(entry.record.payload_blocks());
        self.counters.user_bytes_written += blocks * BLOCK_SIZE as u64;
        let (index, term) = (entry.record.index(), entry.record.term());
        while let Some(front) = self.waiting.front() {
            if front.index > index {
                break;
            }
            let front = self.waiting.pop_front().expect("a front that was seen");
            let mut reply = QueuedReply::new(front.connection, front.token, ReplyStatus::Ok);
            if front.index == index && front.term == term {
                reply.status = status_of(applied.result);
                reply.index = index.0;
                reply.value = applied.opened.map_or(0, |session| session.0);
                if entry.record.operation() == Operation::Write {
                    self.stages.record(Stage::WriteCommit, front.taken_ns, self.now_ns, 1);
                    reply.write_taken_ns = Some(front.taken_ns);
                }
            } else {
                reply.status = ReplyStatus::NotLeader;
            }
            self.replies.push(reply);
        }
    }

    fn install_snapshot(&mut self, index: LogIndex, term: Term, conf_state: &ConfState) {
        let arrival = self.arrival.take().expect("a raft snapshot is let in behind its state");
        assert_eq!(arrival.index, index, "a raft snapshot is let in behind its state");
        let members = encode_conf_state(conf_state);
        let items =
            [Item::StatePart(self.id, arrival.last_part()), Item::ConfState(self.id, &members)];
        self.shard.restart_log(self.id, (index, term), &items);
        *self.state = arrival.state;
    }

    fn doubt_over(&mut self, copyset: CopysetId) {
        self.shard.append_item(&Item::Doubt(copyset, false));
        tracing::info!(%copyset, "readmitted: this replica votes and acknowledges again");
    }

    fn role_changed(&mut self, role: Role, leader: Option<ReplicaId>) {
        self.state.reset_leadership();
        if role == Role::Leader {
            return;
        }
        // Whether these entries survive is for the next leader to say; a client that retries
        // under its session gets the truth.
        for waiting in self.waiting.drain(..) {
            let mut reply =
                QueuedReply::new(waiting.connection, waiting.token, ReplyStatus::Deposed);
            reply.value = leader.map_or(0, |leader| leader.0);
            self.replies.push(reply);
        }
    }
}
