//! The sending side of a stream: queues, the batch that is being written, and nothing of the socket
//! but its calls.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use culvert_memory::Pages;
use rustix::io::Errno;

use crate::config::{BATCH_FRAMES_BYTES_MAX, BATCH_PAGES, BATCH_PLACEMENTS_MAX, CALLS_PER_TURN};
use crate::connection::queue::Queue;
use crate::counters::Counters;
use crate::envelope::{Header, WireRun};
use crate::tcp::batch::{self, PREFIX_BYTES};
use crate::tcp::vectors::Source;
use crate::{Class, CloseReason};

/// What [`Sender::flush`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing.
    All,
    /// The socket takes nothing now: go on when it is writable.
    Blocked,
    /// Others have their turn now.
    Paused,
}

/// Frames and payloads on their way to the kernel.
#[derive(Debug)]
pub(crate) struct Sender {
    control: Queue,
    data: Queue,
    /// Head and frames of the batch being written; empty when there is none.
    batch: Vec<u8>,
    /// Bytes of `batch` that the kernel has taken.
    batch_written: usize,
    /// Payloads of the batch that the kernel has not taken whole.
    payloads: VecDeque<Pages>,
    /// Bytes of the first of them that it has taken.
    payload_written: usize,
    /// Pages of payload in queues and batch.
    unsent_pages: u32,
}

impl Sender {
    pub(crate) fn new(data_bytes: usize, control_bytes: usize) -> Self {
        Self {
            control: Queue::new(control_bytes),
            data: Queue::new(data_bytes),
            batch: Vec::new(),
            batch_written: 0,
            payloads: VecDeque::new(),
            payload_written: 0,
            unsent_pages: 0,
        }
    }

    /// The queue of a class.
    pub(crate) fn queue(&self, class: Class) -> &Queue {
        match class {
            Class::Data => &self.data,
            Class::Control => &self.control,
        }
    }

    /// Pages of payload that the kernel has not taken.
    pub(crate) fn unsent_pages(&self) -> u32 {
        self.unsent_pages
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.control.is_empty() && self.data.is_empty()
    }

    /// Queues a record for which there is room.
    pub(crate) fn push<'a>(
        &mut self,
        class: Class,
        header: Header,
        runs: impl Iterator<Item = WireRun>,
        body: &[u8],
        payloads: impl Iterator<Item = &'a Pages> + Clone,
    ) {
        self.unsent_pages += payloads.clone().map(Pages::pages).sum::<u32>();
        let queue = match class {
            Class::Data => &mut self.data,
            Class::Control => &mut self.control,
        };
        queue.push(header, runs, body, payloads);
    }

    /// Writes batches until all is written or the socket takes no more.
    pub(crate) fn flush(
        &mut self,
        socket: BorrowedFd<'_>,
        counters: &mut Counters,
    ) -> Result<Flushed, CloseReason> {
        for _ in 0..CALLS_PER_TURN {
            if self.batch.is_empty() {
                self.compose();
            }
            if self.batch.is_empty() {
                return Ok(Flushed::All);
            }
            counters.system_calls += 1;
            match self.write(socket) {
                Ok(true) => counters.batches_sent += 1,
                // The kernel took a part: it is full.
                Ok(false) | Err(Errno::AGAIN) => return Ok(Flushed::Blocked),
                Err(Errno::INTR) => {}
                Err(error) => return Err(CloseReason::Io(error)),
            }
        }
        Ok(if self.is_empty() { Flushed::All } else { Flushed::Paused })
    }

    /// Makes a batch of what is queued, control first.
    fn compose(&mut self) {
        if self.control.is_empty() && self.data.is_empty() {
            return;
        }
        self.batch.resize(PREFIX_BYTES, 0);
        let mut pages = 0;
        while let Some(record_pages) =
            take_record(&mut self.control, &mut self.batch, &mut self.payloads, pages)
                .or_else(|| take_record(&mut self.data, &mut self.batch, &mut self.payloads, pages))
        {
            pages += record_pages;
        }
        batch::seal(&mut self.batch, pages);
        self.batch_written = 0;
        self.payload_written = 0;
    }

    /// One system call for the rest of the batch; whether it is all written.
    fn write(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        let mut source = Source::new();
        source.push_slice(&self.batch[self.batch_written..]);
        let mut offset = self.payload_written;
        for pages in &self.payloads {
            if !source.push_pages(pages, offset) {
                break;
            }
            offset = 0;
        }
        let sent = source.send(socket)?;
        self.advance(sent);
        if self.batch_written < self.batch.len() || !self.payloads.is_empty() {
            return Ok(false);
        }
        self.batch.clear();
        Ok(true)
    }

    /// Notes that the kernel has taken `sent` bytes, and lets go of the pages that are with it.
    fn advance(&mut self, sent: usize) {
        let from_batch = sent.min(self.batch.len() - self.batch_written);
        self.batch_written += from_batch;
        let mut sent = sent - from_batch;
        while let Some(first) = self.payloads.front() {
            let left = first.len() - self.payload_written;
            if sent < left {
                self.payload_written += sent;
                return;
            }
            sent -= left;
            self.payload_written = 0;
            self.unsent_pages -= first.pages();
            self.payloads.pop_front();
        }
    }
}

/// Moves the oldest record of a queue into the batch, when it fits; its pages of payload.
fn take_record(
    queue: &mut Queue,
    batch: &mut Vec<u8>,
    payloads: &mut VecDeque<Pages>,
    pages: u32,
) -> Option<u32> {
    let oldest = queue.oldest()?;
    let fits = batch.len() - PREFIX_BYTES + oldest.record.len() <= BATCH_FRAMES_BYTES_MAX
        && payloads.len() + oldest.payloads <= BATCH_PLACEMENTS_MAX;
    // The first frame of a batch may be of any size.
    let record_pages = queue.oldest_pages(oldest.payloads);
    let affordable = pages == 0 || pages + record_pages <= BATCH_PAGES || record_pages == 0;
    if !fits || !affordable {
        return None;
    }
    let (bytes, count) = (oldest.record.len(), oldest.payloads);
    batch.extend_from_slice(oldest.record);
    queue.pop(bytes, count, payloads);
    Some(record_pages)
}
