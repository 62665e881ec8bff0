//! Reading a range of the device in order, with many reads in flight.
//!
//! A read that fails is repeated page by page, so that one bad block costs a page and not the
//! neighbourhood.

use std::collections::VecDeque;

use culvert_memory::{Buffer, Pool};
use culvert_nvme::{Operation, Status};

use super::DeviceMeasures;
use crate::ids::BLOCK_SIZE;

const PAGE: u64 = BLOCK_SIZE as u64;

/// A part of the range, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// So many bytes could not be read.
    Unreadable(u64),
}

enum State {
    Reading,
    Read(Buffer),
    /// It is to be read page by page.
    Failed,
}

struct Chunk {
    at: u64,
    /// Bytes of the range in it; the buffer may be longer.
    bytes: u64,
    state: State,
}

/// See the module's documentation.
pub(super) struct RangeReader {
    device: DeviceMeasures,
    /// Ranges that were not begun, in order.
    ranges: VecDeque<std::ops::Range<u64>>,
    /// Chunks begun and not delivered, in order.
    chunks: VecDeque<Chunk>,
    spare: Vec<Buffer>,
    /// The buffer for single pages, when no read of a page is in flight.
    page: Option<Buffer>,
    page_failed: bool,
    page_read: bool,
    device_end: u64,
}

/// Which of a reader's reads completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPart {
    /// The chunk at this byte.
    Chunk(u64),
    /// A single page.
    Page,
}

impl RangeReader {
    /// A reader with up to `depth` buffers of `bytes` bytes; `None` if the pool has no two.
    pub(super) fn new(
        device: DeviceMeasures,
        device_end: u64,
        depth: usize,
        bytes: usize,
        pool: &Pool,
    ) -> Option<RangeReader> {
        let pages = ((bytes / BLOCK_SIZE) as u32).min(device.transfer_pages_max);
        let page = pool.acquire(1)?;
        let spare: Vec<Buffer> = (0..depth).map_while(|_| pool.acquire(pages)).collect();
        let reader = RangeReader {
            device,
            ranges: VecDeque::new(),
            chunks: VecDeque::with_capacity(depth),
            spare,
            page: Some(page),
            page_failed: false,
            page_read: false,
            device_end,
        };
        (!reader.spare.is_empty()).then_some(reader)
    }

    /// Adds a range behind those there are.
    pub(super) fn add(&mut self, range: std::ops::Range<u64>) {
        if !range.is_empty() {
            self.ranges.push_back(range);
        }
    }

    /// Whether everything was delivered.
    pub(super) fn is_done(&self) -> bool {
        self.ranges.is_empty() && self.chunks.is_empty()
    }

    /// The next read for the device, if there is a buffer for it.
    pub(super) fn next_read(&mut self) -> Option<(ReadPart, Operation)> {
        if let Some(Chunk { at, bytes, state: State::Failed }) = self.chunks.front()
            && !self.page_read
            && !self.page_failed
        {
            debug_assert!(*bytes > 0);
            let at = *at;
            let buffer = self.page.take()?;
            let lba = self.device.lba(at);
            return Some((ReadPart::Page, Operation::Read { lba, buffer }));
        }
        let range = self.ranges.front_mut()?;
        let buffer = self.spare.pop()?;
        let at = range.start;
        let bytes = (range.end - at).min(buffer.len() as u64);
        let beyond = at + buffer.len() as u64 > self.device_end;
        range.start += bytes;
        if range.is_empty() {
            self.ranges.pop_front();
        }
        if beyond {
            self.spare.push(buffer);
            self.chunks.push_back(Chunk { at, bytes, state: State::Failed });
            return self.next_read();
        }
        self.chunks.push_back(Chunk { at, bytes, state: State::Reading });
        let lba = self.device.lba(at);
        Some((ReadPart::Chunk(at), Operation::Read { lba, buffer }))
    }

    /// A read came back.
    pub(super) fn complete(&mut self, part: ReadPart, status: Status, buffer: Buffer) {
        match part {
            ReadPart::Page => {
                self.page = Some(buffer);
                self.page_read = status.is_success();
                self.page_failed = !status.is_success();
            }
            ReadPart::Chunk(at) => {
                let chunk = self.chunks.iter_mut().find(|chunk| chunk.at == at);
                let chunk = chunk.expect("a read in flight");
                if status.is_success() {
                    chunk.state = State::Read(buffer);
                } else {
                    chunk.state = State::Failed;
                    self.spare.push(buffer);
                }
            }
        }
    }

    /// Passes what is there to `each`, in order.
    pub(super) fn deliver(&mut self, mut each: impl FnMut(Part<'_>)) {
        while let Some(chunk) = self.chunks.front_mut() {
            match &mut chunk.state {
                State::Reading => return,
                State::Read(buffer) => {
                    each(Part::Bytes(&buffer.as_slice()[..chunk.bytes as usize]))
                }
                State::Failed => {
                    if !self.page_read && !self.page_failed {
                        return;
                    }
                    let bytes = chunk.bytes.min(PAGE);
                    if self.page_read {
                        let page = self.page.as_ref().expect("it was read");
                        each(Part::Bytes(&page.as_slice()[..bytes as usize]));
                    } else {
                        each(Part::Unreadable(bytes));
                    }
                    (self.page_read, self.page_failed) = (false, false);
                    chunk.at += bytes;
                    chunk.bytes -= bytes;
                    if chunk.bytes > 0 {
                        return;
                    }
                }
            }
            let chunk = self.chunks.pop_front().expect("looked at");
            if let State::Read(buffer) = chunk.state {
                self.spare.push(buffer);
            }
        }
    }
}
