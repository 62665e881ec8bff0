//! What follows from an answer, or from its absence: done, failed, or tried again.
//!
//! A change keeps its session and number over all attempts, so that the servers execute it once.
//! What is known of its fate is kept in `maybe_executed`: whether some attempt under this number
//! was sent and not answered by one that says it was not executed.

use culvert_memory::SlotId;

use super::core::Core;
use super::error::{ClientError, Obstacle};
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::route::{Lane, RouteIndex, Session};
use super::submission::lane_of;
use crate::ids::RequestNumber;

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Now,
    AfterPause,
}

impl Core {
    /// Tries a piece again that is in no queue and not in flight.
    pub(super) fn retry(&mut self, index: PieceIndex, again: Again, obstacle: Obstacle) {
        self.pieces[index].obstacle = obstacle;
        match (self.pieces[index].kind, again) {
            (PieceKind::OpenSession, _) => return self.retry_session(index, again),
            (PieceKind::CloseSession, Again::Now) => return self.requeue(index),
            (PieceKind::CloseSession, Again::AfterPause) => return self.pause(index),
            _ => {}
        }
        let id = self.pieces[index].operation.expect("a piece of an operation");
        if self.operations.get(id).expect("it is open").error.is_some() {
            return self.finish(index);
        }
        if self.pieces[index].attempts >= self.settings.attempts_max {
            return self.give_up(index, obstacle);
        }
        match again {
            Again::Now => self.requeue(index),
            Again::AfterPause => self.pause(index),
        }
    }

    /// Puts a piece at the head of its queue: one that has a number must not wait for those that
    /// wait for numbers.
    pub(super) fn requeue(&mut self, index: PieceIndex) {
        self.stand_down(index);
        let piece = &mut self.pieces[index];
        piece.state = PieceState::Queued;
        let (route, lane) = (piece.route, lane_of(piece.kind));
        let queue = &mut self.routes[route.0 as usize].queues[lane as usize];
        self.pieces.push_front(queue, index);
        self.list(route, lane);
    }

    fn pause(&mut self, index: PieceIndex) {
        let piece = &mut self.pieces[index];
        piece.state = PieceState::Paused;
        piece.timer_ns = self.now_ns + self.pauses.length_ns(piece.pauses);
        piece.pauses += 1;
        self.timer.note(piece.timer_ns);
        self.go_ahead(index);
    }

    fn retry_session(&mut self, index: PieceIndex, again: Again) {
        let route = self.pieces[index].route;
        if self.route(route).queues[Lane::Changes as usize].is_empty() {
            self.close_session(route, index);
        } else if again == Again::Now {
            self.resume_session(index);
        } else {
            self.pause(index);
        }
    }

    /// Lets the session be opened again by whatever waits for it.
    pub(super) fn resume_session(&mut self, index: PieceIndex) {
        self.stand_down(index);
        self.pieces[index].state = PieceState::Free;
        let route = self.pieces[index].route;
        self.route(route).session = Session::None;
        self.list(route, Lane::Changes);
    }

    fn close_session(&mut self, route: RouteIndex, index: PieceIndex) {
        self.stand_down(index);
        self.pieces[index].reset(PieceKind::OpenSession, route);
        self.pieces[index].state = PieceState::Free;
        self.route(route).session = Session::None;
    }

    /// The request on its way is answered "done" for `piece.sent` blocks: the rest of the piece
    /// follows under a new number.
    pub(super) fn advance(&mut self, index: PieceIndex) {
        self.settle_number(index);
        let piece = &mut self.pieces[index];
        piece.done += piece.sent;
        piece.sent = 0;
        piece.maybe_executed = false;
        piece.attempts = 0;
        piece.hints = 0;
        piece.pauses = 0;
        piece.damaged = 0;
        let id = piece.operation.expect("a piece of an operation");
        let (effect, over) = (piece.has_effect(), piece.blocks_left() == 0);
        let slot = self.operations.get_mut(id).expect("it is open");
        slot.executed |= effect;
        if over || slot.error.is_some() {
            self.finish(index);
        } else {
            self.requeue(index);
        }
    }

    /// Ends a piece that is in no queue and not in flight; its operation with it, if it is the
    /// last.
    fn finish(&mut self, index: PieceIndex) {
        self.settle_number(index);
        self.stand_down(index);
        let piece = &mut self.pieces[index];
        debug_assert!(!matches!(piece.state, PieceState::Free | PieceState::Done));
        piece.state = PieceState::Done;
        piece.pages = None;
        let id = piece.operation.expect("a piece of an operation");
        let slot = self.operations.get_mut(id).expect("it is open");
        slot.open -= 1;
        if slot.open == 0 {
            self.finished.push(id);
        }
    }

    /// The number of a piece is not used again.
    fn settle_number(&mut self, index: PieceIndex) {
        let piece = &mut self.pieces[index];
        let number = std::mem::take(&mut piece.number);
        let (index, session) = (piece.route, piece.session);
        let route = self.route(index);
        if number != RequestNumber(0) && route.session == Session::Open(session) {
            route.numbers.settle(number);
            self.list(index, Lane::Changes);
        }
    }

    /// Fails a piece that is in no queue and not in flight, and with it its operation.
    pub(super) fn fail(&mut self, index: PieceIndex, error: ClientError) {
        match self.pieces[index].operation {
            Some(id) => {
                self.finish(index);
                self.fail_operation(id, error);
            }
            None if self.pieces[index].kind == PieceKind::CloseSession => self.session_ended(index),
            None => self.fail_session(index, error),
        }
    }

    /// No session can be had: that is the fate of all that wait for it.
    fn fail_session(&mut self, index: PieceIndex, error: ClientError) {
        let route = self.pieces[index].route;
        self.close_session(route, index);
        while let Some(waiting) = self.route(route).queues[Lane::Changes as usize].first() {
            self.unqueue(waiting);
            self.fail(waiting, error);
        }
    }

    /// Notes an operation's failure and ends those of its pieces that are not in flight.
    fn fail_operation(&mut self, id: SlotId, error: ClientError) {
        let slot = self.operations.get_mut(id).expect("it is not reported yet");
        match slot.error {
            // Whatever else went wrong, a change that may have happened is what must be told.
            Some(_) if error != ClientError::OutcomeUnknown => {}
            _ => slot.error = Some(error),
        }
        let mut next = slot.first;
        while let Some(index) = next {
            next = self.pieces[index].sibling;
            match self.pieces[index].state {
                PieceState::Queued => {
                    self.unqueue(index);
                    self.finish(index);
                }
                PieceState::Paused => self.finish(index),
                PieceState::Free | PieceState::Fresh | PieceState::InFlight | PieceState::Done => {}
            }
        }
    }

    /// Takes a piece out of its queue.
    pub(super) fn unqueue(&mut self, index: PieceIndex) {
        let (route, lane) = (self.pieces[index].route, lane_of(self.pieces[index].kind));
        let queue = &mut self.routes[route.0 as usize].queues[lane as usize];
        self.pieces.remove(queue, index);
    }

    /// Time or attempts of a piece are used up; it is in no queue and not in flight.
    pub(super) fn give_up(&mut self, index: PieceIndex, obstacle: Obstacle) {
        let piece = &self.pieces[index];
        let unknown = piece.has_effect() && piece.maybe_executed;
        let error = match (unknown, obstacle) {
            (true, _) => ClientError::OutcomeUnknown,
            (false, Obstacle::Media) => ClientError::Media,
            (false, _) => ClientError::TimedOut(obstacle),
        };
        self.fail(index, error);
    }
}
