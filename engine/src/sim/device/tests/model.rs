//! Long random runs: a sector is always its durable value or one written later, and equal seeds
//! give equal runs.

use std::collections::BTreeMap;

use super::*;

const BLOCKS: u64 = 16;

/// What a sector may hold: the values from the newest that is certainly durable on.
#[derive(Clone, Debug)]
struct Sector {
    /// Values by write, oldest first; the first is durable.
    values: Vec<(u64, u8)>,
}

/// A write in flight, or one whose end has been seen.
#[derive(Clone, Copy, Debug)]
struct Write {
    block: u64,
    byte: u8,
    fua: bool,
}

/// A world of one disk, and what it knows of it.
struct Model {
    rig: Rig,
    random: Random,
    volatile: bool,
    sectors: Vec<Sector>,
    in_flight: BTreeMap<Tag, Write>,
    /// Writes that a flush in flight covers, as the newest of each block.
    flushes: BTreeMap<Tag, BTreeMap<u64, u64>>,
    /// The newest write of each block that has ended and was alone there.
    ended: BTreeMap<u64, u64>,
    next_byte: u8,
    crashes: u64,
}

impl Model {
    fn new(seed: u64, volatile: bool) -> Model {
        let mut random = Random::new(seed);
        let disk = DiskOptions { blocks: BLOCKS, volatile_write_cache: volatile, ..options() };
        let rig = Rig::new(disk, random.bits());
        let sectors = vec![Sector { values: vec![(0, 0)] }; (BLOCKS * SECTORS_PER_BLOCK) as usize];
        Model {
            rig,
            random,
            volatile,
            sectors,
            in_flight: BTreeMap::new(),
            flushes: BTreeMap::new(),
            ended: BTreeMap::new(),
            next_byte: 0,
            crashes: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.write(),
            40..48 => self.flush(),
            48..60 => self.read(),
            60..98 => self.pass_time(),
            98 => self.crash(Crash::Kill),
            _ => self.crash(Crash::Power),
        }
        self.check();
    }

    /// Writes a block that no other write is in flight for, so that their order is known.
    fn write(&mut self) {
        let block = self.random.below(BLOCKS);
        if self.in_flight.values().any(|write| write.block == block) {
            return;
        }
        self.next_byte = self.next_byte % 250 + 1;
        let write = Write { block, byte: self.next_byte, fua: self.random.below(3) == 0 };
        let operation = self.rig.write_of(block, write.byte, write.fua);
        let tag = self.rig.submit(operation);
        self.rig.pair.ring();
        for sector in self.of_block(block) {
            sector.values.push((tag.0, write.byte));
        }
        self.in_flight.insert(tag, write);
    }

    fn flush(&mut self) {
        let tag = self.rig.submit(Operation::Flush);
        self.rig.pair.ring();
        self.flushes.insert(tag, self.ended.clone());
    }

    fn read(&mut self) {
        let lba = Lba(self.random.below(BLOCKS));
        let buffer = self.rig.buffer(1);
        self.rig.submit(Operation::Read { lba, buffer });
        self.rig.pair.ring();
    }

    fn pass_time(&mut self) {
        let now_ns = self.rig.disk.now_ns() + self.random.below(50_000);
        self.rig.disk.advance(now_ns);
        for completion in self.rig.poll() {
            assert_eq!(completion.status, Status::SUCCESS);
            if let Some(write) = self.in_flight.remove(&completion.tag) {
                self.ended.insert(write.block, completion.tag.0);
                if write.fua || !self.volatile {
                    self.settle(write.block, completion.tag.0);
                }
            } else if let Some(covered) = self.flushes.remove(&completion.tag) {
                covered.into_iter().for_each(|(block, write)| self.settle(block, write));
            }
        }
    }

    /// A write is durable: nothing older comes back.
    fn settle(&mut self, block: u64, write: u64) {
        for sector in self.of_block(block) {
            sector.values.retain(|(tag, _)| *tag >= write);
        }
    }

    fn of_block(&mut self, block: u64) -> &mut [Sector] {
        let first = (block * SECTORS_PER_BLOCK) as usize;
        &mut self.sectors[first..first + SECTORS_PER_BLOCK as usize]
    }

    fn crash(&mut self, kind: Crash) {
        self.rig.restart(kind);
        self.crashes += 1;
        self.in_flight.clear();
        self.flushes.clear();
        self.ended.clear();
        self.check();
        let has_settled = kind == Crash::Power || !self.volatile;
        for (block, of_block) in self.sectors.chunks_mut(SECTORS_PER_BLOCK as usize).enumerate() {
            let live = self.rig.disk.read_block(block as u64);
            for (sector, byte) in of_block.iter_mut().zip(sectors(&live)) {
                if has_settled {
                    sector.values = vec![(self.rig.next_tag, byte)];
                }
            }
        }
    }

    fn check(&self) {
        for (block, of_block) in self.sectors.chunks(SECTORS_PER_BLOCK as usize).enumerate() {
            let live = self.rig.disk.read_block(block as u64);
            let durable = self.rig.disk.durable_block(block as u64);
            let idle = !self.in_flight.values().any(|write| write.block == block as u64);
            let is_settled = idle && self.ended.contains_key(&(block as u64));
            for (sector, bytes) in of_block.iter().zip(sectors(&live).iter().zip(sectors(&durable)))
            {
                let known = |byte: u8| sector.values.iter().any(|(_, value)| *value == byte);
                assert!(known(*bytes.0), "block {block}: {} is read of {sector:?}", bytes.0);
                assert!(known(bytes.1), "block {block}: {} is durable of {sector:?}", bytes.1);
                let newest = sector.values.last().map(|(_, value)| *value);
                assert!(!is_settled || Some(*bytes.0) == newest, "block {block}: {sector:?}");
            }
        }
    }
}

#[test]
fn sectors_hold_what_is_durable_or_newer() {
    for seed in 0..4 {
        for volatile in [true, false] {
            let mut model = Model::new(seed, volatile);
            for _ in 0..4000 {
                model.step();
            }
            assert!(model.crashes > 20);
            assert_eq!(model.rig.disk.injected().lost_sectors > 0, volatile);
        }
    }
}

/// All faults now and then.
fn all_faults() -> DiskFaults {
    DiskFaults {
        latent_error: 20_000,
        lost_write: 20_000,
        misdirected_write: 20_000,
        misdirected_read: 20_000,
        flipped_write: 20_000,
        failed_write: 20_000,
        failed_flush: 100_000,
        ..DiskFaults::default()
    }
}

/// A run that looks at nothing, with every fault there is: hash, time and what was injected.
fn blind_run(seed: u64) -> (u64, u64, DiskInjected) {
    let mut rig = Rig::new(options(), seed);
    let mut random = Random::new(seed ^ 1);
    rig.disk.set_faults(all_faults());
    for _ in 0..3000 {
        let lba = Lba(random.below(64));
        let operation = match random.below(8) {
            0 => Operation::Flush,
            1 => Operation::WriteZeroes { lba, blocks: 1, deallocate: false },
            2 | 3 => Operation::Read { lba, buffer: rig.buffer(1) },
            _ => rig.write_of(lba.0, random.bits() as u8, random.below(2) == 0),
        };
        rig.submit(operation);
        rig.pair.ring();
        rig.disk.advance(rig.disk.now_ns() + random.below(30_000));
        rig.poll();
        if random.below(200) == 0 {
            rig.restart(if random.below(2) == 0 { Crash::Kill } else { Crash::Power });
        }
    }
    (rig.disk.hash(), rig.disk.now_ns(), rig.disk.injected())
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..4 {
        assert_eq!(blind_run(seed), blind_run(seed));
    }
    assert_ne!(blind_run(1).0, blind_run(2).0);
    let injected = blind_run(1).2;
    for count in [
        injected.spoiled_blocks,
        injected.read_errors,
        injected.lost_writes,
        injected.misdirected_writes,
        injected.misdirected_reads,
        injected.flipped_bits,
        injected.failed_writes,
        injected.failed_flushes,
        injected.cut,
        injected.lost_sectors,
        injected.kept_sectors,
    ] {
        assert!(count > 0, "{injected:?}");
    }
}
