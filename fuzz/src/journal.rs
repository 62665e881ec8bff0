//! The journal: blocks of a ring, and the items in them.
//!
//! The first four bytes of an input say where the scan of the ring begins; the rest is cut into
//! blocks, and once more into metadata. Items are looked for in the whole input as well.

use std::borrow::Cow;

use culvert::device::Salt;
use culvert::ids::{ChunkId, CopysetId, Extent, LogIndex, ReplicaId, Term};
use culvert::journal::{
    BLOCK_HEADER_BYTES, BatchWriter, BlockView, ChunkInstalled, ChunkList, Entry, GroupVerdict,
    HardState, ITEM_HEADER_BYTES, InstalledBlock, InstalledHead, Item, MetadataEntry,
    ReplicaIdentity, Scan, Stamp, StatePart, Step, Verdict,
};
use culvert::record::{RECORD_BYTES_MAX, RecordView};
use uuid::Uuid;

use crate::{record, set, u16_at};

/// Short blocks, so that an input has many.
const BLOCK: usize = 160;
/// Bytes of the metadata of a block.
const METADATA: usize = 64;
/// Bytes before the first block.
const HEAD: usize = 4;

/// Looks at any bytes as items, and as a ring of blocks.
pub fn run(bytes: &[u8]) {
    items(bytes);
    let mut repaired = bytes.to_vec();
    repair_items(&mut repaired);
    items(&repaired);
    if bytes.len() >= HEAD + BLOCK {
        scan(bytes, false);
        scan(bytes, true);
    }
}

fn salt() -> Salt {
    Salt::new(&Uuid::from_u128(0xd017), 1, 0)
}

/// Puts the checksums of all items that follow each other right.
pub(crate) fn repair_items(bytes: &mut [u8]) {
    let mut at = 0;
    while at + ITEM_HEADER_BYTES <= bytes.len() {
        let body = u16_at(bytes, at + 4) | usize::from(bytes[at + 6]) << 16;
        let kind = bytes[at + 7];
        let begin = at + ITEM_HEADER_BYTES;
        let Some(end) = begin.checked_add(body).filter(|end| *end <= bytes.len()) else { return };
        // An entry's record has a checksum of its own.
        let entry = matches!(kind, 1 | 2);
        let record = if entry { record::repair(&mut bytes[begin..end]) } else { 0 };
        let local = (begin + record).min(end);
        let crc = crc32c::crc32c(&bytes[at + 4..begin]);
        let crc = crc32c::crc32c_append(crc, &bytes[local..end]);
        set(bytes, at, &crc.to_le_bytes());
        at = end;
    }
}

/// Looks at items one behind the other.
pub(crate) fn items(mut bytes: &[u8]) {
    while let Ok((item, length)) = Item::parse(bytes) {
        assert_eq!(item.length(), length);
        let mut out = Vec::new();
        item.emit(&mut out);
        assert_eq!(out, &bytes[..length]);
        look(&item);
        bytes = &bytes[length..];
    }
}

fn look(item: &Item<'_>) {
    assert_eq!(item.copyset().is_none(), matches!(item, Item::Verdict(_)));
    match item {
        Item::Entry(entry) => {
            entry.record.crcs().for_each(drop);
            entry.extents.iter().for_each(|extent| assert!(extent.blocks > 0));
        }
        Item::Verdict(verdict) => verdict.groups().for_each(drop),
        Item::ChunksRetained(_, _, chunks) => chunks.chunks().for_each(drop),
        Item::ChunkInstalled(installed) => {
            let _head = installed.head();
            for block in installed.blocks() {
                assert_eq!(block.is_stored(), block.granule < culvert::journal::HOLE);
            }
        }
        Item::ConfState(_, bytes) => membership(bytes),
        Item::ReplicaCreated(_, identity, bytes) => {
            let _id = identity.id;
            membership(bytes);
        }
        Item::StatePart(_, part) => {
            assert!(part.offset as usize + part.bytes.len() <= part.total as usize);
        }
        _ => {}
    }
}

fn membership(bytes: &[u8]) {
    let Ok(conf_state) = culvert::raft_group::parse_conf_state(bytes) else { return };
    let _can = culvert::raft_group::can_restore(&conf_state, ReplicaId(1));
    assert_eq!(&culvert::raft_group::encode_conf_state(&conf_state)[..], bytes);
}

/// Scans the ring; `repaired` makes blocks of it whose positions are those of the ring or near.
fn scan(bytes: &[u8], repaired: bool) {
    let (head, rest) = bytes.split_at(HEAD);
    let blocks = rest.chunks_exact(BLOCK);
    let ring = blocks.len() as u64;
    let from = u64::from(head[0]);
    let mark = from + u64::from(head[1]) % (ring + 1);
    let mut scan = Scan::new(salt(), ring, from, mark, u32::from(head[2] % 4));
    for (block, at) in blocks.zip(from..) {
        let mut block = block.to_vec();
        if repaired {
            repair_block(&mut block, at, ring);
        }
        if let Ok(view) = BlockView::parse(&block, salt()) {
            assert!(view.first_item().is_none_or(|first| first < view.body().len()));
        }
        if block[8] == 0xff && head[3] & 1 != 0 {
            scan.unreadable(1);
        } else {
            scan.block(&block);
        }
    }
    assert_eq!(scan.remaining(), 0);
    if head[3] & 2 != 0 {
        metadata(rest, from, ring, repaired, &mut scan);
    }
    let scanned = scan.finish();
    assert!((from..=from + ring).contains(&scanned.end));
    for hole in scanned.holes() {
        assert!(hole.start <= hole.end);
    }
    // An item that makes no sense ends what is believed.
    for step in scanned.steps().take_while(Result::is_ok).flatten() {
        if let Step::Item(located) = step {
            look(&located.item);
        }
    }
}

/// Passes the bytes as metadata; `repaired` makes entries of them whose positions are near the ring.
fn metadata(rest: &[u8], from: u64, ring: u64, repaired: bool, scan: &mut Scan) {
    for (chunk, place) in rest.chunks_exact(METADATA).zip(0..) {
        let mut bytes: [u8; METADATA] = chunk.try_into().expect("as long as metadata");
        if repaired {
            let position = from + u64::from(bytes[4]) % (2 * ring);
            bytes[4..10].copy_from_slice(&position.to_le_bytes()[..6]);
            let incarnation = u32::from(bytes[17] % 4);
            bytes[17..21].copy_from_slice(&incarnation.to_le_bytes());
            let crc = salt().crc(&u32::to_le_bytes(place));
            let crc = crc32c::crc32c_append(crc, &bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some(entry) = MetadataEntry::parse(&bytes, place, salt()) {
            assert!(entry.stamp.mark <= entry.stamp.position);
            scan.metadata(&entry);
        }
    }
}

/// Puts magic, position, mark, start, incarnation and checksum of a block right, or nearly so:
/// most positions are the expected one, some a few laps away.
fn repair_block(block: &mut [u8], at: u64, ring: u64) {
    let laps = u64::from(block[9] % 3) * u64::from(block[8] > 0xc0);
    let position = at + laps * ring;
    let below = |byte: u8| position - u64::from(byte).min(position);
    let (mark, start) = (below(block[16]), below(block[24]));
    let incarnation = u32::from(block[32] % 4);
    set(block, 4, b"CJ");
    set(block, 8, &position.to_le_bytes());
    set(block, 16, &mark.to_le_bytes());
    set(block, 24, &start.to_le_bytes());
    set(block, 32, &incarnation.to_le_bytes());
    let used = BLOCK_HEADER_BYTES + u16_at(block, 38) % (BLOCK - BLOCK_HEADER_BYTES + 1);
    set(block, 38, &(used as u16).to_le_bytes());
    let crc = salt().crc(&block[4..]);
    set(block, 0, &crc.to_le_bytes());
}

/// Items of every kind one behind the other, and a ring that holds them in two batches.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = [0; RECORD_BYTES_MAX];
    let record = RecordView::parse(record::sample(&mut out)).expect("a record of our own");
    let mut chunks = Vec::new();
    ChunkList::encode([ChunkId(5), ChunkId(6)].into_iter(), &mut chunks);
    let mut verdict = Vec::new();
    let group = GroupVerdict { copyset: CopysetId(3), last_kept: LogIndex(8), position: 1 };
    Verdict::encode(&[group], &mut verdict);
    let installed = installed();
    let list = items_of_every_kind(record, &chunks, &verdict, &installed);

    let mut plain = Vec::new();
    list.iter().for_each(|item| item.emit(&mut plain));
    let mut with_metadata = ring(&list);
    with_metadata[3] = 2;
    vec![plain, ring(&list), with_metadata]
}

fn installed() -> Vec<u8> {
    let head = InstalledHead {
        copyset: CopysetId(3),
        chunk: ChunkId(5),
        birth: LogIndex(2),
        applied: LogIndex(9),
        as_of: LogIndex(9),
        since: LogIndex(1),
    };
    let block = InstalledBlock { block: 4, granule: 1, crc: 7, index: LogIndex(9) };
    let mut out = Vec::new();
    ChunkInstalled::encode(&head, [block].into_iter(), &mut out);
    out
}

fn items_of_every_kind<'a>(
    record: RecordView<'a>,
    chunks: &'a [u8],
    verdict: &'a [u8],
    installed: &'a [u8],
) -> Vec<Item<'a>> {
    let copyset = CopysetId(3);
    let extents = vec![Extent { start: 1, blocks: 1 }, Extent { start: 9, blocks: 1 }];
    let entry = Entry { record, extents: Cow::Owned(extents), superseded_by: None };
    let nothing =
        Entry { record, extents: Cow::Owned(Vec::new()), superseded_by: Some(LogIndex(10)) };
    let identity = ReplicaIdentity { id: ReplicaId(31), uuid: Uuid::from_u128(0x31) };
    let hard_state = HardState { term: Term(2), vote: ReplicaId(31), commit: LogIndex(8) };
    vec![
        Item::ReplicaCreated(copyset, identity, &[0, 1, 31, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Item::HardState(copyset, hard_state),
        Item::Entry(entry),
        Item::Entry(nothing),
        Item::AppliedNote(copyset, LogIndex(8)),
        Item::Truncate(copyset, LogIndex(9)),
        Item::LogStart(copyset, LogIndex(7), Term(1)),
        Item::Verdict(Verdict::parse(verdict).expect("a list of our own")),
        Item::ConfState(copyset, &[0, 1, 31, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Item::ChunkInstalled(ChunkInstalled::parse(installed).expect("an item of our own")),
        Item::CatchUp(copyset, &[1; 16]),
        Item::ChunksRetained(copyset, LogIndex(9), ChunkList::parse(chunks).expect("as above")),
        Item::StatePart(copyset, StatePart { total: 8, offset: 2, bytes: &[1; 4] }),
        Item::Extension(copyset, &[2; 5]),
        Item::Doubt(copyset, true),
        Item::ReplicaRemoved(copyset),
    ]
}

fn ring(list: &[Item<'_>]) -> Vec<u8> {
    let mut out = vec![0; HEAD];
    let mut position = 0;
    for half in [&list[..4], &list[4..]] {
        let mut memory = vec![0; 16 * BLOCK];
        let mut writer = BatchWriter::new(BLOCK, memory.len());
        half.iter().for_each(|item| writer.add(&mut memory, item));
        let stamp = Stamp { position, mark: position, start: 0, incarnation: 1 };
        let blocks = writer.seal(&mut memory, &stamp, salt());
        out.extend_from_slice(&memory[..blocks as usize * BLOCK]);
        position += u64::from(blocks);
    }
    out
}
