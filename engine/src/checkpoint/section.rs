//! Sections: what the stream says.

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{CopysetId, LogIndex, ReplicaId};
use crate::journal::ReplicaIdentity;

/// Bytes before a section's body.
pub(super) const SECTION_HEAD_BYTES: usize = 8;

/// The kinds of sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionKind {
    /// A copyset.
    Copyset = 1,
    /// A piece of a chunk's image, as the store encodes it.
    Chunk = 2,
    /// The end of the stream.
    End = 3,
}

/// The bytes before a section's body.
#[must_use]
pub fn section_head(kind: SectionKind, body_bytes: usize) -> [u8; SECTION_HEAD_BYTES] {
    let mut head = [0; SECTION_HEAD_BYTES];
    head[..4].copy_from_slice(&(kind as u32).to_le_bytes());
    head[4..].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    head
}

/// Why bytes are not a section. In pages whose checksums are right it means another version of the
/// program, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// A kind that this version does not know.
    #[error("checkpoint section of unknown kind {0}")]
    Kind(u32),
    /// A body that its kind does not allow.
    #[error("checkpoint section body does not fit its kind")]
    Body,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct CopysetBytes {
    copyset: U32,
    in_doubt: U32,
    replica: U64,
    uuid: [u8; 16],
    applied: U64,
    zero: U64,
    items: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<CopysetBytes>() == 56);

/// What the shard itself knows of a copyset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopysetHead {
    /// The copyset.
    pub copyset: CopysetId,
    /// The replica's name.
    pub identity: ReplicaIdentity,
    /// Highest applied note.
    pub applied: LogIndex,
    /// Whether the replica may have forgotten votes and acknowledgements.
    pub in_doubt: bool,
}

impl CopysetHead {
    /// The fixed part of the section's body, for `items` bytes of items.
    pub(super) fn emit(&self, items: usize, out: &mut Vec<u8>) {
        let fields = CopysetBytes {
            copyset: self.copyset.0.into(),
            in_doubt: u32::from(self.in_doubt).into(),
            replica: self.identity.id.0.into(),
            uuid: *self.identity.uuid.as_bytes(),
            applied: self.applied.0.into(),
            zero: U64::ZERO,
            items: (items as u32).into(),
            reserved: U32::ZERO,
        };
        out.extend_from_slice(fields.as_bytes());
    }
}

/// One section, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section<'a> {
    /// A copyset: what the shard knows, journal items, and the composer's image.
    Copyset(CopysetHead, &'a [u8], &'a [u8]),
    /// A piece of a chunk's image.
    Chunk(&'a [u8]),
    /// The end: how many copysets and chunk pieces there were.
    End(u32, u32),
}

impl<'a> Section<'a> {
    /// Takes a section's body apart.
    ///
    /// # Errors
    ///
    /// [`SectionError`] if it cannot be one.
    pub(super) fn parse(kind: u32, body: &'a [u8]) -> Result<Section<'a>, SectionError> {
        match kind {
            1 => parse_copyset(body).ok_or(SectionError::Body),
            2 => Ok(Section::Chunk(body)),
            3 => {
                let counts: &[u8; 8] = body.try_into().map_err(|_| SectionError::Body)?;
                let (copysets, chunks) = counts.split_at(4);
                let count = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four"));
                Ok(Section::End(count(copysets), count(chunks)))
            }
            other => Err(SectionError::Kind(other)),
        }
    }
}

fn parse_copyset(body: &[u8]) -> Option<Section<'_>> {
    let (fields, rest) = CopysetBytes::ref_from_prefix(body).ok()?;
    let (items, image) = rest.split_at_checked(fields.items.get() as usize)?;
    let in_doubt = match fields.in_doubt.get() {
        flag @ (0 | 1) => flag == 1,
        _ => return None,
    };
    let head = CopysetHead {
        copyset: CopysetId(fields.copyset.get()),
        identity: ReplicaIdentity {
            id: ReplicaId(fields.replica.get()),
            uuid: Uuid::from_bytes(fields.uuid),
        },
        applied: LogIndex(fields.applied.get()),
        in_doubt,
    };
    Some(Section::Copyset(head, items, image))
}
