//! A modelled NVMe namespace that outlives the processes that use it.
//!
//! [`Disk`] is the world's handle: it makes time pass, crashes, injects faults and lets checkers
//! look. [`SimDevice`] is what a process opens on it and all that production code sees.
//!
//! | to find | look in |
//! | --- | --- |
//! | size and latencies | `options` |
//! | commands, and the checks of their arguments | `command` |
//! | time, touches and ends | `controller` |
//! | contents, the volatile cache, durability | `medium` |
//! | deaths of processes and losses of power | `crash` |
//! | faults and their counts | `faults` |
//!
//! Between its submission and its end a command reads its pages or fills its buffer sector by
//! sector at moments of its own, so that a page which somebody changes or frees too early is
//! caught. Commands are not ordered among each other. The unit of tearing is the sector of 512
//! bytes, whatever the size of a logical block; the metadata of a block are a sector of their own.
//! *Block* means 4 KiB everywhere here, but in the addresses of commands.
//!
//! What it is not: it has no queues in memory and no protocol (the emulated controller has), and
//! says nothing of performance.
//!
//! Fault model: what a process asks for wrongly is a completion with a status. What a world asks
//! for wrongly is a panic.

mod command;
mod controller;
mod crash;
mod faults;
mod medium;
mod options;
mod queue_pair;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use culvert_nvme::METADATA_BYTES;

use self::controller::Controller;
use crate::sim::random::Random;

pub use self::crash::Crash;
pub use self::faults::{DiskFaults, DiskInjected};
pub use self::options::DiskOptions;
pub use self::queue_pair::SimDevice;

/// Size of a block in bytes: of a page, and the granule of the engine's checksums.
pub const BLOCK_BYTES: usize = culvert_memory::PAGE_SIZE;

/// Size of a sector in bytes: what a crash keeps or loses as a whole.
const SECTOR_BYTES: usize = 512;

/// Sectors of a block.
const SECTORS_PER_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;

/// The number of the sector that stands for the metadata of block 0, of which only so many bytes are
/// there. A crash keeps or loses them apart from their block: a device does better, and need not.
const METADATA_SECTORS: u64 = 1 << 48;

/// A disk; cloning shares it.
#[derive(Clone, Debug)]
pub struct Disk(Rc<RefCell<Controller>>);

impl Disk {
    /// A disk of zeroes, on which everything that is left to chance is drawn from `random`.
    ///
    /// # Panics
    ///
    /// When there is no such disk.
    pub fn new(options: DiskOptions, random: Random) -> Disk {
        Disk(Rc::new(RefCell::new(Controller::new(options, random))))
    }

    /// A healthy disk with what no loss of power can take from this one, for somebody who wants to
    /// look at it at leisure.
    pub fn durable_copy(&self, random: Random) -> Disk {
        let original = self.0.borrow();
        let mut copy = Controller::new(original.options.clone(), random);
        copy.medium = original.medium.durable_copy();
        Disk(Rc::new(RefCell::new(copy)))
    }

    /// A queue pair for a process, which may open several. A process that ends in order is crashed
    /// too, with [`Crash::Kill`]: nothing else ends its queue pairs.
    ///
    /// # Panics
    ///
    /// When commands of an earlier one are in flight: [`Disk::crash`] comes first.
    pub fn open(&self) -> SimDevice {
        SimDevice::open(Rc::clone(&self.0))
    }

    /// The next moment at which something happens inside; `None` while nothing is in flight.
    pub fn next_ns(&self) -> Option<u64> {
        self.0.borrow().next_ns()
    }

    /// Carries out everything that is due up to and including `now_ns`. To be called before a
    /// process runs at that time: commands begin at the disk's own time.
    pub fn advance(&self, now_ns: u64) {
        self.0.borrow_mut().advance(now_ns);
    }

    /// The disk's time: that of the last [`Disk::advance`], or later if a queue pair was driven.
    pub fn now_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }

    /// Whether a poll of some queue pair would report something.
    pub fn has_completions(&self) -> bool {
        self.0.borrow().sessions.values().any(|session| !session.completed.is_empty())
    }

    /// The process that uses the disk dies, perhaps with the power. All its queue pairs are dead
    /// afterwards, and what they held has been dropped.
    pub fn crash(&self, now_ns: u64, kind: Crash) {
        self.0.borrow_mut().crash(now_ns, kind);
    }

    /// Replaces the faults that commands meet from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.0.borrow_mut().set_faults(faults);
    }

    /// The faults that are switched on.
    pub fn faults(&self) -> DiskFaults {
        self.0.borrow().faults.clone()
    }

    /// How often each fault struck.
    pub fn injected(&self) -> DiskInjected {
        self.0.borrow().injected
    }

    /// Makes blocks unreadable until they are written. What lies in the cache can still be read,
    /// until the power fails.
    pub fn spoil(&self, blocks: Range<u64>) {
        self.0.borrow_mut().spoil(blocks);
    }

    /// Flips one bit of a block, at random, wherever the disk stores it.
    pub fn flip_bit(&self, block: u64) {
        self.0.borrow_mut().flip_bit(block);
    }

    /// Whether blocks have metadata.
    pub fn has_metadata(&self) -> bool {
        self.0.borrow().options.metadata
    }

    /// Whether a block can be read.
    pub fn is_readable(&self, block: u64) -> bool {
        let first = block * SECTORS_PER_BLOCK;
        let controller = self.0.borrow();
        (first..first + SECTORS_PER_BLOCK).all(|sector| controller.medium.read(sector).is_ok())
    }

    /// What a read of a block would find if nothing were unreadable.
    ///
    /// # Panics
    ///
    /// When the disk has no such block.
    pub fn read_block(&self, block: u64) -> [u8; BLOCK_BYTES] {
        self.0.borrow().block(block, false)
    }

    /// The metadata of a block.
    pub fn read_metadata(&self, block: u64) -> [u8; METADATA_BYTES] {
        let controller = self.0.borrow();
        let sector = controller.medium.newest(METADATA_SECTORS + block);
        *sector.first_chunk().expect("longer than metadata")
    }

    /// What of a block would be there if a loss of power took the whole cache.
    ///
    /// # Panics
    ///
    /// When the disk has no such block.
    #[cfg(test)]
    pub fn durable_block(&self, block: u64) -> [u8; BLOCK_BYTES] {
        self.0.borrow().block(block, true)
    }

    /// A number that says whether two disks read alike.
    pub fn hash(&self) -> u64 {
        self.0.borrow().medium.hash()
    }
}
