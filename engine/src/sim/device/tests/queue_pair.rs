//! The contract of a queue pair.

use culvert_nvme::{Counters, LbaRange, RegisterError, Wake};

use super::*;

#[test]
fn arguments_are_checked() {
    let mut rig = Rig::new(DiskOptions { transfer_bytes_max: 8192, ..options() }, 1);
    let write = rig.write_of(64, 1, false);
    assert_eq!(rig.run(write).status, Status::LBA_OUT_OF_RANGE);
    let read = Operation::Read { lba: Lba(63), buffer: rig.buffer(2) };
    let completion = rig.run(read);
    assert_eq!(completion.status, Status::LBA_OUT_OF_RANGE);
    assert!(completion.buffer.is_some());
    let read = Operation::Read { lba: Lba(u64::MAX), buffer: rig.buffer(1) };
    assert_eq!(rig.run(read).status, Status::LBA_OUT_OF_RANGE);
    let read = Operation::Read { lba: Lba(0), buffer: rig.buffer(3) };
    assert_eq!(rig.run(read).status, Status::INVALID_FIELD);
    for blocks in [0, 2, u32::MAX] {
        let pages = rig.pages(1);
        let write = Operation::WriteBlocks { lba: Lba(0), pages, blocks, fua: false };
        let completion = rig.run(write);
        assert_eq!(completion.status, Status::INVALID_FIELD);
        assert!(completion.pages.is_some());
    }
    let zeroes = Operation::WriteZeroes { lba: Lba(0), blocks: 0, deallocate: false };
    assert_eq!(rig.run(zeroes).status, Status::INVALID_FIELD);
    let none = Operation::Deallocate { ranges: Default::default() };
    assert_eq!(rig.run(none).status, Status::INVALID_FIELD);
    assert_eq!(rig.disk.hash(), Rig::new(options(), 2).disk.hash(), "nothing was stored");
    assert_eq!(rig.pair.counters().errors, rig.pair.counters().commands());
}

#[test]
fn memory_must_be_registered() {
    let mut rig = Rig::new(options(), 1);
    let region = rig.pool.regions()[0].clone();
    rig.pair.unregister(&region);
    assert_eq!(rig.write(0, 1, false), Status::DATA_TRANSFER_ERROR);
    assert_eq!(rig.read(0), Err(Status::DATA_TRANSFER_ERROR));
    rig.pair.register(&region).expect("a place");
    rig.pair.register(&region).expect("it has one");
    let write = rig.write_of(0, 1, false);
    rig.submit(write);
    rig.pair.unregister(&region);
    rig.pair.ring();
    assert_eq!(rig.wait()[0].status, Status::SUCCESS, "in flight commands finish");

    let disk = Disk::new(DiskOptions { regions_max: 0, ..options() }, Random::new(0));
    let refused = disk.open().register(&region);
    assert!(matches!(refused, Err(RegisterError::TableFull { regions_max: 0 })));
}

#[test]
fn a_full_queue_gives_operations_back() {
    let mut rig = Rig::new(DiskOptions { depth: 2, ..options() }, 1);
    rig.submit(Operation::Flush);
    let write = rig.write_of(99, 1, false);
    rig.submit(write);
    assert_eq!(rig.pair.in_flight(), 2);
    assert_eq!(rig.pair.depth(), 2);
    assert!(!rig.pair.arm());
    assert!(matches!(rig.pair.wake(), Wake::Poll));
    let operation = rig.write_of(1, 7, false);
    let refused = rig.pair.submit(Submission { tag: Tag(77), operation }).expect_err("it is full");
    assert_eq!(refused.tag, Tag(77));
    rig.pair.ring();
    while rig.pair.in_flight() > 0 {
        rig.wait();
    }
    assert!(rig.pair.arm());
    rig.pair.submit(refused).expect("room");
}

#[test]
fn commands_begin_when_they_are_rung_and_end_in_any_order() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut rig = Rig::new(options(), seed);
        for block in 0..3 {
            let write = rig.write_of(block, 1, false);
            rig.submit(write);
        }
        assert_eq!(rig.disk.next_ns(), None);
        rig.disk.advance(1_000_000);
        rig.pair.ring();
        let mut tags = Vec::new();
        let mut at_ns = 1_000_000;
        while rig.pair.in_flight() > 0 {
            let next_ns = rig.disk.next_ns().expect("something is in flight");
            assert!(next_ns >= at_ns);
            at_ns = next_ns;
            rig.disk.advance(at_ns);
            tags.extend(rig.poll().iter().map(|completion| completion.tag));
        }
        assert_eq!(rig.disk.now_ns(), at_ns);
        assert!(at_ns >= 1_010_000);
        assert!(at_ns < 1_100_000);
        orders.insert(tags);
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn counters_count() {
    let mut rig = Rig::new(DiskOptions { blocks: 512, block_size: 512, ..options() }, 1);
    let write = Operation::WriteBlocks { lba: Lba(3), pages: rig.pages(4), blocks: 2, fua: true };
    assert_eq!(rig.run(write).status, Status::SUCCESS);
    assert_eq!(sectors(&rig.disk.durable_block(0)), [0, 0, 0, 4, 4, 0, 0, 0]);
    assert_eq!(rig.read(3).map(|bytes| sectors(&bytes)), Ok(vec![4, 4, 0, 0, 0, 0, 0, 0]));
    rig.flush();
    let zeroes = Operation::WriteZeroes { lba: Lba(4), blocks: 1, deallocate: true };
    rig.run(zeroes);
    let ranges = [LbaRange { start: Lba(0), blocks: 1 }, LbaRange { start: Lba(9), blocks: 2 }];
    rig.run(Operation::Deallocate { ranges: ranges.into_iter().collect() });
    rig.pair.ring();
    assert_eq!(sectors(&rig.disk.read_block(0)), [0, 0, 0, 4, 0, 0, 0, 0]);
    let expected = Counters {
        doorbells: 5,
        completion_doorbells: 5,
        reads: 1,
        writes: 1,
        flushes: 1,
        write_zeroes: 1,
        deallocates: 1,
        bytes_read: 4096,
        bytes_written: 1024,
        bytes_copied_for_dma: 5120,
        ..Counters::default()
    };
    assert_eq!(*rig.pair.counters(), expected);
}

#[test]
fn what_is_deallocated_is_zero_or_as_it_was() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut rig = Rig::new(options(), seed);
        rig.write(1, 1, true);
        let range = LbaRange { start: Lba(1), blocks: 1 };
        let ranges = [range].into_iter().collect();
        assert_eq!(rig.run(Operation::Deallocate { ranges }).status, Status::SUCCESS);
        seen.extend(sectors(&rig.disk.read_block(1)));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1]);
}
