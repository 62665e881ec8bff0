//! What happens by the clock: ticks of the groups, expiry of sessions.

use super::Chunkserver;
use crate::ids::{ChunkId, RequestNumber};
use crate::raft_group::TICKS_CAUGHT_UP_MAX;
use crate::record::{Operation, Proposal};

/// How often sessions are looked at.
const EXPIRY_PERIOD_NS: u64 = 1_000_000_000;

/// When ticks are due. Leases rest on this: a stretch of time has at most
/// [`TICKS_CAUGHT_UP_MAX`] ticks more than whole tick lengths fit into it.
pub(super) struct Ticker {
    tick_ns: u64,
    pub(super) next_ns: u64,
}

impl Ticker {
    pub(super) fn new(tick_ns: u64, now_ns: u64) -> Ticker {
        Ticker { tick_ns, next_ns: now_ns + tick_ns }
    }

    /// How many ticks are run now, at a time at which one is due.
    fn due(&mut self, now_ns: u64) -> u64 {
        let late = (now_ns - self.next_ns) / self.tick_ns + 1;
        // After ticks that are made up for, the next comes a whole tick later: on the old beat it
        // could come at once, as one more than a lease allows for.
        self.next_ns = if late == 1 { self.next_ns } else { now_ns } + self.tick_ns;
        late.min(TICKS_CAUGHT_UP_MAX)
    }
}

impl Chunkserver {
    pub(super) fn run_timers(&mut self) {
        if self.now_ns >= self.ticker.next_ns {
            self.tick_groups();
        }
        if self.now_ns >= self.next_expiry_ns {
            self.next_expiry_ns = self.now_ns + EXPIRY_PERIOD_NS;
            self.expire_sessions();
        }
    }

    fn tick_groups(&mut self) {
        let ticks = self.ticker.due(self.now_ns);
        for position in 0..self.copysets.len() {
            if !self.in_service(position as u32) {
                continue;
            }
            let copyset = &mut self.copysets[position];
            for _ in 0..ticks {
                copyset.group.tick();
            }
            self.mark_ready(position as u32);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_stretch_of_time_has_more_ticks_than_a_lease_allows_for(
            pauses in prop::collection::vec(prop_oneof![0..30u64, 90..110u64, 0..400u64], 1..200)
        ) {
            const TICK_NS: u64 = 100;
            let mut ticker = Ticker::new(TICK_NS, 0);
            let mut now_ns = 0;
            let mut ticks = Vec::new();
            for pause in pauses {
                now_ns += pause;
                if now_ns >= ticker.next_ns {
                    let due = ticker.due(now_ns);
                    ticks.extend((0..due).map(|_| now_ns));
                }
            }
            for (first, from) in ticks.iter().enumerate() {
                for (last, to) in ticks.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    prop_assert!(count <= TICKS_CAUGHT_UP_MAX + (to - from) / TICK_NS);
                }
            }
        }
    }

    #[test]
    fn on_time_the_beat_is_kept() {
        let mut ticker = Ticker::new(100, 0);
        assert_eq!((ticker.due(130), ticker.next_ns), (1, 200));
        assert_eq!((ticker.due(299), ticker.next_ns), (1, 300));
        assert_eq!((ticker.due(1000), ticker.next_ns), (2, 1100));
    }
}
