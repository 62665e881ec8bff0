//! Making and losing connections.
//!
//! Addresses are tried in order of preference; when all have failed the endpoint rests, longer
//! each time. What waited for it goes to the next replica, which either leads by now or knows who
//! does.

use super::config::LEADER_PATIENCE_NS;
use super::core::Core;
use super::endpoint::{EndpointId, Link};
use super::error::Obstacle;
use super::outcome::Again;
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::returning::Trial;
use super::route::{LANES, RouteIndex};
use crate::network::{CloseReason, ConnectionId, Identity, Network, WindowMode};

/// Why this side closes a connection.
pub(super) mod violation {
    pub(in super::super) const STRANGER: &str = "the peer is not who the cluster file says";
    pub(in super::super) const BAD_FRAME: &str = "the peer sent what is no reply";
    pub(in super::super) const FRAME_LIMIT: &str = "the peer takes too short frames";
    pub(in super::super) const SILENT: &str = "the peer has not answered for too long";
    pub(in super::super) const QUARANTINE: &str = "pages of reads that were given up are needed";
    pub(in super::super) const RETURNED: &str = "the preferred address works again";
    pub(in super::super) const UNWANTED: &str = "the connection belongs to no endpoint";
}

impl Core {
    /// Tries the endpoint's addresses from the next one on.
    pub(super) fn connect<N: Network>(&mut self, network: &mut N, id: EndpointId) {
        self.timer.note(self.now_ns + LEADER_PATIENCE_NS);
        self.endpoint(id).connecting_ns = self.now_ns;
        loop {
            let endpoint = &mut self.endpoints[id.0 as usize];
            let Some(address) = endpoint.addresses.get(endpoint.next_address) else {
                return self.rest(id);
            };
            match network.connect(address, WindowMode::Named) {
                Ok(connection) => {
                    endpoint.address = endpoint.next_address;
                    endpoint.link = Link::Connecting { connection };
                    return self.note_connection(connection, id);
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "cannot connect");
                    self.statistics.connects_failed += 1;
                    endpoint.next_address += 1;
                }
            }
        }
    }

    pub(super) fn note_connection(&mut self, connection: ConnectionId, id: EndpointId) {
        let slot = connection.slot() as usize;
        if self.connections.len() <= slot {
            self.connections.resize(slot + 1, None);
        }
        let before = self.connections[slot].replace((connection, id));
        // A connection that was closed leaves its slot at once, and is heard of once more.
        self.replaced.extend(before);
    }

    /// The endpoint of a connection of ours.
    pub(super) fn endpoint_of(&self, connection: ConnectionId) -> Option<EndpointId> {
        let entry = self.connections.get(connection.slot() as usize)?;
        let mut entries = entry.iter().chain(&self.replaced);
        entries.find(|(known, _)| *known == connection).map(|(_, id)| *id)
    }

    fn forget_connection(&mut self, connection: ConnectionId) {
        self.connections[connection.slot() as usize].take_if(|(known, _)| *known == connection);
        self.replaced.retain(|(known, _)| *known != connection);
    }

    /// None of the addresses can be reached: later again, and elsewhere for now.
    fn rest(&mut self, id: EndpointId) {
        let pause_ns = self.pauses.length_ns(self.endpoints[id.0 as usize].failures);
        let until_ns = self.now_ns + pause_ns;
        let endpoint = self.endpoint(id);
        endpoint.failures = endpoint.failures.saturating_add(1);
        endpoint.next_address = 0;
        endpoint.questions.clear();
        endpoint.link = Link::Down { until_ns };
        self.timer.note(until_ns);
        self.leave_endpoint(id);
    }

    /// What waits for this endpoint asks the next replica.
    fn leave_endpoint(&mut self, id: EndpointId) {
        for index in (0..self.routes.len() as u32).map(RouteIndex) {
            let route = self.route(index);
            let waits = LANES.iter().any(|lane| route.listed[*lane as usize]);
            if waits && route.endpoint() == id {
                let following = route.following();
                self.turn(index, following);
            }
        }
    }

    pub(super) fn on_connected(&mut self, connection: ConnectionId, peer: &Identity) {
        let now_ns = self.now_ns;
        let Some(id) = self.endpoint_of(connection) else {
            return self.closing.push((connection, violation::UNWANTED));
        };
        if !self.endpoint(id).is(peer) {
            tracing::warn!(%peer, "a stranger at a node's address");
            return self.close(connection, violation::STRANGER);
        }
        if self.endpoint(id).trial.is(connection) {
            return self.trial_connected(id, connection);
        }
        self.endpoint(id).establish(connection, now_ns);
        self.endpoint(id).plan_return(now_ns);
        self.statistics.connects += 1;
    }

    pub(super) fn on_writable(&mut self, connection: ConnectionId) {
        if let Some(id) = self.endpoint_of(connection) {
            self.endpoint(id).unblock();
        }
    }

    /// Has the network close a connection; what it carried follows when it says that it did.
    pub(super) fn close(&mut self, connection: ConnectionId, reason: &'static str) {
        let Some(id) = self.endpoint_of(connection) else { return };
        if self.endpoint(id).trial.is(connection) {
            self.closing.push((connection, reason));
            self.endpoint(id).trial = Trial::Closing { connection };
            return;
        }
        if self.endpoint(id).link != (Link::Closing { connection }) {
            self.endpoint(id).link = Link::Closing { connection };
            self.closing.push((connection, reason));
        }
    }

    /// Closes what was found to be closed in this turn.
    pub(super) fn close_connections<N: Network>(&mut self, network: &mut N) {
        for (connection, reason) in self.closing.drain(..) {
            network.close(connection, reason);
        }
    }

    pub(super) fn on_closed(&mut self, connection: ConnectionId, reason: CloseReason) {
        let Some(id) = self.endpoint_of(connection) else { return };
        tracing::debug!(%connection, %reason, "connection closed");
        self.forget_connection(connection);
        self.quarantine.release_connection(connection);
        self.interrupt_status(connection);
        for index in self.pieces.indices() {
            let piece = &self.pieces[index];
            if piece.state == PieceState::InFlight && piece.connection == connection {
                self.interrupted(index);
            }
        }
        if self.trial_outlives(id, connection) {
            return;
        }
        debug_assert_eq!(self.endpoint(id).reads_in_flight, 0);
        self.after_close(id, reason.is_dead_way());
    }

    /// Decides when the endpoint is tried again; `dead_way`: elsewhere than at the address that it had.
    fn after_close(&mut self, id: EndpointId, dead_way: bool) {
        let now_ns = self.now_ns;
        let endpoint = self.endpoint(id);
        let established = std::mem::take(&mut endpoint.established);
        let heard = std::mem::take(&mut endpoint.heard);
        let elsewhere = endpoint.address + 1;
        if heard && dead_way && elsewhere < endpoint.addresses.len() {
            endpoint.next_address = elsewhere;
        } else if heard {
            endpoint.next_address = 0;
        } else {
            endpoint.next_address += 1;
        }
        let exhausted = endpoint.next_address >= endpoint.addresses.len();
        endpoint.link = Link::Down { until_ns: now_ns };
        if established {
            self.statistics.disconnects += 1;
        } else {
            self.statistics.connects_failed += 1;
        }
        if exhausted {
            self.rest(id);
        } else if established {
            self.leave_endpoint(id);
        }
    }

    /// The connection was lost with a piece on its way.
    fn interrupted(&mut self, index: PieceIndex) {
        self.leave_flight(index);
        let piece = &mut self.pieces[index];
        piece.landing = None;
        piece.maybe_executed |= piece.has_effect();
        let again =
            if piece.kind == PieceKind::OpenSession { Again::AfterPause } else { Again::Now };
        self.retry(index, again, Obstacle::Connection);
    }

    /// A piece is no longer on its way; its landing pages are the caller's concern.
    pub(super) fn leave_flight(&mut self, index: PieceIndex) {
        let piece = &self.pieces[index];
        debug_assert_eq!(piece.state, PieceState::InFlight);
        if piece.kind == PieceKind::Read {
            let (route, replica) = (piece.route, piece.replica);
            let id = self.route(route).endpoint_of(replica);
            self.endpoint(id).reads_in_flight -= 1;
        }
    }
}
