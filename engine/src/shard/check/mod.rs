//! Offline verification of everything on a device. Nothing is written.
//!
//! Headers, superblocks, checkpoint and journal are looked at as an opening would; then the maps
//! are rebuilt, the space is derived, and every block that a map or an entry names is read and
//! held against its checksum. It is not a repair, and it believes nothing that recovery would not.

mod report;
mod sweep;

pub use report::{CheckReport, Finding, Severity, ShardReport, Subject};

use culvert_memory::Pool;
use culvert_nvme::QueuePair;

use self::sweep::Sweep;
use super::recovered::{Inspection, RecoveredGroup};
use super::{OpenError, Opened, Opening, OpeningMode, ShardConfig};
use crate::device::{
    Blocking, DeviceHeader, DeviceIoError, STRUCTURE_BYTES, ShardLayout, Superblock, read_copies,
};
use crate::ids::{BlockRange, Extent, LogIndex, OPERATION_BLOCKS_MAX};
use crate::store::{BlockStates, ChunkKey, LivePayload, Place, Store};

/// Payload of an entry that is kept and not applied.
#[derive(Clone, Debug)]
pub struct HeldPayload {
    /// The chunk it is for.
    pub key: ChunkKey,
    /// The entry.
    pub index: LogIndex,
    /// Where it lies.
    pub extents: Vec<Extent>,
    /// The checksum of each of its blocks.
    pub crcs: Vec<u32>,
}

/// What was made of a group.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// What the entries that are not applied hold.
    pub held: Vec<HeldPayload>,
    /// Whether everything was there and could be read; if not, the group is damaged.
    pub whole: bool,
    /// Up to where its entries were applied.
    pub applied: LogIndex,
}

/// Brings a group's maps up to its applied note, as its composer would, and says what the entries
/// behind hold.
pub type Rebuild<'r> = dyn FnMut(&mut Store, &RecoveredGroup) -> Rebuilt + 'r;

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The shard at hand.
    pub shard: u32,
    /// Blocks of it that were read.
    pub blocks: u64,
    /// Blocks that there are to read.
    pub blocks_total: u64,
}

/// Checks a device.
///
/// # Errors
///
/// Only if the pool has too few pages; everything else is a finding.
pub fn check<Q: QueuePair + ?Sized>(
    queue: &mut Q,
    pool: &Pool,
    config: &ShardConfig,
    rebuild: &mut Rebuild<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, DeviceIoError> {
    let mut report = CheckReport::default();
    let copies = read_copies(queue, pool)?;
    for (copy, result) in copies.iter().enumerate() {
        if let Err(error) = result {
            report.damage(Subject::Header { copy: copy as u32 }, error);
        }
    }
    let ([Ok(header), _] | [_, Ok(header)]) = copies else { return Ok(report) };
    report.uuid = Some(header.uuid);
    let namespace = queue.namespace();
    let geometry = (namespace.bytes(), namespace.block_size, namespace.metadata_bytes);
    if let Err(error) = header.check_geometry(geometry.0, geometry.1, geometry.2) {
        report.damage(Subject::Header { copy: 0 }, &error);
        return Ok(report);
    }
    for layout in &header.layout.shards {
        let mut check = ShardCheck { queue, pool, config, header: &header, layout };
        let shard = check.run(&mut report, rebuild, progress)?;
        report.shards.push(shard);
    }
    Ok(report)
}

/// The check of one shard.
struct ShardCheck<'c, Q: QueuePair + ?Sized> {
    queue: &'c mut Q,
    pool: &'c Pool,
    config: &'c ShardConfig,
    header: &'c DeviceHeader,
    layout: &'c ShardLayout,
}

impl<Q: QueuePair + ?Sized> ShardCheck<'_, Q> {
    fn run(
        &mut self,
        report: &mut CheckReport,
        rebuild: &mut Rebuild<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ShardReport, DeviceIoError> {
        let number = self.layout.shard;
        let mut shard = ShardReport { shard: number, ..ShardReport::default() };
        self.superblocks(report)?;
        let Inspection { mut store, groups, report: recovery } = match self.inspect()? {
            Ok(inspection) => inspection,
            Err(error) => {
                report.damage(Subject::Shard { shard: number }, &error);
                return Ok(shard);
            }
        };
        for &(from, to) in &recovery.holes {
            report.lost(Subject::Journal { shard: number, position: from }, to - from);
        }
        if recovery.fell_back {
            report
                .note(Subject::Checkpoint { shard: number }, "is damaged; the one before it does");
        }
        let mut held = Vec::new();
        let mut damaged = Vec::new();
        for group in &groups {
            let subject = Subject::Group { shard: number, copyset: group.copyset };
            let rebuilt = rebuild(&mut store, group);
            held.extend(rebuilt.held);
            if !judge(report, subject, group, rebuilt.whole, rebuilt.applied) {
                damaged.push(group.copyset);
            }
        }
        shard.groups = groups.len() as u64;
        shard.recovery = recovery;
        let payloads = || {
            held.iter().map(|payload| LivePayload {
                key: payload.key,
                index: payload.index,
                extents: &payload.extents,
            })
        };
        let lost = match store.finish_recovery(payloads(), &damaged) {
            Ok(lost) => lost,
            Err(error) => {
                report.damage(Subject::Space { shard: number }, &error);
                return Ok(shard);
            }
        };
        for (copyset, blocks) in lost {
            let detail = format!("{blocks} of its blocks belong to other copysets by now");
            report.damage(Subject::Group { shard: number, copyset }, &detail);
        }
        match store.verify(payloads(), &damaged) {
            Ok(leaked) => shard.leaked_blocks = leaked,
            Err(error) => report.damage(Subject::Space { shard: number }, &error),
        }
        if shard.leaked_blocks > 0 {
            report.damage(Subject::Space { shard: number }, &"blocks are named by nobody");
        }
        self.sweep(&store, &groups, &held, &mut shard, report, progress)?;
        Ok(shard)
    }

    /// Looks at both superblock slots; one that holds nothing is only worth a note.
    fn superblocks(&mut self, report: &mut CheckReport) -> Result<(), DeviceIoError> {
        let salt = self.header.salt(self.layout.shard);
        for slot in 0..2 {
            let subject = Subject::Superblock { shard: self.layout.shard, slot };
            let buffer = self.pool.acquire(1).ok_or(DeviceIoError::Memory)?;
            let at = self.layout.superblock(slot.into());
            match Blocking::new(self.queue).read(at, buffer) {
                Ok(buffer) => {
                    let bytes: &[u8; STRUCTURE_BYTES] =
                        buffer.as_slice().try_into().expect("a page is as long");
                    if let Err(error) = Superblock::parse(bytes, self.layout, salt) {
                        report.note(subject, error);
                    }
                }
                Err(error @ DeviceIoError::Device { .. }) => report.damage(subject, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens the shard as far as can be done without writing.
    fn inspect(&mut self) -> Result<Result<Inspection, OpenError>, DeviceIoError> {
        let namespace = self.queue.namespace().clone();
        let mode = OpeningMode::Inspect;
        let number = self.layout.shard;
        let opening = Opening::new(*self.config, &namespace, self.header, number, mode, self.pool);
        let mut opening = match opening {
            Ok(opening) => opening,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match opening.poll() {
                Some(Ok(Opened::Inspected(inspection))) => return Ok(Ok(*inspection)),
                Some(Ok(Opened::Running(_))) => unreachable!("asked to inspect"),
                Some(Err(OpenError::Memory)) => return Err(DeviceIoError::Memory),
                Some(Err(error)) => return Ok(Err(error)),
                None => {}
            }
            while let Some(submission) = opening.poll_submission() {
                if let Err(refused) = self.queue.submit(submission) {
                    opening.give_back(refused);
                    break;
                }
            }
            self.queue.ring();
            self.queue.poll(64, &mut |completion| opening.complete(completion));
        }
    }

    /// Reads every block that a map or an entry names.
    fn sweep(
        &mut self,
        store: &Store,
        groups: &[RecoveredGroup],
        held: &[HeldPayload],
        shard: &mut ShardReport,
        report: &mut CheckReport,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), DeviceIoError> {
        let number = self.layout.shard;
        let of_entries = held.iter().map(|payload| payload.crcs.len() as u64).sum::<u64>();
        shard.mapped_blocks = groups.iter().map(|group| store.mapped_blocks(group.copyset)).sum();
        let blocks_total = shard.mapped_blocks + of_entries;
        let mut sweep = Sweep::new(self.queue, self.pool, self.layout, report);
        let mut tell = |sweep: &Sweep<'_, Q>| {
            progress(Progress { shard: number, blocks: sweep.blocks(), blocks_total });
        };
        for group in groups {
            let mut after = None;
            while let Some(chunk) = store.chunk_after(group.copyset, after) {
                after = Some(chunk.key.chunk);
                shard.chunks += 1;
                shard.missing_blocks += sweep_chunk(store, chunk.key, &mut sweep)?;
                tell(&sweep);
            }
        }
        for payload in held {
            let mut crcs = payload.crcs.iter();
            let mut block = 0;
            for extent in payload.extents.iter() {
                for granule in extent.start..extent.start.saturating_add(extent.blocks) {
                    let crc = *crcs.next().unwrap_or(&0);
                    if extent.start != crate::journal::NOWHERE {
                        sweep.add(payload.key, block, granule, crc)?;
                    }
                    block += 1;
                }
            }
        }
        sweep.finish()?;
        tell(&sweep);
        shard.checked_blocks = sweep.blocks();
        shard.bad_blocks = sweep.bad_blocks();
        Ok(())
    }
}

/// Adds a chunk's blocks to the sweep; returns how many are mapped but not held here.
fn sweep_chunk<Q: QueuePair + ?Sized>(
    store: &Store,
    key: ChunkKey,
    sweep: &mut Sweep<'_, Q>,
) -> Result<u64, DeviceIoError> {
    let chunk_blocks = store.geometry().chunk_blocks;
    let mut states = BlockStates::new();
    let mut missing = 0;
    let mut first = 0;
    while first < chunk_blocks {
        let blocks = OPERATION_BLOCKS_MAX.min(chunk_blocks - first);
        states.clear();
        store.lookup(key, BlockRange { first, blocks }, &mut states);
        for (block, state) in (first..).zip(&states) {
            match state.place {
                Place::At(granule) => sweep.add(key, block, granule, state.crc)?,
                Place::Missing => missing += 1,
                Place::Hole => {}
            }
        }
        first += blocks;
    }
    Ok(missing)
}

/// Says what is the matter with a group; whether nothing is.
fn judge(
    report: &mut CheckReport,
    subject: Subject,
    group: &RecoveredGroup,
    whole: bool,
    applied: LogIndex,
) -> bool {
    if group.cut_off {
        report.lost(subject, applied.next().0);
    } else if !whole {
        report.damage(subject, &"its state cannot be read");
    } else if group.in_doubt {
        report.note(subject, "waits for its leader to readmit it");
    }
    whole && !group.cut_off
}
