//! From power-on to two I/O queues: NVM Express Base Specification 2.0, section 3.5.1.
//!
//! Disable, point the controller at the admin queues, enable, identify, ask for queues, create the
//! completion queue and then the submission queue. The same sequence serves as the reset of a
//! controller that hangs. Every wait is bounded by what the controller promised in CAP.TO.

use std::time::{Duration, Instant};

use crate::admin_queue::AdminQueue;
use crate::bus::Bus;
use crate::config::{ADMIN_ENTRIES, TRANSFER_BYTES_MAX};
use crate::contract::Namespace;
use crate::controller_error::{ControllerError, Step};
use crate::identify::{IdentifyController, IdentifyNamespace, structure};
use crate::prp::PrpPair;
use crate::queue_memory::QueueMemory;
use crate::registers::{self, AdminQueueAttributes, Capabilities, Configuration, ControllerStatus};
use crate::submission_entry::{CommandId, NamespaceId, SubmissionEntry, admin_opcode, feature};

/// The one I/O queue of each kind.
pub(crate) const IO_QUEUE: u16 = 1;
/// The namespace that is used.
pub(crate) const NAMESPACE: NamespaceId = NamespaceId(1);
/// Queue creation, dword 11, bit 0: physically contiguous.
const CONTIGUOUS: u32 = 1;

/// Reads CAP and checks what cannot be worked around.
pub(crate) fn capabilities(bus: &impl Bus, entries: u16) -> Result<Capabilities, ControllerError> {
    let value = bus.read64(registers::CAPABILITIES);
    if value == u64::MAX {
        return Err(ControllerError::Gone);
    }
    let capabilities = Capabilities(value);
    if !capabilities.has_nvm_command_set() || capabilities.page_size_min() != 4096 {
        return Err(ControllerError::Unsupported);
    }
    if u32::from(entries) > capabilities.queue_entries_max() {
        return Err(ControllerError::TooDeep {
            depth: u32::from(entries) - 1,
            depth_max: capabilities.queue_entries_max() - 1,
        });
    }
    Ok(capabilities)
}

/// When a wait that starts now has to be over.
pub(crate) fn deadline(capabilities: Capabilities) -> Instant {
    // A controller may promise 0; it still gets one unit.
    Instant::now() + Duration::from_millis(capabilities.timeout_ms().max(500))
}

/// Disables the controller: afterwards it touches no memory.
pub(crate) fn disable(
    bus: &mut impl Bus,
    capabilities: Capabilities,
) -> Result<(), ControllerError> {
    bus.write32(registers::CONFIGURATION, Configuration::DISABLED.0);
    // A fatal status is what a reset is for, so it does not end this wait.
    wait(bus, Step::Disable, deadline(capabilities), |status| Some(!status.is_ready()))
}

/// Tells the controller that it will lose power, and waits until it has nothing left to lose.
pub(crate) fn shut_down(
    bus: &mut impl Bus,
    capabilities: Capabilities,
) -> Result<(), ControllerError> {
    bus.write32(registers::CONFIGURATION, Configuration::SHUTTING_DOWN.0);
    wait(bus, Step::Shutdown, deadline(capabilities), |status| {
        (!status.is_fatal()).then_some(status.is_shut_down())
    })
}

/// Waits until `done` says so; `None` from it means the controller gave up.
fn wait(
    bus: &mut impl Bus,
    step: Step,
    deadline: Instant,
    done: impl Fn(ControllerStatus) -> Option<bool>,
) -> Result<(), ControllerError> {
    loop {
        bus.advance();
        let status = ControllerStatus(bus.read32(registers::STATUS));
        if status.is_gone() {
            return Err(ControllerError::Gone);
        }
        match done(status) {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => return Err(ControllerError::Fatal { step }),
        }
        if Instant::now() > deadline {
            return Err(ControllerError::Timeout { step });
        }
        std::thread::yield_now();
    }
}

/// A controller that has been enabled, and its admin queue.
pub(crate) struct BringUp<'a, B: Bus> {
    bus: &'a mut B,
    memory: &'a QueueMemory,
    capabilities: Capabilities,
    admin: AdminQueue,
}

impl<'a, B: Bus> BringUp<'a, B> {
    /// Resets and enables the controller.
    pub(crate) fn enable(
        bus: &'a mut B,
        memory: &'a QueueMemory,
        capabilities: Capabilities,
    ) -> Result<Self, ControllerError> {
        disable(bus, capabilities)?;
        let admin = AdminQueue::new(memory, capabilities.doorbell_stride());
        let attributes = AdminQueueAttributes::new(ADMIN_ENTRIES);
        bus.write32(registers::ADMIN_QUEUE_ATTRIBUTES, attributes.0);
        bus.write64(registers::ADMIN_SUBMISSION_QUEUE, memory.admin_submission().1);
        bus.write64(registers::ADMIN_COMPLETION_QUEUE, memory.admin_completion().1);
        bus.write32(registers::CONFIGURATION, Configuration::ENABLED.0);
        wait(bus, Step::Enable, deadline(capabilities), |status| {
            (!status.is_fatal()).then_some(status.is_ready())
        })?;
        Ok(BringUp { bus, memory, capabilities, admin })
    }

    /// Asks what the controller and its namespace are.
    pub(crate) fn identify(&mut self, backend: &'static str) -> Result<Namespace, ControllerError> {
        let controller: IdentifyController = self.read_structure(
            Step::IdentifyController,
            structure::CONTROLLER,
            NamespaceId::NONE,
        )?;
        let namespace: IdentifyNamespace =
            self.read_structure(Step::IdentifyNamespace, structure::NAMESPACE, NAMESPACE)?;
        let geometry = namespace.geometry()?;
        let device_max = controller
            .transfer_bytes_max(self.capabilities.page_size_min())
            .and_then(|bytes| u32::try_from(bytes).ok())
            .unwrap_or(u32::MAX);
        // The number of blocks is zero-based and has 16 bits.
        let field_max = geometry.block_size.saturating_mul(1 << 16);
        let cache = controller.has_volatile_write_cache() && self.cache_is_enabled()?;
        Ok(Namespace {
            block_size: geometry.block_size,
            blocks: geometry.blocks,
            volatile_write_cache: cache,
            transfer_bytes_max: device_max.min(field_max).min(TRANSFER_BYTES_MAX),
            model: controller.model,
            serial: controller.serial,
            backend,
        })
    }

    /// Creates the I/O queues, completion queue first, and hands the admin queue over.
    pub(crate) fn create_queues(mut self) -> Result<AdminQueue, ControllerError> {
        let mut entry = admin(admin_opcode::SET_FEATURES);
        entry.dword10 = u32::from(feature::NUMBER_OF_QUEUES).into();
        // One queue of each kind, zero-based.
        entry.dword11 = 0.into();
        self.execute(Step::NumberOfQueues, entry)?;

        let size = u32::from(self.memory.entries() - 1) << 16 | u32::from(IO_QUEUE);
        let mut entry = admin(admin_opcode::CREATE_COMPLETION_QUEUE);
        entry.set_prps(PrpPair { prp1: self.memory.completion().1, prp2: 0 });
        entry.dword10 = size.into();
        entry.dword11 = CONTIGUOUS.into();
        self.execute(Step::CreateCompletionQueue, entry)?;

        let mut entry = admin(admin_opcode::CREATE_SUBMISSION_QUEUE);
        entry.set_prps(PrpPair { prp1: self.memory.submission().1, prp2: 0 });
        entry.dword10 = size.into();
        entry.dword11 = (u32::from(IO_QUEUE) << 16 | CONTIGUOUS).into();
        self.execute(Step::CreateSubmissionQueue, entry)?;
        Ok(self.admin)
    }

    /// Whether the volatile write cache is switched on (WCE).
    fn cache_is_enabled(&mut self) -> Result<bool, ControllerError> {
        let mut entry = admin(admin_opcode::GET_FEATURES);
        entry.dword10 = u32::from(feature::VOLATILE_WRITE_CACHE).into();
        Ok(self.execute(Step::VolatileWriteCache, entry)? & 1 != 0)
    }

    /// Reads one identify structure.
    fn read_structure<T: zerocopy::FromBytes>(
        &mut self,
        step: Step,
        structure: u8,
        namespace: NamespaceId,
    ) -> Result<T, ControllerError> {
        let mut entry = SubmissionEntry::new(admin_opcode::IDENTIFY, CommandId(0), namespace);
        entry.set_prps(PrpPair { prp1: self.memory.identify_address(), prp2: 0 });
        entry.dword10 = u32::from(structure).into();
        self.execute(step, entry)?;
        Ok(self.memory.read_identify())
    }

    /// Executes one admin command and returns dword 0 of its completion.
    fn execute(&mut self, step: Step, entry: SubmissionEntry) -> Result<u32, ControllerError> {
        let deadline = deadline(self.capabilities);
        let completion = self.admin.execute(self.bus, step, entry, deadline)?;
        Ok(completion.result.get())
    }
}

/// An admin command that concerns no namespace.
fn admin(opcode: u8) -> SubmissionEntry {
    SubmissionEntry::new(opcode, CommandId(0), NamespaceId::NONE)
}
