//! From an operation to a submission queue entry: the same for every way to a controller.

use std::ptr::NonNull;

use culvert_memory::{Buffer, PAGE_SIZE, Pages, Region};
use zerocopy::little_endian::U64;

use crate::command_table::{Command, Held, Kind};
use crate::config::METADATA_BYTES;
use crate::contract::{Lba, LbaRange, Namespace, Operation, Submission};
use crate::limits::Limits;
use crate::prp::PrpPair;
use crate::status::Status;
use crate::submission_entry::{CommandId, NamespaceId, SubmissionEntry};

/// How a controller is told where data are.
pub(crate) trait DataPointer {
    /// `bytes` bytes at `pointer`, which lie in `region`, for command `id`.
    fn data(
        &mut self,
        id: CommandId,
        region: &Region,
        pointer: NonNull<u8>,
        bytes: usize,
    ) -> Result<PrpPair, Status>;

    /// The list of the ranges that command `id` deallocates.
    fn ranges(&mut self, id: CommandId, ranges: &[LbaRange]) -> PrpPair;

    /// Where the controller finds the metadata of the block that command `id` writes. Asked only where
    /// the namespace has some.
    fn metadata(&mut self, _id: CommandId, _written: &[u8; METADATA_BYTES]) -> u64 {
        unreachable!("namespaces with metadata are refused here")
    }
}

/// Where a namespace with metadata has those of transfers that name none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnnamedMetadata {
    /// Of reads: nobody looks at them.
    pub(crate) read: u64,
    /// Of writes: zeroes.
    pub(crate) written: u64,
}

/// A namespace as commands have to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressee {
    pub(crate) id: NamespaceId,
    pub(crate) blocks: u64,
    pub(crate) limits: Limits,
    unnamed: UnnamedMetadata,
    /// Of each block.
    metadata_bytes: u32,
    /// Bytes that a page of blocks has with its metadata.
    page_bytes: u32,
}

impl Addressee {
    pub(crate) fn new(
        id: NamespaceId,
        namespace: &Namespace,
        unnamed: UnnamedMetadata,
    ) -> Addressee {
        Addressee {
            id,
            blocks: namespace.blocks,
            limits: Limits::new(namespace),
            unnamed,
            metadata_bytes: namespace.metadata_bytes,
            page_bytes: PAGE_SIZE as u32 + namespace.blocks_per_page() * namespace.metadata_bytes,
        }
    }

    /// The entry of a transfer, which is made of its range and of where its data are.
    #[inline]
    fn transfer(
        self,
        memory: &mut impl DataPointer,
        id: CommandId,
        lba: Lba,
        (region, pointer, bytes): (&Region, NonNull<u8>, usize),
        metadata: u64,
        entry: impl Fn(LbaRange, PrpPair) -> SubmissionEntry,
    ) -> Result<SubmissionEntry, Status> {
        let range = self.limits.transfer(lba, bytes)?;
        let mut entry = entry(range, memory.data(id, region, pointer, bytes)?);
        entry.metadata = U64::new(metadata);
        Ok(entry)
    }

    /// What a write of so many bytes brings to the device: metadata, too.
    #[inline]
    fn written(self, bytes: usize) -> u32 {
        match self.metadata_bytes {
            0 => bytes as u32,
            _ => (bytes as u64 * u64::from(self.page_bytes) / PAGE_SIZE as u64) as u32,
        }
    }

    /// Whether blocks have room for metadata that are named.
    fn check_metadata(self, blocks: usize) -> Result<(), Status> {
        let bytes = self.metadata_bytes as usize;
        if bytes < METADATA_BYTES || blocks.saturating_mul(bytes) > PAGE_SIZE {
            return Err(Status::INVALID_FIELD);
        }
        Ok(())
    }

    fn read_with_metadata(
        self,
        memory: &mut impl DataPointer,
        id: CommandId,
        lba: Lba,
        buffer: &Buffer,
    ) -> Result<SubmissionEntry, Status> {
        let bytes = buffer.len() - PAGE_SIZE;
        self.check_metadata(bytes / PAGE_SIZE)?;
        let last = NonNull::new(buffer.as_ptr().as_ptr().wrapping_add(bytes));
        let last = last.expect("a page of the buffer");
        let metadata = memory.data(id, buffer.region(), last, PAGE_SIZE)?.prp1;
        let place = (buffer.region(), buffer.as_ptr(), bytes);
        let read = |range, data| SubmissionEntry::read(id, self.id, range, data);
        self.transfer(memory, id, lba, place, metadata, read)
    }

    fn write_with_metadata(
        self,
        memory: &mut impl DataPointer,
        id: CommandId,
        lba: Lba,
        (pages, metadata): (&Pages, &[u8; METADATA_BYTES]),
        write: impl Fn(LbaRange, PrpPair) -> SubmissionEntry,
    ) -> Result<SubmissionEntry, Status> {
        self.check_metadata(1)?;
        if pages.len() != PAGE_SIZE {
            return Err(Status::INVALID_FIELD);
        }
        let metadata = memory.metadata(id, metadata);
        let place = (pages.region(), pages.as_ptr(), pages.len());
        self.transfer(memory, id, lba, place, metadata, write)
    }

    /// The entry of an operation, or why there is none, and what the table keeps of it.
    #[inline]
    pub(crate) fn compose(
        self,
        memory: &mut impl DataPointer,
        id: CommandId,
        submission: Submission,
    ) -> (Result<SubmissionEntry, Status>, Command) {
        let Submission { tag, operation } = submission;
        match operation {
            Operation::Read { lba, buffer } => {
                let bytes = buffer.len();
                let place = (buffer.region(), buffer.as_ptr(), bytes);
                let read = |range, data| SubmissionEntry::read(id, self.id, range, data);
                let entry = self.transfer(memory, id, lba, place, self.unnamed.read, read);
                (entry, Command::new(tag, Kind::Read, Held::Buffer(buffer), bytes as u32))
            }
            Operation::ReadWithMetadata { lba, buffer } => {
                let bytes = (buffer.len() - PAGE_SIZE) as u32;
                let entry = self.read_with_metadata(memory, id, lba, &buffer);
                (entry, Command::new(tag, Kind::Read, Held::Buffer(buffer), bytes))
            }
            Operation::Write { lba, pages, fua } => {
                let bytes = pages.len();
                let place = (pages.region(), pages.as_ptr(), bytes);
                let write = |range, data| SubmissionEntry::write(id, self.id, range, data, fua);
                let entry = self.transfer(memory, id, lba, place, self.unnamed.written, write);
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), self.written(bytes)))
            }
            Operation::WriteWithMetadata { lba, pages, fua, metadata } => {
                let bytes = self.written(pages.len());
                let write = |range, data| SubmissionEntry::write(id, self.id, range, data, fua);
                let entry = self.write_with_metadata(memory, id, lba, (&pages, &metadata), write);
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes))
            }
            Operation::WriteBlocks { lba, pages, blocks, fua } => {
                let part = self.limits.part(blocks, pages.len());
                let write = |range, data| SubmissionEntry::write(id, self.id, range, data, fua);
                let entry = part.and_then(|bytes| {
                    let place = (pages.region(), pages.as_ptr(), bytes);
                    self.transfer(memory, id, lba, place, self.unnamed.written, write)
                });
                let bytes = self.written(part.unwrap_or(0));
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes))
            }
            Operation::Flush => {
                let entry = SubmissionEntry::flush(id, self.id);
                (Ok(entry), Command::new(tag, Kind::Flush, Held::Nothing, 0))
            }
            Operation::WriteZeroes { lba, blocks, deallocate } => {
                let range = self.limits.write_zeroes(lba, blocks);
                let entry = range
                    .map(|range| SubmissionEntry::write_zeroes(id, self.id, range, deallocate));
                (entry, Command::new(tag, Kind::WriteZeroes, Held::Nothing, 0))
            }
            Operation::Deallocate { ranges } => {
                // Devices skip ranges that are not there, or refuse them, or refuse all.
                let inside = |range: &LbaRange| range.is_inside(self.blocks);
                let entry = if ranges.is_empty() {
                    Err(Status::INVALID_FIELD)
                } else if !ranges.iter().all(inside) {
                    Err(Status::LBA_OUT_OF_RANGE)
                } else {
                    let data = memory.ranges(id, &ranges);
                    Ok(SubmissionEntry::deallocate(id, self.id, ranges.len() as u8, data))
                };
                (entry, Command::new(tag, Kind::Deallocate, Held::Nothing, 0))
            }
        }
    }
}
