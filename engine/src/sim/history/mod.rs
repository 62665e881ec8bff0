//! What clients did to the blocks of a volume and what they saw, and whether a store of blocks can
//! have said so.
//!
//! Every block is a register of its own: an operation on several blocks is atomic on each of them,
//! not as a whole. Each write writes its own number, so that a read says whose bytes it found.
//! [`History::check`] demands that every block is *linearizable*: that there is an order of its
//! operations in which each read finds the latest change, and in which an operation that came back
//! before another was invoked stands before it. The answer is exact in both directions.
//!
//! That is durability too: after everything healed, read every block once more. An acknowledged
//! write that was lost leaves an older value, or zero, which no order explains.
//!
//! It is not a model of the volume: nothing here says what *should* happen, only what cannot have
//! happened. It knows nothing of copysets, epochs or quotas.
//!
//! What clients may report of an operation: it did what it says (`complete`); it certainly did not
//! (`failed_cleanly`); or nobody knows (`unknown`), and it may take effect at any later time.

mod block;
pub mod content;
mod record;
mod register;
mod search;
pub mod violation;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::random::Random;
use block::Block;
use record::{End, Moment, Record};

pub use record::Kind;

use content::{BLOCK, BadBlock, Value, fill, parse};
use violation::Violation;

/// The number of an operation, from 1 in the order of invocation; for a write, also the value that
/// it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(pub u64);

#[derive(Clone, Debug)]
struct InFlight {
    kind: Kind,
    blocks: Range<u64>,
}

/// All that happened to a volume.
#[derive(Clone, Debug)]
pub struct History {
    blocks: Vec<Block>,
    in_flight: BTreeMap<OperationId, InFlight>,
    operations: u64,
    moments: u64,
    hash: u64,
    /// The first bad bytes that any read brought.
    bad: Option<Violation>,
}

impl History {
    /// A volume of so many blocks that was never written.
    pub fn new(blocks: u64) -> History {
        History {
            blocks: (0..blocks).map(Block::new).collect(),
            in_flight: BTreeMap::new(),
            operations: 0,
            moments: 0,
            hash: 0,
            bad: None,
        }
    }

    /// Blocks of the volume.
    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Operations that are not over.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Notes an operation that is about to be submitted. Of what a write writes, [`History::fill`]
    /// says; a deletion is a discard.
    ///
    /// # Panics
    ///
    /// Here and below, when the run of blocks is empty or not one of the volume.
    pub fn invoke(
        &mut self,
        kind: Kind,
        client: u32,
        first: u64,
        blocks: u64,
        now_ns: u64,
    ) -> OperationId {
        let blocks = first..first + blocks;
        assert!(!blocks.is_empty(), "an operation has blocks");
        assert!(blocks.end <= self.blocks(), "an operation ends within the volume");
        self.operations += 1;
        let operation = self.operations;
        self.mix(&[kind as u64, u64::from(client), blocks.start, blocks.end]);
        let invoked = self.moment(now_ns);
        let value = if kind == Kind::Write { Value::Written(operation) } else { Value::Zero };
        for block in &mut self.blocks[blocks.start as usize..blocks.end as usize] {
            block.invoke(Record { operation, client, kind, value, invoked, end: End::InFlight });
        }
        self.in_flight.insert(OperationId(operation), InFlight { kind, blocks });
        OperationId(operation)
    }

    /// Fills memory with what a write in flight writes.
    ///
    /// # Panics
    ///
    /// When the operation is no write in flight, or the memory has another length.
    pub fn fill(&self, id: OperationId, bytes: &mut [u8]) {
        let write = &self.in_flight[&id];
        assert_eq!(write.kind, Kind::Write, "only writes have bytes");
        assert_eq!(bytes.len(), length(&write.blocks), "the memory is as long as the write");
        for (block, bytes) in write.blocks.clone().zip(bytes.chunks_exact_mut(BLOCK)) {
            fill(block, id.0, bytes);
        }
    }

    /// Notes that a write or discard was acknowledged.
    ///
    /// # Panics
    ///
    /// Here and below, when the operation is of the wrong kind or is over already.
    pub fn complete(&mut self, id: OperationId, now_ns: u64) {
        let change = self.take(id);
        assert_ne!(change.kind, Kind::Read, "a read is complete with what it found");
        self.end(id, &change, now_ns, End::Completed);
    }

    /// Notes what a read found.
    ///
    /// # Errors
    ///
    /// When bytes are not those of a block that anybody wrote; [`History::check`] says so from then
    /// on, too. What is merely too old is found by the check alone.
    ///
    /// # Panics
    ///
    /// When there are not as many bytes as were read.
    pub fn complete_read(
        &mut self,
        id: OperationId,
        now_ns: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let blocks = self.in_flight[&id].blocks.clone();
        assert_eq!(bytes.len(), length(&blocks), "a read is as long as it was asked to be");
        let contents =
            blocks.zip(bytes.chunks_exact(BLOCK)).map(|(block, bytes)| parse(block, bytes));
        self.complete_contents(id, now_ns, contents)
    }

    /// Notes that an operation failed or was never answered: a change may take effect at any later
    /// time, or never; a read tells nothing.
    pub fn unknown(&mut self, id: OperationId, now_ns: u64) {
        let operation = self.take(id);
        self.end(id, &operation, now_ns, End::Unknown);
    }

    /// Notes that an operation was refused, and certainly has no effect.
    pub fn failed_cleanly(&mut self, id: OperationId, now_ns: u64) {
        let operation = self.take(id);
        self.end(id, &operation, now_ns, End::Refused);
    }

    /// Judges all that happened so far; as if all that is in flight were never answered.
    ///
    /// # Errors
    ///
    /// The first violation found, from the lowest block.
    pub fn check(&self) -> Result<(), Violation> {
        self.bad.clone().map_or(Ok(()), Err)?;
        self.blocks.iter().try_for_each(|block| block.judge().map(drop))
    }

    /// Judges every block that no operation in flight touches, and forgets what happened to it
    /// except for what matters later. Call it now and then in a long run, as `engine/tests/linearizable`
    /// does.
    ///
    /// # Errors
    ///
    /// As [`History::check`]; nothing of that block is forgotten then.
    #[cfg(test)]
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.bad.clone().map_or(Ok(()), Err)?;
        self.blocks.iter_mut().try_for_each(Block::settle)
    }

    /// Every value that a read of a block may find if it is invoked now, while nothing in flight is
    /// answered.
    ///
    /// # Errors
    ///
    /// When what happened to the block is a violation already.
    #[cfg(test)]
    pub fn possible(&self, block: u64) -> Result<std::collections::BTreeSet<Value>, Violation> {
        Ok(self.blocks[block as usize].judge()?.possible())
    }

    /// Of everything recorded so far, forgotten or not: equal histories have equal hashes.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Writes what is remembered, one line for each operation on each block, in the order of
    /// invocation.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn trace(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let mut records: Vec<(u64, usize, &Record)> = Vec::new();
        for (number, block) in self.blocks.iter().enumerate() {
            records.extend(block.remembered().map(|record| (record.operation, number, record)));
        }
        records.sort_unstable_by_key(|(operation, block, _)| (*operation, *block));
        records
            .into_iter()
            .try_for_each(|(_, block, record)| writeln!(out, "block {block:>5}, {record}"))
    }

    fn take(&mut self, id: OperationId) -> InFlight {
        self.in_flight.remove(&id).expect("an operation ends once, after its invocation")
    }

    fn end(&mut self, id: OperationId, operation: &InFlight, now_ns: u64, end: fn(Moment) -> End) {
        let moment = self.moment(now_ns);
        let end = end(moment);
        let outcome = match end {
            End::InFlight | End::Completed(_) => 3,
            End::Unknown(_) => 4,
            End::Refused(_) => 5,
            End::BadBytes(_) => 6,
        };
        self.mix(&[outcome, id.0]);
        for block in
            &mut self.blocks[operation.blocks.start as usize..operation.blocks.end as usize]
        {
            block.end(id.0, end);
        }
    }

    fn complete_contents(
        &mut self,
        id: OperationId,
        now_ns: u64,
        contents: impl Iterator<Item = Result<Value, BadBlock>>,
    ) -> Result<(), Violation> {
        let read = self.take(id);
        assert_eq!(read.kind, Kind::Read, "only reads find something");
        self.mix(&[7, id.0]);
        let moment = self.moment(now_ns);
        let mut first = None;
        for (number, content) in read.blocks.zip(contents) {
            let content = content.and_then(|value| self.known(value));
            self.mix(&[hash_of(&content)]);
            let block = &mut self.blocks[number as usize];
            match content {
                Ok(value) => block.found(id.0, value, moment),
                Err(bad) => {
                    let violation = block.found_bad(id.0, bad, moment);
                    first.get_or_insert(violation);
                }
            }
        }
        let Some(violation) = first else { return Ok(()) };
        self.bad.get_or_insert(violation.clone());
        Err(violation)
    }

    /// A value that some operation may have written. Whether that one is a write of this block, and
    /// was not refused, is for the check to find.
    fn known(&self, value: Value) -> Result<Value, BadBlock> {
        match value {
            Value::Written(value) if value == 0 || value > self.operations => {
                Err(BadBlock::NobodyWrote(value))
            }
            value => Ok(value),
        }
    }

    fn moment(&mut self, now_ns: u64) -> Moment {
        self.moments += 1;
        self.mix(&[now_ns]);
        Moment { order: self.moments, now_ns }
    }

    fn mix(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = Random::new(self.hash ^ number).bits();
        }
    }
}

fn length(blocks: &Range<u64>) -> usize {
    (blocks.end - blocks.start) as usize * BLOCK
}

/// Of what a read found in one block; for bad bytes, of what is said about them.
fn hash_of(content: &Result<Value, BadBlock>) -> u64 {
    match content {
        Ok(Value::Zero) => 0,
        Ok(Value::Written(value)) => *value,
        Err(bad) => bad
            .to_string()
            .bytes()
            .fold(u64::MAX, |hash, byte| Random::new(hash ^ u64::from(byte)).bits()),
    }
}
