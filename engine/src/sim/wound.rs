//! Devices that fail while their node runs, and when a damaged one is whole again.
//!
//! One node's device is damaged at a time, and no other before everything on it is good again, so
//! that of each block a majority holds a good copy. A node whose newest writes may be damaged is not
//! taken down before the journal's mark has passed them: above the mark a replica cannot tell damage
//! from a torn tail, and would lose what it acknowledged.
//!
//! A device that only fails (a write, a flush, all of it) keeps what it held: that is no damage.

use std::ops::Range;

use culvert::ids::{BatchNumber, BlockRange, CopysetId};
use culvert::shard::Shard;
use culvert::store::{BlockState, BlockStates, ChunkKey, Place};

use super::device::{BLOCK_BYTES, Crash, Disk, DiskFaults, DiskInjected};
use super::process::Process;
use super::random::Random;
use super::scene::{CHUNK_BLOCKS, COPYSETS};

/// How a write goes wrong that the device reports as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadWrite {
    Lost,
    Misdirected,
    Flipped,
}

/// How a device fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    Write,
    Flush,
    Gone,
}

/// All commands of the kind.
const ALWAYS: u32 = 1_000_000;

/// Writes, or flushes, of a million that fail on a device that fails: one that was not heeded is
/// followed by one that succeeds.
pub const FAILURES: u32 = 400_000;

/// A read in so many goes astray while reads do.
const BAD_READS: u32 = 200_000;

/// A write that has not gone wrong after so long, will not.
const STRIKE_NS_MAX: u64 = 3_000_000_000;

/// How often a device is looked through.
const LOOK_NS: u64 = 50_000_000;

/// The wounded node, and what is the matter with it.
#[derive(Debug)]
pub struct Wound {
    pub node: usize,
    /// Its operator lets replicas come back that are not on its device.
    pub rejoins: bool,
    strike: Option<Strike>,
    rot: Option<Rot>,
    /// Checkpoints that its process has to write before no entry is needed any more that stands in the
    /// metadata of a damaged block: nobody would see such a hole before the next recovery.
    checkpoints: Option<u64>,
    reads_until_ns: u64,
    looked_ns: u64,
}

/// A write that goes wrong, or did.
#[derive(Debug)]
struct Strike {
    /// Writes that had gone wrong before.
    before: u64,
    until_ns: u64,
    passing: Option<Passing>,
}

/// Blocks that are to go bad once the mark has passed the entries that wrote them.
#[derive(Debug)]
struct Rot {
    spots: Vec<(ChunkKey, u32, BlockState)>,
    passing: Passing,
    crash: Option<(Crash, u64)>,
}

/// Blocks of the device that go bad now; the node dies before they do, for so long.
pub struct Ripe {
    pub blocks: Vec<u64>,
    pub crash: Option<(Crash, u64)>,
}

/// Waits until the journal's mark on the device has passed everything written so far: a batch that
/// was opened before is durable, and so is one that was sealed after that.
#[derive(Clone, Copy, Debug)]
struct Passing {
    batch: BatchNumber,
    marked: bool,
}

impl Passing {
    fn new(shard: &Shard) -> Passing {
        Passing { batch: shard.open_batch(), marked: false }
    }

    fn is_over(&mut self, shard: &Shard) -> bool {
        if shard.durable() < self.batch {
            return false;
        }
        if !self.marked {
            // The open batch may be sealed already.
            *self = Passing { batch: BatchNumber(shard.open_batch().0 + 1), marked: true };
            return false;
        }
        true
    }
}

impl Wound {
    pub fn new(node: usize) -> Wound {
        let (strike, rot) = (None, None);
        let (rejoins, checkpoints) = (false, None);
        Wound { node, rejoins, strike, rot, checkpoints, reads_until_ns: 0, looked_ns: 0 }
    }

    /// Whether the node must not be taken down.
    pub fn protects(&self, node: usize) -> bool {
        self.node == node && self.strike.is_some()
    }

    /// The next write to the data space goes wrong, and what is written in the same turn.
    pub fn strike(&mut self, how: BadWrite, process: &mut Process, disk: &Disk, now_ns: u64) {
        if self.strike.is_some() {
            return;
        }
        let mut faults = DiskFaults { blocks: data_blocks(shard_of(process)), ..disk.faults() };
        match how {
            BadWrite::Lost => faults.lost_write = ALWAYS,
            BadWrite::Misdirected => faults.misdirected_write = ALWAYS,
            BadWrite::Flipped => faults.flipped_write = ALWAYS,
        }
        disk.set_faults(faults);
        let (before, until_ns) = (struck(&disk.injected()), now_ns + STRIKE_NS_MAX);
        self.strike = Some(Strike { before, until_ns, passing: None });
    }

    /// Some of the blocks that are stored now are to go bad.
    pub fn rot(
        &mut self,
        (blocks, crash): (u32, Option<(Crash, u64)>),
        process: &mut Process,
        random: &mut Random,
    ) {
        let shard = shard_of(process);
        let all = (1..=COPYSETS).flat_map(|copyset| stored(shard, CopysetId(copyset)));
        let here = all.filter(|(_, state)| matches!(state.place, Place::At(_)));
        let spots: Vec<_> = here.map(|((key, block), state)| (key, block, state)).collect();
        if spots.is_empty() {
            return;
        }
        let first = random.below(spots.len() as u64) as usize;
        // Neighbours: what belongs together goes bad together.
        let end = spots.len().min(first + blocks as usize);
        let spots = spots[first..end].to_vec();
        self.rot = Some(Rot { spots, passing: Passing::new(shard), crash });
    }

    /// Reads of the data space find other data for a while.
    pub fn misread(&mut self, process: &mut Process, disk: &Disk, until_ns: u64) {
        self.reads_until_ns = until_ns.max(self.reads_until_ns);
        if self.strike.is_none() {
            let blocks = data_blocks(shard_of(process));
            disk.set_faults(DiskFaults { blocks, misdirected_read: BAD_READS, ..disk.faults() });
        }
    }

    /// Its process died: what was to go bad stays good, and the next sees what did go bad.
    pub fn died(&mut self) {
        self.rot = None;
        self.checkpoints = None;
    }

    /// Blocks go bad, and with them entries that may be needed.
    fn lose_entries(&mut self, shard: &Shard, disk: &Disk) {
        if disk.has_metadata() {
            // One may be under way already, and the superblock before the newest may come to rule.
            self.checkpoints = Some(shard.counters().checkpoints + 3);
            self.rejoins = true;
        }
    }

    /// Hurries checkpoints on while entries are damaged.
    fn write_checkpoints(&mut self, process: &mut Process) {
        let shard = process.reactor.chunkserver_mut().shard_mut(0);
        if self.checkpoints.is_some_and(|until| shard.counters().checkpoints >= until) {
            self.checkpoints = None;
        } else if self.checkpoints.is_some() {
            shard.start_checkpoint();
        }
    }

    /// To be asked after each step while the process runs: what goes bad now.
    pub fn go_on(&mut self, process: &mut Process, disk: &Disk, now_ns: u64) -> Option<Ripe> {
        self.write_checkpoints(process);
        let shard = shard_of(process);
        let mut lost = false;
        if now_ns >= self.reads_until_ns && disk.faults().misdirected_read > 0 {
            disk.set_faults(DiskFaults { misdirected_read: 0, ..disk.faults() });
        }
        if let Some(strike) = &mut self.strike {
            let is_over = match &mut strike.passing {
                Some(passing) => passing.is_over(shard),
                None if struck(&disk.injected()) > strike.before => {
                    strike.passing = Some(Passing::new(shard));
                    lost = true;
                    no_bad_writes(disk);
                    false
                }
                None if now_ns >= strike.until_ns => {
                    no_bad_writes(disk);
                    true
                }
                None => false,
            };
            if is_over {
                self.strike = None;
            }
        }
        let ripe = self.rot.as_mut().is_some_and(|rot| rot.passing.is_over(shard));
        if lost || ripe {
            self.lose_entries(shard, disk);
        }
        let rot = self.rot.take_if(|_| ripe)?;
        let data = data_blocks(shard);
        let stored = |(key, block, state): &(ChunkKey, u32, BlockState)| match state.place {
            Place::At(place) if shard.store().block(*key, *block) == Some(*state) => {
                Some(data.start + u64::from(place))
            }
            _ => None,
        };
        Some(Ripe { blocks: rot.spots.iter().filter_map(stored).collect(), crash: rot.crash })
    }

    /// Whether nothing is the matter any more: all replicas promise and have applied all they have,
    /// and every stored block is good.
    pub fn is_healed(&mut self, process: &mut Process, disk: &Disk, now_ns: u64) -> bool {
        if self.strike.is_some()
            || self.rot.is_some()
            || self.checkpoints.is_some()
            || now_ns < self.reads_until_ns
            || now_ns < self.looked_ns
        {
            return false;
        }
        self.looked_ns = now_ns + LOOK_NS;
        let statuses = process.reactor.chunkserver().copyset_statuses();
        let well = statuses.iter().all(|status| {
            // A chunk on its way may hold what went wrong before it is in any map.
            let still = status.applied == status.last && !status.catching_up;
            status.reason.is_empty() && status.role != "in doubt" && still
        });
        well && statuses.len() == COPYSETS as usize && !is_damaged(process, disk)
    }
}

fn no_bad_writes(disk: &Disk) {
    let (lost_write, misdirected_write, flipped_write) = (0, 0, 0);
    let faults = disk.faults();
    disk.set_faults(DiskFaults { lost_write, misdirected_write, flipped_write, ..faults });
}

/// Whether some block of a node is bad, or missing.
fn is_damaged(process: &mut Process, disk: &Disk) -> bool {
    let shard = shard_of(process);
    let data = data_blocks(shard);
    let bad = |(_, state): (_, BlockState)| match state.place {
        Place::At(place) => {
            let block = data.start + u64::from(place);
            !disk.is_readable(block) || crc32c::crc32c(&disk.read_block(block)) != state.crc
        }
        Place::Missing => true,
        Place::Hole => false,
    };
    (1..=COPYSETS).any(|copyset| stored(shard, CopysetId(copyset)).any(bad))
}

/// Every block of every chunk of a copyset, with its chunk and number.
fn stored(
    shard: &Shard,
    copyset: CopysetId,
) -> impl Iterator<Item = ((ChunkKey, u32), BlockState)> {
    let store = shard.store();
    let next = move |before: &ChunkKey| store.chunk_after(copyset, Some(before.chunk));
    let first = store.chunk_after(copyset, None).map(|chunk| chunk.key);
    let keys = std::iter::successors(first, move |key| next(key).map(|chunk| chunk.key));
    let windows = keys.flat_map(|key| (0..CHUNK_BLOCKS).step_by(32).map(move |at| (key, at)));
    windows.flat_map(move |(key, first)| {
        let mut states = BlockStates::new();
        store.lookup(key, BlockRange { first, blocks: 32 }, &mut states);
        (first..).map(move |block| (key, block)).zip(states)
    })
}

fn shard_of(process: &mut Process) -> &Shard {
    process.reactor.chunkserver_mut().shard_mut(0)
}

fn data_blocks(shard: &Shard) -> Range<u64> {
    let first = shard.layout().data() / BLOCK_BYTES as u64;
    first..first + shard.store().statistics().data_blocks
}

fn struck(injected: &DiskInjected) -> u64 {
    injected.lost_writes + injected.misdirected_writes + injected.flipped_bits
}
