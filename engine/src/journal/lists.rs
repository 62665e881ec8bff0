//! Lists within items: what a verdict took, what a catch-up kept.

use super::item::{ItemError, u32_at, u64_at};
use crate::ids::{ChunkId, CopysetId, LogIndex};

const GROUP_VERDICT_BYTES: usize = 20;

/// What recovery took from one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupVerdict {
    /// The group.
    pub copyset: CopysetId,
    /// Last index kept.
    pub last_kept: LogIndex,
    /// Everything of the group in batches from this position up to the incarnation's start is
    /// void.
    pub position: u64,
}

/// The list in a verdict, as bytes.
#[derive(Clone, Copy)]
pub struct Verdict<'a>(&'a [u8]);

impl<'a> Verdict<'a> {
    /// The groups that lost something.
    pub fn groups(self) -> impl ExactSizeIterator<Item = GroupVerdict> + 'a {
        self.0.chunks_exact(GROUP_VERDICT_BYTES).map(|bytes| GroupVerdict {
            copyset: CopysetId(u32_at(bytes, 0)),
            last_kept: LogIndex(u64_at(bytes, 4)),
            position: u64_at(bytes, 12),
        })
    }

    /// The encoded list.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Encodes a list for [`Item::Verdict`](super::Item::Verdict).
    pub fn encode(groups: &[GroupVerdict], out: &mut Vec<u8>) {
        for group in groups {
            out.extend_from_slice(&group.copyset.0.to_le_bytes());
            out.extend_from_slice(&group.last_kept.0.to_le_bytes());
            out.extend_from_slice(&group.position.to_le_bytes());
        }
    }

    /// Looks at an encoded list.
    ///
    /// # Errors
    ///
    /// [`ItemError::Body`] if it is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Verdict<'a>, ItemError> {
        if bytes.len().is_multiple_of(GROUP_VERDICT_BYTES) {
            Ok(Verdict(bytes))
        } else {
            Err(ItemError::Body)
        }
    }
}

/// A list of chunks, as bytes.
#[derive(Clone, Copy)]
pub struct ChunkList<'a>(&'a [u8]);

impl<'a> ChunkList<'a> {
    /// The chunks.
    pub fn chunks(self) -> impl ExactSizeIterator<Item = ChunkId> + 'a {
        self.0.chunks_exact(8).map(|bytes| ChunkId(u64_at(bytes, 0)))
    }

    /// The encoded list.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Encodes a list for [`Item::ChunksRetained`](super::Item::ChunksRetained).
    pub fn encode(chunks: impl Iterator<Item = ChunkId>, out: &mut Vec<u8>) {
        for chunk in chunks {
            out.extend_from_slice(&chunk.0.to_le_bytes());
        }
    }

    /// Looks at an encoded list.
    ///
    /// # Errors
    ///
    /// [`ItemError::Body`] if it is none.
    pub fn parse(bytes: &'a [u8]) -> Result<ChunkList<'a>, ItemError> {
        if bytes.len().is_multiple_of(8) { Ok(ChunkList(bytes)) } else { Err(ItemError::Body) }
    }
}
