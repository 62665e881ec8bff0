//! Connections to the reactors of other nodes, and the messages that wait for them.
//!
//! Of two reactors the one with the smaller name connects, so that a pair shares one connection.
//! Addresses are tried in their order of preference, over and over; while another than the first had
//! to do, that is tried again now and then, and the connection over it takes the other's place: what
//! was under way on that is as lost as with any connection, and raft sends it again.
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
use crate::network::{Address, Class, ConnectionId, Identity, Network, SendError, WindowMode};
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
    /// Over what that goes, once it was asked.
    scheme: Option<&'static str>,
    /// Which address that is over, where this side made it.
    address: usize,
    attempt: Option<ConnectionId>,
    attempt_address: usize,
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
                address: 0,
                attempt: None,
                attempt_address: 0,
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
            if let (Some(connection), None) = (peer.connection, peer.scheme) {
                peer.scheme = network.scheme(connection);
            }
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

    /// A connection to or from a node is up. Returns its peer, and the connection it replaces.
    fn connected(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
        now_ns: u64,
    ) -> Option<(usize, Option<ConnectionId>)> {
        let at = self.peers.iter().position(|peer| {
            peer.endpoint.node == identity.node && peer.endpoint.reactor == identity.endpoint
        })?;
        let peer = &mut self.peers[at];
        if peer.attempt == Some(connection) {
            peer.attempt = None;
            peer.address = peer.attempt_address;
            if peer.address == 0 {
                peer.return_pause_ns = RETURN_PAUSE_NS;
            }
            peer.return_at_ns = now_ns + peer.return_pause_ns;
        }
        peer.next_address = 0;
        peer.control.clear();
        peer.data.clear();
        peer.scheme = None;
        let replaced = peer.connection.replace(connection);
        // Whoever made a connection ends it.
        self.replaced.extend(replaced.filter(|_| peer.dials));
        Some((at, replaced))
    }

    fn closed(&mut self, connection: ConnectionId, now_ns: u64) -> Option<usize> {
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if peer.attempt == Some(connection) {
                peer.attempt = None;
            }
            if peer.connection == Some(connection) {
                peer.connection = None;
                peer.scheme = None;
                peer.next_address = 0;
                // A peer that takes connections and closes them again is not asked all the time.
                peer.next_dial_ns = now_ns + self.options.redial_ns;
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
    ) -> Result<(), Offence> {
        let connected = self.peers.connected(connection, identity, self.now_ns);
        let Some((at, replaced)) = connected else {
            return Err(Offence::Stranger(identity));
        };
        tracing::info!(%identity, "peer connected");
        if replaced.is_some() {
            self.peer_lost(at);
        }
        self.report_unreachable(at);
        Ok(())
    }

    pub(super) fn peer_closed(&mut self, connection: ConnectionId) {
        if let Some(at) = self.peers.closed(connection, self.now_ns) {
            let endpoint = &self.peers.peers[at].endpoint;
            tracing::info!(node = %endpoint.node, reactor = endpoint.reactor, "peer disconnected");
            self.peer_lost(at);
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
