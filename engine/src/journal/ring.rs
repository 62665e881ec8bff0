//! Where blocks of the ring lie, and how much of it is free.

/// How full the ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Everything may be written.
    Normal,
    /// Below the reserve: proposals are to be refused as busy. Hard state, truncation and
    /// checkpoints go on.
    Busy,
    /// Nothing may be appended until a checkpoint moves the tail.
    Full,
}

/// Blocks kept for verdicts at least; an opening takes two.
const VERDICT_BLOCKS_MIN: u64 = 32;

/// A run of adjacent slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingRun {
    /// First slot.
    pub slot: u64,
    /// Number of slots.
    pub blocks: u32,
}

/// The ring's cursors. Positions run freely; the block at position `p` lies in slot `p % blocks`.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    blocks: u64,
    /// Oldest position still needed.
    tail: u64,
    /// Position of the next block.
    head: u64,
}

impl Ring {
    /// A ring whose blocks from `tail` up to `head` are in use.
    ///
    /// # Panics
    ///
    /// If they are more than there are.
    #[must_use]
    pub fn new(blocks: u64, tail: u64, head: u64) -> Ring {
        assert!(tail <= head, "the tail is behind the head");
        assert!(head - tail <= blocks, "what is in use fits the ring");
        Ring { blocks, tail, head }
    }

    /// Blocks of the ring.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Position of the next block.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Oldest position still needed.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Blocks in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.head - self.tail
    }

    /// Blocks kept for what must go on when proposals are refused: 1/8 of the ring.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        self.blocks / 8
    }

    /// Blocks kept for the verdicts of openings that crash before they reach a checkpoint, and for
    /// the batch that such a checkpoint needs to end: 1/64 of the ring, and enough for ten openings
    /// in a row.
    #[must_use]
    pub fn verdict_reserve(&self) -> u64 {
        (self.blocks / 64).max(VERDICT_BLOCKS_MIN)
    }

    /// Blocks of one batch at most: 1/8 of the ring. So proposals are refused only when more than
    /// half of the ring is in use, and by then a checkpoint has begun that moves the tail. With 512
    /// blocks, 32 of them for verdicts, 64 in reserve and 64 for a batch, the first refusal comes
    /// at 353 in use. With batches of 256 it came at 161, before any checkpoint was due.
    #[must_use]
    pub fn batch_blocks_max(&self) -> u64 {
        self.blocks / 8
    }

    /// Blocks that are not in use.
    #[must_use]
    pub fn unused(&self) -> u64 {
        self.blocks - self.used()
    }

    /// Blocks that may be written, verdicts aside.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.unused().saturating_sub(self.verdict_reserve())
    }

    /// How full the ring is, for a writer that has to find room for `needed` blocks whatever
    /// happens.
    #[must_use]
    pub fn space(&self, needed: u64) -> Space {
        match self.free() {
            free if free < needed => Space::Full,
            free if free < needed + self.reserve() => Space::Busy,
            _ => Space::Normal,
        }
    }

    /// Takes the next `blocks` blocks and returns the position of the first.
    ///
    /// # Panics
    ///
    /// If the ring has not so many left.
    pub fn advance(&mut self, blocks: u32) -> u64 {
        assert!(self.used() + u64::from(blocks) <= self.blocks, "the ring never overtakes itself");
        let position = self.head;
        self.head += u64::from(blocks);
        position
    }

    /// Gives up everything below a position.
    ///
    /// # Panics
    ///
    /// If the position is not in use.
    pub fn release(&mut self, tail: u64) {
        assert!((self.tail..=self.head).contains(&tail), "the tail moves forward, up to the head");
        self.tail = tail;
    }

    /// The slots of `blocks` blocks from a position on: one run, or two where the ring wraps. The
    /// second is empty if it does not.
    #[must_use]
    pub fn runs(&self, position: u64, blocks: u32) -> [RingRun; 2] {
        let slot = position % self.blocks;
        let before_wrap = (self.blocks - slot).min(u64::from(blocks)) as u32;
        [RingRun { slot, blocks: before_wrap }, RingRun { slot: 0, blocks: blocks - before_wrap }]
    }
}
