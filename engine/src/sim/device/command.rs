//! A command: what it asks for, what it holds, and its steps, one for each sector.
//!
//! Arguments are checked here, when the command is made from a submission; a bad one gets its
//! status at once and never reaches the disk.

use std::collections::BTreeSet;
use std::ops::Range;

use culvert_memory::{Buffer, Pages, Region, RegionId};
use culvert_nvme::{
    Completion, Counters, Lba, LbaRange, METADATA_BYTES, Namespace, Operation, Status, Submission,
    Tag, WRITE_ZEROES_BLOCKS_MAX,
};

use super::{BLOCK_BYTES, METADATA_SECTORS, SECTOR_BYTES, SECTORS_PER_BLOCK};

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    WriteZeroes,
    Deallocate,
}

/// When a step is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// With the touch of this number.
    Touch(u8),
    /// It was.
    Done,
    /// Not at all.
    Never,
}

/// One sector of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The sector of the disk.
    pub(super) sector: u64,
    /// Where its bytes lie in the buffer or pages.
    pub(super) offset: usize,
    pub(super) turn: Turn,
}

impl Step {
    /// Whether it is for metadata.
    pub(super) fn is_metadata(self) -> bool {
        self.sector >= METADATA_SECTORS
    }

    /// The block that it is for.
    pub(super) fn block(self) -> u64 {
        if self.is_metadata() {
            self.sector - METADATA_SECTORS
        } else {
            self.sector / SECTORS_PER_BLOCK
        }
    }

    /// Bytes that it moves.
    pub(super) fn bytes(self) -> usize {
        if self.is_metadata() { METADATA_BYTES } else { SECTOR_BYTES }
    }
}

/// What was moved into a command.
#[derive(Debug)]
pub(super) enum Held {
    Nothing,
    Buffer(Buffer),
    Pages(Pages),
}

/// A command between its submission and its completion.
#[derive(Debug)]
pub(super) struct Command {
    /// The queue pair that it belongs to.
    pub(super) session: u64,
    tag: Tag,
    pub(super) kind: Kind,
    pub(super) held: Held,
    pub(super) fua: bool,
    /// Success unless something was wrong with it or happened to it.
    pub(super) status: Status,
    /// Those for metadata are the last.
    pub(super) steps: Vec<Step>,
    /// What a write that names them leaves beside its block.
    pub(super) metadata: [u8; METADATA_BYTES],
    /// For a flush: how many commands had ended when it was rung.
    pub(super) covers: u64,
    /// A step whose data are stored with this bit flipped.
    pub(super) flip: Option<(usize, u64)>,
}

/// What a command is checked against.
pub(super) struct Limits<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) regions: &'a BTreeSet<RegionId>,
}

impl Command {
    /// Makes a command of a submission. Its status is an error when its arguments are bad.
    pub(super) fn new(session: u64, submission: Submission, limits: &Limits<'_>) -> Command {
        let Submission { tag, operation } = submission;
        let mut metadata = [0; METADATA_BYTES];
        let (kind, held, fua, checked) = match operation {
            Operation::Read { lba, buffer } => {
                let checked = limits.transfer(lba, buffer.len(), buffer.len(), buffer.region());
                (Kind::Read, Held::Buffer(buffer), false, checked)
            }
            Operation::Write { lba, pages, fua } => {
                let checked = limits.transfer(lba, pages.len(), pages.len(), pages.region());
                (Kind::Write, Held::Pages(pages), fua, limits.with_metadata(checked))
            }
            Operation::WriteBlocks { lba, pages, blocks, fua } => {
                let bytes = blocks as usize * limits.namespace.block_size as usize;
                let checked = limits.transfer(lba, bytes, pages.len(), pages.region());
                (Kind::Write, Held::Pages(pages), fua, limits.with_metadata(checked))
            }
            Operation::WriteWithMetadata { lba, pages, fua, metadata: named } => {
                let checked = limits.transfer(lba, pages.len(), BLOCK_BYTES, pages.region());
                metadata = named;
                (Kind::Write, Held::Pages(pages), fua, limits.named_metadata(checked))
            }
            Operation::ReadWithMetadata { lba, buffer } => {
                let bytes = buffer.len() - BLOCK_BYTES;
                let available = bytes.min(BLOCK_BYTES / METADATA_BYTES * BLOCK_BYTES);
                let checked = limits.transfer(lba, bytes, available, buffer.region());
                (Kind::Read, Held::Buffer(buffer), false, limits.named_metadata(checked))
            }
            Operation::Flush => (Kind::Flush, Held::Nothing, false, Ok(Vec::new())),
            Operation::WriteZeroes { lba, blocks, .. } => {
                let checked = limits.write_zeroes(lba, blocks);
                (Kind::WriteZeroes, Held::Nothing, false, limits.with_metadata(checked))
            }
            Operation::Deallocate { ranges } => {
                let checked = limits.deallocate(&ranges);
                (Kind::Deallocate, Held::Nothing, false, limits.with_metadata(checked))
            }
        };
        let (steps, status) = match checked {
            Ok(steps) => (steps, Status::SUCCESS),
            Err(status) => (Vec::new(), status),
        };
        let (covers, flip) = (0, None);
        Command { session, tag, kind, held, fua, status, steps, metadata, covers, flip }
    }

    /// Counts the command and hands back what it held.
    pub(super) fn complete(self, counters: &mut Counters) -> Completion {
        let is_success = self.status.is_success();
        let moved: usize = self.steps.iter().map(|step| step.bytes()).sum();
        let bytes = if is_success { moved as u64 } else { 0 };
        counters.errors += u64::from(!is_success);
        match self.kind {
            Kind::Read => {
                counters.reads += 1;
                counters.bytes_read += bytes;
                counters.bytes_copied_for_dma += bytes;
            }
            Kind::Write => {
                counters.writes += 1;
                counters.bytes_written += bytes;
                counters.bytes_copied_for_dma += bytes;
            }
            Kind::Flush => counters.flushes += 1,
            Kind::WriteZeroes => counters.write_zeroes += 1,
            Kind::Deallocate => counters.deallocates += 1,
        }
        let (buffer, pages) = match self.held {
            Held::Nothing => (None, None),
            Held::Buffer(buffer) => (Some(buffer), None),
            Held::Pages(pages) => (None, Some(pages)),
        };
        Completion { tag: self.tag, status: self.status, buffer, pages }
    }
}

impl Limits<'_> {
    /// The steps of a transfer of `bytes` of the `available` bytes that a command brought.
    fn transfer(
        &self,
        lba: Lba,
        bytes: usize,
        available: usize,
        region: &Region,
    ) -> Result<Vec<Step>, Status> {
        let block_size = self.namespace.block_size as usize;
        if bytes == 0 || bytes > available || !bytes.is_multiple_of(block_size) {
            return Err(Status::INVALID_FIELD);
        }
        if bytes > self.namespace.transfer_bytes_max as usize {
            return Err(Status::INVALID_FIELD);
        }
        if !self.regions.contains(&region.id()) {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        let blocks = (bytes / block_size) as u32;
        Ok(steps(self.sectors(LbaRange { start: lba, blocks })?))
    }

    fn write_zeroes(&self, lba: Lba, blocks: u32) -> Result<Vec<Step>, Status> {
        if blocks == 0 || blocks > WRITE_ZEROES_BLOCKS_MAX {
            return Err(Status::INVALID_FIELD);
        }
        Ok(steps(self.sectors(LbaRange { start: lba, blocks })?))
    }

    fn deallocate(&self, ranges: &[LbaRange]) -> Result<Vec<Step>, Status> {
        if ranges.is_empty() {
            return Err(Status::INVALID_FIELD);
        }
        let mut all = Vec::new();
        for range in ranges {
            all.extend(steps(self.sectors(*range)?));
        }
        Ok(all)
    }

    /// Adds the metadata of all blocks, where there are any.
    fn with_metadata(&self, steps: Result<Vec<Step>, Status>) -> Result<Vec<Step>, Status> {
        let mut steps = steps?;
        if self.namespace.metadata_bytes > 0 {
            let data = steps.len();
            let per_block = SECTORS_PER_BLOCK as usize;
            for block in 0..data / per_block {
                steps.push(Step {
                    sector: METADATA_SECTORS + steps[block * per_block].block(),
                    offset: data * SECTOR_BYTES + block * METADATA_BYTES,
                    turn: Turn::Touch(0),
                });
            }
        }
        Ok(steps)
    }

    /// The same for a command that asks for them.
    fn named_metadata(&self, steps: Result<Vec<Step>, Status>) -> Result<Vec<Step>, Status> {
        if self.namespace.metadata_bytes == 0 {
            return Err(Status::INVALID_FIELD);
        }
        self.with_metadata(steps)
    }

    fn sectors(&self, range: LbaRange) -> Result<Range<u64>, Status> {
        if !range.is_inside(self.namespace.blocks) {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        let unit = u64::from(self.namespace.block_size) / SECTOR_BYTES as u64;
        let first = range.start.0 * unit;
        Ok(first..first + u64::from(range.blocks) * unit)
    }
}

/// A step for each sector, none of them due.
fn steps(sectors: Range<u64>) -> Vec<Step> {
    let step =
        |(index, sector)| Step { sector, offset: index * SECTOR_BYTES, turn: Turn::Touch(0) };
    sectors.enumerate().map(step).collect()
}
