//! One block, judged: everything it may hold after the part of its history that was looked at.
//!
//! A register is carried from one quiescent point of its block to the next. What happened before
//! such a point matters later only by the values that the block may hold there, and by the changes
//! of unknown outcome that may still take effect.

use std::collections::{BTreeMap, BTreeSet};

use super::content::Value;
use super::record::{End, Kind, Record};
use super::search::Search;

/// The first answer that nothing explains. It is always a read's: a change that comes back can
/// always have taken effect just now.
#[derive(Debug)]
pub(super) struct Stuck {
    /// Index of its record.
    pub record: usize,
    /// What a read could have found that began and ended just before.
    pub possible: BTreeSet<Value>,
}

/// What a block may hold.
#[derive(Clone, Debug)]
pub(super) struct Register {
    /// Each value that it may hold, with the fewest discards of unknown outcome that must have
    /// taken effect for it. Fewer are better: they leave more for later.
    pub values: BTreeMap<Value, u32>,
    /// Writes of unknown outcome that nobody has read so far.
    ///
    /// They cost nothing until somebody reads them. In an order that explains everything, a write
    /// of unknown outcome can be moved to just before the first read of its value, for nothing else
    /// notices it and it has no time to be done by; and if nobody reads it, it can be left out.
    pub unknown_writes: BTreeSet<u64>,
    /// Discards of unknown outcome, spent ones included. They are all alike: what is said of
    /// writes holds for them too, with the first read that finds zero after them.
    pub unknown_discards: u32,
}

impl Register {
    /// A block that was never written.
    pub fn new() -> Register {
        Register {
            values: BTreeMap::from([(Value::Zero, 0)]),
            unknown_writes: BTreeSet::new(),
            unknown_discards: 0,
        }
    }

    /// The register after more of its history, whose last point is taken to be quiescent: a change
    /// still in flight there counts as one of unknown outcome, a read in flight as none.
    ///
    /// Records are in the order of their invocation.
    pub fn advance(&self, records: &[Record]) -> Result<Register, Stuck> {
        self.explain(records).ok_or_else(|| self.stuck(records))
    }

    fn explain(&self, records: &[Record]) -> Option<Register> {
        let mut search = Search::new(self, records);
        if !search.run() {
            return None;
        }
        let mut next = self.clone();
        next.values = search.values();
        for record in records.iter().filter(|record| record.is_unknown_change()) {
            match record.kind {
                Kind::Write => {
                    next.unknown_writes.insert(record.operation);
                }
                Kind::Discard => next.unknown_discards += 1,
                Kind::Read => {}
            }
        }
        next.unknown_writes.retain(|write| !search.is_read(Value::Written(*write)));
        Some(next)
    }

    /// Where records that nothing explains stop to be explained: what explains a history explains
    /// every beginning of it.
    fn stuck(&self, records: &[Record]) -> Stuck {
        let answer = |(index, record): (usize, &Record)| Some((record.completed()?.order, index));
        let mut answers: Vec<(u64, usize)> =
            records.iter().enumerate().filter_map(answer).collect();
        answers.sort_unstable();
        let explained =
            answers.partition_point(|(order, _)| self.explain(&until(*order, records)).is_some());
        let (order, record) = answers[explained];
        let before = self.explain(&until(order - 1, records));
        Stuck { record, possible: before.expect("it was explained").possible() }
    }

    /// Every value that a read from now on may find.
    pub fn possible(&self) -> BTreeSet<Value> {
        let held = self.values.keys().copied();
        let writes = self.unknown_writes.iter().map(|write| Value::Written(*write));
        let unspent = self.values.values().any(|spent| *spent < self.unknown_discards);
        held.chain(writes).chain(unspent.then_some(Value::Zero)).collect()
    }
}

/// What was known of these records at some moment.
fn until(order: u64, records: &[Record]) -> Vec<Record> {
    let begun = records.iter().take_while(|record| record.invoked.order <= order);
    begun
        .map(|record| match record.completed() {
            Some(moment) if moment.order > order => Record { end: End::InFlight, ..record.clone() },
            _ => record.clone(),
        })
        .collect()
}
