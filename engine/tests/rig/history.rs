//! What each block of a volume may hold, seen from outside.
//!
//! Every write of a block has a sequence number of its own, and the block's content says both over
//! and over: a block that holds another block's bytes, or half of one write and half of another, is
//! known by its bytes alone. At most one change of a block is in flight at a time. A read may find
//! the newest change that was acknowledged or seen when the read was submitted, or any that was
//! submitted before it came back; nothing older, nothing else.

use super::random::Random;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// Number of a change of one block; 0 is "never written".
pub type Sequence = u64;

#[derive(Clone, Debug, Default)]
struct Block {
    /// The newest change that was acknowledged, or found by a read.
    settled: Sequence,
    submitted: Sequence,
    in_flight: bool,
    /// Changes that unmap instead of writing.
    discards: Vec<Sequence>,
    /// What was submitted before is not known, but for what was acknowledged of it.
    recalled: bool,
}

/// All blocks of a volume.
#[derive(Debug)]
pub struct History {
    blocks: Vec<Block>,
}

impl History {
    /// A volume that was never written.
    pub fn new(blocks: u64) -> History {
        History { blocks: vec![Block::default(); blocks as usize] }
    }

    /// A volume that somebody else has written, whose acknowledgements are known, block by block.
    pub fn recalled(settled: &[Sequence]) -> History {
        let block = |settled: &Sequence| Block {
            settled: *settled,
            submitted: *settled,
            recalled: true,
            ..Block::default()
        };
        History { blocks: settled.iter().map(block).collect() }
    }

    /// Blocks of the volume.
    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether none of the blocks is being changed.
    pub fn is_idle(&self, first: u64, blocks: u32) -> bool {
        self.run(first, blocks).iter().all(|block| !block.in_flight)
    }

    /// Notes a change of one block that is about to be submitted.
    pub fn submit(&mut self, block: u64, discard: bool) -> Sequence {
        let block = &mut self.blocks[block as usize];
        assert!(!block.in_flight, "one change of a block at a time");
        block.submitted += 1;
        block.in_flight = true;
        if discard {
            block.discards.push(block.submitted);
        }
        block.submitted
    }

    /// Notes that changes of blocks were acknowledged.
    pub fn acknowledge(&mut self, first: u64, blocks: u32) {
        for block in &mut self.blocks[first as usize..][..blocks as usize] {
            block.in_flight = false;
            block.settled = block.submitted;
        }
    }

    /// Notes that changes of blocks failed; some of them may have been executed all the same.
    pub fn refuse(&mut self, first: u64, blocks: u32) {
        for block in &mut self.blocks[first as usize..][..blocks as usize] {
            block.in_flight = false;
        }
    }

    /// What a read submitted now must find at least, block by block.
    pub fn floors(&self, first: u64, blocks: u32) -> Vec<Sequence> {
        self.run(first, blocks).iter().map(|block| block.settled).collect()
    }

    /// Judges what a read has found.
    ///
    /// # Panics
    ///
    /// Where the bytes are not what any history explains.
    pub fn check(&mut self, first: u64, floors: &[Sequence], bytes: &[u8]) {
        assert_eq!(bytes.len(), floors.len() * BLOCK, "a read is as long as it was asked to be");
        for ((number, floor), bytes) in (first..).zip(floors).zip(bytes.chunks_exact(BLOCK)) {
            let block = &mut self.blocks[number as usize];
            let possible = *floor..=if block.recalled { Sequence::MAX } else { block.submitted };
            if bytes.iter().all(|byte| *byte == 0) {
                let unmapped = block.discards.iter().any(|sequence| possible.contains(sequence));
                assert!(
                    unmapped || *floor == 0,
                    "block {number} reads as zeroes; its change {floor} was settled"
                );
                continue;
            }
            let found = sequence_of(number, bytes);
            assert!(
                possible.contains(&found),
                "block {number} holds change {found}; possible are {possible:?}"
            );
            block.settled = block.settled.max(found);
            block.submitted = block.submitted.max(found);
        }
    }

    /// All blocks were read: there is nothing in them that is not known.
    pub fn know(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.recalled = false);
    }

    fn run(&self, first: u64, blocks: u32) -> &[Block] {
        &self.blocks[first as usize..][..blocks as usize]
    }
}

/// Fills a block with what change `sequence` of it writes.
pub fn fill(block: u64, sequence: Sequence, bytes: &mut [u8]) {
    for (number, sector) in (0..).zip(bytes.chunks_exact_mut(SECTOR)) {
        let mut random = Random::new(block << 40 ^ sequence << 3 ^ number);
        sector[..8].copy_from_slice(&block.to_le_bytes());
        sector[8..16].copy_from_slice(&sequence.to_le_bytes());
        for word in sector[16..].chunks_exact_mut(8) {
            word.copy_from_slice(&random.bits().to_le_bytes());
        }
    }
}

/// The change whose bytes these are.
fn sequence_of(block: u64, bytes: &[u8]) -> Sequence {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let (said, sequence) = (number(0), number(8));
    assert_eq!(said, block, "block {block} holds foreign bytes: they say block {said}");
    let mut expected = [0; BLOCK];
    fill(block, sequence, &mut expected);
    let sectors: Vec<(u64, u64)> =
        (0..BLOCK).step_by(SECTOR).map(|at| (number(at), number(at + 8))).collect();
    assert!(bytes == expected, "block {block} is torn: its sectors say {sectors:?}");
    sequence
}
