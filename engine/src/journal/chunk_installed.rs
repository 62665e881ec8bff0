//! The record by which catch-up installs a chunk: a list of blocks, long and rare.

use super::item::{u32_at, u64_at};
use crate::ids::{ChunkId, CopysetId, LogIndex};

/// In place of a granule of the data space: the block reads as zeroes.
pub const HOLE: u32 = u32::MAX - 1;

const FIXED_BYTES: usize = 56;
const BLOCK_BYTES: usize = 20;

/// What an installation says of its chunk as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledHead {
    /// The copyset.
    pub copyset: CopysetId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The index at which the chunk was born.
    pub birth: LogIndex,
    /// Entries not above this index are skipped from now on.
    pub applied: LogIndex,
    /// The copyset's applied index on the sender when the chunk was frozen.
    pub as_of: LogIndex,
    /// The blocks hold every change above this index; zero: all.
    pub since: LogIndex,
}

/// One block of an installed chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledBlock {
    /// Block of the chunk.
    pub block: u32,
    /// Granule of the data space, or [`HOLE`], or [`NOWHERE`](super::NOWHERE).
    pub granule: u32,
    /// CRC-32C of the granule; zero for a hole.
    pub crc: u32,
    /// The index that wrote or unmapped it.
    pub index: LogIndex,
}

impl InstalledBlock {
    /// Whether there is payload on this device.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.granule < HOLE
    }
}

/// An encoded installation.
#[derive(Clone, Copy)]
pub struct ChunkInstalled<'a>(&'a [u8]);

impl<'a> ChunkInstalled<'a> {
    /// Bytes of the encoding of an installation of so many blocks.
    #[must_use]
    pub fn length(blocks: u32) -> u64 {
        FIXED_BYTES as u64 + u64::from(blocks) * BLOCK_BYTES as u64
    }

    /// Encodes an installation.
    pub fn encode(
        head: &InstalledHead,
        blocks: impl ExactSizeIterator<Item = InstalledBlock>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&head.copyset.0.to_le_bytes());
        out.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
        out.extend_from_slice(&head.chunk.0.to_le_bytes());
        for index in [head.birth, head.applied, head.as_of, head.since] {
            out.extend_from_slice(&index.0.to_le_bytes());
        }
        out.extend_from_slice(&[0; 8]);
        for block in blocks {
            out.extend_from_slice(&block.block.to_le_bytes());
            out.extend_from_slice(&block.granule.to_le_bytes());
            out.extend_from_slice(&block.crc.to_le_bytes());
            out.extend_from_slice(&block.index.0.to_le_bytes());
        }
    }

    /// Looks at an encoded installation; `None` if its lengths do not agree.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<ChunkInstalled<'a>> {
        let fixed = bytes.get(..FIXED_BYTES)?;
        let blocks = (u32_at(fixed, 4) as usize).checked_mul(BLOCK_BYTES)?;
        let length = FIXED_BYTES.checked_add(blocks)?;
        (bytes.len() == length && u64_at(fixed, 48) == 0).then_some(ChunkInstalled(bytes))
    }

    /// The encoding.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// What it says of the chunk as a whole.
    #[must_use]
    pub fn head(&self) -> InstalledHead {
        let index = |at| LogIndex(u64_at(self.0, at));
        InstalledHead {
            copyset: CopysetId(u32_at(self.0, 0)),
            chunk: ChunkId(u64_at(self.0, 8)),
            birth: index(16),
            applied: index(24),
            as_of: index(32),
            since: index(40),
        }
    }

    /// The blocks installed.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = InstalledBlock> + 'a {
        self.0[FIXED_BYTES..].chunks_exact(BLOCK_BYTES).map(|bytes| InstalledBlock {
            block: u32_at(bytes, 0),
            granule: u32_at(bytes, 4),
            crc: u32_at(bytes, 8),
            index: LogIndex(u64_at(bytes, 12)),
        })
    }
}
