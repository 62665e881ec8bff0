//! What no store of blocks could have said, with what its reader needs in order to believe it.

use std::collections::BTreeSet;
use std::fmt;

use super::content::{BadBlock, Value};
use super::record::{Kind, Record};

/// Operations before the offending one that are shown.
const BEFORE: usize = 16;
/// Operations after the offending one that are shown.
const AFTER: usize = 4;

/// Why a history is not that of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A read brought bytes that are not a block's.
    Bad(BadBlock),
    /// No order of the operations explains all answers up to this operation's, though one explains
    /// those before it.
    NoOrder {
        /// What a read could have found that began and ended just before the answer.
        possible: BTreeSet<Value>,
    },
}

/// A block of which no order of its operations explains what clients saw.
#[derive(Clone, Debug)]
pub struct Violation {
    block: u64,
    cause: Cause,
    /// The number of the offending operation.
    offender: u64,
    /// The block's operations around the offending one, in the order of their invocation.
    around: Vec<Record>,
}

impl Violation {
    /// Cuts what is worth showing out of a block's history.
    pub(super) fn new(
        block: u64,
        cause: Cause,
        history: &[Record],
        offender: &Record,
    ) -> Violation {
        let position = history.partition_point(|record| record.operation < offender.operation);
        let shown = position.saturating_sub(BEFORE)..=position + AFTER;
        // However long ago: what was found must have been written by somebody.
        let is_source =
            |record: &Record| record.kind == Kind::Write && record.value == offender.value;
        let around = history
            .iter()
            .enumerate()
            .filter(|(index, record)| shown.contains(index) || is_source(record))
            .map(|(_, record)| record.clone())
            .collect();
        Violation { block, cause, offender: offender.operation, around }
    }

    /// The block.
    #[cfg(test)]
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The operation whose answer is the first that is wrong.
    #[cfg(test)]
    pub fn operation(&self) -> u64 {
        self.offender
    }

    /// Why.
    #[cfg(test)]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { block, offender, .. } = self;
        write!(f, "block {block}, operation {offender}: ")?;
        match &self.cause {
            Cause::Bad(bad) => write!(f, "{bad}")?,
            Cause::NoOrder { possible } => {
                f.write_str("no order of the operations explains its answer; ")?;
                f.write_str("just before it, a read could have found:")?;
                for value in possible {
                    write!(f, " [{value}]")?;
                }
            }
        }
        for record in &self.around {
            let mark = if record.operation == *offender { '>' } else { ' ' };
            write!(f, "\n{mark} {record}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
