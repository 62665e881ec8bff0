//! Sending what waits: per endpoint and lane, route by route, until there is no more room.

use super::config::LEADER_PATIENCE_NS;
use super::connection::violation;
use super::core::Core;
use super::endpoint::{EndpointId, Link};
use super::error::{ClientError, Obstacle};
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::returning::Trial;
use super::route::{LANES, Lane, RouteIndex, Session};
use crate::ids::{BlockRange, ChunkId, RequestNumber, SessionId};
use crate::network::{Class, ConnectionId, Network, SendError};
use crate::wire::{Request, RequestKind};

/// What became of the first piece of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is sent or over: go on with the next.
    Next,
    /// The lane waits for something else than room, and is listed again when that is there.
    Unlist,
    /// There is no room on the connection.
    Blocked,
}

impl Core {
    /// Sends what can be sent; returns whether anything was.
    pub(super) fn dispatch<N: Network>(&mut self, network: &mut N) -> bool {
        let before = self.statistics.requests;
        self.step_returns(network);
        for index in 0..self.endpoints.len() as u32 {
            let id = EndpointId(index);
            if !self.endpoint(id).has_work() {
                continue;
            }
            let link = self.endpoint(id).link;
            match link {
                // What is sent over the old connection would keep it from becoming quiet.
                Link::Up { .. } if matches!(self.endpoint(id).trial, Trial::Ready { .. }) => {}
                Link::Up { connection } => self.dispatch_endpoint(network, id, connection),
                Link::Down { until_ns } if until_ns <= self.now_ns => self.connect(network, id),
                Link::Down { until_ns } => self.timer.note(until_ns),
                Link::Connecting { .. } | Link::Closing { .. } => {}
            }
        }
        self.statistics.requests != before
    }

    fn dispatch_endpoint<N: Network>(
        &mut self,
        network: &mut N,
        id: EndpointId,
        connection: ConnectionId,
    ) {
        if std::mem::take(&mut self.endpoint(id).landing_short) {
            self.endpoint(id).blocked[Lane::Reads as usize] = false;
        }
        self.dispatch_status(network, id, connection);
        self.dispatch_questions(network, id, connection);
        for lane in LANES {
            while !self.endpoint(id).blocked[lane as usize] {
                let Some(route) = self.endpoint(id).ready[lane as usize].pop_front() else { break };
                let step = match lane {
                    Lane::Reads => self.step_read(network, connection, route),
                    Lane::Changes => self.step_change(network, connection, route),
                };
                self.settle_step(id, lane, route, step);
            }
        }
    }

    /// Puts a route back in the list, behind the others if one of its pieces has gone.
    fn settle_step(&mut self, id: EndpointId, lane: Lane, route: RouteIndex, step: Step) {
        let waiting = !self.route(route).queues[lane as usize].is_empty();
        let listed = waiting && step != Step::Unlist;
        self.route(route).listed[lane as usize] = listed;
        let now_ns = self.now_ns;
        let endpoint = &mut self.endpoints[id.0 as usize];
        match step {
            Step::Next => endpoint.cramped_ns[lane as usize] = None,
            Step::Unlist => {}
            Step::Blocked => {
                endpoint.blocked[lane as usize] = true;
                endpoint.cramped_ns[lane as usize].get_or_insert(now_ns);
                self.timer.note(now_ns + LEADER_PATIENCE_NS);
            }
        }
        if listed && step == Step::Blocked {
            endpoint.ready[lane as usize].push_front(route);
        } else if listed {
            endpoint.ready[lane as usize].push_back(route);
        }
    }

    fn step_read<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        route: RouteIndex,
    ) -> Step {
        let Some(index) = self.route(route).queues[Lane::Reads as usize].first() else {
            return Step::Unlist;
        };
        if self.is_held_back(index, route) {
            return Step::Unlist;
        }
        if self.pieces[index].kind == PieceKind::Fence {
            self.prepare(index, connection);
            let request = self.request(index, RequestKind::Fence, 0);
            let sent =
                network.send(connection, Class::Data, request.emit(&mut self.frame[..]), &[]);
            return self.departed(index, connection, sent);
        }
        let endpoint = self.route(route).endpoint();
        let Some(landing) = self.landing_pages(network, endpoint, connection, index) else {
            self.endpoint(endpoint).landing_short = true;
            return Step::Blocked;
        };
        let Some(page) = network.named_page(connection, &landing) else {
            return Step::Blocked;
        };
        self.pieces[index].sent = landing.pages();
        self.prepare(index, connection);
        let request = self.request(index, RequestKind::Read, page);
        let sent = network.send(connection, Class::Data, request.emit(&mut self.frame[..]), &[]);
        match sent {
            Ok(()) => {
                self.pieces[index].landing = Some(landing);
                self.endpoint(endpoint).reads_in_flight += 1;
                self.depart(index);
                Step::Next
            }
            Err(error) => self.refused(connection, error),
        }
    }

    fn step_change<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        route: RouteIndex,
    ) -> Step {
        let Some(index) = self.route(route).queues[Lane::Changes as usize].first() else {
            return Step::Unlist;
        };
        if self.is_held_back(index, route) {
            return Step::Unlist;
        }
        if self.pieces[index].kind == PieceKind::CloseSession {
            self.prepare(index, connection);
            let request = self.request(index, RequestKind::CloseSession, 0);
            let sent =
                network.send(connection, Class::Data, request.emit(&mut self.frame[..]), &[]);
            return self.departed(index, connection, sent);
        }
        let session = match self.route(route).session {
            Session::Open(session) => session,
            Session::Opening => return Step::Unlist,
            Session::None => return self.step_session(network, connection, route),
        };
        let piece = &mut self.pieces[index];
        if piece.number != RequestNumber(0) && piece.session != session {
            if piece.maybe_executed {
                self.unqueue(index);
                self.fail(index, ClientError::OutcomeUnknown);
                return Step::Next;
            }
            piece.number = RequestNumber(0);
        }
        if piece.number == RequestNumber(0) && self.route(route).numbers.is_exhausted() {
            return Step::Unlist;
        }
        if self.pieces[index].kind == PieceKind::Write {
            self.step_write(network, connection, index, session)
        } else {
            self.pieces[index].sent = self.pieces[index].blocks_left();
            self.take_number(index, session);
            self.prepare(index, connection);
            let kind = match self.pieces[index].kind {
                PieceKind::Delete => RequestKind::Delete,
                _ => RequestKind::Discard,
            };
            let request = self.request(index, kind, 0);
            let sent =
                network.send(connection, Class::Data, request.emit(&mut self.frame[..]), &[]);
            self.departed(index, connection, sent)
        }
    }

    fn step_write<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        index: PieceIndex,
        session: SessionId,
    ) -> Step {
        let blocks = self.write_blocks(network, connection, index);
        let Some(placement) = network.reserve(connection, blocks) else {
            return Step::Blocked;
        };
        self.pieces[index].sent = blocks;
        self.take_number(index, session);
        self.prepare(index, connection);
        let piece = &self.pieces[index];
        let pages = piece.pages.as_ref().expect("a write has pages until it is over");
        let payload = [(placement, pages.slice(piece.done, blocks))];
        let first = piece.done as usize;
        let crcs = piece.crcs[first..first + blocks as usize].as_flattened();
        let request = Request { crcs, ..self.request(index, RequestKind::Write, 0) };
        let frame = request.emit(&mut self.frame[..]);
        let sent = network.send(connection, Class::Data, frame, &payload);
        if sent.is_err() {
            network.cancel(connection, placement);
        }
        self.departed(index, connection, sent)
    }

    /// Blocks of the next request of a write: at most half of the window, so that one request
    /// can be on its way while another is executed.
    ///
    /// A request that may have been executed is repeated as it was.
    fn write_blocks<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        index: PieceIndex,
    ) -> u32 {
        let piece = &self.pieces[index];
        if piece.maybe_executed {
            return piece.sent;
        }
        let left = piece.blocks_left();
        let half = (network.window_pages_granted(connection) / 2).max(1);
        if left > half {
            // More than the window has: refused for certain, and thereby a wish for a larger one.
            if let Some(placement) = network.reserve(connection, 2 * left) {
                network.cancel(connection, placement);
            }
        }
        left.min(half)
    }

    /// Opens the session that the route's changes wait for.
    fn step_session<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        route: RouteIndex,
    ) -> Step {
        let index = self.pieces.of_route(route);
        let piece = &mut self.pieces[index];
        debug_assert_eq!(piece.state, PieceState::Free);
        piece.kind = PieceKind::OpenSession;
        piece.route = route;
        self.prepare(index, connection);
        let request = self.request(index, RequestKind::OpenSession, 0);
        let sent = network.send(connection, Class::Data, request.emit(&mut self.frame[..]), &[]);
        match sent {
            Ok(()) => {
                self.route(route).session = Session::Opening;
                self.note_attempt(index);
                Step::Unlist
            }
            Err(error) => self.refused(connection, error),
        }
    }

    fn take_number(&mut self, index: PieceIndex, session: SessionId) {
        if self.pieces[index].number == RequestNumber(0) {
            let route = self.pieces[index].route;
            let number = self.route(route).numbers.take().expect("looked at before");
            let piece = &mut self.pieces[index];
            piece.number = number;
            piece.session = session;
        }
    }

    /// Notes where the next attempt goes, before its frame is written.
    fn prepare(&mut self, index: PieceIndex, connection: ConnectionId) {
        let nonce = self.next_nonce();
        let route = self.pieces[index].route;
        let replica = self.route(route).current();
        let piece = &mut self.pieces[index];
        piece.nonce = nonce;
        piece.connection = connection;
        piece.replica = replica;
    }

    fn request(&self, index: PieceIndex, kind: RequestKind, landing_page: u32) -> Request<'static> {
        let piece = &self.pieces[index];
        let closes = piece.kind == PieceKind::CloseSession;
        let no_chunk = closes || matches!(piece.kind, PieceKind::OpenSession | PieceKind::Fence);
        let no_range = no_chunk || piece.kind == PieceKind::Delete;
        let range = BlockRange { first: piece.range.first + piece.done, blocks: piece.sent };
        Request {
            kind,
            token: u64::from(piece.nonce) << 32 | u64::from(index.0),
            copyset: self.routes[piece.route.0 as usize].copyset,
            chunk: if no_chunk { ChunkId(0) } else { piece.chunk },
            range: if no_range { BlockRange::default() } else { range },
            landing_page,
            epoch: if kind == RequestKind::Fence { piece.epoch } else { self.settings.epoch },
            session: if piece.is_change() || closes { piece.session } else { SessionId(0) },
            request: if piece.is_change() { piece.number } else { RequestNumber(0) },
            sequence: 0,
            crcs: &[],
        }
    }

    fn departed(
        &mut self,
        index: PieceIndex,
        connection: ConnectionId,
        sent: Result<(), SendError>,
    ) -> Step {
        match sent {
            Ok(()) => {
                self.depart(index);
                Step::Next
            }
            Err(error) => self.refused(connection, error),
        }
    }

    /// The first piece of a queue is on its way.
    fn depart(&mut self, index: PieceIndex) {
        self.unqueue(index);
        self.note_attempt(index);
    }

    fn note_attempt(&mut self, index: PieceIndex) {
        let timer_ns = self.now_ns + self.settings.attempt_timeout_ns;
        let piece = &mut self.pieces[index];
        piece.state = PieceState::InFlight;
        piece.attempts = piece.attempts.saturating_add(1);
        piece.obstacle = Obstacle::Answer;
        piece.timer_ns = timer_ns;
        piece.sent_ns = self.now_ns;
        self.statistics.requests += 1;
        self.statistics.retries += u64::from(piece.attempts > 1);
        self.go_ahead(index);
        self.timer.note(timer_ns.min(self.now_ns + LEADER_PATIENCE_NS));
    }

    fn refused(&mut self, connection: ConnectionId, error: SendError) -> Step {
        match error {
            // What follows is told by an event.
            SendError::Full | SendError::Closed => {}
            SendError::TooLarge | SendError::OutsideWindow => {
                self.close(connection, violation::FRAME_LIMIT);
            }
        }
        Step::Blocked
    }

    /// What a piece in a queue waits for.
    pub(super) fn obstacle_of(&mut self, index: PieceIndex) -> Obstacle {
        let route = self.pieces[index].route;
        let change = self.pieces[index].is_change();
        let endpoint = self.route(route).endpoint();
        if !matches!(self.endpoint(endpoint).link, Link::Up { .. }) {
            Obstacle::Connection
        } else if !change {
            let short = self.endpoint(endpoint).landing_short;
            if short { Obstacle::LandingPages } else { Obstacle::Room }
        } else if !matches!(self.route(route).session, Session::Open(_)) {
            Obstacle::Session
        } else if self.route(route).numbers.is_exhausted() {
            Obstacle::Numbers
        } else {
            Obstacle::Room
        }
    }
}
