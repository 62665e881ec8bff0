//! Requests of clients and their replies.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FRAME_HEADER_BYTES, FrameError, FrameKind, emit_header};
use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, OPERATION_BLOCKS_MAX, RequestNumber, SessionId,
};

/// Bytes of a request frame without checksums.
pub const REQUEST_BYTES: usize = FRAME_HEADER_BYTES + size_of::<RequestBody>();
/// Bytes of a reply frame without checksums.
pub const REPLY_BYTES: usize = FRAME_HEADER_BYTES + size_of::<ReplyBody>();
const _: () = assert!(size_of::<RequestBody>() == 72);
const _: () = assert!(size_of::<ReplyBody>() == 32);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestKind {
    /// Write `range`; payload of as many blocks comes with the frame, checksums in its body.
    Write = 1,
    /// Read `range` into the client's own window at `landing_page`.
    Read = 2,
    /// Unmap `range`.
    Discard = 3,
    /// Delete the chunk.
    Delete = 4,
    /// Open a session with the copyset; the client's UUID is the identity of its connection.
    OpenSession = 5,
    /// Raise the copyset's fencing epoch to `epoch`.
    Fence = 6,
    /// The node's status as JSON, read in pieces: `range.first` is the byte offset, the reply's
    /// trailing bytes are the piece, its `value` the total length. Offset 0 takes the snapshot.
    Status = 7,
    /// Close the session named, if it is that of the client behind the connection.
    CloseSession = 8,
    /// Who leads the copyset, as far as this replica knows: the reply's value is the leader's
    /// replica id, or 0, and its index the term. Any replica answers.
    Leader = 9,
}

impl RequestKind {
    fn from_byte(byte: u8) -> Option<RequestKind> {
        Some(match byte {
            1 => RequestKind::Write,
            2 => RequestKind::Read,
            3 => RequestKind::Discard,
            4 => RequestKind::Delete,
            5 => RequestKind::OpenSession,
            6 => RequestKind::Fence,
            7 => RequestKind::Status,
            8 => RequestKind::CloseSession,
            9 => RequestKind::Leader,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RequestBody {
    kind: u8,
    reserved: [u8; 3],
    copyset: U32,
    token: U64,
    chunk: U64,
    first_block: U32,
    blocks: U32,
    landing_page: U32,
    reserved2: U32,
    epoch: U64,
    session: U64,
    request: U64,
    sequence: U64,
}

/// A request, its fields copied out of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What to do.
    pub kind: RequestKind,
    /// The client's own, returned in the reply.
    pub token: u64,
    /// In which copyset.
    pub copyset: CopysetId,
    /// To which chunk.
    pub chunk: ChunkId,
    /// To which blocks.
    pub range: BlockRange,
    /// For reads: first page of the run in the client's window that takes the data.
    pub landing_page: u32,
    /// Fencing epoch that the client holds.
    pub epoch: Epoch,
    /// Session with the copyset; zero: none, a retry may then apply twice.
    pub session: SessionId,
    /// Number within the session; zero: none.
    pub request: RequestNumber,
    /// Curve's sequence number; zero for native clients.
    pub sequence: u64,
    /// For writes: one little-endian CRC-32C per block.
    pub crcs: &'a [u8],
}

impl<'a> Request<'a> {
    /// Encodes the frame and returns it, a prefix of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is too short.
    pub fn emit<'o>(&self, out: &'o mut [u8]) -> &'o [u8] {
        let body = RequestBody {
            kind: self.kind as u8,
            reserved: [0; 3],
            copyset: self.copyset.0.into(),
            token: self.token.into(),
            chunk: self.chunk.0.into(),
            first_block: self.range.first.into(),
            blocks: self.range.blocks.into(),
            landing_page: self.landing_page.into(),
            reserved2: U32::ZERO,
            epoch: self.epoch.0.into(),
            session: self.session.0.into(),
            request: self.request.0.into(),
            sequence: self.sequence.into(),
        };
        let length = REQUEST_BYTES + self.crcs.len();
        let out = &mut out[..length];
        out[FRAME_HEADER_BYTES..REQUEST_BYTES].copy_from_slice(body.as_bytes());
        out[REQUEST_BYTES..].copy_from_slice(self.crcs);
        emit_header(FrameKind::Request, 1, length, out);
        out
    }

    /// Parses the body of a frame of kind [`FrameKind::Request`].
    ///
    /// # Errors
    ///
    /// [`FrameError`] where the structure is short or a field is impossible. Ranges, copyset and
    /// epoch are for the receiver to judge.
    pub fn parse(body: &'a [u8]) -> Result<Request<'a>, FrameError> {
        let (fixed, crcs) =
            RequestBody::read_from_prefix(body).map_err(|_| FrameError::Truncated)?;
        let kind = RequestKind::from_byte(fixed.kind).ok_or(FrameError::Field("kind"))?;
        if fixed.reserved != [0; 3] || fixed.reserved2 != U32::ZERO {
            return Err(FrameError::Field("reserved"));
        }
        let blocks = fixed.blocks.get();
        let expected = if kind == RequestKind::Write {
            if !(1..=OPERATION_BLOCKS_MAX).contains(&blocks) {
                return Err(FrameError::Field("blocks"));
            }
            blocks as usize * 4
        } else {
            0
        };
        if crcs.len() != expected {
            return Err(FrameError::Field("crcs"));
        }
        Ok(Request {
            kind,
            token: fixed.token.get(),
            copyset: CopysetId(fixed.copyset.get()),
            chunk: ChunkId(fixed.chunk.get()),
            range: BlockRange { first: fixed.first_block.get(), blocks },
            landing_page: fixed.landing_page.get(),
            epoch: Epoch(fixed.epoch.get()),
            session: SessionId(fixed.session.get()),
            request: RequestNumber(fixed.request.get()),
            sequence: fixed.sequence.get(),
            crcs,
        })
    }

    /// The checksums of a write.
    pub fn crcs(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.crcs.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum ReplyStatus {
    /// Done.
    #[error("ok")]
    Ok = 0,
    /// This replica does not lead the copyset and has not proposed the request; the reply's value
    /// is the leader's replica id, or 0.
    #[error("replica is not the leader")]
    NotLeader = 1,
    /// Out of some resource for a moment: retry later.
    #[error("node is busy")]
    Busy = 2,
    /// The copyset is at its quota and the write would map new blocks.
    #[error("copyset is at its quota: no space")]
    NoSpace = 3,
    /// The client's epoch is older than the copyset's, which is the reply's value.
    #[error("client is fenced: its epoch is older than the copyset's")]
    Fenced = 4,
    /// The session is unknown or has expired: open a new one.
    #[error("session is unknown or has expired")]
    NoSession = 5,
    /// The request's number has left the session's window: its outcome is no longer known.
    #[error("request number has left the session's window")]
    BelowWindow = 6,
    /// The range ends past the chunk's last block, or is empty.
    #[error("range is empty or ends past the end of the chunk")]
    OutOfRange = 7,
    /// The node has no replica of the copyset in service.
    #[error("no replica of this copyset is in service here")]
    NoCopyset = 8,
    /// The payload that arrived does not match the request's checksums.
    #[error("payload does not match its checksums")]
    PayloadChecksum = 9,
    /// The stored block fails its checksum or the device cannot read it.
    #[error("stored block is bad on this replica")]
    Media = 10,
    /// The request is malformed for this version.
    #[error("request is malformed")]
    Malformed = 11,
    /// The device failed; the replica is leaving service.
    #[error("device failed")]
    DeviceFailed = 12,
    /// The request was proposed here, but this replica lost the lead before it was committed: it
    /// may be executed or not. The client repeats it under the same number. The reply's value is
    /// the leader's replica id, or 0.
    #[error("replica lost the lead before the entry was committed")]
    Deposed = 13,
    /// The copyset holds as many sessions as it may, or as a checkpoint here has room for: retry
    /// later, when others have ended.
    #[error("copyset holds as many sessions as it may")]
    SessionsFull = 14,
}

impl ReplyStatus {
    fn from_byte(byte: u8) -> Option<ReplyStatus> {
        use ReplyStatus::{
            BelowWindow, Busy, Deposed, DeviceFailed, Fenced, Malformed, Media, NoCopyset,
            NoSession, NoSpace, NotLeader, Ok, OutOfRange, PayloadChecksum, SessionsFull,
        };
        const ALL: [ReplyStatus; 15] = [
            Ok,
            NotLeader,
            Busy,
            NoSpace,
            Fenced,
            NoSession,
            BelowWindow,
            OutOfRange,
            NoCopyset,
            PayloadChecksum,
            Media,
            Malformed,
            DeviceFailed,
            Deposed,
            SessionsFull,
        ];
        ALL.get(usize::from(byte)).copied()
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ReplyBody {
    status: u8,
    reserved: u8,
    blocks: U16,
    trailing: U32,
    token: U64,
    value: U64,
    index: U64,
}

/// A reply, its fields copied out of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// How it ended.
    pub status: ReplyStatus,
    /// Blocks read; zero otherwise.
    pub blocks: u16,
    /// The request's token.
    pub token: u64,
    /// Session id, leader hint, epoch or length: see the status and the request's kind.
    pub value: u64,
    /// For writes: the log index that applied it.
    pub index: u64,
    /// For reads one little-endian CRC-32C per block; for status a piece of text.
    pub trailing: &'a [u8],
}

impl<'a> Reply<'a> {
    /// A reply that says only how it ended.
    #[must_use]
    pub fn new(status: ReplyStatus, token: u64) -> Reply<'static> {
        Reply { status, blocks: 0, token, value: 0, index: 0, trailing: &[] }
    }

    /// Encodes the frame and returns it, a prefix of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is too short.
    pub fn emit<'o>(&self, out: &'o mut [u8]) -> &'o [u8] {
        let body = ReplyBody {
            status: self.status as u8,
            reserved: 0,
            blocks: self.blocks.into(),
            trailing: (self.trailing.len() as u32).into(),
            token: self.token.into(),
            value: self.value.into(),
            index: self.index.into(),
        };
        let length = REPLY_BYTES + self.trailing.len();
        let out = &mut out[..length];
        out[FRAME_HEADER_BYTES..REPLY_BYTES].copy_from_slice(body.as_bytes());
        out[REPLY_BYTES..].copy_from_slice(self.trailing);
        emit_header(FrameKind::Reply, 1, length, out);
        out
    }

    /// Parses the body of a frame of kind [`FrameKind::Reply`].
    ///
    /// # Errors
    ///
    /// [`FrameError`] where the structure is short or a field is impossible.
    pub fn parse(body: &'a [u8]) -> Result<Reply<'a>, FrameError> {
        let (fixed, trailing) =
            ReplyBody::read_from_prefix(body).map_err(|_| FrameError::Truncated)?;
        let status = ReplyStatus::from_byte(fixed.status).ok_or(FrameError::Field("status"))?;
        if fixed.reserved != 0 {
            return Err(FrameError::Field("reserved"));
        }
        if trailing.len() != fixed.trailing.get() as usize {
            return Err(FrameError::Field("trailing"));
        }
        Ok(Reply {
            status,
            blocks: fixed.blocks.get(),
            token: fixed.token.get(),
            value: fixed.value.get(),
            index: fixed.index.get(),
            trailing,
        })
    }

    /// The checksums of a read.
    pub fn crcs(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.trailing.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_and_kind_is_read_back() {
        for byte in 0..=u8::MAX {
            let status = ReplyStatus::from_byte(byte);
            assert_eq!(status.map(|status| status as u8), (byte <= 14).then_some(byte));
            let kind = RequestKind::from_byte(byte);
            let known = (1..=9).contains(&byte);
            assert_eq!(kind.map(|kind| kind as u8), known.then_some(byte));
        }
    }

    #[test]
    fn what_is_reserved_is_zero() {
        let mut out = [0; REPLY_BYTES];
        Reply::new(ReplyStatus::Busy, 7).emit(&mut out);
        assert!(Reply::parse(&out[FRAME_HEADER_BYTES..]).is_ok());
        out[FRAME_HEADER_BYTES + 1] = 1;
        let refused = Reply::parse(&out[FRAME_HEADER_BYTES..]);
        assert_eq!(refused, Err(FrameError::Field("reserved")));
    }
}
