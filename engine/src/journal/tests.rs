use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::device::Salt;
use crate::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, Extent, LogIndex, ReplicaId, RequestNumber, SessionId,
    Term,
};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};

fn salt() -> Salt {
    Salt::new(&Uuid::from_u128(7), 5, 0)
}

fn record(copyset: u32, index: u64, blocks: u32) -> Vec<u8> {
    let crcs: Vec<u32> = (0..blocks).map(|block| block * 77 + index as u32).collect();
    let proposal = Proposal {
        operation: Operation::Write,
        chunk: ChunkId(3),
        range: BlockRange { first: 1, blocks },
        sequence: 0,
        epoch: Epoch(1),
        session: SessionId(1),
        request: RequestNumber(index),
        crcs: &crcs,
        body: &[],
    };
    let mut out = [0; RECORD_BYTES_MAX];
    proposal.emit(CopysetId(copyset), Term(1), LogIndex(index), &mut out).to_vec()
}

fn entry(record: &[u8], start: u32) -> Item<'_> {
    let record = RecordView::trusted(record);
    let extents = vec![Extent { start, blocks: record.payload_blocks() }];
    Item::Entry(Entry { record, extents: extents.into(), superseded_by: None })
}

fn bytes_of(item: &Item<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.emit(&mut bytes);
    assert_eq!(bytes.len(), item.length());
    bytes
}

/// One of each kind.
fn samples() -> Vec<Vec<u8>> {
    let copyset = CopysetId(9);
    let plain = record(9, 5, 2);
    let partly = vec![Extent { start: 4, blocks: 1 }, Extent { start: NOWHERE, blocks: 1 }];
    let superseded = |extents: Vec<Extent>| {
        let extents = extents.into();
        let record = RecordView::trusted(&plain);
        bytes_of(&Item::Entry(Entry { record, extents, superseded_by: Some(LogIndex(8)) }))
    };
    let mut verdict = Vec::new();
    let lost = GroupVerdict { copyset, last_kept: LogIndex(4), position: 77 };
    Verdict::encode(&[lost, lost], &mut verdict);
    let mut chunks = Vec::new();
    ChunkList::encode([ChunkId(1), ChunkId(2)].into_iter(), &mut chunks);
    let mut installed = Vec::new();
    let head = InstalledHead {
        copyset,
        chunk: ChunkId(4),
        birth: LogIndex(1),
        applied: LogIndex(9),
        as_of: LogIndex(10),
        since: LogIndex(0),
    };
    let block = InstalledBlock { block: 1, granule: 2, crc: 3, index: LogIndex(4) };
    let hole = InstalledBlock { block: 2, granule: HOLE, crc: 0, index: LogIndex(5) };
    ChunkInstalled::encode(&head, [block, hole].into_iter(), &mut installed);
    let hard = HardState { term: Term(1), vote: ReplicaId(2), commit: LogIndex(3) };
    let identity = ReplicaIdentity { id: ReplicaId(6), uuid: Uuid::from_u128(99) };
    vec![
        bytes_of(&entry(&plain, 5)),
        superseded(partly),
        superseded(Vec::new()),
        bytes_of(&Item::HardState(copyset, hard)),
        bytes_of(&Item::AppliedNote(copyset, LogIndex(5))),
        bytes_of(&Item::Truncate(copyset, LogIndex(6))),
        bytes_of(&Item::LogStart(copyset, LogIndex(6), Term(2))),
        bytes_of(&Item::Verdict(Verdict::parse(&verdict).expect("own"))),
        bytes_of(&Item::ReplicaCreated(copyset, identity, b"peers")),
        bytes_of(&Item::ReplicaRemoved(copyset)),
        bytes_of(&Item::ConfState(copyset, b"abc")),
        bytes_of(&Item::ChunkInstalled(ChunkInstalled::parse(&installed).expect("own"))),
        bytes_of(&Item::ChunksRetained(
            copyset,
            LogIndex(3),
            ChunkList::parse(&chunks).expect("own"),
        )),
        bytes_of(&Item::CatchUp(copyset, b"")),
        bytes_of(&Item::StatePart(copyset, StatePart { total: 9, offset: 3, bytes: b"xyz" })),
        bytes_of(&Item::Extension(copyset, b"xyz")),
        bytes_of(&Item::Doubt(copyset, true)),
        bytes_of(&Item::BlockRepaired(repaired())),
        bytes_of(&Item::ScrubNote(scrub_note())),
    ]
}

fn repaired() -> BlockRepaired {
    BlockRepaired {
        copyset: CopysetId(1),
        chunk: ChunkId(2),
        block: 3,
        index: LogIndex(4),
        crc: 5,
        granule: 6,
    }
}

fn scrub_note() -> ScrubNote {
    ScrubNote { copyset: CopysetId(1), pass: 2, chunk: ChunkId(3), block: 4, elapsed_s: 5 }
}

#[test]
fn items_of_one_replica_are_pinned() {
    let bytes = bytes_of(&Item::BlockRepaired(repaired()));
    assert_eq!(bytes[4..8], [32, 0, 0, 16]);
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
    };
    assert_eq!(words(&bytes[8..]), [1, 3, 2, 0, 4, 0, 5, 6]);
    let Ok((Item::BlockRepaired(parsed), _)) = Item::parse(&bytes) else { panic!("own item") };
    assert_eq!(parsed, repaired());
    let bytes = bytes_of(&Item::ScrubNote(scrub_note()));
    assert_eq!(bytes[4..8], [24, 0, 0, 18]);
    assert_eq!(words(&bytes[8..]), [1, 2, 3, 0, 4, 5]);
    let Ok((Item::ScrubNote(parsed), _)) = Item::parse(&bytes) else { panic!("own item") };
    assert_eq!(parsed, scrub_note());
}

#[test]
fn items_parse_to_what_was_emitted_and_refuse_damage() {
    for mut bytes in samples() {
        let (item, length) = Item::parse(&bytes).expect("own item");
        assert_eq!(length, bytes.len());
        assert_eq!(bytes_of(&item), bytes);
        for cut in 0..bytes.len() {
            assert!(Item::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            assert!(Item::parse(&bytes).is_err(), "flip at {at}");
            bytes[at] ^= 4;
        }
    }
}

#[test]
fn item_bytes_are_pinned() {
    let note = bytes_of(&Item::AppliedNote(CopysetId(0x0102), LogIndex(0x0304)));
    assert_eq!(note[4..], [12, 0, 0, 4, 2, 1, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(note[..4], crc32c::crc32c(&note[4..]).to_le_bytes());
    let record = record(5, 1, 1);
    let write = bytes_of(&entry(&record, 0x0a0b));
    assert_eq!(write.len(), 100, "a 4 KiB write");
    assert_eq!(write[4..8], [92, 0, 0, 1]);
    assert_eq!(write[8..92], record);
    assert_eq!(write[92..], [0x0b, 0x0a, 0, 0, 1, 0, 0, 0]);
    let local = crc32c::crc32c_append(crc32c::crc32c(&write[4..8]), &write[92..]);
    assert_eq!(write[..4], local.to_le_bytes());
}

#[test]
fn block_bytes_are_pinned() {
    let mut memory = vec![0xee; 1024];
    let mut batch = BatchWriter::new(512, 1024);
    batch.add(&mut memory, &Item::AppliedNote(CopysetId(1), LogIndex(2)));
    let stamp = Stamp { position: 0x0807, mark: 0x0605, start: 0x0403, incarnation: 0x0201 };
    assert_eq!(batch.seal(&mut memory, &stamp, salt()), 1);
    assert_eq!(memory[..4], salt().crc(&memory[4..512]).to_le_bytes());
    assert_eq!(memory[4..8], [b'C', b'J', 3, 0]);
    assert_eq!(memory[8..16], 0x0807_u64.to_le_bytes());
    assert_eq!(memory[16..24], 0x0605_u64.to_le_bytes());
    assert_eq!(memory[24..32], 0x0403_u64.to_le_bytes());
    assert_eq!(memory[32..40], [1, 2, 0, 0, 40, 0, 60, 0]);
    assert!(memory[60..512].iter().all(|&byte| byte == 0));
    assert!(memory[512..].iter().all(|&byte| byte == 0xee), "a batch touches only its blocks");
}

#[test]
fn a_ring_that_is_half_full_refuses_nobody() {
    for blocks in (512..=1 << 20).step_by(509) {
        let ring = Ring::new(blocks, 0, blocks / 2);
        assert_eq!(ring.space(ring.batch_blocks_max()), Space::Normal, "{blocks} blocks");
    }
}

#[test]
fn room_is_exact() {
    for block_size in [512, 4096] {
        let mut memory = vec![0; 8192];
        let mut batch = BatchWriter::new(block_size, 8192);
        let mut count = 0;
        while batch.room() >= 20 {
            batch.add(&mut memory, &Item::AppliedNote(CopysetId(1), LogIndex(count)));
            count += 1;
        }
        let bodies = 8192 / block_size * (block_size - BLOCK_HEADER_BYTES);
        assert_eq!(count as usize, bodies / 20);
        let stamp = Stamp { position: 0, mark: 0, start: 0, incarnation: 1 };
        assert_eq!(batch.seal(&mut memory, &stamp, salt()) as usize, 8192 / block_size);
    }
}

/// A ring in memory, written like a shard writes it.
struct Model {
    block_size: usize,
    ring: Vec<u8>,
    blocks: u64,
    head: u64,
    start: u64,
    incarnation: u32,
    mark: u64,
    memory: Vec<u8>,
}

impl Model {
    fn new(block_size: usize, blocks: u64) -> Model {
        Model {
            block_size,
            ring: vec![0x5a; block_size * blocks as usize],
            blocks,
            head: 0,
            start: 0,
            incarnation: 1,
            mark: 0,
            memory: vec![0; 8 * 4096],
        }
    }

    /// Writes a batch of entries and returns its first position and its length.
    fn batch(&mut self, indices: std::ops::Range<u64>, blocks_each: u32) -> (u64, u64) {
        let mut batch = BatchWriter::new(self.block_size, self.memory.len());
        for index in indices {
            batch.add(&mut self.memory, &entry(&record(1, index, blocks_each), index as u32));
        }
        let stamp = Stamp {
            position: self.head,
            mark: self.mark,
            start: self.start,
            incarnation: self.incarnation,
        };
        let blocks = u64::from(batch.seal(&mut self.memory, &stamp, salt()));
        for at in 0..blocks {
            let from = at as usize * self.block_size;
            let block = self.memory[from..from + self.block_size].to_vec();
            self.slot(self.head + at).copy_from_slice(&block);
        }
        self.head += blocks;
        (stamp.position, blocks)
    }

    fn slot(&mut self, position: u64) -> &mut [u8] {
        let at = (position % self.blocks) as usize * self.block_size;
        &mut self.ring[at..at + self.block_size]
    }

    fn damage(&mut self, position: u64) {
        self.slot(position)[100] ^= 1;
    }

    fn scan(&mut self, from: u64) -> Scanned {
        let mut scan = Scan::new(salt(), self.blocks, from, from, 0);
        for position in from..from + self.blocks {
            scan.block(self.slot(position));
        }
        scan.finish()
    }
}

/// The indices of the entries found, and 0 for a hole.
fn found(scanned: &Scanned) -> Vec<u64> {
    scanned
        .steps()
        .map(|step| match step.expect("no malformed items") {
            Step::Item(Located { item: Item::Entry(entry), .. }) => entry.record.index().0,
            Step::Item(_) => panic!("only entries were written"),
            Step::Hole { .. } => 0,
        })
        .collect()
}

#[test]
fn torn_tail_is_cut_at_the_first_batch_that_is_not_whole() {
    let mut model = Model::new(512, 64);
    model.batch(1..4, 1);
    model.batch(4..8, 8);
    let (third, _) = model.batch(8..10, 1);
    assert_eq!(found(&model.scan(0)), (1..10).collect::<Vec<_>>());
    model.damage(third - 1);
    let scanned = model.scan(0);
    assert_eq!(found(&scanned), [1, 2, 3]);
    assert_eq!(scanned.end, 1);
    assert!(scanned.torn_blocks > 0);
}

#[test]
fn damage_below_the_mark_is_a_hole_and_reading_goes_on() {
    let mut model = Model::new(512, 64);
    model.batch(1..4, 1);
    let (second, blocks) = model.batch(4..9, 8);
    assert!(blocks > 1);
    model.mark = model.head;
    model.batch(9..11, 1);
    model.damage(second);
    let scanned = model.scan(0);
    assert_eq!(scanned.mark, second + blocks);
    assert_eq!(scanned.end, model.head);
    let seen = found(&scanned);
    assert_eq!(seen[..4], [1, 2, 3, 0]);
    assert_eq!(seen[seen.len() - 2..], [9, 10]);
    assert!(!seen.contains(&4), "it began in the damaged block");
    assert!(seen.contains(&8), "it begins behind the damaged block");
}

#[test]
fn stale_incarnations_are_rejected() {
    let mut model = Model::new(512, 64);
    model.batch(1..3, 1);
    model.batch(3..30, 1);
    model.damage(1);
    let cut = model.scan(0);
    assert_eq!(cut.end, 1);
    assert_eq!(found(&cut), [1, 2]);
    model.head = cut.end;
    model.start = cut.end;
    model.mark = cut.end;
    model.incarnation = cut.incarnation + 1;
    model.batch(3..5, 1);
    let scanned = model.scan(0);
    assert_eq!(found(&scanned), [1, 2, 3, 4]);
    assert!(scanned.stale_blocks > 0);
    assert_eq!(scanned.torn_blocks, 0);
}

#[test]
fn a_hole_that_may_hide_a_verdict_casts_doubt_back_to_the_mark() {
    let mut model = Model::new(512, 64);
    model.batch(1..3, 1);
    model.mark = model.head;
    model.batch(3..4, 1);
    model.batch(4..5, 1);
    let (verdict, _) = (model.head, model.start = model.head);
    model.incarnation += 1;
    model.batch(9..10, 1);
    model.mark = model.head;
    model.batch(11..12, 1);
    assert_eq!(found(&model.scan(0)), [1, 2, 3, 4, 9, 11]);
    model.damage(verdict);
    let scanned = model.scan(0);
    assert_eq!(found(&scanned), [1, 2, 0, 11], "3 and 4 may have been given up");
    let holes: Vec<_> = scanned.holes().map(|hole| (hole.start, hole.end)).collect();
    assert_eq!(holes, [(1, verdict + 1)]);
}

#[test]
fn a_newer_lap_tells_that_the_superblock_is_old() {
    let mut model = Model::new(512, 16);
    for index in 1..40 {
        model.batch(index..index + 1, 1);
    }
    assert!(model.scan(4).ahead.is_some());
    let scanned = model.scan(30);
    assert_eq!(scanned.ahead, None);
    assert_eq!(found(&scanned), (31..40).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn parsers_survive_anything(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Item::parse(&bytes);
        let _ = BlockView::parse(&bytes, salt());
        let _ = ChunkInstalled::parse(&bytes);
    }

    /// Laps, marks, damage and cuts: what is found below the first damage is what was written, and
    /// nothing is found that was not written or is out of order.
    #[test]
    fn scan_finds_a_prefix(
        small in any::<bool>(),
        batches in prop::collection::vec((1_u64..30, 1_u32..9, any::<bool>()), 1..60),
        damage in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut model = Model::new(if small { 512 } else { 4096 }, 80);
        let mut written = Vec::new();
        let mut index = 1;
        for (count, blocks_each, mark) in batches {
            let first = index;
            index += count;
            let (position, blocks) = model.batch(first..index, blocks_each);
            written.push((position, blocks, first..index));
            if mark {
                model.mark = model.head;
            }
        }
        let oldest = model.head.saturating_sub(model.blocks);
        let from = written.iter().find(|batch| batch.0 >= oldest).expect("the last one").0;
        let mut hit: Vec<u64> = Vec::new();
        for pick in damage {
            let position = from + pick.index((model.head - from) as usize) as u64;
            if !hit.contains(&position) {
                model.damage(position);
                hit.push(position);
            }
        }
        let scanned = model.scan(from);
        let seen = found(&scanned);
        let live: Vec<_> = written.iter().filter(|batch| batch.0 >= from).cloned().collect();
        let whole: Vec<u64> = live
            .iter()
            .take_while(|batch| !hit.iter().any(|at| (batch.0..batch.0 + batch.1).contains(at)))
            .flat_map(|batch| batch.2.clone())
            .collect();
        prop_assert!(seen.starts_with(&whole), "{seen:?} does not start with {whole:?}");
        let entries: Vec<u64> = seen.iter().copied().filter(|&index| index > 0).collect();
        prop_assert!(entries.is_sorted_by(|a, b| a < b));
        prop_assert!(entries.iter().all(|&entry| entry < index));
        if hit.is_empty() {
            prop_assert_eq!(scanned.end, model.head);
            prop_assert_eq!(scanned.torn_blocks, 0);
        }
        let damaged_below = hit.iter().any(|&at| at < scanned.mark);
        prop_assert_eq!(seen.contains(&0), damaged_below);
    }
}

#[test]
fn entries_in_metadata_take_their_positions() {
    let mut scan = Scan::new(salt(), 8, 0, 0, 1);
    (0..8).for_each(|_| scan.block(&[0; 512]));
    let entry = |position: u64, incarnation, index| {
        let stamp = Stamp { position, mark: position.min(1), start: 0, incarnation };
        let record = record(9, index, 1);
        let record = RecordView::trusted(&record);
        let place = 40 + index as u32;
        let metadata = encode_metadata(&stamp, &record, place, salt()).expect("it is short");
        MetadataEntry::parse(&metadata, place, salt()).expect("just encoded")
    };
    // In any order; what an earlier incarnation left, or says a position once more, does not count.
    for (position, incarnation, index) in
        [(2, 1, 3), (0, 1, 1), (4, 1, 9), (1, 1, 2), (1, 0, 8), (1, 1, 7)]
    {
        scan.metadata(&entry(position, incarnation, index));
    }
    let scanned = scan.finish();
    assert_eq!((scanned.end, scanned.torn_blocks, scanned.stale_blocks), (3, 1, 1));
    assert_eq!(scanned.bad_blocks, 1);
    assert_eq!(scanned.places.len(), 6);
    let indexes: Vec<u64> = scanned
        .steps()
        .map(|step| match step.expect("our own") {
            Step::Item(Located { item: Item::Entry(entry), .. }) => entry.record.index().0,
            _ => panic!("entries and nothing else"),
        })
        .collect();
    assert_eq!((indexes.len(), indexes[0], indexes[2]), (3, 1, 3));
}

/// What begins behind a hole is not lost in it; incarnations may be anything.
#[test]
fn a_hole_reaches_back_only_where_an_incarnation_may_have_begun_in_it() {
    let hole = |(before, after): (u32, u32), start| {
        let mut scan = Scan::new(salt(), 8, 0, 5, 1);
        (0..8).for_each(|_| scan.block(&[0; 512]));
        for (position, incarnation, start) in [(0, before, 0), (1, before, 0), (4, after, start)] {
            let stamp = Stamp { position, mark: 0, start, incarnation };
            let record = record(9, position + 1, 1);
            let record = RecordView::trusted(&record);
            let metadata = encode_metadata(&stamp, &record, 40, salt()).expect("it is short");
            scan.metadata(&MetadataEntry::parse(&metadata, 40, salt()).expect("just encoded"));
        }
        scan.finish().holes().next().expect("positions 2 and 3 are lost")
    };
    assert_eq!(hole((1, 1), 0), 2..4);
    assert_eq!(hole((1, 2), 4), 2..4);
    assert_eq!(hole((1, 2), 3), 0..4);
    assert_eq!(hole((1, 3), 4), 0..4, "one may have begun between them");
    assert_eq!(hole((u32::MAX, u32::MAX), 0), 2..4);
    assert_eq!(hole((u32::MAX, 2), 4).start, 0);
}
