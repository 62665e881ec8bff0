//! What replicas say to each other: appended entries, and every other raft message.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameError, FrameKind, emit_header};
use crate::ids::{CopysetId, LogIndex, ReplicaId, Term};
use crate::record::RecordView;

/// Kinds of [`PeerMessage`]. All but the last two are messages of the raft library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerMessageKind {
    /// Answer to appended entries.
    AppendResponse = 1,
    /// Candidate asks for a vote.
    RequestVote = 2,
    /// Answer to it.
    RequestVoteResponse = 3,
    /// Asks whether a vote would be given.
    RequestPreVote = 4,
    /// Answer to it.
    RequestPreVoteResponse = 5,
    /// Leader is alive; carries its commit index.
    Heartbeat = 6,
    /// Answer to it.
    HeartbeatResponse = 7,
    /// Leader tells its successor to campaign at once.
    TimeoutNow = 8,
    /// The raft snapshot that ends a catch-up by block difference: index and term, no data.
    Snapshot = 9,
    /// A replica that may have forgotten what it promised asks its leader to readmit it; the context
    /// is the number of its question.
    Doubt = 10,
    /// The leader does so; `index` is its last one, the context that of the question.
    Readmit = 11,
}

impl PeerMessageKind {
    pub(crate) fn from_byte(byte: u8) -> Option<PeerMessageKind> {
        use PeerMessageKind::{
            AppendResponse, Doubt, Heartbeat, HeartbeatResponse, Readmit, RequestPreVote,
            RequestPreVoteResponse, RequestVote, RequestVoteResponse, Snapshot, TimeoutNow,
        };
        const ALL: [PeerMessageKind; 11] = [
            AppendResponse,
            RequestVote,
            RequestVoteResponse,
            RequestPreVote,
            RequestPreVoteResponse,
            Heartbeat,
            HeartbeatResponse,
            TimeoutNow,
            Snapshot,
            Doubt,
            Readmit,
        ];
        ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PeerMessageBody {
    kind: u8,
    reject: u8,
    reserved: U16,
    copyset: U32,
    from: U64,
    to: U64,
    term: U64,
    log_term: U64,
    index: U64,
    commit: U64,
    commit_term: U64,
    reject_hint: U64,
    request_snapshot: U64,
    sent_ns: U64,
    context: U64,
}

/// Bytes of the longest frame of messages: the smallest control queue that a configuration may ask
/// for, 4 KiB, takes frames of half its size less what the transport puts around them.
pub const PEER_FRAME_BYTES_MAX: usize = 1456;

const PEER_MESSAGE_BYTES: usize = size_of::<PeerMessageBody>();
const _: () = assert!(PEER_MESSAGE_BYTES == 96);

/// One raft message other than appended entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// Which message.
    pub kind: PeerMessageKind,
    /// The answer is no.
    pub reject: bool,
    /// The copyset.
    pub copyset: CopysetId,
    /// Sending replica.
    pub from: ReplicaId,
    /// Receiving replica.
    pub to: ReplicaId,
    /// Sender's term.
    pub term: Term,
    /// Term of the entry at `index`.
    pub log_term: Term,
    /// An index; its meaning depends on the kind.
    pub index: LogIndex,
    /// Commit index.
    pub commit: LogIndex,
    /// Term of the entry at `commit`, for votes.
    pub commit_term: Term,
    /// Where to look for the last match, in a rejection.
    pub reject_hint: LogIndex,
    /// A follower asks for a raft snapshot at this index; zero: it does not.
    pub request_snapshot: LogIndex,
    /// Leader's clock when it sent the round; the answer returns it. Leases run from it.
    pub sent_ns: u64,
    /// Read-index round, returned in the answer; zero: none.
    pub context: u64,
}

impl PeerMessage {
    fn body(&self) -> PeerMessageBody {
        PeerMessageBody {
            kind: self.kind as u8,
            reject: u8::from(self.reject),
            reserved: U16::ZERO,
            copyset: self.copyset.0.into(),
            from: self.from.0.into(),
            to: self.to.0.into(),
            term: self.term.0.into(),
            log_term: self.log_term.0.into(),
            index: self.index.0.into(),
            commit: self.commit.0.into(),
            commit_term: self.commit_term.0.into(),
            reject_hint: self.reject_hint.0.into(),
            request_snapshot: self.request_snapshot.0.into(),
            sent_ns: self.sent_ns.into(),
            context: self.context.into(),
        }
    }

    fn from_body(body: &PeerMessageBody) -> Result<PeerMessage, FrameError> {
        Ok(PeerMessage {
            kind: PeerMessageKind::from_byte(body.kind).ok_or(FrameError::Field("kind"))?,
            reject: match body.reject {
                0 => false,
                1 => true,
                _ => return Err(FrameError::Field("reject")),
            },
            copyset: CopysetId(body.copyset.get()),
            from: ReplicaId(body.from.get()),
            to: ReplicaId(body.to.get()),
            term: Term(body.term.get()),
            log_term: Term(body.log_term.get()),
            index: LogIndex(body.index.get()),
            commit: LogIndex(body.commit.get()),
            commit_term: Term(body.commit_term.get()),
            reject_hint: LogIndex(body.reject_hint.get()),
            request_snapshot: LogIndex(body.request_snapshot.get()),
            sent_ns: body.sent_ns.get(),
            context: body.context.get(),
        })
    }
}

/// Gathers messages for one peer into frames.
pub struct PeerMessagesWriter {
    bytes: Box<[u8; PEER_FRAME_BYTES_MAX]>,
    count: u16,
}

impl Default for PeerMessagesWriter {
    fn default() -> Self {
        PeerMessagesWriter { bytes: Box::new([0; PEER_FRAME_BYTES_MAX]), count: 0 }
    }
}

impl PeerMessagesWriter {
    fn end(&self) -> usize {
        FRAME_HEADER_BYTES + usize::from(self.count) * PEER_MESSAGE_BYTES
    }

    /// Whether another message fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end() + PEER_MESSAGE_BYTES > PEER_FRAME_BYTES_MAX
    }

    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a message.
    ///
    /// # Panics
    ///
    /// If the frame [is full](Self::is_full).
    pub fn push(&mut self, message: &PeerMessage) {
        let at = self.end();
        self.bytes[at..at + PEER_MESSAGE_BYTES].copy_from_slice(message.body().as_bytes());
        self.count += 1;
    }

    /// The finished frame; the writer is empty after [`Self::clear`].
    pub fn frame(&mut self) -> &[u8] {
        let length = self.end();
        emit_header(FrameKind::PeerMessages, self.count, length, &mut self.bytes[..length]);
        &self.bytes[..length]
    }

    /// Forgets the messages.
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

/// The messages of a received frame.
pub struct PeerMessages<'a> {
    bytes: &'a [u8],
}

impl<'a> PeerMessages<'a> {
    /// Checks count against length.
    ///
    /// # Errors
    ///
    /// [`FrameError::Field`] where they differ.
    pub fn parse(count: u16, body: &'a [u8]) -> Result<PeerMessages<'a>, FrameError> {
        if body.len() != usize::from(count) * PEER_MESSAGE_BYTES {
            return Err(FrameError::Field("count"));
        }
        Ok(PeerMessages { bytes: body })
    }
}

impl Iterator for PeerMessages<'_> {
    type Item = Result<PeerMessage, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (body, rest) = PeerMessageBody::ref_from_prefix(self.bytes).ok()?;
        self.bytes = rest;
        Some(PeerMessage::from_body(body))
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct AppendBody {
    copyset: U32,
    reserved: U32,
    from: U64,
    to: U64,
    term: U64,
    previous_index: U64,
    previous_term: U64,
    commit: U64,
    sent_ns: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryBody {
    superseded_by: U64,
    live_mask: U32,
    reserved: U32,
}

/// Append frames that may be in flight to one follower of one copyset, whatever is configured.
pub const APPEND_FRAMES_IN_FLIGHT_MAX: u32 = 512;

const ENTRY_BYTES: usize = size_of::<EntryBody>();
const APPEND_BYTES: usize = size_of::<AppendBody>();
const _: () = assert!(APPEND_BYTES == 64);

/// What stands before the entries of an append frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendHeader {
    /// The copyset.
    pub copyset: CopysetId,
    /// The leader's replica.
    pub from: ReplicaId,
    /// The follower's replica.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// Index of the entry before the first one.
    pub previous_index: LogIndex,
    /// Term of that entry.
    pub previous_term: Term,
    /// Leader's commit index.
    pub commit: LogIndex,
    /// Leader's clock when it sent this; the answer returns it. Leases run from it.
    pub sent_ns: u64,
}

/// One entry of an append frame.
#[derive(Clone, Copy)]
pub struct AppendEntry<'a> {
    /// The record, checked.
    pub record: RecordView<'a>,
    /// Bit n: block n of the range comes with payload. For a write that nothing supersedes, all.
    pub live_mask: u32,
    /// Blocks without payload were overwritten by committed entries up to this one; the entry's own
    /// index where it was not carried out.
    pub superseded_by: Option<LogIndex>,
}

/// Builds one append frame.
pub struct AppendWriter {
    bytes: Box<[u8; FRAME_BYTES_MAX]>,
    length: usize,
    count: u16,
}

impl Default for AppendWriter {
    fn default() -> Self {
        AppendWriter { bytes: Box::new([0; FRAME_BYTES_MAX]), length: 0, count: 0 }
    }
}

impl AppendWriter {
    /// Starts a frame.
    pub fn start(&mut self, header: &AppendHeader) {
        let body = AppendBody {
            copyset: header.copyset.0.into(),
            reserved: U32::ZERO,
            from: header.from.0.into(),
            to: header.to.0.into(),
            term: header.term.0.into(),
            previous_index: header.previous_index.0.into(),
            previous_term: header.previous_term.0.into(),
            commit: header.commit.0.into(),
            sent_ns: header.sent_ns.into(),
        };
        self.length = FRAME_HEADER_BYTES + APPEND_BYTES;
        self.count = 0;
        self.bytes[FRAME_HEADER_BYTES..self.length].copy_from_slice(body.as_bytes());
    }

    /// Whether a record of `bytes` bytes still fits.
    #[must_use]
    pub fn fits(&self, bytes: usize) -> bool {
        self.length + ENTRY_BYTES + bytes <= FRAME_BYTES_MAX
    }

    /// Entries in the frame so far.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Adds an entry.
    ///
    /// # Panics
    ///
    /// If it does not [fit](Self::fits).
    pub fn push(&mut self, record: &[u8], live_mask: u32, superseded_by: Option<LogIndex>) {
        let prefix = EntryBody {
            superseded_by: superseded_by.map_or(0, |index| index.0).into(),
            live_mask: live_mask.into(),
            reserved: U32::ZERO,
        };
        let at = self.length;
        let start = at + ENTRY_BYTES;
        self.bytes[at..start].copy_from_slice(prefix.as_bytes());
        self.bytes[start..start + record.len()].copy_from_slice(record);
        self.length = start + record.len();
        self.count += 1;
    }

    /// The finished frame.
    pub fn frame(&mut self) -> &[u8] {
        emit_header(FrameKind::Append, self.count, self.length, &mut self.bytes[..self.length]);
        &self.bytes[..self.length]
    }
}

/// The mask that names all of `blocks` blocks.
#[must_use]
pub fn live_mask_of(blocks: u32) -> u32 {
    if blocks == 0 { 0 } else { u32::MAX >> (32 - blocks) }
}

/// Reads one append frame.
pub struct AppendReader<'a> {
    header: AppendHeader,
    count: u16,
    bytes: &'a [u8],
}

impl<'a> AppendReader<'a> {
    /// Parses what stands before the entries.
    ///
    /// # Errors
    ///
    /// [`FrameError::Truncated`] where it is short.
    pub fn parse(count: u16, body: &'a [u8]) -> Result<AppendReader<'a>, FrameError> {
        let (fixed, bytes) =
            AppendBody::ref_from_prefix(body).map_err(|_| FrameError::Truncated)?;
        let header = AppendHeader {
            copyset: CopysetId(fixed.copyset.get()),
            from: ReplicaId(fixed.from.get()),
            to: ReplicaId(fixed.to.get()),
            term: Term(fixed.term.get()),
            previous_index: LogIndex(fixed.previous_index.get()),
            previous_term: Term(fixed.previous_term.get()),
            commit: LogIndex(fixed.commit.get()),
            sent_ns: fixed.sent_ns.get(),
        };
        Ok(AppendReader { header, count, bytes })
    }

    /// What stands before the entries.
    #[must_use]
    pub fn header(&self) -> &AppendHeader {
        &self.header
    }

    /// Entries not read yet.
    #[must_use]
    pub fn remaining(&self) -> u16 {
        self.count
    }

    /// The next entry, checked: its copyset is the header's and its index and term follow on.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the rest of the frame must not be believed either.
    pub fn next_entry(&mut self) -> Result<Option<AppendEntry<'a>>, FrameError> {
        if self.count == 0 {
            return if self.bytes.is_empty() { Ok(None) } else { Err(FrameError::Field("count")) };
        }
        let (prefix, rest) =
            EntryBody::ref_from_prefix(self.bytes).map_err(|_| FrameError::Truncated)?;
        let record = RecordView::parse(rest)?;
        if record.copyset() != self.header.copyset {
            return Err(FrameError::Field("copyset"));
        }
        let place = self.header.previous_index.0.checked_add(1);
        if place != Some(record.index().0) || record.term() > self.header.term {
            return Err(FrameError::Field("index"));
        }
        let superseded_by = prefix.superseded_by.get();
        let superseded_by = (superseded_by != 0).then_some(LogIndex(superseded_by));
        let all = live_mask_of(record.payload_blocks());
        let live_mask = prefix.live_mask.get();
        if live_mask & !all != 0 || (live_mask != all) != superseded_by.is_some() {
            return Err(FrameError::Field("live mask"));
        }
        if superseded_by.is_some_and(|by| by < record.index()) {
            return Err(FrameError::Field("superseded"));
        }
        self.bytes = &rest[record.bytes().len()..];
        self.header.previous_index = record.index();
        self.count -= 1;
        Ok(Some(AppendEntry { record, live_mask, superseded_by }))
    }
}
