//! The blocks under repair: which they are, and where each stands. Knows no map, device or network.

use culvert_memory::Pages;

use crate::ids::{BatchNumber, BlockRange, ChunkId};
use crate::network::ConnectionId;
use crate::store::{BlockState, ReadTicket};

/// Blocks under repair at once, those that were given up for now included.
pub(super) const WORKS_MAX: usize = 64;

/// The rest after the first round in vain; it doubles with each of the next.
const REST_NS: u64 = 100_000_000;
const REST_DOUBLINGS_MAX: u32 = 4;

/// A block that was given up is tried again by itself after so long, ...
const AGAIN_NS: u64 = 60_000_000_000;

/// ... and when somebody needs it, after so long.
const WANTED_AGAIN_NS: u64 = 1_000_000_000;

/// A block of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chunkserver) struct Spot {
    /// Position of its copyset.
    pub position: u32,
    pub chunk: ChunkId,
    pub block: u32,
}

impl Spot {
    fn lies_in(&self, position: u32, chunk: ChunkId, range: BlockRange) -> bool {
        (self.position, self.chunk) == (position, chunk)
            && (range.first..range.first + range.blocks).contains(&self.block)
    }
}

/// Where a block stands.
pub(super) enum Step {
    /// To be looked up and read once more: what was seen may be a block beside it, or over.
    Suspected,
    /// It is being read.
    Reading { state: BlockState, ticket: ReadTicket },
    /// It is bad or missing; the next peer is to be asked.
    Wanted { state: BlockState },
    /// A peer was asked.
    Asked { state: BlockState, place: usize, connection: ConnectionId, number: u64, since_ns: u64 },
    /// All peers were asked in vain, and some may answer otherwise soon.
    Resting { until_ns: u64 },
    /// Its bytes are here and verified.
    Here { state: BlockState, pages: Pages },
    /// They are being written to a place of their own.
    Writing { state: BlockState, to: u32, batch: BatchNumber },
    /// All peers have answered, and none has it.
    GivenUp { since_ns: u64 },
}

/// See [`Step`].
pub(super) struct Work {
    pub spot: Spot,
    pub step: Step,
    /// Whether it was found bad, or missing, and told so.
    pub told: bool,
    /// Replicas asked in this round, by their places.
    pub asked: u32,
    /// Whether some replica may yet have it: it did not answer, or was behind or ahead.
    pub hope: bool,
    rounds: u32,
}

/// What becomes of a block that somebody suspects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chunkserver) enum Suspicion {
    /// It is looked after.
    Noted,
    /// It was a moment ago, and nobody has it.
    Hopeless,
    /// There is no room; whoever asks comes again.
    Full,
}

/// How it stands with the blocks of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// None of them is under repair.
    Over,
    /// Some are.
    UnderWay,
    /// Some were given up, and none is under way.
    GivenUp,
}

impl Work {
    /// A round over the peers has ended without the block.
    pub fn round_over(&mut self, now_ns: u64) {
        self.asked = 0;
        self.step = if std::mem::take(&mut self.hope) {
            let rest_ns = REST_NS << self.rounds.min(REST_DOUBLINGS_MAX);
            self.rounds += 1;
            Step::Resting { until_ns: now_ns + rest_ns }
        } else {
            Step::GivenUp { since_ns: now_ns }
        };
    }

    /// Looks at the block again after a rest, or after it was given up.
    pub fn begin_again(&mut self) {
        if matches!(self.step, Step::GivenUp { .. }) {
            self.rounds = 0;
        }
        self.step = Step::Suspected;
    }

    /// When the clock moves it on.
    pub fn due_ns(&self, ask_timeout_ns: u64) -> u64 {
        match self.step {
            Step::Asked { since_ns, .. } => since_ns + ask_timeout_ns,
            Step::Resting { until_ns } => until_ns,
            Step::GivenUp { since_ns } => since_ns + AGAIN_NS,
            _ => u64::MAX,
        }
    }

    fn is_given_up(&self) -> bool {
        matches!(self.step, Step::GivenUp { .. })
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Table {
    works: Vec<Option<Work>>,
    count: usize,
}

impl Table {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Slots to look at; each may be empty.
    pub fn slots(&self) -> usize {
        self.works.len()
    }

    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Work> {
        self.works.get_mut(slot)?.as_mut()
    }

    /// Notes a block that may be bad.
    pub fn suspect(&mut self, spot: Spot, now_ns: u64) -> Suspicion {
        if let Some(work) = self.works.iter_mut().flatten().find(|work| work.spot == spot) {
            if let Step::GivenUp { since_ns } = work.step {
                if now_ns.saturating_sub(since_ns) < WANTED_AGAIN_NS {
                    return Suspicion::Hopeless;
                }
                work.begin_again();
            }
            return Suspicion::Noted;
        }
        let Some(slot) = self.free_slot() else { return Suspicion::Full };
        let step = Step::Suspected;
        self.works[slot] = Some(Work { spot, step, told: false, asked: 0, hope: false, rounds: 0 });
        self.count += 1;
        Suspicion::Noted
    }

    /// Blocks that were given up make room for others.
    fn free_slot(&mut self) -> Option<usize> {
        if let Some(slot) = self.works.iter().position(Option::is_none) {
            return Some(slot);
        }
        if self.works.len() < WORKS_MAX {
            self.works.push(None);
            return Some(self.works.len() - 1);
        }
        let given_up = |work: &Option<Work>| work.as_ref().is_some_and(Work::is_given_up);
        let slot = self.works.iter().position(given_up)?;
        self.end(slot);
        Some(slot)
    }

    /// Whether there is room for blocks that nobody waits for: half of the table is for others.
    pub fn has_room(&self) -> bool {
        let busy = self.works.iter().flatten().filter(|work| !work.is_given_up());
        busy.count() < WORKS_MAX / 2
    }

    /// It is over with a block.
    pub fn end(&mut self, slot: usize) {
        if self.works[slot].take().is_some() {
            self.count -= 1;
        }
    }

    pub fn standing(&self, position: u32, chunk: ChunkId, range: BlockRange) -> Standing {
        let within = |work: &&Work| work.spot.lies_in(position, chunk, range);
        let mut standing = Standing::Over;
        for work in self.works.iter().flatten().filter(within) {
            if !work.is_given_up() {
                return Standing::UnderWay;
            }
            standing = Standing::GivenUp;
        }
        standing
    }

    /// The question of this number that is on its way.
    pub fn asked(&self, number: u64) -> Option<usize> {
        self.works.iter().position(|work| {
            let step = work.as_ref().map(|work| &work.step);
            matches!(step, Some(Step::Asked { number: asked, .. }) if *asked == number)
        })
    }

    /// When the clock moves any of them on.
    pub fn due_ns(&self, ask_timeout_ns: u64) -> u64 {
        let due = self.works.iter().flatten().map(|work| work.due_ns(ask_timeout_ns));
        due.min().unwrap_or(u64::MAX)
    }

    /// Blocks under way, and blocks that were given up.
    pub fn counts(&self) -> (usize, usize) {
        let given_up = self.works.iter().flatten().filter(|work| work.is_given_up()).count();
        (self.count - given_up, given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: ChunkId = ChunkId(9);

    fn spot(block: u32) -> Spot {
        Spot { position: 1, chunk: CHUNK, block }
    }

    fn range(first: u32, blocks: u32) -> BlockRange {
        BlockRange { first, blocks }
    }

    #[test]
    fn a_block_is_noted_once_and_the_table_has_an_end() {
        let mut table = Table::default();
        for _ in 0..3 {
            assert_eq!(table.suspect(spot(0), 0), Suspicion::Noted);
        }
        assert_eq!(table.counts(), (1, 0));
        for block in 1..WORKS_MAX as u32 {
            assert_eq!(table.has_room(), block < WORKS_MAX as u32 / 2);
            assert_eq!(table.suspect(spot(block), 0), Suspicion::Noted);
        }
        assert_eq!(table.suspect(spot(1000), 0), Suspicion::Full);
        assert_eq!(table.suspect(spot(5), 0), Suspicion::Noted, "it is there already");
        table.get_mut(7).expect("a block").step = Step::GivenUp { since_ns: 0 };
        assert_eq!(table.suspect(spot(1000), 0), Suspicion::Noted, "in place of one given up");
        assert_eq!(table.standing(1, CHUNK, range(7, 1)), Standing::Over);
        table.end(3);
        assert_eq!(table.suspect(spot(1001), 0), Suspicion::Noted);
        assert_eq!(table.counts(), (WORKS_MAX, 0));
    }

    #[test]
    fn who_waits_is_told_when_no_block_of_the_range_is_under_way() {
        let mut table = Table::default();
        table.suspect(spot(4), 0);
        table.suspect(spot(6), 0);
        assert_eq!(table.standing(1, CHUNK, range(0, 4)), Standing::Over);
        assert_eq!(table.standing(2, CHUNK, range(0, 9)), Standing::Over);
        assert_eq!(table.standing(1, ChunkId(8), range(0, 9)), Standing::Over);
        assert_eq!(table.standing(1, CHUNK, range(4, 1)), Standing::UnderWay);
        table.get_mut(0).expect("a block").step = Step::GivenUp { since_ns: 0 };
        assert_eq!(table.standing(1, CHUNK, range(0, 5)), Standing::GivenUp);
        assert_eq!(table.standing(1, CHUNK, range(0, 9)), Standing::UnderWay);
        table.end(1);
        table.end(0);
        assert_eq!(table.standing(1, CHUNK, range(0, 9)), Standing::Over);
        assert!(table.is_empty());
    }

    #[test]
    fn a_block_is_given_up_when_all_have_said_no() {
        let mut table = Table::default();
        table.suspect(spot(0), 0);
        let mut now_ns = 0;
        let work = table.get_mut(0).expect("a block");
        for round in 0..20 {
            work.hope = true;
            work.round_over(now_ns);
            assert!(!work.is_given_up(), "somebody may have it and has not said");
            assert_eq!(work.due_ns(1), now_ns + (REST_NS << round.min(REST_DOUBLINGS_MAX)));
            now_ns = work.due_ns(1);
            work.begin_again();
        }
        work.round_over(now_ns);
        assert!(work.is_given_up());
        assert_eq!(table.suspect(spot(0), now_ns), Suspicion::Hopeless);
        assert_eq!(table.due_ns(1), now_ns + AGAIN_NS);
        assert_eq!(table.suspect(spot(0), now_ns + WANTED_AGAIN_NS), Suspicion::Noted);
        let work = table.get_mut(0).expect("a block");
        work.round_over(now_ns);
        assert!(work.is_given_up(), "without hope one round is enough");
    }
}
