//! Tests of the store as a whole.

mod image;
mod install;
mod model;

use super::*;

pub(super) const COPYSET: CopysetId = CopysetId(7);

pub(super) fn key(chunk: u64) -> ChunkKey {
    ChunkKey { copyset: COPYSET, chunk: ChunkId(chunk) }
}

pub(super) fn range(first: u32, blocks: u32) -> BlockRange {
    BlockRange { first, blocks }
}

pub(super) fn geometry(data_blocks: u32, chunk_blocks: u32) -> Geometry {
    Geometry { data_blocks, chunk_blocks, deallocate: false }
}

/// Writes blocks with checksums made of index and block, to newly allocated extents.
pub(super) fn write(store: &mut Store, key: ChunkKey, index: u64, range: BlockRange) -> Extents {
    let extents = store.allocate(range.blocks).expect("room");
    let crcs: Vec<u32> = (0..range.blocks).map(|block| crc(index, range.first + block)).collect();
    let change = store.write(key, LogIndex(index), range, &extents, crcs.into_iter());
    assert_eq!(change, Change::Made);
    extents
}

pub(super) fn crc(index: u64, block: u32) -> u32 {
    (index as u32) << 12 | block
}

pub(super) fn states(store: &Store, key: ChunkKey, range: BlockRange) -> Option<BlockStates> {
    let mut out = BlockStates::new();
    store.lookup(key, range, &mut out).then_some(out)
}

/// Makes everything released free, as far as images and tickets allow.
pub(super) fn settle(store: &mut Store, batch: &mut u64) {
    *batch += 1;
    store.seal(BatchNumber(*batch));
    store.durable(BatchNumber(*batch));
    while store.reclaim() {}
    let mut extents = Vec::new();
    store.take_deallocations(usize::MAX, &mut extents);
    for extent in extents {
        store.deallocated(extent);
    }
}

#[test]
fn a_block_costs_at_most_sixteen_bytes() {
    let mut store = Store::new(geometry(1 << 18, 4096));
    for first in (0..(1 << 18)).step_by(32) {
        let chunk = u64::from(first / 4096);
        write(&mut store, key(chunk), u64::from(first + 1), range(first % 4096, 32));
    }
    let statistics = store.statistics();
    assert_eq!(statistics.mapped_blocks, 1 << 18);
    assert_eq!(statistics.free_blocks, 0);
    let per_block = statistics.memory_bytes as f64 / f64::from(1 << 18);
    assert!(per_block < 14.5, "{per_block} bytes a block");
}

#[test]
fn a_released_extent_waits_for_its_batch_and_for_readers() {
    let mut store = Store::new(geometry(3, 8));
    write(&mut store, key(1), 1, range(0, 1));
    write(&mut store, key(1), 2, range(0, 1));
    let old = store.read_begin();
    store.seal(BatchNumber(5));
    let young = store.read_begin();
    assert!(store.allocate(1).is_some(), "the third block");
    assert_eq!(store.allocate(1), None);
    store.durable(BatchNumber(5));
    assert_eq!(store.allocate(1), None, "a read may still look at it");
    store.read_end(old);
    let again = store.allocate(1).expect("the first block");
    assert_eq!(again[..], [Extent { start: 0, blocks: 1 }]);
    store.read_end(young);
}

#[test]
fn a_deleted_chunk_goes_by_leaves_in_bounded_steps() {
    let mut store = Store::new(geometry(8192, 8192));
    for first in (0..8192).step_by(32) {
        write(&mut store, key(1), u64::from(first + 1), range(first, 32));
    }
    store.delete(key(1), LogIndex(9000));
    assert_eq!(store.statistics().waiting_blocks, 8192);
    assert_eq!(store.mapped_blocks(COPYSET), 0);
    store.seal(BatchNumber(1));
    store.durable(BatchNumber(1));
    assert_eq!(store.statistics().free_blocks, 2048);
    while store.reclaim() {}
    assert_eq!(store.statistics().free_blocks, 8192);
    assert_eq!(store.verify([], &[]), Ok(0));
    // A new life uses the same leaves, and finds nothing in them.
    let memory = store.memory_bytes();
    write(&mut store, key(1), 9001, range(700, 1));
    assert_eq!(store.unmapped_in(key(1), range(0, 32)), 32);
    assert!(store.memory_bytes() <= memory + 1024);
}

#[test]
fn discarded_extents_wait_for_the_device() {
    let mut store = Store::new(Geometry { deallocate: true, ..geometry(64, 64) });
    write(&mut store, key(1), 1, range(0, 32));
    write(&mut store, key(1), 2, range(0, 1));
    store.discard(key(1), LogIndex(3), range(0, 16));
    store.delete(key(1), LogIndex(4));
    store.seal(BatchNumber(1));
    store.durable(BatchNumber(1));
    let mut extents = Vec::new();
    store.take_deallocations(1, &mut extents);
    assert_eq!(extents, [Extent { start: 32, blocks: 1 }], "the block that index 2 wrote");
    store.take_deallocations(9, &mut extents);
    assert_eq!(extents[1..], [Extent { start: 1, blocks: 15 }, Extent { start: 16, blocks: 16 }]);
    assert_eq!(store.statistics().free_blocks, 32, "block 0 was overwritten");
    for extent in extents {
        store.deallocated(extent);
    }
    assert_eq!(store.statistics().free_blocks, 64);
}

#[test]
fn short_space_skips_the_device() {
    let mut store = Store::new(Geometry { deallocate: true, ..geometry(8, 8) });
    write(&mut store, key(1), 1, range(0, 8));
    store.discard(key(1), LogIndex(2), range(0, 8));
    store.seal(BatchNumber(1));
    store.durable(BatchNumber(1));
    assert_eq!(store.statistics().free_blocks, 0);
    assert!(store.allocate(4).is_some());
    assert_eq!(store.statistics().free_blocks, 4);
}

#[test]
fn missing_payload_is_mapped_but_nowhere() {
    let mut store = Store::new(geometry(64, 64));
    let mut extents = store.allocate(1).expect("room");
    extents.push(Extent { start: MISSING, blocks: 2 });
    store.write(key(1), LogIndex(1), range(4, 3), &extents, [1, 2, 3].into_iter());
    let blocks = states(&store, key(1), range(4, 3)).expect("a chunk");
    assert_eq!(blocks[0].place, Place::At(0));
    assert_eq!(blocks[1], BlockState { place: Place::Missing, crc: 2, index: LogIndex(1) });
    assert_eq!(store.mapped_blocks(COPYSET), 3);
    assert_eq!(store.verify([], &[]), Ok(0));
    assert!(!store.relocate(key(1), 5, blocks[0], 9), "that is another block's state");
    let to = store.allocate(1).expect("room")[0].start;
    assert!(store.relocate(key(1), 5, blocks[1], to), "a peer had the bytes");
    assert_eq!(states(&store, key(1), range(5, 1)).expect("a chunk")[0].place, Place::At(to));
    assert_eq!(store.mapped_blocks(COPYSET), 3);
}

#[test]
fn verify_finds_double_use_and_leaks() {
    let mut store = Store::new(geometry(64, 64));
    let extents = write(&mut store, key(1), 1, range(0, 2));
    let leaked = store.allocate(3).expect("room");
    assert_eq!(store.verify([], &[]), Ok(3));
    let live = LivePayload { key: key(2), index: LogIndex(9), extents: &leaked };
    assert_eq!(store.verify([live], &[]), Ok(0));
    let live = LivePayload { key: key(2), index: LogIndex(9), extents: &extents };
    let first = User::Chunk { key: key(1), block: 0 };
    let second = User::Record { key: key(2), index: LogIndex(9) };
    assert_eq!(store.verify([live], &[]), Err(SpaceError::DoubleUse { block: 0, first, second }));
}

#[test]
fn absence_covers_what_it_outlived_and_nothing_else() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(1), 10, range(0, 1));
    store.delete(key(1), LogIndex(20));
    assert!(store.covers(key(1), LogIndex(20)));
    assert!(!store.covers(key(1), LogIndex(21)));
    write(&mut store, key(1), 30, range(0, 1));
    assert_eq!(store.chunk(key(1)).expect("reborn").birth, LogIndex(30));
    store.delete(key(1), LogIndex(40));
    // The list of 100 has chunks 2 and 3 and no others.
    store.retain_chunks(COPYSET, LogIndex(100), &[ChunkId(2), ChunkId(3)]);
    assert!(store.covers(key(1), LogIndex(100)));
    assert!(store.covers(key(9), LogIndex(100)));
    assert!(!store.covers(key(9), LogIndex(101)));
    assert!(!store.covers(key(2), LogIndex(1)), "it is still to come");
    assert!(!store.covers(ChunkKey { copyset: CopysetId(8), chunk: ChunkId(9) }, LogIndex(1)));
    // A list from before, of a leader that is behind, tells nothing new.
    store.retain_chunks(COPYSET, LogIndex(90), &[ChunkId(9)]);
    assert!(store.covers(key(9), LogIndex(95)));
    assert!(!store.covers(key(2), LogIndex(1)));
    // A later list has a chunk that was born since: its absence until 100 is not forgotten.
    store.retain_chunks(COPYSET, LogIndex(110), &[ChunkId(2), ChunkId(9)]);
    assert!(store.covers(key(9), LogIndex(100)));
    assert!(!store.covers(key(9), LogIndex(101)));
    assert!(store.covers(key(3), LogIndex(110)));
    store.forget_deletions(COPYSET, LogIndex(110));
    assert!(!store.covers(key(1), LogIndex(1)));
    let nothing = Encoded { bytes: 0, next: None };
    assert_eq!(store.encode_absences(COPYSET, None, &mut [0; PIECE_BYTES_MIN]), nothing);
}
