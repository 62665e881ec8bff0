//! Write zeroes and deallocate.

use culvert_nvme::{Lba, LbaRange, Operation, QueuePair, Status};

use crate::rig::{Rig, pattern};

const PAGES: u32 = 32;

/// Fills the first blocks and checks that afterwards `cleared` of them are zero and no others.
fn check(mut rig: Rig<impl QueuePair>, operation: Operation, cleared: &[(u64, u64)]) {
    let written = rig.filled(PAGES, 5);
    rig.write(0, written);
    let completion = rig.run_well(operation);
    assert!(completion.buffer.is_none());
    assert!(completion.pages.is_none());
    let mut expected = pattern(5, PAGES as usize * 4096);
    let block_size = rig.block_size();
    for (start, blocks) in cleared {
        let start = *start as usize * block_size;
        expected[start..start + *blocks as usize * block_size].fill(0);
    }
    assert!(rig.read(0, PAGES).as_slice() == expected);
    rig.run_well(Operation::Flush);
    assert!(rig.read(0, PAGES).as_slice() == expected);
}

pub fn write_zeroes_reads_as_zeroes(mut rig: Rig<impl QueuePair>) {
    let written = rig.filled(PAGES, 6);
    rig.write(0, written);
    rig.run_well(Operation::WriteZeroes { lba: Lba(20), blocks: 3, deallocate: true });
    check(rig, Operation::WriteZeroes { lba: Lba(3), blocks: 11, deallocate: false }, &[(3, 11)]);
}

pub fn deallocated_blocks_read_as_zeroes(rig: Rig<impl QueuePair>) {
    let ranges = [LbaRange { start: Lba(1), blocks: 9 }].into_iter().collect();
    check(rig, Operation::Deallocate { ranges }, &[(1, 9)]);
}

pub fn many_ranges_are_deallocated(rig: Rig<impl QueuePair>) {
    let ranges = (0..16).map(|index| LbaRange { start: Lba(2 * index), blocks: 1 });
    let cleared: Vec<_> = (0..16).map(|index| (2 * index, 1)).collect();
    check(rig, Operation::Deallocate { ranges: ranges.collect() }, &cleared);
}

pub fn bad_ranges_change_nothing(mut rig: Rig<impl QueuePair>) {
    let blocks = rig.pair.namespace().blocks;
    let written = rig.filled(1, 8);
    rig.write(0, written);
    let good = LbaRange { start: Lba(0), blocks: 1 };
    for bad in [
        LbaRange { start: Lba(blocks), blocks: 1 },
        LbaRange { start: Lba(blocks - 1), blocks: 2 },
        LbaRange { start: Lba(u64::MAX), blocks: u32::MAX },
    ] {
        let ranges = [good, bad].into_iter().collect();
        rig.run_badly(Operation::Deallocate { ranges }, Status::LBA_OUT_OF_RANGE);
    }
    let ranges = arrayvec::ArrayVec::new();
    rig.run_badly(Operation::Deallocate { ranges }, Status::INVALID_FIELD);
    assert_eq!(rig.read(0, 1).as_slice(), pattern(8, 4096));
}
