//! The admin queue of the emulated controller and its commands.
//!
//! NVM Express Base Specification 2.0, section 5: as much as the driver half's bring-up, abort and
//! reset need. Everything else is Invalid Command Opcode or Invalid Field.

use super::controller::{Controller, IO_QUEUE, NAMESPACE};
use super::host_memory::HostMemory;
use super::register_file::{QUEUE_ENTRIES_MAX, RegisterFile};
use super::rings::{Answer, CompletionRing, SubmissionRing};
use super::segments::Segments;
use crate::events::{Event, Health, log_page};
use crate::identify::{ActiveNamespaces, IdentifyController, IdentifyNamespace, structure};
use crate::status::Status;
use crate::submission_entry::{CommandId, NamespaceId, SubmissionEntry, admin_opcode, feature};
use zerocopy::IntoBytes;

/// Queue creation, dword 11, bit 0: physically contiguous.
const CONTIGUOUS: u32 = 1;

/// A doorbell has a value outside its ring.
#[derive(Debug)]
pub(super) struct InvalidDoorbell;

/// The admin queues, and what the controller says of itself.
#[derive(Debug)]
pub(super) struct Admin {
    identify: Box<IdentifyController>,
    queues: Option<(SubmissionRing, CompletionRing)>,
    /// A request for an event that waits for one.
    event_request: Option<CommandId>,
    /// Critical warnings, as the log page says.
    warnings: u8,
    /// They have changed since somebody read the log page.
    unread: bool,
    /// That was reported.
    reported: bool,
}

impl Admin {
    pub(super) fn new(identify: IdentifyController) -> Admin {
        Admin {
            identify: Box::new(identify),
            queues: None,
            event_request: None,
            warnings: 0,
            unread: false,
            reported: false,
        }
    }

    /// Keeps a request for an event; false when it is another command, or one too many.
    pub(super) fn keep_event_request(&mut self, entry: &SubmissionEntry) -> bool {
        let kept = entry.opcode == admin_opcode::ASYNCHRONOUS_EVENT_REQUEST
            && self.event_request.is_none();
        if kept {
            self.event_request = Some(CommandId(entry.command_id.get()));
        }
        kept
    }

    /// Changes the critical warnings. Admin completions were visited up to `head`.
    pub(super) fn warn(&mut self, warnings: u8, head: u32) {
        self.warnings = warnings;
        self.unread = true;
        self.report(head);
    }

    /// Reports what has changed, once until somebody reads it.
    pub(super) fn report(&mut self, head: u32) {
        if !self.unread || self.reported {
            return;
        }
        let Some(id) = self.event_request.take() else { return };
        let answer = Answer { id, status: Status::SUCCESS, result: Event::health(0).0 };
        self.reported = self.post(answer, head);
    }

    /// Takes up the queues that the registers name; false when they are not in registered memory.
    pub(super) fn enable(&mut self, registers: &RegisterFile, memory: &HostMemory) -> bool {
        let attributes = registers.admin_queue_attributes();
        let submission = SubmissionRing::new(
            registers.admin_submission_queue(),
            u32::from(attributes.submission_entries()),
            memory,
        );
        let completion = CompletionRing::new(
            registers.admin_completion_queue(),
            u32::from(attributes.completion_entries()),
            memory,
        );
        registers.clear_doorbells(super::controller::ADMIN_QUEUE);
        self.queues = submission.zip(completion);
        self.queues.is_some()
    }

    pub(super) fn disable(&mut self) {
        self.queues = None;
        self.event_request = None;
        self.reported = false;
    }

    /// Whether the queues, if there are any, are still in registered memory.
    pub(super) fn is_mapped(&self, memory: &HostMemory) -> bool {
        self.queues.as_ref().is_none_or(|(submission, completion)| {
            submission.is_mapped(memory) && completion.is_mapped(memory)
        })
    }

    /// Whether a command was rung that is not fetched.
    pub(super) fn has_work(&self, registers: &RegisterFile) -> bool {
        self.queues.as_ref().is_some_and(|(submission, _)| {
            submission.head() != registers.tail(super::controller::ADMIN_QUEUE)
        })
    }

    /// Fetches the next command.
    #[inline]
    pub(super) fn fetch(&mut self, tail: u32) -> Result<Option<SubmissionEntry>, InvalidDoorbell> {
        let Some((submission, _)) = &mut self.queues else { return Ok(None) };
        if tail >= submission.size() {
            return Err(InvalidDoorbell);
        }
        Ok(submission.fetch(tail))
    }

    /// Posts a completion; false when the completion queue is full.
    pub(super) fn post(&mut self, answer: Answer, head: u32) -> bool {
        let Some((submission, completion)) = &mut self.queues else { return false };
        if !completion.has_room(head) {
            return false;
        }
        completion.post(answer, super::controller::ADMIN_QUEUE, submission.head());
        true
    }
}

/// The commands.
impl Controller {
    /// Executes one admin command: its status, and dword 0 of its completion.
    pub(super) fn execute_admin(
        &mut self,
        entry: &SubmissionEntry,
        memory: &HostMemory,
    ) -> (Status, u32) {
        let result = match entry.opcode {
            admin_opcode::IDENTIFY => self.identify(entry, memory).map(|()| 0),
            admin_opcode::SET_FEATURES => set_feature(entry),
            admin_opcode::GET_FEATURES => self.get_feature(entry),
            admin_opcode::CREATE_COMPLETION_QUEUE => {
                self.create_completion_queue(entry, memory).map(|()| 0)
            }
            admin_opcode::CREATE_SUBMISSION_QUEUE => {
                self.create_submission_queue(entry, memory).map(|()| 0)
            }
            admin_opcode::DELETE_SUBMISSION_QUEUE => {
                self.delete_submission_queue(entry).map(|()| 0)
            }
            admin_opcode::DELETE_COMPLETION_QUEUE => {
                self.delete_completion_queue(entry).map(|()| 0)
            }
            admin_opcode::GET_LOG_PAGE => self.get_log_page(entry, memory).map(|()| 0),
            admin_opcode::ASYNCHRONOUS_EVENT_REQUEST => Err(Status::EVENT_REQUEST_LIMIT_EXCEEDED),
            admin_opcode::ABORT => Ok(self.abort(entry)),
            _ => Err(Status::INVALID_OPCODE),
        };
        match result {
            Ok(result) => (Status::SUCCESS, result),
            Err(status) => (status, 0),
        }
    }

    /// Identify, section 5.17.
    fn identify(&mut self, entry: &SubmissionEntry, memory: &HostMemory) -> Result<(), Status> {
        let (namespace, list);
        let bytes = match entry.dword10.get() as u8 {
            structure::CONTROLLER => self.admin.identify.as_bytes(),
            structure::NAMESPACE if NamespaceId(entry.namespace_id.get()) == NAMESPACE => {
                namespace = IdentifyNamespace::emulated(self.store.geometry());
                namespace.as_bytes()
            }
            structure::NAMESPACE => return Err(Status::INVALID_NAMESPACE),
            structure::ACTIVE_NAMESPACES => {
                let above = entry.namespace_id.get();
                let ids = if above < NAMESPACE.0 { &[NAMESPACE][..] } else { &[] };
                list = ActiveNamespaces::emulated(ids);
                list.as_bytes()
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        send(entry, bytes, memory)
    }

    /// Get Log Page, section 5.16: health alone.
    fn get_log_page(&mut self, entry: &SubmissionEntry, memory: &HostMemory) -> Result<(), Status> {
        if entry.dword10.get() as u8 != log_page::HEALTH {
            return Err(Status::INVALID_LOG_PAGE);
        }
        let dwords = (entry.dword10.get() >> 16) as usize + 1;
        let health = Health::emulated(self.admin.warnings);
        let bytes = health.as_bytes();
        send(entry, &bytes[..bytes.len().min(4 * dwords)], memory)?;
        self.admin.unread = false;
        self.admin.reported = false;
        Ok(())
    }

    /// Get Features, section 5.15.
    fn get_feature(&self, entry: &SubmissionEntry) -> Result<u32, Status> {
        match entry.dword10.get() as u8 {
            feature::VOLATILE_WRITE_CACHE => Ok(u32::from(self.store.has_cache())),
            feature::NUMBER_OF_QUEUES => Ok(0),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Create I/O Completion Queue, section 5.4.
    fn create_completion_queue(
        &mut self,
        entry: &SubmissionEntry,
        memory: &HostMemory,
    ) -> Result<(), Status> {
        let size = queue_size(entry)?;
        if self.completion.is_some() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        let ring = CompletionRing::new(entry.prp1.get(), size, memory);
        self.registers.clear_doorbells(IO_QUEUE);
        self.completion = Some(ring.ok_or(Status::DATA_TRANSFER_ERROR)?);
        Ok(())
    }

    /// Create I/O Submission Queue, section 5.5.
    fn create_submission_queue(
        &mut self,
        entry: &SubmissionEntry,
        memory: &HostMemory,
    ) -> Result<(), Status> {
        let size = queue_size(entry)?;
        let completion_queue = (entry.dword11.get() >> 16) as u16;
        if self.completion.is_none() || completion_queue != IO_QUEUE {
            return Err(Status::COMPLETION_QUEUE_INVALID);
        }
        if self.submission.is_some() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        let ring = SubmissionRing::new(entry.prp1.get(), size, memory);
        self.submission = Some(ring.ok_or(Status::DATA_TRANSFER_ERROR)?);
        self.pending.reserve(size as usize);
        Ok(())
    }

    /// Delete I/O Submission Queue, section 5.7. Commands that were not executed are gone; the
    /// driver half knows that they were aborted.
    fn delete_submission_queue(&mut self, entry: &SubmissionEntry) -> Result<(), Status> {
        if entry.dword10.get() as u16 != IO_QUEUE || self.submission.is_none() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        self.submission = None;
        self.pending.clear();
        Ok(())
    }

    /// Delete I/O Completion Queue, section 5.6: after its submission queue.
    fn delete_completion_queue(&mut self, entry: &SubmissionEntry) -> Result<(), Status> {
        if entry.dword10.get() as u16 != IO_QUEUE || self.completion.is_none() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        if self.submission.is_some() {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        self.completion = None;
        Ok(())
    }

    /// Abort, section 5.1: bit 0 of the result says that the command was *not* aborted.
    fn abort(&mut self, entry: &SubmissionEntry) -> u32 {
        let queue = entry.dword10.get() as u16;
        let id = CommandId((entry.dword10.get() >> 16) as u16);
        let aborted = queue == IO_QUEUE && self.pending.abort(id);
        u32::from(!aborted)
    }
}

/// Set Features, section 5.27: one queue of each kind, whatever was asked for.
fn set_feature(entry: &SubmissionEntry) -> Result<u32, Status> {
    match entry.dword10.get() as u8 {
        // Both numbers are zero-based.
        feature::NUMBER_OF_QUEUES => Ok(0),
        feature::ASYNCHRONOUS_EVENTS => Ok(0),
        _ => Err(Status::INVALID_FIELD),
    }
}

/// Sends bytes to where a command wants them.
fn send(entry: &SubmissionEntry, bytes: &[u8], memory: &HostMemory) -> Result<(), Status> {
    let mut segments = Segments::new();
    segments.resolve(entry.prps(), bytes.len(), memory)?;
    let mut sent = 0;
    segments.for_each(memory, |target| {
        target.copy_from(&bytes[sent..sent + target.len()]);
        sent += target.len();
    });
    Ok(())
}

/// Size of a queue that is created: zero-based in dword 10, bits 31:16.
fn queue_size(entry: &SubmissionEntry) -> Result<u32, Status> {
    let size = (entry.dword10.get() >> 16) + 1;
    if entry.dword10.get() as u16 != IO_QUEUE {
        return Err(Status::INVALID_QUEUE_IDENTIFIER);
    }
    if !(2..=QUEUE_ENTRIES_MAX).contains(&size) {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    if entry.dword11.get() & CONTIGUOUS == 0 {
        return Err(Status::INVALID_FIELD);
    }
    Ok(size)
}
