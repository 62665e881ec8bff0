#![allow(unsafe_code)]
//! Operations on an NVMe namespace: commands that the kernel's driver passes through.
//!
//! `IORING_OP_URING_CMD` with the command in a submission entry of 128 bytes, and the controller's
//! status in a completion of 32 (`struct nvme_uring_cmd` in `include/uapi/linux/nvme_ioctl.h`;
//! Linux 5.19). The entry is the one that goes to a controller of our own;
//! in the place of its PRPs the kernel gets an address of this process.

use std::ptr::NonNull;
use std::sync::Arc;

use culvert_memory::{PAGE_SIZE, Region};
use io_uring::{cqueue, opcode, squeue, types};
use rustix::io::Errno;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::admin::PassedCommand;
use super::fixed_buffers::{FixedBuffers, Location};
use super::generic::Generic;
use super::ring::Ring;
use super::{Medium, Next, Passthrough, UringPair, errno};
use crate::command_table::Command;
use crate::compose::{Addressee, DataPointer, UnnamedMetadata};
use crate::config::DEALLOCATE_RANGES_MAX;
use crate::contract::{Lba, LbaRange, Submission};
use crate::open::{OpenError, OpenOptions};
use crate::prp::PrpPair;
use crate::queue_memory::own_region;
use crate::status::Status;
use crate::submission_entry::{CommandId, DatasetRange, SubmissionEntry};
use crate::uring::UringOptions;

/// The one registered file.
const FILE: types::Fixed = types::Fixed(0);

/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const PASS_IO: u32 = 0xc048_4e80;

/// A command, in the 80 bytes that an entry has for it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Passed {
    command: PassedCommand,
    padding: u64,
}

const _: () = assert!(size_of::<Passed>() == 80);

/// The ranges of one deallocation.
type Ranges = [DatasetRange; DEALLOCATE_RANGES_MAX];

/// A namespace behind a ring.
#[derive(Debug)]
pub(crate) struct Commands {
    target: Arc<Generic>,
    addressee: Addressee,
    /// By command identifier.
    ranges: Box<[Ranges]>,
    /// Whether commands may name fixed buffers.
    fixed: bool,
}

impl Passthrough {
    /// Opens a queue pair on a namespace that is claimed.
    pub(crate) fn open_on(
        device: &UringOptions,
        target: Arc<Generic>,
        options: &OpenOptions,
    ) -> Result<Passthrough, OpenError> {
        let depth = options.checked_depth()?;
        let ring = Ring::new(depth, &target.file, device.polled);
        let ring = ring.map_err(|source| OpenError::Uring { path: device.path.clone(), source })?;
        let namespace = target.namespace.clone();
        let commands = Commands {
            addressee: Addressee::new(target.id, &namespace, UnnamedMetadata::default()),
            ranges: vec![Ranges::new_zeroed(); usize::from(depth)].into_boxed_slice(),
            fixed: takes_fixed_buffers(&target, device.polled),
            target,
        };
        let bounds = (depth, options.regions_max);
        Ok(UringPair::new(ring, (commands, namespace), bounds, device.polled))
    }
}

/// Whether commands may name fixed buffers, found out with a read. Linux does that since 6.1, but for a
/// long time counted the segments of the whole buffer where those of the command were meant, and so
/// refused what lies in a large one.
fn takes_fixed_buffers(target: &Generic, polled: bool) -> bool {
    let takes = try_fixed_buffer(target, polled).unwrap_or(false);
    if !takes {
        tracing::info!(
            "this kernel takes no fixed buffers for NVMe commands: each pins its memory"
        );
    }
    takes
}

fn try_fixed_buffer(target: &Generic, polled: bool) -> Option<bool> {
    let region = own_region((target.segments_max + 1) * PAGE_SIZE).ok()?;
    let mut ring: Ring<squeue::Entry128, cqueue::Entry32> =
        Ring::new(1, &target.file, polled).ok()?;
    let mut buffers = FixedBuffers::new(&ring.submitter(), 1);
    buffers.insert(&ring.submitter(), &region).ok()?;
    let bytes = target.namespace.block_size;
    let Location::Place(place) = buffers.locate(&region, region.base(), bytes as usize)? else {
        return Some(false);
    };
    let range = LbaRange { start: Lba(0), blocks: 1 };
    let data = PrpPair { prp1: region.base().as_ptr() as u64, prp2: 0 };
    let read = SubmissionEntry::read(CommandId(0), target.id, range, data);
    // SAFETY: the region outlives the ring, and nobody else looks at it.
    unsafe { ring.push(&pass(&read, bytes, Some(place))) };
    ring.wait().ok()?;
    let (_, result) = ring.take()?;
    Some(result == 0)
}

/// Where the data of one command are.
struct Data<'a> {
    buffers: &'a mut FixedBuffers,
    ranges: &'a mut Ranges,
    bytes: u32,
    location: Location,
}

impl DataPointer for Data<'_> {
    #[inline]
    fn data(
        &mut self,
        _id: CommandId,
        region: &Region,
        pointer: NonNull<u8>,
        bytes: usize,
    ) -> Result<PrpPair, Status> {
        let location = self.buffers.locate(region, pointer, bytes);
        self.location = location.ok_or(Status::DATA_TRANSFER_ERROR)?;
        self.bytes = bytes as u32;
        Ok(PrpPair { prp1: pointer.as_ptr() as u64, prp2: 0 })
    }

    fn ranges(&mut self, _id: CommandId, ranges: &[LbaRange]) -> PrpPair {
        for (entry, range) in self.ranges.iter_mut().zip(ranges) {
            *entry = DatasetRange::from(*range);
        }
        self.bytes = size_of_val(&self.ranges[..ranges.len()]) as u32;
        PrpPair { prp1: self.ranges.as_ptr() as u64, prp2: 0 }
    }
}

impl Medium for Commands {
    type Request = squeue::Entry128;
    type Answer = cqueue::Entry32;

    #[inline]
    fn prepare(
        &mut self,
        buffers: &mut FixedBuffers,
        id: CommandId,
        submission: Submission,
    ) -> (Next<squeue::Entry128>, Command) {
        let ranges = &mut self.ranges[usize::from(id.0)];
        let mut data = Data { buffers, ranges, bytes: 0, location: Location::Ordinary };
        let (entry, command) = self.addressee.compose(&mut data, id, submission);
        let (bytes, location) = (data.bytes, data.location);
        let place = match location {
            Location::Place(place) if self.fixed => Some(place),
            _ => None,
        };
        let request = entry.map(|entry| pass(&entry, bytes, place));
        (request.map_or_else(Next::End, Next::Request), command)
    }

    #[inline]
    fn answered(&mut self, _: CommandId, command: &Command, result: i32) -> Next<squeue::Entry128> {
        Next::End(match result {
            // The status field, as the controller gave it.
            0.. => Status(result as u16),
            // The driver has given the command up: its time was over, or the controller was reset.
            _ if result == -Errno::INTR.raw_os_error() => Status::ABORT_REQUESTED,
            _ => errno::status_of(command.kind, result, command.bytes),
        })
    }

    fn leak(&self) {
        std::mem::forget(Arc::clone(&self.target));
    }
}

/// The request that passes a command through; its data are `bytes` bytes long.
#[inline]
fn pass(entry: &SubmissionEntry, bytes: u32, place: Option<u16>) -> squeue::Entry128 {
    let command = PassedCommand {
        opcode: entry.opcode,
        flags: entry.flags,
        namespace: entry.namespace_id.get(),
        dwords_2: [entry.dword2.get(), entry.dword3.get()],
        address: entry.prp1.get(),
        bytes,
        dwords_10: [
            entry.dword10.get(),
            entry.dword11.get(),
            entry.dword12.get(),
            entry.dword13.get(),
            entry.dword14.get(),
            entry.dword15.get(),
        ],
        ..PassedCommand::default()
    };
    let passed = Passed { command, padding: 0 };
    let command = opcode::UringCmd80::new(FILE, PASS_IO).cmd(zerocopy::transmute!(passed));
    command.buf_index(place).build().user_data(u64::from(entry.command_id.get()))
}
