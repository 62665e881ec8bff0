//! Reading blocks and holding them against their checksums, several runs at a time.

use culvert_memory::{Buffer, Pool};
use culvert_nvme::{Lba, Operation, QueuePair, Status, Submission, Tag};

use super::report::{CheckReport, Subject};
use crate::device::{DeviceIoError, ShardLayout};
use crate::ids::BLOCK_SIZE;
use crate::store::ChunkKey;

/// Reads in flight.
const DEPTH: usize = 16;

/// Blocks of one read.
const RUN_BLOCKS: usize = 32;

/// Blocks that lie one behind the other, of one chunk.
struct Run {
    key: ChunkKey,
    start: u32,
    /// Block of the chunk and checksum, of each.
    blocks: Vec<(u32, u32)>,
}

/// See the module's documentation.
pub(super) struct Sweep<'s, Q: QueuePair + ?Sized> {
    queue: &'s mut Q,
    pool: &'s Pool,
    layout: &'s ShardLayout,
    report: &'s mut CheckReport,
    run: Option<Run>,
    in_flight: Vec<Option<Run>>,
    blocks: u64,
    bad: u64,
}

impl<'s, Q: QueuePair + ?Sized> Sweep<'s, Q> {
    pub(super) fn new(
        queue: &'s mut Q,
        pool: &'s Pool,
        layout: &'s ShardLayout,
        report: &'s mut CheckReport,
    ) -> Sweep<'s, Q> {
        let in_flight = (0..DEPTH).map(|_| None).collect();
        Sweep { queue, pool, layout, report, run: None, in_flight, blocks: 0, bad: 0 }
    }

    /// Blocks read.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks among them that are bad.
    pub(super) fn bad_blocks(&self) -> u64 {
        self.bad
    }

    /// Adds a block that is to be read.
    pub(super) fn add(
        &mut self,
        key: ChunkKey,
        block: u32,
        granule: u32,
        crc: u32,
    ) -> Result<(), DeviceIoError> {
        if let Some(run) = &mut self.run {
            let follows = run.key == key && run.start + run.blocks.len() as u32 == granule;
            if follows && run.blocks.len() < RUN_BLOCKS {
                run.blocks.push((block, crc));
                return Ok(());
            }
            self.submit()?;
        }
        self.run = Some(Run { key, start: granule, blocks: vec![(block, crc)] });
        Ok(())
    }

    /// Waits for everything that was added.
    pub(super) fn finish(&mut self) -> Result<(), DeviceIoError> {
        self.submit()?;
        while self.in_flight.iter().any(Option::is_some) {
            self.poll();
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), DeviceIoError> {
        let Some(run) = self.run.take() else { return Ok(()) };
        loop {
            let place = self.in_flight.iter().position(Option::is_none);
            let buffer = self.pool.acquire(run.blocks.len() as u32);
            let idle = self.in_flight.iter().all(Option::is_none);
            let (Some(at), Some(buffer)) = (place, buffer) else {
                if idle {
                    return Err(DeviceIoError::Memory);
                }
                self.poll();
                continue;
            };
            let byte = self.layout.data() + u64::from(run.start) * BLOCK_SIZE as u64;
            let lba = Lba(byte / u64::from(self.queue.namespace().block_size));
            let read = Operation::Read { lba, buffer };
            if self.queue.submit(Submission { tag: Tag(at as u64), operation: read }).is_ok() {
                self.in_flight[at] = Some(run);
                self.queue.ring();
                return Ok(());
            }
            self.poll();
        }
    }

    fn poll(&mut self) {
        let mut done: Vec<(usize, Status, Buffer)> = Vec::new();
        self.queue.poll(DEPTH, &mut |completion| {
            let buffer = completion.buffer.expect("a read hands its buffer back");
            done.push((completion.tag.0 as usize, completion.status, buffer));
        });
        for (at, status, buffer) in done {
            if let Some(run) = self.in_flight[at].take() {
                self.verify(&run, status, &buffer);
            }
        }
    }

    fn verify(&mut self, run: &Run, status: Status, buffer: &Buffer) {
        for (at, &(block, crc)) in run.blocks.iter().enumerate() {
            self.blocks += 1;
            let good = status.is_success() && buffer.crc32c(at * BLOCK_SIZE, BLOCK_SIZE) == crc;
            if good {
                continue;
            }
            self.bad += 1;
            let subject = Subject::Block {
                shard: self.layout.shard,
                copyset: run.key.copyset.0,
                chunk: run.key.chunk.0,
                block,
                granule: run.start + at as u32,
            };
            if status.is_success() {
                self.report.damage(subject, &"fails its checksum");
            } else {
                self.report.damage(subject, &status);
            }
        }
    }
}
