//! What goes wrong with a disk, how often, and how often it did.
//!
//! A command meets one fault at most, decided when the disk takes it up, and only where all of its
//! blocks lie in the range that the world has set; a flush has no blocks and is not limited.

use std::ops::Range;

use culvert_nvme::{METADATA_BYTES, Status};

use super::command::{Command, Kind, Step, Turn};
use super::controller::Controller;
use super::{METADATA_SECTORS, SECTOR_BYTES, SECTORS_PER_BLOCK};

/// Chances per million commands of the kind, and states. All off by default.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// Blocks of 4 KiB within which all chances but that of a failed flush apply.
    pub blocks: Range<u64>,
    /// A read finds one of its blocks unreadable; so it stays until it is written.
    pub latent_error: u32,
    /// A write succeeds and stores nothing.
    pub lost_write: u32,
    /// A write succeeds and is stored at other blocks of the range.
    pub misdirected_write: u32,
    /// A read succeeds with the data of other blocks of the range.
    pub misdirected_read: u32,
    /// A write succeeds and is stored with one bit flipped.
    pub flipped_write: u32,
    /// A write fails, having stored some of its sectors.
    pub failed_write: u32,
    /// A flush fails: each sector that it was for becomes durable, stays in the cache, or is lost
    /// from it.
    pub failed_flush: u32,
    /// Latencies are multiplied by this; 1 is as usual.
    pub latency_factor: u64,
    /// The disk has gone away: everything completes with [`Status::HOST_PATHING_ERROR`], also what
    /// is in flight. A queue pair that has seen this does not recover with the disk.
    pub gone: bool,
    /// It goes away when it has begun so many more commands.
    pub gone_after: Option<u64>,
}

impl Default for DiskFaults {
    fn default() -> DiskFaults {
        DiskFaults {
            blocks: 0..u64::MAX / SECTORS_PER_BLOCK,
            latent_error: 0,
            lost_write: 0,
            misdirected_write: 0,
            misdirected_read: 0,
            flipped_write: 0,
            failed_write: 0,
            failed_flush: 0,
            latency_factor: 1,
            gone: false,
            gone_after: None,
        }
    }
}

impl DiskFaults {
    /// Whether a process that uses the disk gives it up sooner or later.
    pub fn fails(&self) -> bool {
        self.gone || self.failed_write > 0 || self.failed_flush > 0
    }
}

/// How often each fault struck since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskInjected {
    /// Blocks made unreadable, by chance or by the world.
    pub spoiled_blocks: u64,
    /// Reads that failed for such a block.
    pub read_errors: u64,
    /// Writes that succeeded and stored nothing.
    pub lost_writes: u64,
    /// Writes stored elsewhere.
    pub misdirected_writes: u64,
    /// Reads of other blocks.
    pub misdirected_reads: u64,
    /// Bits flipped, in a write by chance or in stored content by the world.
    pub flipped_bits: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Flushes that failed.
    pub failed_flushes: u64,
    /// Commands that took a multiple of their time.
    pub slowed: u64,
    /// Commands answered for a disk that has gone away.
    pub gone: u64,
    /// Commands that were in flight at a crash.
    pub cut: u64,
    /// Sectors that a loss of power took out of the cache.
    pub lost_sectors: u64,
    /// Sectors that were in the cache at a loss of power and reached the medium, in the newest
    /// version or an older one.
    pub kept_sectors: u64,
}

/// Decides what a command meets.
impl Controller {
    /// Lets the faults that are switched on act on a command that begins.
    pub(super) fn inject(&mut self, command: &mut Command) {
        match command.kind {
            Kind::Flush => self.inject_in_flush(command),
            _ if !self.is_faulty_range(command) => {}
            Kind::Read => self.inject_in_read(command),
            Kind::Write | Kind::WriteZeroes => self.inject_in_write(command),
            Kind::Deallocate => {}
        }
    }

    fn is_faulty_range(&self, command: &Command) -> bool {
        let sectors = self.faulty_sectors();
        let inside = |step: &Step| sectors.contains(&(step.block() * SECTORS_PER_BLOCK));
        let data = |step: &Step| sectors.contains(&step.sector);
        command.steps.iter().all(|step| if step.is_metadata() { inside(step) } else { data(step) })
    }

    /// The sectors on which random faults may act.
    fn faulty_sectors(&self) -> Range<u64> {
        let Range { start, end } = self.faults.blocks;
        let end = end.saturating_mul(SECTORS_PER_BLOCK).min(self.options.sectors());
        start.saturating_mul(SECTORS_PER_BLOCK)..end
    }

    fn inject_in_flush(&mut self, command: &mut Command) {
        if self.chance.chance(self.faults.failed_flush) {
            command.status = Status::WRITE_FAULT;
            self.injected.failed_flushes += 1;
        }
    }

    fn inject_in_read(&mut self, command: &mut Command) {
        if self.chance.chance(self.faults.latent_error) {
            let step = self.chance.below(command.steps.len() as u64);
            let block = command.steps[step as usize].block();
            self.spoil(block..block + 1);
        } else if self.chance.chance(self.faults.misdirected_read) && self.misdirect(command) {
            self.injected.misdirected_reads += 1;
        }
    }

    fn inject_in_write(&mut self, command: &mut Command) {
        if self.chance.chance(self.faults.lost_write) {
            command.steps.iter_mut().for_each(|step| step.turn = Turn::Never);
            self.injected.lost_writes += 1;
        } else if self.chance.chance(self.faults.misdirected_write) {
            let misdirected = self.misdirect(command);
            self.injected.misdirected_writes += u64::from(misdirected);
        } else if self.chance.chance(self.faults.flipped_write) && command.kind == Kind::Write {
            let step = self.chance.below(command.steps.len() as u64) as usize;
            command.flip = Some((step, self.chance.bits()));
            self.injected.flipped_bits += 1;
        } else if self.chance.chance(self.faults.failed_write) {
            command.status = Status::WRITE_FAULT;
            for step in &mut command.steps {
                if self.chance.below(2) == 0 {
                    step.turn = Turn::Never;
                }
            }
            self.injected.failed_writes += 1;
        }
    }

    /// Points a command at other logical blocks of the range; false if there are none.
    fn misdirect(&mut self, command: &mut Command) -> bool {
        let unit = self.options.sectors_per_logical_block();
        let range = self.faulty_sectors();
        let first = command.steps[0].sector;
        let data = command.steps.iter().filter(|step| !step.is_metadata()).count();
        let room = range.end - range.start - data as u64;
        let target = range.start + self.chance.below(room / unit + 1) * unit;
        let (data, metadata) = command.steps.split_at_mut(data);
        for (step, sector) in data.iter_mut().zip(target..) {
            step.sector = sector;
        }
        for (step, block) in metadata.iter_mut().zip(target / SECTORS_PER_BLOCK..) {
            step.sector = METADATA_SECTORS + block;
        }
        target != first
    }

    /// Makes blocks of 4 KiB unreadable until they are written.
    pub(super) fn spoil(&mut self, blocks: Range<u64>) {
        let blocks = blocks.start..blocks.end.min(self.options.sectors() / SECTORS_PER_BLOCK);
        for block in blocks {
            self.medium.spoil(block);
            self.injected.spoiled_blocks += 1;
        }
    }

    /// Flips one bit of a block of 4 KiB.
    pub(super) fn flip_bit(&mut self, block: u64) {
        let bits = self.chance.bits();
        let parts = SECTORS_PER_BLOCK + u64::from(self.options.metadata);
        match (bits >> 32) % parts {
            SECTORS_PER_BLOCK => {
                self.medium.flip(METADATA_SECTORS + block, METADATA_BYTES, bits);
            }
            part => self.medium.flip(block * SECTORS_PER_BLOCK + part, SECTOR_BYTES, bits),
        }
        self.injected.flipped_bits += 1;
    }
}
