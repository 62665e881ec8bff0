//! Items that say what one replica did by itself: blocks moved by a repair, and how far the scrub
//! has come. No other replica ever sees them.
//!
//! Byte maps: `docs/format/journal.md`.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{ChunkId, CopysetId, LogIndex};

/// A block whose bytes were bad or missing here and came from a peer: from now on it lies
/// elsewhere. It says so only of the block that the index wrote; every other is not meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRepaired {
    /// The copyset.
    pub copyset: CopysetId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The block, counted from the start of the chunk.
    pub block: u32,
    /// The log index that wrote it.
    pub index: LogIndex,
    /// CRC-32C of its bytes.
    pub crc: u32,
    /// Where they lie: a granule of the data space.
    pub granule: u32,
}

/// How far the scrub has come with a copyset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubNote {
    /// The copyset.
    pub copyset: CopysetId,
    /// The round over the shard, counted from 1.
    pub pass: u32,
    /// Everything before this block of this chunk is verified; `u64::MAX`: everything is.
    pub chunk: ChunkId,
    /// See `chunk`.
    pub block: u32,
    /// Seconds of work since the pass began.
    pub elapsed_s: u32,
}

impl ScrubNote {
    /// The chunk of a note that says that the copyset is done.
    pub const DONE: ChunkId = ChunkId(u64::MAX);
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RepairedBody {
    copyset: U32,
    block: U32,
    chunk: U64,
    index: U64,
    crc: U32,
    granule: U32,
}

/// Bytes of the body of [`BlockRepaired`].
pub(super) const REPAIRED_BYTES: usize = 32;
const _: () = assert!(size_of::<RepairedBody>() == REPAIRED_BYTES);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ScrubBody {
    copyset: U32,
    pass: U32,
    chunk: U64,
    block: U32,
    elapsed_s: U32,
}

/// Bytes of the body of [`ScrubNote`].
pub(super) const SCRUB_BYTES: usize = 24;
const _: () = assert!(size_of::<ScrubBody>() == SCRUB_BYTES);

impl BlockRepaired {
    pub(super) fn emit(&self) -> [u8; REPAIRED_BYTES] {
        zerocopy::transmute!(RepairedBody {
            copyset: self.copyset.0.into(),
            block: self.block.into(),
            chunk: self.chunk.0.into(),
            index: self.index.0.into(),
            crc: self.crc.into(),
            granule: self.granule.into(),
        })
    }

    /// `None` where the bytes are not as many.
    pub(super) fn parse(bytes: &[u8]) -> Option<BlockRepaired> {
        let body = RepairedBody::ref_from_bytes(bytes).ok()?;
        Some(BlockRepaired {
            copyset: CopysetId(body.copyset.get()),
            chunk: ChunkId(body.chunk.get()),
            block: body.block.get(),
            index: LogIndex(body.index.get()),
            crc: body.crc.get(),
            granule: body.granule.get(),
        })
    }
}

impl ScrubNote {
    pub(super) fn emit(&self) -> [u8; SCRUB_BYTES] {
        zerocopy::transmute!(ScrubBody {
            copyset: self.copyset.0.into(),
            pass: self.pass.into(),
            chunk: self.chunk.0.into(),
            block: self.block.into(),
            elapsed_s: self.elapsed_s.into(),
        })
    }

    /// `None` where the bytes are not as many.
    pub(super) fn parse(bytes: &[u8]) -> Option<ScrubNote> {
        let body = ScrubBody::ref_from_bytes(bytes).ok()?;
        Some(ScrubNote {
            copyset: CopysetId(body.copyset.get()),
            pass: body.pass.get(),
            chunk: ChunkId(body.chunk.get()),
            block: body.block.get(),
            elapsed_s: body.elapsed_s.get(),
        })
    }
}
