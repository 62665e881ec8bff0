//! The history of one block: what is still to be judged, and the register before it.

use super::content::{BadBlock, Value};
use super::record::{End, Moment, Record};
use super::register::Register;
use super::violation::{Cause, Violation};

/// Judged operations that are kept, for the reader of a violation.
#[cfg(test)]
const JUDGED_MAX: usize = 24;

/// One block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    number: u64,
    register: Register,
    /// The last operations that the register has seen.
    judged: Vec<Record>,
    /// Operations since, in the order of their invocation.
    records: Vec<Record>,
    in_flight: u32,
}

impl Block {
    /// A block that was never written.
    pub fn new(number: u64) -> Block {
        let register = Register::new();
        Block { number, register, judged: Vec::new(), records: Vec::new(), in_flight: 0 }
    }

    /// Notes an operation that is about to be submitted.
    pub fn invoke(&mut self, record: Record) {
        assert_eq!(record.end, End::InFlight, "an operation is invoked before it ends");
        self.records.push(record);
        self.in_flight += 1;
    }

    /// Notes how an operation in flight ended.
    pub fn end(&mut self, operation: u64, end: End) {
        let record = self.record(operation);
        assert_eq!(record.end, End::InFlight, "an operation ends once");
        record.end = end;
        self.in_flight -= 1;
    }

    /// Notes what a read found.
    pub fn found(&mut self, operation: u64, value: Value, at: Moment) {
        self.record(operation).value = value;
        self.end(operation, End::Completed(at));
    }

    /// Notes that a read brought bytes that are not a block's.
    pub fn found_bad(&mut self, operation: u64, bad: BadBlock, at: Moment) -> Violation {
        self.end(operation, End::BadBytes(at));
        let offender = self.record(operation).clone();
        self.violation(Cause::Bad(bad), &offender)
    }

    /// The register after all operations.
    pub fn judge(&self) -> Result<Register, Violation> {
        self.register.advance(&self.records).map_err(|stuck| {
            let cause = Cause::NoOrder { possible: stuck.possible };
            self.violation(cause, &self.records[stuck.record])
        })
    }

    /// Judges all operations and forgets them, unless one is in flight.
    #[cfg(test)]
    pub fn settle(&mut self) -> Result<(), Violation> {
        if self.in_flight > 0 || self.records.is_empty() {
            return Ok(());
        }
        self.register = self.judge()?;
        self.judged.append(&mut self.records);
        let surplus = self.judged.len().saturating_sub(JUDGED_MAX);
        self.judged.drain(..surplus);
        Ok(())
    }

    /// The operations that were not forgotten.
    pub fn remembered(&self) -> impl Iterator<Item = &Record> {
        self.judged.iter().chain(&self.records)
    }

    fn record(&mut self, operation: u64) -> &mut Record {
        let found = self.records.binary_search_by_key(&operation, |record| record.operation);
        &mut self.records[found.expect("an operation that is not over is remembered")]
    }

    fn violation(&self, cause: Cause, offender: &Record) -> Violation {
        let history: Vec<Record> = self.remembered().cloned().collect();
        Violation::new(self.number, cause, &history, offender)
    }
}
