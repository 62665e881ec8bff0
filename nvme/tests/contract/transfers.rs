//! Reads, writes, force unit access, flush.

use culvert_nvme::{Lba, Operation, QueuePair, TRANSFER_PAGES_MAX};

use crate::rig::{DEPTH, DEVICE_BYTES, Rig, pattern};

pub fn namespace_is_as_asked(rig: Rig<impl QueuePair>) {
    let namespace = rig.pair.namespace();
    assert_eq!(namespace.bytes(), DEVICE_BYTES);
    assert!([512, 4096].contains(&namespace.block_size));
    if !rig.is_one_of_its_kind() {
        assert_eq!(namespace.transfer_bytes_max, 2 << 20);
    }
    assert!(!namespace.model.as_str().is_empty());
    assert!(!namespace.serial.as_str().is_empty());
    assert_eq!(rig.pair.depth(), DEPTH);
}

pub fn reads_what_was_written(mut rig: Rig<impl QueuePair>) {
    let written = rig.filled(1, 1);
    let expected = written.as_slice().to_vec();
    let pages = rig.write(24, written);
    assert_eq!(pages.users(), 1, "nobody keeps the pages of a completed write");
    assert_eq!(rig.read(24, 1).as_slice(), expected);
}

pub fn moves_any_number_of_pages(mut rig: Rig<impl QueuePair>) {
    let most = rig.transfer_pages_max();
    let sizes = [1, 2, 3, 5, 32, 256, TRANSFER_PAGES_MAX].map(|pages| pages.min(most));
    let mut lba = 0;
    for (seed, pages) in sizes.into_iter().enumerate() {
        let pages = rig.filled(pages, seed as u64).freeze();
        let blocks = u64::from(pages.pages()) * rig.per_page();
        rig.run_well(Operation::Write { lba: Lba(lba), pages, fua: false });
        lba += blocks;
    }
    lba = 0;
    for (seed, pages) in sizes.into_iter().enumerate() {
        let buffer = rig.filled(pages, 0xdead);
        let read = rig.run_well(Operation::Read { lba: Lba(lba), buffer });
        let read = read.buffer.expect("a read hands its buffer back");
        assert!(read.as_slice() == pattern(seed as u64, read.len()), "{pages} pages");
        lba += u64::from(pages) * rig.per_page();
    }
}

pub fn writes_part_of_a_page(mut rig: Rig<impl QueuePair>) {
    let block_size = rig.block_size();
    let old = rig.filled(2, 1);
    rig.write(8, old);
    // The first block only; with blocks of 4096 bytes the first page of two.
    let pages = rig.filled(2, 2).freeze();
    let write = Operation::WriteBlocks { lba: Lba(9), pages, blocks: 1, fua: true };
    let completion = rig.run_well(write);
    assert_eq!(completion.pages.map(|pages| pages.pages()), Some(2), "all pages come back");
    let mut expected = pattern(1, 2 * 4096);
    expected[block_size..2 * block_size].copy_from_slice(&pattern(2, 2 * 4096)[..block_size]);
    assert_eq!(rig.read(8, 2).as_slice(), expected);
    let bytes = (2 * 4096 + block_size) as u64;
    assert_eq!(rig.pair.counters().bytes_written, bytes + rig.metadata_bytes(bytes));
}

pub fn reads_at_every_block(mut rig: Rig<impl QueuePair>) {
    let (block_size, per_page) = (rig.block_size(), rig.per_page());
    let written = rig.filled(3, 9);
    rig.write(100, written);
    for block in 0..=2 * per_page {
        let start = block as usize * block_size;
        let expected = &pattern(9, 3 * 4096)[start..start + 4096];
        assert_eq!(rig.read(100 + block, 1).as_slice(), expected, "block {block}");
    }
}

pub fn force_unit_access_completes(mut rig: Rig<impl QueuePair>) {
    let cached = rig.filled(2, 1);
    rig.write(40, cached);
    let pages = rig.filled(1, 2).freeze();
    rig.run_well(Operation::Write { lba: Lba(40), pages, fua: true });
    assert_eq!(rig.read(40, 1).as_slice(), pattern(2, 4096));
    let behind = rig.read(40 + rig.per_page(), 1);
    assert_eq!(behind.as_slice(), &pattern(1, 8192)[4096..]);
}

pub fn flush_completes(mut rig: Rig<impl QueuePair>) {
    let written = rig.filled(4, 3);
    rig.write(0, written);
    let completion = rig.run_well(Operation::Flush);
    assert!(completion.buffer.is_none());
    assert!(completion.pages.is_none());
    assert_eq!(rig.read(0, 4).as_slice(), pattern(3, 4 * 4096));
    assert_eq!(rig.pair.counters().flushes, 1);
}
