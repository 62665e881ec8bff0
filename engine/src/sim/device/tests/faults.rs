//! Each fault does what it says, and is counted.

use super::*;

/// Chance of one.
const ALWAYS: u32 = 1_000_000;

/// A disk of which every block holds its number plus one, durably.
fn numbered(seed: u64) -> Rig {
    let mut rig = Rig::new(durable_options(), seed);
    for block in 0..64 {
        assert_eq!(rig.write(block, block as u8 + 1, false), Status::SUCCESS);
    }
    rig
}

/// The blocks that do not hold what [`numbered`] put there.
fn changed(rig: &Rig) -> Vec<u64> {
    (0..64)
        .filter(|block| uniform(&rig.disk.read_block(*block)) != Some(*block as u8 + 1))
        .collect()
}

#[test]
fn spoiled_blocks_are_unreadable_until_written() {
    let mut rig = numbered(1);
    rig.disk.spoil(4..6);
    assert_eq!(rig.read(4), Err(Status::UNRECOVERED_READ_ERROR));
    assert_eq!(rig.read(5), Err(Status::UNRECOVERED_READ_ERROR));
    assert!(rig.read(6).is_ok());
    rig.write(4, 9, false);
    assert_eq!(rig.read(4).map(|bytes| uniform(&bytes)), Ok(Some(9)));
    rig.restart(Crash::Kill);
    assert_eq!(rig.read(5), Err(Status::UNRECOVERED_READ_ERROR));
    assert_eq!(rig.disk.injected().spoiled_blocks, 2);
    assert_eq!(rig.disk.injected().read_errors, 3);
}

#[test]
fn a_cached_write_hides_a_spoiled_block_until_the_power_fails() {
    let mut came_back = false;
    for seed in 0..30 {
        let mut rig = Rig::new(options(), seed);
        rig.disk.spoil(4..5);
        rig.write(4, 9, false);
        assert!(rig.read(4).is_ok());
        rig.restart(Crash::Power);
        came_back |= rig.read(4).is_err();
    }
    assert!(came_back);
}

#[test]
fn latent_errors_strike_inside_their_range_only() {
    let mut rig = numbered(2);
    rig.disk.set_faults(DiskFaults {
        latent_error: ALWAYS,
        blocks: 10..20,
        ..DiskFaults::default()
    });
    let failed: Vec<u64> = (0..64).filter(|block| rig.read(*block).is_err()).collect();
    assert_eq!(failed, (10..20).collect::<Vec<_>>());
    rig.disk.set_faults(DiskFaults::default());
    assert!(rig.read(12).is_err(), "it stays");
}

#[test]
fn lost_writes_succeed_and_store_nothing() {
    let mut rig = numbered(3);
    let faults = DiskFaults { lost_write: ALWAYS, ..DiskFaults::default() };
    rig.disk.set_faults(faults);
    assert_eq!(rig.write(5, 200, true), Status::SUCCESS);
    assert!(changed(&rig).is_empty());
    assert_eq!(rig.disk.injected().lost_writes, 1);
    assert_eq!(rig.disk.faults().lost_write, ALWAYS);
}

#[test]
fn misdirected_writes_land_in_their_range() {
    for seed in 0..20 {
        let mut rig = numbered(seed);
        let faults =
            DiskFaults { misdirected_write: ALWAYS, blocks: 10..14, ..DiskFaults::default() };
        rig.disk.set_faults(faults);
        assert_eq!(rig.write(5, 200, false), Status::SUCCESS);
        assert_eq!(changed(&rig), [5]);
        assert_eq!(rig.write(11, 201, false), Status::SUCCESS);
        let changed = changed(&rig);
        assert_eq!(changed.len(), 2);
        assert!((10..14).contains(&changed[1]));
        assert_eq!(uniform(&rig.disk.durable_block(changed[1])), Some(201));
        assert_eq!(rig.disk.injected().misdirected_writes, u64::from(changed[1] != 11));
    }
}

#[test]
fn misdirected_reads_find_other_blocks() {
    let mut rig = numbered(4);
    let faults = DiskFaults { misdirected_read: ALWAYS, blocks: 10..14, ..DiskFaults::default() };
    rig.disk.set_faults(faults);
    let mut others = 0;
    for _ in 0..50 {
        let found = rig.read(12).map(|bytes| uniform(&bytes).expect("a whole block"));
        let found = found.expect("it succeeds");
        assert!((11..15).contains(&found));
        others += u64::from(found != 13);
    }
    assert!(others > 10);
    assert_eq!(rig.disk.injected().misdirected_reads, others);
}

#[test]
fn flipped_bits_are_single() {
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let mut rig = Rig::new(options(), 5);
    rig.disk.flip_bit(3);
    assert_eq!(ones(&rig.disk.durable_block(3)), 1);
    assert_eq!(ones(&rig.disk.read_block(3)), 1);
    rig.write(4, 0, false);
    rig.disk.flip_bit(4);
    assert_eq!(rig.read(4).map(|bytes| ones(&bytes)), Ok(1));
    let faults = DiskFaults { flipped_write: ALWAYS, ..DiskFaults::default() };
    rig.disk.set_faults(faults);
    assert_eq!(rig.write(5, 0, true), Status::SUCCESS);
    assert_eq!(ones(&rig.disk.durable_block(5)), 1);
    assert_eq!(rig.disk.injected().flipped_bits, 3);
}

#[test]
fn failed_writes_say_so_and_store_a_part() {
    let mut parts = 0;
    for seed in 0..20 {
        let mut rig = numbered(seed);
        let faults = DiskFaults { failed_write: ALWAYS, ..DiskFaults::default() };
        rig.disk.set_faults(faults);
        assert_eq!(rig.write(5, 200, true), Status::WRITE_FAULT);
        let stored = sectors(&rig.disk.read_block(5));
        assert!(stored.iter().all(|byte| [6, 200].contains(byte)));
        parts += u64::from(uniform(&stored).is_none());
        assert_eq!(rig.disk.injected().failed_writes, 1);
        assert_eq!(rig.pair.counters().errors, 1);
    }
    assert!(parts > 10);
}

#[test]
fn failed_flushes_say_so_and_promise_nothing() {
    let mut kinds = [0; 3];
    for seed in 0..20 {
        let mut rig = Rig::new(options(), seed);
        rig.write(1, 1, true);
        rig.write(1, 2, false);
        let faults = DiskFaults { failed_flush: ALWAYS, ..DiskFaults::default() };
        rig.disk.set_faults(faults);
        assert_eq!(rig.flush(), Status::WRITE_FAULT);
        let live = sectors(&rig.disk.read_block(1));
        let durable = sectors(&rig.disk.durable_block(1));
        for pair in live.into_iter().zip(durable) {
            match pair {
                (2, 2) => kinds[0] += 1,
                (2, 1) => kinds[1] += 1,
                (1, 1) => kinds[2] += 1,
                _ => panic!("{pair:?}"),
            }
        }
        assert_eq!(rig.disk.injected().failed_flushes, 1);
    }
    assert!(kinds.iter().all(|count| *count > 20), "{kinds:?}");
}

#[test]
fn a_slow_disk_takes_longer() {
    let mut rig = Rig::new(options(), 6);
    let faults = DiskFaults { latency_factor: 1000, ..DiskFaults::default() };
    rig.disk.set_faults(faults);
    rig.write(1, 1, false);
    assert!(rig.disk.now_ns() >= 10_000_000);
    assert_eq!(rig.disk.injected().slowed, 1);
}

#[test]
fn a_disk_that_goes_away_answers_everything_at_once() {
    for seed in 0..20 {
        let mut rig = numbered(seed);
        let write = rig.write_of(1, 200, false);
        rig.submit(write);
        rig.submit(Operation::Flush);
        rig.pair.ring();
        let write = rig.write_of(2, 200, false);
        rig.submit(write);
        rig.disk.set_faults(DiskFaults { gone: true, ..DiskFaults::default() });
        let completions = rig.poll();
        assert_eq!(completions.len(), 3);
        for completion in completions {
            assert!(completion.status.is_device_gone());
            assert_eq!(completion.pages.is_some(), completion.tag != Tag(66));
        }
        assert_eq!(rig.disk.next_ns(), None);
        assert!(sectors(&rig.disk.read_block(1)).iter().all(|byte| [2, 200].contains(byte)));
        assert_eq!(uniform(&rig.disk.read_block(2)), Some(3), "it was never rung");
        assert!(rig.write(3, 200, true).is_device_gone());
        rig.disk.set_faults(DiskFaults::default());
        assert!(rig.write(3, 200, true).is_device_gone(), "for this queue pair it stays away");
        rig.restart(Crash::Kill);
        assert_eq!(rig.write(3, 200, true), Status::SUCCESS);
        assert_eq!(rig.disk.injected().gone, 5);
    }
}
