//! Repair of single blocks: a replica asks another for the bytes of a block that are bad or missing
//! at its own place.
//!
//! A question names the block by the index that wrote it and its checksum; the answer repeats all
//! of it, and with [`RepairKind::Found`] one page comes along. Any replica asks any other; who leads
//! does not matter. Byte map: `docs/format/wire.md`.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FRAME_HEADER_BYTES, FrameError, FrameKind, emit_header};
use crate::ids::{ChunkId, CopysetId, LogIndex, ReplicaId};

/// A question, or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RepairKind {
    /// Do you hold this block?
    Ask = 1,
    /// Yes: its page comes along.
    Found = 2,
    /// A later entry has changed the block here.
    Newer = 3,
    /// The block that this index wrote is not here, or not yet.
    Absent = 4,
    /// It is bad or missing here too.
    Bad = 5,
}

impl RepairKind {
    fn from_byte(byte: u8) -> Option<RepairKind> {
        use RepairKind::{Absent, Ask, Bad, Found, Newer};
        const ALL: [RepairKind; 5] = [Ask, Found, Newer, Absent, Bad];
        ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

/// A frame of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairFrame {
    /// Question or answer.
    pub kind: RepairKind,
    /// The copyset.
    pub copyset: CopysetId,
    /// Sending replica.
    pub from: ReplicaId,
    /// Receiving replica.
    pub to: ReplicaId,
    /// Names the question among all of its sender; the answer repeats it.
    pub number: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// The log index that wrote the block.
    pub index: LogIndex,
    /// The block, counted from the start of the chunk.
    pub block: u32,
    /// CRC-32C of its bytes.
    pub crc: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Body {
    kind: u8,
    reserved: [u8; 3],
    copyset: U32,
    from: U64,
    to: U64,
    number: U64,
    chunk: U64,
    index: U64,
    block: U32,
    crc: U32,
}

/// Bytes of a frame of a repair.
pub const REPAIR_FRAME_BYTES: usize = FRAME_HEADER_BYTES + size_of::<Body>();
const _: () = assert!(REPAIR_FRAME_BYTES == 64);

impl RepairFrame {
    /// The answer to this question.
    #[must_use]
    pub fn answer(&self, kind: RepairKind) -> RepairFrame {
        RepairFrame { kind, from: self.to, to: self.from, ..*self }
    }

    /// Encodes the frame.
    #[must_use]
    pub fn emit(&self) -> [u8; REPAIR_FRAME_BYTES] {
        let body = Body {
            kind: self.kind as u8,
            reserved: [0; 3],
            copyset: self.copyset.0.into(),
            from: self.from.0.into(),
            to: self.to.0.into(),
            number: self.number.into(),
            chunk: self.chunk.0.into(),
            index: self.index.0.into(),
            block: self.block.into(),
            crc: self.crc.into(),
        };
        let mut out = [0; REPAIR_FRAME_BYTES];
        out[FRAME_HEADER_BYTES..].copy_from_slice(body.as_bytes());
        emit_header(FrameKind::Repair, 1, REPAIR_FRAME_BYTES, &mut out);
        out
    }

    /// Parses the body of a frame of kind [`FrameKind::Repair`].
    ///
    /// # Errors
    ///
    /// [`FrameError`] where it is short or long, or a field is impossible.
    pub fn parse(count: u16, body: &[u8]) -> Result<RepairFrame, FrameError> {
        let (body, rest) = Body::read_from_prefix(body).map_err(|_| FrameError::Truncated)?;
        if !rest.is_empty() || count != 1 {
            return Err(FrameError::Field("count"));
        }
        if body.reserved != [0; 3] {
            return Err(FrameError::Field("reserved"));
        }
        Ok(RepairFrame {
            kind: RepairKind::from_byte(body.kind).ok_or(FrameError::Field("kind"))?,
            copyset: CopysetId(body.copyset.get()),
            from: ReplicaId(body.from.get()),
            to: ReplicaId(body.to.get()),
            number: body.number.get(),
            chunk: ChunkId(body.chunk.get()),
            index: LogIndex(body.index.get()),
            block: body.block.get(),
            crc: body.crc.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse_header;

    const FRAME: RepairFrame = RepairFrame {
        kind: RepairKind::Bad,
        copyset: CopysetId(1),
        from: ReplicaId(2),
        to: ReplicaId(3),
        number: 4,
        chunk: ChunkId(5),
        index: LogIndex(6),
        block: 7,
        crc: 8,
    };

    #[test]
    fn bytes_are_pinned_and_parse_to_what_was_emitted() {
        let bytes = FRAME.emit();
        assert_eq!(bytes[..8], [6, 0, 1, 0, 64, 0, 0, 0]);
        let words: Vec<u32> = bytes[8..]
            .chunks_exact(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();
        assert_eq!(words, [5, 1, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 8]);
        let (kind, count, body) = parse_header(&bytes).expect("a frame");
        assert_eq!(kind, FrameKind::Repair);
        assert_eq!(RepairFrame::parse(count, body), Ok(FRAME));
        let asked = FRAME.answer(RepairKind::Found).answer(RepairKind::Bad);
        assert_eq!(asked, FRAME);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let bytes = FRAME.emit();
        let body = &bytes[8..];
        assert_eq!(RepairFrame::parse(1, &body[1..]), Err(FrameError::Truncated));
        assert_eq!(RepairFrame::parse(2, body), Err(FrameError::Field("count")));
        let long = [body, &[0]].concat();
        assert_eq!(RepairFrame::parse(1, &long), Err(FrameError::Field("count")));
        for (at, byte, field) in [(0, 0, "kind"), (0, 6, "kind"), (2, 1, "reserved")] {
            let mut bad = body.to_vec();
            bad[at] = byte;
            assert_eq!(RepairFrame::parse(1, &bad), Err(FrameError::Field(field)));
        }
    }
}
