//! Identify data: what a controller says about itself and a namespace.
//!
//! NVM Express Base Specification 2.0, section 5.17.2.1, figure 275 (controller), and NVM Command
//! Set Specification 1.0, section 4.1.5, figures 97 and 98 (namespace). Both are 4096 bytes, of
//! which only the fields used here have names. What a device answers has type [`IdentifyNamespace`]
//! until [`IdentifyNamespace::geometry`] has checked it.

use std::fmt;

use crate::submission_entry::NamespaceId;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Controller or namespace structure, dword 10, bits 7:0 of Identify.
pub mod structure {
    /// Identify Namespace data structure.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller data structure.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list: those above the one that the command names.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
}

/// ONCS, bit 2: Dataset Management is supported.
pub(crate) const SUPPORTS_DATASET_MANAGEMENT: u16 = 1 << 2;
/// ONCS, bit 3: Write Zeroes is supported.
pub(crate) const SUPPORTS_WRITE_ZEROES: u16 = 1 << 3;
/// VWC, bit 0: a volatile write cache is present.
const CACHE_PRESENT: u8 = 1;
/// VWC, bits 2:1, 11b: flush supports the broadcast namespace identifier.
const FLUSH_ALL_SUPPORTED: u8 = 3 << 1;
/// FLBAS, bit 4: metadata follow the data of each block.
const INTERLEAVED: u8 = 1 << 4;
/// DPS, bits 2:0: type of protection information, 0 being none.
const PROTECTION_TYPE: u8 = 7;
/// DLFEAT, bits 2:0, 001b: deallocated blocks read as zeroes; bit 3: Write Zeroes deallocates.
const DEALLOCATED_READ_ZEROES: u8 = 1 | 1 << 3;
/// SQES and CQES of an NVM controller: sizes of queue entries, required and largest.
const SUBMISSION_ENTRY_SIZES: u8 = 0x66;
const COMPLETION_ENTRY_SIZES: u8 = 0x44;

/// Text of fixed length: ASCII, padded with spaces.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct AsciiField<const N: usize>([u8; N]);

impl<const N: usize> AsciiField<N> {
    /// Pads or cuts `text`; what is not printable ASCII becomes `?`.
    pub fn new(text: &str) -> Self {
        let mut bytes = [b' '; N];
        for (byte, character) in bytes.iter_mut().zip(text.chars()) {
            let printable = character == ' ' || character.is_ascii_graphic();
            *byte = if printable { character as u8 } else { b'?' };
        }
        AsciiField(bytes)
    }

    /// The text without padding. What a device sends and is not printable ASCII is cut off.
    pub fn as_str(&self) -> &str {
        let printable = self.0.iter().take_while(|byte| (0x20..0x7f).contains(*byte)).count();
        std::str::from_utf8(&self.0[..printable]).unwrap_or_default().trim_end()
    }
}

impl<const N: usize> fmt::Display for AsciiField<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for AsciiField<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Identify Controller data.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentifyController {
    /// VID, bytes 1:0, and SSVID, bytes 3:2.
    pub vendor: [U16; 2],
    /// SN, bytes 23:4: serial number.
    pub serial: AsciiField<20>,
    /// MN, bytes 63:24: model number.
    pub model: AsciiField<40>,
    /// FR, bytes 71:64: firmware revision.
    pub firmware: AsciiField<8>,
    reserved_72: [u8; 5],
    /// MDTS, byte 77: largest transfer as a power of two of the smallest page; 0 is unlimited.
    pub transfer_size_max: u8,
    reserved_78: [u8; 2],
    /// VER, bytes 83:80: version.
    pub version: U32,
    reserved_84: [u8; 8],
    /// OAES, bytes 95:92: notices that it offers.
    pub optional_events: U32,
    reserved_96: [u8; 416],
    /// SQES, byte 512: sizes of submission entries.
    pub submission_entry_sizes: u8,
    /// CQES, byte 513: sizes of completion entries.
    pub completion_entry_sizes: u8,
    reserved_514: [u8; 2],
    /// NN, bytes 519:516: number of namespaces.
    pub namespaces: U32,
    /// ONCS, bytes 521:520: optional commands.
    pub optional_commands: U16,
    reserved_522: [u8; 3],
    /// VWC, byte 525: volatile write cache.
    pub volatile_write_cache: u8,
    reserved_526: [u8; 3570],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);
const _: () = assert!(std::mem::offset_of!(IdentifyController, transfer_size_max) == 77);
const _: () = assert!(std::mem::offset_of!(IdentifyController, optional_events) == 92);
const _: () = assert!(std::mem::offset_of!(IdentifyController, submission_entry_sizes) == 512);
const _: () = assert!(std::mem::offset_of!(IdentifyController, optional_commands) == 520);
const _: () = assert!(std::mem::offset_of!(IdentifyController, volatile_write_cache) == 525);

impl IdentifyController {
    /// What an emulated controller says of itself; `transfer_size_max` as in MDTS.
    pub fn emulated(model: &str, serial: &str, transfer_size_max: u8, cache: bool) -> Self {
        let mut identify = <Self as zerocopy::FromZeros>::new_zeroed();
        identify.serial = AsciiField::new(serial);
        identify.model = AsciiField::new(model);
        identify.firmware = AsciiField::new(env!("CARGO_PKG_VERSION"));
        identify.transfer_size_max = transfer_size_max;
        identify.submission_entry_sizes = SUBMISSION_ENTRY_SIZES;
        identify.completion_entry_sizes = COMPLETION_ENTRY_SIZES;
        identify.namespaces = U32::new(1);
        identify.optional_commands = U16::new(SUPPORTS_DATASET_MANAGEMENT | SUPPORTS_WRITE_ZEROES);
        identify.volatile_write_cache = FLUSH_ALL_SUPPORTED | if cache { CACHE_PRESENT } else { 0 };
        identify
    }

    /// Whether a volatile write cache is present. Whether it is enabled is a feature.
    pub fn has_volatile_write_cache(&self) -> bool {
        self.volatile_write_cache & CACHE_PRESENT != 0
    }

    /// Largest transfer in bytes where the smallest memory page has `page_size_min` bytes; `None`
    /// when the device has no limit.
    pub fn transfer_bytes_max(&self, page_size_min: u64) -> Option<u64> {
        match self.transfer_size_max {
            0 => None,
            power => 1u64
                .checked_shl(u32::from(power))
                .and_then(|pages| pages.checked_mul(page_size_min)),
        }
    }
}

/// Active Namespace ID list: ascending, ended by 0 where it is shorter.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ActiveNamespaces([U32; 1024]);

const _: () = assert!(size_of::<ActiveNamespaces>() == 4096);

impl ActiveNamespaces {
    /// What an emulated controller answers.
    pub fn emulated(ids: &[NamespaceId]) -> Self {
        let mut list = <Self as zerocopy::FromZeros>::new_zeroed();
        for (entry, id) in list.0.iter_mut().zip(ids) {
            entry.set(id.0);
        }
        list
    }

    /// The namespaces.
    pub fn ids(&self) -> impl Iterator<Item = NamespaceId> + '_ {
        self.0.iter().map(|id| NamespaceId(id.get())).take_while(|id| id.0 != 0)
    }
}

/// One format that a namespace supports: 4 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LbaFormat {
    /// MS: bytes of metadata of each block.
    pub metadata_bytes: U16,
    /// LBADS: size of a block as a power of two.
    pub block_size_power: u8,
    /// RP: relative performance.
    pub relative_performance: u8,
}

/// Identify Namespace data.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE, bytes 7:0: size in blocks.
    pub size: U64,
    /// NCAP, bytes 15:8: blocks that may be allocated.
    pub capacity: U64,
    /// NUSE, bytes 23:16: blocks that are allocated.
    pub utilization: U64,
    /// NSFEAT, byte 24: features.
    pub features: u8,
    /// NLBAF, byte 25: number of formats, zero-based.
    pub formats_max: u8,
    /// FLBAS, byte 26: format in use.
    pub format: u8,
    reserved_27: [u8; 2],
    /// DPS, byte 29: protection information in use.
    pub protection: u8,
    reserved_30: [u8; 3],
    /// DLFEAT, byte 33: what deallocated blocks read as.
    pub deallocate_features: u8,
    reserved_34: [u8; 94],
    /// LBAF, bytes 383:128: formats.
    pub formats: [LbaFormat; 64],
    reserved_384: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(std::mem::offset_of!(IdentifyNamespace, deallocate_features) == 33);
const _: () = assert!(std::mem::offset_of!(IdentifyNamespace, formats) == 128);

/// Checked size and format of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of a block in bytes: 512 or 4096.
    pub block_size: u32,
    /// Number of blocks, not zero.
    pub blocks: u64,
    /// Bytes of metadata of each block, kept apart from its data.
    pub metadata_bytes: u32,
}

/// Why a namespace cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Device: it has no blocks, so it is not there.
    #[error("the namespace has no blocks")]
    Empty,
    /// Device: more bytes than an address holds.
    #[error("{blocks} blocks are more than an address can hold")]
    TooLarge {
        /// Its number of blocks.
        blocks: u64,
    },
    /// Caller: the namespace is formatted with blocks of a size that is not supported.
    #[error("blocks of 2^{power} bytes; supported are 512 and 4096 (reformat the namespace)")]
    BlockSize {
        /// The size as a power of two.
        power: u8,
    },
    /// Caller: the namespace is formatted with metadata between its blocks.
    #[error(
        "blocks are followed by {bytes} bytes of metadata each, so that they do not lie on pages \
         (reformat the namespace with separate metadata, or none)"
    )]
    Interleaved {
        /// Bytes of metadata of each block.
        bytes: u16,
    },
    /// Caller: the namespace is formatted with protection information.
    #[error("blocks carry protection information (reformat the namespace without)")]
    Protected,
}

impl IdentifyNamespace {
    /// What an emulated controller says of its namespace.
    pub fn emulated(geometry: Geometry) -> Self {
        let mut identify = <Self as zerocopy::FromZeros>::new_zeroed();
        identify.size = U64::new(geometry.blocks);
        identify.capacity = U64::new(geometry.blocks);
        identify.utilization = U64::new(geometry.blocks);
        identify.deallocate_features = DEALLOCATED_READ_ZEROES;
        identify.formats[0].block_size_power = geometry.block_size.trailing_zeros() as u8;
        identify.formats[0].metadata_bytes = U16::new(geometry.metadata_bytes as u16);
        identify
    }

    /// Checks size and format.
    ///
    /// # Errors
    ///
    /// When the namespace is empty or formatted in a way that is not supported.
    pub fn geometry(&self) -> Result<Geometry, GeometryError> {
        // FLBAS: bits 3:0 and, above them, bits 6:5.
        let index = (self.format & 0xf) | (self.format >> 5 & 0x3) << 4;
        let format = self.formats[usize::from(index)];
        let blocks = self.size.get();
        if blocks == 0 {
            return Err(GeometryError::Empty);
        }
        let metadata_bytes = format.metadata_bytes.get();
        if metadata_bytes != 0 && self.format & INTERLEAVED != 0 {
            return Err(GeometryError::Interleaved { bytes: metadata_bytes });
        }
        if self.protection & PROTECTION_TYPE != 0 {
            return Err(GeometryError::Protected);
        }
        let block_size = match format.block_size_power {
            9 => 512,
            12 => 4096,
            power => return Err(GeometryError::BlockSize { power }),
        };
        if blocks.checked_mul(u64::from(block_size)).is_none() {
            return Err(GeometryError::TooLarge { blocks });
        }
        Ok(Geometry { block_size, blocks, metadata_bytes: metadata_bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_fields_lie_where_the_figure_says() {
        let identify = IdentifyController::emulated("model", "serial", 9, true);
        let bytes = identify.as_bytes();
        assert_eq!(&bytes[4..24], b"serial              ");
        assert_eq!(&bytes[24..30], b"model ");
        assert_eq!(bytes[77], 9);
        assert_eq!(bytes[512..514], [0x66, 0x44]);
        assert_eq!(bytes[516..520], [1, 0, 0, 0]);
        assert_eq!(bytes[520..522], [0x0c, 0]);
        assert_eq!(bytes[525], 7);
        assert_eq!(identify.transfer_bytes_max(4096), Some(2 << 20));
        assert!(identify.has_volatile_write_cache());
        assert!(!IdentifyController::emulated("", "", 0, false).has_volatile_write_cache());
    }

    #[test]
    fn namespace_fields_lie_where_the_figure_says() {
        let geometry = Geometry { block_size: 4096, blocks: 0x0807_0605_0403, metadata_bytes: 0 };
        let identify = IdentifyNamespace::emulated(geometry);
        let bytes = identify.as_bytes();
        assert_eq!(bytes[..8], [3, 4, 5, 6, 7, 8, 0, 0]);
        assert_eq!(bytes[33], 9);
        assert_eq!(bytes[128..132], [0, 0, 12, 0]);
        assert_eq!(identify.geometry(), Ok(geometry));
    }

    #[test]
    fn unsupported_formats_are_named() {
        let geometry = Geometry { block_size: 512, blocks: 8, metadata_bytes: 0 };
        let mut identify = IdentifyNamespace::emulated(geometry);
        identify.formats[0].block_size_power = 13;
        assert_eq!(identify.geometry(), Err(GeometryError::BlockSize { power: 13 }));
        identify.formats[0].metadata_bytes = U16::new(8);
        identify.format = INTERLEAVED;
        assert_eq!(identify.geometry(), Err(GeometryError::Interleaved { bytes: 8 }));
        identify.format = 0;
        identify.protection = 1;
        assert_eq!(identify.geometry(), Err(GeometryError::Protected));
        identify.size = U64::ZERO;
        assert_eq!(identify.geometry(), Err(GeometryError::Empty));
        // Format 17: bits 3:0 are 1, bits 6:5 are 1.
        let mut identify = IdentifyNamespace::emulated(geometry);
        identify.format = 0x21;
        identify.formats[17].block_size_power = 12;
        let other = Geometry { block_size: 4096, ..geometry };
        assert_eq!(identify.geometry(), Ok(other));
        identify.formats[17].metadata_bytes = U16::new(64);
        assert_eq!(identify.geometry(), Ok(Geometry { metadata_bytes: 64, ..other }));
    }

    #[test]
    fn text_is_cut_and_cleaned() {
        let field = AsciiField::<4>::new("a\u{e4}cde");
        assert_eq!(field.as_str(), "a?cd");
        assert_eq!(AsciiField::<4>([b'a', 0, b'b', 0]).as_str(), "a");
    }
}
