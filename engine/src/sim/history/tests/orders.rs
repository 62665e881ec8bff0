//! The judge against every order of a few operations: whatever it does to be fast, its verdict is
//! that of trying them all.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;

/// How an operation ended, as the one who tries all orders sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It must take effect before this point.
    Done(usize),
    /// It may take effect.
    Open,
    /// It must not.
    Refused,
}

/// An operation on the one block.
#[derive(Clone, Debug)]
pub struct Tried {
    pub is_read: bool,
    pub value: Value,
    pub invoked: usize,
    pub fate: Fate,
}

impl Tried {
    /// A read is made of reads that found something only.
    fn is_left_out(&self) -> bool {
        self.fate == Fate::Refused || (self.is_read && self.fate == Fate::Open)
    }
}

/// Whether any order of these operations is a block's.
pub fn has_order(tried: &[Tried]) -> bool {
    let left: Vec<&Tried> = tried.iter().filter(|tried| !tried.is_left_out()).collect();
    has_order_of(&left, Value::Zero)
}

fn has_order_of(left: &[&Tried], value: Value) -> bool {
    let end = |tried: &Tried| match tried.fate {
        Fate::Done(at) => at,
        Fate::Open | Fate::Refused => usize::MAX,
    };
    let first_end = left.iter().map(|tried| end(tried)).min().unwrap_or(usize::MAX);
    if first_end == usize::MAX {
        return true;
    }
    (0..left.len()).any(|index| {
        let next = left[index];
        if next.invoked > first_end || (next.is_read && next.value != value) {
            return false;
        }
        let mut rest = left.to_vec();
        rest.remove(index);
        has_order_of(&rest, next.value)
    })
}

/// A history of one block and what it is made of.
#[derive(Clone)]
pub struct Pair {
    pub history: History,
    pub tried: Vec<Tried>,
    in_flight: Vec<OperationId>,
    points: usize,
}

impl Pair {
    pub fn new() -> Pair {
        Pair { history: History::new(1), tried: Vec::new(), in_flight: Vec::new(), points: 0 }
    }

    pub fn invoke(&mut self, kind: Kind) -> OperationId {
        self.points += 1;
        let id = self.history.invoke(kind, 0, 0, 1, self.points as u64);
        let value = if kind == Kind::Write { Value::Written(id.0) } else { Value::Zero };
        let is_read = kind == Kind::Read;
        self.tried.push(Tried { is_read, value, invoked: self.points, fate: Fate::Open });
        self.in_flight.push(id);
        id
    }

    /// Zero or any value that somebody has begun to write.
    pub fn any_value(&self, chance: u64) -> Value {
        let writes = self.tried.iter().filter(|tried| !tried.is_read);
        let values: Vec<Value> = writes.map(|write| write.value).chain([Value::Zero]).collect();
        values[(chance % values.len() as u64) as usize]
    }

    /// Ends an operation; a read that is done finds the value.
    pub fn end(&mut self, id: OperationId, fate: Fate, found: Value) {
        self.points += 1;
        self.in_flight.retain(|other| *other != id);
        let now_ns = self.points as u64;
        let tried = &mut self.tried[id.0 as usize - 1];
        tried.fate = fate;
        match fate {
            Fate::Done(_) => tried.fate = Fate::Done(self.points),
            Fate::Open => return self.history.unknown(id, now_ns),
            Fate::Refused => return self.history.failed_cleanly(id, now_ns),
        }
        if tried.is_read {
            tried.value = found;
            let found = std::iter::once(Ok(found));
            self.history.complete_contents(id, now_ns, found).expect("a known value");
        } else {
            self.history.complete(id, now_ns);
        }
    }
}

/// Operations of a history that is tried in all orders.
const OPERATIONS_MAX: usize = 7;

/// A step of a history that nobody executed: what is done, and to what.
type Step = (u8, u8, u8);

fn step(pair: &mut Pair, (what, which, found): Step) {
    let started = pair.tried.len() < OPERATIONS_MAX && what < 6;
    if started && pair.in_flight.len() < 4 {
        let kinds = [Kind::Write, Kind::Read, Kind::Read, Kind::Write, Kind::Read, Kind::Discard];
        pair.invoke(kinds[usize::from(what)]);
    } else if !pair.in_flight.is_empty() {
        let id = pair.in_flight[usize::from(which) % pair.in_flight.len()];
        let fate = match which / 4 % 8 {
            0 => Fate::Open,
            1 if found.is_multiple_of(2) => Fate::Refused,
            _ => Fate::Done(0),
        };
        let found = pair.any_value(found.into());
        pair.end(id, fate, found);
    }
}

/// Runs the steps, asks every judge there is, and returns the verdict.
fn compare(steps: &[Step]) -> bool {
    let (mut pair, mut settled) = (Pair::new(), Ok(()));
    let mut forgetful = Pair::new();
    for step_of in steps {
        step(&mut pair, *step_of);
        step(&mut forgetful, *step_of);
        settled = settled.and_then(|()| forgetful.history.settle());
    }
    let verdict = has_order(&pair.tried);
    let said = pair.history.check();
    assert_eq!(said.is_ok(), verdict, "{said:?} of {:#?}", pair.tried);
    let settled = settled.and_then(|()| forgetful.history.check());
    assert_eq!(settled.is_ok(), verdict, "{settled:?} step by step of {:#?}", pair.tried);
    match said {
        Ok(()) => compare_possible(&pair, &forgetful),
        Err(violation) => expect_first(&pair.tried, violation.operation()),
    }
    verdict
}

/// What is blamed is the first answer that no order explains.
fn expect_first(tried: &[Tried], blamed: u64) {
    let Fate::Done(point) = tried[blamed as usize - 1].fate else {
        panic!("operation {blamed} never came back")
    };
    let until = |point: usize| {
        let begun = tried.iter().filter(|tried| tried.invoked <= point);
        let known = begun.map(|tried| match tried.fate {
            Fate::Done(at) if at > point => Tried { fate: Fate::Open, ..tried.clone() },
            _ => tried.clone(),
        });
        has_order(&known.collect::<Vec<_>>())
    };
    assert!(until(point - 1), "operation {blamed} is not the first of {tried:#?}");
    assert!(!until(point), "operation {blamed} is explained: {tried:#?}");
}

/// Every value that may be found last, and no other.
fn compare_possible(pair: &Pair, forgetful: &Pair) {
    let written = (1..=pair.tried.len() as u64).map(Value::Written);
    let (invoked, fate) = (pair.points + 1, Fate::Done(pair.points + 2));
    let possible: BTreeSet<Value> = written
        .chain([Value::Zero])
        .filter(|value| {
            let last = Tried { is_read: true, value: *value, invoked, fate };
            has_order(&[pair.tried.clone(), vec![last]].concat())
        })
        .collect();
    assert_eq!(pair.history.possible(0).unwrap(), possible, "of {:#?}", pair.tried);
    assert_eq!(forgetful.history.possible(0).unwrap(), possible, "of {:#?}", pair.tried);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn the_verdict_is_that_of_all_orders(
        steps in prop::collection::vec((0_u8..10, any::<u8>(), any::<u8>()), 0..18),
    ) {
        compare(&steps);
    }
}

/// The comparison is worth something only if both verdicts are common.
#[test]
fn both_verdicts_are_common() {
    let mut random = crate::sim::random::Random::new(5);
    let mut good = 0;
    for _ in 0..20_000 {
        let steps: Vec<Step> = (0..16)
            .map(|_| (random.below(10) as u8, random.bits() as u8, random.bits() as u8))
            .collect();
        good += u32::from(compare(&steps));
    }
    assert!((4_000..16_000).contains(&good), "{good} of 20000 histories hold");
}
