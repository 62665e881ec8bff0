//! The writing side of the journal: open batch, waiting batches, and the one in flight.

use std::collections::VecDeque;

use culvert_memory::{Buffer, Pages, Pool};
use culvert_nvme::{Lba, Operation};

use super::config::ShardConfig;
use crate::device::Salt;
use crate::ids::{BLOCK_SIZE, BatchNumber};
use crate::journal::{BLOCK_HEADER_BYTES, BatchWriter, Item, Ring, Space, Stamp};
use crate::record::RecordView;

/// What the writing side needs to know of its shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppenderOptions {
    pub(super) salt: Salt,
    pub(super) block_size: usize,
    pub(super) transfer_bytes_max: usize,
    /// First block of the ring on the device.
    pub(super) ring_lba: u64,
    pub(super) incarnation: u32,
    /// Position at which the incarnation began.
    pub(super) start: u64,
    pub(super) batch_bytes: usize,
}

/// A batch with its memory.
struct Filled {
    writer: BatchWriter,
    memory: Buffer,
    /// Whether it holds more than notes: its end has to be covered by a mark soon.
    weighty: bool,
}

/// A batch that was handed to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) batch: BatchNumber,
    pub(super) commands: u32,
    pub(super) items: u32,
    pub(super) bytes: u64,
    /// Position behind its last block.
    pub(super) end: u64,
    pub(super) weighty: bool,
}

/// See the module's documentation.
pub(super) struct Appender {
    options: AppenderOptions,
    ring: Ring,
    /// The batch being filled; `None` while all buffers are taken.
    open: Option<Filled>,
    spare: Vec<Buffer>,
    /// Closed batches that were not submitted yet, oldest first.
    waiting: VecDeque<(BatchNumber, Filled)>,
    /// The memory of the batch in flight.
    writing: Option<Pages>,
    /// Whether the batch in flight stands in metadata, and has no memory.
    in_metadata: bool,
}

impl Appender {
    /// Takes its buffers from the pool; `None` if the pool has not so many pages.
    pub(super) fn new(
        options: AppenderOptions,
        ring: Ring,
        config: &ShardConfig,
        pool: &Pool,
    ) -> Option<Appender> {
        let spare: Option<Vec<Buffer>> =
            (0..config.batch_buffers).map(|_| pool.acquire(buffer_pages(config))).collect();
        let mut appender = Appender {
            options,
            ring,
            open: None,
            spare: spare?,
            waiting: VecDeque::with_capacity(config.batch_buffers),
            writing: None,
            in_metadata: false,
        };
        appender.fill_open();
        Some(appender)
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Gives up the ring below a position.
    pub(super) fn release(&mut self, tail: u64) {
        self.ring.release(tail);
    }

    /// How full the ring is. Full: what was accepted fits, and one batch more, so that a checkpoint
    /// can always end.
    pub(super) fn space(&self) -> Space {
        let batch = (self.options.batch_bytes / self.options.block_size) as u64;
        let waiting = self.waiting.iter().map(|(_, filled)| filled.writer.blocks() as u64);
        self.ring.space(waiting.sum::<u64>() + 2 * batch)
    }

    /// Bytes of items that an empty batch holds.
    pub(super) fn batch_room(&self) -> usize {
        let block = self.options.block_size;
        self.options.batch_bytes / block * (block - BLOCK_HEADER_BYTES)
    }

    /// Bytes of items that surely fit, in this batch or in those that can be opened behind it.
    pub(super) fn room(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.writer.room());
        open.max(self.spare.len() * (self.batch_room() / 2))
    }

    /// Bytes that fit into the open batch itself.
    pub(super) fn open_room(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.writer.room())
    }

    /// Items of the open batch.
    pub(super) fn items(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.writer.items())
    }

    /// The record of the open batch's only entry and where its only block lies, if that is all it
    /// holds and metadata can say it behind the ring's head; with its stamp.
    pub(super) fn only_block(&self, mark: u64) -> Option<(RecordView<'_>, u32, Stamp)> {
        let open = self.open.as_ref()?;
        let (record, place) = open.writer.only_block(open.memory.as_slice())?;
        let AppenderOptions { incarnation, start, .. } = self.options;
        let stamp = Stamp { position: self.ring.head(), mark, start, incarnation };
        (self.ring.free() > 0).then_some((record, place, stamp))
    }

    /// The open batch goes to the device in metadata: takes its place in the ring, whose block is not
    /// written, and forgets its items. Returns the position behind it.
    pub(super) fn written_in_metadata(&mut self) -> u64 {
        assert!(!self.is_writing() && self.waiting.is_empty(), "one journal write at a time");
        self.in_metadata = true;
        let open = self.open.as_mut().expect("an open batch");
        open.writer.clear();
        open.weighty = false;
        self.ring.advance(1);
        self.ring.head()
    }

    /// Whether a batch waits.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a journal write is in flight.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some() || self.in_metadata
    }

    /// Whether the open batch can be closed: it has memory to be written from.
    pub(super) fn can_close(&self) -> bool {
        self.open.is_some()
    }

    /// Adds an item to the open batch; it was looked whether it fits.
    pub(super) fn add(&mut self, item: &Item<'_>, weighty: bool) {
        let open = self.open.as_mut().expect("room was looked for");
        open.writer.add(open.memory.as_mut_slice(), item);
        open.weighty |= weighty;
    }

    /// Moves the open batch to those that wait, under its number.
    pub(super) fn close(&mut self, batch: BatchNumber, weighty: bool) {
        let mut open = self.open.take().expect("an open batch");
        open.weighty |= weighty;
        self.waiting.push_back((batch, open));
        self.fill_open();
    }

    fn fill_open(&mut self) {
        if self.open.is_none()
            && let Some(memory) = self.spare.pop()
        {
            let AppenderOptions { block_size, batch_bytes, .. } = self.options;
            let writer = BatchWriter::new(block_size, batch_bytes);
            self.open = Some(Filled { writer, memory, weighty: false });
        }
    }

    /// The oldest batch that waits, if it may be submitted: none is in flight and the ring has
    /// room for it. A checkpoint needs those up to `urgent` to end: they may use all of the ring.
    pub(super) fn next(&self, urgent: BatchNumber) -> Option<BatchNumber> {
        let (batch, filled) = self.waiting.front()?;
        let blocks = filled.writer.blocks().max(1) as u64;
        let room = if *batch <= urgent { self.ring.unused() } else { self.ring.free() };
        (!self.is_writing() && blocks <= room).then_some(*batch)
    }

    /// Seals the oldest batch that waits and passes its commands on.
    pub(super) fn write(
        &mut self,
        mark: u64,
        forced: bool,
        mut submit: impl FnMut(Operation),
    ) -> Written {
        assert!(!self.is_writing(), "one journal write at a time");
        let (batch, mut filled) = self.waiting.pop_front().expect("a batch waits");
        let position = self.ring.head();
        let AppenderOptions { salt, incarnation, start, .. } = self.options;
        let stamp = Stamp { position, mark, start, incarnation };
        let blocks = filled.writer.seal(filled.memory.as_mut_slice(), &stamp, salt);
        self.ring.advance(blocks);
        let mut memory = filled.memory;
        let runs = self.ring.runs(position, blocks);
        let second_at = self.align_second(&mut memory, runs[0].blocks, runs[1].blocks);
        let pages = memory.freeze();
        let mut commands = 0;
        for (run, page) in [(runs[0], 0), (runs[1], second_at)] {
            commands += self.write_run(&pages, page, run.slot, run.blocks, forced, &mut submit);
        }
        self.writing = Some(pages);
        Written {
            batch,
            commands,
            items: filled.writer.items(),
            bytes: u64::from(blocks) * self.options.block_size as u64,
            end: self.ring.head(),
            weighty: filled.weighty,
        }
    }

    /// A command begins on a page: moves the blocks behind the ring's end up to the next one.
    /// Returns that page.
    fn align_second(&self, memory: &mut Buffer, first: u32, second: u32) -> u32 {
        let block = self.options.block_size;
        let from = first as usize * block;
        let to = from.next_multiple_of(BLOCK_SIZE);
        if second > 0 && to > from {
            memory.as_mut_slice().copy_within(from..from + second as usize * block, to);
        }
        (to / BLOCK_SIZE) as u32
    }

    /// Passes on the commands of one run; returns how many.
    fn write_run(
        &self,
        pages: &Pages,
        mut page: u32,
        mut slot: u64,
        mut blocks: u32,
        forced: bool,
        submit: &mut impl FnMut(Operation),
    ) -> u32 {
        let per_page = (BLOCK_SIZE / self.options.block_size) as u32;
        let pages_max = (self.options.transfer_bytes_max / BLOCK_SIZE) as u32;
        let mut commands = 0;
        while blocks > 0 {
            let now = blocks.min(pages_max * per_page);
            let now_pages = now.div_ceil(per_page);
            submit(Operation::WriteBlocks {
                lba: Lba(self.options.ring_lba + slot),
                pages: pages.slice(page, now_pages),
                blocks: now,
                fua: forced,
            });
            commands += 1;
            page += now_pages;
            slot += u64::from(now);
            blocks -= now;
        }
        commands
    }

    /// The write of a batch that stands in metadata is complete.
    pub(super) fn metadata_written(&mut self) {
        self.in_metadata = false;
    }

    /// The journal write is complete and all its commands have given their pages back.
    pub(super) fn written(&mut self) {
        let pages = self.writing.take().expect("a journal write was in flight");
        let memory = pages.try_into_buffer().expect("its commands have given their pages back");
        self.spare.push(memory);
        self.fill_open();
    }
}

/// Pages of a journal buffer: a batch, and one for the shift at the ring's end.
pub(super) fn buffer_pages(config: &ShardConfig) -> u32 {
    (config.batch_bytes / BLOCK_SIZE + 1) as u32
}
