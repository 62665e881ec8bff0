//! One controller, as all queue pairs on it share it: its admin queue, what it says of itself, and
//! which I/O queues there are.
//!
//! The first queue pair that joins brings the controller up (Base Specification 2.0, section
//! 3.5.1), the last that leaves shuts it down. All of this is rare and waits for the device, behind
//! a lock; what a queue pair does for an operation never comes here, but for one load of the
//! *generation*, which counts resets.
//!
//! **Resets.** Whoever resets the controller ends the commands of all queue pairs. When it is
//! disabled, and so touches no memory, the generation goes up; each queue pair sees that at its next
//! poll, answers its own commands and creates its queues anew. Until then its doorbells ring at
//! queues that do not exist, which a controller reports and otherwise ignores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_memory::PAGE_SIZE;

use crate::admin_queue::AdminQueue;
use crate::bring_up;
use crate::bus::Bus;
use crate::config::{IO_QUEUES_MAX, TRANSFER_BYTES_MAX};
use crate::contract::Namespace;
use crate::controller_error::{ControllerError, Step};
use crate::events::{self, Event, Health, log_page};
use crate::identify::{ActiveNamespaces, IdentifyController, IdentifyNamespace, structure};
use crate::prp::PrpPair;
use crate::queue_memory::{AdminMemory, QueueMemory};
use crate::registers::Capabilities;
use crate::submission_entry::{CommandId, NamespaceId, SubmissionEntry, admin_opcode, feature};

/// Queue creation, dword 11, bit 0: physically contiguous.
const CONTIGUOUS: u32 = 1;
/// Creation of a completion queue, dword 11, bit 1: interrupts enabled.
const INTERRUPTS: u32 = 1 << 1;
/// Bytes that are read of a log page: what all pages have that explain events.
const LOG_BYTES: usize = size_of::<Health>();

/// See the module's documentation. Clones are the same controller.
#[derive(Clone, Debug)]
pub(crate) struct Controller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Resets so far, those that failed after the controller was disabled included.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The namespace that is wanted; the first active one where none is named.
    namespace: Option<NamespaceId>,
    backend: &'static str,
    up: Option<Up>,
    /// By I/O queue, of which the first is number 1: whether a queue pair has it.
    queues: Vec<bool>,
}

/// A controller that works.
#[derive(Debug)]
struct Up {
    memory: AdminMemory,
    admin: AdminQueue,
    capabilities: Capabilities,
    namespace: Namespace,
    id: NamespaceId,
    /// Critical warnings that were told.
    warned: u8,
}

/// What a queue pair is told when it joins.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Number of its queues.
    pub(crate) queue: u16,
    pub(crate) generation: u64,
    pub(crate) capabilities: Capabilities,
    pub(crate) namespace: Namespace,
    pub(crate) id: NamespaceId,
}

impl Controller {
    /// A controller that nobody has joined yet.
    pub(crate) fn new(namespace: Option<NamespaceId>, backend: &'static str) -> Controller {
        let state = State { namespace, backend, up: None, queues: Vec::new() };
        Controller(Arc::new(Shared { generation: AtomicU64::new(0), state: Mutex::new(state) }))
    }

    /// How often it was reset.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Takes a queue number for a queue pair with rings of so many entries; brings the controller
    /// up if nobody has.
    ///
    /// # Errors
    ///
    /// When the controller does not come up, or cannot do what is needed.
    pub(crate) fn join(&self, bus: &mut impl Bus, entries: u16) -> Result<Joined, ControllerError> {
        let mut state = self.lock();
        if state.up.is_none() {
            let memory = AdminMemory::of(bus)?;
            state.bring_up(bus, memory)?;
        }
        let State { up: Some(up), queues, .. } = &mut *state else { unreachable!("just done") };
        let depth_max = up.capabilities.queue_entries_max() - 1;
        let depth = u32::from(entries) - 1;
        if depth > depth_max {
            return Err(ControllerError::TooDeep { depth, depth_max });
        }
        let free = queues.iter().position(|taken| !taken);
        let Some(free) = free else {
            return Err(ControllerError::NoQueue { queues: queues.len() as u16 });
        };
        queues[free] = true;
        Ok(Joined {
            queue: free as u16 + 1,
            generation: self.generation(),
            capabilities: up.capabilities,
            namespace: up.namespace.clone(),
            id: up.id,
        })
    }

    /// Creates the queues of a queue pair that has joined, and returns the generation that they
    /// are of. `vector` is the interrupt of its completions.
    ///
    /// # Errors
    ///
    /// When the controller is down or refuses.
    pub(crate) fn create_queues(
        &self,
        bus: &mut impl Bus,
        queue: u16,
        memory: &QueueMemory,
        vector: Option<u16>,
    ) -> Result<u64, ControllerError> {
        let mut state = self.lock();
        let size = u32::from(memory.entries() - 1) << 16 | u32::from(queue);
        let mut entry = admin(admin_opcode::CREATE_COMPLETION_QUEUE);
        entry.set_prps(PrpPair { prp1: memory.completion().1, prp2: 0 });
        entry.dword10 = size.into();
        let interrupts = vector.map_or(0, |vector| u32::from(vector) << 16 | INTERRUPTS);
        entry.dword11 = (interrupts | CONTIGUOUS).into();
        state.execute(bus, Step::CreateCompletionQueue, entry)?;

        let mut entry = admin(admin_opcode::CREATE_SUBMISSION_QUEUE);
        entry.set_prps(PrpPair { prp1: memory.submission().1, prp2: 0 });
        entry.dword10 = size.into();
        entry.dword11 = (u32::from(queue) << 16 | CONTIGUOUS).into();
        state.execute(bus, Step::CreateSubmissionQueue, entry)?;
        Ok(self.generation())
    }

    /// A queue pair leaves, whose queues are of `generation`, and the controller touches none of its
    /// memory afterwards; the last one shuts the controller down, so that it loses nothing that it
    /// has acknowledged.
    ///
    /// # Errors
    ///
    /// When the controller is not known to be still: then nothing that it can reach may be given
    /// back.
    pub(crate) fn leave(
        &self,
        bus: &mut impl Bus,
        queue: u16,
        generation: u64,
    ) -> Result<(), ControllerError> {
        let mut state = self.lock();
        let own = usize::from(queue) - 1;
        let mut taken = state.queues.iter().enumerate().filter(|(_, taken)| **taken);
        if taken.any(|(other, _)| other != own) {
            if self.generation() != generation {
                // A reset has deleted its queues.
                state.queues[own] = false;
                return Ok(());
            }
            // What the queue still had, the controller aborts before it answers.
            let mut entry = admin(admin_opcode::DELETE_SUBMISSION_QUEUE);
            entry.dword10 = u32::from(queue).into();
            state.execute(bus, Step::DeleteSubmissionQueue, entry)?;
            let mut entry = admin(admin_opcode::DELETE_COMPLETION_QUEUE);
            entry.dword10 = u32::from(queue).into();
            state.execute(bus, Step::DeleteCompletionQueue, entry)?;
            state.queues[own] = false;
            return Ok(());
        }
        state.queues[own] = false;
        let Some(up) = state.up.take() else { return Ok(()) };
        if let Err(error) = bring_up::shut_down(bus, up.capabilities) {
            tracing::warn!(%error, "the controller did not shut down in order");
        }
        bring_up::disable(bus, up.capabilities)
    }

    /// The device has gone away, or is to be given back: it is stopped if it still listens, and
    /// nobody brings it up again.
    pub(crate) fn retire(&self, bus: &mut impl Bus) {
        let Some(up) = self.lock().up.take() else { return };
        let stopped = bring_up::shut_down(bus, up.capabilities)
            .and_then(|()| bring_up::disable(bus, up.capabilities));
        if let Err(error) = stopped {
            tracing::info!(%error, "a controller that is let go does not listen");
        }
    }

    /// Resets the controller, unless somebody has since `generation`, and brings it up again,
    /// without any I/O queue.
    ///
    /// # Errors
    ///
    /// When it does not come back. Where the generation is another one nevertheless, the
    /// controller is disabled.
    pub(crate) fn reset(&self, bus: &mut impl Bus, generation: u64) -> Result<(), ControllerError> {
        let mut state = self.lock();
        if self.generation() != generation {
            return if state.up.is_some() { Ok(()) } else { Err(ControllerError::Down) };
        }
        let up = state.up.take().ok_or(ControllerError::Down)?;
        if let Err(error) = bring_up::disable(bus, up.capabilities) {
            // It may still be at work, and whoever tries next may have more luck.
            state.up = Some(up);
            return Err(error);
        }
        self.0.generation.fetch_add(1, Ordering::Release);
        state.bring_up(bus, up.memory)?;
        let now = state.up.as_ref().map(|up| up.namespace.geometry());
        if now != Some(up.namespace.geometry()) {
            state.up = None;
            return Err(ControllerError::Changed);
        }
        Ok(())
    }

    /// Asks the controller to abort a command (Base Specification 2.0, section 5.1). True when it
    /// will complete as aborted; false when it was too late.
    ///
    /// # Errors
    ///
    /// When the controller does not answer.
    pub(crate) fn abort(
        &self,
        bus: &mut impl Bus,
        queue: u16,
        id: CommandId,
    ) -> Result<bool, ControllerError> {
        let mut entry = admin(admin_opcode::ABORT);
        entry.dword10 = (u32::from(id.0) << 16 | u32::from(queue)).into();
        Ok(self.execute(bus, Step::Abort, entry)? & 1 == 0)
    }

    /// Looks whether the controller reports something, unless another thread is just there, and
    /// tells people. Does not wait where there is nothing.
    pub(crate) fn look_for_event(&self, bus: &mut impl Bus) -> bool {
        self.0.state.try_lock().is_ok_and(|mut state| state.look_for_event(bus))
    }

    /// Executes one admin command and returns dword 0 of its completion.
    ///
    /// # Errors
    ///
    /// When the controller is down, does not answer or refuses.
    pub(crate) fn execute(
        &self,
        bus: &mut impl Bus,
        step: Step,
        entry: SubmissionEntry,
    ) -> Result<u32, ControllerError> {
        self.lock().execute(bus, step, entry)
    }

    /// The state. A thread that panicked with it has left it as it was between two commands.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// From a controller in any state to one that works, without I/O queues.
    fn bring_up(&mut self, bus: &mut impl Bus, memory: AdminMemory) -> Result<(), ControllerError> {
        let capabilities = bring_up::capabilities(bus)?;
        let admin = bring_up::enable(bus, &memory, capabilities)?;
        let mut session = Session { bus, memory, capabilities, admin, optional_events: 0 };
        let (id, namespace) = session.identify(self.namespace, self.backend)?;
        let queues = session.number_of_queues()?;
        // Numbers that are taken stay so: their owners come back for them.
        self.queues.resize(usize::from(queues).max(self.queues.len()), false);
        session.ask_for_events();
        let admin = session.admin;
        self.up = Some(Up { memory, admin, capabilities, namespace, id, warned: 0 });
        Ok(())
    }

    /// Looks whether the controller has something to say; tells it, and asks for the next.
    fn look_for_event(&mut self, bus: &mut impl Bus) -> bool {
        let Some(up) = &mut self.up else { return false };
        let Some(answer) = up.admin.take_event(bus) else { return false };
        let status = answer.status();
        if !status.is_success() {
            tracing::warn!(%status, "the device does not report events any more");
            return false;
        }
        let event = Event(answer.result.get());
        if let Err(error) = self.tell(bus, event) {
            tracing::warn!(%error, "the device has reported an event, but does not explain it");
        }
        if let Some(up) = &mut self.up {
            up.admin.ask_for_event(bus);
        }
        true
    }

    /// Reads the log page of an event, which lets the controller report the next one, and tells
    /// people.
    fn tell(&mut self, bus: &mut impl Bus, event: Event) -> Result<(), ControllerError> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let mut entry =
            SubmissionEntry::new(admin_opcode::GET_LOG_PAGE, CommandId(0), NamespaceId::ALL);
        entry.set_prps(PrpPair { prp1: up.memory.identify_address(), prp2: 0 });
        let page = event.log_page();
        let bytes = if page == log_page::CHANGED_NAMESPACES { PAGE_SIZE } else { LOG_BYTES };
        // Zero-based number of dwords.
        entry.dword10 = ((bytes as u32 / 4 - 1) << 16 | u32::from(page)).into();
        let deadline = bring_up::deadline(up.capabilities);
        up.admin.execute(bus, Step::LogPage, entry, deadline)?;
        let (model, serial) = (up.namespace.model, up.namespace.serial);
        if page == log_page::HEALTH {
            let health: Health = up.memory.read_identify();
            let (celsius, spare, used) = (health.celsius(), health.spare, health.used);
            for warning in events::words(health.warnings & !up.warned) {
                tracing::error!(%model, %serial, celsius, spare, used, "the device warns: {warning}");
            }
            up.warned = health.warnings;
        } else if page == log_page::CHANGED_NAMESPACES {
            tracing::warn!(%model, %serial, "namespaces of the device have been changed");
        } else {
            let (kind, code) = (event.kind(), event.0);
            tracing::warn!(%model, %serial, kind, code, page, "the device has reported an event");
        }
        Ok(())
    }

    /// Executes one admin command and returns dword 0 of its completion.
    fn execute(
        &mut self,
        bus: &mut impl Bus,
        step: Step,
        entry: SubmissionEntry,
    ) -> Result<u32, ControllerError> {
        let up = self.up.as_mut().ok_or(ControllerError::Down)?;
        let deadline = bring_up::deadline(up.capabilities);
        Ok(up.admin.execute(bus, step, entry, deadline)?.result.get())
    }
}

/// A controller whose admin queue works, while it is being brought up.
struct Session<'a, B: Bus> {
    bus: &'a mut B,
    memory: AdminMemory,
    capabilities: Capabilities,
    admin: AdminQueue,
    /// Notices that the controller offers (OAES).
    optional_events: u32,
}

impl<B: Bus> Session<'_, B> {
    /// Asks to be told of what the controller notices. One that cannot is as good.
    fn ask_for_events(&mut self) {
        let mut entry = admin(admin_opcode::SET_FEATURES);
        entry.dword10 = u32::from(feature::ASYNCHRONOUS_EVENTS).into();
        entry.dword11 = events::wanted(self.optional_events).into();
        if let Err(error) = self.execute(Step::EventConfiguration, entry) {
            tracing::info!(%error, "the device reports what events it likes");
        }
        self.admin.ask_for_event(self.bus);
    }

    /// Asks what the controller and its namespace are.
    fn identify(
        &mut self,
        wanted: Option<NamespaceId>,
        backend: &'static str,
    ) -> Result<(NamespaceId, Namespace), ControllerError> {
        let controller: IdentifyController = self.read_structure(
            Step::IdentifyController,
            structure::CONTROLLER,
            NamespaceId::NONE,
        )?;
        self.optional_events = controller.optional_events.get();
        let active: ActiveNamespaces = self.read_structure(
            Step::ActiveNamespaces,
            structure::ACTIVE_NAMESPACES,
            NamespaceId::NONE,
        )?;
        let id = match wanted {
            None => active.ids().next().ok_or(ControllerError::NoNamespace)?,
            Some(id) if active.ids().any(|active| active == id) => id,
            Some(id) => return Err(ControllerError::NoSuchNamespace { namespace: id.0 }),
        };
        let namespace: IdentifyNamespace =
            self.read_structure(Step::IdentifyNamespace, structure::NAMESPACE, id)?;
        let geometry = namespace.geometry()?;
        let device_max = controller
            .transfer_bytes_max(self.capabilities.page_size_min())
            .and_then(|bytes| u32::try_from(bytes).ok())
            .unwrap_or(u32::MAX);
        // The number of blocks is zero-based and has 16 bits.
        let field_max = geometry.block_size.saturating_mul(1 << 16);
        let cache = controller.has_volatile_write_cache() && self.cache_is_enabled()?;
        let namespace = Namespace {
            block_size: geometry.block_size,
            blocks: geometry.blocks,
            volatile_write_cache: cache,
            transfer_bytes_max: device_max.min(field_max).min(TRANSFER_BYTES_MAX),
            metadata_bytes: geometry.metadata_bytes,
            model: controller.model,
            serial: controller.serial,
            backend,
        };
        Ok((id, namespace))
    }

    /// Asks for as many I/O queues as there may ever be queue pairs; returns how many there are.
    fn number_of_queues(&mut self) -> Result<u16, ControllerError> {
        let mut entry = admin(admin_opcode::SET_FEATURES);
        entry.dword10 = u32::from(feature::NUMBER_OF_QUEUES).into();
        // Of each kind, zero-based.
        let wanted = u32::from(IO_QUEUES_MAX - 1);
        entry.dword11 = (wanted << 16 | wanted).into();
        let granted = self.execute(Step::NumberOfQueues, entry)?;
        let fewer = (granted as u16).min((granted >> 16) as u16);
        Ok(fewer.saturating_add(1).min(IO_QUEUES_MAX))
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

    fn execute(&mut self, step: Step, entry: SubmissionEntry) -> Result<u32, ControllerError> {
        let deadline = bring_up::deadline(self.capabilities);
        Ok(self.admin.execute(self.bus, step, entry, deadline)?.result.get())
    }
}

/// An admin command that concerns no namespace.
fn admin(opcode: u8) -> SubmissionEntry {
    SubmissionEntry::new(opcode, CommandId(0), NamespaceId::NONE)
}
