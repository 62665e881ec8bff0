//! Frames: what nodes and clients say to each other over any transport.
//!
//! A frame is a [`FrameHeader`] and a kind-specific body. Payload never rides in a frame: it is
//! written into the receiver's landing window by the transport, and the frame behind it lists no
//! page numbers either, because the transport hands the claimed pages over with the frame.
//! Structures only; who may say what when is the business of `chunkserver` and `client`.
//!
//! Fault model: every byte comes from a peer and may lie. `parse` copies fixed structures out of
//! the transport's buffer and checks kind, count and length; ranges are checked by the receiver,
//! which knows the chunk's size. Byte maps: `docs/format/wire.md`.

mod catch_up;
mod peer;
mod repair;
mod request;

pub use catch_up::{
    CATCH_UP_BODY_BYTES, CHUNK_NAMES_MAX, CatchUpHead, CatchUpKind, ChunkBlock, ChunkName,
    MANIFEST_ITEMS_MAX, ManifestItem, catch_up_items, emit_catch_up, parse_catch_up,
};
pub use peer::{
    APPEND_FRAMES_IN_FLIGHT_MAX, AppendEntry, AppendHeader, AppendReader, AppendWriter,
    PeerMessage, PeerMessageKind, PeerMessages, PeerMessagesWriter, live_mask_of,
};
pub use repair::{REPAIR_FRAME_BYTES, RepairFrame, RepairKind};
pub use request::{Reply, ReplyStatus, Request, RequestKind};

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the longest frame; the transports are configured with it.
pub const FRAME_BYTES_MAX: usize = 8192;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// One [`Request`] of a client.
    Request = 1,
    /// One [`Reply`] to a client.
    Reply = 2,
    /// An [`AppendHeader`] and entries, leader to follower.
    Append = 3,
    /// [`PeerMessage`]s of any number of copysets, between nodes.
    PeerMessages = 4,
    /// A step of catch-up by block difference, between nodes.
    CatchUp = 5,
    /// A [`RepairFrame`], between nodes.
    Repair = 6,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        Some(match byte {
            1 => FrameKind::Request,
            2 => FrameKind::Reply,
            3 => FrameKind::Append,
            4 => FrameKind::PeerMessages,
            5 => FrameKind::CatchUp,
            6 => FrameKind::Repair,
            _ => return None,
        })
    }
}

/// The first 8 bytes of every frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// A [`FrameKind`].
    pub kind: u8,
    /// Zero.
    pub flags: u8,
    /// Items in the body, where the kind has items.
    pub count: U16,
    /// Bytes of the frame, this header included.
    pub length: U32,
}

/// Bytes of [`FrameHeader`].
pub const FRAME_HEADER_BYTES: usize = 8;
const _: () = assert!(size_of::<FrameHeader>() == FRAME_HEADER_BYTES);

/// Why bytes are not a frame of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the frame's own length or its structure needs.
    #[error("frame is truncated")]
    Truncated,
    /// The length field differs from what the transport delivered.
    #[error("frame says it has {said} bytes, {delivered} arrived")]
    Length {
        /// Length field.
        said: u32,
        /// Bytes delivered by the transport.
        delivered: usize,
    },
    /// The kind is none of this protocol's.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// A field holds a value that no sender of this version produces.
    #[error("frame field {0} holds an impossible value")]
    Field(&'static str),
    /// A record inside the frame is bad.
    #[error("frame carries a bad record: {0}")]
    Record(crate::record::RecordError),
}

impl From<crate::record::RecordError> for FrameError {
    fn from(error: crate::record::RecordError) -> FrameError {
        FrameError::Record(error)
    }
}

/// Splits a delivered frame into its kind, item count and body.
///
/// # Errors
///
/// [`FrameError`] where the header is short, lies about the length or names no known kind.
pub fn parse_header(bytes: &[u8]) -> Result<(FrameKind, u16, &[u8]), FrameError> {
    let (header, body) = FrameHeader::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
    if header.length.get() as usize != bytes.len() {
        return Err(FrameError::Length { said: header.length.get(), delivered: bytes.len() });
    }
    if header.flags != 0 {
        return Err(FrameError::Field("flags"));
    }
    let kind = FrameKind::from_byte(header.kind).ok_or(FrameError::Kind(header.kind))?;
    Ok((kind, header.count.get(), body))
}

/// Writes the header in front of a body that already lies at `out[8..length]`.
pub fn emit_header(kind: FrameKind, count: u16, length: usize, out: &mut [u8]) {
    let header = FrameHeader {
        kind: kind as u8,
        flags: 0,
        count: count.into(),
        length: (length as u32).into(),
    };
    out[..FRAME_HEADER_BYTES].copy_from_slice(header.as_bytes());
}

#[cfg(test)]
mod tests;
