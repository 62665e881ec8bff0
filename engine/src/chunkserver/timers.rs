//! What happens by the clock: ticks of the groups, expiry of sessions.

use super::Chunkserver;
use crate::ids::{ChunkId, RequestNumber};
use crate::raft_group::TICKS_CAUGHT_UP_MAX;
use crate::record::{Operation, Proposal};

/// How often sessions are looked at.
const EXPIRY_PERIOD_NS: u64 = 1_000_000_000;

impl Chunkserver {
    pub(super) fn run_timers(&mut self) {
        if self.now_ns >= self.next_tick_ns {
            self.tick_groups();
        }
        if self.now_ns >= self.next_expiry_ns {
            self.next_expiry_ns = self.now_ns + EXPIRY_PERIOD_NS;
            self.expire_sessions();
        }
    }

    fn tick_groups(&mut self) {
        let tick_ns = self.options.group.tick_ns;
        let late = (self.now_ns - self.next_tick_ns) / tick_ns + 1;
        self.next_tick_ns += late * tick_ns;
        for position in 0..self.copysets.len() {
            if !self.in_service(position as u32) {
                continue;
            }
            let copyset = &mut self.copysets[position];
            for _ in 0..late.min(TICKS_CAUGHT_UP_MAX) {
                copyset.group.tick();
            }
            if copyset.group.has_ready() {
                self.mark_dirty(position as u32);
            }
        }
    }

    fn expire_sessions(&mut self) {
        for position in 0..self.copysets.len() {
            let copyset = &mut self.copysets[position];
            if !copyset.group.has_applied_own_term() {
                continue;
            }
            let Some(session) =
                copyset.state.idle_session(self.now_ns, self.options.session_idle_ns)
            else {
                continue;
            };
            let proposal = Proposal {
                operation: Operation::ExpireSession,
                chunk: ChunkId(0),
                session,
                request: RequestNumber(0),
                ..Proposal::noop()
            };
            // Refused while leadership is being handed over: the next leader looks again.
            let _handing_over = copyset.group.propose(&proposal, None);
            self.mark_dirty(position as u32);
        }
    }
}
