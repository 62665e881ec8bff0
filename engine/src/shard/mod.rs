//! A shard: journal, store and checkpoints over one range of a device.
//!
//! [`Opening`] reads a shard from its device and ends in a running [`Shard`]; a shard takes records
//! and payload, turns them into commands and says which batches are durable. Both are event
//! machines: commands are taken by `poll_submission`, completions and the time are passed in, and
//! nothing here knows a queue pair, a clock, or what raft does with a record.
//!
//! A turn: the composer appends and writes payload, calls [`Shard::seal`] once, hands the commands
//! to the device, and passes completions to [`Shard::complete`]. All records of a turn share one
//! journal write; at most one is in flight, so that under load a batch forms while the one before
//! it is written.
//!
//! | part | what |
//! | --- | --- |
//! | `commands` | commands queued and in flight |
//! | `batches` | which batches are durable |
//! | `appender` | open, waiting and in-flight journal writes |
//! | `groups` | applied notes and names of the groups |
//! | `checkpointing`, `checkpoint_stream` | writing a checkpoint while work goes on |
//! | `opening`, `replay`, `verify` | recovery |
//! | [`check`] | offline verification |
//!
//! Fault model: a command may fail. A failed read is the reader's to deal with; a failed write or
//! flush poisons the shard: nothing is acknowledged any more until it has been opened again.

mod appender;
mod batches;
pub mod check;
mod checkpoint_stream;
mod checkpointing;
mod commands;
mod completing;
mod config;
mod counters;
mod event;
mod groups;
mod opening;
mod reader;
mod recovered;
mod replay;
mod verdict;
mod verify;
mod writing;

pub use checkpointing::MAP_BYTES_PER_BLOCK;
pub use config::{
    BATCHES_MAX, CHUNK_PIECE_BYTES, COMMANDS_RESERVED, DEALLOCATE_EXTENTS_MAX,
    JOURNAL_COMMANDS_MAX, ShardConfig,
};
pub use counters::ShardCounters;
pub use event::{Event, FailedCommand, Failure};
pub use opening::{OpenError, Opened, Opening, OpeningMode, Place};
pub use recovered::{
    Change, ChangeList, EntryList, Inspection, PastLog, Recovered, RecoveredEntry, RecoveredGroup,
    RecoveryReport,
};

use arrayvec::ArrayVec;
use culvert_memory::Pool;
use culvert_nvme::{Namespace, Submission, Tag};

use crate::device::{Salt, ShardLayout, Superblock};
use crate::ids::{BLOCK_SIZE, BatchNumber, CopysetId, Extent};
use crate::journal::{ReplicaIdentity, Ring, Space};
use crate::store::{LivePayload, SpaceError, Store};
use appender::{Appender, AppenderOptions};
use batches::Batches;
use checkpoint_stream::Checkpointing;
use commands::Commands;
use config::UNNOTED_MAX;
use groups::Groups;

/// What a command of a running shard is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Payload(BatchNumber),
    /// The batch's entry stands in the metadata.
    PayloadWithEntry(BatchNumber),
    Journal(BatchNumber),
    Flush,
    Read {
        token: u64,
    },
    CheckpointRun(usize),
    CheckpointFlush,
    Superblock,
    Deallocate,
}

/// The measures of a device that a shard needs.
#[derive(Clone, Copy, Debug)]
struct DeviceMeasures {
    block_size: u64,
    transfer_pages_max: u32,
    volatile: bool,
    /// Whether entries of single blocks stand in their metadata.
    metadata: bool,
}

impl DeviceMeasures {
    fn new(namespace: &Namespace) -> DeviceMeasures {
        DeviceMeasures {
            block_size: u64::from(namespace.block_size),
            transfer_pages_max: namespace.transfer_bytes_max / BLOCK_SIZE as u32,
            volatile: namespace.volatile_write_cache,
            metadata: false,
        }
    }

    /// The logical block at a byte of the device.
    fn lba(&self, byte: u64) -> culvert_nvme::Lba {
        debug_assert!(byte.is_multiple_of(self.block_size));
        culvert_nvme::Lba(byte / self.block_size)
    }
}

/// What an opening hands to the shard it ends in.
struct Parts {
    config: ShardConfig,
    device: DeviceMeasures,
    layout: ShardLayout,
    salt: Salt,
    superblock: Superblock,
    incarnation: u32,
    /// Position at which the incarnation began.
    start: u64,
    ring: Ring,
    /// The mark in the last block written.
    mark: u64,
    groups: Groups,
    store: Store,
    /// Blocks whose metadata hold entries that the next recovery may need.
    entry_places: Vec<u32>,
}

/// A running shard. See the module's documentation.
pub struct Shard {
    config: ShardConfig,
    device: DeviceMeasures,
    layout: ShardLayout,
    salt: Salt,
    incarnation: u32,
    superblock: Superblock,
    commands: Commands<Purpose>,
    batches: Batches,
    appender: Appender,
    groups: Groups,
    store: Store,
    checkpointing: Checkpointing,
    counters: ShardCounters,
    failure: Option<Failure>,
    failure_told: bool,
    /// Until [`Shard::finish_recovery`].
    recovering: bool,
    /// The mark in the last block submitted.
    last_mark: u64,
    /// Position behind the last block that has to be covered by a mark soon.
    weighty_end: u64,
    /// Whether something may have been released since the last seal of the store.
    touched: bool,
    /// Whether the open batch is to be closed even if it is empty.
    close_now: bool,
    /// The last batch at whose closing no note was left over.
    all_noted: BatchNumber,
    /// The payload write queued last.
    last_payload: Tag,
    /// Batches in metadata since the last one with notes.
    batches_unnoted: u32,
    /// Until [`Shard::finish_recovery`]: blocks whose metadata hold entries.
    entry_places: Vec<u32>,
    /// When an idle batch is due.
    idle_at: Option<u64>,
    /// Extents that the device is being told of.
    deallocating: ArrayVec<Extent, DEALLOCATE_EXTENTS_MAX>,
    deallocate_scratch: Vec<Extent>,
    /// Bytes of payload written since the last checkpoint began.
    bytes_since_checkpoint: u64,
    /// ... at which the next one begins.
    checkpoint_at_bytes: u64,
    /// What a whole one would take, about.
    whole_bytes: u64,
    /// What the last increment took.
    increment_bytes: u64,
    /// Bytes of payload, since a superblock was written, whose entries went to the ring for want of a
    /// segment.
    bytes_without_segment: u64,
    /// Journal position before which no checkpoint begins by itself.
    checkpoint_not_before: u64,
    /// Whether a checkpoint was given up and nobody was told yet.
    checkpoint_too_large: bool,
}

impl Shard {
    /// A shard out of what an opening found; `None` if the pool has too few pages.
    fn new(parts: Parts, pool: &Pool) -> Option<Shard> {
        let Parts { mut config, device, layout, salt, superblock, ring, .. } = parts;
        let transfer_bytes_max = device.transfer_pages_max as usize * BLOCK_SIZE;
        config.batch_bytes = config.batch_bytes_of_transfers(&device);
        let end = ring.head();
        let options = AppenderOptions {
            salt,
            block_size: device.block_size as usize,
            transfer_bytes_max,
            ring_lba: device.lba(layout.ring()).0,
            incarnation: parts.incarnation,
            start: parts.start,
            batch_bytes: config.batch_bytes_on(&device, &ring),
        };
        let run_pages = config.checkpoint_buffer_pages.min(device.transfer_pages_max);
        let mut shard = Shard {
            config,
            device,
            layout,
            salt,
            incarnation: parts.incarnation,
            superblock,
            commands: Commands::new(config.tag_prefix, config.commands_max),
            batches: Batches::new(device.volatile, end, parts.mark),
            appender: Appender::new(options, ring, &config, pool)?,
            groups: parts.groups,
            store: parts.store,
            checkpointing: Checkpointing::new(run_pages, pool)?,
            counters: ShardCounters::default(),
            failure: None,
            failure_told: false,
            recovering: true,
            last_mark: parts.mark,
            weighty_end: end,
            touched: false,
            close_now: false,
            all_noted: BatchNumber(0),
            last_payload: Tag(0),
            batches_unnoted: 0,
            entry_places: parts.entry_places,
            idle_at: None,
            deallocating: ArrayVec::new(),
            deallocate_scratch: Vec::with_capacity(DEALLOCATE_EXTENTS_MAX),
            bytes_since_checkpoint: 0,
            checkpoint_at_bytes: 0,
            whole_bytes: 0,
            increment_bytes: 0,
            bytes_without_segment: 0,
            checkpoint_not_before: 0,
            checkpoint_too_large: false,
        };
        shard.plan_checkpoint();
        Some(shard)
    }

    /// Pages that a shard takes from its pool for as long as it lives.
    #[must_use]
    pub fn pool_pages(config: &ShardConfig) -> u32 {
        let journal = config.batch_buffers as u32 * appender::buffer_pages(config);
        journal + checkpoint_stream::RUNS as u32 * config.checkpoint_buffer_pages
    }

    /// Ends recovery: free is what neither a map nor `live` names. `live`: the payload of all
    /// entries that are kept and not applied. `damaged`: groups that lost records; they give way to
    /// the others. Returned is how many blocks each has lost to them.
    ///
    /// # Errors
    ///
    /// [`SpaceError`] if maps and records of the other groups contradict each other: the shard is
    /// not to be used.
    pub fn finish_recovery<'a>(
        &mut self,
        live: impl IntoIterator<Item = LivePayload<'a>>,
        damaged: &[CopysetId],
    ) -> Result<Vec<(CopysetId, u64)>, SpaceError> {
        let lost = self.store.finish_recovery(live, damaged)?;
        self.recovering = false;
        if self.device.metadata {
            let places = std::mem::take(&mut self.entry_places);
            let (blocks, named) = (self.layout.segment_blocks(), &self.superblock.segments);
            self.store.restore_segments(blocks, named, &places);
        }
        self.plan_checkpoint();
        Ok(lost)
    }

    /// The maps and the space.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The maps and the space, to be changed.
    pub fn store_mut(&mut self) -> &mut Store {
        self.touched = true;
        &mut self.store
    }

    /// All batches up to this one are durable: their journal blocks, and every payload counted to
    /// them.
    #[must_use]
    pub fn durable(&self) -> BatchNumber {
        self.batches.durable()
    }

    /// The batch that is being filled.
    #[must_use]
    pub fn open_batch(&self) -> BatchNumber {
        self.batches.open()
    }

    /// How full the journal's ring is.
    #[must_use]
    pub fn space(&self) -> Space {
        self.appender.space()
    }

    /// Blocks of the ring in use, and all there are.
    #[must_use]
    pub fn ring_use(&self) -> (u64, u64) {
        (self.appender.ring().used(), self.appender.ring().blocks())
    }

    /// Counts the openings of the shard.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Where the shard lies.
    #[must_use]
    pub fn layout(&self) -> &ShardLayout {
        &self.layout
    }

    /// Why the shard is poisoned, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> &ShardCounters {
        &self.counters
    }

    /// The replicas that the shard holds, in order of copyset.
    pub fn replicas(&self) -> impl Iterator<Item = (CopysetId, ReplicaIdentity)> {
        self.groups.iter().map(|(copyset, group)| (copyset, group.identity))
    }

    /// Whether the next checkpoint says that a replica may have forgotten votes and
    /// acknowledgements.
    #[must_use]
    pub fn is_in_doubt(&self, copyset: CopysetId) -> bool {
        self.groups.get(copyset).is_some_and(|group| group.in_doubt)
    }

    /// What recovery found of a replica does not hang together: the next checkpoint says so.
    pub fn set_in_doubt(&mut self, copyset: CopysetId) {
        if let Some(group) = self.groups.get_mut(copyset) {
            group.in_doubt = true;
        }
    }

    /// Commands that payload and reads may still queue; each extent of an operation takes one, and
    /// one more for each time the device's transfer limit goes into it.
    #[must_use]
    pub fn commands_free(&self) -> u32 {
        self.commands.free().saturating_sub(COMMANDS_RESERVED)
    }

    /// Commands queued or in flight.
    #[must_use]
    pub fn commands_in_flight(&self) -> u32 {
        self.commands.len()
    }

    /// Blocks that one read may have.
    #[must_use]
    pub fn read_blocks_max(&self) -> u32 {
        self.device.transfer_pages_max
    }

    /// The next command for the device.
    pub fn poll_submission(&mut self) -> Option<Submission> {
        self.commands.pop()
    }

    /// The device has got the commands taken so far, at `now_ns`: for their latencies.
    #[inline]
    pub fn submitted(&mut self, now_ns: u64) {
        self.commands.submitted(now_ns);
    }

    /// Takes back a command that the device had no room for; it is the next again.
    pub fn give_back(&mut self, submission: Submission) {
        self.commands.give_back(submission);
    }

    /// Whether a completion is one of this shard's.
    #[must_use]
    pub fn owns(&self, tag: Tag) -> bool {
        self.commands.owns(tag)
    }
}

#[cfg(test)]
mod tests;
