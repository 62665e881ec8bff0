//! Device reads of a leader's tasks: which read belongs to which piece of which task.
//!
//! A read holds a ticket of the store from before its extent was looked up until it has ended, so a
//! task may end, and thaw what it had frozen, while reads of it are under way: their buffers come
//! back here and go to the pool.

use culvert_memory::Buffer;
use culvert_nvme::Status;

use crate::store::ReadTicket;

/// A read under way.
struct Read {
    task: u64,
    piece: u32,
    shard: usize,
    ticket: ReadTicket,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct BlockReads {
    reads: Vec<Option<Read>>,
}

/// What a read brought.
pub(super) struct ReadDone {
    pub task: u64,
    pub piece: u32,
    pub shard: usize,
    pub ticket: ReadTicket,
}

impl BlockReads {
    /// Takes a place for a read; its number is the read's token.
    pub fn begin(&mut self, task: u64, piece: u32, shard: usize, ticket: ReadTicket) -> u64 {
        let read = Some(Read { task, piece, shard, ticket });
        if let Some(free) = self.reads.iter().position(Option::is_none) {
            self.reads[free] = read;
            return free as u64;
        }
        self.reads.push(read);
        self.reads.len() as u64 - 1
    }

    /// A read has ended.
    pub fn end(&mut self, token: u64) -> Option<ReadDone> {
        let read = self.reads.get_mut(usize::try_from(token).ok()?)?.take()?;
        let Read { task, piece, shard, ticket } = read;
        Some(ReadDone { task, piece, shard, ticket })
    }
}

/// Whether a read succeeded and every block matches its checksum.
pub(super) fn is_intact(
    buffer: &Buffer,
    status: Status,
    crcs: impl IntoIterator<Item = u32>,
) -> bool {
    let block = crate::ids::BLOCK_SIZE;
    let mut crcs = crcs.into_iter().enumerate();
    status.is_success() && crcs.all(|(at, crc)| buffer.crc32c(at * block, block) == crc)
}
