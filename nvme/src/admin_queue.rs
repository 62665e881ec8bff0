#![allow(unsafe_code)]
//! The admin queue: one command at a time, waited for; and one that waits for events.
//!
//! Bring-up, shutdown and aborts are rare and may take milliseconds, so this half of the protocol
//! is synchronous (NVM Express Base Specification 2.0, section 5).

use std::time::Instant;

use crate::bus::Bus;
use crate::completion_entry::CompletionEntry;
use crate::completion_queue::CompletionQueue;
use crate::config::ADMIN_ENTRIES;
use crate::controller_error::{ControllerError, Step};
use crate::queue_memory::AdminMemory;
use crate::registers::{self, ControllerStatus, completion_doorbell, submission_doorbell};
use crate::submission_entry::{CommandId, NamespaceId, SubmissionEntry, admin_opcode};
use crate::submission_queue::SubmissionQueue;

/// Turns of a wait between two looks at the controller's status.
const TURNS_PER_LOOK: u32 = 256;

/// Queue identifier of the admin queues.
const ADMIN_QUEUE: u16 = 0;

/// Identifier of the request for an asynchronous event, which stays with the controller until there
/// is one.
const EVENT_ID: CommandId = CommandId(u16::MAX);

/// Both admin queues.
#[derive(Debug)]
pub(crate) struct AdminQueue {
    submission: SubmissionQueue,
    completion: CompletionQueue,
    next_id: u16,
    /// The request for an event was answered.
    event: Option<CompletionEntry>,
}

impl AdminQueue {
    /// Fresh admin queues in `memory`, which the caller keeps for as long as they are used.
    pub(crate) fn new(memory: &AdminMemory, doorbell_stride: u32) -> AdminQueue {
        let tail = submission_doorbell(ADMIN_QUEUE, doorbell_stride);
        let head = completion_doorbell(ADMIN_QUEUE, doorbell_stride);
        // SAFETY: the page holds `ADMIN_ENTRIES` entries (asserted in `config`), is this queue's
        // alone, and outlives it by the caller's word.
        let submission =
            unsafe { SubmissionQueue::new(memory.submission().0, ADMIN_ENTRIES, tail) };
        // SAFETY: as above; controllers write dword 3 last.
        let mut completion =
            unsafe { CompletionQueue::new(memory.completion().0, ADMIN_ENTRIES, head) };
        completion.reset();
        AdminQueue { submission, completion, next_id: 0, event: None }
    }

    /// Asks for the next asynchronous event (Base Specification 2.0, section 5.2), once the one
    /// before was taken.
    pub(crate) fn ask_for_event(&mut self, bus: &mut impl Bus) {
        let opcode = admin_opcode::ASYNCHRONOUS_EVENT_REQUEST;
        self.submission.push(&SubmissionEntry::new(opcode, EVENT_ID, NamespaceId::NONE));
        self.ring(bus);
    }

    /// Takes the answer to that, if it has come. Does not wait.
    pub(crate) fn take_event(&mut self, bus: &mut impl Bus) -> Option<CompletionEntry> {
        bus.advance();
        while self.take_completion(bus).is_some() {}
        self.event.take()
    }

    fn ring(&mut self, bus: &mut impl Bus) {
        if let Some((doorbell, tail)) = self.submission.take_doorbell() {
            bus.ring(doorbell, tail);
        }
    }

    /// Takes the next completion of a command; one of an event is kept.
    fn take_completion(&mut self, bus: &mut impl Bus) -> Option<CompletionEntry> {
        loop {
            let completion = self.completion.take()?;
            self.submission.note_head(completion.submission_head.get());
            if let Some((doorbell, head)) = self.completion.take_doorbell() {
                bus.ring(doorbell, head);
            }
            if completion.command_id() != EVENT_ID {
                return Some(completion);
            }
            self.event = Some(completion);
        }
    }

    /// Sends a command and waits for its completion. The command identifier of `entry` is set
    /// here.
    ///
    /// # Errors
    ///
    /// When the device does not answer in time, has gone away, or refuses the command.
    pub(crate) fn execute(
        &mut self,
        bus: &mut impl Bus,
        step: Step,
        mut entry: SubmissionEntry,
        deadline: Instant,
    ) -> Result<CompletionEntry, ControllerError> {
        let id = CommandId(self.next_id);
        self.next_id = (self.next_id + 1) % EVENT_ID.0;
        entry.command_id = id.0.into();
        self.submission.push(&entry);
        self.ring(bus);
        for turn in 0_u32.. {
            bus.advance();
            while let Some(completion) = self.take_completion(bus) {
                // Anything else is a late answer to a command that timed out.
                if completion.command_id() == id {
                    return accepted(step, completion);
                }
            }
            if turn % TURNS_PER_LOOK == 0 {
                let status = ControllerStatus(bus.read32(registers::STATUS));
                if status.is_gone() || bus.is_gone() {
                    return Err(ControllerError::Gone);
                }
                if status.is_fatal() {
                    return Err(ControllerError::Fatal { step });
                }
            }
            if Instant::now() > deadline {
                break;
            }
            std::hint::spin_loop();
        }
        Err(ControllerError::Timeout { step })
    }
}

/// The completion, if the device accepted the command.
fn accepted(step: Step, completion: CompletionEntry) -> Result<CompletionEntry, ControllerError> {
    let status = completion.status();
    if status.is_success() {
        Ok(completion)
    } else {
        Err(ControllerError::Refused { step, status })
    }
}
