//! Bad arguments: error status, never a panic, and everything comes back.

use culvert_nvme::{
    Lba, LbaRange, OpenOptions, Operation, QueuePair, RegisterError, Status, Submission,
    TRANSFER_PAGES_MAX, Tag, WRITE_ZEROES_BLOCKS_MAX,
};

use crate::rig::{Rig, finish, pattern, pool};

fn read_at(rig: &Rig<impl QueuePair>, lba: u64, pages: u32) -> Operation {
    let buffer = rig.pool.acquire(pages).expect("memory");
    Operation::Read { lba: Lba(lba), buffer }
}

fn write_at(rig: &Rig<impl QueuePair>, lba: u64, pages: u32) -> Operation {
    Operation::Write { lba: Lba(lba), pages: rig.filled(pages, 1).freeze(), fua: false }
}

pub fn past_the_end_is_out_of_range(mut rig: Rig<impl QueuePair>) {
    let (blocks, per_page) = (rig.pair.namespace().blocks, rig.per_page());
    for lba in [blocks, blocks - per_page + 1, u64::MAX, u64::MAX - per_page + 1, 1 << 63] {
        let read = read_at(&rig, lba, 1);
        rig.run_badly(read, Status::LBA_OUT_OF_RANGE);
        let write = write_at(&rig, lba, 1);
        rig.run_badly(write, Status::LBA_OUT_OF_RANGE);
        let zeroes =
            Operation::WriteZeroes { lba: Lba(lba), blocks: per_page as u32, deallocate: false };
        rig.run_badly(zeroes, Status::LBA_OUT_OF_RANGE);
    }
    // The last page is inside.
    let written = rig.filled(1, 3);
    rig.write(blocks - per_page, written);
    assert_eq!(rig.read(blocks - per_page, 1).as_slice(), pattern(3, 4096));
}

pub fn unregistered_memory_is_a_transfer_error(mut rig: Rig<impl QueuePair>) {
    let stranger = pool();
    for pages in [1, 2, 3] {
        let buffer = stranger.acquire(pages).expect("memory");
        let read = Operation::Read { lba: Lba(0), buffer };
        let completion = rig.run_badly(read, Status::DATA_TRANSFER_ERROR);
        assert_eq!(completion.buffer.map(|buffer| buffer.pages()), Some(pages));
    }
    let pages = stranger.acquire(1).expect("memory").freeze();
    let write = Operation::Write { lba: Lba(0), pages, fua: false };
    rig.run_badly(write, Status::DATA_TRANSFER_ERROR);

    for region in stranger.regions() {
        rig.pair.register(region).expect("registering");
    }
    let buffer = stranger.acquire(1).expect("memory");
    rig.run_well(Operation::Read { lba: Lba(0), buffer });
    for region in stranger.regions() {
        rig.pair.unregister(region);
    }
    let buffer = stranger.acquire(1).expect("memory");
    rig.run_badly(Operation::Read { lba: Lba(0), buffer }, Status::DATA_TRANSFER_ERROR);
    assert_eq!(stranger.free_pages(), stranger.total_pages());
    rig.read(0, 1);
}

pub fn registration_can_be_repeated(mut rig: Rig<impl QueuePair>) {
    rig.register_pool();
    for _ in 0..50 {
        let further = pool();
        let region = &further.regions()[0];
        rig.pair.register(region).expect("registering");
        let pages = further.acquire(2).expect("memory").freeze();
        rig.run_well(Operation::Write { lba: Lba(0), pages, fua: false });
        rig.pair.unregister(region);
        rig.pair.unregister(region);
    }
    rig.read(0, 2);
}

pub fn too_much_is_an_invalid_field(mut rig: Rig<impl QueuePair>) {
    let read = read_at(&rig, 0, TRANSFER_PAGES_MAX + 1);
    rig.run_badly(read, Status::INVALID_FIELD);
    let write = write_at(&rig, 0, TRANSFER_PAGES_MAX + 1);
    rig.run_badly(write, Status::INVALID_FIELD);
    for blocks in [0, WRITE_ZEROES_BLOCKS_MAX + 1, u32::MAX] {
        let zeroes = Operation::WriteZeroes { lba: Lba(0), blocks, deallocate: false };
        rig.run_badly(zeroes, Status::INVALID_FIELD);
    }
    let per_page = rig.per_page() as u32;
    for blocks in [0, per_page + 1, u32::MAX] {
        let pages = rig.filled(1, 1).freeze();
        let write = Operation::WriteBlocks { lba: Lba(0), pages, blocks, fua: false };
        let completion = rig.run_badly(write, Status::INVALID_FIELD);
        assert!(completion.pages.is_some());
    }
}

pub fn errors_hand_every_buffer_back(mut rig: Rig<impl QueuePair>) {
    let total = rig.pool.total_pages();
    let blocks = rig.pair.namespace().blocks;
    for tag in 0..6 {
        let read = read_at(&rig, blocks, 3);
        rig.submit(tag, read);
        let write = write_at(&rig, blocks, 3);
        rig.submit(100 + tag, write);
    }
    let completions = rig.finish();
    assert_eq!(completions.len(), 12);
    for (tag, completion) in completions {
        assert!(!completion.status.is_success());
        assert_eq!(completion.buffer.is_some(), tag < 100);
        assert_eq!(completion.pages.is_some(), tag >= 100);
    }
    assert_eq!(rig.pool.free_pages(), total);
    assert_eq!(rig.pair.counters().errors, 12);
    assert_eq!(rig.pair.counters().bytes_written, 0);
}

pub fn errors_do_not_disturb_neighbours(mut rig: Rig<impl QueuePair>) {
    let blocks = rig.pair.namespace().blocks;
    let range = LbaRange { start: Lba(blocks), blocks: 1 };
    for tag in 0..3 {
        let good = write_at(&rig, tag * 8, 1);
        rig.submit(tag, good);
        let bad = read_at(&rig, blocks, 1);
        rig.submit(10 + tag, bad);
        rig.submit(20 + tag, Operation::Deallocate { ranges: [range].into_iter().collect() });
        rig.submit(30 + tag, Operation::WriteZeroes { lba: Lba(0), blocks: 0, deallocate: true });
    }
    for (tag, completion) in rig.finish() {
        assert_eq!(completion.status.is_success(), tag < 10, "{tag}: {}", completion.status);
    }
}

pub fn a_full_table_of_regions_is_an_error(mut rig: Rig) {
    let mut pair = rig.open_again(&OpenOptions { regions_max: 2, ..OpenOptions::default() });
    let pools = [pool(), pool(), pool()];
    let region = |index: usize| &pools[index].regions()[0];
    pair.register(region(0)).expect("the first");
    pair.register(region(1)).expect("the second");
    let refused = pair.register(region(2));
    assert!(matches!(refused, Err(RegisterError::TableFull { regions_max: 2 })), "{refused:?}");
    pair.unregister(region(0));
    pair.register(region(2)).expect("a place is free again");
    let buffer = pools[2].acquire(1).expect("memory");
    let operation = Operation::Read { lba: Lba(0), buffer };
    pair.submit(Submission { tag: Tag(1), operation }).expect("the queue is empty");
    pair.ring();
    assert!(finish(&mut pair)[&1].status.is_success());
}
