//! The way to one copyset: who leads it, what waits for it, and the session with it.

use arrayvec::ArrayVec;

use super::endpoint::EndpointId;
use super::numbers::Numbers;
use super::piece::{PieceIndex, PieceList};
use crate::cluster::{Cluster, Copyset, REPLICAS_MAX};
use crate::ids::{CopysetId, ReplicaId, SessionId};

/// Index of a route: that of its copyset in the cluster file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteIndex(pub(super) u32);

/// Reads and changes wait apart: reads need no session and no credit, changes no landing pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Reads = 0,
    Changes = 1,
}

/// Both lanes.
pub(super) const LANES: [Lane; 2] = [Lane::Reads, Lane::Changes];

/// The session with a copyset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// None, and nobody is opening one.
    None,
    /// The route's own piece is on its way to open one.
    Opening,
    /// Open.
    Open(SessionId),
}

/// A replica and where it is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteReplica {
    pub(super) id: ReplicaId,
    pub(super) endpoint: EndpointId,
}

/// The way to one copyset.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) copyset: CopysetId,
    replicas: ArrayVec<RouteReplica, REPLICAS_MAX>,
    /// The replica that is asked: the leader, as far as known.
    current: u8,
    /// Whether that replica has answered as the leader does.
    pub(super) known: bool,
    /// Of a leader that is not known: the request that finds out, on its way or pausing. All others
    /// wait for it.
    pub(super) scout: Option<PieceIndex>,
    /// The newest term heard of.
    pub(super) term: u64,
    /// When to ask again who leads.
    pub(super) ask_at_ns: u64,
    pub(super) session: Session,
    pub(super) numbers: Numbers,
    /// What waits to be sent, per lane.
    pub(super) queues: [PieceList; 2],
    /// Whether the lane is in its endpoint's list of those that may go.
    pub(super) listed: [bool; 2],
}

impl Route {
    /// The way to a copyset; its first replica is asked first.
    pub(super) fn new(cluster: &Cluster, copyset: &Copyset) -> Route {
        let replicas = copyset.replicas.iter().map(|replica| RouteReplica {
            id: replica.id,
            endpoint: EndpointId::of(cluster, cluster.endpoint_of(replica)),
        });
        Route {
            copyset: copyset.id,
            replicas: replicas.collect(),
            current: 0,
            known: false,
            scout: None,
            term: 0,
            ask_at_ns: 0,
            session: Session::None,
            numbers: Numbers::new(),
            queues: [PieceList::default(); 2],
            listed: [false; 2],
        }
    }

    /// The replica that is asked.
    pub(super) fn current(&self) -> u8 {
        self.current
    }

    /// Where it is run.
    pub(super) fn endpoint(&self) -> EndpointId {
        self.endpoint_of(self.current)
    }

    /// Where a replica is run.
    pub(super) fn endpoint_of(&self, replica: u8) -> EndpointId {
        self.replicas[usize::from(replica)].endpoint
    }

    /// Where the replicas are run.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.replicas.iter().map(|replica| replica.endpoint)
    }

    /// The replica that raft calls `id`, and where it is run.
    pub(super) fn find(&self, id: ReplicaId) -> Option<(u8, EndpointId)> {
        let index = self.replicas.iter().position(|replica| replica.id == id)?;
        Some((index as u8, self.replicas[index].endpoint))
    }

    /// The replica after the one that is asked.
    pub(super) fn following(&self) -> u8 {
        (self.current + 1) % self.replicas.len() as u8
    }

    /// Asks another replica from now on. The lists of the endpoints are the caller's concern.
    pub(super) fn turn_to(&mut self, replica: u8) {
        debug_assert!(usize::from(replica) < self.replicas.len());
        self.current = replica;
        self.known = false;
        self.scout = None;
    }
}
