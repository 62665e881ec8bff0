//! Writing: items into the blocks of one batch, in the memory that the device will read.

use super::block::{BLOCK_HEADER_BYTES, Stamp, seal_block};
use super::entry::{NOWHERE, record_length};
use super::item::{ITEM_HEADER_BYTES, Item, Sink, kind, u32_at};
use crate::device::Salt;
use crate::record::RecordView;

/// Offsets of two fields of the block header that are known while items are added.
const FIRST_AT: usize = 36;
const USED_AT: usize = 38;

/// The state of a batch that is being filled; its memory is passed to each call.
///
/// Items go straight to where they will lie, with room left for the block headers; a record is
/// copied once. Example, with blocks of 512 bytes and items of 100: block 0 holds bytes 40..512:
/// four items and 72 bytes of the fifth, whose other 28 begin block 1 at byte 40; block 1's first
/// item is at byte 68.
#[derive(Clone, Copy, Debug)]
pub struct BatchWriter {
    block_size: usize,
    blocks_max: usize,
    /// Where the next byte goes; a multiple of the block size if the last block is full.
    cursor: usize,
    items: u32,
}

impl BatchWriter {
    /// A batch of at most `bytes_max` bytes of whole blocks.
    ///
    /// # Panics
    ///
    /// If that is not even one block.
    #[must_use]
    pub fn new(block_size: usize, bytes_max: usize) -> BatchWriter {
        let blocks_max = bytes_max / block_size;
        assert!(blocks_max > 0, "a batch has room for a block");
        BatchWriter { block_size, blocks_max, cursor: 0, items: 0 }
    }

    /// Items added.
    #[must_use]
    pub fn items(&self) -> u32 {
        self.items
    }

    /// Bytes of items that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        let rest = self.cursor % self.block_size;
        let begun = if rest == 0 { 0 } else { self.block_size - rest };
        begun + (self.blocks_max - self.blocks()) * (self.block_size - BLOCK_HEADER_BYTES)
    }

    /// Blocks that the batch takes; an empty one takes a block too, once it is sealed.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.cursor.div_ceil(self.block_size)
    }

    /// The record of the batch's only entry and where its only block lies, if that is all there is.
    #[must_use]
    pub fn only_block<'a>(&self, memory: &'a [u8]) -> Option<(RecordView<'a>, u32)> {
        let item = memory.get(BLOCK_HEADER_BYTES..self.cursor.min(self.block_size))?;
        if self.items != 1 || item.len() < ITEM_HEADER_BYTES || item[7] != kind::ENTRY {
            return None;
        }
        let body = &item[ITEM_HEADER_BYTES..];
        let (record, local) = body.split_at(record_length(body).ok()?);
        if local.len() != 8 || u32_at(local, 4) != 1 || u32_at(local, 0) == NOWHERE {
            return None;
        }
        Some((RecordView::trusted(record), u32_at(local, 0)))
    }

    /// Adds an item.
    ///
    /// # Panics
    ///
    /// If it does not fit ([`BatchWriter::room`]).
    pub fn add(&mut self, memory: &mut [u8], item: &Item<'_>) {
        assert!(item.length() <= self.room(), "the item fits the batch");
        if self.cursor.is_multiple_of(self.block_size) {
            self.begin_block(memory);
        }
        let block = self.cursor - self.cursor % self.block_size;
        let first = &mut memory[block + FIRST_AT..block + FIRST_AT + 2];
        if first == [0, 0] {
            first.copy_from_slice(&((self.cursor - block) as u16).to_le_bytes());
        }
        item.emit(&mut BatchSink { writer: self, memory });
        self.items += 1;
    }

    /// Finishes the batch: headers and checksums. Returns its number of blocks.
    ///
    /// # Panics
    ///
    /// If the stamp's mark is above its position.
    pub fn seal(&mut self, memory: &mut [u8], stamp: &Stamp, salt: Salt) -> u32 {
        assert!(stamp.mark <= stamp.position, "a batch vouches only for what is before it");
        if self.cursor == 0 {
            self.begin_block(memory);
        }
        let blocks = self.blocks();
        let end = blocks * self.block_size;
        self.set_used(memory);
        memory[self.cursor..end].fill(0);
        for (at, block) in memory[..end].chunks_exact_mut(self.block_size).enumerate() {
            seal_block(block, stamp, at as u64, at + 1 == blocks, salt);
        }
        blocks as u32
    }

    /// Forgets the items; the memory may be used for the next batch.
    pub fn clear(&mut self) {
        self.cursor = 0;
        self.items = 0;
    }

    fn begin_block(&mut self, memory: &mut [u8]) {
        if self.cursor > 0 {
            self.set_used(memory);
        }
        memory[self.cursor..self.cursor + BLOCK_HEADER_BYTES].fill(0);
        self.cursor += BLOCK_HEADER_BYTES;
    }

    /// Notes how far the last block is filled.
    fn set_used(&self, memory: &mut [u8]) {
        let block = (self.blocks() - 1) * self.block_size;
        let used = (self.cursor - block) as u16;
        memory[block + USED_AT..block + USED_AT + 2].copy_from_slice(&used.to_le_bytes());
    }

    fn put(&mut self, memory: &mut [u8], mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.cursor.is_multiple_of(self.block_size) {
                self.begin_block(memory);
            }
            let room = self.block_size - self.cursor % self.block_size;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            memory[self.cursor..self.cursor + now.len()].copy_from_slice(now);
            self.cursor += now.len();
            bytes = later;
        }
    }
}

struct BatchSink<'a> {
    writer: &'a mut BatchWriter,
    memory: &'a mut [u8],
}

impl Sink for BatchSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.writer.put(self.memory, bytes);
    }
}
