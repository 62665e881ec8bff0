//! A process as the network sees it: its connections, and what it has yet to be told.

use std::collections::VecDeque;

use culvert::network::{
    Address, Class, CloseReason, ConnectionId, Identity, NetworkCounters, PeerKind, RegionEvent,
};
use culvert_memory::{RegionId, SlotId, SlotTable};

use super::flight::Flight;
use super::landing::Landing;
use super::link::{LinkId, Side};

/// A process on a host. A later one on the same host has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessId {
    pub(super) host: usize,
    pub(super) number: u64,
}

/// What waits for a poll.
#[derive(Debug)]
pub(super) enum Pending {
    Connected {
        connection: ConnectionId,
        peer: Identity,
        initiated: bool,
    },
    Writable {
        connection: ConnectionId,
    },
    Frame {
        connection: ConnectionId,
        at: (LinkId, Side),
        flight: Flight,
    },
    /// The connection ends when the poll comes here: what has come in is taken first.
    Ending {
        at: (LinkId, Side),
        reason: CloseReason,
    },
    Closed {
        connection: ConnectionId,
        at: (LinkId, Side),
        reason: CloseReason,
    },
}

impl Pending {
    /// Whether it is of no interest any more once the connection is closed.
    fn is_void_after_close(&self, of: ConnectionId) -> bool {
        match self {
            Pending::Writable { connection } | Pending::Frame { connection, .. } => {
                *connection == of
            }
            Pending::Connected { .. } | Pending::Ending { .. } | Pending::Closed { .. } => false,
        }
    }

    /// Whether it is a frame of this class on this connection.
    fn is_frame(&self, of: ConnectionId, class: Class) -> bool {
        matches!(self, Pending::Frame { connection, flight, .. }
            if *connection == of && flight.class == class)
    }
}

/// The window of a connection that is gone, of which somebody may still hold pages.
#[derive(Debug)]
struct Retiring {
    landing: Landing,
    regions: Vec<RegionId>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) identity: Identity,
    pub(super) listening: Vec<Address>,
    connections: SlotTable<(LinkId, Side)>,
    pub(super) events: VecDeque<Pending>,
    /// Whether it registers regions with devices: a client has none and never asks.
    pub(super) reports_regions: bool,
    /// Regions to be reported, and the connections that wait for it.
    pub(super) regions: Vec<RegionEvent>,
    pub(super) unreported: Vec<(LinkId, Side)>,
    retiring: Vec<Retiring>,
    pub(super) counters: NetworkCounters,
}

impl Process {
    pub(super) fn new(id: ProcessId, identity: Identity, connections_max: u32) -> Process {
        Process {
            id,
            identity,
            listening: Vec::new(),
            connections: SlotTable::new(connections_max),
            events: VecDeque::new(),
            reports_regions: identity.kind == PeerKind::Node,
            regions: Vec::new(),
            unreported: Vec::new(),
            retiring: Vec::new(),
            counters: NetworkCounters::default(),
        }
    }

    /// Gives an end of a connection a name; `None` where the table is full.
    pub(super) fn name(&mut self, at: (LinkId, Side)) -> Option<ConnectionId> {
        let slot = self.connections.insert(at).ok()?;
        Some(ConnectionId::new(slot.index, slot.generation))
    }

    /// The end of a connection by its name; `None` once it is closed.
    pub(super) fn find(&self, connection: ConnectionId) -> Option<(LinkId, Side)> {
        self.connections.get(slot(connection)).copied()
    }

    /// The connection is closed: its name is answered "closed" from here on, and its slot may be
    /// used again at once, just as in the transport.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        let at = self.connections.remove(slot(connection));
        self.unreported.retain(|waiting| Some(*waiting) != at);
        self.events.retain(|pending| !pending.is_void_after_close(connection));
    }

    /// Whether a poll, or a look at the regions, would find something.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty() || !self.regions.is_empty() || !self.unreported.is_empty()
    }

    /// Takes the oldest event; or, where that is a data frame and `overtake` says so, the oldest
    /// control frame of the same connection, which need not wait for it.
    pub(super) fn pop_event(&mut self, overtake: bool) -> Option<Pending> {
        if overtake && let Some(Pending::Frame { connection, flight, .. }) = self.events.front() {
            let (connection, class) = (*connection, flight.class);
            let is_control = |pending: &Pending| pending.is_frame(connection, Class::Control);
            if class == Class::Data
                && let Some(at) = self.events.iter().position(is_control)
            {
                return self.events.remove(at);
            }
        }
        self.events.pop_front()
    }

    /// Takes the window of a connection that is gone.
    pub(super) fn retire(&mut self, landing: Landing) {
        let regions = landing.regions().filter(|_| self.reports_regions).collect();
        self.retiring.push(Retiring { landing, regions });
        self.poll_retiring();
    }

    /// Lets go of windows that nobody uses any more.
    pub(super) fn poll_retiring(&mut self) {
        let Process { retiring, regions, .. } = self;
        retiring.retain_mut(|window| {
            window.landing.poll_released();
            if window.landing.in_use() {
                return true;
            }
            regions.extend(window.regions.drain(..).map(RegionEvent::Retired));
            false
        });
    }
}

fn slot(connection: ConnectionId) -> SlotId {
    SlotId { index: connection.slot(), generation: connection.generation() }
}
