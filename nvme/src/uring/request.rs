//! Operations as io_uring requests.
//!
//! | operation | request |
//! | --- | --- |
//! | read, write | `READ_FIXED`, `WRITE_FIXED`; force unit access is `RWF_DSYNC` |
//! | flush | `FSYNC` with `DATASYNC` |
//! | write zeroes | `FALLOCATE`: zero range, or punch hole where deallocation is allowed |
//! | deallocate | `FALLOCATE` punch hole, one request for each range, one after the other |
//!
//! A mode of `FALLOCATE` that the file system does not have is tried in the other mode: both read
//! as zeroes.

use std::ptr::NonNull;

use arrayvec::ArrayVec;
use io_uring::{opcode, squeue, types};

use super::Next;
use super::fixed_buffers::Location;
use crate::command_table::Kind;
use crate::config::DEALLOCATE_RANGES_MAX;
use crate::contract::LbaRange;
use crate::limits::Limits;
use crate::status::Status;
use crate::submission_entry::CommandId;

/// The one registered file.
const FILE: types::Fixed = types::Fixed(0);

const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// The bytes of a transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) pointer: NonNull<u8>,
    pub(super) bytes: u32,
    pub(super) location: Location,
    /// Where they go in the file.
    pub(super) offset: u64,
}

/// A read.
#[inline]
pub(super) fn read(id: CommandId, transfer: Transfer) -> squeue::Entry {
    let Transfer { pointer, bytes, location, offset } = transfer;
    let pointer = pointer.as_ptr();
    let entry = match location {
        Location::Place(place) => {
            opcode::ReadFixed::new(FILE, pointer, bytes, place).offset(offset).build()
        }
        Location::Ordinary => opcode::Read::new(FILE, pointer, bytes).offset(offset).build(),
    };
    entry.user_data(u64::from(id.0))
}

/// A write.
#[inline]
pub(super) fn write(id: CommandId, transfer: Transfer, fua: bool) -> squeue::Entry {
    let Transfer { pointer, bytes, location, offset } = transfer;
    let pointer = pointer.as_ptr();
    let flags = if fua { libc::RWF_DSYNC } else { 0 };
    let entry = match location {
        Location::Place(place) => opcode::WriteFixed::new(FILE, pointer, bytes, place)
            .offset(offset)
            .rw_flags(flags)
            .build(),
        Location::Ordinary => {
            opcode::Write::new(FILE, pointer, bytes).offset(offset).rw_flags(flags).build()
        }
    };
    entry.user_data(u64::from(id.0))
}

/// A flush. It covers what had completed before it was submitted; that no more is asked of it is
/// the caller's rule, the kernel may well do more.
pub(super) fn flush(id: CommandId) -> squeue::Entry {
    let flags = types::FsyncFlags::DATASYNC;
    opcode::Fsync::new(FILE).flags(flags).build().user_data(u64::from(id.0))
}

/// A command that takes one `FALLOCATE` request after another.
#[derive(Clone, Debug, Default)]
pub(super) struct Clearing {
    /// What is left to clear; the last is under way.
    ranges: ArrayVec<LbaRange, DEALLOCATE_RANGES_MAX>,
    mode: i32,
    /// Whether the other mode has been tried on this range.
    second_try: bool,
}

impl Clearing {
    /// Write zeroes.
    pub(super) fn zeroes(range: LbaRange, deallocate: bool) -> Clearing {
        let mut ranges = ArrayVec::new();
        ranges.push(range);
        let mode = if deallocate { PUNCH_HOLE } else { ZERO_RANGE };
        Clearing { ranges, mode, second_try: false }
    }

    /// Deallocate; ranges without blocks are left out.
    pub(super) fn deallocate(mut ranges: ArrayVec<LbaRange, DEALLOCATE_RANGES_MAX>) -> Clearing {
        ranges.retain(|range| range.blocks > 0);
        Clearing { ranges, mode: PUNCH_HOLE, second_try: false }
    }

    /// The request for the range at hand, or the end when there is none.
    pub(super) fn next(&self, id: CommandId, limits: Limits) -> Next<squeue::Entry> {
        let Some(range) = self.ranges.last() else {
            return Next::End(Status::SUCCESS);
        };
        let entry = opcode::Fallocate::new(FILE, limits.bytes_of(u64::from(range.blocks)))
            .offset(limits.bytes_of(range.start.0))
            .mode(self.mode)
            .build();
        Next::Request(entry.user_data(u64::from(id.0)))
    }

    /// Goes on after the request for the range at hand has ended with `status`. On a block device
    /// a deallocation that is not supported is a hint not taken.
    pub(super) fn advance(
        &mut self,
        id: CommandId,
        kind: Kind,
        status: Status,
        is_block_device: bool,
        limits: Limits,
    ) -> Next<squeue::Entry> {
        let unsupported = status.same_code(Status::INVALID_OPCODE);
        let hint = kind == Kind::Deallocate && is_block_device;
        if unsupported && !hint && !self.second_try {
            self.second_try = true;
            self.mode = if self.mode == PUNCH_HOLE { ZERO_RANGE } else { PUNCH_HOLE };
            return self.next(id, limits);
        }
        let hint_not_taken = unsupported && hint;
        if !status.is_success() && !hint_not_taken {
            return Next::End(status);
        }
        self.ranges.pop();
        self.next(id, limits)
    }
}
