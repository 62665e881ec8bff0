#![allow(unsafe_code)]
//! NVMe through SPDK's driver, for sites that standardise on it (Cargo feature `spdk`).
//!
//! SPDK has the controller: it resets it, keeps it alive and finds the addresses of data. Commands are
//! the submission entries that go to a controller of our own, handed over raw. They wait here until
//! they are rung, and SPDK rings one doorbell for all of them when completions are looked for.
//!
//! **Fault model.** SPDK is believed. When it says that a queue pair has failed, the queue pair is
//! freed, after which the device does not reach memory through it any more, and everything in flight
//! is answered. SPDK has no time limit for commands.

mod controller;
mod environment;
mod ffi;
mod options;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use culvert_memory::Region;
use rustix::io::Errno;

use crate::command_table::CommandTable;
use crate::compose::{Addressee, DataPointer, UnnamedMetadata};
use crate::config::DEALLOCATE_RANGES_MAX;
use crate::contract::{
    Completion, LbaRange, Namespace, QueuePair, RegisterError, Submission, Wake,
};
use crate::counters::Counters;
use crate::identify::GeometryError;
use crate::open::{OpenError, OpenOptions};
use crate::prp::PrpPair;
use crate::status::Status;
use crate::submission_entry::{CommandId, DatasetRange, SubmissionEntry};

pub(crate) use self::controller::SpdkController;
pub use self::options::SpdkOptions;

/// The name of this backend in URIs.
pub(crate) const BACKEND: &str = "spdk";

/// `SPDK_MALLOC_DMA`, and any NUMA node.
const DMA: u32 = 1;
const ANY_NODE: i32 = -1;

/// Bytes of the ranges of one deallocation.
const RANGES_BYTES: usize = DEALLOCATE_RANGES_MAX * size_of::<DatasetRange>();

/// Why a controller cannot be used through SPDK.
#[derive(Debug, thiserror::Error)]
pub enum SpdkError {
    /// Machine: SPDK's environment could not be set up.
    #[error("SPDK's environment could not be set up; its own words are in the log (hugepages?)")]
    Environment(#[source] std::io::Error),
    /// Caller: SPDK does not understand it.
    #[error(
        "is no address: a PCI address as in spdk:0000:5e:00.0, or a transport identifier as in \
         spdk:trtype:TCP traddr:127.0.0.1 trsvcid:4420 subnqn:NQN"
    )]
    Target,
    /// Device: it could not be connected to.
    #[error(
        "SPDK cannot connect to it; its own words are in the log (is it bound to vfio-pci? \
         `culvert nvme list`)"
    )]
    Connect,
    /// Caller: there is no such namespace.
    #[error("the controller has no active namespace {namespace}")]
    NoNamespace {
        /// Its number; 0 for any.
        namespace: u32,
    },
    /// Caller: the namespace is formatted in a way that is not supported.
    #[error("its format is not supported")]
    Geometry(#[from] GeometryError),
    /// Caller: the namespace is formatted with metadata.
    #[error("its blocks carry {bytes} bytes of metadata, which only vfio: supports")]
    Metadata {
        /// Bytes of metadata of each block.
        bytes: u32,
    },
    /// Device: it has no more queues, or SPDK no memory for them.
    #[error("SPDK has no queue pair for it; its own words are in the log")]
    QueuePair,
}

/// Answers that SPDK has given and nobody has looked at.
type Answers = RefCell<VecDeque<(CommandId, Status)>>;

/// What SPDK gives back with an answer.
#[derive(Debug)]
struct Slot {
    answers: Rc<Answers>,
    id: CommandId,
}

/// A command that was not handed over yet.
#[derive(Debug)]
struct Waiting {
    entry: SubmissionEntry,
    bytes: u32,
}

/// Memory of SPDK's own, for the ranges of deallocations.
#[derive(Debug)]
struct Ranges(NonNull<DatasetRange>);

impl Drop for Ranges {
    fn drop(&mut self) {
        // SAFETY: it is SPDK's, and no command is under way.
        unsafe { ffi::spdk_free(self.0.as_ptr().cast()) };
    }
}

/// A queue pair on a controller that SPDK drives.
#[derive(Debug)]
pub struct Spdk {
    /// Until it has failed.
    pair: Option<NonNull<ffi::QueuePair>>,
    commands: CommandTable,
    waiting: VecDeque<Waiting>,
    /// How many of them were rung.
    rung: usize,
    slots: Rc<[Slot]>,
    answers: Rc<Answers>,
    ranges: Rc<Ranges>,
    regions: Vec<Region>,
    regions_max: u32,
    addressee: Addressee,
    namespace: Namespace,
    counters: Counters,
    controller: Arc<SpdkController>,
    /// A queue pair belongs to one thread.
    thread_bound: PhantomData<*const ()>,
}

impl Spdk {
    /// Opens a queue pair on a controller that is connected.
    pub(crate) fn open_on(
        device: &SpdkOptions,
        controller: Arc<SpdkController>,
        options: &OpenOptions,
    ) -> Result<Spdk, OpenError> {
        let depth = options.checked_depth()?;
        let failed = |source| OpenError::Spdk { target: device.target.clone(), source };
        let asked = ffi::QueuePairOptions {
            priority: 0,
            // One entry of a ring is never used.
            queue_size: u32::from(depth) + 1,
            requests: u32::from(depth) + 1,
            delay_submission: true,
            padding: [0; 3],
        };
        let size = size_of::<ffi::QueuePairOptions>();
        // SAFETY: SPDK's environment is set up, for the controller is connected.
        let ranges = unsafe {
            ffi::spdk_zmalloc(RANGES_BYTES * usize::from(depth), 4096, null_mut(), ANY_NODE, DMA)
        };
        let ranges = Ranges(NonNull::new(ranges.cast()).ok_or(failed(SpdkError::QueuePair))?);
        // SAFETY: the controller is connected; SPDK reads so many bytes of the options.
        let pair = unsafe {
            ffi::spdk_nvme_ctrlr_alloc_io_qpair(controller.controller.as_ptr(), &asked, size)
        };
        let pair = NonNull::new(pair).ok_or(failed(SpdkError::QueuePair))?;
        let answers = Rc::new(Answers::new(VecDeque::with_capacity(depth.into())));
        let slot = |id| Slot { answers: Rc::clone(&answers), id: CommandId(id) };
        let namespace = controller.namespace.clone();
        Ok(Spdk {
            pair: Some(pair),
            commands: CommandTable::new(depth),
            waiting: VecDeque::with_capacity(depth.into()),
            rung: 0,
            slots: (0..depth).map(slot).collect(),
            answers,
            ranges: Rc::new(ranges),
            regions: Vec::new(),
            regions_max: options.regions_max,
            addressee: Addressee::new(controller.id, &namespace, UnnamedMetadata::default()),
            namespace,
            counters: Counters::default(),
            controller,
            thread_bound: PhantomData,
        })
    }

    /// Hands over what was rung, as far as SPDK takes it.
    fn hand_over(&mut self) {
        while self.rung > 0
            && let Some(pair) = self.pair
        {
            let Some(Waiting { entry, bytes }) = self.waiting.front_mut() else { return };
            let id = entry.command_id.get();
            let slot = &self.slots[usize::from(id)];
            let data = std::ptr::with_exposed_provenance_mut::<c_void>(entry.prp1.get() as usize);
            let mut command = *entry;
            // SPDK fills in where the data are.
            command.set_prps(PrpPair::default());
            // SAFETY: the queue pair is alive; SPDK copies the command. Its data belong to the command,
            // which is in the table until its answer is taken, and lie in a region that is registered;
            // the slot lives as long as the queue pair.
            let result = unsafe {
                ffi::spdk_nvme_ctrlr_cmd_io_raw(
                    self.controller.controller.as_ptr(),
                    pair.as_ptr(),
                    &mut command,
                    data,
                    *bytes,
                    completed,
                    std::ptr::from_ref(slot).cast_mut().cast(),
                )
            };
            if result != 0 {
                match environment::errno(result) {
                    // All its requests are in use: at the next poll.
                    Errno::NOMEM => return,
                    Errno::NXIO => return self.lose(),
                    // The answer was given.
                    Errno::FAULT => {}
                    error => {
                        tracing::error!(%error, "SPDK refuses a command");
                        self.commands.answer(CommandId(id), Status::INTERNAL_ERROR);
                    }
                }
            }
            self.waiting.pop_front();
            self.rung -= 1;
        }
    }

    /// The queue pair has failed, or is given up: the device does not reach memory through it after this.
    #[cold]
    fn lose(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        // SAFETY: it is alive and not used again. What is in flight is answered from inside.
        let result = unsafe { ffi::spdk_nvme_ctrlr_free_io_qpair(pair.as_ptr()) };
        self.waiting.clear();
        self.rung = 0;
        if result != 0 {
            // Commands stay in flight: a buffer may not come back while a device may write it.
            let error = environment::errno(result);
            return tracing::error!(%error, "SPDK does not free a queue pair");
        }
        self.answers.borrow_mut().clear();
        self.commands.answer_all(Status::HOST_PATHING_ERROR);
    }
}

/// A command has been answered; called by SPDK while completions are looked for, or a queue pair is
/// freed.
unsafe extern "C" fn completed(slot: *mut c_void, completion: *const [u32; 4]) {
    // SAFETY: the slot that was handed over with the command, which lives as long as the queue pair.
    let slot = unsafe { &*slot.cast::<Slot>() };
    // SAFETY: the completion is SPDK's for the time of the call.
    let [.., dword3] = unsafe { *completion };
    // Above the phase tag.
    let status = Status((dword3 >> 17) as u16);
    slot.answers.borrow_mut().push_back((slot.id, status));
}

/// Data as SPDK takes them: by their address in this process.
struct Data<'a> {
    regions: &'a [Region],
    ranges: NonNull<DatasetRange>,
    bytes: u32,
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
        if !self.regions.iter().any(|known| known.same_as(region)) {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        self.bytes = bytes as u32;
        Ok(PrpPair { prp1: pointer.as_ptr().expose_provenance() as u64, prp2: 0 })
    }

    fn ranges(&mut self, id: CommandId, ranges: &[LbaRange]) -> PrpPair {
        // SAFETY: each command has a place of its own, of so many ranges.
        let list = unsafe { self.ranges.add(usize::from(id.0) * DEALLOCATE_RANGES_MAX) };
        for (index, range) in ranges.iter().enumerate() {
            // SAFETY: as above; a deallocation has no more ranges than that.
            let entry = unsafe { list.add(index) };
            // SAFETY: the place is this command's, which is not under way.
            unsafe { entry.write(DatasetRange::from(*range)) };
        }
        self.bytes = (ranges.len() * size_of::<DatasetRange>()) as u32;
        PrpPair { prp1: list.as_ptr().expose_provenance() as u64, prp2: 0 }
    }
}

impl QueuePair for Spdk {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        if self.regions.iter().any(|known| known.same_as(region)) {
            return Ok(());
        }
        if self.regions.len() >= self.regions_max as usize {
            return Err(RegisterError::TableFull { regions_max: self.regions_max });
        }
        environment::register(region)?;
        self.regions.push(region.clone());
        Ok(())
    }

    fn unregister(&mut self, region: &Region) {
        let known = self.regions.iter().position(|known| known.same_as(region));
        if let Some(known) = known {
            environment::unregister(&self.regions.swap_remove(known));
        }
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        let Some(id) = self.commands.next_id() else {
            return Err(submission);
        };
        let mut data = Data { regions: &self.regions, ranges: self.ranges.0, bytes: 0 };
        let (entry, command) = self.addressee.compose(&mut data, id, submission);
        let bytes = data.bytes;
        let inserted = self.commands.insert(command);
        debug_assert_eq!(inserted, id, "the entry carries the identifier of its command");
        match entry {
            _ if self.pair.is_none() => self.commands.answer(id, Status::HOST_PATHING_ERROR),
            Ok(entry) => self.waiting.push_back(Waiting { entry, bytes }),
            Err(status) => self.commands.answer(id, status),
        }
        Ok(())
    }

    fn ring(&mut self) {
        if self.rung == self.waiting.len() {
            return;
        }
        self.rung = self.waiting.len();
        self.counters.doorbells += 1;
        self.hand_over();
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        let mut visited = 0;
        if self.commands.has_answer() {
            visited = self.commands.visit_answers(budget, &mut self.counters, complete);
        }
        self.hand_over();
        // To SPDK no limit is 0.
        let left = u32::try_from(budget - visited).unwrap_or(u32::MAX);
        if let Some(pair) = self.pair
            && left > 0
            && self.answers.borrow().is_empty()
        {
            // SAFETY: the queue pair is alive, and this is its thread.
            let result = unsafe { ffi::spdk_nvme_qpair_process_completions(pair.as_ptr(), left) };
            if result < 0 {
                tracing::error!(error = %environment::errno(result), "a queue pair of SPDK's has failed");
                self.lose();
            }
        }
        while visited < budget {
            let Some((id, status)) = self.answers.borrow_mut().pop_front() else { break };
            let Some(command) = self.commands.take(id) else { continue };
            complete(command.complete(status, &mut self.counters));
            visited += 1;
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
        Wake::Poll
    }

    fn arm(&mut self) -> bool {
        self.commands.in_flight() == 0
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Lets SPDK look after its controller: events, and connections that are kept alive.
    fn tend(&mut self, _now_ns: u64) {
        if self.pair.is_none() {
            return;
        }
        let controller = self.controller.controller.as_ptr();
        // SAFETY: the controller is connected.
        let result = unsafe { ffi::spdk_nvme_ctrlr_process_admin_completions(controller) };
        if result < 0 {
            tracing::error!(error = %environment::errno(result), "a controller of SPDK's has failed");
            self.lose();
        }
    }
}

impl Drop for Spdk {
    fn drop(&mut self) {
        self.lose();
        self.commands.visit_answers(usize::MAX, &mut self.counters, &mut drop);
        if self.commands.in_flight() > 0 {
            // SPDK still has the queue pair, and a device perhaps what commands name.
            self.commands.forget();
            std::mem::forget(std::mem::take(&mut self.regions));
            std::mem::forget(Rc::clone(&self.ranges));
            std::mem::forget(Rc::clone(&self.slots));
            return std::mem::forget(Arc::clone(&self.controller));
        }
        self.regions.iter().for_each(environment::unregister);
    }
}
