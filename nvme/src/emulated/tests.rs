#![allow(unsafe_code)]
//! The emulated controller, entry by entry: what a driver half never sends, and what the
//! completion entries say.

use super::*;
use crate::bus::Bus;
use crate::completion_entry::CompletionEntry;
use crate::completion_queue::CompletionQueue;
use crate::contract::LbaRange;
use crate::controller::Controller as Shared;
use crate::controller_error::{ControllerError, Step};
use crate::prp::PrpPair;
use crate::registers::{self, Capabilities, ControllerStatus, Register};
use crate::status::Status;
use crate::submission_entry::{
    CommandId, NamespaceId, SubmissionEntry, admin_opcode, feature, io_opcode,
};
use culvert_memory::{Pool, PoolOptions};

const DEPTH: u16 = 7;
const NAMESPACE: NamespaceId = NamespaceId(1);

/// A controller, and the two ends of its queues without the driver above them.
struct Host {
    bus: LocalBus,
    shared: Shared,
    generation: u64,
    submission: (*mut SubmissionEntry, u16),
    completion: CompletionQueue,
    memory: QueueMemory,
    capabilities: Capabilities,
    pool: Pool,
}

fn bus(uri_options: &str) -> LocalBus {
    let uri: crate::DeviceUri = format!("emulated:1MiB?{uri_options}").parse().expect("a URI");
    let crate::Device::Emulated(device) = uri.device() else { unreachable!("an emulated URI") };
    let geometry = Geometry { block_size: device.block_size, blocks: 256, metadata_bytes: 0 };
    let medium = Medium::memory(1 << 20).expect("memory");
    let registers = Arc::new(RegisterFile::default());
    let controller = Controller::new(
        Arc::clone(&registers),
        Store::new(geometry, medium, device.cache_blocks),
        Admin::new(IdentifyController::emulated("model", "serial", 9, device.cache_blocks > 0)),
        Faults::default(),
        Pending::new(Order::Fetched),
    );
    let core = Core { controller, memory: HostMemory::default() };
    LocalBus::new(Engine::Inline(Box::new(core)), registers, 8, true)
}

impl Host {
    fn new(uri_options: &str) -> Host {
        let mut bus = bus(uri_options);
        let pool = Pool::new(&PoolOptions::default()).expect("memory");
        bus.map(&pool.regions()[0]).expect("mapping the pool");
        let mut memory = QueueMemory::new(DEPTH).expect("memory");
        memory.map(&mut bus).expect("mapping the queues");
        let shared = Shared::new(None, "test");
        let joined = shared.join(&mut bus, DEPTH + 1).expect("bringing it up");
        assert_eq!((joined.queue, joined.id), (1, NAMESPACE));
        let capabilities = joined.capabilities;
        let head = registers::completion_doorbell(1, capabilities.doorbell_stride());
        let generation = shared.create_queues(&mut bus, 1, &memory, None).expect("creating queues");
        let submission = (memory.submission().0.as_ptr(), 0);
        // SAFETY: `memory` has that many zeroed entries and lives as long as the queue.
        let completion = unsafe { CompletionQueue::new(memory.completion().0, DEPTH + 1, head) };
        Host { bus, shared, generation, submission, completion, memory, capabilities, pool }
    }

    fn doorbell(&self) -> Register {
        registers::submission_doorbell(1, self.capabilities.doorbell_stride())
    }

    fn push(&mut self, entry: SubmissionEntry) {
        let (entries, tail) = &mut self.submission;
        // SAFETY: the tail is below the number of entries.
        let slot = unsafe { entries.add(usize::from(*tail)) };
        // SAFETY: the entries belong to this host, and the controller reads none before the
        // doorbell says so.
        unsafe { slot.write(entry) };
        *tail = (*tail + 1) % (DEPTH + 1);
    }

    fn ring(&mut self) {
        self.bus.ring(self.doorbell(), self.submission.1);
    }

    /// Hands everything pushed to the controller and takes what it posts.
    fn run(&mut self) -> Vec<CompletionEntry> {
        self.ring();
        self.bus.advance();
        let completions = std::iter::from_fn(|| self.completion.take()).collect();
        if let Some((doorbell, head)) = self.completion.take_doorbell() {
            self.bus.ring(doorbell, head);
        }
        completions
    }

    fn run_one(&mut self, entry: SubmissionEntry) -> Status {
        self.push(entry);
        let completions = self.run();
        assert_eq!(completions.len(), 1);
        completions[0].status()
    }

    fn execute_admin(&mut self, entry: SubmissionEntry) -> Result<u32, Status> {
        match self.shared.execute(&mut self.bus, Step::Abort, entry) {
            Ok(result) => Ok(result),
            Err(ControllerError::Refused { status, .. }) => Err(status),
            Err(error) => panic!("{error}"),
        }
    }

    fn status(&self) -> ControllerStatus {
        ControllerStatus(self.bus.read32(registers::STATUS))
    }

    fn unflushed(&mut self) -> usize {
        self.bus.with_core(|core| core.controller.store_mut().unflushed())
    }

    /// The address of a registered page.
    fn page(&self) -> u64 {
        self.pool.regions()[0].base().as_ptr() as u64
    }

    fn write(&self, id: u16, lba: u64, blocks: u32) -> SubmissionEntry {
        let data = PrpPair { prp1: self.page(), prp2: self.page() + 4096 };
        let range = LbaRange { start: Lba(lba), blocks };
        SubmissionEntry::write(CommandId(id), NAMESPACE, range, data, false)
    }
}

#[test]
fn completions_name_queue_command_and_head() {
    let mut host = Host::new("");
    for round in 0..20u16 {
        for index in 0..3 {
            host.push(SubmissionEntry::flush(CommandId(1000 * index + round), NAMESPACE));
        }
        let completions = host.run();
        assert_eq!(completions.len(), 3);
        for (index, completion) in completions.iter().enumerate() {
            assert_eq!(completion.command_id(), CommandId(1000 * index as u16 + round));
            assert_eq!(completion.submission_queue.get(), 1);
            // All three were fetched before the first was posted.
            assert_eq!(completion.submission_head.get(), 3 * (round + 1) % (DEPTH + 1));
            assert!(completion.status().is_success());
        }
    }
}

#[test]
fn commands_are_not_believed() {
    let mut host = Host::new("");
    let id = CommandId(1);
    let opcode = SubmissionEntry::new(0x7f, id, NAMESPACE);
    assert_eq!(host.run_one(opcode), Status::INVALID_OPCODE);
    for namespace in [NamespaceId(0), NamespaceId(2)] {
        let flush = SubmissionEntry::flush(id, namespace);
        assert_eq!(host.run_one(flush), Status::INVALID_NAMESPACE);
    }
    assert_eq!(host.run_one(SubmissionEntry::flush(id, NamespaceId::ALL)), Status::SUCCESS);
    let mut everywhere = host.write(1, 0, 1);
    everywhere.namespace_id = NamespaceId::ALL.0.into();
    assert_eq!(host.run_one(everywhere), Status::INVALID_NAMESPACE);

    // Fused operations and SGLs.
    for flags in [0x01, 0x40] {
        let mut write = host.write(1, 0, 1);
        write.flags = flags;
        assert_eq!(host.run_one(write), Status::INVALID_FIELD);
    }
    // More than MDTS allows: 513 blocks of 4 KiB are inside neither it nor the namespace.
    assert_eq!(host.run_one(host.write(1, 0, 513)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(host.run_one(host.write(1, 255, 2)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(host.run_one(host.write(1, u64::MAX, 1)), Status::LBA_OUT_OF_RANGE);
}

#[test]
fn addresses_are_not_believed() {
    let mut host = Host::new("");
    let page = host.page();
    let stranger = Pool::new(&PoolOptions::default()).expect("memory");
    let unregistered = stranger.regions()[0].base().as_ptr() as u64;
    let mut write = |prp1, prp2, blocks| {
        let mut entry = host.write(1, 0, blocks);
        entry.set_prps(PrpPair { prp1, prp2 });
        host.run_one(entry)
    };
    assert_eq!(write(page, 0, 1), Status::SUCCESS);
    assert_eq!(write(page + 8192, page, 2), Status::SUCCESS);
    assert_eq!(write(page + 1, 0, 1), Status::INVALID_PRP_OFFSET);
    assert_eq!(write(page, page + 8, 2), Status::INVALID_PRP_OFFSET);
    assert_eq!(write(page, page + 4, 3), Status::INVALID_PRP_OFFSET);
    assert_eq!(write(0, 0, 1), Status::DATA_TRANSFER_ERROR);
    assert_eq!(write(page, 0, 2), Status::DATA_TRANSFER_ERROR);
    assert_eq!(write(unregistered, 0, 1), Status::DATA_TRANSFER_ERROR);
    assert_eq!(write(!4095, 0, 1), Status::DATA_TRANSFER_ERROR);
    // The list is registered, what it names (zeroes) is not.
    assert_eq!(write(page, page + 4096, 3), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn an_identifier_in_use_is_a_conflict() {
    let mut host = Host::new("");
    for id in [5, 5, 6] {
        host.push(SubmissionEntry::flush(CommandId(id), NAMESPACE));
    }
    let statuses: Vec<_> = host.run().iter().map(CompletionEntry::status).collect();
    assert_eq!(statuses, [Status::SUCCESS, Status::COMMAND_ID_CONFLICT, Status::SUCCESS]);
    assert_eq!(host.run_one(SubmissionEntry::flush(CommandId(5), NAMESPACE)), Status::SUCCESS);
}

#[test]
fn a_flush_covers_only_completions_posted_before_it_was_rung() {
    let mut host = Host::new("cache=volatile");
    assert_eq!(host.run_one(host.write(1, 0, 1)), Status::SUCCESS);
    // The second write is executed before the flush, but was not completed when that was rung.
    host.push(host.write(2, 1, 1));
    host.push(SubmissionEntry::flush(CommandId(3), NAMESPACE));
    assert!(host.run().iter().all(|completion| completion.status().is_success()));
    assert_eq!(host.unflushed(), 1);
    assert_eq!(host.run_one(SubmissionEntry::flush(CommandId(4), NAMESPACE)), Status::SUCCESS);
    assert_eq!(host.unflushed(), 0);
}

#[test]
fn a_rewritten_block_is_flushed_all_the_same() {
    let mut host = Host::new("cache=volatile");
    assert_eq!(host.run_one(host.write(1, 9, 1)), Status::SUCCESS);
    // Block 9 was completed before the flush was rung, so it must not stay as it was on the
    // medium, although a later write has changed it since.
    host.push(host.write(2, 9, 1));
    host.push(SubmissionEntry::flush(CommandId(3), NAMESPACE));
    assert_eq!(host.run().len(), 2);
    assert_eq!(host.unflushed(), 0);
}

#[test]
fn an_abort_takes_what_was_not_executed() {
    let mut host = Host::new("");
    let abort = |id: u32| {
        let mut entry = SubmissionEntry::new(admin_opcode::ABORT, CommandId(0), NamespaceId::NONE);
        entry.dword10 = (id << 16 | 1).into();
        entry
    };
    host.push(host.write(3, 0, 1));
    host.ring();
    assert_eq!(host.execute_admin(abort(3)), Ok(0));
    let statuses: Vec<_> = host.run().iter().map(CompletionEntry::status).collect();
    assert_eq!(statuses, [Status::ABORT_REQUESTED]);
    assert_eq!(host.execute_admin(abort(3)), Ok(1), "too late");
}

#[test]
fn a_doorbell_outside_the_ring_is_fatal_until_reset() {
    let mut host = Host::new("");
    host.bus.ring(host.doorbell(), DEPTH + 1);
    host.bus.advance();
    assert!(host.status().is_fatal());
    host.push(SubmissionEntry::flush(CommandId(1), NAMESPACE));
    assert!(host.run().is_empty());
    host.shared.reset(&mut host.bus, host.generation).expect("a reset");
    assert!(!host.status().is_fatal());
    assert_eq!(host.shared.generation(), host.generation + 1);
    let again = host.shared.create_queues(&mut host.bus, 1, &host.memory, None);
    assert_eq!(again, Ok(host.generation + 1));
}

#[test]
fn queues_in_unregistered_memory_are_fatal() {
    let mut host = Host::new("");
    host.memory.unmap(&mut host.bus);
    host.push(SubmissionEntry::flush(CommandId(1), NAMESPACE));
    assert!(host.run().is_empty());
    assert!(host.status().is_fatal());
}

#[test]
fn what_is_not_supported_does_not_come_up() {
    let mut bus = bus("");
    bus.write32(registers::CONFIGURATION, registers::Configuration::ENABLED.0);
    bus.advance();
    // The admin queues are nowhere.
    assert!(ControllerStatus(bus.read32(registers::STATUS)).is_fatal());
    bus.write32(registers::CONFIGURATION, 0);
    bus.advance();
    assert_eq!(bus.read32(registers::STATUS), 0);
    // Pages of 8 KiB.
    bus.write32(registers::CONFIGURATION, registers::Configuration::ENABLED.0 | 1 << 7);
    bus.advance();
    assert!(ControllerStatus(bus.read32(registers::STATUS)).is_fatal());
    assert_eq!(bus.read32(registers::VERSION), 0x0002_0000);
}

#[test]
fn admin_commands_are_checked() {
    let mut host = Host::new("cache=volatile");
    let entry = |opcode, dword10: u32, dword11: u32| {
        let mut entry = SubmissionEntry::new(opcode, CommandId(0), NamespaceId::NONE);
        entry.dword10 = dword10.into();
        entry.dword11 = dword11.into();
        entry
    };
    let cache = u32::from(feature::VOLATILE_WRITE_CACHE);
    assert_eq!(host.execute_admin(entry(admin_opcode::GET_FEATURES, cache, 0)), Ok(1));
    assert_eq!(
        host.execute_admin(entry(admin_opcode::GET_FEATURES, 0x7f, 0)),
        Err(Status::INVALID_FIELD)
    );
    assert_eq!(
        host.execute_admin(entry(admin_opcode::SET_FEATURES, cache, 0)),
        Err(Status::INVALID_FIELD)
    );
    assert_eq!(host.execute_admin(entry(0x7f, 0, 0)), Err(Status::INVALID_OPCODE));
    assert_eq!(
        host.execute_admin(entry(admin_opcode::IDENTIFY, 0x55, 0)),
        Err(Status::INVALID_FIELD)
    );

    // Both queues exist.
    let queue = 7 << 16 | 1;
    for opcode in [admin_opcode::CREATE_COMPLETION_QUEUE, admin_opcode::CREATE_SUBMISSION_QUEUE] {
        assert_eq!(
            host.execute_admin(entry(opcode, queue, 1 << 16 | 1)),
            Err(Status::INVALID_QUEUE_IDENTIFIER)
        );
    }
    let delete_completion = entry(admin_opcode::DELETE_COMPLETION_QUEUE, 1, 0);
    assert_eq!(host.execute_admin(delete_completion), Err(Status::INVALID_QUEUE_DELETION));
    let delete_submission = entry(admin_opcode::DELETE_SUBMISSION_QUEUE, 1, 0);
    assert_eq!(host.execute_admin(delete_submission), Ok(0));
    assert_eq!(host.execute_admin(delete_submission), Err(Status::INVALID_QUEUE_IDENTIFIER));
    assert_eq!(host.execute_admin(delete_completion), Ok(0));
    assert_eq!(
        host.execute_admin(entry(admin_opcode::CREATE_SUBMISSION_QUEUE, queue, 1 << 16 | 1)),
        Err(Status::COMPLETION_QUEUE_INVALID)
    );
    let completion =
        |dword10, dword11| entry(admin_opcode::CREATE_COMPLETION_QUEUE, dword10, dword11);
    assert_eq!(host.execute_admin(completion(1, 1)), Err(Status::INVALID_QUEUE_SIZE));
    assert_eq!(host.execute_admin(completion(queue, 0)), Err(Status::INVALID_FIELD));
    assert_eq!(host.execute_admin(completion(queue, 1)), Err(Status::DATA_TRANSFER_ERROR));
}

#[test]
fn opcodes_are_those_of_the_specification() {
    let opcodes = [
        io_opcode::FLUSH,
        io_opcode::WRITE,
        io_opcode::READ,
        io_opcode::WRITE_ZEROES,
        io_opcode::DATASET_MANAGEMENT,
    ];
    assert_eq!(opcodes, [0, 1, 2, 8, 9]);
}
