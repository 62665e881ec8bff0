//! Installs: what is refused, skipped and released.

use super::*;

fn hole(index: u64) -> BlockState {
    BlockState { place: Place::Hole, crc: 0, index: LogIndex(index) }
}

fn at(place: u32, index: u64) -> BlockState {
    BlockState { place: Place::At(place), crc: 3, index: LogIndex(index) }
}

fn install<'a>(
    (birth, applied, since): (u64, u64, u64),
    blocks: &'a [InstallBlock],
) -> ChunkInstall<'a> {
    ChunkInstall {
        key: key(1),
        birth: LogIndex(birth),
        applied: LogIndex(applied),
        as_of: LogIndex(applied),
        since: LogIndex(since),
        blocks,
    }
}

#[test]
fn a_difference_is_added_and_releases_what_it_replaces() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(1), 10, range(0, 4));
    let new = store.allocate(2).expect("room")[0].start;
    let blocks = [
        InstallBlock { block: 1, state: hole(12) },
        InstallBlock { block: 2, state: at(new, 15) },
        InstallBlock { block: 9, state: at(new + 1, 14) },
    ];
    assert_eq!(store.install(&install((10, 15, 10), &blocks)), Ok(Change::Made));
    let states = states(&store, key(1), range(0, 10)).expect("a chunk");
    assert_eq!(states[0].index, LogIndex(10));
    assert_eq!((states[1], states[2], states[9]), (hole(12), at(new, 15), at(new + 1, 14)));
    assert_eq!(store.mapped_blocks(COPYSET), 4);
    assert!(store.covers(key(1), LogIndex(15)));
    settle(&mut store, &mut 0);
    assert_eq!(store.verify([], &[]), Ok(0));
    assert_eq!(store.statistics().free_blocks, 60);
    // Again, from the journal: nothing happens to what the map names.
    assert_eq!(store.install(&install((10, 15, 10), &blocks)), Ok(Change::Skipped));
    assert_eq!(store.statistics().waiting_blocks, 0);
}

#[test]
fn another_life_replaces_all() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(1), 10, range(0, 4));
    let new = store.allocate(1).expect("room")[0].start;
    let blocks = [InstallBlock { block: 2, state: at(new, 20) }];
    assert_eq!(store.install(&install((20, 25, 0), &blocks)), Ok(Change::Made));
    assert_eq!(store.mapped_blocks(COPYSET), 1);
    assert_eq!(store.chunk(key(1)).expect("a chunk").birth, LogIndex(20));
    settle(&mut store, &mut 0);
    assert_eq!(store.statistics().free_blocks, 63);
    assert_eq!(store.verify([], &[]), Ok(0));
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(1), 10, range(0, 4));
    let field = |name| Err(InstallError::Field(name));
    let good = at(9, 15);
    let cases = [
        ((10, 15, 11), None, Err(InstallError::Gap)),
        ((20, 25, 20), None, Err(InstallError::Gap)),
        ((9, 15, 0), None, field("birth")),
        ((0, 15, 0), None, field("birth")),
        ((10, 15, 16), None, field("applied")),
        ((10, 1 << 48, 0), None, field("applied")),
        ((10, 15, 10), Some((64, good)), field("block")),
        ((10, 15, 10), Some((0, at(64, 15))), field("place")),
        ((10, 15, 10), Some((0, at(u32::MAX, 15))), field("place")),
        ((10, 15, 10), Some((0, at(9, 16))), field("index")),
        ((10, 15, 10), Some((0, at(9, 10))), field("index")),
        ((10, 15, 10), Some((0, BlockState { crc: 1, ..hole(11) })), field("place")),
    ];
    let before = store.statistics();
    for (indexes, block, expected) in cases {
        let blocks: Vec<_> =
            block.into_iter().map(|(block, state)| InstallBlock { block, state }).collect();
        assert_eq!(store.install(&install(indexes, &blocks)), expected, "{indexes:?} {block:?}");
    }
    let twice = [InstallBlock { block: 3, state: good }, InstallBlock { block: 3, state: good }];
    assert_eq!(store.install(&install((10, 15, 10), &twice)), field("order"));
    assert_eq!(store.statistics(), before);
    assert_eq!(store.verify([], &[]), Ok(0));
}

#[test]
fn a_stale_image_of_a_deleted_chunk_does_not_bring_it_back() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(1), 10, range(0, 4));
    store.retain_chunks(COPYSET, LogIndex(50), &[ChunkId(2)]);
    assert_eq!(store.chunk(key(1)), None);
    let new = store.allocate(1).expect("room")[0].start;
    let blocks = [InstallBlock { block: 2, state: at(new, 20) }];
    assert_eq!(store.install(&install((20, 25, 0), &blocks)), Ok(Change::Skipped));
    settle(&mut store, &mut 0);
    assert_eq!(store.statistics().free_blocks, 64, "its extent was released");
    // A listed chunk is installed though its last change is older than the list.
    let new = store.allocate(1).expect("room")[0].start;
    let blocks = [InstallBlock { block: 2, state: at(new, 20) }];
    let listed = ChunkInstall { key: key(2), ..install((20, 25, 0), &blocks) };
    assert_eq!(store.install(&listed), Ok(Change::Made));
}

#[test]
fn entries_leave_the_room_of_a_chunk() {
    let mut store = Store::new(geometry(40, 16));
    assert_eq!(store.spare_blocks(), 24);
    let entries = [store.allocate(20), store.allocate(4)].map(|extents| extents.expect("room"));
    assert_eq!((store.free_blocks(), store.spare_blocks()), (16, 0));
    // What arrives uses that room up, and no more of it is left to it.
    let arriving = store.allocate(10).expect("room");
    store.arrive(10);
    assert_eq!((store.free_blocks(), store.spare_blocks()), (6, 0));
    for extent in entries.iter().flatten() {
        store.release(*extent);
    }
    settle(&mut store, &mut 0);
    assert_eq!((store.free_blocks(), store.spare_blocks()), (30, 24));
    arriving.iter().for_each(|extent| store.release(*extent));
    store.arrived(10);
    settle(&mut store, &mut 1);
    assert_eq!((store.free_blocks(), store.spare_blocks()), (40, 24));
}
