//! Opening a shard: from bytes on a device to a running [`Shard`](super::Shard).
//!
//! The way: flush (what a process that died left in the cache is seen by this opening and must not
//! vanish after it); superblocks; checkpoint; the whole ring; the metadata of open segments; the
//! payloads above the mark; the verdict; an empty block whose mark covers all that. Nothing else is
//! written before the verdict is durable, and an inspection ends before it.

mod beginning;
mod error;
mod metadata;

pub use error::{OpenError, Place};

use culvert_memory::{Buffer, Pool};
use culvert_nvme::{Completion, Namespace, Operation, Status, Submission, Tag};

use super::DeviceMeasures;
use super::commands::Commands;
use super::config::ShardConfig;
use super::reader::{Part, RangeReader, ReadPart};
use super::recovered::{Inspection, Recovered, RecoveredGroup, RecoveryReport};
use super::replay::Replay;
use super::verdict::Voids;
use super::verify::Verify;
use crate::checkpoint::{CheckpointError, Section, StreamReader};
use crate::device::{
    DeviceHeader, STRUCTURE_BYTES, Salt, ShardLayout, Superblock, SuperblockError,
};
use crate::ids::{BLOCK_SIZE, Extent};
use crate::journal::{Ring, Scan, Scanned};
use crate::store::{Geometry, Store};
use metadata::MetadataReader;

/// What to end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningMode {
    /// A running shard.
    Run,
    /// What is there; nothing is written.
    Inspect,
}

/// What an opening ends in.
pub enum Opened {
    /// A running shard.
    Running(Box<Recovered>),
    /// Everything that was found.
    Inspected(Box<Inspection>),
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Flush,
    Superblock(usize),
    Range(ReadPart),
    Metadata(Extent),
    Payload(usize),
    Write,
}

enum Stage {
    Flush,
    Superblocks([Option<Result<Superblock, SuperblockError>>; 2]),
    Checkpoint(RangeReader, Box<Loading>),
    Ring(RangeReader, Box<Scan>),
    Metadata(MetadataReader, Box<Scan>),
    Payload(Box<Verify>),
    /// The verdict's commands are in flight; so many.
    Verdict(usize),
    /// The command of the block behind it is in flight.
    Mark,
    Done,
}

/// A checkpoint that is being loaded.
struct Loading {
    stream: StreamReader,
    /// Nothing follows its last end section yet: what does is an increment.
    ended: bool,
}

/// See the module's documentation.
pub struct Opening {
    config: ShardConfig,
    mode: OpeningMode,
    device: DeviceMeasures,
    /// Bytes of metadata beside a block.
    metadata_bytes: u32,
    device_bytes: u64,
    layout: ShardLayout,
    geometry: Geometry,
    salt: Salt,
    pool: Pool,
    commands: Commands<Purpose>,
    stage: Stage,
    superblock: Superblock,
    /// The superblock before it, to fall back to.
    older: Option<Superblock>,
    /// Why it was fallen back.
    fell_back: Option<OpenError>,
    store: Option<Store>,
    replay: Replay,
    scanned: Option<Scanned>,
    voids: Voids,
    groups: Vec<RecoveredGroup>,
    report: RecoveryReport,
    ring: Option<Ring>,
    /// Blocks whose metadata hold entries that the next recovery may need.
    entry_places: Vec<u32>,
    result: Option<Result<Opened, OpenError>>,
}

impl Opening {
    /// Begins to open a shard. The pool must have [`Shard::pool_pages`](super::Shard::pool_pages) pages for the shard, and
    /// lends some for as long as the opening takes.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoShard`].
    pub fn new(
        config: ShardConfig,
        namespace: &Namespace,
        header: &DeviceHeader,
        shard: u32,
        mode: OpeningMode,
        pool: &Pool,
    ) -> Result<Opening, OpenError> {
        config.assert_valid();
        let layout =
            *header.layout.shards.get(shard as usize).ok_or(OpenError::NoShard { shard })?;
        let geometry = Geometry {
            data_blocks: layout.data_blocks(),
            chunk_blocks: header.layout.chunk_blocks,
            deallocate: config.deallocate,
        };
        let mut opening = Opening {
            config,
            mode,
            device: DeviceMeasures {
                metadata: header.layout.metadata,
                ..DeviceMeasures::new(namespace)
            },
            metadata_bytes: namespace.metadata_bytes,
            device_bytes: namespace.bytes(),
            layout,
            geometry,
            salt: header.salt(shard),
            pool: pool.clone(),
            commands: Commands::new(config.tag_prefix, config.commands_max),
            stage: Stage::Flush,
            superblock: Superblock::empty(),
            older: None,
            fell_back: None,
            store: None,
            replay: Replay::default(),
            scanned: None,
            voids: Voids::default(),
            groups: Vec::new(),
            report: RecoveryReport::default(),
            ring: None,
            entry_places: Vec::new(),
            result: None,
        };
        if opening.device.volatile {
            opening.commands.push(Purpose::Flush, Operation::Flush);
        } else {
            opening.settle(|opening| opening.begin_superblocks());
        }
        Ok(opening)
    }

    /// The next command for the device.
    pub fn poll_submission(&mut self) -> Option<Submission> {
        self.fill();
        self.commands.pop()
    }

    /// Takes back a command that the device had no room for.
    pub fn give_back(&mut self, submission: Submission) {
        self.commands.give_back(submission);
    }

    /// Whether a completion is one of this opening's.
    #[must_use]
    pub fn owns(&self, tag: Tag) -> bool {
        self.commands.owns(tag)
    }

    /// What the opening ended in, once, when it has.
    pub fn poll(&mut self) -> Option<Result<Opened, OpenError>> {
        // Commands of a failed opening may still be in flight; their pages come back first.
        if self.commands.len() > 0 { None } else { self.result.take() }
    }

    /// Takes a completion of one of this opening's commands.
    pub fn complete(&mut self, completion: Completion) {
        let Completion { tag, status, buffer, pages } = completion;
        drop(pages);
        let Some((purpose, _)) = self.commands.finish(tag) else { return };
        if self.result.is_some() {
            return;
        }
        self.settle(|opening| opening.advance(purpose, status, buffer));
    }

    /// Runs a step; an error ends the opening.
    fn settle(&mut self, step: impl FnOnce(&mut Opening) -> Result<(), OpenError>) {
        if let Err(error) = step(self) {
            self.stage = Stage::Done;
            self.commands.drop_queued(|_, _| {});
            self.result = Some(Err(error));
        }
    }

    fn advance(
        &mut self,
        purpose: Purpose,
        status: Status,
        buffer: Option<Buffer>,
    ) -> Result<(), OpenError> {
        match purpose {
            Purpose::Flush => {
                check(status, Place::Flush)?;
                self.begin_superblocks()
            }
            Purpose::Superblock(slot) => {
                if status.is_device_gone() {
                    check(status, Place::Superblock)?;
                }
                self.superblock_read(slot, status, &buffer.expect("a read hands its buffer back"))
            }
            Purpose::Range(part) => {
                let buffer = buffer.expect("a read hands its buffer back");
                self.range_read(part, status, buffer)
            }
            Purpose::Metadata(read) => {
                // A device that is whole but hands over no metadata has lost nothing.
                if status.is_device_gone() || status.same_code(Status::INVALID_FIELD) {
                    check(status, Place::Metadata)?;
                }
                self.metadata_read(read, status, &buffer.expect("a read hands its buffer back"))
            }
            Purpose::Payload(number) => {
                let buffer = buffer.expect("a read hands its buffer back");
                if let Stage::Payload(verify) = &mut self.stage {
                    verify.complete(number, status, &buffer);
                }
                drop(buffer);
                self.payload_step()
            }
            Purpose::Write => {
                check(status, Place::Verdict)?;
                self.written()
            }
        }
    }

    /// Queues reads as far as there are buffers and depth for them.
    fn fill(&mut self) {
        while (self.commands.len() as usize) < self.config.open_depth {
            let next = match &mut self.stage {
                Stage::Checkpoint(reader, _) | Stage::Ring(reader, _) => {
                    reader.next_read().map(|(part, read)| (Purpose::Range(part), read))
                }
                Stage::Metadata(reader, _) => {
                    match reader.next_read(&self.device, &self.layout, &self.pool) {
                        Ok(next) => next.map(|(extent, read)| (Purpose::Metadata(extent), read)),
                        Err(()) => return self.settle(|_| Err(OpenError::Memory)),
                    }
                }
                Stage::Payload(verify) => {
                    match verify.next_read(&self.device, &self.layout, &self.pool) {
                        Ok(next) => next.map(|(number, read)| (Purpose::Payload(number), read)),
                        Err(()) => return self.settle(|_| Err(OpenError::Memory)),
                    }
                }
                _ => None,
            };
            let Some((purpose, read)) = next else { return };
            self.commands.push(purpose, read);
        }
    }

    fn begin_superblocks(&mut self) -> Result<(), OpenError> {
        self.stage = Stage::Superblocks([None, None]);
        for slot in 0..2 {
            let buffer = self.pool.acquire(1).ok_or(OpenError::Memory)?;
            let lba = self.device.lba(self.layout.superblock(slot as u64));
            self.commands.push(Purpose::Superblock(slot), Operation::Read { lba, buffer });
        }
        Ok(())
    }

    fn superblock_read(
        &mut self,
        slot: usize,
        status: Status,
        buffer: &Buffer,
    ) -> Result<(), OpenError> {
        let Stage::Superblocks(slots) = &mut self.stage else { return Ok(()) };
        let bytes: &[u8; STRUCTURE_BYTES] =
            buffer.as_slice().try_into().expect("a page is as long as a superblock");
        let parsed = match status.is_success() {
            true => Superblock::parse(bytes, &self.layout, self.salt),
            false => Err(SuperblockError::Unreadable(status)),
        };
        let ring_blocks = self.layout.ring_bytes / self.device.block_size;
        slots[slot] = Some(parsed.and_then(|superblock| {
            let misplaced = superblock.sequence % 2 != slot as u64;
            let fits = superblock.mark - superblock.position <= ring_blocks;
            match (misplaced, fits) {
                (true, _) => Err(SuperblockError::Field("sequence")),
                (_, false) => Err(SuperblockError::Field("mark")),
                _ => Ok(superblock),
            }
        }));
        let [Some(first), Some(second)] = *slots else { return Ok(()) };
        self.report.bad_superblock = [first, second]
            .iter()
            .any(|slot| slot.is_err_and(|error| error != SuperblockError::Missing));
        (self.superblock, self.older) = match (first, second) {
            (Ok(first), Ok(second)) if first.sequence < second.sequence => (second, Some(first)),
            (Ok(first), Ok(second)) => (first, Some(second)),
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => (only, None),
            (Err(first), Err(second)) => return Err(OpenError::Superblock(first, second)),
        };
        self.begin_checkpoint()
    }

    fn reader(&self) -> Result<RangeReader, OpenError> {
        let ShardConfig { open_depth, open_read_bytes, .. } = self.config;
        RangeReader::new(self.device, self.device_bytes, open_depth, open_read_bytes, &self.pool)
            .ok_or(OpenError::Memory)
    }

    fn begin_checkpoint(&mut self) -> Result<(), OpenError> {
        self.store = Some(Store::recovering(self.geometry));
        self.replay = Replay::default();
        let place = match self.superblock.checkpoint {
            Some(place) if place.pages > 0 => place,
            _ => return self.begin_ring(),
        };
        let mut reader = self.reader()?;
        let at = self.layout.checkpoint(place.area);
        reader.add(at..at + u64::from(place.pages) * BLOCK_SIZE as u64);
        let stream = StreamReader::new(place, self.salt);
        self.report.checkpoint_pages = place.pages;
        self.stage = Stage::Checkpoint(reader, Box::new(Loading { stream, ended: false }));
        Ok(())
    }

    fn range_read(
        &mut self,
        part: ReadPart,
        status: Status,
        buffer: Buffer,
    ) -> Result<(), OpenError> {
        match &mut self.stage {
            Stage::Checkpoint(reader, _) => {
                reader.complete(part, status, buffer);
                match self.checkpoint_step() {
                    Ok(true) => self.begin_ring(),
                    Ok(false) => Ok(()),
                    Err(error) => self.fall_back(error),
                }
            }
            Stage::Ring(reader, scan) => {
                reader.complete(part, status, buffer);
                let block_size = self.device.block_size;
                reader.deliver(|part| match part {
                    Part::Bytes(bytes) => {
                        bytes.chunks_exact(block_size as usize).for_each(|block| scan.block(block));
                    }
                    Part::Unreadable(bytes) => scan.unreadable(bytes / block_size),
                });
                if reader.is_done() { self.begin_metadata() } else { Ok(()) }
            }
            // A read of a checkpoint that was given up.
            _ => Ok(()),
        }
    }

    /// Takes the pages that are there; true at the checkpoint's end.
    fn checkpoint_step(&mut self) -> Result<bool, OpenError> {
        let Stage::Checkpoint(reader, loading) = &mut self.stage else { return Ok(false) };
        let store = self.store.as_mut().expect("a checkpoint fills a store");
        let replay = &mut self.replay;
        let mut outcome = Ok(());
        let mut page = 0;
        reader.deliver(|part| {
            if outcome.is_ok() {
                outcome = match part {
                    Part::Unreadable(_) => Err(CheckpointError::Unreadable { page }.into()),
                    Part::Bytes(bytes) => load_pages(bytes, loading, store, replay),
                };
            }
            page += 1;
        });
        outcome?;
        if !reader.is_done() {
            return Ok(false);
        }
        loading.stream.finish()?;
        Ok(true)
    }

    /// The newest checkpoint is no good: the one before it may do, if the ring still reaches back
    /// to it.
    fn fall_back(&mut self, error: OpenError) -> Result<(), OpenError> {
        let damaged = matches!(error, OpenError::Checkpoint(_));
        let older = self.older.take().filter(|_| damaged).ok_or(error)?;
        self.fell_back = Some(error);
        self.report.fell_back = true;
        self.superblock = Superblock { mark: self.superblock.mark, ..older };
        let ring_blocks = self.layout.ring_bytes / self.device.block_size;
        if self.superblock.mark - self.superblock.position > ring_blocks {
            return Err(error);
        }
        self.begin_checkpoint()
    }

    fn begin_ring(&mut self) -> Result<(), OpenError> {
        let mut reader = self.reader()?;
        let Superblock { position, mark, incarnation, .. } = self.superblock;
        let block_size = self.device.block_size;
        let blocks = self.layout.ring_bytes / block_size;
        let at = self.layout.ring();
        let first = at + position % blocks * block_size;
        reader.add(first..at + blocks * block_size);
        reader.add(at..first);
        let scan = Scan::new(self.salt, blocks, position, mark, incarnation);
        self.stage = Stage::Ring(reader, Box::new(scan));
        Ok(())
    }

    /// The ring was read.
    fn begin_metadata(&mut self) -> Result<(), OpenError> {
        let Stage::Ring(_, scan) = std::mem::replace(&mut self.stage, Stage::Done) else {
            return Ok(());
        };
        let segments: &[Extent] =
            if self.device.metadata { &self.superblock.segments } else { &[] };
        self.stage = Stage::Metadata(MetadataReader::new(segments, self.metadata_bytes), scan);
        self.metadata_step()
    }

    fn metadata_read(
        &mut self,
        read: Extent,
        status: Status,
        buffer: &Buffer,
    ) -> Result<(), OpenError> {
        if let Stage::Metadata(reader, scan) = &mut self.stage {
            reader.complete(read, (status, buffer), self.salt, scan);
        }
        self.metadata_step()
    }

    fn metadata_step(&mut self) -> Result<(), OpenError> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Metadata(reader, scan) if reader.is_done() => {
                self.report.unreadable_metadata = reader.unreadable();
                self.journal_read(scan.finish())
            }
            stage => {
                self.stage = stage;
                Ok(())
            }
        }
    }

    /// All of the journal was read.
    fn journal_read(&mut self, mut scanned: Scanned) -> Result<(), OpenError> {
        self.entry_places = std::mem::take(&mut scanned.places);
        self.report.metadata_entries = self.entry_places.len() as u64;
        if let Some(position) = scanned.ahead {
            return Err(self.fell_back.unwrap_or(OpenError::SuperblockLost { position }));
        }
        if let Some(error) = self.fell_back
            && scanned.holes().next().is_some()
        {
            return Err(error);
        }
        self.voids = Voids::collect(&scanned)?;
        let blocks_max = self.device.transfer_pages_max;
        let verify = Verify::collect(&scanned, &self.voids, &self.layout, blocks_max)?;
        self.report.payload_blocks = verify.blocks();
        self.scanned = Some(scanned);
        self.stage = Stage::Payload(Box::new(verify));
        self.payload_step()
    }

    fn payload_step(&mut self) -> Result<(), OpenError> {
        match &self.stage {
            Stage::Payload(verify) if verify.is_done() => {}
            _ => return Ok(()),
        }
        let Stage::Payload(verify) = std::mem::replace(&mut self.stage, Stage::Done) else {
            return Ok(());
        };
        for (copyset, batch) in verify.bad() {
            self.voids.add(copyset, batch);
            self.report.torn_groups += 1;
        }
        let scanned = self.scanned.take().expect("the ring was scanned");
        self.replay.ring(&scanned, &self.voids, self.superblock.mark)?;
        let (groups, removed, items) = std::mem::take(&mut self.replay).finish();
        let store = self.store.as_mut().expect("made with the checkpoint");
        removed.into_iter().for_each(|copyset| store.remove_copyset(copyset));
        self.groups = groups;
        self.fill_report(&scanned, items);
        match self.mode {
            OpeningMode::Run => self.begin_verdict(&scanned),
            OpeningMode::Inspect => {
                let inspection = Inspection {
                    store: self.store.take().expect("made with the checkpoint"),
                    groups: std::mem::take(&mut self.groups),
                    report: self.report.clone(),
                };
                self.result = Some(Ok(Opened::Inspected(Box::new(inspection))));
                Ok(())
            }
        }
    }

    fn fill_report(&mut self, scanned: &Scanned, items: u64) {
        let cut_off = self.groups.iter().filter(|group| group.cut_off);
        self.report = RecoveryReport {
            incarnation: scanned.incarnation + 1,
            position: scanned.from,
            mark: scanned.mark,
            end: scanned.end,
            items,
            bad_blocks: scanned.bad_blocks,
            stale_blocks: scanned.stale_blocks,
            torn_blocks: scanned.torn_blocks,
            holes: scanned.holes().map(|hole| (hole.start, hole.end)).collect(),
            cut_off_groups: cut_off.count() as u32,
            ..std::mem::take(&mut self.report)
        };
    }
}

fn check(status: Status, place: Place) -> Result<(), OpenError> {
    if status.is_success() { Ok(()) } else { Err(OpenError::Device { place, status }) }
}

/// Loads pages of the checkpoint into the store and the groups.
fn load_pages(
    bytes: &[u8],
    loading: &mut Loading,
    store: &mut Store,
    replay: &mut Replay,
) -> Result<(), OpenError> {
    let mut outcome = Ok(());
    let Loading { stream, ended } = loading;
    for page in bytes.chunks_exact(BLOCK_SIZE) {
        stream.page(page, |section| {
            if outcome.is_err() {
                return;
            }
            if std::mem::take(ended) {
                // Copysets stand in it whole.
                *replay = Replay::default();
                store.load_increment();
            }
            outcome = match section {
                Section::Copyset(head, items, image) => {
                    replay.copyset(&head, items, image).map_err(OpenError::from)
                }
                Section::Chunk(piece) => store.load(piece).map(drop).map_err(OpenError::from),
                Section::End(..) => {
                    *ended = true;
                    store.loaded().map_err(OpenError::from)
                }
            };
        })?;
        outcome?;
    }
    Ok(())
}
