//! What survives whom.

use super::*;

#[test]
fn forced_writes_survive_and_others_may_not() {
    let mut lost = 0;
    let mut kept = 0;
    let mut torn = 0;
    for seed in 0..100 {
        let mut rig = Rig::new(options(), seed);
        assert_eq!(rig.write(1, 1, false), Status::SUCCESS);
        assert_eq!(rig.write(2, 2, true), Status::SUCCESS);
        assert_eq!(rig.read(1).map(|bytes| uniform(&bytes)), Ok(Some(1)));
        assert_eq!(uniform(&rig.disk.durable_block(1)), Some(0));
        assert_eq!(uniform(&rig.disk.durable_block(2)), Some(2));
        rig.restart(Crash::Power);
        assert_eq!(rig.read(2).map(|bytes| uniform(&bytes)), Ok(Some(2)));
        match uniform(&rig.disk.read_block(1)) {
            Some(0) => lost += 1,
            Some(1) => kept += 1,
            _ => torn += 1,
        }
        assert!(sectors(&rig.disk.read_block(1)).iter().all(|byte| *byte <= 1));
        assert_eq!(rig.disk.read_block(1), rig.disk.durable_block(1));
    }
    assert!(lost > 5, "lost {lost}");
    assert!(kept > 5, "kept {kept}");
    assert!(torn > 20, "torn {torn}");
}

#[test]
fn without_a_cache_what_has_completed_survives() {
    for seed in 0..50 {
        let mut rig = Rig::new(durable_options(), seed);
        assert_eq!(rig.write(1, 1, false), Status::SUCCESS);
        let zeroes = Operation::WriteZeroes { lba: Lba(2), blocks: 1, deallocate: false };
        assert_eq!(rig.write(2, 2, false), Status::SUCCESS);
        assert_eq!(rig.run(zeroes).status, Status::SUCCESS);
        rig.restart(Crash::Power);
        assert_eq!(uniform(&rig.disk.read_block(1)), Some(1));
        assert_eq!(uniform(&rig.disk.read_block(2)), Some(0));
        assert_eq!(rig.disk.injected().lost_sectors, 0);
    }
}

#[test]
fn a_flush_covers_what_had_ended_when_it_was_rung() {
    let mut newer_lost = false;
    for seed in 0..100 {
        let mut rig = Rig::new(options(), seed);
        rig.write(1, 1, false);
        rig.write(2, 1, false);
        // In flight when the flush is rung, and over before the flush is.
        let write = rig.write_of(1, 2, false);
        rig.submit(write);
        let write = rig.write_of(3, 2, false);
        rig.submit(write);
        rig.submit(Operation::Flush);
        rig.pair.ring();
        while rig.pair.in_flight() > 0 {
            rig.wait();
        }
        assert_eq!(uniform(&rig.disk.durable_block(1)), Some(1), "as it was when it was rung");
        assert_eq!(uniform(&rig.disk.durable_block(2)), Some(1));
        assert_eq!(uniform(&rig.disk.durable_block(3)), Some(0));
        assert_eq!(uniform(&rig.disk.read_block(1)), Some(2));
        rig.restart(Crash::Power);
        assert!(sectors(&rig.disk.read_block(1)).iter().all(|byte| [1, 2].contains(byte)));
        assert_eq!(uniform(&rig.disk.read_block(2)), Some(1));
        newer_lost |= uniform(&rig.disk.read_block(3)) == Some(0);
    }
    assert!(newer_lost);
}

#[test]
fn a_flush_covers_a_sector_that_is_written_often_meanwhile() {
    let mut rig = Rig::new(options(), 5);
    rig.write(1, 1, false);
    rig.submit(Operation::Flush);
    rig.pair.ring();
    for byte in 2..40 {
        let write = rig.write_of(1, byte, false);
        rig.submit(write);
    }
    rig.pair.ring();
    while rig.pair.in_flight() > 0 {
        rig.wait();
    }
    assert_eq!(uniform(&rig.disk.durable_block(1)), Some(1));
    for byte in 40..80 {
        rig.write(1, byte, false);
    }
    assert_eq!(rig.flush(), Status::SUCCESS);
    assert_eq!(uniform(&rig.disk.durable_block(1)), Some(79));
}

#[test]
fn a_forced_write_is_not_undone_by_an_older_one() {
    for seed in 0..50 {
        let mut rig = Rig::new(options(), seed);
        rig.write(1, 1, false);
        rig.write(1, 2, true);
        assert_eq!(rig.flush(), Status::SUCCESS);
        rig.restart(Crash::Power);
        assert_eq!(uniform(&rig.disk.read_block(1)), Some(2));
    }
}

#[test]
fn a_kill_keeps_the_cache_and_cuts_what_is_in_flight() {
    let mut cut = [0; 3];
    for seed in 0..100 {
        let mut rig = Rig::new(options(), seed);
        rig.write(1, 1, false);
        let write = rig.write_of(2, 2, true);
        rig.submit(write);
        rig.pair.ring();
        rig.restart(Crash::Kill);
        assert_eq!(uniform(&rig.disk.read_block(1)), Some(1));
        assert_eq!(uniform(&rig.disk.durable_block(1)), Some(0));
        match uniform(&rig.disk.read_block(2)) {
            Some(0) => cut[0] += 1,
            Some(2) => cut[1] += 1,
            _ => cut[2] += 1,
        }
        // What recovery found is what its flush keeps.
        let found = [rig.disk.read_block(1), rig.disk.read_block(2)];
        assert_eq!(rig.flush(), Status::SUCCESS);
        rig.restart(Crash::Power);
        assert_eq!([rig.disk.read_block(1), rig.disk.read_block(2)], found);
    }
    assert!(cut.iter().all(|count| *count > 10), "none, whole, part: {cut:?}");
}

#[test]
fn writes_tear_only_where_they_are_not_durable() {
    let mut torn = 0;
    for seed in 0..100 {
        let mut rig = Rig::new(durable_options(), seed);
        rig.write(1, 1, false);
        rig.write(2, 1, false);
        let write = rig.write_of(2, 2, false);
        rig.submit(write);
        rig.pair.ring();
        rig.restart(Crash::Power);
        assert_eq!(uniform(&rig.disk.read_block(1)), Some(1));
        assert!(sectors(&rig.disk.read_block(2)).iter().all(|byte| [1, 2].contains(byte)));
        torn += u64::from(uniform(&rig.disk.read_block(2)).is_none());
    }
    assert!(torn > 10, "torn {torn}");
}

#[test]
fn a_crash_ends_the_old_queue_pair_for_good() {
    let mut rig = Rig::new(options(), 3);
    let pages = rig.pages(1);
    let kept = pages.clone();
    rig.submit(Operation::Write { lba: Lba(1), pages, fua: false });
    let buffer = rig.buffer(1);
    rig.submit(Operation::Read { lba: Lba(1), buffer });
    rig.pair.ring();
    let write = rig.write_of(5, 5, true);
    rig.submit(write);
    let free = rig.pool.free_pages();
    rig.disk.crash(10, Crash::Kill);
    assert_eq!(rig.disk.next_ns(), None);
    assert_eq!(kept.users(), 1, "what was in flight has been dropped");
    assert_eq!(rig.pool.free_pages(), free + 2);
    assert_eq!(uniform(&rig.disk.read_block(5)), Some(0), "it was never rung");
    let mut dead = rig.pair;
    let operation = Operation::Write { lba: Lba(1), pages: kept, fua: true };
    dead.submit(Submission { tag: Tag(9), operation }).expect("it is dropped");
    dead.ring();
    dead.set_driven(true);
    assert_eq!(dead.in_flight(), 0);
    assert_eq!(dead.poll(9, &mut |_| panic!("nothing to report")), 0);
    assert!(dead.arm());
    assert_eq!(rig.pool.free_pages(), rig.pool.total_pages());
    let disk = rig.disk.clone();
    drop(rig.disk);
    let _second = disk.open();
    drop(dead);
}

#[test]
#[should_panic(expected = "a crash ends what an earlier process had in flight")]
fn a_second_process_needs_a_crash_of_the_first() {
    let mut rig = Rig::new(options(), 3);
    rig.submit(Operation::Flush);
    rig.pair.ring();
    rig.disk.open();
}
