#![allow(unsafe_code)]
//! The driver half: the NVMe protocol of one queue pair over any [`Bus`].
//!
//! It builds submission entries and PRPs, rings doorbells, reads phase tags and decodes status.
//! It is the same code for the emulated controller and for a real one. What it is not: it does not
//! know where registers are, how addresses are translated, or what time it is (but for waits at
//! bring-up).
//!
//! **Fault model.** The device's word is checked before it is used: a completion for a command
//! that is not in flight is counted as an error and dropped, a head outside the ring is ignored.
//! A device that has gone away, and a reset, answer every command in flight on its behalf, and
//! only after the device has stopped touching memory.

use std::ptr::NonNull;
use std::time::Duration;

use culvert_memory::Region;

use crate::bus::Bus;
use crate::command_table::{CommandTable, Tick};
use crate::completion_entry::CompletionEntry;
use crate::completion_queue::CompletionQueue;
use crate::compose::{Addressee, DataPointer};
use crate::config::{METADATA_BYTES, TIMEOUT_TICKS};
use crate::contract::{
    Completion, LbaRange, Namespace, QueuePair, RegisterError, Submission, Tag, Wake,
};
use crate::controller::{Controller, Joined};
use crate::controller_error::ControllerError;
use crate::counters::Counters;
use crate::prp::{Further, PrpPair, further_pages};
use crate::queue_memory::QueueMemory;
use crate::registers::{self, ControllerStatus, completion_doorbell, submission_doorbell};
use crate::status::Status;
use crate::submission_entry::CommandId;
use crate::submission_queue::SubmissionQueue;

/// One queue pair over a bus.
///
/// Fields are dropped in order: the bus, and with it the device's reach, before the buffers that
/// commands in flight hold and before the queues' memory.
#[derive(Debug)]
pub(crate) struct Driver<B: Bus> {
    bus: B,
    controller: Controller,
    /// Number of its queues.
    queue: u16,
    /// Generation of the controller in which they were created.
    generation: u64,
    commands: CommandTable,
    submission: SubmissionQueue,
    completion: CompletionQueue,
    memory: QueueMemory,
    namespace: Namespace,
    addressee: Addressee,
    counters: Counters,
    /// The device has gone away, or the controller does not come back from a reset.
    lost: bool,
    /// A wake-up was asked for and not yet withdrawn.
    armed: bool,
    /// A command may take so many ticks of so many nanoseconds.
    tick_ns: u64,
    tick: Tick,
    /// Time that has passed while somebody looked after the commands.
    tended_ns: u64,
    /// When that was last.
    looked_ns: Option<u64>,
}

impl<B: Bus> Driver<B> {
    /// A queue pair on a controller, which is brought up if this is its first. `memory` was made
    /// for the depth wanted.
    ///
    /// # Errors
    ///
    /// When the controller does not come up or cannot do what is needed.
    pub(crate) fn open(
        mut bus: B,
        controller: Controller,
        mut memory: QueueMemory,
        timeout: Duration,
    ) -> Result<Driver<B>, ControllerError> {
        memory.map(&mut bus)?;
        let entries = memory.entries();
        let joined = controller.join(&mut bus, entries)?;
        let Joined { queue, generation, capabilities, namespace, id } = joined;
        let metadata = memory.map_metadata(&mut bus, &namespace)?;
        let stride = capabilities.doorbell_stride();
        let tail = submission_doorbell(queue, stride);
        let head = completion_doorbell(queue, stride);
        // SAFETY: `memory` has `entries` entries for each ring, this driver's alone, and is
        // dropped after the queues.
        let submission = unsafe { SubmissionQueue::new(memory.submission().0, entries, tail) };
        // SAFETY: as above; controllers write dword 3 last.
        let completion = unsafe { CompletionQueue::new(memory.completion().0, entries, head) };
        let mut driver = Driver {
            addressee: Addressee::new(id, &namespace, metadata),
            commands: CommandTable::new(entries - 1),
            bus,
            controller,
            queue,
            generation,
            submission,
            completion,
            memory,
            namespace,
            counters: Counters::default(),
            lost: false,
            armed: false,
            tick_ns: (timeout.as_nanos() as u64 / u64::from(TIMEOUT_TICKS)).max(1),
            tick: Tick::at(0, 1),
            tended_ns: 0,
            looked_ns: None,
        };
        driver.create_queues()?;
        Ok(driver)
    }

    /// Begins with empty queues.
    fn create_queues(&mut self) -> Result<(), ControllerError> {
        self.submission.reset();
        self.completion.reset();
        let vector = self.bus.vector(self.queue);
        let Driver { controller, bus, queue, memory, .. } = self;
        self.generation = controller.create_queues(bus, *queue, memory, vector)?;
        Ok(())
    }

    /// The bus.
    pub(crate) fn bus_mut(&mut self) -> &mut B {
        &mut self.bus
    }

    /// Resets the controller and brings it up again. Every command in flight is answered with
    /// [`Status::ABORTED_BY_HOST`] at the next polls; what it did is unknown.
    ///
    /// # Errors
    ///
    /// When the controller does not come back: the queue pair is then lost for good.
    pub(crate) fn reset(&mut self) -> Result<(), ControllerError> {
        let result = if self.bus.is_gone() {
            Err(ControllerError::Gone)
        } else {
            let reset = self.controller.reset(&mut self.bus, self.generation);
            reset.and_then(|()| self.start_again())
        };
        if let Err(error) = result {
            self.give_up(error);
        }
        result
    }

    /// The controller was reset, and touches nothing of before any more.
    fn start_again(&mut self) -> Result<(), ControllerError> {
        self.commands.answer_all(Status::ABORTED_BY_HOST);
        self.create_queues()
    }

    /// Another queue pair has reset the controller.
    #[cold]
    fn follow_reset(&mut self) {
        if let Err(error) = self.start_again() {
            self.give_up(error);
        }
    }

    /// Ends what takes too long: with an abort, and when that has not helped for as long, or cannot
    /// be asked for, with a reset.
    fn end_overdue(&mut self) {
        let now = self.tick;
        let Some((id, command)) = self.commands.oldest(now) else { return };
        if now.since(command.since) <= TIMEOUT_TICKS {
            return;
        }
        let (tag, asked) = (command.tag.0, command.abort_asked);
        command.abort_asked = true;
        command.since = now;
        if !asked {
            tracing::warn!(tag, "a command takes too long and is aborted");
            match self.controller.abort(&mut self.bus, self.queue, id) {
                Ok(_) => return,
                Err(error) => tracing::warn!(%error, "it cannot be aborted"),
            }
        }
        tracing::error!(tag, "a command does not end: the controller is reset");
        // What it says of itself was told.
        let _said = self.reset();
    }

    /// The queue pair is lost.
    fn give_up(&mut self, error: ControllerError) {
        tracing::error!(%error, "the controller did not come back from its reset");
        self.lost = true;
        // Commands in flight stay so unless the controller is known to be still: a buffer may not
        // come back while a device may write it.
        if self.bus.is_gone() {
            self.answer_for_the_gone();
        } else if self.controller.generation() != self.generation {
            self.commands.answer_all(Status::HOST_PATHING_ERROR);
        }
    }

    /// Answers everything on behalf of a device that has gone away, unless it might still reach
    /// memory.
    fn answer_for_the_gone(&mut self) {
        self.controller.retire(&mut self.bus);
        if self.bus.sever() {
            self.commands.answer_all(Status::HOST_PATHING_ERROR);
        }
    }

    /// Asks the controller to abort the command with this tag (Base Specification 2.0, section
    /// 5.1). True when it will complete as aborted; false when it was too late or is unknown.
    ///
    /// # Errors
    ///
    /// When the controller does not answer.
    pub(crate) fn abort(&mut self, tag: Tag) -> Result<bool, ControllerError> {
        let Some(id) = self.commands.find(tag) else {
            return Ok(false);
        };
        self.controller.abort(&mut self.bus, self.queue, id)
    }

    /// Visits one completion of the device; false when it was none of a command in flight.
    #[inline]
    fn visit(&mut self, entry: CompletionEntry, complete: &mut dyn FnMut(Completion)) -> bool {
        self.submission.note_head(entry.submission_head.get());
        let status = entry.status();
        let Some(command) = self.commands.take(entry.command_id()) else {
            self.counters.errors += 1;
            tracing::warn!(id = entry.command_id().0, %status, "completion of an unknown command");
            return false;
        };
        if status.is_success() && self.bus.copies_for_dma() {
            self.counters.bytes_copied_for_dma += u64::from(command.bytes);
        }
        complete(command.complete(status, &mut self.counters));
        true
    }

    /// Answers everything on behalf of a device that has gone away.
    #[cold]
    fn lose_device(&mut self) {
        tracing::error!(
            model = %self.namespace.model,
            serial = %self.namespace.serial,
            in_flight = self.commands.in_flight(),
            "the device has gone away"
        );
        self.lost = true;
        self.answer_for_the_gone();
    }

    /// Whether a completion can be visited now.
    fn has_completion(&self) -> bool {
        self.commands.has_answer() || (!self.lost && self.completion.has_entry())
    }
}

/// What the device reaches, as PRPs.
struct Reach<'a, B> {
    bus: &'a mut B,
    memory: &'a mut QueueMemory,
}

impl<B: Bus> DataPointer for Reach<'_, B> {
    #[inline]
    fn data(
        &mut self,
        id: CommandId,
        _region: &Region,
        pointer: NonNull<u8>,
        bytes: usize,
    ) -> Result<PrpPair, Status> {
        let address = self.bus.device_address(pointer, bytes).ok_or(Status::DATA_TRANSFER_ERROR)?;
        let prp2 = match further_pages(address, bytes) {
            Further::Nothing => 0,
            Further::Page(page) => page,
            Further::List { first, entries } => self.memory.write_list(id, first, entries),
        };
        Ok(PrpPair { prp1: address, prp2 })
    }

    fn ranges(&mut self, id: CommandId, ranges: &[LbaRange]) -> PrpPair {
        PrpPair { prp1: self.memory.write_ranges(id, ranges), prp2: 0 }
    }

    fn metadata(&mut self, id: CommandId, written: &[u8; METADATA_BYTES]) -> u64 {
        self.memory.write_metadata(id, written)
    }
}

impl<B: Bus> QueuePair for Driver<B> {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.bus.map(region)
    }

    fn unregister(&mut self, region: &Region) {
        self.bus.unmap(region);
    }

    #[inline]
    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        let Some(id) = self.commands.next_id() else {
            return Err(submission);
        };
        let mut reach = Reach { bus: &mut self.bus, memory: &mut self.memory };
        let (entry, mut command) = self.addressee.compose(&mut reach, id, submission);
        command.since = self.tick;
        let inserted = self.commands.insert(command);
        debug_assert_eq!(inserted, id, "the entry carries the identifier of its command");
        match entry {
            _ if self.lost => self.commands.answer(id, Status::HOST_PATHING_ERROR),
            Ok(entry) => self.submission.push(&entry),
            Err(status) => self.commands.answer(id, status),
        }
        Ok(())
    }

    #[inline]
    fn ring(&mut self) {
        if let Some((doorbell, tail)) = self.submission.take_doorbell() {
            self.counters.doorbells += 1;
            self.counters.system_calls += self.bus.ring(doorbell, tail);
        }
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        self.bus.advance();
        if self.armed {
            self.armed = false;
            self.counters.system_calls += self.bus.cancel_wake();
        }
        let mut visited = 0;
        if self.controller.generation() != self.generation && !self.lost {
            self.follow_reset();
        }
        if self.commands.has_answer() {
            visited = self.commands.visit_answers(budget, &mut self.counters, complete);
        }
        if self.lost {
            return visited;
        }
        while visited < budget {
            let Some(entry) = self.completion.take() else { break };
            visited += usize::from(self.visit(entry, complete));
        }
        if let Some((doorbell, head)) = self.completion.take_doorbell() {
            self.counters.completion_doorbells += 1;
            self.counters.system_calls += self.bus.ring(doorbell, head);
        }
        // What the device posted before it went away was read above, or is read by a later poll.
        if self.bus.is_gone() && !self.completion.has_entry() {
            self.lose_device();
            visited += self.commands.visit_answers(budget - visited, &mut self.counters, complete);
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
        self.bus.wake()
    }

    fn arm(&mut self) -> bool {
        if self.has_completion() {
            return false;
        }
        if matches!(self.bus.wake(), Wake::Poll) {
            return self.commands.in_flight() == 0;
        }
        self.armed = true;
        let requested = self.bus.request_wake();
        if requested && !self.has_completion() && !self.bus.is_gone() {
            return true;
        }
        self.armed = false;
        self.counters.system_calls += self.bus.cancel_wake();
        // A device that has gone away has nothing left to wake anybody for.
        self.lost && self.commands.in_flight() == 0
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn tend(&mut self, now_ns: u64) {
        let passed_ns = self.looked_ns.map_or(0, |then_ns| now_ns.saturating_sub(then_ns));
        self.looked_ns = Some(now_ns);
        self.tended_ns += passed_ns.min(self.tick_ns);
        self.tick = Tick::at(self.tended_ns, self.tick_ns);
        if self.lost {
            return;
        }
        // The next poll answers everything on behalf of a device that has gone away.
        self.bus.check_removal();
        let status = ControllerStatus(self.bus.read32(registers::STATUS));
        if status.is_gone() || self.bus.is_gone() {
            return;
        }
        if status.is_fatal() {
            tracing::error!("the controller reports a fatal error and is reset");
            let _said = self.reset();
            return;
        }
        self.counters.events += u64::from(self.controller.look_for_event(&mut self.bus));
        // Other commands that complete all the time do not make one that does not less late; and an
        // abort of one whose completion waits to be visited finds nothing.
        self.end_overdue();
    }
}

/// A backend whose field `driver` is a [`Driver`]: what it offers is what that does.
macro_rules! queue_pair_over_driver {
    ($backend:ty) => {
        impl $backend {
            /// Resets the controller: Base Specification 2.0, section 3.7. Commands in flight, also
            /// those of its other queue pairs, complete with
            /// [`Status::ABORTED_BY_HOST`](crate::Status::ABORTED_BY_HOST), and their buffers come
            /// back, at the next polls.
            ///
            /// # Errors
            ///
            /// When the controller does not come back; the queue pair is then lost.
            pub fn reset(&mut self) -> Result<(), crate::ControllerError> {
                self.driver.reset()
            }

            /// Asks the controller to abort the command with this tag. True when it completes as
            /// aborted; false when it was too late, was not rung, or is unknown.
            ///
            /// # Errors
            ///
            /// When the controller does not answer.
            pub fn abort(&mut self, tag: crate::Tag) -> Result<bool, crate::ControllerError> {
                self.driver.abort(tag)
            }
        }

        impl crate::QueuePair for $backend {
            fn namespace(&self) -> &crate::Namespace {
                self.driver.namespace()
            }

            fn register(
                &mut self,
                region: &culvert_memory::Region,
            ) -> Result<(), crate::RegisterError> {
                self.driver.register(region)
            }

            fn unregister(&mut self, region: &culvert_memory::Region) {
                self.driver.unregister(region);
            }

            #[inline]
            fn submit(&mut self, submission: crate::Submission) -> Result<(), crate::Submission> {
                self.driver.submit(submission)
            }

            #[inline]
            fn ring(&mut self) {
                self.driver.ring();
            }

            #[inline]
            fn poll(
                &mut self,
                budget: usize,
                complete: &mut dyn FnMut(crate::Completion),
            ) -> usize {
                self.driver.poll(budget, complete)
            }

            fn in_flight(&self) -> usize {
                self.driver.in_flight()
            }

            fn depth(&self) -> usize {
                self.driver.depth()
            }

            fn wake(&self) -> crate::Wake<'_> {
                self.driver.wake()
            }

            fn arm(&mut self) -> bool {
                self.driver.arm()
            }

            fn counters(&self) -> &crate::Counters {
                self.driver.counters()
            }

            fn tend(&mut self, now_ns: u64) {
                self.driver.tend(now_ns);
            }
        }
    };
}
pub(crate) use queue_pair_over_driver;

impl<B: Bus> Drop for Driver<B> {
    /// Leaves the controller. Where that is not known to be still afterwards, what it can reach is
    /// not given back.
    fn drop(&mut self) {
        if self.bus.is_gone() {
            self.controller.retire(&mut self.bus);
            if self.bus.sever() {
                return;
            }
        } else {
            match self.controller.leave(&mut self.bus, self.queue, self.generation) {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "the controller could not be stopped"),
            }
        }
        tracing::warn!("memory that the controller might still reach is not given back");
        self.commands.forget();
        self.memory.forget();
    }
}
