//! Capacities of this crate, and the relations between them.
//!
//! Nothing on the hot path grows: every queue, list and table is made for one of these numbers.

use std::time::Duration;

use culvert_memory::PAGE_SIZE;

use crate::prp::LIST_ENTRIES_MAX;
use crate::submission_entry::{DatasetRange, SubmissionEntry};

/// Commands in flight on one queue pair when the caller does not say.
pub const DEPTH_DEFAULT: u32 = 128;

/// Most commands in flight on one queue pair.
pub const DEPTH_MAX: u32 = 4096;

/// Most pages of one read or write. A device may support less; see
/// [`Namespace::transfer_bytes_max`](crate::Namespace::transfer_bytes_max).
pub const TRANSFER_PAGES_MAX: u32 = 512;

/// Most bytes of one read or write.
pub const TRANSFER_BYTES_MAX: u32 = TRANSFER_PAGES_MAX * PAGE_SIZE as u32;

/// Most blocks of one write zeroes: the 16 bits of the command's zero-based number of blocks.
pub const WRITE_ZEROES_BLOCKS_MAX: u32 = 1 << 16;

/// Most ranges of one deallocation.
pub const DEALLOCATE_RANGES_MAX: usize = 16;

/// Bytes of metadata that travel with one block ([`Operation::WriteWithMetadata`](crate::Operation::WriteWithMetadata)).
pub const METADATA_BYTES: usize = 64;

/// Regions registered with one queue pair when the caller does not say.
pub const REGIONS_DEFAULT: u32 = 1024;

/// Most regions registered with one queue pair: io_uring's table of fixed buffers ends there.
pub const REGIONS_MAX: u32 = 16 << 10;

/// Entries of the admin queues; one admin command, and one request for an event, are in flight at a
/// time.
pub(crate) const ADMIN_ENTRIES: u16 = 32;

/// I/O queue pairs of one controller at most: one for each core that uses it.
pub(crate) const IO_QUEUES_MAX: u16 = 128;

/// How long a command may take: as Linux's driver has it, and far more than any device needs.
pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Ticks of the time that a command may take: ages are as exact as that, and time that passes unseen
/// between two looks at commands counts as one tick at most. They are not late because nobody was
/// there.
pub(crate) const TIMEOUT_TICKS: u8 = 60;

/// Empty turns of a controller thread before it parks.
pub(crate) const IDLE_TURNS_MAX: u32 = 20_000;

/// Blocks that the emulated volatile write cache holds when the caller does not say.
pub const CACHE_BLOCKS_DEFAULT: u32 = 4096;

/// Most blocks that the emulated volatile write cache holds.
pub const CACHE_BLOCKS_MAX: u32 = 1 << 20;

// A transfer that starts inside a page touches one page more than it is long, and the first page
// is PRP entry 1: so a list never chains.
const _: () = assert!(TRANSFER_PAGES_MAX as usize <= LIST_ENTRIES_MAX);
// The ranges of a deallocation take the place of its PRP list.
const _: () = assert!(DEALLOCATE_RANGES_MAX * size_of::<DatasetRange>() <= PAGE_SIZE);
// One page for each admin queue.
const _: () = assert!(ADMIN_ENTRIES as usize * size_of::<SubmissionEntry>() <= PAGE_SIZE);
// Command identifiers and queue sizes have 16 bits, and a ring of N entries holds N - 1.
const _: () = assert!(DEPTH_MAX < u16::MAX as u32);
