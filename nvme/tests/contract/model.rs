//! Random operations against a plain array of bytes.

use std::collections::HashMap;

use culvert_nvme::{Lba, LbaRange, Operation, QueuePair};

use crate::rig::{DEPTH, Rig, pattern};

/// Blocks that the operations touch.
const PAGES: u64 = 64;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16) % bound
    }
}

/// What a completed operation is checked against.
enum Expected {
    Read(Vec<u8>),
    Nothing,
}

/// An operation on the blocks `start..start + blocks`, applied to the model at once. Operations in
/// flight together never overlap, so their order does not matter.
fn operation(
    rig: &Rig<impl QueuePair>,
    model: &mut [u8],
    random: &mut Random,
    start: u64,
    pages: u32,
) -> (Operation, Expected) {
    let block_size = rig.block_size();
    let blocks = u64::from(pages) * rig.per_page();
    let first = start as usize * block_size;
    let bytes = &mut model[first..first + blocks as usize * block_size];
    let lba = Lba(start);
    match random.below(8) {
        0..=2 => {
            let seed = random.below(1 << 30);
            bytes.copy_from_slice(&pattern(seed, bytes.len()));
            let pages = rig.filled(pages, seed).freeze();
            (Operation::Write { lba, pages, fua: random.below(4) == 0 }, Expected::Nothing)
        }
        3..=5 => {
            let buffer = rig.filled(pages, 1);
            (Operation::Read { lba, buffer }, Expected::Read(bytes.to_vec()))
        }
        6 => {
            bytes.fill(0);
            let deallocate = random.below(2) == 0;
            (Operation::WriteZeroes { lba, blocks: blocks as u32, deallocate }, Expected::Nothing)
        }
        _ => {
            bytes.fill(0);
            let half = blocks as u32 / 2;
            let second =
                LbaRange { start: Lba(start + u64::from(half)), blocks: blocks as u32 - half };
            let ranges = [LbaRange { start: lba, blocks: half }, second].into_iter().collect();
            (Operation::Deallocate { ranges }, Expected::Nothing)
        }
    }
}

pub fn agrees_with_a_model(mut rig: Rig<impl QueuePair>) {
    let mut model = vec![0u8; PAGES as usize * 4096];
    let mut random = Random(42);
    let most = u64::from(rig.transfer_pages_max()).min(6);
    for round in 0..150 {
        let mut expected = HashMap::new();
        let mut next_block = random.below(rig.per_page() * 2);
        for tag in 0..1 + random.below(DEPTH as u64) {
            let pages = 1 + random.below(most);
            let end = next_block + pages * rig.per_page();
            if end > PAGES * rig.per_page() {
                break;
            }
            let (operation, check) =
                operation(&rig, &mut model, &mut random, next_block, pages as u32);
            rig.submit(tag, operation);
            expected.insert(tag, check);
            next_block = end + random.below(3);
        }
        if random.below(4) == 0 && expected.len() < DEPTH {
            rig.submit(1000, Operation::Flush);
            expected.insert(1000, Expected::Nothing);
        }
        for (tag, completion) in rig.finish() {
            assert!(completion.status.is_success(), "round {round}: {}", completion.status);
            if let Some(Expected::Read(bytes)) = expected.remove(&tag) {
                let buffer = completion.buffer.expect("a read hands its buffer back");
                assert!(buffer.as_slice() == bytes, "round {round}, tag {tag}");
            }
        }
    }
    assert!(rig.read(0, PAGES as u32).as_slice() == model);
}
