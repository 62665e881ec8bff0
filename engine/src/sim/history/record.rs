//! What one operation did to one block, as its client saw it.

use std::fmt;

use super::content::Value;

/// A point in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Its place among all that was recorded. Many things happen in one nanosecond of the
    /// simulation; this, not the time, says which of them came first.
    pub order: u64,
    /// When, for the reader of a trace.
    pub now_ns: u64,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Discard,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Not yet.
    InFlight,
    /// It did what it says.
    Completed(Moment),
    /// A change may take effect at any time from its invocation on, or never.
    Unknown(Moment),
    /// It certainly had no effect.
    Refused(Moment),
    /// The bytes of a read were nobody's.
    BadBytes(Moment),
}

/// One operation on one block.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The number of the operation, unique in the history.
    pub operation: u64,
    pub client: u32,
    pub kind: Kind,
    /// What a change leaves, or what a read found once it is complete.
    pub value: Value,
    pub invoked: Moment,
    pub end: End,
}

impl Record {
    /// When it came back, if it did what it says.
    pub fn completed(&self) -> Option<Moment> {
        match self.end {
            End::Completed(moment) => Some(moment),
            _ => None,
        }
    }

    /// Whether it is a change that may take effect at any time from now on.
    pub fn is_unknown_change(&self) -> bool {
        let open = matches!(self.end, End::InFlight | End::Unknown(_));
        open && self.kind != Kind::Read
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { operation, client, value, .. } = self;
        write!(f, "operation {operation:>5} of client {client:>2}: ")?;
        match (self.kind, self.end) {
            (Kind::Read, End::Completed(_)) => write!(f, "read  {value}")?,
            (Kind::Read, _) => f.write_str("read")?,
            (Kind::Write, _) => write!(f, "write {value}")?,
            (Kind::Discard, _) => f.write_str("discard")?,
        }
        write!(f, ", invoked at {} ns, ", self.invoked.now_ns)?;
        match self.end {
            End::InFlight => f.write_str("in flight"),
            End::Completed(moment) => write!(f, "complete at {} ns", moment.now_ns),
            End::Unknown(moment) => write!(f, "given up at {} ns", moment.now_ns),
            End::Refused(moment) => write!(f, "refused at {} ns", moment.now_ns),
            End::BadBytes(moment) => write!(f, "bad bytes at {} ns", moment.now_ns),
        }
    }
}
