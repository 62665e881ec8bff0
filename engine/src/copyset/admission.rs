//! Admission: what becomes of a request, decided from replicated state.
//!
//! The leader asks before it proposes, every replica asks again when it applies: between the two a
//! fence, an expiry or a repetition may have been applied. The order of the questions is part of
//! the protocol: first whether it took effect already, because then that is the truth whatever
//! came later; then whether it may.

use crate::copyset::session::Seen;
use crate::copyset::{CopysetState, ResultCode};
use crate::ids::{BlockRange, ChunkId, Epoch, OPERATION_BLOCKS_MAX, RequestNumber, SessionId};
use crate::record::{Operation, RecordView};
use crate::store::{ChunkKey, Store};

/// What a client asks for, as far as admission looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// To which chunk.
    pub chunk: ChunkId,
    /// To which blocks of it.
    pub range: BlockRange,
    /// Fencing epoch the client holds.
    pub epoch: Epoch,
    /// The client's session; zero: none. For [`Operation::ExpireSession`]: the one to end.
    pub session: SessionId,
    /// The request's number in it.
    pub request: RequestNumber,
}

impl From<&RecordView<'_>> for Request {
    fn from(record: &RecordView<'_>) -> Request {
        Request {
            operation: record.operation(),
            chunk: record.chunk(),
            range: record.range(),
            epoch: record.epoch(),
            session: record.session(),
            request: record.request(),
        }
    }
}

/// Why a request does not take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The copyset knows no such session.
    NoSession,
    /// The number lies below the session's window: nobody knows whether it took effect.
    BelowWindow,
    /// The client's epoch is too old.
    Fenced {
        /// The copyset's epoch.
        current: Epoch,
    },
    /// The quota has no room for the blocks that would be newly mapped.
    NoSpace,
    /// The range does not lie within a chunk, or a request of a session has no number.
    OutOfRange,
    /// No further session may be opened.
    SessionsFull,
}

impl Refusal {
    /// As the client is told.
    #[must_use]
    pub fn result(self) -> ResultCode {
        match self {
            Refusal::NoSession => ResultCode::NoSession,
            Refusal::BelowWindow => ResultCode::BelowWindow,
            Refusal::Fenced { .. } => ResultCode::Fenced,
            Refusal::NoSpace => ResultCode::NoSpace,
            Refusal::OutOfRange => ResultCode::OutOfRange,
            Refusal::SessionsFull => ResultCode::SessionsFull,
        }
    }
}

/// The leader's decision about a request before it proposes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Propose it, and tell [`CopysetState::proposed`] its charge.
    Fresh {
        /// Blocks that it may newly map.
        charge: u32,
    },
    /// It took effect before: answer so.
    Repeated,
    /// Answer with the reason.
    Refused(Refusal),
}

/// What replicated state says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Effective,
    Repeated,
    Refused(Refusal),
}

impl CopysetState {
    /// Decides whether the leader may propose a request. Only once it has applied an entry of its
    /// own term: before, entries of its predecessor are in flight that were charged elsewhere.
    #[must_use]
    pub fn admit(&self, request: &Request, store: &Store) -> Admission {
        match self.judge(request, store.geometry().chunk_blocks) {
            Verdict::Repeated => return Admission::Repeated,
            Verdict::Refused(refusal) => return Admission::Refused(refusal),
            Verdict::Effective => {}
        }
        if request.operation != Operation::Write {
            return Admission::Fresh { charge: 0 };
        }
        let key = ChunkKey { copyset: self.id, chunk: request.chunk };
        let charge = store.unmapped_in(key, request.range);
        let used = store.mapped_blocks(self.id) + self.proposals.promised();
        if charge > 0 && used + u64::from(charge) > self.quota {
            return Admission::Refused(Refusal::NoSpace);
        }
        Admission::Fresh { charge }
    }

    /// What the replicated state, and nothing else, says of a request.
    pub(super) fn judge(&self, request: &Request, chunk_blocks: u32) -> Verdict {
        let session = self.sessions.get(request.session);
        match request.operation {
            Operation::Noop | Operation::ConfChange => return Verdict::Effective,
            Operation::ExpireSession if session.is_some() => return Verdict::Effective,
            Operation::ExpireSession => return Verdict::Refused(Refusal::NoSession),
            _ => {}
        }
        if request.session != SessionId(0) {
            let Some(session) = session else { return Verdict::Refused(Refusal::NoSession) };
            if request.request == RequestNumber(0) {
                return Verdict::Refused(Refusal::OutOfRange);
            }
            match session.look(request.request) {
                Seen::No => {}
                Seen::Yes => return Verdict::Repeated,
                Seen::Unknown => return Verdict::Refused(Refusal::BelowWindow),
            }
        }
        if request.epoch < self.epoch {
            return Verdict::Refused(Refusal::Fenced { current: self.epoch });
        }
        if !is_in_range(request, chunk_blocks) {
            return Verdict::Refused(Refusal::OutOfRange);
        }
        if request.operation == Operation::OpenSession && self.sessions.is_full() {
            return Verdict::Refused(Refusal::SessionsFull);
        }
        Verdict::Effective
    }
}

fn is_in_range(request: &Request, chunk_blocks: u32) -> bool {
    let BlockRange { first, blocks } = request.range;
    let blocks_max = match request.operation {
        Operation::Write => OPERATION_BLOCKS_MAX.min(chunk_blocks),
        Operation::Discard => chunk_blocks,
        _ => return true,
    };
    (1..=blocks_max).contains(&blocks) && first <= chunk_blocks - blocks
}
