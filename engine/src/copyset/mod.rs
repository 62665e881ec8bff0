//! The replicated state of one copyset beyond its chunks: sessions, fencing epoch, quota, and the
//! index and term that it is the state of.
//!
//! A pure core, and deterministic: equal entries make equal states and equal results on every
//! replica. Results depend on nothing but this state. They do not depend on the chunks (deleting
//! one that does not exist is [`ResultCode::Ok`]), because a replica that replays its log from a
//! checkpoint, or catches up chunk by chunk, has chunks that are ahead of this state.
//!
//! What is the leader's alone (proposals in flight, when a session was last heard from) is kept
//! here too, is no part of an image, and decides nothing when an entry is applied.

mod admission;
mod image;
mod quota;
mod result;
mod session;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Refusal, Request};
pub use image::{IMAGE_BYTES_MAX, ImageError, SESSION_IMAGE_BYTES};
pub use result::ResultCode;
pub use session::{SESSIONS_MAX, SESSIONS_OF_CLIENT_MAX, WINDOW};

use crate::copyset::admission::Verdict;
use crate::copyset::quota::Proposals;
use crate::copyset::session::{Session, Sessions};
use crate::ids::{CopysetId, Epoch, Extent, LogIndex, SessionId, Term};
use crate::record::{Operation, RecordView};
use crate::store::{ChunkKey, Store};

/// What applying an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What its client is told.
    pub result: ResultCode,
    /// The session it opened.
    pub opened: Option<SessionId>,
}

/// The replicated state of one copyset, without its chunks.
#[derive(Clone, Debug)]
pub struct CopysetState {
    id: CopysetId,
    /// Logical blocks that may be mapped.
    quota: u64,
    applied: LogIndex,
    term: Term,
    epoch: Epoch,
    sessions: Sessions,
    proposals: Proposals,
}

impl CopysetState {
    /// The state before the first entry. `quota`: logical blocks it may map, equal on all replicas.
    #[must_use]
    pub fn new(id: CopysetId, quota: u64) -> CopysetState {
        CopysetState {
            id,
            quota,
            applied: LogIndex(0),
            term: Term(0),
            epoch: Epoch(0),
            sessions: Sessions::default(),
            proposals: Proposals::new(),
        }
    }

    /// The copyset.
    #[must_use]
    pub fn id(&self) -> CopysetId {
        self.id
    }

    /// Logical blocks that it may map.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// The fencing epoch: operations of an older one are refused.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Index of the last entry applied; zero: none.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Term of the last entry applied.
    #[must_use]
    pub fn applied_term(&self) -> Term {
        self.term
    }

    /// Open sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.iter().len()
    }

    /// The UUID of a session's client.
    #[must_use]
    pub fn client(&self, session: SessionId) -> Option<[u8; 16]> {
        self.sessions.get(session).map(|session| session.client)
    }

    /// Applies the next entry to this state and its chunks. `extents`: where its payload lies here,
    /// in order of its blocks; they are the map's or released afterwards, and no longer the
    /// record's. While the shard recovers they may be those of a record that its chunk covers.
    ///
    /// # Panics
    ///
    /// If the entry is of another copyset or not the next one, or the extents do not hold its
    /// payload. An entry without effect may come without extents.
    pub fn apply(
        &mut self,
        record: RecordView<'_>,
        extents: &[Extent],
        store: &mut Store,
    ) -> Applied {
        assert_eq!(record.copyset(), self.id);
        assert_eq!(record.index(), self.applied.next(), "entries are applied without a gap");
        assert!(record.term() >= self.term);
        let request = Request::from(&record);
        let mut unmapped = 0;
        let applied = match self.judge(&request, store.geometry().chunk_blocks) {
            Verdict::Effective => {
                let before = store.mapped_blocks(self.id);
                self.change_chunk(&record, extents, store);
                unmapped = before.saturating_sub(store.mapped_blocks(self.id));
                self.change_state(&record)
            }
            Verdict::Repeated => self.no_effect(ResultCode::Ok, extents, store),
            Verdict::Refused(refusal) => self.no_effect(refusal.result(), extents, store),
        };
        self.applied = record.index();
        self.term = record.term();
        self.proposals.applied(self.applied, unmapped);
        applied
    }

    fn no_effect(&self, result: ResultCode, extents: &[Extent], store: &mut Store) -> Applied {
        for &extent in extents {
            store.release(extent);
        }
        Applied { result, opened: None }
    }

    fn change_chunk(&self, record: &RecordView<'_>, extents: &[Extent], store: &mut Store) {
        let key = ChunkKey { copyset: self.id, chunk: record.chunk() };
        let (index, range) = (record.index(), record.range());
        match record.operation() {
            // A record that its chunk covers has lost its extents at recovery.
            Operation::Write if extents.is_empty() => assert!(store.covers(key, index)),
            Operation::Write => {
                store.write(key, index, range, extents, record.crcs());
            }
            Operation::Discard => {
                store.discard(key, index, range);
            }
            Operation::Delete => {
                store.delete(key, index);
            }
            Operation::Noop
            | Operation::OpenSession
            | Operation::ExpireSession
            | Operation::Fence
            | Operation::ConfChange => {}
        }
    }

    fn change_state(&mut self, record: &RecordView<'_>) -> Applied {
        let mut opened = None;
        match record.operation() {
            Operation::OpenSession => {
                let id = SessionId(record.index().0);
                let client = record.body().try_into().expect("a record's body was checked");
                self.sessions.open(Session::new(id, client));
                opened = Some(id);
            }
            Operation::ExpireSession => {
                self.sessions.expire(record.session());
                return Applied { result: ResultCode::Ok, opened: None };
            }
            Operation::Noop | Operation::ConfChange => {
                return Applied { result: ResultCode::Ok, opened: None };
            }
            Operation::Fence => self.epoch = record.epoch(),
            Operation::Write | Operation::Discard | Operation::Delete => {}
        }
        if let Some(session) = self.sessions.get_mut(record.session()) {
            session.note(record.request());
        }
        Applied { result: ResultCode::Ok, opened }
    }
}

/// What is the leader's alone.
impl CopysetState {
    /// Accounts for a proposal that was admitted with `charge`; applying it settles it.
    ///
    /// # Panics
    ///
    /// If indexes do not ascend.
    pub fn proposed(&mut self, index: LogIndex, charge: u32) {
        self.proposals.proposed(index, charge);
    }

    /// The proposal just accounted for opens a session.
    pub fn opening(&mut self, index: LogIndex) {
        self.proposals.opening(index);
    }

    /// Sessions that are open or being opened.
    #[must_use]
    pub fn sessions_promised(&self) -> usize {
        self.sessions() + self.proposals.openings()
    }

    /// Forgets proposals and times: leadership was won or lost.
    pub fn reset_leadership(&mut self) {
        self.proposals.reset();
        self.sessions.forget_times();
    }

    /// Notes that a session was heard from. `now` is in nanoseconds of any clock.
    pub fn touch(&mut self, session: SessionId, now: u64) {
        self.sessions.touch(session, now);
    }

    /// The session silent longest, if it was for `timeout` nanoseconds: its expiry may be proposed.
    /// Sessions not heard from since leadership was won count as heard from at the first call.
    pub fn idle_session(&mut self, now: u64, timeout: u64) -> Option<SessionId> {
        self.sessions.idle(now, timeout)
    }
}
