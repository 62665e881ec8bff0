//! Where the parts of a device lie.

use crate::ids::{BLOCK_SIZE, SEGMENTS_MAX};

/// Most shards of a device: their superblocks fit between the two copies of the header.
pub const SHARDS_MAX: u32 = 64;

/// Smallest journal ring of a shard, in bytes.
pub const RING_BYTES_MIN: u64 = 4 << 20;

/// One of so many parts of the data space goes into a segment of entries in metadata, at most.
pub const SEGMENT_DATA_SHARE: u64 = 16;

/// Smallest checkpoint area, in bytes.
pub const CHECKPOINT_BYTES_MIN: u64 = 512 << 10;

/// Bytes before the first shard.
pub(super) const HEAD_BYTES: u64 = 1 << 20;

/// Where the copy of the device header lies.
pub(super) const HEADER_COPY_AT: u64 = HEAD_BYTES - GRANULE;

const GRANULE: u64 = BLOCK_SIZE as u64;

/// A ring above this size is not planned unless 1/256 of the device asks for it.
const RING_BYTES_LARGE: u64 = 1 << 30;

/// Bytes of one mapped block in a checkpoint, generously: two maps (a chunk and its snapshot) of
/// 20 bytes each.
const MAP_BYTES_PER_BLOCK: u64 = 40;

const _: () = assert!((1 + 2 * SHARDS_MAX as u64) * GRANULE <= HEADER_COPY_AT);

/// What a plan may be asked for.
#[derive(Clone, Copy, Debug)]
pub struct LayoutOptions {
    /// Shards; each is run by one core.
    pub shards: u32,
    /// Bytes of the journal ring of each shard; `None`: 1/64 of the device, at most 1 GiB a shard,
    /// but never less than 1/256 of the device.
    pub ring_bytes: Option<u64>,
    /// Bytes of one of the two checkpoint areas of each shard; `None`: 1/100 of the shard.
    pub checkpoint_bytes: Option<u64>,
    /// Blocks of 4 KiB in a chunk.
    pub chunk_blocks: u32,
    /// Whether the journal's entry of a single block stands in that block's metadata.
    pub metadata: bool,
}

impl Default for LayoutOptions {
    fn default() -> LayoutOptions {
        LayoutOptions {
            shards: 1,
            ring_bytes: None,
            checkpoint_bytes: None,
            chunk_blocks: 4096,
            metadata: false,
        }
    }
}

/// Why a device cannot be laid out as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Caller: no shard, or more than [`SHARDS_MAX`].
    #[error("{shards} shards asked for; 1 to {SHARDS_MAX} are possible")]
    Shards {
        /// The number asked for.
        shards: u32,
    },
    /// Device: its logical blocks are neither 512 nor 4096 bytes.
    #[error("logical blocks of {block_size} bytes; 512 and 4096 are supported")]
    BlockSize {
        /// Their size.
        block_size: u32,
    },
    /// Device: metadata can say an entry of a whole block only.
    #[error(
        "logical blocks of {block_size} bytes; entries in metadata need blocks of 4096, and at least \
         {} bytes of metadata beside each",
        culvert_nvme::METADATA_BYTES
    )]
    Metadata {
        /// Their size.
        block_size: u32,
    },
    /// Caller: a ring below [`RING_BYTES_MIN`] or below 1/256 of the shard, or an odd size.
    #[error("a ring of {bytes} bytes; at least {least} in steps of 4096 are needed")]
    Ring {
        /// The size asked for.
        bytes: u64,
        /// The least possible.
        least: u64,
    },
    /// Caller: a checkpoint area below [`CHECKPOINT_BYTES_MIN`], or an odd size.
    #[error("checkpoint areas of {bytes} bytes; at least {CHECKPOINT_BYTES_MIN} are needed")]
    Checkpoint {
        /// The size asked for.
        bytes: u64,
    },
    /// Caller: a chunk of no blocks.
    #[error("a chunk has at least one block")]
    Chunk,
    /// Device: nothing would be left for data.
    #[error("{device_bytes} bytes are too few for {shards} shards")]
    TooSmall {
        /// Size of the device.
        device_bytes: u64,
        /// Shards asked for.
        shards: u32,
    },
    /// Caller: a shard would have more than 2^32 - 1 blocks.
    #[error("a shard of {bytes} bytes is too large; use more shards")]
    TooLarge {
        /// Size of the shard's data space.
        bytes: u64,
    },
}

/// The ranges of one shard, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    /// Number of the shard.
    pub shard: u32,
    /// First byte: that of the ring.
    pub start: u64,
    /// Bytes of the journal ring.
    pub ring_bytes: u64,
    /// Bytes of one checkpoint area.
    pub checkpoint_bytes: u64,
    /// Bytes of the data space.
    pub data_bytes: u64,
}

impl ShardLayout {
    /// First byte of a superblock slot.
    #[must_use]
    pub fn superblock(&self, sequence: u64) -> u64 {
        GRANULE * (1 + 2 * u64::from(self.shard) + sequence % 2)
    }

    /// First byte of the journal ring.
    #[must_use]
    pub fn ring(&self) -> u64 {
        self.start
    }

    /// First byte of checkpoint area 0 or 1.
    #[must_use]
    pub fn checkpoint(&self, area: u32) -> u64 {
        assert!(area < 2, "there are two areas");
        self.start + self.ring_bytes + u64::from(area) * self.checkpoint_bytes
    }

    /// First byte of the data space.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.start + self.ring_bytes + 2 * self.checkpoint_bytes
    }

    /// Blocks of 4 KiB in the data space.
    #[must_use]
    pub fn data_blocks(&self) -> u32 {
        (self.data_bytes / GRANULE) as u32
    }

    /// Blocks that a segment of entries in metadata is to have: as many as the ring takes until a
    /// checkpoint begins, where the data space is not small.
    #[must_use]
    pub fn segment_blocks(&self) -> u32 {
        let of_data = u64::from(self.data_blocks()) / SEGMENT_DATA_SHARE;
        (self.ring_bytes / GRANULE / 2).min(of_data) as u32
    }

    /// The byte behind the shard; `None` if no such number exists.
    pub(super) fn end(&self) -> Option<u64> {
        let areas = self.checkpoint_bytes.checked_mul(2)?;
        let head = self.start.checked_add(self.ring_bytes)?.checked_add(areas)?;
        head.checked_add(self.data_bytes)
    }
}

/// The plan of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes covered.
    pub device_bytes: u64,
    /// Logical block size of the device.
    pub block_size: u32,
    /// Blocks of 4 KiB in a chunk.
    pub chunk_blocks: u32,
    /// Whether the journal's entry of a single block stands in that block's metadata.
    pub metadata: bool,
    /// The shards, in order of number and place.
    pub shards: Vec<ShardLayout>,
}

impl Layout {
    /// Blocks of a shard's data space that its segments of entries in metadata may keep from use.
    #[must_use]
    pub fn kept_blocks(&self, shard: &ShardLayout) -> u64 {
        if self.metadata { SEGMENTS_MAX as u64 * u64::from(shard.segment_blocks()) } else { 0 }
    }

    /// Lays out a device of `device_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] says which wish or property of the device stands against it.
    pub fn plan(
        device_bytes: u64,
        block_size: u32,
        options: &LayoutOptions,
    ) -> Result<Layout, LayoutError> {
        let LayoutOptions { shards, chunk_blocks, metadata, .. } = *options;
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(LayoutError::Shards { shards });
        }
        if !matches!(block_size, 512 | 4096) {
            return Err(LayoutError::BlockSize { block_size });
        }
        if metadata && block_size as usize != BLOCK_SIZE {
            return Err(LayoutError::Metadata { block_size });
        }
        if chunk_blocks == 0 {
            return Err(LayoutError::Chunk);
        }
        let too_small = LayoutError::TooSmall { device_bytes, shards };
        let usable = device_bytes.checked_sub(HEAD_BYTES).ok_or(too_small)?;
        let each = round_down(usable / u64::from(shards));
        let ring_bytes = ring_bytes(each, options.ring_bytes)?;
        let checkpoint_bytes = checkpoint_bytes(each, options.checkpoint_bytes)?;
        let data_bytes = each
            .checked_sub(ring_bytes)
            .and_then(|rest| rest.checked_sub(checkpoint_bytes.checked_mul(2)?))
            .filter(|data| data / GRANULE >= u64::from(chunk_blocks.min(64)))
            .ok_or(too_small)?;
        if data_bytes / GRANULE >= u64::from(u32::MAX) {
            return Err(LayoutError::TooLarge { bytes: data_bytes });
        }
        let shards = (0..shards)
            .map(|shard| ShardLayout {
                shard,
                start: HEAD_BYTES + u64::from(shard) * each,
                ring_bytes,
                checkpoint_bytes,
                data_bytes,
            })
            .collect();
        Ok(Layout { device_bytes, block_size, chunk_blocks, metadata, shards })
    }
}

fn round_down(bytes: u64) -> u64 {
    bytes - bytes % GRANULE
}

fn ring_bytes(each: u64, asked: Option<u64>) -> Result<u64, LayoutError> {
    let least = round_down(each / 256).max(RING_BYTES_MIN);
    match asked {
        Some(bytes) if bytes < least || !bytes.is_multiple_of(GRANULE) => {
            Err(LayoutError::Ring { bytes, least })
        }
        Some(bytes) => Ok(bytes),
        None => Ok(round_down(each / 64).min(RING_BYTES_LARGE).max(least)),
    }
}

fn checkpoint_bytes(each: u64, asked: Option<u64>) -> Result<u64, LayoutError> {
    match asked {
        Some(bytes) if bytes < CHECKPOINT_BYTES_MIN || !bytes.is_multiple_of(GRANULE) => {
            Err(LayoutError::Checkpoint { bytes })
        }
        Some(bytes) => Ok(bytes),
        None => {
            let map = each / GRANULE * MAP_BYTES_PER_BLOCK;
            Ok(round_down(map).max(CHECKPOINT_BYTES_MIN))
        }
    }
}
