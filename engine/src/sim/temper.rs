//! What one seed's world is like: sizes, speeds and habits, drawn once.
//!
//! Worlds that differ find more than one world that has everything on average: in some the devices
//! are full and freed blocks are written again at once, in some reads take long while writes are
//! quick, in some clients read nearly all the time.

use std::ops::Range;

use super::device::DiskOptions;
use super::random::Random;
use super::scene;

const US: u64 = 1000;
const MS: u64 = 1_000_000;

/// How fast or slow clocks run at most: two of them differ by less than the lease allows for.
const DRIFT_PPM_MAX: i64 = 4000;

/// Blocks of a shard's data space that no quota may promise: half of them must hold a chunk that a
/// catch-up stages beside the one that it replaces. The least is the least that is allowed.
const RESERVE_BLOCKS: [u64; 4] = [128, 192, 256, 384];

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Operations in flight at most.
    pub depth: usize,
    /// Writes, in percent; half as many again as a tenth of them are discards.
    pub writes: u64,
    /// How long it thinks between two requests at most while there is trouble.
    pub busy_ns: u64,
    /// ... and while there is none.
    pub idle_ns: u64,
    /// Blocks that most operations go to, so that they meet.
    pub hot: (u64, u64),
    /// Blocks of the longest operation.
    pub blocks_max: u64,
    /// Whether storms write long runs all over the volume, so that what they let go is soon written
    /// again.
    pub floods: bool,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Temper {
    /// Blocks of the volume.
    pub volume_blocks: u64,
    /// Blocks of each device that no quota may promise.
    pub reserve_blocks: u64,
    /// Blocks of each device's data space beyond quotas and reserve.
    pub slack_blocks: u64,
    /// Whether the whole volume is written first, so that devices are nearly full.
    pub full: bool,
    /// Whether some device has a volatile cache, in a million.
    cached: u32,
    /// Whether entries of the journal stand in the metadata of some device, in a million.
    metadata: u32,
    read_ns: Range<u64>,
    write_ns: Range<u64>,
    flush_ns: Range<u64>,
    /// One of the drifts that differ most, or any.
    drifting: bool,
    /// Journal bytes after which a checkpoint starts.
    pub checkpoint_bytes: u64,
    /// A pass over everything stored begins so often, and reads so many bytes in a second.
    pub scrub_period_s: u32,
    pub scrub_bytes: u64,
    hot: (u64, u64),
    writes: u64,
    busy_ns: u64,
    idle_ns: u64,
    blocks_max: u64,
    floods: bool,
}

impl Temper {
    /// Draws a world. `metadata`: draws what came to worlds later, so that others are as they were.
    pub fn new(random: &mut Random, metadata: &mut Random) -> Temper {
        let volume_blocks = *pick(random, &[192, 192, 384, 768]);
        let full = random.chance(500_000);
        let hot_blocks = *pick(random, &[1, 2, 4, 12, 24]);
        let hot = random.below(volume_blocks - hot_blocks);
        let slow = |random: &mut Random, quick: Range<u64>, slow: Range<u64>| {
            if random.chance(700_000) { quick } else { slow }
        };
        Temper {
            volume_blocks,
            reserve_blocks: *pick(random, &RESERVE_BLOCKS),
            slack_blocks: *pick(random, &[0, 0, 16, 64]),
            full,
            cached: *pick(random, &[1_000_000, 1_000_000, 500_000, 0]),
            metadata: *pick(metadata, &[0, 0, 1_000_000, 500_000]),
            read_ns: match random.below(10) {
                0..5 => 50 * US..150 * US,
                5..8 => 200 * US..20 * MS,
                // So long that everything that is free is written once while a read takes place.
                _ => 20 * MS..150 * MS,
            },
            write_ns: slow(random, 10 * US..100 * US, 20 * US..4 * MS),
            flush_ns: slow(random, 100 * US..MS, 500 * US..20 * MS),
            drifting: random.chance(500_000),
            checkpoint_bytes: *pick(random, &[64 << 10, 256 << 10, 1 << 20]),
            scrub_period_s: *pick(random, &[1, 3, 10]),
            scrub_bytes: *pick(random, &[1 << 20, 16 << 20]),
            hot: (hot, hot + hot_blocks),
            writes: *pick(random, &[15, 30, 50, 85]),
            busy_ns: *pick(random, &[400 * US, 2 * MS, 6 * MS, 15 * MS]),
            idle_ns: *pick(random, &[60 * MS, 200 * MS, 600 * MS]),
            blocks_max: *pick(random, &[1, 4, 12]),
            floods: random.chance(400_000),
        }
    }

    /// A client's habits.
    pub fn habits(&self, random: &mut Random) -> Habits {
        Habits {
            depth: 1 + random.below(8) as usize,
            writes: if random.chance(300_000) { random.below(100) } else { self.writes },
            busy_ns: self.busy_ns,
            idle_ns: self.idle_ns,
            hot: self.hot,
            blocks_max: self.blocks_max,
            floods: self.floods,
        }
    }

    /// The first of the blocks that most operations go to.
    pub fn hot_block(&self) -> u64 {
        self.hot.0
    }

    /// How many times slower a device may become: a slow one less, since nobody gets anything done.
    pub fn slower_max(&self) -> u32 {
        let slowest = [&self.read_ns, &self.write_ns, &self.flush_ns].map(|range| range.end);
        if slowest.into_iter().any(|end_ns| end_ns > MS) { 16 } else { 256 }
    }

    /// A device.
    pub fn disk(&self, metadata: bool, random: &mut Random) -> DiskOptions {
        DiskOptions {
            blocks: scene::device_blocks(self, metadata),
            metadata,
            volatile_write_cache: random.chance(self.cached),
            read_ns: self.read_ns.clone(),
            write_ns: self.write_ns.clone(),
            flush_ns: self.flush_ns.clone(),
            ..DiskOptions::default()
        }
    }

    /// Whether entries stand in the metadata of a device.
    pub fn metadata(&self, random: &mut Random) -> bool {
        random.chance(self.metadata)
    }

    /// How much too fast a clock runs, in parts per million.
    pub fn drift_ppm(&self, random: &mut Random) -> i64 {
        if self.drifting {
            return if random.chance(500_000) { DRIFT_PPM_MAX } else { -DRIFT_PPM_MAX };
        }
        random.below(2 * DRIFT_PPM_MAX as u64 + 1) as i64 - DRIFT_PPM_MAX
    }
}

fn pick<'a, T>(random: &mut Random, among: &'a [T]) -> &'a T {
    &among[random.below(among.len() as u64) as usize]
}
