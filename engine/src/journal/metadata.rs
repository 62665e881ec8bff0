//! An entry in the metadata of the block that it writes: a batch that needs no block of the ring.
//!
//! It says all that a journal block with this one entry would say, in numbers as short as they may
//! be; an entry whose numbers are longer goes to the ring. Byte map: `docs/format/journal.md`.

use std::borrow::Cow;

use culvert_nvme::METADATA_BYTES;

use super::block::Stamp;
use super::entry::Entry;
use super::item::Item;
use crate::device::Salt;
use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, Extent, LogIndex, RequestNumber, SessionId, Term,
};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};

const CRC_BYTES: usize = 4;

/// Bytes of each number behind the checksum: position, distance of the mark, distance of the start,
/// incarnation, copyset, term, index, chunk, block, epoch, session, request, the payload's checksum.
const WIDTHS: [usize; 13] = [6, 2, 5, 4, 4, 4, 6, 6, 3, 4, 6, 6, 4];

const _: () = {
    let (mut sum, mut at) = (CRC_BYTES, 0);
    while at < WIDTHS.len() {
        sum += WIDTHS[at];
        at += 1;
    }
    assert!(sum == METADATA_BYTES);
};

/// A batch of one entry, as its block's metadata say it.
#[derive(Clone, Copy)]
pub struct MetadataEntry {
    /// What a block of the ring says in its header; the batch has one block.
    pub stamp: Stamp,
    /// Where the entry's block lies, and these metadata.
    place: u32,
    record: [u8; RECORD_BYTES_MAX],
}

/// The metadata of an entry that writes one block, to block `place` of the data space; `None` if they
/// cannot say it.
#[must_use]
pub fn encode_metadata(
    stamp: &Stamp,
    record: &RecordView<'_>,
    place: u32,
    salt: Salt,
) -> Option<[u8; METADATA_BYTES]> {
    let one = record.operation() == Operation::Write && record.range().blocks == 1;
    if !one || record.sequence() != 0 {
        return None;
    }
    let numbers = [
        stamp.position,
        stamp.position - stamp.mark,
        stamp.position - stamp.start,
        stamp.incarnation.into(),
        record.copyset().0.into(),
        record.term().0,
        record.index().0,
        record.chunk().0,
        record.range().first.into(),
        record.epoch().0,
        record.session().0,
        record.request().0,
        record.crcs().next()?.into(),
    ];
    let mut bytes = [0; METADATA_BYTES];
    let mut at = CRC_BYTES;
    for (number, width) in numbers.into_iter().zip(WIDTHS) {
        if number >> (8 * width) != 0 {
            return None;
        }
        bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        at += width;
    }
    let crc = checksum(&bytes, place, salt);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

impl MetadataEntry {
    /// Reads the metadata of block `place` of the data space; `None` if they are no entry, or that of
    /// another block, shard or format.
    #[must_use]
    pub fn parse(bytes: &[u8; METADATA_BYTES], place: u32, salt: Salt) -> Option<MetadataEntry> {
        if bytes[..CRC_BYTES] != checksum(bytes, place, salt).to_le_bytes() {
            return None;
        }
        let mut at = CRC_BYTES;
        let numbers = WIDTHS.map(|width| {
            let mut number = [0; 8];
            number[..width].copy_from_slice(&bytes[at..at + width]);
            at += width;
            u64::from_le_bytes(number)
        });
        let [position, mark, start, incarnation, copyset, term, index, chunk, block, ..] = numbers;
        let [.., epoch, session, request, crc] = numbers;
        let proposal = Proposal {
            operation: Operation::Write,
            chunk: ChunkId(chunk),
            range: BlockRange { first: block as u32, blocks: 1 },
            sequence: 0,
            epoch: Epoch(epoch),
            session: SessionId(session),
            request: RequestNumber(request),
            crcs: &[crc as u32],
            body: &[],
        };
        let mut record = [0; RECORD_BYTES_MAX];
        proposal.emit(CopysetId(copyset as u32), Term(term), LogIndex(index), &mut record);
        let stamp = Stamp {
            position,
            mark: position.checked_sub(mark)?,
            start: position.checked_sub(start)?,
            incarnation: incarnation as u32,
        };
        Some(MetadataEntry { stamp, place, record })
    }

    /// Appends the item that a block of the ring would hold.
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        let record = RecordView::trusted(&self.record);
        let extents = Cow::Borrowed(&[Extent { start: self.place, blocks: 1 }][..]);
        Item::Entry(Entry { record, extents, superseded_by: None }).emit(out);
    }

    /// Where the entry's block lies.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.place
    }
}

/// The checksum binds the metadata to their place: those of a write that went astray do not count.
fn checksum(bytes: &[u8; METADATA_BYTES], place: u32, salt: Salt) -> u32 {
    crc32c::crc32c_append(salt.crc(&place.to_le_bytes()), &bytes[CRC_BYTES..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn salt() -> Salt {
        Salt::new(&uuid::Uuid::from_u128(7), 3, 1)
    }

    fn stamp() -> Stamp {
        Stamp { position: 0x0605_0403_0201, mark: 0x0605_0403_0101, start: 1, incarnation: 9 }
    }

    fn proposal() -> Proposal<'static> {
        Proposal {
            operation: Operation::Write,
            chunk: ChunkId(1 << 32 | 5),
            range: BlockRange { first: 77, blocks: 1 },
            epoch: Epoch(2),
            session: SessionId(12),
            request: RequestNumber(34),
            crcs: &[0xaabb_ccdd],
            ..Proposal::noop()
        }
    }

    fn encode(stamp: &Stamp, proposal: &Proposal<'_>) -> Option<[u8; METADATA_BYTES]> {
        let mut out = [0; RECORD_BYTES_MAX];
        let record = proposal.emit(CopysetId(3), Term(4), LogIndex(500), &mut out);
        encode_metadata(stamp, &RecordView::trusted(record), 123, salt())
    }

    #[test]
    fn bytes_are_pinned() {
        let near = Stamp { start: stamp().position - 5, ..stamp() };
        let bytes = encode(&near, &proposal()).expect("all is short");
        assert_eq!(bytes[4..17], [1, 2, 3, 4, 5, 6, 0, 1, 5, 0, 0, 0, 0]);
        assert_eq!(bytes[17..29], [9, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(bytes[29..41], [0xf4, 1, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0]);
        assert_eq!(bytes[41..48], [77, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[48..60], [12, 0, 0, 0, 0, 0, 34, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[60..], [0xdd, 0xcc, 0xbb, 0xaa]);
        let place = salt().crc(&123_u32.to_le_bytes());
        assert_eq!(bytes[..4], crc32c::crc32c_append(place, &bytes[4..]).to_le_bytes());
    }

    #[test]
    fn what_is_long_or_more_goes_to_the_ring() {
        let near = Stamp { start: stamp().position, ..stamp() };
        assert!(encode(&near, &proposal()).is_some());
        assert!(encode(&Stamp { start: 0, ..near }, &proposal()).is_none(), "start");
        assert!(encode(&Stamp { mark: near.position - 65_536, ..near }, &proposal()).is_none());
        for long in [
            Proposal { chunk: ChunkId(1 << 48), ..proposal() },
            Proposal { epoch: Epoch(1 << 32), ..proposal() },
            Proposal { session: SessionId(1 << 48), ..proposal() },
            Proposal { sequence: 1, ..proposal() },
            Proposal { range: BlockRange { first: 1 << 24, blocks: 1 }, ..proposal() },
            Proposal { range: BlockRange { first: 0, blocks: 2 }, crcs: &[1, 2], ..proposal() },
            Proposal { operation: Operation::Discard, crcs: &[], ..proposal() },
        ] {
            assert!(encode(&near, &long).is_none(), "{long:?}");
        }
    }

    proptest! {
        #[test]
        fn says_the_same_again_and_nowhere_else(
            position in 0_u64..1 << 48,
            mark in 0_u64..1 << 16,
            start in 0_u64..1 << 40,
            incarnation in any::<u32>(),
            first in 0_u32..1 << 24,
            numbers in prop::array::uniform4(0_u64..1 << 48),
            crc in any::<u32>(),
            flip in 0_usize..8 * METADATA_BYTES,
        ) {
            let stamp = Stamp {
                position,
                mark: position.saturating_sub(mark),
                start: position.saturating_sub(start),
                incarnation,
            };
            let [chunk, session, request, index] = numbers;
            let crcs = [crc];
            let proposal = Proposal {
                chunk: ChunkId(chunk),
                range: BlockRange { first, blocks: 1 },
                session: SessionId(session),
                request: RequestNumber(request),
                crcs: &crcs,
                ..proposal()
            };
            let mut out = [0; RECORD_BYTES_MAX];
            let record = proposal.emit(CopysetId(u32::MAX), Term(4), LogIndex(index), &mut out);
            let record = RecordView::trusted(record);
            let mut bytes = encode_metadata(&stamp, &record, 9, salt()).expect("all is short");
            let entry = MetadataEntry::parse(&bytes, 9, salt()).expect("own metadata");
            prop_assert_eq!(entry.stamp, stamp);
            let mut item = Vec::new();
            entry.emit(&mut item);
            let Ok((Item::Entry(found), length)) = Item::parse(&item) else { panic!("an entry") };
            prop_assert_eq!(length, item.len());
            prop_assert_eq!(found.record.bytes(), record.bytes());
            prop_assert_eq!(&found.extents[..], &[Extent { start: 9, blocks: 1 }][..]);
            prop_assert!(MetadataEntry::parse(&bytes, 8, salt()).is_none(), "elsewhere");
            bytes[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(MetadataEntry::parse(&bytes, 9, salt()).is_none(), "damaged");
        }
    }
}
