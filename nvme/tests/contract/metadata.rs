//! Metadata beside blocks: they travel with the block, or are refused.

use culvert_nvme::{Completion, Lba, METADATA_BYTES, Operation, QueuePair, Status};

use crate::rig::{Rig, pattern};

/// Metadata made from a seed, no byte of which is zero.
fn metadata(seed: u8) -> [u8; METADATA_BYTES] {
    std::array::from_fn(|at| seed.wrapping_mul(7).wrapping_add(at as u8) | 0x80)
}

fn write(rig: &Rig<impl QueuePair>, lba: u64, seed: u8, fua: bool) -> Operation {
    let pages = rig.filled(1, u64::from(seed)).freeze();
    Operation::WriteWithMetadata { lba: Lba(lba), pages, fua, metadata: metadata(seed) }
}

fn read(rig: &Rig<impl QueuePair>, lba: u64, blocks: u32) -> Operation {
    // Old bytes are not to be mistaken for what was read.
    Operation::ReadWithMetadata { lba: Lba(lba), buffer: rig.filled(blocks + 1, 0xdead) }
}

/// Whether the queue pair has what this is about; where not, it has to say so.
fn has_metadata(rig: &mut Rig<impl QueuePair>) -> bool {
    if rig.pair.namespace().metadata_bytes as usize >= METADATA_BYTES {
        return true;
    }
    let write = write(rig, 0, 1, false);
    let completion = rig.run_badly(write, Status::INVALID_FIELD);
    assert_eq!(completion.pages.map(|pages| pages.pages()), Some(1));
    let read = read(rig, 0, 1);
    let completion = rig.run_badly(read, Status::INVALID_FIELD);
    assert_eq!(completion.buffer.map(|buffer| buffer.pages()), Some(2));
    false
}

/// What was read: blocks, and their metadata.
fn parts(completion: Completion, each: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let buffer = completion.buffer.expect("a read hands its buffer back");
    let (data, beside) = buffer.as_slice().split_at(buffer.len() - 4096);
    let blocks = data.len() / 4096;
    (data.to_vec(), beside.chunks_exact(each).take(blocks).map(<[u8]>::to_vec).collect())
}

pub fn metadata_travel_with_their_block(mut rig: Rig<impl QueuePair>) {
    if !has_metadata(&mut rig) {
        return;
    }
    let each = rig.pair.namespace().metadata_bytes as usize;
    let beside = |seed: u8| {
        let mut bytes = metadata(seed).to_vec();
        bytes.resize(each, 0);
        bytes
    };
    // Several at once, so that none gets another's.
    for seed in 0..8 {
        let write = write(&rig, 100 + u64::from(seed), seed, seed % 2 == 0);
        rig.submit(seed.into(), write);
    }
    for (_, completion) in rig.finish() {
        assert!(completion.status.is_success(), "{}", completion.status);
        assert_eq!(completion.pages.map(|pages| pages.users()), Some(1));
    }
    for seed in 0..8 {
        let read = read(&rig, 100 + u64::from(seed), 1);
        let (data, found) = parts(rig.run_well(read), each);
        assert_eq!(data, pattern(seed.into(), 4096));
        assert_eq!(found, [beside(seed)]);
    }
    // QEMU 7.2 hands over nothing behind the first odd part where metadata are longer than 512 bytes,
    // and no multiple of those.
    let several = read(&rig, 96, 16);
    let (data, found) = parts(rig.run_well(several), each);
    assert_eq!(data[4 * 4096..5 * 4096], pattern(0, 4096));
    assert_eq!(data[11 * 4096..12 * 4096], pattern(7, 4096));
    let zero = vec![0; each];
    for (block, found) in (96..112).zip(found) {
        let expected = if (100..108).contains(&block) { beside(block - 100) } else { zero.clone() };
        assert_eq!(found, expected, "block {block}");
    }
    // Reads that name no metadata lead nobody to believe in what they left.
    assert_eq!(rig.read(103, 2).as_slice()[..4096], pattern(3, 4096));
    let plain = rig.filled(2, 77);
    rig.write(103, plain);
    let read = read(&rig, 102, 4);
    let (data, found) = parts(rig.run_well(read), each);
    assert_eq!(data[4096..3 * 4096], pattern(77, 2 * 4096));
    assert_eq!(found, [beside(2), zero.clone(), zero, beside(5)]);
}

pub fn what_metadata_do_not_fit_is_an_invalid_field(mut rig: Rig<impl QueuePair>) {
    if !has_metadata(&mut rig) {
        return;
    }
    let each = rig.pair.namespace().metadata_bytes;
    let most = 4096 / each;
    let blocks = most.min(rig.transfer_pages_max());
    let fits = read(&rig, 0, blocks);
    rig.run_well(fits);
    for blocks in [0, most + 1] {
        let read = read(&rig, 0, blocks);
        rig.run_badly(read, Status::INVALID_FIELD);
    }
    let pages = rig.filled(2, 1).freeze();
    let lba = Lba(0);
    let two = Operation::WriteWithMetadata { lba, pages, fua: false, metadata: metadata(1) };
    rig.run_badly(two, Status::INVALID_FIELD);
    let blocks = rig.pair.namespace().blocks;
    let behind = write(&rig, blocks, 1, false);
    rig.run_badly(behind, Status::LBA_OUT_OF_RANGE);
}
