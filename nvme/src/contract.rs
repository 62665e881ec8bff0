//! What every backend offers: a queue pair on one namespace of one device.
//!
//! A [`QueuePair`] belongs to one thread. The caller submits operations, each with a tag of its
//! own, rings once for all of them, and polls for completions. Operations are not ordered among
//! each other: whoever needs an order waits for the completion.
//!
//! **Ownership.** The pages of an operation are moved into it and come back in its completion,
//! whatever became of it: until then the device may touch them.
//!
//! **Durability.** A completed write is durable when [`Namespace::volatile_write_cache`] is false,
//! when it was submitted with force unit access, or when a [`Operation::Flush`] submitted *after*
//! its completion was seen has completed. A flush says nothing about writes that were still in
//! flight when it was submitted (NVM Command Set Specification 1.0, section 3.2.1).
//!
//! **Fault model.** A full queue is an answer ([`QueuePair::submit`] gives the operation back). A
//! bad argument or a failed command is a completion with an error status. A device that has gone
//! away completes everything with [`Status::HOST_PATHING_ERROR`]. Nothing here panics for what a
//! caller or a device does, and nothing is retried.

use std::fmt;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, Pages, Region};

use crate::config::{DEALLOCATE_RANGES_MAX, METADATA_BYTES};
use crate::counters::Counters;
use crate::identify::AsciiField;
use crate::status::Status;

/// Address of a logical block, in logical blocks of the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lba(pub u64);

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LBA {}", self.0)
    }
}

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaRange {
    /// First block.
    pub start: Lba,
    /// Number of blocks.
    pub blocks: u32,
}

impl LbaRange {
    /// The block behind the last one, or `None` when there is no such address.
    pub const fn end(self) -> Option<Lba> {
        match self.start.0.checked_add(self.blocks as u64) {
            Some(end) => Some(Lba(end)),
            None => None,
        }
    }

    /// Whether all of it lies inside a namespace of `blocks` blocks.
    pub const fn is_inside(self, blocks: u64) -> bool {
        match self.end() {
            Some(end) => end.0 <= blocks,
            None => false,
        }
    }
}

/// The caller's own name for an operation; handed back verbatim and never looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// What to do.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the data plane does not allocate, so the ranges of a deallocation travel inline"
)]
pub enum Operation {
    /// Fills the whole buffer: `buffer.len()` bytes from `lba` on.
    Read {
        /// First block.
        lba: Lba,
        /// Where the data go; handed back in the completion, whatever its status.
        buffer: Buffer,
    },
    /// Writes all of `pages`: `pages.len()` bytes from `lba` on.
    Write {
        /// First block.
        lba: Lba,
        /// The data; nobody may change them before the completion hands them back.
        pages: Pages,
        /// Force unit access: complete only when the data are durable.
        fua: bool,
    },
    /// Writes the first `blocks` logical blocks of `pages`: for devices with blocks of 512 bytes
    /// and writes that are not whole pages.
    WriteBlocks {
        /// First block.
        lba: Lba,
        /// The data, at least `blocks` blocks of them.
        pages: Pages,
        /// Number of blocks, not zero.
        blocks: u32,
        /// Force unit access: complete only when the data are durable.
        fua: bool,
    },
    /// Writes one block of 4096 bytes, and what the namespace keeps beside it: a power failure leaves
    /// both or neither. For namespaces with at least [`METADATA_BYTES`](crate::METADATA_BYTES) bytes
    /// of metadata; what they have more of is zero.
    WriteWithMetadata {
        /// The block.
        lba: Lba,
        /// Its data, one page.
        pages: Pages,
        /// Force unit access: complete only when the block is durable.
        fua: bool,
        /// Its metadata.
        metadata: [u8; METADATA_BYTES],
    },
    /// Fills the buffer but for its last page with blocks from `lba` on, and that page with their
    /// metadata, [`Namespace::metadata_bytes`] for each, one behind the other.
    ReadWithMetadata {
        /// First block.
        lba: Lba,
        /// Where it all goes; handed back in the completion, whatever its status.
        buffer: Buffer,
    },
    /// Makes every write durable whose completion was seen before this was submitted.
    Flush,
    /// Makes blocks read as zeroes.
    WriteZeroes {
        /// First block.
        lba: Lba,
        /// Number of blocks, 1 to [`WRITE_ZEROES_BLOCKS_MAX`](crate::WRITE_ZEROES_BLOCKS_MAX).
        blocks: u32,
        /// Whether the device may give up the space as well.
        deallocate: bool,
    },
    /// Tells the device that blocks are not needed (dataset management, attribute deallocate). The
    /// emulated controller and files read as zeroes afterwards; on other devices the content is
    /// undefined.
    Deallocate {
        /// The blocks, at least one range.
        ranges: ArrayVec<LbaRange, DEALLOCATE_RANGES_MAX>,
    },
}

/// An operation and its name.
#[derive(Debug)]
pub struct Submission {
    /// Handed back in the completion.
    pub tag: Tag,
    /// What to do.
    pub operation: Operation,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub tag: Tag,
    /// What became of it; always to be looked at.
    pub status: Status,
    /// The buffer of a read, always. Its bytes mean something only after success.
    pub buffer: Option<Buffer>,
    /// The pages of a write, always.
    pub pages: Option<Pages>,
}

/// What a queue pair reads and writes.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Size of a logical block in bytes: 512 or 4096.
    pub block_size: u32,
    /// Number of logical blocks.
    pub blocks: u64,
    /// Whether a completed write may still be lost with the power until it is flushed.
    pub volatile_write_cache: bool,
    /// Largest read or write in bytes.
    pub transfer_bytes_max: u32,
    /// Bytes of metadata that the namespace keeps beside each block. Writes that do not name any leave
    /// zeroes there.
    pub metadata_bytes: u32,
    /// Model of the device (Identify Controller, bytes 63:24).
    pub model: AsciiField<40>,
    /// Serial number of the device (Identify Controller, bytes 23:4).
    pub serial: AsciiField<20>,
    /// The backend, as in its URI: `emulated`, `uring` or `vfio`.
    pub backend: &'static str,
}

impl Namespace {
    /// Block size, number of blocks, and bytes of metadata beside each.
    pub(crate) const fn geometry(&self) -> (u32, u64, u32) {
        (self.block_size, self.blocks, self.metadata_bytes)
    }

    /// Size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.blocks * self.block_size as u64
    }

    /// Logical blocks in one page of memory: 1 or 8.
    pub const fn blocks_per_page(&self) -> u32 {
        culvert_memory::PAGE_SIZE as u32 / self.block_size
    }
}

/// How a sleeping reactor learns of completions.
#[derive(Debug)]
pub enum Wake<'a> {
    /// It does not: while anything is in flight it has to poll.
    Poll,
    /// This descriptor becomes readable once [`QueuePair::arm`] has returned true and completions
    /// have arrived. Nobody but the queue pair reads from it.
    Fd(BorrowedFd<'a>),
}

/// Why memory could not be registered with a device.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Caller: more regions than the queue pair was opened for (`OpenOptions::regions_max`).
    #[error("all {regions_max} places for memory regions are in use")]
    TableFull {
        /// The number of places.
        regions_max: u32,
    },
    /// Machine: the process may not lock so much memory.
    #[error(
        "registering {bytes} bytes exceeds the limit of locked memory; raise RLIMIT_MEMLOCK \
         (`ulimit -l unlimited`, or LimitMEMLOCK=infinity in a systemd unit)"
    )]
    LockedMemoryLimit {
        /// Size of the region.
        bytes: usize,
    },
    /// Machine: the kernel refused.
    #[error("registering {bytes} bytes with the kernel failed")]
    Refused {
        /// Size of the region.
        bytes: usize,
        /// What it answered.
        source: std::io::Error,
    },
}

/// Submission and completion rings on one namespace, for one thread.
pub trait QueuePair {
    /// What it reads and writes.
    fn namespace(&self) -> &Namespace;

    /// Makes memory known that commands will point at. Registering a region again changes nothing.
    ///
    /// # Errors
    ///
    /// When the device's table is full or the kernel refuses.
    fn register(&mut self, region: &Region) -> Result<(), RegisterError>;

    /// Ends a registration. Commands in flight that use the region finish as they would have;
    /// later ones fail with [`Status::DATA_TRANSFER_ERROR`]. An unknown region is ignored.
    fn unregister(&mut self, region: &Region);

    /// Queues an operation; the device need not see it before [`QueuePair::ring`].
    ///
    /// Bad arguments (past the end, unregistered memory, too large, no blocks) are not an error
    /// here: they come back as a completion with the status that says so.
    ///
    /// # Errors
    ///
    /// The submission itself when [`QueuePair::depth`] operations are in flight.
    #[allow(clippy::result_large_err, reason = "the operation goes back to its owner, unboxed")]
    fn submit(&mut self, submission: Submission) -> Result<(), Submission>;

    /// Hands everything submitted since the last time to the device: one doorbell write or one
    /// system call for all of it, and none when there is nothing.
    fn ring(&mut self);

    /// Visits up to `budget` completions and returns how many there were. Each carries a decoded
    /// status. What was submitted but not yet rung may wait for that.
    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize;

    /// Operations submitted and not yet visited by [`QueuePair::poll`].
    fn in_flight(&self) -> usize;

    /// Most operations in flight.
    fn depth(&self) -> usize;

    /// How a sleeping reactor learns of completions.
    fn wake(&self) -> Wake<'_>;

    /// Asks for a wake-up before going to sleep. False, and no wake-up, when completions are
    /// already waiting: poll instead. Where [`QueuePair::wake`] is [`Wake::Poll`] it is false
    /// while anything is in flight.
    fn arm(&mut self) -> bool;

    /// What was done so far.
    fn counters(&self) -> &Counters;

    /// Looks after what no completion tells: a device that has gone away, a controller that has
    /// failed, commands that take too long, which are aborted and, if that does not help, ended by
    /// a reset. To be called some times a second with a clock in nanoseconds that only goes
    /// forward; may wait for the device. Backends whose kernel does so have nothing to do.
    fn tend(&mut self, _now_ns: u64) {}
}
