//! One block of the ring: its header and its checksum.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::device::Salt;

/// Bytes of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 40;

const MAGIC: u16 = u16::from_le_bytes(*b"CJ");
const FIRST_OF_BATCH: u8 = 1;
const LAST_OF_BATCH: u8 = 2;

/// The header as it lies on the device.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BlockHeader {
    pub(super) crc: U32,
    pub(super) magic: U16,
    pub(super) flags: u8,
    pub(super) reserved: u8,
    pub(super) position: U64,
    pub(super) mark: U64,
    pub(super) start: U64,
    pub(super) incarnation: U32,
    pub(super) first: U16,
    pub(super) used: U16,
}

const _: () = assert!(size_of::<BlockHeader>() == BLOCK_HEADER_BYTES);

/// What all blocks of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Position of the batch's first block.
    pub position: u64,
    /// Everything below this position is durable; at most `position`.
    pub mark: u64,
    /// Position at which the incarnation began.
    pub start: u64,
    /// The incarnation.
    pub incarnation: u32,
}

/// Fills in the header of one block whose items, zeroes behind them, and `first` and `used` fields
/// are in place.
pub(super) fn seal_block(block: &mut [u8], stamp: &Stamp, at: u64, last: bool, salt: Salt) {
    let (header, _) = BlockHeader::mut_from_prefix(block).expect("a block holds its header");
    header.magic = MAGIC.into();
    header.flags = if at == 0 { FIRST_OF_BATCH } else { 0 };
    header.flags |= if last { LAST_OF_BATCH } else { 0 };
    header.reserved = 0;
    header.position = (stamp.position + at).into();
    header.mark = stamp.mark.into();
    header.start = stamp.start.into();
    header.incarnation = stamp.incarnation.into();
    let crc = salt.crc(&block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Why bytes are not a block of this ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No magic: never written by this format.
    #[error("not a journal block")]
    Missing,
    /// Damaged, torn, or of another shard or an earlier format.
    #[error("the journal block fails its checksum")]
    Checksum,
    /// A field holds what no writer produces; the checksum is right.
    #[error("journal block field {0} holds an impossible value")]
    Field(&'static str),
}

/// A block whose bytes were checked.
#[derive(Clone, Copy)]
pub struct BlockView<'a> {
    header: &'a BlockHeader,
    bytes: &'a [u8],
}

impl<'a> BlockView<'a> {
    /// Checks a whole block.
    ///
    /// # Errors
    ///
    /// [`BlockError`] says why it is none.
    pub fn parse(bytes: &'a [u8], salt: Salt) -> Result<BlockView<'a>, BlockError> {
        let (header, _) =
            BlockHeader::ref_from_prefix(bytes).map_err(|_| BlockError::Field("length"))?;
        if header.magic.get() != MAGIC {
            return Err(BlockError::Missing);
        }
        if salt.crc(&bytes[4..]) != header.crc.get() {
            return Err(BlockError::Checksum);
        }
        let view = BlockView { header, bytes };
        let used = usize::from(header.used.get());
        let first = usize::from(header.first.get());
        if !(BLOCK_HEADER_BYTES..=bytes.len()).contains(&used) {
            return Err(BlockError::Field("used"));
        }
        if first != 0 && !(BLOCK_HEADER_BYTES..used).contains(&first) {
            return Err(BlockError::Field("first"));
        }
        if view.mark() > view.position() {
            return Err(BlockError::Field("mark"));
        }
        if view.start() > view.position() {
            return Err(BlockError::Field("start"));
        }
        if view.position() > u64::MAX >> 1 {
            return Err(BlockError::Field("position"));
        }
        Ok(view)
    }

    /// Position of the block.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.header.position.get()
    }

    /// Everything below this position was durable when the block was submitted.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.header.mark.get()
    }

    /// Where the block's incarnation began.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.header.start.get()
    }

    /// The incarnation that wrote it.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.header.incarnation.get()
    }

    /// Whether a batch begins with it.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.header.flags & FIRST_OF_BATCH != 0
    }

    /// Whether a batch ends with it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.header.flags & LAST_OF_BATCH != 0
    }

    /// The items' bytes.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[BLOCK_HEADER_BYTES..usize::from(self.header.used.get())]
    }

    /// Where in the body the first item begins; `None`: the block only continues one.
    #[must_use]
    pub fn first_item(&self) -> Option<usize> {
        usize::from(self.header.first.get()).checked_sub(BLOCK_HEADER_BYTES)
    }
}
