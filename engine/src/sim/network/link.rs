//! One connection: two ends and the two ways between them.

use culvert::network::{Address, ConnectionId, Identity, WindowMode};

use super::credits::Credits;
use super::landing::Landing;
use super::process::ProcessId;
use super::way::Way;

/// Number of a connection in the fabric; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(pub(super) u64);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// The one that connected.
    Initiator,
    /// The one that accepted.
    Acceptor,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Initiator, Side::Acceptor];

    pub(super) fn other(self) -> Side {
        match self {
            Side::Initiator => Side::Acceptor,
            Side::Acceptor => Side::Initiator,
        }
    }
}

/// How far one end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody has accepted yet.
    Absent,
    /// The handshake is under way.
    Opening,
    /// Frames may be sent.
    Open,
    /// Closed, and the process has yet to be told. Its window can still be written.
    Closing,
    /// The process knows, or is dead.
    Gone,
}

/// Which wishes the last calls refused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// The shortest run that could not be reserved.
    pub(super) pages: Option<u32>,
    /// Whether the peer was asked for a larger window.
    pub(super) said: bool,
    /// It has refused; not to be asked before this time.
    pub(super) rests_until_ns: u64,
}

/// One end.
#[derive(Debug)]
pub(super) struct End {
    /// Where it is, also while nobody has accepted; then the process is not known.
    pub(super) host: usize,
    pub(super) process: Option<ProcessId>,
    pub(super) identity: Option<Identity>,
    /// The name of the connection there.
    pub(super) connection: ConnectionId,
    pub(super) stage: Stage,
    /// The end of the connection waits among the events of the process.
    pub(super) ending: bool,
    /// The region of the window has been taken, during the handshake.
    pub(super) confirmed: bool,
    pub(super) landing: Landing,
    pub(super) credits: Credits,
    pub(super) wish: Wish,
    pub(super) unsent_pages: u32,
}

impl End {
    /// The end of the side that connects, or the place for the one that may accept. `mine` and
    /// `theirs` say who allocates in the two windows.
    fn new(host: usize, mine: WindowMode, theirs: WindowMode) -> End {
        End {
            host,
            process: None,
            identity: None,
            connection: ConnectionId::new(0, 0),
            stage: Stage::Absent,
            ending: false,
            confirmed: false,
            landing: Landing::new(mine),
            credits: Credits::new(theirs),
            wish: Wish::default(),
            unsent_pages: 0,
        }
    }

    /// Whether the connection has begun and is not closed at this end.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Open)
    }

    /// Whether frames may still be delivered here.
    pub(super) fn takes_frames(&self) -> bool {
        self.stage == Stage::Open && !self.ending
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Link {
    /// Where the initiator believes that somebody listens.
    pub(super) address: Address,
    ends: [End; 2],
    /// By the side that sends.
    ways: [Way; 2],
}

impl Link {
    /// A connection that is wished for, between hosts, with the initiator's window.
    pub(super) fn new(address: Address, hosts: [usize; 2], window: WindowMode) -> Link {
        let granted = WindowMode::Granted;
        Link {
            address,
            ends: [End::new(hosts[0], window, granted), End::new(hosts[1], granted, window)],
            ways: [Way::default(), Way::default()],
        }
    }

    pub(super) fn end(&self, side: Side) -> &End {
        &self.ends[side as usize]
    }

    pub(super) fn end_mut(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    /// The way on which this side sends.
    pub(super) fn way(&self, from: Side) -> &Way {
        &self.ways[from as usize]
    }

    pub(super) fn way_mut(&mut self, from: Side) -> &mut Way {
        &mut self.ways[from as usize]
    }

    /// The way on which `to` receives, together with its end.
    pub(super) fn receiving(&mut self, to: Side) -> (&mut Way, &mut End) {
        (&mut self.ways[to.other() as usize], &mut self.ends[to as usize])
    }

    /// The hosts that a thing arriving at `to` comes from and goes to.
    pub(super) fn route(&self, to: Side) -> (usize, usize) {
        (self.end(to.other()).host, self.end(to).host)
    }

    /// Whether the connection lies between these two hosts.
    pub(super) fn joins(&self, a: usize, b: usize) -> bool {
        self.route(Side::Acceptor) == (a, b) || self.route(Side::Acceptor) == (b, a)
    }

    /// Whether both ends are done with it.
    pub(super) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| matches!(end.stage, Stage::Absent | Stage::Gone))
    }
}
