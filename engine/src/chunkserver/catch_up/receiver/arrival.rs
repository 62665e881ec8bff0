//! The copyset's state on its way here: part by part, then whole.

use crate::copyset::{self, CopysetState};
use crate::ids::LogIndex;
use crate::journal::StatePart;
use crate::wire::CatchUpHead;

use super::fault::Fault;

/// The parts that have come, in order and without gaps.
#[derive(Default)]
pub(super) struct StateParts {
    bytes: Vec<u8>,
    /// Bytes of the whole state, once its first part is there.
    total: u32,
}

impl StateParts {
    /// Checks that a part of `bytes` bytes goes on where these end.
    pub fn check(&self, head: &CatchUpHead, bytes: usize) -> Result<(), Fault> {
        let (offset, end) = (self.bytes.len(), self.bytes.len() + bytes);
        if head.first != (offset == 0) || head.last != (end == head.total as usize) {
            return Err(Fault::StateOf);
        }
        let known = offset == 0 || head.total == self.total;
        if !known || end > head.total as usize || head.total > copyset::IMAGE_BYTES_MAX {
            return Err(Fault::StateOf);
        }
        Ok(())
    }

    /// A part as the journal keeps it.
    pub fn part<'a>(&self, head: &CatchUpHead, bytes: &'a [u8]) -> StatePart<'a> {
        StatePart { total: head.total, offset: self.bytes.len() as u32, bytes }
    }

    /// Takes a part that was checked.
    pub fn add(&mut self, head: &CatchUpHead, bytes: &[u8]) {
        self.total = head.total;
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that are journalled, and how many the whole state has. `None`: no part has come.
    pub fn journalled(&self) -> Option<(u32, &[u8])> {
        (!self.bytes.is_empty()).then_some((self.total, &self.bytes[..]))
    }
}

/// A state that is complete and durable but for its last part, for the raft snapshot that brings
/// it into force.
pub(in crate::chunkserver) struct Arrival {
    pub index: LogIndex,
    pub state: CopysetState,
    /// The whole image.
    image: Vec<u8>,
    /// Where its last part begins.
    tail: usize,
}

impl Arrival {
    /// A whole state: `parts`, which are journalled, and the last part, which is not.
    pub(super) fn new(parts: &mut StateParts, last: &[u8]) -> Result<Arrival, Fault> {
        let mut image = std::mem::take(&mut parts.bytes);
        let tail = image.len();
        image.extend_from_slice(last);
        let state = CopysetState::parse(&image)?;
        Ok(Arrival { index: state.applied(), state, image, tail })
    }

    /// The part that is not journalled yet.
    pub fn last_part(&self) -> StatePart<'_> {
        StatePart {
            total: self.image.len() as u32,
            offset: self.tail as u32,
            bytes: &self.image[self.tail..],
        }
    }

    /// The bytes that are journalled, and how many the whole state has.
    pub fn journalled(&self) -> (u32, &[u8]) {
        (self.image.len() as u32, &self.image[..self.tail])
    }
}
