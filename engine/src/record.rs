//! The record: what a raft entry says, byte for byte the same on every replica.
//!
//! A record is a fixed header and an operation-specific body. It travels in append frames, is
//! stored in the journal beside a local part (which differs between replicas and is not its
//! concern) and is kept in the in-memory log. It is not a raft message and knows no disk position.
//!
//! Fault model: bytes that claim to be a record come from a peer or a device. [`RecordView::parse`]
//! is the only way to look at them, and it checks length, CRC and the relation between operation
//! and body. Byte map: `docs/format/record.md`.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, LogIndex, OPERATION_BLOCKS_MAX, RequestNumber,
    SessionId, Term,
};

/// Bytes of the fixed header.
pub const RECORD_HEADER_BYTES: usize = 80;

/// Bytes of the longest body: a configuration change, or 32 checksums, or less.
pub const RECORD_BODY_BYTES_MAX: usize = 432;

/// Bytes of the longest record.
pub const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + RECORD_BODY_BYTES_MAX;

const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES);
const _: () = assert!(OPERATION_BLOCKS_MAX as usize * 4 <= RECORD_BODY_BYTES_MAX);

/// What an entry does to the state of its copyset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Nothing: a new leader's first entry.
    Noop = 0,
    /// Writes `blocks` blocks of a chunk; the body is one CRC-32C per block. The chunk is born
    /// with its first write.
    Write = 1,
    /// Unmaps `blocks` blocks of a chunk; they read as zeroes.
    Discard = 2,
    /// Deletes a chunk.
    Delete = 3,
    /// Opens a session; the body is the client's UUID, 16 bytes. The session's id is the index.
    OpenSession = 4,
    /// Ends the session named in the header.
    ExpireSession = 5,
    /// Raises the fencing epoch of the copyset to the header's epoch.
    Fence = 6,
    /// A raft configuration change; the body is the library's encoding.
    ConfChange = 7,
}

impl Operation {
    /// Decodes the header's byte; `None` for a value no version wrote.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Operation> {
        Some(match byte {
            0 => Operation::Noop,
            1 => Operation::Write,
            2 => Operation::Discard,
            3 => Operation::Delete,
            4 => Operation::OpenSession,
            5 => Operation::ExpireSession,
            6 => Operation::Fence,
            7 => Operation::ConfChange,
            _ => return None,
        })
    }
}

/// The header as it lies on the wire and on the device. Little-endian, no padding, any alignment.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// CRC-32C of everything behind this field, body included.
    pub crc: U32,
    /// Bytes of header and body.
    pub length: U16,
    /// An [`Operation`].
    pub operation: u8,
    /// Zero; a reader refuses anything else.
    pub flags: u8,
    /// The copyset.
    pub copyset: U32,
    /// First block of the range within the chunk.
    pub first_block: U32,
    /// Blocks of the range.
    pub blocks: U32,
    /// Zero.
    pub reserved: U32,
    /// Raft term of the entry.
    pub term: U64,
    /// Raft index of the entry.
    pub index: U64,
    /// The chunk; zero where the operation names none.
    pub chunk: U64,
    /// Curve's sequence number; zero for native clients.
    pub sequence: U64,
    /// Fencing epoch the client held.
    pub epoch: U64,
    /// Client session; zero: none.
    pub session: U64,
    /// Request number within the session; zero: none.
    pub request: U64,
}

/// The content of a record, before it has a place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// What to do.
    pub operation: Operation,
    /// To which chunk.
    pub chunk: ChunkId,
    /// To which blocks of it.
    pub range: BlockRange,
    /// Curve's sequence number; zero for native clients.
    pub sequence: u64,
    /// Fencing epoch the client held.
    pub epoch: Epoch,
    /// The client's session.
    pub session: SessionId,
    /// The request's number in it.
    pub request: RequestNumber,
    /// CRC-32C per block of a write; else empty.
    pub crcs: &'a [u32],
    /// Body of an operation that is not a write.
    pub body: &'a [u8],
}

impl Proposal<'_> {
    /// An entry without content or requester.
    #[must_use]
    pub fn noop() -> Proposal<'static> {
        Proposal {
            operation: Operation::Noop,
            chunk: ChunkId(0),
            range: BlockRange::default(),
            sequence: 0,
            epoch: Epoch(0),
            session: SessionId(0),
            request: RequestNumber(0),
            crcs: &[],
            body: &[],
        }
    }

    /// Encodes the record for its place in the log and returns its bytes, a prefix of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than the record, if checksums and a body are both given, or if the
    /// body is longer than [`RECORD_BODY_BYTES_MAX`]: all bugs of the caller.
    pub fn emit<'o>(
        &self,
        copyset: CopysetId,
        term: Term,
        index: LogIndex,
        out: &'o mut [u8],
    ) -> &'o [u8] {
        assert!(self.crcs.is_empty() || self.body.is_empty());
        let body = self.crcs.len() * 4 + self.body.len();
        assert!(body <= RECORD_BODY_BYTES_MAX);
        let length = RECORD_HEADER_BYTES + body;
        let header = RecordHeader {
            crc: U32::ZERO,
            length: U16::new(length as u16),
            operation: self.operation as u8,
            flags: 0,
            copyset: copyset.0.into(),
            first_block: self.range.first.into(),
            blocks: self.range.blocks.into(),
            reserved: U32::ZERO,
            term: term.0.into(),
            index: index.0.into(),
            chunk: self.chunk.0.into(),
            sequence: self.sequence.into(),
            epoch: self.epoch.0.into(),
            session: self.session.0.into(),
            request: self.request.0.into(),
        };
        let out = &mut out[..length];
        out[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        out[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.body.len()].copy_from_slice(self.body);
        for (crc, bytes) in self.crcs.iter().zip(out[RECORD_HEADER_BYTES..].chunks_exact_mut(4)) {
            bytes.copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header, or than the header's length says.
    #[error("record is truncated")]
    Truncated,
    /// The stored checksum differs from that of the bytes.
    #[error("record fails its CRC")]
    Checksum,
    /// A field holds a value that no writer produces; the checksum is right.
    #[error("record field {0} holds an impossible value")]
    Field(&'static str),
}

/// A record whose bytes were checked.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    header: &'a RecordHeader,
    operation: Operation,
    bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Checks the record at the start of `bytes`, which may be followed by others.
    ///
    /// # Errors
    ///
    /// [`RecordError`] names what is wrong; nothing else of the bytes may be believed then.
    pub fn parse(bytes: &'a [u8]) -> Result<RecordView<'a>, RecordError> {
        let (header, _) =
            RecordHeader::ref_from_prefix(bytes).map_err(|_| RecordError::Truncated)?;
        let length = usize::from(header.length.get());
        if !(RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&length) {
            return Err(RecordError::Field("length"));
        }
        let bytes = bytes.get(..length).ok_or(RecordError::Truncated)?;
        if crc32c::crc32c(&bytes[4..]) != header.crc.get() {
            return Err(RecordError::Checksum);
        }
        let operation =
            Operation::from_byte(header.operation).ok_or(RecordError::Field("operation"))?;
        if header.flags != 0 || header.reserved.get() != 0 {
            return Err(RecordError::Field("flags"));
        }
        let view = RecordView { header, operation, bytes };
        view.check_body()?;
        Ok(view)
    }

    /// Looks at bytes that this process emitted or parsed before; checks only in debug builds.
    ///
    /// # Panics
    ///
    /// If the bytes are not a record.
    #[must_use]
    pub fn trusted(bytes: &'a [u8]) -> RecordView<'a> {
        debug_assert!(RecordView::parse(bytes).is_ok());
        let (header, _) = RecordHeader::ref_from_prefix(bytes).expect("a record's own bytes");
        let operation = Operation::from_byte(header.operation).expect("a record's own bytes");
        RecordView { header, operation, bytes: &bytes[..usize::from(header.length.get())] }
    }

    fn check_body(&self) -> Result<(), RecordError> {
        let body = self.bytes.len() - RECORD_HEADER_BYTES;
        let blocks = self.header.blocks.get();
        let fits = match self.operation {
            Operation::Write => {
                (1..=OPERATION_BLOCKS_MAX).contains(&blocks) && body == blocks as usize * 4
            }
            Operation::OpenSession => body == 16,
            Operation::ConfChange => true,
            Operation::Discard => blocks > 0 && body == 0,
            _ => body == 0,
        };
        if !fits {
            return Err(RecordError::Field("body"));
        }
        if self.header.first_block.get().checked_add(blocks).is_none() {
            return Err(RecordError::Field("range"));
        }
        Ok(())
    }

    /// All bytes of the record.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes behind the header.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[RECORD_HEADER_BYTES..]
    }

    /// What the entry does.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The copyset.
    #[must_use]
    pub fn copyset(&self) -> CopysetId {
        CopysetId(self.header.copyset.get())
    }

    /// Raft term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.header.term.get())
    }

    /// Raft index.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        LogIndex(self.header.index.get())
    }

    /// The chunk.
    #[must_use]
    pub fn chunk(&self) -> ChunkId {
        ChunkId(self.header.chunk.get())
    }

    /// The blocks of the chunk.
    #[must_use]
    pub fn range(&self) -> BlockRange {
        BlockRange { first: self.header.first_block.get(), blocks: self.header.blocks.get() }
    }

    /// Curve's sequence number; zero for native clients.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.header.sequence.get()
    }

    /// Fencing epoch the client held.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.header.epoch.get())
    }

    /// The client's session; zero: none.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(self.header.session.get())
    }

    /// The request's number in its session; zero: none.
    #[must_use]
    pub fn request(&self) -> RequestNumber {
        RequestNumber(self.header.request.get())
    }

    /// Blocks of payload that travel and are stored beside the record.
    #[must_use]
    pub fn payload_blocks(&self) -> u32 {
        if self.operation == Operation::Write { self.header.blocks.get() } else { 0 }
    }

    /// CRC-32C of each payload block, in order; empty for what is not a write.
    pub fn crcs(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        let crcs: &'a [u8] = if self.operation == Operation::Write { self.body() } else { &[] };
        crcs.chunks_exact(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write() -> Proposal<'static> {
        Proposal {
            operation: Operation::Write,
            chunk: ChunkId(0x0102_0304_0506_0708),
            range: BlockRange { first: 7, blocks: 2 },
            sequence: 0,
            epoch: Epoch(3),
            session: SessionId(9),
            request: RequestNumber(11),
            crcs: &[0xaabb_ccdd, 0x1122_3344],
            body: &[],
        }
    }

    #[test]
    fn bytes_are_pinned() {
        let mut out = [0; RECORD_BYTES_MAX];
        let bytes = write().emit(CopysetId(5), Term(2), LogIndex(77), &mut out);
        assert_eq!(bytes.len(), 88);
        assert_eq!(&bytes[4..8], [88, 0, 1, 0]);
        assert_eq!(&bytes[8..24], [5, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24], 2);
        assert_eq!(bytes[32], 77);
        assert_eq!(&bytes[40..48], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[56], 3);
        assert_eq!(bytes[64], 9);
        assert_eq!(bytes[72], 11);
        assert_eq!(&bytes[80..], [0xdd, 0xcc, 0xbb, 0xaa, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(bytes[..4], crc32c::crc32c(&bytes[4..]).to_le_bytes());
    }

    #[test]
    fn parses_what_it_emits_and_refuses_damage() {
        let mut out = [0; RECORD_BYTES_MAX];
        let length = write().emit(CopysetId(5), Term(2), LogIndex(77), &mut out).len();
        let view = RecordView::parse(&out).expect("own record");
        assert_eq!(view.index(), LogIndex(77));
        assert_eq!(view.crcs().collect::<Vec<_>>(), [0xaabb_ccdd, 0x1122_3344]);
        assert_eq!(view.payload_blocks(), 2);
        for cut in 0..length {
            assert!(RecordView::parse(&out[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..length {
            out[at] ^= 0x10;
            assert!(RecordView::parse(&out[..length]).is_err(), "flip at {at}");
            out[at] ^= 0x10;
        }
    }
}
