//! Timers: attempts that were not answered, pauses that are over, operations whose time is up.
//!
//! There is one time at which something may be due. Only then all pieces are looked at, which
//! in steady state is a few times a second.

use super::connection::violation;
use super::core::{Core, Earliest};
use super::endpoint::Link;
use super::error::Obstacle;
use super::outcome::Again;
use super::piece::{PieceIndex, PieceKind, PieceState};

impl Core {
    /// Does what is due.
    pub(super) fn expire(&mut self) {
        if self.now_ns < self.timer.0 {
            return;
        }
        self.timer = Earliest(u64::MAX);
        for index in self.pieces.indices() {
            let piece = &self.pieces[index];
            if matches!(piece.state, PieceState::Free | PieceState::Fresh | PieceState::Done) {
                continue;
            }
            let (over, due) = (piece.deadline_ns <= self.now_ns, piece.timer_ns <= self.now_ns);
            match piece.state {
                _ if over => self.time_up(index),
                PieceState::InFlight if due => self.unanswered(index),
                PieceState::Paused if due => self.resume(index),
                _ => {}
            }
            self.ask_if_late(index);
            self.note_timer(index);
        }
        self.expire_status();
    }

    fn note_timer(&mut self, index: PieceIndex) {
        let piece = &self.pieces[index];
        match piece.state {
            PieceState::InFlight | PieceState::Paused => {
                self.timer.note(piece.timer_ns.min(piece.deadline_ns));
            }
            PieceState::Queued => self.timer.note(piece.deadline_ns),
            PieceState::Free | PieceState::Fresh | PieceState::Done => {}
        }
    }

    fn resume(&mut self, index: PieceIndex) {
        if self.pieces[index].kind == PieceKind::OpenSession {
            self.resume_session(index);
        } else {
            self.requeue(index);
        }
    }

    /// An attempt is not answered in time: another replica is asked, and a connection from which
    /// nothing at all came for as long is given up.
    fn unanswered(&mut self, index: PieceIndex) {
        if self.is_silent(index) {
            return;
        }
        self.statistics.timeouts += 1;
        if !self.withdraw(index) {
            return;
        }
        let (route, replica) = (self.pieces[index].route, self.pieces[index].replica);
        if self.route(route).current() == replica {
            let following = self.route(route).following();
            self.turn(route, following);
        }
        self.retry(index, Again::Now, Obstacle::Answer);
    }

    /// Whether the connection of a piece is to be closed for silence; the piece goes with it.
    fn is_silent(&mut self, index: PieceIndex) -> bool {
        let connection = self.pieces[index].connection;
        let Some(id) = self.endpoint_of(connection) else { return false };
        let silent_ns = self.now_ns.saturating_sub(self.endpoint(id).heard_ns);
        if silent_ns < self.settings.attempt_timeout_ns {
            return false;
        }
        if self.endpoint(id).link == (Link::Up { connection }) {
            self.statistics.timeouts += 1;
            self.close(connection, violation::SILENT);
        }
        // Looked at again only if the network does not tell of the closing.
        self.pieces[index].timer_ns = self.now_ns + self.settings.attempt_timeout_ns;
        true
    }

    /// Stops waiting for an answer. `false`: the landing pages cannot be kept apart, so that the
    /// connection is closed and the piece ends with it.
    pub(super) fn withdraw(&mut self, index: PieceIndex) -> bool {
        let piece = &mut self.pieces[index];
        if piece.landing.is_some() && self.quarantine.is_full() {
            let connection = piece.connection;
            piece.timer_ns = self.now_ns + self.settings.attempt_timeout_ns;
            self.close(connection, violation::QUARANTINE);
            return false;
        }
        if let Some(landing) = piece.landing.take() {
            let token = u64::from(piece.nonce) << 32 | u64::from(index.0);
            self.quarantine.keep(piece.connection, token, landing);
        }
        piece.maybe_executed |= piece.has_effect();
        self.leave_flight(index);
        true
    }

    /// The operation's time is up.
    fn time_up(&mut self, index: PieceIndex) {
        let obstacle = match self.pieces[index].state {
            PieceState::Queued => {
                let obstacle = self.obstacle_of(index);
                self.unqueue(index);
                obstacle
            }
            PieceState::InFlight => {
                if !self.withdraw(index) {
                    return;
                }
                Obstacle::Answer
            }
            _ => self.pieces[index].obstacle,
        };
        self.give_up(index, obstacle);
    }
}
