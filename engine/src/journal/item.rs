//! Items: what the journal, and a copyset's section of a checkpoint, say.

use arrayvec::ArrayVec;
use uuid::Uuid;

use super::chunk_installed::ChunkInstalled;
use super::entry::{Entry, emit_entry, parse_entry, record_length};
use super::lists::{ChunkList, Verdict};
use super::local::{BlockRepaired, REPAIRED_BYTES, SCRUB_BYTES, ScrubNote};
use crate::ids::{CopysetId, LogIndex, ReplicaId, Term};
use crate::record::RecordError;

/// Bytes before the body of an item.
pub const ITEM_HEADER_BYTES: usize = 8;

/// Bytes of the longest body: the header's length has 24 bits.
const BODY_BYTES_MAX: usize = (1 << 24) - 1;

pub(super) mod kind {
    pub(in crate::journal) const ENTRY: u8 = 1;
    pub(in crate::journal) const ENTRY_SUPERSEDED: u8 = 2;
    pub(in crate::journal) const HARD_STATE: u8 = 3;
    pub(in crate::journal) const APPLIED_NOTE: u8 = 4;
    pub(in crate::journal) const TRUNCATE: u8 = 5;
    pub(in crate::journal) const VERDICT: u8 = 6;
    pub(in crate::journal) const REPLICA_CREATED: u8 = 7;
    pub(in crate::journal) const REPLICA_REMOVED: u8 = 8;
    pub(in crate::journal) const CONF_STATE: u8 = 9;
    pub(in crate::journal) const CHUNK_INSTALLED: u8 = 10;
    pub(in crate::journal) const CATCH_UP: u8 = 11;
    pub(in crate::journal) const LOG_START: u8 = 12;
    pub(in crate::journal) const CHUNKS_RETAINED: u8 = 13;
    pub(in crate::journal) const STATE_PART: u8 = 14;
    pub(in crate::journal) const EXTENSION: u8 = 15;
    pub(in crate::journal) const BLOCK_REPAIRED: u8 = 16;
    pub(in crate::journal) const DOUBT: u8 = 17;
    pub(in crate::journal) const SCRUB_NOTE: u8 = 18;
}

/// Why bytes are not an item. Inside a block whose checksum is right it means another version of
/// the program, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// Fewer bytes than the item says.
    #[error("journal item is truncated")]
    Truncated,
    /// The header and the local part fail their checksum.
    #[error("journal item fails its checksum")]
    Checksum,
    /// A kind that this version does not know.
    #[error("journal item of unknown kind {0}")]
    Kind(u8),
    /// A body that its kind does not allow.
    #[error("journal item body does not fit its kind")]
    Body,
    /// An entry whose record is not one.
    #[error("journal entry")]
    Record(#[from] RecordError),
}

/// Raft's hard state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Vote in that term; zero: none.
    pub vote: ReplicaId,
    /// Commit index known.
    pub commit: LogIndex,
}

/// The name of a replica, minted with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaIdentity {
    /// Raft's name for it.
    pub id: ReplicaId,
    /// Everybody's name for it.
    pub uuid: Uuid,
}

/// One thing that the journal says.
#[derive(Clone)]
pub enum Item<'a> {
    /// A raft entry. It voids earlier entries of its group from its index on.
    Entry(Entry<'a>),
    /// Raft's hard state of a group.
    HardState(CopysetId, HardState),
    /// Everything up to the index is committed and applied.
    AppliedNote(CopysetId, LogIndex),
    /// Entries from the index on are void.
    Truncate(CopysetId, LogIndex),
    /// The log is empty and begins behind this index, whose entry had this term.
    LogStart(CopysetId, LogIndex, Term),
    /// First item of an incarnation: what it gave up.
    Verdict(Verdict<'a>),
    /// A replica was created here; with bytes of the composer's.
    ReplicaCreated(CopysetId, ReplicaIdentity, &'a [u8]),
    /// The replica is gone, and all that was its.
    ReplicaRemoved(CopysetId),
    /// Raft's configuration of the group, in the composer's encoding.
    ConfState(CopysetId, &'a [u8]),
    /// Catch-up installed a chunk.
    ChunkInstalled(ChunkInstalled<'a>),
    /// Catch-up removed all chunks but these; the sender's list when it had applied the index.
    ChunksRetained(CopysetId, LogIndex, ChunkList<'a>),
    /// Catch-up began, went on or ended; bytes of the composer's.
    CatchUp(CopysetId, &'a [u8]),
    /// A part of a copyset's whole state, in the composer's encoding: bytes from `offset` on, of
    /// `total`. With the last part it replaces the state that a checkpoint holds.
    StatePart(CopysetId, StatePart<'a>),
    /// Bytes of the composer's.
    Extension(CopysetId, &'a [u8]),
    /// Whether the replica may have forgotten votes and acknowledgements that it once gave.
    Doubt(CopysetId, bool),
    /// A block was repaired from a peer, and lies elsewhere.
    BlockRepaired(BlockRepaired),
    /// How far the scrub has come.
    ScrubNote(ScrubNote),
}

/// See [`Item::StatePart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePart<'a> {
    /// Bytes of the whole state.
    pub total: u32,
    /// Where this part begins.
    pub offset: u32,
    /// The part.
    pub bytes: &'a [u8],
}

/// Where encoded items go.
pub trait Sink {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The fixed part of a body, before opaque bytes.
type Fixed = ArrayVec<u8, 32>;

impl<'a> Item<'a> {
    /// Bytes that [`Item::emit`] puts.
    #[must_use]
    pub fn length(&self) -> usize {
        ITEM_HEADER_BYTES + self.body_length()
    }

    fn body_length(&self) -> usize {
        match self {
            Item::Entry(entry) => entry.body_length(),
            Item::HardState(..) => 28,
            Item::AppliedNote(..) | Item::Truncate(..) => 12,
            Item::LogStart(..) => 20,
            Item::ChunksRetained(_, _, chunks) => 12 + chunks.bytes().len(),
            Item::Verdict(verdict) => verdict.bytes().len(),
            Item::ReplicaCreated(_, _, bytes) => 28 + bytes.len(),
            Item::ReplicaRemoved(_) => 4,
            Item::Doubt(..) => 8,
            Item::StatePart(_, part) => 12 + part.bytes.len(),
            Item::ConfState(_, bytes) | Item::CatchUp(_, bytes) | Item::Extension(_, bytes) => {
                4 + bytes.len()
            }
            Item::ChunkInstalled(installed) => installed.bytes().len(),
            Item::BlockRepaired(_) => REPAIRED_BYTES,
            Item::ScrubNote(_) => SCRUB_BYTES,
        }
    }

    /// Encodes the item.
    ///
    /// # Panics
    ///
    /// If the body is longer than 16 MiB, which no writer's batch is.
    pub fn emit(&self, sink: &mut impl Sink) {
        match self {
            Item::Entry(entry) => emit_entry(entry, sink),
            Item::ChunkInstalled(installed) => {
                emit_parts(kind::CHUNK_INSTALLED, &[], installed.bytes(), sink);
            }
            Item::Verdict(verdict) => emit_parts(kind::VERDICT, &[], verdict.bytes(), sink),
            Item::BlockRepaired(repaired) => {
                emit_parts(kind::BLOCK_REPAIRED, &repaired.emit(), &[], sink);
            }
            Item::ScrubNote(note) => emit_parts(kind::SCRUB_NOTE, &note.emit(), &[], sink),
            _ => {
                let mut fixed = Fixed::new();
                let (kind, opaque) = self.fixed_part(&mut fixed);
                emit_parts(kind, &fixed, opaque, sink);
            }
        }
    }

    /// Kind, fixed part and opaque part of the items that have such.
    fn fixed_part(&self, fixed: &mut Fixed) -> (u8, &'a [u8]) {
        let mut put = |bytes: &[u8]| {
            fixed.try_extend_from_slice(bytes).expect("fixed parts are shorter than the array");
        };
        match *self {
            Item::HardState(copyset, state) => {
                put(&copyset.0.to_le_bytes());
                put(&state.term.0.to_le_bytes());
                put(&state.vote.0.to_le_bytes());
                put(&state.commit.0.to_le_bytes());
                (kind::HARD_STATE, &[])
            }
            Item::AppliedNote(copyset, index) | Item::Truncate(copyset, index) => {
                put(&copyset.0.to_le_bytes());
                put(&index.0.to_le_bytes());
                let note = matches!(self, Item::AppliedNote(..));
                (if note { kind::APPLIED_NOTE } else { kind::TRUNCATE }, &[])
            }
            Item::LogStart(copyset, index, term) => {
                put(&copyset.0.to_le_bytes());
                put(&index.0.to_le_bytes());
                put(&term.0.to_le_bytes());
                (kind::LOG_START, &[])
            }
            Item::ChunksRetained(copyset, index, chunks) => {
                put(&copyset.0.to_le_bytes());
                put(&index.0.to_le_bytes());
                (kind::CHUNKS_RETAINED, chunks.bytes())
            }
            Item::ReplicaCreated(copyset, identity, bytes) => {
                put(&copyset.0.to_le_bytes());
                put(&identity.id.0.to_le_bytes());
                put(identity.uuid.as_bytes());
                (kind::REPLICA_CREATED, bytes)
            }
            Item::ReplicaRemoved(copyset) => {
                put(&copyset.0.to_le_bytes());
                (kind::REPLICA_REMOVED, &[])
            }
            Item::Doubt(copyset, in_doubt) => {
                put(&copyset.0.to_le_bytes());
                put(&u32::from(in_doubt).to_le_bytes());
                (kind::DOUBT, &[])
            }
            Item::StatePart(copyset, part) => {
                put(&copyset.0.to_le_bytes());
                put(&part.total.to_le_bytes());
                put(&part.offset.to_le_bytes());
                (kind::STATE_PART, part.bytes)
            }
            Item::ConfState(copyset, bytes)
            | Item::CatchUp(copyset, bytes)
            | Item::Extension(copyset, bytes) => {
                put(&copyset.0.to_le_bytes());
                let kind = match self {
                    Item::ConfState(..) => kind::CONF_STATE,
                    Item::CatchUp(..) => kind::CATCH_UP,
                    _ => kind::EXTENSION,
                };
                (kind, bytes)
            }
            Item::Entry(_)
            | Item::Verdict(_)
            | Item::ChunkInstalled(_)
            | Item::BlockRepaired(_)
            | Item::ScrubNote(_) => unreachable!("emitted without a fixed part"),
        }
    }

    /// Decodes the item at the start of `bytes` and returns it with its length.
    ///
    /// # Errors
    ///
    /// [`ItemError`] says what is wrong; where the next item begins is unknown then.
    pub fn parse(bytes: &'a [u8]) -> Result<(Item<'a>, usize), ItemError> {
        let header = bytes.get(..ITEM_HEADER_BYTES).ok_or(ItemError::Truncated)?;
        let word = u32_at(header, 4);
        let end = ITEM_HEADER_BYTES + (word & BODY_BYTES_MAX as u32) as usize;
        let kind = (word >> 24) as u8;
        let body = bytes.get(ITEM_HEADER_BYTES..end).ok_or(ItemError::Truncated)?;
        let entry = matches!(kind, kind::ENTRY | kind::ENTRY_SUPERSEDED);
        let record_bytes = if entry { record_length(body)? } else { 0 };
        let (record, local) = body.split_at(record_bytes);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[4..]), local);
        if crc != u32_at(header, 0) {
            return Err(ItemError::Checksum);
        }
        let item = if entry {
            Item::Entry(parse_entry(record, local, kind == kind::ENTRY_SUPERSEDED)?)
        } else {
            parse_local(kind, local)?
        };
        Ok((item, end))
    }

    /// The group that the item is about; a verdict is about several.
    #[must_use]
    pub fn copyset(&self) -> Option<CopysetId> {
        match self {
            Item::Entry(entry) => Some(entry.record.copyset()),
            Item::ChunkInstalled(installed) => Some(installed.head().copyset),
            Item::BlockRepaired(repaired) => Some(repaired.copyset),
            Item::ScrubNote(note) => Some(note.copyset),
            Item::Verdict(_) => None,
            Item::HardState(copyset, _)
            | Item::AppliedNote(copyset, _)
            | Item::Truncate(copyset, _)
            | Item::LogStart(copyset, ..)
            | Item::ReplicaCreated(copyset, ..)
            | Item::ReplicaRemoved(copyset)
            | Item::ConfState(copyset, _)
            | Item::ChunksRetained(copyset, ..)
            | Item::Doubt(copyset, _)
            | Item::CatchUp(copyset, _)
            | Item::StatePart(copyset, _)
            | Item::Extension(copyset, _) => Some(*copyset),
        }
    }
}

pub(super) fn item_header(
    kind: u8,
    body_length: usize,
    local: [&[u8]; 2],
) -> [u8; ITEM_HEADER_BYTES] {
    assert!(body_length <= BODY_BYTES_MAX, "an item is shorter than 16 MiB");
    let word = (body_length as u32 | u32::from(kind) << 24).to_le_bytes();
    let mut crc = crc32c::crc32c(&word);
    for part in local {
        crc = if part.is_empty() { crc } else { crc32c::crc32c_append(crc, part) };
    }
    let mut header = [0; ITEM_HEADER_BYTES];
    header[..4].copy_from_slice(&crc.to_le_bytes());
    header[4..].copy_from_slice(&word);
    header
}

fn emit_parts(kind: u8, fixed: &[u8], opaque: &[u8], sink: &mut impl Sink) {
    sink.put(&item_header(kind, fixed.len() + opaque.len(), [fixed, opaque]));
    sink.put(fixed);
    sink.put(opaque);
}

fn parse_local(kind: u8, body: &[u8]) -> Result<Item<'_>, ItemError> {
    if kind == kind::VERDICT {
        return Verdict::parse(body).map(Item::Verdict);
    }
    if kind == kind::CHUNK_INSTALLED {
        return ChunkInstalled::parse(body).map(Item::ChunkInstalled).ok_or(ItemError::Body);
    }
    if kind == kind::BLOCK_REPAIRED {
        return BlockRepaired::parse(body).map(Item::BlockRepaired).ok_or(ItemError::Body);
    }
    if kind == kind::SCRUB_NOTE {
        return ScrubNote::parse(body).map(Item::ScrubNote).ok_or(ItemError::Body);
    }
    let (fixed, open) = match kind {
        kind::HARD_STATE => (28, false),
        kind::APPLIED_NOTE | kind::TRUNCATE => (12, false),
        kind::CHUNKS_RETAINED | kind::STATE_PART => (12, true),
        kind::LOG_START => (20, false),
        kind::REPLICA_CREATED => (28, true),
        kind::REPLICA_REMOVED => (4, false),
        kind::DOUBT => (8, false),
        kind::CONF_STATE | kind::CATCH_UP | kind::EXTENSION => (4, true),
        _ => return Err(ItemError::Kind(kind)),
    };
    let (fixed, rest) = body.split_at_checked(fixed).ok_or(ItemError::Body)?;
    if !open && !rest.is_empty() {
        return Err(ItemError::Body);
    }
    let copyset = CopysetId(u32_at(fixed, 0));
    Ok(match kind {
        kind::HARD_STATE => Item::HardState(
            copyset,
            HardState {
                term: Term(u64_at(fixed, 4)),
                vote: ReplicaId(u64_at(fixed, 12)),
                commit: LogIndex(u64_at(fixed, 20)),
            },
        ),
        kind::APPLIED_NOTE => Item::AppliedNote(copyset, LogIndex(u64_at(fixed, 4))),
        kind::TRUNCATE => Item::Truncate(copyset, LogIndex(u64_at(fixed, 4))),
        kind::LOG_START => {
            Item::LogStart(copyset, LogIndex(u64_at(fixed, 4)), Term(u64_at(fixed, 12)))
        }
        kind::CHUNKS_RETAINED => {
            Item::ChunksRetained(copyset, LogIndex(u64_at(fixed, 4)), ChunkList::parse(rest)?)
        }
        kind::REPLICA_CREATED => {
            let uuid = fixed[12..28].try_into().expect("sixteen bytes");
            let identity =
                ReplicaIdentity { id: ReplicaId(u64_at(fixed, 4)), uuid: Uuid::from_bytes(uuid) };
            Item::ReplicaCreated(copyset, identity, rest)
        }
        kind::REPLICA_REMOVED => Item::ReplicaRemoved(copyset),
        kind::CONF_STATE => Item::ConfState(copyset, rest),
        kind::CATCH_UP => Item::CatchUp(copyset, rest),
        kind::DOUBT => match u32_at(fixed, 4) {
            flag @ (0 | 1) => Item::Doubt(copyset, flag == 1),
            _ => return Err(ItemError::Body),
        },
        kind::STATE_PART => {
            let part = StatePart { total: u32_at(fixed, 4), offset: u32_at(fixed, 8), bytes: rest };
            let end = u64::from(part.offset) + rest.len() as u64;
            if end > u64::from(part.total) {
                return Err(ItemError::Body);
            }
            Item::StatePart(copyset, part)
        }
        _ => Item::Extension(copyset, rest),
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
