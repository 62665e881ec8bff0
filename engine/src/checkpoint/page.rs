//! One page of a checkpoint.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::device::Salt;
use crate::ids::BLOCK_SIZE;

/// Bytes of a page's header.
pub const PAGE_HEADER_BYTES: usize = 24;

/// Bytes of the stream in a full page.
pub const PAGE_BODY_BYTES: usize = BLOCK_SIZE - PAGE_HEADER_BYTES;

const MAGIC: [u8; 4] = *b"CVCP";

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PageHeader {
    crc: U32,
    magic: [u8; 4],
    number: U64,
    page: U32,
    used: U32,
}

const _: () = assert!(size_of::<PageHeader>() == PAGE_HEADER_BYTES);

/// Why bytes are not the page expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// No magic: never written.
    #[error("not a checkpoint page")]
    Missing,
    /// Damaged, torn, or of another shard or an earlier format.
    #[error("the checkpoint page fails its checksum")]
    Checksum,
    /// Another checkpoint's page, or another page of this one: a write was lost or misdirected.
    #[error("page {page} of checkpoint {number} stands in its place")]
    Other {
        /// The checkpoint it belongs to.
        number: u64,
        /// Its number there.
        page: u32,
    },
    /// A field holds what no writer produces; the checksum is right.
    #[error("checkpoint page field {0} holds an impossible value")]
    Field(&'static str),
}

/// Fills in the header of a page whose body is in place; returns its checksum.
pub(super) fn seal_page(page: &mut [u8], number: u64, at: u32, used: usize, salt: Salt) -> u32 {
    assert!(used <= PAGE_BODY_BYTES, "a body fits its page");
    page[PAGE_HEADER_BYTES + used..].fill(0);
    let (header, _) = PageHeader::mut_from_prefix(page).expect("a page holds its header");
    header.magic = MAGIC;
    header.number = number.into();
    header.page = at.into();
    header.used = (used as u32).into();
    let crc = salt.crc(&page[4..]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Checks a page; returns its body and its checksum.
pub(super) fn parse_page(
    page: &[u8],
    number: u64,
    at: u32,
    salt: Salt,
) -> Result<(&[u8], u32), PageError> {
    let (header, body) =
        PageHeader::ref_from_prefix(page).map_err(|_| PageError::Field("length"))?;
    if header.magic != MAGIC {
        return Err(PageError::Missing);
    }
    if salt.crc(&page[4..]) != header.crc.get() {
        return Err(PageError::Checksum);
    }
    if header.number.get() != number || header.page.get() != at {
        return Err(PageError::Other { number: header.number.get(), page: header.page.get() });
    }
    let body = body.get(..header.used.get() as usize).ok_or(PageError::Field("used"))?;
    Ok((body, header.crc.get()))
}
