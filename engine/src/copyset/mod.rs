//! The replicated state of one copyset beyond its chunks: sessions, fencing epoch, quota.

mod result;

pub use result::ResultCode;

use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, Extent, LogIndex, RequestNumber, SessionId, Term,
};
use crate::record::{Operation, RecordView};
use crate::store::Store;

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
    /// The client's session; zero: none.
    pub session: SessionId,
    /// The request's number in it.
    pub request: RequestNumber,
}

/// Why a request is not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The copyset knows no such session.
    NoSession,
    /// The number lies below the session's window.
    BelowWindow,
    /// The client's epoch is too old.
    Fenced {
        /// The copyset's epoch.
        current: Epoch,
    },
    /// The quota has no room for the blocks that would be newly mapped.
    NoSpace,
    /// The range does not lie within a chunk, or the request has no number.
    OutOfRange,
    /// No further session may be opened.
    SessionsFull,
}

/// The leader's decision about a request before it proposes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Propose it, and tell [`CopysetState::proposed`] its charge.
    Fresh {
        /// Blocks that it may newly map.
        charge: u32,
    },
    /// It took effect before: answer this.
    Repeated(ResultCode),
    /// Answer with the reason.
    Refused(Refusal),
}

/// What applying an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What its client is told.
    pub result: ResultCode,
    /// The session it opened.
    pub opened: Option<SessionId>,
}

/// Why bytes are not a copyset's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Fewer bytes than the image says it has.
    #[error("copyset image is truncated")]
    Truncated,
    /// A field holds a value that no writer produces.
    #[error("copyset image field {0} holds an impossible value")]
    Field(&'static str),
}

/// The replicated state of one copyset, without its chunks.
#[derive(Debug)]
pub struct CopysetState {
    id: CopysetId,
}

#[allow(missing_docs, unused_variables, clippy::todo)]
impl CopysetState {
    /// The state before the first entry. `quota`: logical blocks it may map.
    #[must_use]
    pub fn new(id: CopysetId, quota: u64) -> CopysetState {
        CopysetState { id }
    }
    #[must_use]
    pub fn id(&self) -> CopysetId {
        self.id
    }
    #[must_use]
    pub fn quota(&self) -> u64 {
        todo!()
    }
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        todo!()
    }
    #[must_use]
    pub fn applied(&self) -> (LogIndex, Term) {
        todo!()
    }

    /// Decides whether the leader may propose; only once it has applied an entry of its own term.
    #[must_use]
    pub fn admit(&self, request: &Request, store: &Store) -> Admission {
        todo!()
    }
    /// Accounts for a proposal; [`CopysetState::apply`] settles it.
    pub fn proposed(&mut self, index: LogIndex, charge: u32) {
        todo!()
    }
    /// Forgets all proposals: leadership was lost or won.
    pub fn reset_proposals(&mut self) {
        todo!()
    }
    /// Applies the next entry. `extents`: where its payload lies here, in order of its blocks.
    pub fn apply(
        &mut self,
        record: RecordView<'_>,
        extents: &[Extent],
        store: &mut Store,
    ) -> Applied {
        todo!()
    }

    /// Notes, on the leader, that a session was heard from. `now` is in nanoseconds of any clock.
    pub fn touch(&mut self, session: SessionId, now: u64) {
        todo!()
    }
    /// Treats every session as heard from at `now`: leadership was won.
    pub fn touch_all(&mut self, now: u64) {
        todo!()
    }
    /// A session not heard from since `before`, for the leader to propose its expiry.
    #[must_use]
    pub fn idle_session(&self, before: u64) -> Option<SessionId> {
        todo!()
    }

    /// Appends the image to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        todo!()
    }
    /// Reads an image; in-flight proposals and touch times are not part of it.
    pub fn parse(bytes: &[u8]) -> Result<CopysetState, ImageError> {
        todo!()
    }
}
