//! The way back to the preferred address of an endpoint, after another had to do.
//!
//! While a connection over a later address works, the first one is tried now and then, with pauses
//! that double. When a second connection stands, nothing more is sent over the old one; as soon as
//! everything on it is answered, the new one takes its place. So nothing is repeated. Where the old
//! one does not become quiet in time, it stays, and the new one is given up for now.

use super::config::{DRAIN_PATIENCE_NS, RETURN_PAUSE_NS, RETURN_PAUSE_NS_MAX};
use super::connection::violation;
use super::core::Core;
use super::endpoint::{EndpointId, Link};
use super::piece::PieceState;
use crate::network::{ConnectionId, Network, WindowMode};

/// A second connection of an endpoint, over its preferred address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Trial {
    /// There is none.
    #[default]
    None,
    /// Being made.
    Connecting { connection: ConnectionId },
    /// Established; the old one is to become quiet before a time.
    Ready { connection: ConnectionId, until_ns: u64 },
    /// Told to close.
    Closing { connection: ConnectionId },
}

impl Trial {
    /// Whether it is that connection.
    pub(super) fn is(self, other: ConnectionId) -> bool {
        match self {
            Trial::None => false,
            Trial::Connecting { connection }
            | Trial::Ready { connection, .. }
            | Trial::Closing { connection } => connection == other,
        }
    }
}

impl Core {
    /// Tries preferred addresses whose time has come, and moves over where that can be done.
    pub(super) fn step_returns<N: Network>(&mut self, network: &mut N) {
        for id in (0..self.endpoints.len() as u32).map(EndpointId) {
            let now_ns = self.now_ns;
            let endpoint = self.endpoint(id);
            let Link::Up { connection: old } = endpoint.link else { continue };
            match endpoint.trial {
                Trial::None if endpoint.address > 0 && endpoint.return_at_ns <= now_ns => {
                    self.try_preferred(network, id);
                }
                Trial::None if endpoint.address > 0 => {
                    let return_at_ns = endpoint.return_at_ns;
                    self.timer.note(return_at_ns);
                }
                Trial::Ready { connection, until_ns } => {
                    if self.is_quiet(old) {
                        self.move_over(id, old, connection);
                    } else if until_ns <= now_ns {
                        self.end_trial(id, connection);
                    } else {
                        self.timer.note(until_ns);
                    }
                }
                _ => {}
            }
        }
    }

    fn try_preferred<N: Network>(&mut self, network: &mut N, id: EndpointId) {
        let endpoint = &mut self.endpoints[id.0 as usize];
        match network.connect(&endpoint.addresses[0], WindowMode::Named) {
            Ok(connection) => {
                endpoint.trial = Trial::Connecting { connection };
                self.note_connection(connection, id);
            }
            Err(_) => self.trial_failed(id),
        }
    }

    /// The preferred address does not work yet.
    fn trial_failed(&mut self, id: EndpointId) {
        self.statistics.connects_failed += 1;
        let now_ns = self.now_ns;
        let endpoint = self.endpoint(id);
        endpoint.trial = Trial::None;
        endpoint.returns_failed = endpoint.returns_failed.saturating_add(1);
        endpoint.plan_return(now_ns);
        let return_at_ns = endpoint.return_at_ns;
        self.timer.note(return_at_ns);
    }

    /// Whether nothing that was sent over a connection is unanswered.
    fn is_quiet(&self, connection: ConnectionId) -> bool {
        let waits = |index| {
            let piece = &self.pieces[index];
            piece.state == PieceState::InFlight && piece.connection == connection
        };
        !self.pieces.indices().any(waits)
    }

    /// The second connection stands.
    pub(super) fn trial_connected(&mut self, id: EndpointId, connection: ConnectionId) {
        let until_ns = self.now_ns + DRAIN_PATIENCE_NS;
        self.timer.note(until_ns);
        self.endpoint(id).trial = Trial::Ready { connection, until_ns };
    }

    fn move_over(&mut self, id: EndpointId, old: ConnectionId, new: ConnectionId) {
        self.closing.push((old, violation::RETURNED));
        self.take_trial(id, new);
    }

    /// The second connection takes the place of the first.
    fn take_trial(&mut self, id: EndpointId, connection: ConnectionId) {
        let now_ns = self.now_ns;
        let endpoint = self.endpoint(id);
        endpoint.trial = Trial::None;
        endpoint.address = 0;
        endpoint.next_address = 0;
        endpoint.returns_failed = 0;
        endpoint.establish(connection, now_ns);
        self.statistics.connects += 1;
        self.statistics.returns += 1;
    }

    /// Gives the second connection up for now.
    pub(super) fn end_trial(&mut self, id: EndpointId, connection: ConnectionId) {
        self.closing.push((connection, violation::UNWANTED));
        self.endpoint(id).trial = Trial::Closing { connection };
    }

    /// A connection has closed. Returns whether the endpoint has another, so that nothing is to be
    /// done but to forget this one.
    pub(super) fn trial_outlives(&mut self, id: EndpointId, closed: ConnectionId) -> bool {
        let endpoint = self.endpoint(id);
        if endpoint.trial.is(closed) {
            self.trial_failed(id);
            return true;
        }
        match (endpoint.link, endpoint.trial) {
            // The old connection, after the move.
            (Link::Up { connection }, _) if connection != closed => true,
            (_, Trial::Ready { connection, .. }) => {
                self.statistics.disconnects += 1;
                self.take_trial(id, connection);
                true
            }
            (_, Trial::Connecting { connection }) => {
                // The endpoint is connected anew, from its first address on.
                self.end_trial(id, connection);
                false
            }
            _ => false,
        }
    }
}

/// The pause before the next try of a preferred address.
pub(super) fn return_pause_ns(failed: u32) -> u64 {
    RETURN_PAUSE_NS.saturating_mul(1 << failed.min(32)).min(RETURN_PAUSE_NS_MAX)
}
