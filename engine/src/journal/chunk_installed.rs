//! The record by which catch-up installs a chunk: a list of blocks, long and rare.

use super::item::{u32_at, u64_at};
use crate::ids::{ChunkId, CopysetId, LogIndex};

/// In place of a granule of the data space: the block is unmapped.
pub const UNMAPPED: u32 = u32::MAX;

const FIXED_BYTES: usize = 40;
const BLOCK_BYTES: usize = 20;

/// One block of an installed chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledBlock {
    /// Block of the chunk.
    pub block: u32,
    /// Granule of the data space, or [`UNMAPPED`].
    pub granule: u32,
    /// CRC-32C of the granule; zero if unmapped.
    pub crc: u32,
    /// The index that wrote or unmapped it.
    pub index: LogIndex,
}

/// An encoded installation.
#[derive(Clone, Copy)]
pub struct ChunkInstalled<'a>(&'a [u8]);

impl<'a> ChunkInstalled<'a> {
    /// Encodes an installation; `state` is the composer's own (snapshot state, for example).
    pub fn encode(
        copyset: CopysetId,
        chunk: ChunkId,
        born: LogIndex,
        applied: LogIndex,
        state: &[u8],
        blocks: impl ExactSizeIterator<Item = InstalledBlock>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&copyset.0.to_le_bytes());
        out.extend_from_slice(&(state.len() as u32).to_le_bytes());
        out.extend_from_slice(&chunk.0.to_le_bytes());
        out.extend_from_slice(&born.0.to_le_bytes());
        out.extend_from_slice(&applied.0.to_le_bytes());
        out.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(state);
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
        let state = u32_at(fixed, 4) as usize;
        let blocks = (u32_at(fixed, 32) as usize).checked_mul(BLOCK_BYTES)?;
        let length = FIXED_BYTES.checked_add(state)?.checked_add(blocks)?;
        (bytes.len() == length && u32_at(fixed, 36) == 0).then_some(ChunkInstalled(bytes))
    }

    /// The encoding.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The copyset.
    #[must_use]
    pub fn copyset(&self) -> CopysetId {
        CopysetId(u32_at(self.0, 0))
    }

    /// The chunk.
    #[must_use]
    pub fn chunk(&self) -> ChunkId {
        ChunkId(u64_at(self.0, 8))
    }

    /// The index at which the chunk was born.
    #[must_use]
    pub fn born(&self) -> LogIndex {
        LogIndex(u64_at(self.0, 16))
    }

    /// Entries not above this index are skipped from now on.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        LogIndex(u64_at(self.0, 24))
    }

    /// The composer's own bytes.
    #[must_use]
    pub fn state(&self) -> &'a [u8] {
        &self.0[FIXED_BYTES..FIXED_BYTES + u32_at(self.0, 4) as usize]
    }

    /// The blocks installed.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = InstalledBlock> + 'a {
        let list = &self.0[FIXED_BYTES + u32_at(self.0, 4) as usize..];
        list.chunks_exact(BLOCK_BYTES).map(|bytes| InstalledBlock {
            block: u32_at(bytes, 0),
            granule: u32_at(bytes, 4),
            crc: u32_at(bytes, 8),
            index: LogIndex(u64_at(bytes, 12)),
        })
    }
}
