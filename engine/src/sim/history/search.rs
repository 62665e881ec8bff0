//! The search for an order of a block's operations that explains what clients saw: the test of
//! linearizability of Wing and Gong, just in time and with a memory as Lowe has it.
//!
//! The history is walked through from one invocation or answer to the next, with the set of all
//! states that the block may be in. A state says what the block holds and which of the pending
//! operations have taken effect. Nothing takes effect before it must: only where an operation comes
//! back are pending operations put into order, in every way that leads to its answer. Where no state
//! is left, nothing explains that answer.
//!
//! What keeps the states few, and why none is lost:
//!
//! - A read takes effect as soon as the block holds its value, for it changes nothing.
//! - A written value is written once. So while reads of it are still to be invoked it cannot be
//!   overwritten, and a write that somebody reads cannot have been overwritten unseen.
//! - Any other pending change may have been overwritten unseen by whatever took effect last. It is
//!   *free* then: it may come back as it is, or still take effect later instead.
//! - A change takes effect only for a pending read of its value, or when it comes back.
//! - Discards all write the same, so the one that comes back first takes effect first: those left
//!   have more time. Those of unknown outcome are last.
//!
//! The cost is exponential only in the writes of one block that are pending together with reads of
//! their values: eight such pairs take milliseconds, sixteen take seconds.

use std::collections::{BTreeMap, BTreeSet};

use super::content::Value;
use super::record::{Kind, Record};
use super::register::Register;

/// One of the ways in which the past can have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    value: Value,
    /// Pending operations that may come back: reads that took effect, changes that are free or took
    /// effect.
    done: BTreeSet<u64>,
    /// Pending changes that took effect, and cannot again.
    used: BTreeSet<u64>,
    /// Discards of unknown outcome that took effect. Last, so that of states that are equal
    /// otherwise the one with the fewest sorts first.
    spent: u32,
}

/// An operation that was invoked and has not come back.
#[derive(Clone, Debug)]
struct Pending {
    operation: u64,
    is_read: bool,
    value: Value,
    /// When it comes back; an unknown one never does.
    deadline: Option<u64>,
}

enum Event {
    Invoke,
    Return,
}

/// A walk through a part of a block's history.
pub(super) struct Search<'a> {
    records: &'a [Record],
    /// How often each value is read at all.
    reads: BTreeMap<Value, u32>,
    /// How often each value is read by operations still to be invoked.
    reads_to_come: BTreeMap<Value, u32>,
    pending: Vec<Pending>,
    unknown_discards: u32,
    states: Vec<State>,
}

impl<'a> Search<'a> {
    /// At the start of these records, in a block like this.
    pub fn new(register: &Register, records: &'a [Record]) -> Search<'a> {
        let mut reads = BTreeMap::new();
        for record in records.iter().filter(|record| record.kind == Kind::Read) {
            if record.completed().is_some() {
                *reads.entry(record.value).or_default() += 1;
            }
        }
        let state = |(value, spent): (&Value, &u32)| State {
            value: *value,
            done: BTreeSet::new(),
            used: BTreeSet::new(),
            spent: *spent,
        };
        let mut search = Search {
            records,
            reads_to_come: reads.clone(),
            reads,
            pending: Vec::new(),
            unknown_discards: register.unknown_discards,
            states: register.values.iter().map(state).collect(),
        };
        for write in &register.unknown_writes {
            search.pend_unknown_write(*write);
        }
        search
    }

    /// Walks to the end; false where no order explains what is there.
    ///
    /// Where it stops says little: what is still to be read rules out orders early.
    pub fn run(&mut self) -> bool {
        self.events().into_iter().all(|(_, event, record)| {
            let record = &self.records[record];
            match event {
                Event::Invoke => self.invoke(record),
                Event::Return => self.answer(record),
            }
            !self.states.is_empty()
        })
    }

    /// What the block may hold, each with the fewest unknown discards spent on it.
    pub fn values(&self) -> BTreeMap<Value, u32> {
        let mut values = BTreeMap::new();
        for state in &self.states {
            let spent = values.entry(state.value).or_insert(state.spent);
            *spent = state.spent.min(*spent);
        }
        values
    }

    /// Whether any read of the records found this value.
    pub fn is_read(&self, value: Value) -> bool {
        self.reads.contains_key(&value)
    }

    /// What happened, in order; operations that certainly had no effect are left out.
    fn events(&self) -> Vec<(u64, Event, usize)> {
        let mut events = Vec::new();
        for (index, record) in self.records.iter().enumerate() {
            let completed = record.completed();
            if completed.is_some() || record.is_unknown_change() {
                events.push((record.invoked.order, Event::Invoke, index));
            }
            events.extend(completed.map(|moment| (moment.order, Event::Return, index)));
        }
        events.sort_by_key(|(order, ..)| *order);
        events
    }

    fn invoke(&mut self, record: &Record) {
        let Some(returned) = record.completed() else {
            match record.kind {
                Kind::Write => self.pend_unknown_write(record.operation),
                Kind::Discard => self.unknown_discards += 1,
                Kind::Read => {}
            }
            return;
        };
        let Record { operation, kind, value, .. } = *record;
        let is_read = kind == Kind::Read;
        if is_read {
            *self.reads_to_come.get_mut(&value).expect("all reads were counted") -= 1;
        }
        self.pending.push(Pending { operation, is_read, value, deadline: Some(returned.order) });
        // A read of what the block holds; or a discard where there is nothing to discard.
        if is_read || kind == Kind::Discard {
            for state in self.states.iter_mut().filter(|state| state.value == value) {
                state.done.insert(operation);
            }
        }
    }

    /// A write of unknown outcome matters only if somebody reads it.
    fn pend_unknown_write(&mut self, operation: u64) {
        let value = Value::Written(operation);
        if self.is_read(value) {
            self.pending.push(Pending { operation, is_read: false, value, deadline: None });
        }
    }

    /// Lets an operation come back: keeps the states in which it can, and forgets it.
    fn answer(&mut self, record: &Record) {
        let index = self.pending.iter().position(|pending| pending.operation == record.operation);
        let subject = self.pending[index.expect("what comes back was pending")].clone();
        let mut reached = self.reach(&subject);
        self.forget(subject.operation, &mut reached);
        if let (true, Value::Written(write)) = (subject.is_read, subject.value) {
            // The write has taken effect in every state: it is used up if it was an unknown one.
            let is_used_up =
                |pending: &Pending| pending.operation == write && pending.deadline.is_none();
            if self.pending.iter().any(is_used_up) {
                self.forget(write, &mut reached);
            }
        }
        reached.sort_unstable();
        // Of states that differ in unknown discards only, the one that spent fewest can do all that
        // the others can.
        reached.dedup_by(|next, first| {
            (next.value, &next.done, &next.used) == (first.value, &first.done, &first.used)
        });
        self.states = reached;
    }

    fn forget(&mut self, operation: u64, states: &mut [State]) {
        self.pending.retain(|pending| pending.operation != operation);
        for state in states {
            state.done.remove(&operation);
            state.used.remove(&operation);
        }
    }

    /// The states in which an operation can come back, reached from the present ones by letting
    /// pending changes take effect.
    fn reach(&self, subject: &Pending) -> Vec<State> {
        let must_be_used = !subject.is_read && self.is_unique_and_read(subject.value);
        let mut reached = Vec::new();
        let mut open: Vec<(State, bool)> =
            self.states.iter().map(|state| (state.clone(), false)).collect();
        let mut seen: BTreeSet<State> = self.states.iter().cloned().collect();
        while let Some((state, was_free)) = open.pop() {
            if state.used.contains(&subject.operation) {
                reached.push(state);
                continue;
            }
            let free = state.done.contains(&subject.operation);
            // What could come back before can do so as it was then; the changes that took effect
            // since can do so later as well.
            if free && !was_free && !must_be_used {
                reached.push(state.clone());
            }
            if free && subject.is_read {
                continue;
            }
            for next in self.moves(&state, subject) {
                if seen.insert(next.clone()) {
                    open.push((next, free));
                }
            }
        }
        reached
    }

    /// The states one change away.
    fn moves(&self, state: &State, subject: &Pending) -> Vec<State> {
        if self.is_unique_and_read(state.value) && self.reads_to_come[&state.value] > 0 {
            return Vec::new();
        }
        let waiting = |value: Value| {
            self.pending.iter().any(|pending| {
                pending.is_read
                    && pending.value == value
                    && !state.done.contains(&pending.operation)
            })
        };
        let usable = self.pending.iter().filter(|change| {
            !change.is_read
                && !state.used.contains(&change.operation)
                && (change.operation == subject.operation || waiting(change.value))
        });
        let (discards, writes): (Vec<_>, Vec<_>) =
            usable.partition(|change| change.value == Value::Zero);
        let mut next: Vec<State> =
            writes.into_iter().map(|write| self.effect(state, Some(write))).collect();
        // Even where there is nothing to discard: what is pending can have come just before.
        let first = discards.into_iter().min_by_key(|discard| discard.deadline);
        let unspent = state.spent < self.unknown_discards && waiting(Value::Zero);
        if first.is_some() || unspent {
            next.push(self.effect(state, first));
        }
        next
    }

    /// The state after a pending change, or else a discard of unknown outcome, has taken effect.
    fn effect(&self, state: &State, change: Option<&Pending>) -> State {
        let mut next = state.clone();
        match change {
            Some(change) => {
                next.value = change.value;
                next.used.insert(change.operation);
            }
            None => {
                next.value = Value::Zero;
                next.spent += 1;
            }
        }
        // Pending changes may have come just before this one, and pending reads of its value just
        // after it.
        let done =
            self.pending.iter().filter(|pending| !pending.is_read || pending.value == next.value);
        next.done.extend(done.map(|pending| pending.operation));
        next
    }

    fn is_unique_and_read(&self, value: Value) -> bool {
        value != Value::Zero && self.is_read(value)
    }
}
