#![allow(unsafe_code)]
//! Files and block devices through the kernel: io_uring with `O_DIRECT`.
//!
//! Fixed file, fixed buffers, and one `io_uring_enter` for each [`QueuePair::ring`]. Where the
//! kernel offers it, completions are run only when this thread asks (deferred task work), so
//! nothing interrupts the reactor; then a poll that finds the ring empty and the kernel's flag set
//! makes one system call to collect them.
//!
//! **Fault model.** The kernel is believed. Errors and short transfers become error status.
//! Memory under a request in flight cannot be taken back, so dropping a queue pair waits for the
//! device.

mod errno;
mod fixed_buffers;
mod options;
mod probe;
mod request;
mod ring;
mod target;

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use culvert_memory::Region;
use io_uring::squeue;

use self::fixed_buffers::FixedBuffers;
use self::request::{Clearing, Next, Transfer};
use self::ring::Ring;
use crate::claim::Access;
use crate::command_table::{Command, CommandTable, Held, Kind};
use crate::config::TRANSFER_BYTES_MAX;
use crate::contract::{
    Completion, Lba, LbaRange, Namespace, Operation, QueuePair, RegisterError, Submission, Wake,
};
use crate::counters::Counters;
use crate::limits::Limits;
use crate::open::{OpenError, OpenOptions};
use crate::status::Status;
use crate::submission_entry::CommandId;

pub use self::options::UringOptions;
pub(crate) use self::target::Target;
pub use self::target::UringError;

/// The name of this backend in URIs.
pub(crate) const BACKEND: &str = "uring";

/// A queue pair on a file or block device.
///
/// Fields are dropped in order: the ring before the memory its requests use. By then nothing is in
/// flight.
#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    commands: CommandTable,
    /// Commands that take several requests, by command identifier.
    clearings: Box<[Clearing]>,
    buffers: FixedBuffers,
    target: Arc<Target>,
    namespace: Namespace,
    limits: Limits,
    counters: Counters,
    armed: bool,
    /// The kernel ties a ring to the thread that made it.
    thread_bound: PhantomData<*const ()>,
}

impl Uring {
    /// Opens a file or block device.
    ///
    /// # Errors
    ///
    /// When it is not there, is used by somebody else, cannot be read and written directly, or
    /// io_uring is not available.
    pub fn open(device: &UringOptions, options: &OpenOptions) -> Result<Uring, OpenError> {
        Uring::open_on(device, Arc::new(Target::open(device, Access::Exclusive)?), options)
    }

    /// Opens a queue pair on a file or block device that is claimed.
    pub(crate) fn open_on(
        device: &UringOptions,
        target: Arc<Target>,
        options: &OpenOptions,
    ) -> Result<Uring, OpenError> {
        let depth = options.checked_depth()?;
        let failed = |source| OpenError::Uring { path: device.path.clone(), source };
        let ring = Ring::new(depth, &target.file).map_err(failed)?;
        let namespace = Namespace {
            block_size: device.block_size,
            blocks: target.blocks,
            volatile_write_cache: target.volatile_write_cache,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            model: target.model,
            serial: target.serial,
            backend: BACKEND,
        };
        Ok(Uring {
            buffers: FixedBuffers::new(&ring.submitter(), options.regions_max),
            ring,
            commands: CommandTable::new(depth),
            clearings: vec![Clearing::default(); usize::from(depth)].into_boxed_slice(),
            target,
            limits: Limits::new(&namespace),
            namespace,
            counters: Counters::default(),
            armed: false,
            thread_bound: PhantomData,
        })
    }

    /// The transfer of `bytes` bytes at `pointer`, which lies in `region`.
    #[inline]
    fn transfer(
        &mut self,
        lba: Lba,
        region: &Region,
        pointer: NonNull<u8>,
        bytes: usize,
    ) -> Result<Transfer, Status> {
        let range = self.limits.transfer(lba, bytes)?;
        self.check(range)?;
        let location = self.buffers.locate(region, pointer, bytes);
        Ok(Transfer {
            pointer,
            bytes: bytes as u32,
            location: location.ok_or(Status::DATA_TRANSFER_ERROR)?,
            offset: self.limits.bytes_of(range.start.0),
        })
    }

    #[inline]
    fn check(&self, range: LbaRange) -> Result<(), Status> {
        if range.is_inside(self.namespace.blocks) { Ok(()) } else { Err(Status::LBA_OUT_OF_RANGE) }
    }

    /// The request of an operation, or the answer when there is none, and what the table keeps.
    #[inline]
    fn prepare(&mut self, id: CommandId, submission: Submission) -> (Next, Command) {
        let Submission { tag, operation } = submission;
        let (entry, command) = match operation {
            Operation::Read { lba, buffer } => {
                let bytes = buffer.len();
                let transfer = self.transfer(lba, buffer.region(), buffer.as_ptr(), bytes);
                let entry = transfer.map(|transfer| request::read(id, transfer));
                (entry, Command::new(tag, Kind::Read, Held::Buffer(buffer), bytes as u32))
            }
            Operation::Write { lba, pages, fua } => {
                let bytes = pages.len();
                let transfer = self.transfer(lba, pages.region(), pages.as_ptr(), bytes);
                let entry = transfer.map(|transfer| request::write(id, transfer, fua));
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes as u32))
            }
            Operation::WriteBlocks { lba, pages, blocks, fua } => {
                let part = self.limits.part(blocks, pages.len());
                let entry = part
                    .and_then(|bytes| self.transfer(lba, pages.region(), pages.as_ptr(), bytes))
                    .map(|transfer| request::write(id, transfer, fua));
                let bytes = part.unwrap_or(0) as u32;
                (entry, Command::new(tag, Kind::Write, Held::Pages(pages), bytes))
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

    fn start_clearing(&mut self, id: CommandId, clearing: Result<Clearing, Status>) -> Next {
        match clearing {
            Ok(clearing) => {
                let slot = &mut self.clearings[usize::from(id.0)];
                *slot = clearing;
                slot.next(id, self.limits)
            }
            Err(status) => Next::End(status),
        }
    }

    /// Queues a request for the kernel.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the request's memory belongs to the command, which is in the table until the
        // request has completed, and lies in a region that is registered and thus mapped.
        unsafe { self.ring.push(entry) };
    }

    /// Visits one completion of the kernel; false when its command goes on.
    #[inline]
    fn visit(&mut self, user_data: u64, result: i32, complete: &mut dyn FnMut(Completion)) -> bool {
        let id = CommandId(user_data as u16);
        let Some(command) = self.commands.get(id) else {
            self.counters.errors += 1;
            tracing::warn!(user_data, result, "completion of an unknown request");
            return false;
        };
        let kind = command.kind;
        let mut status = errno::status_of(kind, result, command.bytes);
        if matches!(kind, Kind::WriteZeroes | Kind::Deallocate) {
            let is_block_device = self.target.is_block_device;
            let clearing = &mut self.clearings[usize::from(id.0)];
            match clearing.advance(id, kind, status, is_block_device, self.limits) {
                Next::Request(entry) => {
                    self.push(&entry);
                    return false;
                }
                Next::End(end) => status = end,
            }
        }
        let command = self.commands.take(id).expect("looked up above");
        complete(command.complete(status, &mut self.counters));
        true
    }

    /// Visits answers that came from no kernel.
    fn visit_answers(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        let mut visited = 0;
        while visited < budget {
            let Some((command, status)) = self.commands.take_answer() else { break };
            complete(command.complete(status, &mut self.counters));
            visited += 1;
        }
        visited
    }
}

impl QueuePair for Uring {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.counters.system_calls += 1;
        self.buffers.insert(&self.ring.submitter(), region)
    }

    fn unregister(&mut self, region: &Region) {
        // Requests that are queued here name places of the table.
        self.counters.system_calls += self.ring.enter() + 1;
        self.buffers.remove(&self.ring.submitter(), region);
    }

    #[inline]
    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        let Some(id) = self.commands.next_id() else {
            return Err(submission);
        };
        let (next, command) = self.prepare(id, submission);
        let inserted = self.commands.insert(command);
        debug_assert_eq!(inserted, id, "the request carries the identifier of its command");
        match next {
            Next::Request(entry) => self.push(&entry),
            Next::End(status) => self.commands.answer(id, status),
        }
        Ok(())
    }

    #[inline]
    fn ring(&mut self) {
        self.counters.system_calls += self.ring.enter();
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        if self.armed {
            self.armed = false;
            self.counters.system_calls += self.ring.disarm();
        }
        let mut visited = 0;
        if self.commands.has_answer() {
            visited = self.visit_answers(budget, complete);
        }
        self.counters.system_calls += self.ring.collect();
        let mut goes_on = false;
        while visited < budget {
            let Some((user_data, result)) = self.ring.take() else { break };
            let ended = self.visit(user_data, result, complete);
            visited += usize::from(ended);
            goes_on |= !ended;
        }
        if goes_on {
            self.counters.system_calls += self.ring.enter();
        }
        visited
    }

    fn in_flight(&self) -> usize {
        self.commands.in_flight()
    }

    fn depth(&self) -> usize {
        self.commands.depth()
    }

    fn wake(&self) -> Wake<'_> {
        Wake::Fd(self.ring.event())
    }

    fn arm(&mut self) -> bool {
        if self.commands.has_answer() || self.ring.has_completion() {
            return false;
        }
        self.ring.arm();
        if self.ring.has_completion() {
            self.counters.system_calls += self.ring.disarm();
            return false;
        }
        self.armed = true;
        true
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Uring {
    /// Waits until the kernel has let go of every buffer.
    fn drop(&mut self) {
        self.visit_answers(usize::MAX, &mut drop);
        while self.commands.in_flight() > 0 {
            if let Err(error) = self.ring.wait() {
                tracing::error!(%error, "requests in flight could not be waited for: their memory is leaked, and the device stays claimed");
                std::mem::forget(std::mem::replace(&mut self.commands, CommandTable::new(1)));
                std::mem::forget(Arc::clone(&self.target));
                return;
            }
            while let Some((user_data, result)) = self.ring.take() {
                self.visit(user_data, result, &mut drop);
            }
        }
        self.ring.release_file();
    }
}
