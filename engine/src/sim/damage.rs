//! Damage to a node's device while its process is down.
//!
//! One device is damaged at a time, and no other before its replicas promise again: so a majority
//! always holds everything that was acknowledged, which is what the design asks for. Journal blocks
//! above the mark are left alone: a replica cannot tell their loss from a torn tail.

use std::collections::BTreeMap;

use culvert::chunkserver::rebuild;
use culvert::device::{DeviceHeader, read_header};
use culvert::journal::MetadataEntry;
use culvert::shard::ShardConfig;
use culvert::shard::check::check;
use culvert_memory::Pool;

use super::device::Disk;
use super::random::Random;
use super::world::open_driven;

/// Blocks of the two copies of a device's header.
const HEADERS: [u64; 2] = [0, 255];

/// What happens to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Blocks of the journal below its mark go bad.
    Journal,
    /// A page of a checkpoint goes bad.
    Checkpoint,
    /// One of the two superblocks goes bad.
    Superblock,
    /// One of the two copies of the header goes bad.
    Header,
    /// Everything is gone; somebody puts an empty device in its place.
    Wipe,
}

impl Damage {
    /// One of them, the more interesting ones more often.
    pub fn draw(random: &mut Random) -> Damage {
        match random.below(10) {
            0..5 => Damage::Journal,
            5 => Damage::Checkpoint,
            6 => Damage::Superblock,
            7 => Damage::Header,
            _ => Damage::Wipe,
        }
    }
}

/// Damages a disk that nobody uses; a wipe is the world's. Returns what was hit, in words.
pub fn inflict(damage: Damage, disk: &Disk, pool: &Pool, random: &mut Random) -> String {
    // Looking takes its time, which must not pass on the disk itself. And a mark that a loss of
    // power may take back, while the node recovers, is none.
    let copy = disk.durable_copy(random.fork("copy"));
    let header = header_of(&copy, pool);
    let layout = header.layout.shards[0];
    let block = match damage {
        Damage::Journal => return journal((disk, &copy), pool, &header, random),
        Damage::Checkpoint => {
            let pages = layout.checkpoint_bytes / 4096;
            let area = random.below(2) as u32;
            // Most of an area is empty.
            layout.checkpoint(area) / 4096 + random.below(pages.min(8))
        }
        Damage::Superblock => layout.superblock(random.below(2)) / 4096,
        Damage::Header => HEADERS[random.below(2) as usize],
        Damage::Wipe => return "everything".to_owned(),
    };
    spoil(disk, block, random);
    format!("block {block}")
}

fn journal(
    (disk, copy): (&Disk, &Disk),
    pool: &Pool,
    header: &DeviceHeader,
    random: &mut Random,
) -> String {
    let mut device = open_driven(copy, pool);
    let config = ShardConfig::default();
    let report = check(&mut device, pool, &config, &mut rebuild, &mut |_| ());
    let report = report.expect("memory for a check");
    drop(device);
    let Some(shard) = report.shards.first() else { return "nothing".to_owned() };
    let (position, mark) = (shard.recovery.position, shard.recovery.mark);
    let layout = header.layout.shards[0];
    let ring = layout.ring_bytes / 4096;
    let entries = entries_in_metadata(copy, header);
    if mark <= position {
        return "nothing".to_owned();
    }
    let first = position + random.below(mark - position);
    let blocks = (1 + random.below(4)).min(mark - first);
    for position in first..first + blocks {
        let block = layout.ring() / 4096 + position % ring;
        spoil(disk, entries.get(&position).copied().unwrap_or(block), random);
    }
    format!("journal positions {first}..{} of {position}..{mark}", first + blocks)
}

/// Positions whose entry stands in metadata, and the blocks that these belong to.
fn entries_in_metadata(disk: &Disk, header: &DeviceHeader) -> BTreeMap<u64, u64> {
    let layout = header.layout.shards[0];
    let salt = header.salt(0);
    let places = if disk.has_metadata() { 0..layout.data_blocks() } else { 0..0 };
    let entry = |place| {
        let block = layout.data() / 4096 + u64::from(place);
        let entry = MetadataEntry::parse(&disk.read_metadata(block), place, salt)?;
        Some((entry.stamp.position, block))
    };
    places.filter_map(entry).collect()
}

/// Lets a block go bad: one bit is another, or it cannot be read.
pub fn spoil(disk: &Disk, block: u64, random: &mut Random) {
    if random.chance(500_000) { disk.flip_bit(block) } else { disk.spoil(block..block + 1) }
}

fn header_of(disk: &Disk, pool: &Pool) -> DeviceHeader {
    read_header(&mut open_driven(disk, pool), pool).expect("one copy is whole")
}
