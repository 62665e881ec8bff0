//! A node's reactor and the connection to it.

use std::collections::VecDeque;

use uuid::Uuid;

use super::options::Transports;
use super::returning::{Trial, return_pause_ns};
use super::route::RouteIndex;
use crate::cluster::{Cluster, EndpointIndex};
use crate::network::{Address, ConnectionId, Identity, PeerKind};

/// Index of an endpoint: nodes in the order of the file, and their reactors in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndpointId(pub(super) u32);

impl EndpointId {
    /// The number of a reactor of the cluster.
    pub(super) fn of(cluster: &Cluster, index: EndpointIndex) -> EndpointId {
        let before = cluster.nodes()[..index.node].iter().map(|node| node.reactors.len());
        EndpointId((before.sum::<usize>() + index.reactor) as u32)
    }
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// There is none, and none is to be made before that time.
    Down { until_ns: u64 },
    /// Being made.
    Connecting { connection: ConnectionId },
    /// Established.
    Up { connection: ConnectionId },
    /// Told to close; the network has not said yet that it did.
    Closing { connection: ConnectionId },
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    node: Uuid,
    reactor: u32,
    /// Those that may be used, in order of preference.
    pub(super) addresses: Box<[Address]>,
    pub(super) link: Link,
    /// The address of the connection, or of the last one.
    pub(super) address: usize,
    /// A second connection, over the preferred address.
    pub(super) trial: Trial,
    /// When to try that again, while another is used.
    pub(super) return_at_ns: u64,
    /// How often that was in vain, one after another.
    pub(super) returns_failed: u32,
    /// The address to try next.
    pub(super) next_address: usize,
    /// Failures to connect, or to get any answer, one after another.
    pub(super) failures: u32,
    /// Whether the connection was established, also while it is closing.
    pub(super) established: bool,
    /// When a frame last came in, or the connection was established.
    pub(super) heard_ns: u64,
    /// Whether a frame came in over this connection.
    pub(super) heard: bool,
    /// Routes with something to send here, per lane.
    pub(super) ready: [VecDeque<RouteIndex>; 2],
    /// Lanes that wait for room on the connection.
    pub(super) blocked: [bool; 2],
    /// Since when nothing of a lane could be sent for want of room.
    pub(super) cramped_ns: [Option<u64>; 2],
    /// Whether the reads wait for landing pages only, of which the network says nothing.
    pub(super) landing_short: bool,
    /// Since when the window, with no read under way in it, has been too small or too scattered.
    /// Growing takes it a moment; when that has passed, reads make do with what there is.
    pub(super) landing_short_ns: Option<u64>,
    /// Reads on their way over this connection.
    pub(super) reads_in_flight: u32,
    /// Since when the connection is being made, if it is.
    pub(super) connecting_ns: u64,
    /// Routes of which to ask here who leads; each once.
    pub(super) questions: Vec<RouteIndex>,
    /// Whether the connection is wanted although nothing is to be sent to a replica.
    pub(super) wanted: bool,
}

impl Endpoint {
    /// All endpoints of a cluster.
    pub(super) fn all(cluster: &Cluster, transports: Transports) -> Box<[Endpoint]> {
        let nodes = cluster.nodes().iter();
        let reactors = nodes.flat_map(|node| node.reactors.iter().zip(0..).map(|r| (node.uuid, r)));
        let endpoint = |(node, (reactor, number)): (Uuid, (&crate::cluster::Reactor, u32))| {
            let allowed = reactor.addresses.iter().filter(|address| transports.allow(address));
            Endpoint::new(node, number, allowed.cloned().collect())
        };
        reactors.map(endpoint).collect()
    }

    fn new(node: Uuid, reactor: u32, addresses: Box<[Address]>) -> Endpoint {
        Endpoint {
            node,
            reactor,
            addresses,
            link: Link::Down { until_ns: 0 },
            address: 0,
            trial: Trial::None,
            return_at_ns: u64::MAX,
            returns_failed: 0,
            next_address: 0,
            failures: 0,
            established: false,
            heard_ns: 0,
            heard: false,
            ready: [VecDeque::new(), VecDeque::new()],
            blocked: [false; 2],
            cramped_ns: [None; 2],
            landing_short: false,
            landing_short_ns: None,
            reads_in_flight: 0,
            connecting_ns: 0,
            questions: Vec::new(),
            wanted: false,
        }
    }

    /// Whether the peer is who the cluster file says.
    pub(super) fn is(&self, peer: &Identity) -> bool {
        let node = peer.kind == PeerKind::Node && peer.node == self.node;
        node && peer.endpoint == self.reactor
    }

    /// Whether something waits for the connection.
    pub(super) fn has_work(&self) -> bool {
        self.wanted
            || !self.questions.is_empty()
            || self.ready.iter().any(|ready| !ready.is_empty())
    }

    /// Whether a request could go at once or as soon as a connection is made, without a pause.
    pub(super) fn is_usable(&self, now_ns: u64) -> bool {
        match self.link {
            Link::Down { until_ns } => until_ns <= now_ns && !self.addresses.is_empty(),
            Link::Closing { .. } => false,
            Link::Connecting { .. } | Link::Up { .. } => true,
        }
    }

    /// Notes that the connection is established.
    pub(super) fn establish(&mut self, connection: ConnectionId, now_ns: u64) {
        self.link = Link::Up { connection };
        self.established = true;
        self.heard_ns = now_ns;
        self.heard = false;
        self.cramped_ns = [None; 2];
        self.unblock();
        debug_assert_eq!(self.reads_in_flight, 0, "reads end with their connection");
    }

    /// Sets the time at which the preferred address is tried again.
    pub(super) fn plan_return(&mut self, now_ns: u64) {
        self.return_at_ns = now_ns.saturating_add(return_pause_ns(self.returns_failed));
    }

    /// Notes that there may be room, or a larger window.
    pub(super) fn unblock(&mut self) {
        self.blocked = [false; 2];
        self.landing_short = false;
        self.landing_short_ns = None;
    }

    /// Notes that a frame came in.
    pub(super) fn note_heard(&mut self, now_ns: u64) {
        self.heard_ns = now_ns;
        self.heard = true;
        self.failures = 0;
    }
}
