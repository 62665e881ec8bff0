//! Which faults met which states of the cluster, counted.

use culvert::chunkserver::CopysetStatus;

use super::faults::Fault;

/// What a cluster may be in the middle of when a fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Some copyset has no leader that anybody follows.
    LeaderChange,
    /// A node writes a checkpoint.
    Checkpoint,
    /// A replica is brought up to date beyond the log.
    CatchUp,
    /// ... and is about to get the raft snapshot that ends it.
    RaftSnapshot,
    /// A node verifies what it has stored.
    Scrub,
    /// A node is stopped.
    Paused,
    /// Entries of a node's journal since its last checkpoint stand in metadata.
    Metadata,
}

/// All states, in the order of the table's columns.
pub const STATES: [State; 7] = [
    State::LeaderChange,
    State::Checkpoint,
    State::CatchUp,
    State::RaftSnapshot,
    State::Scrub,
    State::Paused,
    State::Metadata,
];

impl State {
    /// The column's head.
    pub fn name(self) -> &'static str {
        match self {
            State::LeaderChange => "leader change",
            State::Checkpoint => "checkpoint",
            State::CatchUp => "catch-up",
            State::RaftSnapshot => "raft snapshot",
            State::Scrub => "scrub",
            State::Paused => "paused",
            State::Metadata => "metadata",
        }
    }
}

/// Kinds of faults, in the order of the table's rows.
pub const KINDS: [&str; 17] = [
    "kill",
    "power loss",
    "blackout",
    "pause",
    "clock jump",
    "slow device",
    "partition",
    "isolation",
    "split",
    "cut",
    "slow link",
    "transfer",
    "damage",
    "rot",
    "bad write",
    "bad reads",
    "device failure",
];

/// The row of a fault; `None` for what is not one by itself.
pub fn kind_of(fault: &Fault) -> Option<usize> {
    use super::device::Crash;
    Some(match fault {
        Fault::Crash { kind: Crash::Kill, .. } => 0,
        Fault::Crash { kind: Crash::Power, .. } => 1,
        Fault::Blackout { .. } => 2,
        Fault::Pause { .. } => 3,
        Fault::Jump { .. } => 4,
        Fault::SlowDevice { .. } => 5,
        Fault::Partition { .. } => 6,
        Fault::Isolate { .. } => 7,
        Fault::Split { .. } => 8,
        Fault::Cut { .. } => 9,
        Fault::SlowLink { .. } => 10,
        Fault::Transfer { .. } => 11,
        Fault::Damage { .. } => 12,
        Fault::Rot { .. } => 13,
        Fault::BadWrite { .. } => 14,
        Fault::BadReads { .. } => 15,
        Fault::FailDevice { .. } => 16,
        Fault::Hush { .. }
        | Fault::Storm { .. }
        | Fault::Trap { .. }
        | Fault::TrapCheckpoint { .. } => return None,
    })
}

/// How often each kind of fault met each state.
#[derive(Clone, Debug, Default)]
pub struct Coverage([[u64; STATES.len()]; KINDS.len()]);

impl Coverage {
    /// Counts a fault.
    pub fn note(&mut self, fault: &Fault, is_in: impl Fn(State) -> bool) {
        let Some(kind) = kind_of(fault) else { return };
        for (count, state) in self.0[kind].iter_mut().zip(STATES) {
            *count += u64::from(is_in(state));
        }
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Coverage) {
        for (row, others) in self.0.iter_mut().zip(&other.0) {
            for (count, more) in row.iter_mut().zip(others) {
                *count += more;
            }
        }
    }

    /// Rows: the kind, and the counts in the order of [`STATES`].
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &[u64])> {
        KINDS.into_iter().zip(self.0.iter().map(|row| &row[..]))
    }
}

/// Whether the replicas' words amount to a state; `None` where they do not say.
pub fn is_in(state: State, statuses: &[CopysetStatus]) -> Option<bool> {
    let any = |of: &dyn Fn(&CopysetStatus) -> bool| Some(statuses.iter().any(of));
    match state {
        State::LeaderChange => any(&|status| status.role == "candidate" || status.leader == 0),
        State::CatchUp => any(&|status| status.catching_up || !status.catch_ups.is_empty()),
        State::RaftSnapshot => {
            any(&|status| status.catch_ups.iter().any(|catch_up| catch_up.phase == "finishing"))
        }
        State::Checkpoint | State::Scrub | State::Paused | State::Metadata => None,
    }
}
