//! Disks against what they promise: queue pairs, durability, faults, memory that changes too early,
//! and long random runs against a model.

mod durability;
mod faults;
mod model;
mod queue_pair;
mod shard;
mod touches;

use culvert_memory::{Buffer, Pages, Pool, PoolOptions};
use culvert_nvme::{Completion, Lba, Operation, QueuePair, Status, Submission, Tag};

use super::*;

/// A disk of 64 blocks with a cache.
fn options() -> DiskOptions {
    DiskOptions { blocks: 64, ..DiskOptions::default() }
}

/// The same with blocks that are durable once written.
fn durable_options() -> DiskOptions {
    DiskOptions { volatile_write_cache: false, ..options() }
}

/// A disk, the process that uses it, and the world in one.
struct Rig {
    disk: Disk,
    pair: SimDevice,
    pool: Pool,
    next_tag: u64,
}

impl Rig {
    fn new(options: DiskOptions, seed: u64) -> Rig {
        let pool = PoolOptions { bytes: 2 << 20, lock: false, ..PoolOptions::default() };
        let pool = Pool::new(&pool).expect("memory");
        let disk = Disk::new(options, Random::new(seed));
        let mut pair = disk.open();
        pair.register(&pool.regions()[0]).expect("a place");
        Rig { disk, pair, pool, next_tag: 0 }
    }

    /// The process dies and another one starts.
    fn restart(&mut self, kind: Crash) {
        self.disk.crash(self.disk.now_ns(), kind);
        self.pair = self.disk.open();
        self.pair.register(&self.pool.regions()[0]).expect("a place");
    }

    fn pages(&self, byte: u8) -> Pages {
        let mut buffer = self.buffer(1);
        buffer.as_mut_slice().fill(byte);
        buffer.freeze()
    }

    fn buffer(&self, pages: u32) -> Buffer {
        self.pool.acquire(pages).expect("free pages")
    }

    fn write_of(&self, block: u64, byte: u8, fua: bool) -> Operation {
        Operation::Write { lba: Lba(block), pages: self.pages(byte), fua }
    }

    /// Submits without ringing.
    fn submit(&mut self, operation: Operation) -> Tag {
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        self.pair.submit(Submission { tag, operation }).expect("room");
        tag
    }

    /// Lets time pass until something is reported.
    fn wait(&mut self) -> Vec<Completion> {
        while !self.disk.has_completions() {
            self.disk.advance(self.disk.next_ns().expect("something is in flight"));
        }
        self.poll()
    }

    fn poll(&mut self) -> Vec<Completion> {
        let mut completions = Vec::new();
        self.pair.poll(usize::MAX, &mut |completion| completions.push(completion));
        completions
    }

    /// One operation from beginning to end, while nothing else is in flight.
    fn run(&mut self, operation: Operation) -> Completion {
        let tag = self.submit(operation);
        self.pair.ring();
        let mut completions = self.wait();
        let completion = completions.pop().expect("one");
        assert!(completions.is_empty());
        assert_eq!(completion.tag, tag);
        completion
    }

    fn write(&mut self, block: u64, byte: u8, fua: bool) -> Status {
        let operation = self.write_of(block, byte, fua);
        self.run(operation).status
    }

    fn read(&mut self, block: u64) -> Result<Vec<u8>, Status> {
        let buffer = self.buffer(1);
        let completion = self.run(Operation::Read { lba: Lba(block), buffer });
        let bytes = completion.buffer.expect("a read hands its buffer back").as_slice().to_vec();
        if completion.status.is_success() { Ok(bytes) } else { Err(completion.status) }
    }

    fn flush(&mut self) -> Status {
        self.run(Operation::Flush).status
    }
}

/// The byte that all bytes of a block are.
fn uniform(bytes: &[u8]) -> Option<u8> {
    bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0])
}

/// The byte of each sector, all of whose bytes are equal.
fn sectors(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(SECTOR_BYTES).map(|sector| uniform(sector).expect("no torn sector")).collect()
}
