//! The end of a client: its sessions are closed, so that servers need not keep their windows until
//! they expire.
//!
//! A session is closed when nothing of it is on its way any more, and by one try per leader that is
//! known: one that cannot be closed in time expires.

use super::core::Core;
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::route::{Lane, RouteIndex, Session};

impl Core {
    /// Asks for the end of every open session. Nothing is in flight, and nothing is taken any more.
    pub(super) fn end_sessions(&mut self, deadline_ns: u64) {
        debug_assert!(self.operations.is_empty());
        self.ends = true;
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

    /// Whether some session is open or on its way to its end.
    pub(super) fn has_sessions(&self) -> bool {
        self.routes.iter().any(|route| matches!(route.session, Session::Open(_)))
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
