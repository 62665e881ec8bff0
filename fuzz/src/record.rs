//! Records of raft entries: in append frames, journals and checkpoints.

use culvert::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, LogIndex, RequestNumber, SessionId, Term,
};
use culvert::record::{Operation, Proposal, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordView};

use crate::{set, u16_at};

/// Looks at any bytes as a record.
pub fn run(bytes: &[u8]) {
    look(bytes);
    let mut bytes = bytes.to_vec();
    repair(&mut bytes);
    look(&bytes);
}

/// Puts the checksum of the record at the start of `bytes` right; returns the record's length as
/// it says it.
pub(crate) fn repair(bytes: &mut [u8]) -> usize {
    let length = u16_at(bytes, 4);
    if length >= RECORD_HEADER_BYTES && length <= bytes.len() {
        let crc = crc32c::crc32c(&bytes[4..length]);
        set(bytes, 0, &crc.to_le_bytes());
    }
    length
}

fn look(bytes: &[u8]) {
    let Ok(view) = RecordView::parse(bytes) else { return };
    assert!((RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&view.bytes().len()));
    assert!(bytes.starts_with(view.bytes()));
    let crcs: Vec<u32> = view.crcs().collect();
    let write = view.operation() == Operation::Write;
    assert_eq!(write, view.payload_blocks() > 0);
    if write {
        assert_eq!(crcs.len(), view.payload_blocks() as usize);
        assert_eq!(view.range().blocks, view.payload_blocks());
    }
    let again = RecordView::trusted(view.bytes());
    assert_eq!(again.index(), view.index());
}

/// A record of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = [0; RECORD_BYTES_MAX];
    let write = sample(&mut out).to_vec();
    let kinds: [(Operation, &[u8]); 7] = [
        (Operation::Noop, &[]),
        (Operation::Discard, &[]),
        (Operation::Delete, &[]),
        (Operation::OpenSession, &[7; 16]),
        (Operation::ExpireSession, &[]),
        (Operation::Fence, &[]),
        (Operation::ConfChange, &[1, 9, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let others = kinds.map(|(operation, body)| {
        let blocks = u32::from(operation == Operation::Discard);
        let range = BlockRange { first: 4, blocks };
        let proposal = Proposal { operation, range, body, ..Proposal::noop() };
        proposal.emit(CopysetId(3), Term(2), LogIndex(9), &mut out).to_vec()
    });
    others.into_iter().chain([write]).collect()
}

/// A write of two blocks: index 9 of term 2 of copyset 3.
pub(crate) fn sample(out: &mut [u8]) -> &[u8] {
    let proposal = Proposal {
        operation: Operation::Write,
        chunk: ChunkId(5),
        range: BlockRange { first: 4, blocks: 2 },
        epoch: Epoch(1),
        session: SessionId(6),
        request: RequestNumber(7),
        crcs: &[0x1234_5678, 0x9abc_def0],
        ..Proposal::noop()
    };
    proposal.emit(CopysetId(3), Term(2), LogIndex(9), out)
}
