//! Operations on files and block devices.

use std::ptr::NonNull;
use std::sync::Arc;

use culvert_memory::Region;
use io_uring::{cqueue, squeue};

use super::fixed_buffers::FixedBuffers;
use super::request::{self, Clearing, Transfer};
use super::ring::Ring;
use super::target::Target;
use super::{BACKEND, Medium, Next, Uring, UringPair, errno};
use crate::command_table::{Command, Held, Kind};
use crate::config::TRANSFER_BYTES_MAX;
use crate::contract::{Lba, LbaRange, Namespace, Operation, Submission};
use crate::limits::Limits;
use crate::open::{OpenError, OpenOptions};
use crate::status::Status;
use crate::submission_entry::CommandId;
use crate::uring::UringOptions;

/// A file or block device behind a ring.
#[derive(Debug)]
pub(crate) struct Files {
    target: Arc<Target>,
    /// Commands that take several requests, by command identifier.
    clearings: Box<[Clearing]>,
    limits: Limits,
}

impl Uring {
    /// Opens a queue pair on a file or block device that is claimed.
    pub(crate) fn open_on(
        device: &UringOptions,
        target: Arc<Target>,
        options: &OpenOptions,
    ) -> Result<Uring, OpenError> {
        let depth = options.checked_depth()?;
        let ring = Ring::new(depth, &target.file, false);
        let ring = ring.map_err(|source| OpenError::Uring { path: device.path.clone(), source })?;
        let namespace = Namespace {
            block_size: target.block_size,
            blocks: target.blocks,
            volatile_write_cache: target.volatile_write_cache,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            metadata_bytes: 0,
            model: target.model,
            serial: target.serial,
            backend: BACKEND,
        };
        let clearings = vec![Clearing::default(); usize::from(depth)].into_boxed_slice();
        let files = Files { target, clearings, limits: Limits::new(&namespace) };
        Ok(UringPair::new(ring, (files, namespace), (depth, options.regions_max), false))
    }
}

impl Files {
    /// The transfer of `bytes` bytes at `pointer`, which lies in `region`.
    #[inline]
    fn transfer(
        &self,
        buffers: &mut FixedBuffers,
        lba: Lba,
        region: &Region,
        pointer: NonNull<u8>,
        bytes: usize,
    ) -> Result<Transfer, Status> {
        let range = self.limits.transfer(lba, bytes)?;
        self.check(range)?;
        let location = buffers.locate(region, pointer, bytes);
        Ok(Transfer {
            pointer,
            bytes: bytes as u32,
            location: location.ok_or(Status::DATA_TRANSFER_ERROR)?,
            offset: self.limits.bytes_of(range.start.0),
        })
    }

    #[inline]
    fn check(&self, range: LbaRange) -> Result<(), Status> {
        if range.is_inside(self.target.blocks) { Ok(()) } else { Err(Status::LBA_OUT_OF_RANGE) }
    }

    fn start_clearing(
        &mut self,
        id: CommandId,
        clearing: Result<Clearing, Status>,
    ) -> Next<squeue::Entry> {
        match clearing {
            Ok(clearing) => {
                let slot = &mut self.clearings[usize::from(id.0)];
                *slot = clearing;
                slot.next(id, self.limits)
            }
            Err(status) => Next::End(status),
        }
    }
}

impl Medium for Files {
    type Request = squeue::Entry;
    type Answer = cqueue::Entry;

    #[inline]
    fn prepare(
        &mut self,
        buffers: &mut FixedBuffers,
        id: CommandId,
        submission: Submission,
    ) -> (Next<squeue::Entry>, Command) {
        let Submission { tag, operation } = submission;
        let (entry, command) = match operation {
            Operation::Read { lba, buffer } => {
                let bytes = buffer.len();
                let transfer = self.transfer(buffers, lba, buffer.region(), buffer.as_ptr(), bytes);
                let entry = transfer.map(|transfer| request::read(id, transfer));
                (entry, Command::new(tag, Kind::Read, Held::Buffer(buffer), bytes as u32))
            }
            Operation::Write { lba, pages, fua } => {
                let bytes = pages.len();
                let transfer = self.transfer(buffers, lba, pages.region(), pages.as_ptr(), bytes);
                let entry = transfer.map(|transfer| request::write(id, transfer, fua));
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes as u32))
            }
            Operation::WriteBlocks { lba, pages, blocks, fua } => {
                let part = self.limits.part(blocks, pages.len());
                let entry = part
                    .and_then(|bytes| {
                        self.transfer(buffers, lba, pages.region(), pages.as_ptr(), bytes)
                    })
                    .map(|transfer| request::write(id, transfer, fua));
                let bytes = part.unwrap_or(0) as u32;
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes))
            }
            // A file keeps nothing beside its blocks.
            Operation::WriteWithMetadata { pages, .. } => {
                (Err(Status::INVALID_FIELD), Command::new(tag, Kind::Write, Held::Pages(pages), 0))
            }
            Operation::ReadWithMetadata { buffer, .. } => {
                (Err(Status::INVALID_FIELD), Command::new(tag, Kind::Read, Held::Buffer(buffer), 0))
            }
            Operation::Flush => {
                (Ok(request::flush(id)), Command::new(tag, Kind::Flush, Held::Nothing, 0))
            }
            Operation::WriteZeroes { lba, blocks, deallocate } => {
                let range = self.limits.write_zeroes(lba, blocks);
                let range = range.and_then(|range| self.check(range).map(|()| range));
                let clearing = range.map(|range| Clearing::zeroes(range, deallocate));
                let command = Command::new(tag, Kind::WriteZeroes, Held::Nothing, 0);
                return (self.start_clearing(id, clearing), command);
            }
            Operation::Deallocate { ranges } => {
                let checked = match ranges.is_empty() {
                    true => Err(Status::INVALID_FIELD),
                    false => ranges.iter().try_for_each(|range| self.check(*range)),
                };
                let clearing = checked.map(|()| Clearing::deallocate(ranges));
                let command = Command::new(tag, Kind::Deallocate, Held::Nothing, 0);
                return (self.start_clearing(id, clearing), command);
            }
        };
        (entry.map_or_else(Next::End, Next::Request), command)
    }

    #[inline]
    fn answered(&mut self, id: CommandId, command: &Command, result: i32) -> Next<squeue::Entry> {
        let kind = command.kind;
        let status = errno::status_of(kind, result, command.bytes);
        if !matches!(kind, Kind::WriteZeroes | Kind::Deallocate) {
            return Next::End(status);
        }
        let is_block_device = self.target.is_block_device;
        let clearing = &mut self.clearings[usize::from(id.0)];
        clearing.advance(id, kind, status, is_block_device, self.limits)
    }

    fn leak(&self) {
        std::mem::forget(Arc::clone(&self.target));
    }
}
