//! Catch-up by block difference: what a leader and a replica that is too far behind say.
//!
//! The leader asks what the receiver holds ([`CatchUpKind::List`], answered by
//! [`CatchUpKind::Manifest`]), sends what it lacks, chunk by chunk ([`CatchUpKind::Chunk`], with
//! payload), names the chunks that exist ([`CatchUpKind::Retain`]) and ends with the copyset's
//! state at the index where the round began ([`CatchUpKind::State`]). Frames of a task are
//! numbered; the receiver deals with them in order and answers each, a list with its manifest and
//! all others with [`CatchUpKind::Done`]. Byte map: `docs/format/wire.md`.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameError, FrameKind, emit_header};
use crate::ids::{ChunkId, CopysetId, LogIndex, ReplicaId, Term};

/// A step of a catch-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CatchUpKind {
    /// Leader: a round begins at `index`, whose entry is of `index_term`. Behind the head: the
    /// copyset's configuration there.
    Begin = 1,
    /// Leader: which chunks do you hold, behind `chunk` unless this is the `first` question?
    List = 2,
    /// Receiver: these ([`ManifestItem`]); `last` says that there are no more.
    Manifest = 3,
    /// Leader: blocks of a chunk ([`ChunkBlock`]); `last` ends the chunk and installs it.
    Chunk = 4,
    /// Leader: the copyset has these chunks ([`ChunkName`]) and no other, as of `index`.
    Retain = 5,
    /// Leader: a piece of the copyset's state at `index` of `term`; `last` ends the catch-up.
    State = 6,
    /// Receiver: the frame of this number is dealt with.
    Done = 7,
    /// Either: the task is over before its end.
    Abort = 8,
}

impl CatchUpKind {
    fn from_byte(byte: u8) -> Option<CatchUpKind> {
        use CatchUpKind::{Abort, Begin, Chunk, Done, List, Manifest, Retain, State};
        const ALL: [CatchUpKind; 8] = [Begin, List, Manifest, Chunk, Retain, State, Done, Abort];
        ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

/// What every frame of a catch-up begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpHead {
    /// Which step.
    pub kind: CatchUpKind,
    /// The first of the frames that belong together.
    pub first: bool,
    /// The last of them.
    pub last: bool,
    /// The copyset.
    pub copyset: CopysetId,
    /// Sending replica.
    pub from: ReplicaId,
    /// Receiving replica.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// The task, named by its leader.
    pub task: u64,
    /// Counts the leader's frames of the task from 1; an answer repeats it.
    pub number: u64,
    /// An index; its meaning depends on the kind.
    pub index: LogIndex,
    /// Term of the entry at `index`.
    pub index_term: Term,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its birth.
    pub birth: LogIndex,
    /// Its applied index when it was frozen.
    pub applied: LogIndex,
    /// The blocks hold every change above this index.
    pub since: LogIndex,
    /// Bytes of the whole state, or chunks in the whole list.
    pub total: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeadBody {
    kind: u8,
    flags: u8,
    reserved: [u8; 2],
    copyset: U32,
    from: U64,
    to: U64,
    term: U64,
    task: U64,
    number: U64,
    index: U64,
    index_term: U64,
    chunk: U64,
    birth: U64,
    applied: U64,
    since: U64,
    total: U32,
    reserved_end: [u8; 4],
}

const HEAD_BYTES: usize = size_of::<HeadBody>();
const _: () = assert!(HEAD_BYTES == 104);

/// Bytes behind the head that one frame has room for.
pub const CATCH_UP_BODY_BYTES: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES - HEAD_BYTES;

const FLAG_FIRST: u8 = 1;
const FLAG_LAST: u8 = 2;

/// A chunk that the receiver holds.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ManifestItem {
    /// The chunk.
    pub chunk: U64,
    /// Its birth.
    pub birth: U64,
    /// Its applied index.
    pub applied: U64,
    /// Its mapped blocks.
    pub mapped: U32,
    /// Zero.
    pub reserved: U32,
}

/// Items of a manifest that one frame has room for.
pub const MANIFEST_ITEMS_MAX: usize = CATCH_UP_BODY_BYTES / size_of::<ManifestItem>();

/// A block of a chunk that changed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChunkBlock {
    /// The block, counted from the start of the chunk.
    pub block: U32,
    /// CRC-32C of its bytes; zero for a hole.
    pub crc: U32,
    /// The index that wrote or unmapped it.
    pub index: U64,
    /// 1: its bytes come along; 0: it is a hole.
    pub mapped: U32,
}

/// A chunk that exists.
pub type ChunkName = U64;

/// Names of chunks that one frame has room for.
pub const CHUNK_NAMES_MAX: usize = CATCH_UP_BODY_BYTES / size_of::<ChunkName>();

/// Encodes a frame: the head, and items or bytes behind it. Returns the frame, a prefix of `out`.
///
/// # Panics
///
/// If `body` is longer than [`CATCH_UP_BODY_BYTES`].
pub fn emit_catch_up<'o>(
    head: &CatchUpHead,
    count: u16,
    body: &[u8],
    out: &'o mut [u8],
) -> &'o [u8] {
    assert!(body.len() <= CATCH_UP_BODY_BYTES);
    let fixed = HeadBody {
        kind: head.kind as u8,
        flags: u8::from(head.first) * FLAG_FIRST + u8::from(head.last) * FLAG_LAST,
        reserved: [0; 2],
        copyset: head.copyset.0.into(),
        from: head.from.0.into(),
        to: head.to.0.into(),
        term: head.term.0.into(),
        task: head.task.into(),
        number: head.number.into(),
        index: head.index.0.into(),
        index_term: head.index_term.0.into(),
        chunk: head.chunk.0.into(),
        birth: head.birth.0.into(),
        applied: head.applied.0.into(),
        since: head.since.0.into(),
        total: head.total.into(),
        reserved_end: [0; 4],
    };
    let start = FRAME_HEADER_BYTES + HEAD_BYTES;
    let length = start + body.len();
    let out = &mut out[..length];
    out[FRAME_HEADER_BYTES..start].copy_from_slice(fixed.as_bytes());
    out[start..].copy_from_slice(body);
    emit_header(FrameKind::CatchUp, count, length, out);
    out
}

/// Parses the body of a frame of kind [`FrameKind::CatchUp`] into its head and what follows.
///
/// # Errors
///
/// [`FrameError`] where the structure is short or a field is impossible.
pub fn parse_catch_up(body: &[u8]) -> Result<(CatchUpHead, &[u8]), FrameError> {
    let (fixed, rest) = HeadBody::read_from_prefix(body).map_err(|_| FrameError::Truncated)?;
    if fixed.flags & !(FLAG_FIRST | FLAG_LAST) != 0 || fixed.reserved_end != [0; 4] {
        return Err(FrameError::Field("flags"));
    }
    let head = CatchUpHead {
        kind: CatchUpKind::from_byte(fixed.kind).ok_or(FrameError::Field("kind"))?,
        first: fixed.flags & FLAG_FIRST != 0,
        last: fixed.flags & FLAG_LAST != 0,
        copyset: CopysetId(fixed.copyset.get()),
        from: ReplicaId(fixed.from.get()),
        to: ReplicaId(fixed.to.get()),
        term: Term(fixed.term.get()),
        task: fixed.task.get(),
        number: fixed.number.get(),
        index: LogIndex(fixed.index.get()),
        index_term: Term(fixed.index_term.get()),
        chunk: ChunkId(fixed.chunk.get()),
        birth: LogIndex(fixed.birth.get()),
        applied: LogIndex(fixed.applied.get()),
        since: LogIndex(fixed.since.get()),
        total: fixed.total.get(),
    };
    Ok((head, rest))
}

/// Looks at the items behind a head.
///
/// # Errors
///
/// [`FrameError::Field`] where the bytes are no whole number of items, or not `count` of them.
pub fn catch_up_items<T>(count: u16, bytes: &[u8]) -> Result<&[T], FrameError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let items = <[T]>::ref_from_bytes(bytes).map_err(|_| FrameError::Field("items"))?;
    if items.len() == usize::from(count) { Ok(items) } else { Err(FrameError::Field("count")) }
}
