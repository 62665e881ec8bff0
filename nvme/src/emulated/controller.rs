//! The controller in software: registers, queues, and the commands of the NVM command set.
//!
//! It does what a controller does, through the same memory: watches its registers, fetches
//! entries up to the tail doorbells, executes them, posts completions. It never calls the driver
//! half and knows nothing of it. Whoever owns it makes it work by calling [`Controller::step`]:
//! the driver's own thread at each poll, or a thread of the controller's.
//!
//! **Order.** Commands are fetched in order and executed in order, or in a random order drawn from
//! a seed. A flush covers the writes whose completions had been posted when it was *fetched*, and
//! everything that was rung is fetched before anything further is posted.
//!
//! **Fault model.** Nothing a command says is believed: a wrong opcode, namespace, range or
//! address is an error status. A doorbell outside its ring, or queues whose memory was
//! unregistered, stop the controller with a fatal status (CSTS.CFS), from which a reset recovers.

use std::sync::Arc;

use super::admin::Admin;
use super::faults::{FaultTarget, Faults, Struck};
use super::host_memory::{HostBytes, HostMemory};
use super::pending::{Pending, PendingCommand};
use super::register_file::RegisterFile;
use super::rings::{Answer, CompletionRing, SubmissionRing};
use super::segments::Segments;
use super::store::Store;
use crate::config::{DEALLOCATE_RANGES_MAX, TRANSFER_BYTES_MAX};
use crate::contract::{Lba, LbaRange};
use crate::registers::{Configuration, ControllerStatus};
use crate::status::Status;
use crate::submission_entry::{
    ATTRIBUTE_DEALLOCATE, DatasetRange, FORCE_UNIT_ACCESS, NamespaceId, SubmissionEntry, io_opcode,
};

/// Queue identifier of the admin queues.
pub(super) const ADMIN_QUEUE: u16 = 0;
/// Queue identifier of the one I/O queue of each kind.
pub(super) const IO_QUEUE: u16 = 1;
/// The one namespace.
pub(super) const NAMESPACE: NamespaceId = NamespaceId(1);
/// One range of a dataset management command.
const RANGE_BYTES: usize = size_of::<DatasetRange>();

/// The controller.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) registers: Arc<RegisterFile>,
    pub(super) store: Store,
    pub(super) admin: Admin,
    pub(super) submission: Option<SubmissionRing>,
    pub(super) completion: Option<CompletionRing>,
    pub(super) pending: Pending,
    faults: Faults,
    segments: Segments,
    /// CC as last acted upon.
    configuration: Configuration,
    status: ControllerStatus,
    /// Generation of the host memory in which the queues were last looked up.
    generation: u64,
    /// I/O completions posted since the controller was made.
    posted: u64,
    gone: bool,
}

impl Controller {
    /// A controller that is switched on and disabled.
    pub(super) fn new(
        registers: Arc<RegisterFile>,
        store: Store,
        admin: Admin,
        faults: Faults,
        pending: Pending,
    ) -> Controller {
        Controller {
            registers,
            store,
            admin,
            submission: None,
            completion: None,
            pending,
            faults,
            segments: Segments::new(),
            configuration: Configuration::DISABLED,
            status: ControllerStatus::IDLE,
            generation: 0,
            posted: 0,
            gone: false,
        }
    }

    /// The blocks.
    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Acts upon registers and doorbells and executes up to `budget` commands. Returns how many
    /// completions it posted.
    pub(super) fn step(&mut self, memory: &HostMemory, budget: usize) -> usize {
        if self.gone {
            return 0;
        }
        if self.faults.is_armed() {
            self.suffer_faults();
            if self.gone {
                return 0;
            }
        }
        let configuration = self.registers.configuration();
        if configuration != self.configuration {
            self.configure(configuration, memory);
        }
        if self.status != ControllerStatus::READY {
            return 0;
        }
        if self.generation != memory.generation() {
            self.check_rings(memory);
        }
        self.fetch();
        let posted = self.serve_admin(memory);
        posted + self.serve_io(memory, budget)
    }

    /// Whether a step would find something to do. Cheap, and right for the thread that makes the
    /// steps.
    pub(super) fn has_work(&self) -> bool {
        if self.gone {
            return false;
        }
        let submission = self.submission.as_ref();
        self.registers.configuration() != self.configuration
            || !self.pending.is_empty()
            || self.admin.has_work(&self.registers)
            || submission.is_some_and(|ring| ring.head() != self.registers.tail(IO_QUEUE))
    }

    /// Acts upon a new CC: Base Specification 2.0, sections 3.5 and 3.6.
    #[cold]
    fn configure(&mut self, configuration: Configuration, memory: &HostMemory) {
        let was_enabled = self.configuration.is_enabled();
        self.configuration = configuration;
        if !configuration.is_enabled() {
            self.stop();
            self.admin.disable();
            self.set_status(ControllerStatus::IDLE);
        } else if !was_enabled {
            let supported = configuration.is_supported();
            let enabled = supported && self.admin.enable(&self.registers, memory);
            self.generation = memory.generation();
            self.set_status(if enabled {
                ControllerStatus::READY
            } else {
                ControllerStatus::FATAL
            });
        } else if configuration.is_shutting_down() {
            self.stop();
            self.store.flush(u64::MAX);
            self.set_status(ControllerStatus::SHUT_DOWN);
        }
    }

    /// Forgets queues and commands: none of them will touch memory any more.
    fn stop(&mut self) {
        self.submission = None;
        self.completion = None;
        self.pending.clear();
    }

    fn set_status(&mut self, status: ControllerStatus) {
        self.status = status;
        self.registers.set_status(status);
    }

    /// Stops until the next reset.
    #[cold]
    fn fail(&mut self) {
        self.stop();
        self.admin.disable();
        self.set_status(ControllerStatus(ControllerStatus::READY.0 | ControllerStatus::FATAL.0));
    }

    /// Makes sure that the queues are still in registered memory.
    #[cold]
    fn check_rings(&mut self, memory: &HostMemory) {
        self.generation = memory.generation();
        let mapped = self.submission.as_ref().is_none_or(|ring| ring.is_mapped(memory))
            && self.completion.as_ref().is_none_or(|ring| ring.is_mapped(memory))
            && self.admin.is_mapped(memory);
        if !mapped {
            self.fail();
        }
    }

    /// Faults that come over the controller and not over a command.
    #[cold]
    fn suffer_faults(&mut self) {
        if self.faults.is_removed() {
            self.stop();
            self.gone = true;
            self.store.drop_unflushed(&mut |_| super::store::Loss::Lose);
            self.registers.set_gone();
            return;
        }
        if self.faults.take_fatal() {
            self.fail();
        }
        if let Some(warnings) = self.faults.take_warnings() {
            self.admin.warn(warnings, self.registers.head(ADMIN_QUEUE));
        }
        for flip in self.faults.take_flips() {
            self.store.flip(flip.lba, flip.byte, flip.mask);
        }
    }

    /// Fetches everything that was rung.
    #[inline]
    fn fetch(&mut self) {
        let Some(ring) = &mut self.submission else { return };
        let tail = self.registers.tail(IO_QUEUE);
        if tail == ring.head() {
            return;
        }
        if tail >= ring.size() {
            return self.fail();
        }
        while let Some(entry) = ring.fetch(tail) {
            self.pending.push(entry, self.posted);
        }
    }

    /// Executes I/O commands and posts their completions.
    fn serve_io(&mut self, memory: &HostMemory, budget: usize) -> usize {
        let mut served = 0;
        let budget = budget.min(self.pending.turn());
        while served < budget {
            let head = self.registers.head(IO_QUEUE);
            let Some(ring) = &self.completion else { break };
            if !ring.has_room(head) {
                break;
            }
            let Some(command) = self.pending.take() else { break };
            let done = match command.verdict {
                Some(status) => Err(Struck::Failed(status)),
                None => self.execute(&command, memory),
            };
            let status = match done {
                Ok(()) => Status::SUCCESS,
                Err(struck) => match self.pending.suffer(&command, struck) {
                    Some(status) => status,
                    None => continue,
                },
            };
            // What was rung until now was submitted before this completion is posted.
            self.fetch();
            let (Some(ring), Some(submission)) = (&mut self.completion, &self.submission) else {
                break;
            };
            let answer = Answer { id: command.id(), status, result: 0 };
            ring.post(answer, IO_QUEUE, submission.head());
            self.pending.retire(command.id());
            self.posted += 1;
            served += 1;
        }
        served
    }

    /// Executes admin commands and posts their completions.
    fn serve_admin(&mut self, memory: &HostMemory) -> usize {
        let mut served = 0;
        loop {
            let tail = self.registers.tail(ADMIN_QUEUE);
            match self.admin.fetch(tail) {
                Ok(Some(entry)) if self.admin.keep_event_request(&entry) => {
                    self.admin.report(self.registers.head(ADMIN_QUEUE));
                    served += 1;
                }
                Ok(Some(entry)) => {
                    let (status, result) = self.execute_admin(&entry, memory);
                    let id = entry.command_id.get();
                    let answer =
                        Answer { id: crate::submission_entry::CommandId(id), status, result };
                    if !self.admin.post(answer, self.registers.head(ADMIN_QUEUE)) {
                        self.fail();
                        return served;
                    }
                    served += 1;
                }
                Ok(None) => return served,
                Err(_) => {
                    self.fail();
                    return served;
                }
            }
        }
    }

    /// Executes one I/O command.
    #[inline]
    fn execute(&mut self, command: &PendingCommand, memory: &HostMemory) -> Result<(), Struck> {
        let entry = &command.entry;
        if entry.wants_more_than_prps() {
            return Err(Struck::Failed(Status::INVALID_FIELD));
        }
        let namespace = NamespaceId(entry.namespace_id.get());
        let everywhere = namespace == NamespaceId::ALL && entry.opcode == io_opcode::FLUSH;
        if namespace != NAMESPACE && !everywhere {
            return Err(Struck::Failed(Status::INVALID_NAMESPACE));
        }
        match entry.opcode {
            io_opcode::READ => self.read(entry, memory),
            io_opcode::WRITE => self.write(entry, memory),
            io_opcode::FLUSH => self.flush(command.posted_before),
            io_opcode::WRITE_ZEROES => self.write_zeroes(entry),
            io_opcode::DATASET_MANAGEMENT => self.manage_dataset(entry, memory),
            _ => Err(Struck::Failed(Status::INVALID_OPCODE)),
        }
    }

    #[inline]
    fn read(&mut self, entry: &SubmissionEntry, memory: &HostMemory) -> Result<(), Struck> {
        let range = self.transfer(entry, memory)?;
        let metadata = self.metadata(entry, range, memory)?;
        self.strike(FaultTarget::Reads, Some(range))?;
        self.store.read(range, &self.segments, metadata, memory);
        Ok(())
    }

    #[inline]
    fn write(&mut self, entry: &SubmissionEntry, memory: &HostMemory) -> Result<(), Struck> {
        let range = self.transfer(entry, memory)?;
        let metadata = self.metadata(entry, range, memory)?;
        self.strike(FaultTarget::Writes, Some(range))?;
        let fua = entry.dword12.get() & FORCE_UNIT_ACCESS != 0;
        self.store.write(range, fua, self.posted, (&self.segments, metadata), memory);
        Ok(())
    }

    fn flush(&mut self, posted_before: u64) -> Result<(), Struck> {
        self.strike(FaultTarget::Flushes, None)?;
        self.store.flush(posted_before);
        Ok(())
    }

    fn write_zeroes(&mut self, entry: &SubmissionEntry) -> Result<(), Struck> {
        let range = self.check(entry.range())?;
        self.strike(FaultTarget::Writes, Some(range))?;
        let fua = entry.dword12.get() & FORCE_UNIT_ACCESS != 0;
        self.store.write_zeroes(range, fua, self.posted);
        Ok(())
    }

    /// Dataset management: NVM Command Set Specification 1.0, section 3.2.3. All ranges are
    /// checked before the first is deallocated; other attributes are hints and ignored.
    fn manage_dataset(
        &mut self,
        entry: &SubmissionEntry,
        memory: &HostMemory,
    ) -> Result<(), Struck> {
        let count = (entry.dword10.get() & 0xff) as usize + 1;
        if count > DEALLOCATE_RANGES_MAX {
            return Err(Struck::Failed(Status::INVALID_FIELD));
        }
        self.segments.resolve(entry.prps(), count * RANGE_BYTES, memory)?;
        let mut bytes = [0; DEALLOCATE_RANGES_MAX * RANGE_BYTES];
        let mut filled = 0;
        self.segments.for_each(memory, |source| {
            source.copy_to(&mut bytes[filled..filled + source.len()]);
            filled += source.len();
        });
        let mut ranges = [LbaRange { start: Lba(0), blocks: 0 }; DEALLOCATE_RANGES_MAX];
        for (range, bytes) in ranges.iter_mut().zip(bytes[..filled].chunks_exact(RANGE_BYTES)) {
            let wire = <DatasetRange as zerocopy::FromBytes>::read_from_bytes(bytes)
                .map_err(|_| Status::INTERNAL_ERROR)?;
            let found = LbaRange { start: Lba(wire.start.get()), blocks: wire.blocks.get() };
            *range = self.check(found)?;
        }
        if entry.dword11.get() & ATTRIBUTE_DEALLOCATE != 0 {
            for range in &ranges[..count] {
                self.store.deallocate(*range);
            }
        }
        Ok(())
    }

    /// The blocks of a read or write, with its data looked up in `segments`.
    #[inline]
    fn transfer(
        &mut self,
        entry: &SubmissionEntry,
        memory: &HostMemory,
    ) -> Result<LbaRange, Status> {
        let range = self.check(entry.range())?;
        let bytes = u64::from(range.blocks) * u64::from(self.store.geometry().block_size);
        if bytes > u64::from(TRANSFER_BYTES_MAX) {
            return Err(Status::INVALID_FIELD);
        }
        self.segments.resolve(entry.prps(), bytes as usize, memory)?;
        Ok(range)
    }

    /// The metadata of a read or write, which lie in one piece; `None` where the namespace has none.
    #[inline]
    fn metadata<'a>(
        &self,
        entry: &SubmissionEntry,
        range: LbaRange,
        memory: &'a HostMemory,
    ) -> Result<Option<HostBytes<'a>>, Status> {
        let each = self.store.geometry().metadata_bytes as usize;
        if each == 0 {
            return Ok(None);
        }
        let bytes = memory.translate(entry.metadata.get(), range.blocks as usize * each);
        bytes.map(Some).ok_or(Status::DATA_TRANSFER_ERROR)
    }

    #[inline]
    fn check(&self, range: LbaRange) -> Result<LbaRange, Status> {
        if range.is_inside(self.store.geometry().blocks) {
            Ok(range)
        } else {
            Err(Status::LBA_OUT_OF_RANGE)
        }
    }

    /// Fails a command that a fault is meant for.
    #[inline]
    fn strike(&self, target: FaultTarget, range: Option<LbaRange>) -> Result<(), Struck> {
        if !self.faults.is_armed() {
            return Ok(());
        }
        self.faults.strike(target, range).map_or(Ok(()), Err)
    }
}
