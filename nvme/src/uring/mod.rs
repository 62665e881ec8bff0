#![allow(unsafe_code)]
//! Files, block devices and NVMe namespaces through the kernel: io_uring with `O_DIRECT`, or with
//! NVMe commands that the kernel's driver passes through.
//!
//! Fixed file, fixed buffers, and one `io_uring_enter` for each [`QueuePair::ring`]. Where the
//! kernel offers it, completions are run only when this thread asks (deferred task work), so
//! nothing interrupts the reactor; then a poll that finds the ring empty and the kernel's flag set
//! makes one system call to collect them.
//!
//! | part | what |
//! | --- | --- |
//! | `ring`, `fixed_buffers` | the instance and its registered memory |
//! | `target`, `request`, `files` | files and block devices, and operations as their requests |
//! | `generic`, `admin`, `passthrough` | namespaces as character devices, and operations as commands |
//!
//! **Fault model.** The kernel is believed. Errors and short transfers become error status.
//! Memory under a request in flight cannot be taken back, so dropping a queue pair waits for the
//! device.

mod admin;
mod errno;
mod files;
mod fixed_buffers;
mod generic;
mod options;
mod passthrough;
mod probe;
mod request;
mod ring;
mod target;

use std::marker::PhantomData;

use culvert_memory::Region;
use io_uring::squeue;

use self::fixed_buffers::FixedBuffers;
use self::ring::{Answer, Ring};
use crate::command_table::{Command, CommandTable};
use crate::contract::{Completion, Namespace, QueuePair, RegisterError, Submission, Wake};
use crate::counters::Counters;
use crate::status::Status;
use crate::submission_entry::CommandId;

pub(crate) use self::files::Files;
pub(crate) use self::generic::Generic;
pub use self::options::UringOptions;
pub(crate) use self::passthrough::Commands;
pub(crate) use self::target::Target;
pub use self::target::UringError;

/// The name of this backend in URIs.
pub(crate) const BACKEND: &str = "uring";

/// What is behind a ring: how operations become its requests.
pub(crate) trait Medium {
    /// A submission entry.
    type Request: squeue::EntryMarker;
    /// A completion entry.
    type Answer: Answer;

    /// The request of an operation, or the answer when there is none, and what the table keeps.
    fn prepare(
        &mut self,
        buffers: &mut FixedBuffers,
        id: CommandId,
        submission: Submission,
    ) -> (Next<Self::Request>, Command);

    /// Keeps the device open and claimed for good.
    fn leak(&self);

    /// What comes after a request of a command has ended with `result`.
    fn answered(&mut self, id: CommandId, command: &Command, result: i32) -> Next<Self::Request>;
}

/// What a command goes on with.
#[derive(Debug)]
pub(crate) enum Next<R> {
    /// One more request.
    Request(R),
    /// The end, with this status.
    End(Status),
}

/// A queue pair on a file or block device.
#[allow(private_interfaces, reason = "what is behind a ring is named, and nobody else's business")]
pub type Uring = UringPair<Files>;

/// A queue pair on an NVMe namespace through the kernel's driver.
#[allow(private_interfaces, reason = "what is behind a ring is named, and nobody else's business")]
pub type Passthrough = UringPair<Commands>;

/// A queue pair through io_uring.
///
/// Fields are dropped in order: the ring before the memory its requests use. By then nothing is in
/// flight.
#[allow(private_bounds, reason = "there are two, named above")]
pub struct UringPair<M: Medium> {
    ring: Ring<M::Request, M::Answer>,
    commands: CommandTable,
    buffers: FixedBuffers,
    medium: M,
    namespace: Namespace,
    counters: Counters,
    armed: bool,
    /// Completions are to be asked for, and wake nobody.
    polled: bool,
    /// The kernel ties a ring to the thread that made it.
    thread_bound: PhantomData<*const ()>,
}

impl<M: Medium> std::fmt::Debug for UringPair<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.commands.in_flight();
        f.debug_struct("UringPair").field("in_flight", &in_flight).finish_non_exhaustive()
    }
}

#[allow(private_bounds, reason = "there are two, named above")]
impl<M: Medium> UringPair<M> {
    fn new(
        ring: Ring<M::Request, M::Answer>,
        (medium, namespace): (M, Namespace),
        (depth, regions_max): (u16, u32),
        polled: bool,
    ) -> Self {
        UringPair {
            buffers: FixedBuffers::new(&ring.submitter(), regions_max),
            ring,
            commands: CommandTable::new(depth),
            medium,
            namespace,
            counters: Counters::default(),
            armed: false,
            polled,
            thread_bound: PhantomData,
        }
    }

    /// Queues a request for the kernel.
    fn push(&mut self, entry: &M::Request) {
        // SAFETY: the request's memory belongs to the command, which is in the table until the
        // request has completed, and lies in a region that is registered and thus mapped; or it is
        // the medium's own, which is dropped after the ring.
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
        let status = match self.medium.answered(id, command, result) {
            Next::Request(entry) => {
                self.push(&entry);
                return false;
            }
            Next::End(status) => status,
        };
        let command = self.commands.take(id).expect("looked up above");
        complete(command.complete(status, &mut self.counters));
        true
    }
}

impl<M: Medium> QueuePair for UringPair<M> {
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
        let (next, command) = self.medium.prepare(&mut self.buffers, id, submission);
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
            visited = self.commands.visit_answers(budget, &mut self.counters, complete);
        }
        self.counters.system_calls += self.ring.collect(self.commands.in_flight() > 0);
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
        if self.polled { Wake::Poll } else { Wake::Fd(self.ring.event()) }
    }

    fn arm(&mut self) -> bool {
        if self.commands.has_answer() || self.ring.has_completion() {
            return false;
        }
        if self.polled {
            return self.commands.in_flight() == 0;
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

impl<M: Medium> Drop for UringPair<M> {
    /// Waits until the kernel has let go of every buffer.
    fn drop(&mut self) {
        self.commands.visit_answers(usize::MAX, &mut self.counters, &mut drop);
        while self.commands.in_flight() > 0 {
            if let Err(error) = self.ring.wait() {
                tracing::error!(%error, "requests in flight could not be waited for: their memory is leaked, and the device stays claimed");
                std::mem::forget(std::mem::replace(&mut self.commands, CommandTable::new(1)));
                self.medium.leak();
                return;
            }
            while let Some((user_data, result)) = self.ring.take() {
                self.visit(user_data, result, &mut drop);
            }
        }
        self.ring.release_file();
    }
}
