//! The end of a client: its sessions are closed, so that servers need not keep their windows until
//! they expire.
//!
//! A session is closed when nothing of it is on its way any more, and by one try per leader that is
//! known: one that cannot be closed in time expires.

use super::core::Core;
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::route::{Lane, Route, RouteIndex, Session};

impl Core {
    /// Takes nothing any more, and ends the sessions as soon as nothing is in flight.
    pub(super) fn end(&mut self, deadline_ns: u64) {
        if !self.ends {
            self.ends = true;
            self.end_by_ns = Some(deadline_ns);
        }
        self.end_when_idle();
    }

    /// Ends the sessions, if that is due.
    pub(super) fn end_when_idle(&mut self) {
        if self.operations.is_empty()
            && let Some(deadline_ns) = self.end_by_ns.take()
        {
            self.end_sessions(deadline_ns);
        }
    }

    /// Whether nothing is left to be done before the client is closed.
    pub(super) fn has_ended(&self) -> bool {
        let open = |route: &Route| matches!(route.session, Session::Open(_));
        self.ends && self.end_by_ns.is_none() && !self.routes.iter().any(open)
    }

    /// Asks for the end of every open session.
    fn end_sessions(&mut self, deadline_ns: u64) {
        for route in (0..self.routes.len() as u32).map(RouteIndex) {
            let Session::Open(session) = self.route(route).session else { continue };
            let index = self.pieces.of_route(route);
            let piece = &mut self.pieces[index];
            piece.reset(PieceKind::CloseSession, route);
            piece.session = session;
            piece.deadline_ns = deadline_ns;
            piece.state = PieceState::Queued;
            let queue = &mut self.routes[route.0 as usize].queues[Lane::Changes as usize];
            self.pieces.push_back(queue, index);
            self.list(route, Lane::Changes);
        }
        self.timer.note(deadline_ns);
    }

    /// A session is closed, or given up.
    pub(super) fn session_ended(&mut self, index: PieceIndex) {
        self.stand_down(index);
        let route = self.pieces[index].route;
        self.pieces[index].reset(PieceKind::OpenSession, route);
        self.pieces[index].state = PieceState::Free;
        self.route(route).session = Session::None;
    }
}
