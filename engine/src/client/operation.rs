//! What callers hand in and get back.

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, Pages};

use super::config::OPERATION_PIECES_MAX;
use super::error::ClientError;
use super::volume::VolumeHandle;
use crate::ids::{BLOCK_SIZE, Epoch};

/// An operation on a volume. Offsets and lengths are in blocks of 4 KiB.
///
/// Operations in flight at the same time are executed in any order, those on the same blocks too;
/// and one that is split ([`ClientOptions`](super::ClientOptions) and the layout say when) is not
/// atomic as a whole, only each piece of it within one stripe and 32 blocks is.
#[derive(Debug)]
pub enum Operation {
    /// Writes as many blocks as there are pages, at most 256. The pages must not change until the
    /// operation is complete.
    Write {
        /// The volume.
        volume: VolumeHandle,
        /// First block.
        offset_blocks: u64,
        /// What to write; any memory, though pages of the client's pool are registered.
        pages: Pages,
    },
    /// Reads at most 256 blocks.
    Read {
        /// The volume.
        volume: VolumeHandle,
        /// First block.
        offset_blocks: u64,
        /// Number of blocks.
        blocks: u32,
    },
    /// Unmaps blocks, which read as zeroes from then on; at most
    /// [`VolumeHandle::discard_blocks_max`].
    Discard {
        /// The volume.
        volume: VolumeHandle,
        /// First block.
        offset_blocks: u64,
        /// Number of blocks.
        blocks: u64,
    },
    /// Deletes chunks: their blocks read as zeroes from then on, and servers forget them
    /// altogether. Like a discard, it is possible in a copyset that is at its quota. Whole chunk
    /// sets ([`VolumeHandle::set_blocks`]), or from one up to the volume's end; as many blocks at
    /// most as a discard may have.
    Delete {
        /// The volume.
        volume: VolumeHandle,
        /// First block.
        offset_blocks: u64,
        /// Number of blocks.
        blocks: u64,
    },
    /// Raises the fencing epoch of one of the volume's copysets: whoever holds an older one is
    /// refused there from then on ([`ClientError::Fenced`]), also with other volumes that lie on
    /// the copyset. This client holds the new epoch afterwards, for all its copysets. Repeating
    /// it changes nothing.
    Fence {
        /// The volume.
        volume: VolumeHandle,
        /// Index in the volume's list of copysets.
        copyset: u32,
        /// The epoch, not below the copyset's.
        epoch: Epoch,
    },
}

/// Which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// [`Operation::Write`].
    Write,
    /// [`Operation::Read`].
    Read,
    /// [`Operation::Discard`].
    Discard,
    /// [`Operation::Delete`].
    Delete,
    /// [`Operation::Fence`].
    Fence,
}

impl Operation {
    /// Which operation.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Operation::Write { .. } => OperationKind::Write,
            Operation::Read { .. } => OperationKind::Read,
            Operation::Discard { .. } => OperationKind::Discard,
            Operation::Delete { .. } => OperationKind::Delete,
            Operation::Fence { .. } => OperationKind::Fence,
        }
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> VolumeHandle {
        match self {
            Operation::Write { volume, .. }
            | Operation::Read { volume, .. }
            | Operation::Discard { volume, .. }
            | Operation::Delete { volume, .. }
            | Operation::Fence { volume, .. } => *volume,
        }
    }

    /// The first block and the number of blocks; a fence has none.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        match self {
            Operation::Write { offset_blocks, pages, .. } => {
                (*offset_blocks, u64::from(pages.pages()))
            }
            Operation::Read { offset_blocks, blocks, .. } => (*offset_blocks, u64::from(*blocks)),
            Operation::Discard { offset_blocks, blocks, .. }
            | Operation::Delete { offset_blocks, blocks, .. } => (*offset_blocks, *blocks),
            Operation::Fence { .. } => (0, 0),
        }
    }
}

/// Why an operation was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// As many operations are in flight as the client has slots for: poll, then submit it again.
    #[error("as much is in flight as the client has slots for")]
    Full,
    /// Caller: the range is empty or ends past the volume.
    #[error("the range is empty or ends past the end of the volume")]
    OutOfRange,
    /// Caller: the client is being closed.
    #[error("the client is being closed")]
    Closed,
    /// Caller: chunks are deleted by whole sets.
    #[error("chunks are deleted by whole chunk sets")]
    NotWholeSets,
    /// Caller: more blocks than one operation may have.
    #[error("more blocks than one operation may have")]
    TooLarge,
}

/// An operation that was not taken, back with its owner.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The operation, as it was.
    pub operation: Operation,
    /// Why.
    pub reason: Refusal,
}

/// An operation that is over. Each one taken is reported exactly once.
#[derive(Debug)]
pub struct Completion<'a> {
    /// The caller's.
    pub token: u64,
    /// Which operation it was.
    pub kind: OperationKind,
    /// How it ended.
    pub result: Result<(), ClientError>,
    /// What was read; empty unless a read succeeded. What is left in it is released.
    pub data: &'a mut ReadData,
}

/// A run of blocks where it landed.
#[derive(Debug)]
pub struct ReadPart {
    /// First block, counted from the start of the volume.
    pub block: u64,
    /// The blocks; their checksums have been verified.
    pub buffer: Buffer,
}

/// The blocks of a read in order, in the pages in which they landed.
///
/// The pages are those of a connection's landing window: further reads wait while buffers taken
/// out of it are kept, so drop them soon.
#[derive(Debug, Default)]
pub struct ReadData {
    parts: ArrayVec<ReadPart, OPERATION_PIECES_MAX>,
}

impl ReadData {
    /// The parts, in the order of their blocks and without gaps.
    #[must_use]
    pub fn parts(&self) -> &[ReadPart] {
        &self.parts
    }

    /// Takes all parts out.
    pub fn take(&mut self) -> impl Iterator<Item = ReadPart> + '_ {
        self.parts.drain(..)
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.buffer.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Copies all parts to the caller's memory, and releases them.
    ///
    /// # Panics
    ///
    /// When `target` has another length.
    pub fn copy_to_slice(&mut self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len(), "the target has the length of the read");
        let mut at = 0;
        for part in self.parts.drain(..) {
            let bytes = part.buffer.len();
            part.buffer.copy_to_slice(0, &mut target[at..at + bytes]);
            at += bytes;
        }
    }

    /// Copies all parts to a buffer from byte `offset` on, and releases them.
    ///
    /// # Panics
    ///
    /// When they do not fit.
    pub fn copy_to_buffer(&mut self, target: &mut Buffer, offset: usize) {
        let mut at = offset;
        for part in self.parts.drain(..) {
            let bytes = part.buffer.len();
            target.copy_from(at, &part.buffer.freeze());
            at += bytes;
        }
    }

    pub(super) fn push(&mut self, part: ReadPart) {
        debug_assert_eq!(part.buffer.len() % BLOCK_SIZE, 0);
        self.parts.push(part);
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }
}
