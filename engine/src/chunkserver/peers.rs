//! Connections to the reactors of other nodes, and the messages that wait for them.
//!
//! Of two reactors the one with the smaller name connects, so that a pair shares one connection.
//! Addresses are tried in their order of preference, over and over; while another than the first had
//! to do, that is tried again now and then, and the connection over it takes the other's place: what
//! was under way on that is as lost as with any connection, and raft sends it again. The side that made
//! it takes it at once, and says so with a frame of no messages; the other side, which knows of it
//! earlier, goes on with the old one until then, because the new one may still come to nothing.
//!
//! Messages of all copysets that share a pair of nodes travel in one frame a turn: votes and
//! heartbeats as control traffic, answers to appended entries as data. What the connection has no
//! room for waits, in order and up to a bound; what is more, or finds no connection, is dropped, and
//! raft sends it again. Waiting matters: with hundreds of copysets the heartbeats of one tick are
//! more than a control queue holds, and if the rest were dropped it would be that of the same
//! copysets every time.

use std::collections::VecDeque;

use uuid::Uuid;

use super::{Chunkserver, Offence};
use crate::network::{
    Address, Class, CloseReason, ConnectionId, Identity, Network, SendError, WindowMode,
};
use crate::wire::{AppendWriter, PeerMessage, PeerMessageKind, PeerMessagesWriter};

/// What a raft snapshot puts into the journal beside the last part of its state.
const SNAPSHOT_OVERHEAD_BYTES: usize = 4096;

/// One reactor of another node.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The node.
    pub node: Uuid,
    /// The reactor within it.
    pub reactor: u32,
    /// Where it listens, best first.
    pub addresses: Vec<Address>,
}

/// How connections to peers are kept up.
#[derive(Clone, Copy, Debug)]
pub struct PeerOptions {
    /// Pause before another attempt after all addresses failed.
    pub redial_ns: u64,
}

struct Peer {
    endpoint: Endpoint,
    /// This side connects.
    dials: bool,
    connection: Option<ConnectionId>,
    /// Over what that goes.
    scheme: Option<&'static str>,
    /// One that the other side has made beside it and not used yet, and over what.
    newer: Option<(ConnectionId, &'static str)>,
    /// The one whose place it took: what still comes over that is late.
    older: Option<ConnectionId>,
    /// The other side is to be told that this one is used.
    greets: bool,
    /// Which address it is over, where this side made it.
    address: usize,
    attempt: Option<ConnectionId>,
    attempt_address: usize,
    /// When this side connected.
    connected_ns: u64,
    /// When the first address is tried again while the connection is over another.
    return_at_ns: u64,
    return_pause_ns: u64,
    next_address: usize,
    next_dial_ns: u64,
    control: Outgoing,
    data: Outgoing,
}

impl Peer {
    /// When the first address is to be tried although there is a connection.
    fn return_ns(&self) -> u64 {
        let elsewhere = self.connection.is_some() && self.address > 0;
        if elsewhere { self.return_at_ns } else { u64::MAX }
    }

    /// Takes another connection, or none, in place of the one that there is.
    fn take(&mut self, connection: Option<(ConnectionId, &'static str)>) {
        self.older = std::mem::replace(&mut self.connection, connection.map(|(id, _)| id));
        self.scheme = connection.map(|(_, scheme)| scheme);
        self.newer = None;
        self.next_address = 0;
        self.control.clear();
        self.data.clear();
    }
}

/// What became of a connection that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    First,
    /// Of another.
    InPlace,
    NotYet,
}

/// Over what a frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The connection to a peer.
    Peer,
    /// The same, which has just taken the place of another.
    Changed(usize),
    /// One whose place was taken.
    Late,
    /// None to a peer.
    Nobody,
}

/// Messages of one class on their way to a peer.
struct Outgoing {
    class: Class,
    /// Never more than there was room for at the start.
    waiting: VecDeque<PeerMessage>,
    /// The frame that is filled next, or that was refused.
    frame: PeerMessagesWriter,
}

impl Outgoing {
    fn new(class: Class, messages_max: usize) -> Outgoing {
        let waiting = VecDeque::with_capacity(messages_max);
        Outgoing { class, waiting, frame: PeerMessagesWriter::default() }
    }

    fn push(&mut self, message: &PeerMessage) {
        if self.waiting.is_empty() && !self.frame.is_full() {
            self.frame.push(message);
        } else if self.waiting.len() < self.waiting.capacity() {
            self.waiting.push_back(*message);
        }
    }

    /// Sends until nothing waits or the connection takes no more; it says when it does again.
    fn flush<N: Network>(&mut self, connection: ConnectionId, network: &mut N) {
        loop {
            while !self.frame.is_full()
                && let Some(message) = self.waiting.pop_front()
            {
                self.frame.push(&message);
            }
            if self.frame.is_empty() {
                break;
            }
            match network.send(connection, self.class, self.frame.frame(), &[]) {
                Err(SendError::Full) => break,
                Ok(()) | Err(SendError::Closed) => self.frame.clear(),
                Err(error) => unreachable!("frames of messages fit every queue: {error}"),
            }
        }
    }

    fn clear(&mut self) {
        self.waiting.clear();
        self.frame.clear();
    }
}

/// Messages of one class that wait for one peer: so many, and so many for each copyset.
const WAITING_MIN: usize = 64;
const WAITING_PER_COPYSET: usize = 4;

/// How long after a connection over another address the first one is tried again; each time that is
/// in vain doubles it, up to a bound.
const RETURN_PAUSE_NS: u64 = 500_000_000;
const RETURN_PAUSE_NS_MAX: u64 = 8_000_000_000;

/// See the module's documentation.
pub(super) struct Peers {
    peers: Vec<Peer>,
    /// Connections that others have taken the place of.
    replaced: Vec<ConnectionId>,
    options: PeerOptions,
    writer: AppendWriter,
}

impl Peers {
    /// `copysets` is how many have a replica here.
    pub fn new(
        own: (Uuid, u32),
        endpoints: Vec<Endpoint>,
        copysets: usize,
        options: PeerOptions,
    ) -> Peers {
        let waiting = WAITING_MIN + copysets * WAITING_PER_COPYSET;
        let peers = endpoints
            .into_iter()
            .map(|endpoint| Peer {
                dials: own < (endpoint.node, endpoint.reactor),
                endpoint,
                connection: None,
                scheme: None,
                newer: None,
                older: None,
                greets: false,
                address: 0,
                attempt: None,
                attempt_address: 0,
                connected_ns: 0,
                return_at_ns: 0,
                return_pause_ns: RETURN_PAUSE_NS,
                next_address: 0,
                next_dial_ns: 0,
                control: Outgoing::new(Class::Control, waiting),
                data: Outgoing::new(Class::Data, waiting),
            })
            .collect();
        Peers { peers, replaced: Vec::new(), options, writer: AppendWriter::default() }
    }

    /// The peer behind an established connection.
    pub fn by_connection(&self, connection: ConnectionId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.connection == Some(connection))
    }

    /// A frame has come: it may be the first over a newer connection.
    fn hear(&mut self, connection: ConnectionId) -> Way {
        if self.by_connection(connection).is_some() {
            return Way::Peer;
        }
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if let Some(newer) = peer.newer.filter(|(newer, _)| *newer == connection) {
                peer.take(Some(newer));
                return Way::Changed(at);
            }
            if peer.older == Some(connection) {
                return Way::Late;
            }
        }
        Way::Nobody
    }

    pub fn connection(&self, peer: usize) -> Option<ConnectionId> {
        self.peers[peer].connection
    }

    pub fn is_connected(&self, peer: usize) -> bool {
        self.peers[peer].connection.is_some()
    }

    pub fn append_writer(&mut self) -> &mut AppendWriter {
        &mut self.writer
    }

    /// Endpoint, whether it is connected, and over what, for `status`.
    pub fn iter(&self) -> impl Iterator<Item = (&Endpoint, bool, Option<&'static str>)> {
        self.peers.iter().map(|peer| (&peer.endpoint, peer.connection.is_some(), peer.scheme))
    }

    /// Queues a message; dropped where there is no connection or no room.
    pub fn push(&mut self, peer: usize, message: &PeerMessage) {
        let peer = &mut self.peers[peer];
        if peer.connection.is_none() {
            return;
        }
        match message.kind {
            PeerMessageKind::AppendResponse => peer.data.push(message),
            _ => peer.control.push(message),
        }
    }

    /// Sends what waits.
    pub fn flush<N: Network>(&mut self, network: &mut N) {
        for peer in &mut self.peers {
            if let Some(connection) = peer.connection {
                if std::mem::take(&mut peer.greets) {
                    let mut nothing = PeerMessagesWriter::default();
                    let sent = network.send(connection, Class::Control, nothing.frame(), &[]);
                    debug_assert_ne!(sent, Err(SendError::Full), "it is the first");
                }
                peer.control.flush(connection, network);
                peer.data.flush(connection, network);
            }
        }
    }

    /// Connects to peers that this side is to connect to and is not connected with.
    pub fn dial<N: Network>(&mut self, now_ns: u64, network: &mut N) {
        for connection in self.replaced.drain(..) {
            network.close(connection, "another connection has taken its place");
        }
        for peer in &mut self.peers {
            if peer.dials && peer.attempt.is_none() && peer.return_ns() <= now_ns {
                peer.return_pause_ns = (2 * peer.return_pause_ns).min(RETURN_PAUSE_NS_MAX);
                peer.return_at_ns = now_ns + peer.return_pause_ns;
                peer.attempt_address = 0;
                let preferred = &peer.endpoint.addresses[0];
                peer.attempt = network.connect(preferred, WindowMode::Granted).ok();
            }
            let idle = peer.connection.is_none() && peer.attempt.is_none();
            if !peer.dials || !idle || now_ns < peer.next_dial_ns {
                continue;
            }
            let addresses = &peer.endpoint.addresses;
            let Some(address) = addresses.get(peer.next_address) else {
                peer.next_address = 0;
                peer.next_dial_ns = now_ns + self.options.redial_ns;
                continue;
            };
            peer.attempt_address = peer.next_address;
            peer.next_address += 1;
            peer.attempt = network.connect(address, WindowMode::Granted).ok();
        }
    }

    pub fn deadline_ns(&self) -> u64 {
        let waiting = self.peers.iter().filter(|peer| peer.dials && peer.attempt.is_none());
        let next = waiting.map(|peer| match peer.connection {
            None => peer.next_dial_ns,
            Some(_) => peer.return_ns(),
        });
        next.min().unwrap_or(u64::MAX)
    }

    /// A connection to or from a node is up. Returns its peer, and whether it is used from now on, and
    /// in place of another.
    fn connected(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
        scheme: &'static str,
        now_ns: u64,
    ) -> Option<(usize, Taken)> {
        let at = self.peers.iter().position(|peer| {
            peer.endpoint.node == identity.node && peer.endpoint.reactor == identity.endpoint
        })?;
        let peer = &mut self.peers[at];
        if peer.attempt == Some(connection) {
            peer.attempt = None;
            peer.address = peer.attempt_address;
            peer.connected_ns = now_ns;
            peer.return_at_ns = now_ns + peer.return_pause_ns;
        }
        if peer.connection.is_some() && !peer.dials {
            peer.newer = Some((connection, scheme));
            return Some((at, Taken::NotYet));
        }
        peer.take(Some((connection, scheme)));
        peer.greets = peer.dials;
        // Whoever made a connection ends it.
        self.replaced.extend(peer.older);
        Some((at, if peer.older.is_some() { Taken::InPlace } else { Taken::First }))
    }

    fn closed(&mut self, connection: ConnectionId, dead_way: bool, now_ns: u64) -> Option<usize> {
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if peer.attempt == Some(connection) {
                peer.attempt = None;
            }
            if peer.older == Some(connection) {
                peer.older = None;
            }
            peer.newer = peer.newer.filter(|(newer, _)| *newer != connection);
            if peer.connection == Some(connection) {
                let newer = peer.newer;
                peer.take(newer);
                peer.older = None;
                // A way that dies soon after each return is returned to more and more seldom.
                if peer.address == 0 && now_ns - peer.connected_ns >= RETURN_PAUSE_NS_MAX {
                    peer.return_pause_ns = RETURN_PAUSE_NS;
                }
                let elsewhere = peer.address + 1;
                if dead_way && elsewhere < peer.endpoint.addresses.len() {
                    peer.next_address = elsewhere;
                    peer.next_dial_ns = now_ns;
                } else {
                    // A peer that takes connections and closes them again is not asked all the time.
                    peer.next_dial_ns = now_ns + self.options.redial_ns;
                }
                return Some(at);
            }
        }
        None
    }
}

impl Chunkserver {
    pub(super) fn peer_connected(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
        scheme: &'static str,
    ) -> Result<(), Offence> {
        let connected = self.peers.connected(connection, identity, scheme, self.now_ns);
        match connected {
            None => return Err(Offence::Stranger(identity)),
            Some((_, Taken::NotYet)) => tracing::debug!(%identity, "peer connected once more"),
            Some((at, taken)) => {
                tracing::info!(%identity, "peer connected");
                if taken == Taken::InPlace {
                    self.peer_lost(at);
                }
                self.report_unreachable(at);
            }
        }
        Ok(())
    }

    /// A frame has come: whether its connection is one to a peer. `None` where it is late.
    pub(super) fn is_from_peer(&mut self, connection: ConnectionId) -> Option<bool> {
        match self.peers.hear(connection) {
            Way::Peer => Some(true),
            Way::Nobody => Some(false),
            Way::Late => None,
            Way::Changed(at) => {
                self.peer_changed(at);
                Some(true)
            }
        }
    }

    /// The connection to a peer has taken the place of another.
    fn peer_changed(&mut self, peer: usize) {
        let endpoint = &self.peers.peers[peer].endpoint;
        tracing::info!(node = %endpoint.node, reactor = endpoint.reactor, "peer connected");
        self.peer_lost(peer);
        self.report_unreachable(peer);
    }

    pub(super) fn peer_closed(&mut self, connection: ConnectionId, reason: CloseReason) {
        if let Some(at) = self.peers.closed(connection, reason.is_dead_way(), self.now_ns) {
            let endpoint = &self.peers.peers[at].endpoint;
            tracing::info!(node = %endpoint.node, reactor = endpoint.reactor, "peer disconnected");
            self.peer_lost(at);
            if self.peers.is_connected(at) {
                self.peer_changed(at);
            }
        }
    }

    fn peer_lost(&mut self, peer: usize) {
        for copyset in &mut self.copysets {
            for feed in copyset.feeds.iter_mut().filter(|feed| feed.peer == peer) {
                feed.clear();
            }
        }
    }

    /// What was in flight to the peer is lost, and it may even have lost its tail: every leader
    /// here probes it anew.
    fn report_unreachable(&mut self, peer: usize) {
        for position in 0..self.copysets.len() {
            let copyset = &mut self.copysets[position];
            let there = copyset.places.iter().find(|place| place.peer == Some(peer));
            let Some(replica) = there.map(|place| place.replica) else { continue };
            if copyset.group.is_leader() {
                copyset.group.report_unreachable(replica);
                self.mark_dirty(position as u32);
            }
        }
    }

    /// Sets journal room aside for a raft snapshot, if one is expected.
    fn stage_snapshot(&mut self, position: u32) -> bool {
        let copyset = &self.copysets[position as usize];
        let Some(arrival) = &copyset.arrival else { return true };
        let bytes = arrival.last_part().bytes.len() + SNAPSHOT_OVERHEAD_BYTES;
        self.shards[copyset.shard].stage(bytes, 0)
    }

    /// Takes a raft message of a peer.
    pub(super) fn peer_message(&mut self, connection: ConnectionId, message: &PeerMessage) {
        let Some(position) = self.position(message.copyset) else { return };
        if !self.in_service(position) {
            return;
        }
        if message.kind == PeerMessageKind::Snapshot && !self.stage_snapshot(position) {
            // As if it had been lost: its leader offers it again.
            self.counters.messages_refused += 1;
            return;
        }
        let copyset = &mut self.copysets[position as usize];
        if copyset.peer_of(message.from) != self.peers.by_connection(connection) {
            self.counters.messages_refused += 1;
            return;
        }
        if let Err(refusal) = copyset.group.step(message, self.now_ns) {
            self.counters.messages_refused += 1;
            tracing::debug!(copyset = %message.copyset, from = %message.from, %refusal, "message refused");
        }
        self.mark_ready(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PeerKind;

    fn id(number: u32) -> ConnectionId {
        ConnectionId::new(number, 0)
    }

    fn identity(node: u128) -> Identity {
        Identity { node: Uuid::from_u128(node), kind: PeerKind::Node, endpoint: 0 }
    }

    /// Node `own` with node 5 as its only peer, whose first connection is 1.
    fn peers(own: u128) -> Peers {
        let node = Uuid::from_u128(5);
        let addresses = vec!["tcp://127.0.0.1:1".parse().expect("an address")];
        let endpoints = vec![Endpoint { node, reactor: 0, addresses }];
        let options = PeerOptions { redial_ns: 1 };
        let mut peers = Peers::new((Uuid::from_u128(own), 0), endpoints, 1, options);
        let connected = peers.connected(id(1), identity(5), "tcp", 0);
        assert_eq!(connected, Some((0, Taken::First)));
        assert_eq!(peers.hear(id(1)), Way::Peer);
        peers
    }

    #[test]
    fn who_made_a_connection_takes_it_at_once() {
        let mut peers = peers(1);
        assert_eq!(peers.connected(id(2), identity(5), "tcp", 0), Some((0, Taken::InPlace)));
        assert_eq!(peers.connection(0), Some(id(2)));
        assert_eq!(peers.replaced, [id(1)]);
        assert_eq!((peers.hear(id(2)), peers.hear(id(1))), (Way::Peer, Way::Late));
        assert_eq!(peers.closed(id(1), false, 0), None, "nobody misses it");
        assert_eq!(peers.hear(id(1)), Way::Nobody);
        assert_eq!(peers.closed(id(2), false, 0), Some(0));
        assert_eq!(peers.connection(0), None);
    }

    #[test]
    fn the_other_side_waits_until_it_is_used() {
        let mut peers = peers(9);
        assert_eq!(peers.connected(id(2), identity(5), "tcp", 0), Some((0, Taken::NotYet)));
        assert_eq!((peers.connection(0), peers.hear(id(1))), (Some(id(1)), Way::Peer));
        assert_eq!(peers.hear(id(2)), Way::Changed(0));
        assert_eq!((peers.hear(id(2)), peers.hear(id(1))), (Way::Peer, Way::Late));
        assert!(peers.replaced.is_empty(), "whoever made it ends it");
    }

    #[test]
    fn where_a_way_has_died_the_next_address_is_tried_at_once() {
        let mut peers = peers(1);
        peers.peers[0].endpoint.addresses.push("tcp://127.0.0.1:2".parse().expect("an address"));
        assert_eq!(peers.closed(id(1), true, 100), Some(0));
        assert_eq!((peers.peers[0].next_address, peers.deadline_ns()), (1, 100));
        peers.peers[0].attempt_address = 1;
        peers.peers[0].attempt = Some(id(2));
        peers.connected(id(2), identity(5), "tcp", 100);
        assert_eq!(peers.closed(id(2), true, 200), Some(0));
        assert_eq!((peers.peers[0].next_address, peers.deadline_ns()), (0, 201), "from the first");
    }

    #[test]
    fn one_that_comes_to_nothing_changes_nothing() {
        let mut peers = peers(9);
        peers.connected(id(2), identity(5), "tcp", 0);
        assert_eq!(peers.closed(id(2), false, 0), None);
        assert_eq!((peers.hear(id(2)), peers.hear(id(1))), (Way::Nobody, Way::Peer));
    }

    #[test]
    fn the_newer_one_is_there_when_the_old_one_ends() {
        let mut peers = peers(9);
        peers.connected(id(2), identity(5), "tcp", 0);
        assert_eq!(peers.closed(id(1), false, 0), Some(0));
        assert_eq!((peers.connection(0), peers.hear(id(2))), (Some(id(2)), Way::Peer));
        assert_eq!(peers.hear(id(1)), Way::Nobody);
    }
}
