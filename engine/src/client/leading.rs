//! Asking who leads, while a leader does not answer.
//!
//! A leader that is stopped keeps its connections and says nothing. A request that has waited for a
//! while, or has had no room on its connection for as long, makes the client ask the other replicas of
//! the copyset who leads. Only when one of them names another replica is the request sent there, under
//! its number, so that it is executed once. Who names an older term than one heard of before is behind,
//! and not believed.

use super::config::{LEADER_ASKED_AGAIN_NS, LEADER_PATIENCE_NS};
use super::core::Core;
use super::endpoint::{EndpointId, Link};
use super::error::Obstacle;
use super::outcome::Again;
use super::piece::{PieceIndex, PieceState};
use super::route::RouteIndex;
use super::submission::lane_of;
use crate::ids::{BlockRange, ChunkId, Epoch, ReplicaId, RequestNumber, SessionId};
use crate::network::{Class, ConnectionId, Network, SendError};
use crate::wire::{Reply, ReplyStatus, Request, RequestKind};

/// The index in the tokens of these questions; the other half is the route's.
pub(super) const LEADER_INDEX: u32 = u32::MAX - 1;

impl Core {
    /// When the leader of a waiting piece's copyset is to be asked for, and whether that is now.
    pub(super) fn ask_if_late(&mut self, index: PieceIndex) {
        let Some(late_ns) = self.late_ns(index) else { return };
        let route = self.pieces[index].route;
        if late_ns > self.now_ns {
            return self.timer.note(late_ns);
        }
        if self.route(route).ask_at_ns <= self.now_ns {
            self.ask(route);
        }
        let ask_at_ns = self.route(route).ask_at_ns;
        self.timer.note(ask_at_ns);
    }

    /// From when on a piece has waited too long for the replica that is asked.
    fn late_ns(&mut self, index: PieceIndex) -> Option<u64> {
        let piece = &self.pieces[index];
        let lane = lane_of(piece.kind);
        let since_ns = match piece.state {
            PieceState::InFlight => piece.sent_ns,
            PieceState::Queued => {
                let id = self.routes[piece.route.0 as usize].endpoint();
                let endpoint = self.endpoint(id);
                match endpoint.link {
                    Link::Connecting { .. } => endpoint.connecting_ns,
                    // A leader that hears nothing of the others keeps the pages of what they do not
                    // confirm.
                    Link::Up { .. } => endpoint.cramped_ns[lane as usize]?,
                    Link::Down { .. } | Link::Closing { .. } => return None,
                }
            }
            _ => return None,
        };
        Some(since_ns.saturating_add(LEADER_PATIENCE_NS))
    }

    /// Asks every replica but the one whose answer is awaited.
    fn ask(&mut self, index: RouteIndex) {
        let now_ns = self.now_ns;
        let route = &mut self.routes[index.0 as usize];
        route.ask_at_ns = now_ns + LEADER_ASKED_AGAIN_NS;
        let current = route.endpoint();
        for id in route.endpoints().filter(|id| *id != current) {
            let endpoint = &mut self.endpoints[id.0 as usize];
            if endpoint.is_usable(now_ns) && !endpoint.questions.contains(&index) {
                endpoint.questions.push(index);
            }
        }
    }

    /// Sends the questions to an endpoint, as far as there is room.
    pub(super) fn dispatch_questions<N: Network>(
        &mut self,
        network: &mut N,
        id: EndpointId,
        connection: ConnectionId,
    ) {
        while let Some(&route) = self.endpoint(id).questions.last() {
            let request = Request {
                kind: RequestKind::Leader,
                token: u64::from(route.0) << 32 | u64::from(LEADER_INDEX),
                copyset: self.route(route).copyset,
                chunk: ChunkId(0),
                range: BlockRange::default(),
                landing_page: 0,
                epoch: Epoch(0),
                session: SessionId(0),
                request: RequestNumber(0),
                sequence: 0,
                crcs: &[],
            };
            let frame = request.emit(&mut self.frame[..]);
            // After any other error it is asked again soon, where that is of use.
            if network.send(connection, Class::Data, frame, &[]) == Err(SendError::Full) {
                return;
            }
            self.endpoint(id).questions.pop();
            self.statistics.requests += 1;
            self.statistics.leaders_asked += 1;
        }
    }

    /// A replica says who leads.
    pub(super) fn on_leader_reply(&mut self, number: u32, reply: &Reply<'_>) {
        let index = RouteIndex(number);
        let Some(route) = self.routes.get_mut(number as usize) else { return };
        let term = reply.index;
        if reply.status != ReplyStatus::Ok || term < route.term {
            return;
        }
        // One that stands for election names nobody, in a term that may lead nowhere.
        let Some((leader, id)) = route.find(ReplicaId(reply.value)) else { return };
        route.term = term;
        if route.current() != leader {
            let now_ns = self.now_ns;
            if !self.endpoint(id).is_usable(now_ns) {
                return;
            }
            self.turn(index, leader);
        }
        self.send_again(index, leader);
    }

    /// Sends what waits for another replica to the leader.
    fn send_again(&mut self, route: RouteIndex, leader: u8) {
        for index in self.pieces.indices() {
            let piece = &self.pieces[index];
            let elsewhere = piece.route == route && piece.replica != leader;
            let late = piece.sent_ns.saturating_add(LEADER_PATIENCE_NS) <= self.now_ns;
            if piece.state != PieceState::InFlight || !elsewhere || !late {
                continue;
            }
            self.statistics.deserted += 1;
            if self.withdraw(index) {
                self.retry(index, Again::Now, Obstacle::Answer);
            }
        }
    }
}
