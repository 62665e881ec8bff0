//! The shard superblock: which checkpoint counts.

use culvert_nvme::Status;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::STRUCTURE_BYTES;
use super::layout::ShardLayout;
use super::salt::Salt;
use crate::ids::{BLOCK_SIZE, Extent, SEGMENT_LENGTH_FACTOR, SEGMENTS_NAMED};

const MAGIC: [u8; 8] = *b"CVSUPER\0";
const CRC_AT: usize = 8;
const AREA_NONE: u32 = u32::MAX;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SuperblockBytes {
    magic: [u8; 8],
    crc: U32,
    shard: U32,
    sequence: U64,
    position: U64,
    mark: U64,
    incarnation: U32,
    area: U32,
    number: U64,
    pages: U32,
    pages_crc: U32,
    segments: [[U32; 2]; SEGMENTS_NAMED],
}

const _: () = assert!(size_of::<SuperblockBytes>() == 88);
const _: () = assert!(std::mem::offset_of!(SuperblockBytes, crc) == CRC_AT);

/// Why a slot holds no superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// No magic: never written, or overwritten by something else.
    #[error("no superblock")]
    Missing,
    /// Damaged, torn, or of another format of the device.
    #[error("the superblock fails its checksum")]
    Checksum,
    /// The device cannot read it.
    #[error("the superblock cannot be read: {0}")]
    Unreadable(Status),
    /// A field holds what no writer produces; the checksum is right.
    #[error("superblock field {0} holds an impossible value")]
    Field(&'static str),
}

/// Where a checkpoint lies and how to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPlace {
    /// Area 0 or 1.
    pub area: u32,
    /// Number of the checkpoint, from 1.
    pub number: u64,
    /// Its pages.
    pub pages: u32,
    /// CRC-32C of the checksums of its pages, in order.
    pub pages_crc: u32,
}

/// The state of a shard from which recovery starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts the superblocks of the shard, from 1; also names the slot.
    pub sequence: u64,
    /// Journal position from which replay begins.
    pub position: u64,
    /// Every block and payload below this position was durable when this was written.
    pub mark: u64,
    /// The incarnation that wrote it.
    pub incarnation: u32,
    /// The checkpoint; none: the shard was empty at position 0.
    pub checkpoint: Option<CheckpointPlace>,
    /// Ranges of the data space in which journal entries stand in metadata; the one for entries from
    /// the next superblock on is the last. Those without blocks are none.
    pub segments: [Extent; SEGMENTS_NAMED],
}

impl Superblock {
    /// The superblock of a shard that holds nothing.
    #[must_use]
    pub fn empty() -> Superblock {
        Superblock {
            sequence: 1,
            position: 0,
            mark: 0,
            incarnation: 0,
            checkpoint: None,
            segments: Default::default(),
        }
    }

    /// The superblock as it is written.
    #[must_use]
    pub fn emit(&self, shard: u32, salt: Salt) -> [u8; STRUCTURE_BYTES] {
        let place = self.checkpoint.unwrap_or(CheckpointPlace {
            area: AREA_NONE,
            number: 0,
            pages: 0,
            pages_crc: 0,
        });
        let fields = SuperblockBytes {
            magic: MAGIC,
            crc: U32::ZERO,
            shard: shard.into(),
            sequence: self.sequence.into(),
            position: self.position.into(),
            mark: self.mark.into(),
            incarnation: self.incarnation.into(),
            area: place.area.into(),
            number: place.number.into(),
            pages: place.pages.into(),
            pages_crc: place.pages_crc.into(),
            segments: self.segments.map(|extent| [extent.start.into(), extent.blocks.into()]),
        };
        let mut bytes = [0; STRUCTURE_BYTES];
        bytes[..size_of::<SuperblockBytes>()].copy_from_slice(fields.as_bytes());
        let crc = crc_without_itself(&bytes, salt);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one slot of a shard.
    ///
    /// # Errors
    ///
    /// [`SuperblockError`] says why the slot does not count.
    pub fn parse(
        bytes: &[u8; STRUCTURE_BYTES],
        layout: &ShardLayout,
        salt: Salt,
    ) -> Result<Superblock, SuperblockError> {
        let (fields, _) = SuperblockBytes::ref_from_prefix(bytes).expect("the size is asserted");
        if fields.magic != MAGIC {
            return Err(SuperblockError::Missing);
        }
        if crc_without_itself(bytes, salt) != fields.crc.get() {
            return Err(SuperblockError::Checksum);
        }
        if fields.shard.get() != layout.shard {
            return Err(SuperblockError::Field("shard"));
        }
        if fields.sequence.get() == 0 {
            return Err(SuperblockError::Field("sequence"));
        }
        if fields.position.get() > fields.mark.get() {
            return Err(SuperblockError::Field("position"));
        }
        let checkpoint = match fields.area.get() {
            AREA_NONE if fields.position.get() == 0 => None,
            area @ (0 | 1) => Some(CheckpointPlace {
                area,
                number: fields.number.get(),
                pages: fields.pages.get(),
                pages_crc: fields.pages_crc.get(),
            }),
            _ => return Err(SuperblockError::Field("area")),
        };
        let pages = checkpoint.map_or(0, |place| u64::from(place.pages));
        if pages * BLOCK_SIZE as u64 > layout.checkpoint_bytes {
            return Err(SuperblockError::Field("pages"));
        }
        let segments = fields
            .segments
            .map(|[start, blocks]| Extent { start: start.get(), blocks: blocks.get() });
        let longest = u64::from(layout.segment_blocks()) * u64::from(SEGMENT_LENGTH_FACTOR);
        let inside = |extent: &Extent| {
            let end = extent.start.checked_add(extent.blocks);
            let short = u64::from(extent.blocks) <= longest;
            short && end.is_some_and(|end| end <= layout.data_blocks())
        };
        if !segments.iter().all(inside) {
            return Err(SuperblockError::Field("segments"));
        }
        Ok(Superblock {
            sequence: fields.sequence.get(),
            position: fields.position.get(),
            mark: fields.mark.get(),
            incarnation: fields.incarnation.get(),
            checkpoint,
            segments,
        })
    }
}

fn crc_without_itself(bytes: &[u8; STRUCTURE_BYTES], salt: Salt) -> u32 {
    crc32c::crc32c_append(salt.crc(&bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}
