//! Entries: a record, which all replicas have in common, and the local part beside it.

use std::borrow::Cow;

use super::item::{ITEM_HEADER_BYTES, ItemError, Sink, item_header, kind, u32_at, u64_at};
use crate::ids::{Extent, LogIndex, OPERATION_EXTENTS_MAX};
use crate::record::{RECORD_BYTES_MAX, RecordView};

/// Start of an extent that stands for payload this replica does not hold.
pub const NOWHERE: u32 = u32::MAX;

const EXTENT_BYTES: usize = 8;
const LOCAL_BYTES_MAX: usize = 8 + OPERATION_EXTENTS_MAX * EXTENT_BYTES;

/// Bytes of the longest entry, item header included.
pub const ENTRY_BYTES_MAX: usize = ITEM_HEADER_BYTES + RECORD_BYTES_MAX + LOCAL_BYTES_MAX;

/// A raft entry as this replica stores it.
#[derive(Clone)]
pub struct Entry<'a> {
    /// What all replicas have in common.
    pub record: RecordView<'a>,
    /// Where the payload lies, in the order of its blocks. An extent that starts at
    /// [`NOWHERE`] stands for blocks whose payload is not stored. Empty without payload.
    pub extents: Cow<'a, [Extent]>,
    /// A committed later entry that overwrote what is not stored.
    pub superseded_by: Option<LogIndex>,
}

impl Entry<'_> {
    /// Bytes of the item's body.
    pub(super) fn body_length(&self) -> usize {
        let superseded = if self.superseded_by.is_some() { 8 } else { 0 };
        self.record.bytes().len() + superseded + self.extents.len() * EXTENT_BYTES
    }
}

pub(super) fn emit_entry(entry: &Entry<'_>, sink: &mut impl Sink) {
    let record = entry.record.bytes();
    let mut bytes = [0; LOCAL_BYTES_MAX];
    let (kind, superseded) = match entry.superseded_by {
        Some(index) => {
            bytes[..8].copy_from_slice(&index.0.to_le_bytes());
            (kind::ENTRY_SUPERSEDED, 8)
        }
        None => (kind::ENTRY, 0),
    };
    for (extent, bytes) in entry.extents.iter().zip(bytes[superseded..].chunks_exact_mut(8)) {
        bytes[..4].copy_from_slice(&extent.start.to_le_bytes());
        bytes[4..].copy_from_slice(&extent.blocks.to_le_bytes());
    }
    let local = &bytes[..superseded + entry.extents.len() * EXTENT_BYTES];
    sink.put(&item_header(kind, record.len() + local.len(), [local, &[]]));
    sink.put(record);
    sink.put(local);
}

/// Length of the record at the start of an entry's body, not believed beyond the body's end.
pub(super) fn record_length(body: &[u8]) -> Result<usize, ItemError> {
    let length = body.get(4..6).ok_or(ItemError::Body)?;
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    if length > body.len() { Err(ItemError::Body) } else { Ok(length) }
}

pub(super) fn parse_entry<'a>(
    record: &'a [u8],
    local: &[u8],
    superseded: bool,
) -> Result<Entry<'a>, ItemError> {
    let record = RecordView::parse(record)?;
    let (index, list) =
        local.split_at_checked(if superseded { 8 } else { 0 }).ok_or(ItemError::Body)?;
    let superseded_by = superseded.then(|| LogIndex(u64_at(index, 0)));
    let count = list.len() / EXTENT_BYTES;
    if !list.len().is_multiple_of(EXTENT_BYTES) || count > OPERATION_EXTENTS_MAX {
        return Err(ItemError::Body);
    }
    let mut extents = Vec::with_capacity(count);
    for bytes in list.chunks_exact(EXTENT_BYTES) {
        let extent = Extent { start: u32_at(bytes, 0), blocks: u32_at(bytes, 4) };
        let ends = extent.start == NOWHERE || extent.start.checked_add(extent.blocks).is_some();
        if extent.blocks == 0 || !ends {
            return Err(ItemError::Body);
        }
        extents.push(extent);
    }
    let blocks: u64 = extents.iter().map(|extent| u64::from(extent.blocks)).sum();
    let nothing = superseded && extents.is_empty();
    if blocks != u64::from(record.payload_blocks()) && !nothing {
        return Err(ItemError::Body);
    }
    Ok(Entry { record, extents: Cow::Owned(extents), superseded_by })
}
