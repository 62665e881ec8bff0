//! The device header: identity and geometry, written once.

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::STRUCTURE_BYTES;
use super::layout::{HEAD_BYTES, Layout, SHARDS_MAX, ShardLayout};
use super::salt::Salt;
use crate::ids::BLOCK_SIZE;

/// The version of the format that this code writes and reads.
pub const DEVICE_VERSION: u32 = 1;

/// The same, with the journal's entries of single blocks in the metadata of these blocks.
pub const DEVICE_VERSION_METADATA: u32 = 2;

const MAGIC: [u8; 8] = *b"CULVERT\0";
const CRC_AT: usize = 12;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    uuid: [u8; 16],
    created_ns: U64,
    device_bytes: U64,
    granule: U32,
    block_size: U32,
    shards: U32,
    chunk_blocks: U32,
    table: [ShardBytes; SHARDS_MAX as usize],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ShardBytes {
    start: U64,
    ring_bytes: U64,
    checkpoint_bytes: U64,
    data_bytes: U64,
}

const _: () = assert!(size_of::<HeaderBytes>() == 64 + 32 * SHARDS_MAX as usize);
const _: () = assert!(size_of::<HeaderBytes>() <= STRUCTURE_BYTES);
const _: () = assert!(std::mem::offset_of!(HeaderBytes, crc) == CRC_AT);

/// Why bytes are not the header of a device that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is no header: the device was never formatted by Culvert.
    #[error("not a Culvert device")]
    NotCulvert,
    /// Another version of Culvert formatted it.
    #[error(
        "format version {found}; this program knows versions {DEVICE_VERSION} and \
         {DEVICE_VERSION_METADATA}"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// The header fails its checksum.
    #[error("the device header is damaged")]
    Checksum,
    /// A field holds what `format` never writes; the checksum is right.
    #[error("device header field {0} holds an impossible value")]
    Field(&'static str),
    /// The header is whole, but was written for a device of another geometry.
    #[error(
        "the header was written for {bytes} bytes in blocks of {block_size}, \
         but the device has {device_bytes} in blocks of {device_block_size}"
    )]
    Foreign {
        /// Bytes that the header covers.
        bytes: u64,
        /// Block size in the header.
        block_size: u32,
        /// Bytes of the device.
        device_bytes: u64,
        /// Block size of the device.
        device_block_size: u32,
    },
    /// Entries of the journal stand in metadata, which the device has not, or no more.
    #[error(
        "its journal is in part in the metadata of blocks, {} bytes beside each, and the device has \
         {metadata_bytes}",
        culvert_nvme::METADATA_BYTES
    )]
    Metadata {
        /// Bytes of metadata of each block of the device.
        metadata_bytes: u32,
    },
    /// The header is whole, but it is not the device that was asked for.
    #[error("the device is {found}, not {expected}")]
    Identity {
        /// The UUID found.
        found: Uuid,
        /// The UUID asked for.
        expected: Uuid,
    },
}

/// Identity and geometry of a formatted device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHeader {
    /// The device's name in the cluster, minted by `format`.
    pub uuid: Uuid,
    /// When it was formatted, nanoseconds since 1970.
    pub created_ns: u64,
    /// Where everything lies.
    pub layout: Layout,
}

impl DeviceHeader {
    /// The header as it is written.
    #[must_use]
    pub fn emit(&self) -> [u8; STRUCTURE_BYTES] {
        let empty = ShardBytes {
            start: U64::ZERO,
            ring_bytes: U64::ZERO,
            checkpoint_bytes: U64::ZERO,
            data_bytes: U64::ZERO,
        };
        let version = if self.layout.metadata { DEVICE_VERSION_METADATA } else { DEVICE_VERSION };
        let mut fields = HeaderBytes {
            magic: MAGIC,
            version: version.into(),
            crc: U32::ZERO,
            uuid: *self.uuid.as_bytes(),
            created_ns: self.created_ns.into(),
            device_bytes: self.layout.device_bytes.into(),
            granule: (BLOCK_SIZE as u32).into(),
            block_size: self.layout.block_size.into(),
            shards: (self.layout.shards.len() as u32).into(),
            chunk_blocks: self.layout.chunk_blocks.into(),
            table: [empty; SHARDS_MAX as usize],
        };
        for (entry, shard) in fields.table.iter_mut().zip(&self.layout.shards) {
            *entry = ShardBytes {
                start: shard.start.into(),
                ring_bytes: shard.ring_bytes.into(),
                checkpoint_bytes: shard.checkpoint_bytes.into(),
                data_bytes: shard.data_bytes.into(),
            };
        }
        let mut bytes = [0; STRUCTURE_BYTES];
        bytes[..size_of::<HeaderBytes>()].copy_from_slice(fields.as_bytes());
        let crc = crc_without_itself(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one copy of the header.
    ///
    /// # Errors
    ///
    /// [`HeaderError`], except for the two kinds that compare with the device.
    pub fn parse(bytes: &[u8; STRUCTURE_BYTES]) -> Result<DeviceHeader, HeaderError> {
        let (fields, _) = HeaderBytes::ref_from_prefix(bytes).expect("the size is asserted");
        if fields.magic != MAGIC {
            return Err(HeaderError::NotCulvert);
        }
        let metadata = match fields.version.get() {
            DEVICE_VERSION => false,
            DEVICE_VERSION_METADATA => true,
            found => return Err(HeaderError::Version { found }),
        };
        if crc_without_itself(bytes) != fields.crc.get() {
            return Err(HeaderError::Checksum);
        }
        if fields.granule.get() != BLOCK_SIZE as u32 {
            return Err(HeaderError::Field("granule"));
        }
        if !matches!(fields.block_size.get(), 512 | 4096) {
            return Err(HeaderError::Field("block size"));
        }
        if metadata && fields.block_size.get() != BLOCK_SIZE as u32 {
            return Err(HeaderError::Field("block size"));
        }
        if fields.chunk_blocks.get() == 0 {
            return Err(HeaderError::Field("chunk blocks"));
        }
        Ok(DeviceHeader {
            uuid: Uuid::from_bytes(fields.uuid),
            created_ns: fields.created_ns.get(),
            layout: Layout {
                device_bytes: fields.device_bytes.get(),
                block_size: fields.block_size.get(),
                chunk_blocks: fields.chunk_blocks.get(),
                metadata,
                shards: parse_shards(fields)?,
            },
        })
    }

    /// Checks that the header belongs on a device of this geometry: bytes, bytes of a block, and of
    /// metadata beside each.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Foreign`] or [`HeaderError::Metadata`] if it does not.
    pub fn check_geometry(
        &self,
        bytes: u64,
        block_size: u32,
        metadata_bytes: u32,
    ) -> Result<(), HeaderError> {
        if self.layout.device_bytes > bytes || self.layout.block_size != block_size {
            return Err(HeaderError::Foreign {
                bytes: self.layout.device_bytes,
                block_size: self.layout.block_size,
                device_bytes: bytes,
                device_block_size: block_size,
            });
        }
        if self.layout.metadata && (metadata_bytes as usize) < culvert_nvme::METADATA_BYTES {
            return Err(HeaderError::Metadata { metadata_bytes });
        }
        Ok(())
    }

    /// Checks that this is the device that was asked for.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Identity`] if it is another.
    pub fn check_identity(&self, expected: Uuid) -> Result<(), HeaderError> {
        if self.uuid != expected {
            return Err(HeaderError::Identity { found: self.uuid, expected });
        }
        Ok(())
    }

    /// The salt of a shard's checksums.
    #[must_use]
    pub fn salt(&self, shard: u32) -> Salt {
        Salt::new(&self.uuid, self.created_ns, shard)
    }
}

/// The shards of a header whose checksum is right: in order, on granules, inside the device.
fn parse_shards(fields: &HeaderBytes) -> Result<Vec<ShardLayout>, HeaderError> {
    let count = fields.shards.get();
    if !(1..=SHARDS_MAX).contains(&count) {
        return Err(HeaderError::Field("shards"));
    }
    let mut free_from = HEAD_BYTES;
    let mut shards = Vec::with_capacity(count as usize);
    for (shard, entry) in (0..count).zip(&fields.table) {
        let layout = ShardLayout {
            shard,
            start: entry.start.get(),
            ring_bytes: entry.ring_bytes.get(),
            checkpoint_bytes: entry.checkpoint_bytes.get(),
            data_bytes: entry.data_bytes.get(),
        };
        let end = layout.end().ok_or(HeaderError::Field("shard range"))?;
        let parts = [layout.start, layout.ring_bytes, layout.checkpoint_bytes, layout.data_bytes];
        let granules = parts.iter().all(|part| part % BLOCK_SIZE as u64 == 0);
        let placed = layout.start >= free_from && end <= fields.device_bytes.get();
        let sized = parts.iter().all(|&part| part > 0)
            && layout.data_bytes / (BLOCK_SIZE as u64) < u64::from(u32::MAX);
        if !granules || !placed || !sized {
            return Err(HeaderError::Field("shard range"));
        }
        free_from = end;
        shards.push(layout);
    }
    Ok(shards)
}

fn crc_without_itself(bytes: &[u8; STRUCTURE_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}
