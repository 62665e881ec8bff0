//! From an operation to a submission queue entry: the same for every way to a controller.

use std::ptr::NonNull;

use culvert_memory::Region;
use zerocopy::little_endian::U64;

use crate::command_table::{Command, Held, Kind};
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
}

/// A namespace as commands have to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressee {
    pub(crate) id: NamespaceId,
    pub(crate) blocks: u64,
    pub(crate) limits: Limits,
    /// Where the controller finds metadata for a transfer, and leaves those of another: nobody reads
    /// them. 0 where the namespace has none.
    metadata: u64,
}

impl Addressee {
    pub(crate) fn new(id: NamespaceId, namespace: &Namespace, metadata: u64) -> Addressee {
        Addressee { id, blocks: namespace.blocks, limits: Limits::new(namespace), metadata }
    }

    /// The entry of a transfer, which is made of its range and of where its data are.
    #[inline]
    fn transfer(
        self,
        memory: &mut impl DataPointer,
        id: CommandId,
        lba: Lba,
        (region, pointer, bytes): (&Region, NonNull<u8>, usize),
        entry: impl Fn(LbaRange, PrpPair) -> SubmissionEntry,
    ) -> Result<SubmissionEntry, Status> {
        let range = self.limits.transfer(lba, bytes)?;
        let mut entry = entry(range, memory.data(id, region, pointer, bytes)?);
        entry.metadata = U64::new(self.metadata);
        Ok(entry)
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
                let entry = self.transfer(memory, id, lba, place, read);
                (entry, Command::new(tag, Kind::Read, Held::Buffer(buffer), bytes as u32))
            }
            Operation::Write { lba, pages, fua } => {
                let bytes = pages.len();
                let place = (pages.region(), pages.as_ptr(), bytes);
                let write = |range, data| SubmissionEntry::write(id, self.id, range, data, fua);
                let entry = self.transfer(memory, id, lba, place, write);
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes as u32))
            }
            Operation::WriteBlocks { lba, pages, blocks, fua } => {
                let part = self.limits.part(blocks, pages.len());
                let write = |range, data| SubmissionEntry::write(id, self.id, range, data, fua);
                let entry = part.and_then(|bytes| {
                    let place = (pages.region(), pages.as_ptr(), bytes);
                    self.transfer(memory, id, lba, place, write)
                });
                let bytes = part.unwrap_or(0) as u32;
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
