//! Frames of one class on their way to the kernel or the device.

use std::collections::VecDeque;

use culvert_memory::Pages;
use zerocopy::IntoBytes;

use crate::envelope::{HEADER_BYTES, Header, RECORD_BYTES_LIMIT, WireRun, padded};

/// Records and their payloads, in order.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Records; those before `start` have left.
    bytes: Vec<u8>,
    start: usize,
    payloads: VecDeque<Pages>,
    bytes_max: usize,
}

/// The oldest record of a queue.
pub(crate) struct Oldest<'a> {
    pub(crate) record: &'a [u8],
    pub(crate) payloads: usize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, payloads: VecDeque::new(), bytes_max }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether a record of `bytes` bytes fits.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.queued() + bytes <= self.bytes_max
    }

    /// Whether half of the queue is free.
    pub(crate) fn is_half_free(&self) -> bool {
        self.queued() <= self.bytes_max / 2
    }

    /// Appends a record for which there is room.
    pub(crate) fn push<'a>(
        &mut self,
        header: Header,
        runs: impl Iterator<Item = WireRun>,
        body: &[u8],
        payloads: impl Iterator<Item = &'a Pages>,
    ) {
        self.make_room(header.padded());
        self.bytes.extend_from_slice(header.as_bytes());
        runs.for_each(|run| self.bytes.extend_from_slice(run.as_bytes()));
        self.bytes.extend_from_slice(body);
        let end = self.bytes.len() + padded(body.len()) - body.len();
        self.bytes.resize(end, 0);
        self.payloads.extend(payloads.cloned());
    }

    /// The oldest record.
    pub(crate) fn oldest(&self) -> Option<Oldest<'_>> {
        let rest = &self.bytes[self.start..];
        let head: [u8; HEADER_BYTES] = *rest.first_chunk()?;
        let header =
            Header::parse(head, RECORD_BYTES_LIMIT).expect("the queue holds what this side wrote");
        Some(Oldest { record: &rest[..header.padded()], payloads: header.payloads() })
    }

    /// The payloads of the oldest record and of those behind it.
    pub(crate) fn oldest_payloads(&self) -> impl Iterator<Item = &Pages> {
        self.payloads.iter()
    }

    /// Removes the oldest record, of `bytes` bytes, and lets go of its payloads.
    pub(crate) fn discard(&mut self, bytes: usize, payloads: usize) {
        self.advance(bytes);
        self.payloads.drain(..payloads);
    }

    /// The pages of the oldest record, which has `payloads` payloads.
    pub(crate) fn oldest_pages(&self, payloads: usize) -> u32 {
        self.payloads.iter().take(payloads).map(Pages::pages).sum()
    }

    /// Removes the oldest record, of `bytes` bytes, and moves its payloads to `target`.
    pub(crate) fn pop(&mut self, bytes: usize, payloads: usize, target: &mut VecDeque<Pages>) {
        self.advance(bytes);
        target.extend(self.payloads.drain(..payloads));
    }

    fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    fn queued(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Moves what is queued to the front where the allocation would have to grow otherwise.
    fn make_room(&mut self, bytes: usize) {
        if self.start > 0 && self.bytes.capacity() - self.bytes.len() < bytes {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}
