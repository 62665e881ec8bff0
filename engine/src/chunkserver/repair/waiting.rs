//! Clients' reads that wait for a repair.
//!
//! They hold nothing but their place among the reads of their client. When no block of their range
//! is under repair any more they are read again, from the beginning; if blocks were given up they are
//! answered with an error, and if it takes too long with "busy".

use super::super::reading::QueuedRead;
use super::Suspicion;
use super::spots;
use super::table::Standing;
use crate::chunkserver::Chunkserver;
use crate::wire::ReplyStatus;

/// Reads that wait at once; one more is answered "busy".
const WAITING_MAX: usize = 256;

/// How long a read may take, repair and all, since its request was taken off the wire.
const WAIT_NS: u64 = 5_000_000_000;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Waiting {
    reads: Vec<QueuedRead>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// When the first of them has waited too long.
    pub fn due_ns(&self) -> u64 {
        let taken = self.reads.iter().map(|read| read.taken_ns + WAIT_NS);
        taken.min().unwrap_or(u64::MAX)
    }
}

impl Chunkserver {
    /// A read has met bad blocks: those of its range whose bits are set. It waits, or is to be
    /// answered with what is returned.
    pub(in crate::chunkserver) fn await_repair(
        &mut self,
        read: &QueuedRead,
        bad: u32,
    ) -> Result<(), ReplyStatus> {
        if self.now_ns.saturating_sub(read.taken_ns) >= WAIT_NS {
            return Err(ReplyStatus::Busy);
        }
        if self.repairs.waiting.reads.len() >= WAITING_MAX {
            return Err(ReplyStatus::Busy);
        }
        for spot in spots(read.position, read.chunk, read.range.first, bad) {
            match self.suspect(spot) {
                Suspicion::Noted => {}
                Suspicion::Hopeless => return Err(ReplyStatus::Media),
                Suspicion::Full => return Err(ReplyStatus::Busy),
            }
        }
        self.repairs.waiting.reads.push(*read);
        Ok(())
    }

    /// Reads whose repairs are over go on.
    pub(super) fn settle_waiting(&mut self) {
        let mut at = 0;
        while let Some(read) = self.repairs.waiting.reads.get(at).copied() {
            let late = self.now_ns >= read.taken_ns + WAIT_NS;
            let status = match self.repairs.table.standing(read.position, read.chunk, read.range) {
                _ if !self.in_service(read.position) => Some(ReplyStatus::DeviceFailed),
                Standing::UnderWay if !late => {
                    at += 1;
                    continue;
                }
                Standing::Over if !late => None,
                // Some replica may have it and has not answered: the client comes again.
                Standing::Over | Standing::UnderWay => Some(ReplyStatus::Busy),
                Standing::GivenUp => Some(ReplyStatus::Media),
            };
            self.repairs.waiting.reads.swap_remove(at);
            match status {
                Some(status) => self.refuse_read(&read, status, 0),
                None => self.reads.lanes.again(read),
            }
        }
    }
}
