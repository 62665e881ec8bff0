//! Taking in what the network brings.

use super::config::{DAMAGED_MAX, HINTS_MAX};
use super::connection::violation;
use super::core::Core;
use super::error::{ClientError, Obstacle};
use super::leading::LEADER_INDEX;
use super::outcome::Again;
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::route::Session;
use super::status::STATUS_INDEX;
use crate::ids::{BLOCK_SIZE, Epoch, ReplicaId, RequestNumber, SessionId};
use crate::network::{ConnectionId, Event};
use crate::wire::{FrameError, FrameKind, Reply, ReplyStatus, parse_header};

impl Core {
    /// Takes in one event.
    pub(super) fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Connected { connection, peer, .. } => self.on_connected(connection, &peer),
            Event::Frame { connection, bytes, .. } => self.on_frame(connection, bytes),
            Event::Writable { connection } => self.on_writable(connection),
            Event::Closed { connection, reason } => self.on_closed(connection, reason),
        }
    }

    fn on_frame(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let now_ns = self.now_ns;
        let Some(id) = self.endpoint_of(connection) else { return };
        self.endpoint(id).note_heard(now_ns);
        match parse_reply(bytes) {
            Ok(reply) => self.on_reply(connection, &reply),
            Err(error) => {
                tracing::warn!(%connection, %error, "a bad frame");
                self.bad_frame(connection);
            }
        }
    }

    fn bad_frame(&mut self, connection: ConnectionId) {
        self.statistics.bad_frames += 1;
        self.close(connection, violation::BAD_FRAME);
    }

    fn on_reply(&mut self, connection: ConnectionId, reply: &Reply<'_>) {
        let (number, nonce) = (reply.token as u32, (reply.token >> 32) as u32);
        if number == STATUS_INDEX {
            return self.on_status_reply(connection, nonce, reply);
        }
        if number == LEADER_INDEX {
            return self.on_leader_reply(nonce, reply);
        }
        let Some(index) = self.pieces.index(number) else {
            return self.bad_frame(connection);
        };
        let piece = &self.pieces[index];
        let awaited = piece.state == PieceState::InFlight
            && piece.nonce == nonce
            && piece.connection == connection;
        if !awaited {
            self.statistics.late_replies += 1;
            return self.quarantine.release(connection, reply.token);
        }
        self.leave_flight(index);
        self.note_leader(index, reply.status);
        match reply.status {
            ReplyStatus::Ok => self.on_done(index, connection, reply),
            _ => self.on_refusal(index, reply),
        }
    }

    fn on_done(&mut self, index: PieceIndex, connection: ConnectionId, reply: &Reply<'_>) {
        match self.pieces[index].kind {
            PieceKind::Write | PieceKind::Discard | PieceKind::Delete => self.advance(index),
            PieceKind::Fence => {
                let raised = self.pieces[index].epoch;
                self.settings.epoch = self.settings.epoch.max(raised);
                self.advance(index);
            }
            PieceKind::Read => self.on_read(index, reply),
            PieceKind::OpenSession if reply.value == 0 => {
                self.retry(index, Again::AfterPause, Obstacle::Session);
                self.bad_frame(connection);
            }
            PieceKind::CloseSession => self.session_ended(index),
            PieceKind::OpenSession => self.on_session(index, SessionId(reply.value)),
        }
    }

    fn on_read(&mut self, index: PieceIndex, reply: &Reply<'_>) {
        let piece = &mut self.pieces[index];
        let landing = piece.landing.take().expect("a read on its way has landing pages");
        let whole = u32::from(reply.blocks) == piece.sent
            && reply.crcs().len() == piece.sent as usize
            && reply.trailing.len().is_multiple_of(4);
        let good =
            |(block, crc): (usize, u32)| landing.crc32c(block * BLOCK_SIZE, BLOCK_SIZE) == crc;
        if !whole || !reply.crcs().enumerate().all(good) {
            self.statistics.corrupt_reads += 1;
            return self.damaged(index, Obstacle::Transfer, ClientError::Corrupt);
        }
        match &mut piece.gathered {
            None => piece.landing = Some(landing),
            Some(gathered) => {
                self.statistics.copied_bytes += landing.len() as u64;
                gathered.copy_from(piece.done as usize * BLOCK_SIZE, &landing.freeze());
            }
        }
        self.advance(index);
    }

    fn on_session(&mut self, index: PieceIndex, session: SessionId) {
        let route = self.pieces[index].route;
        self.pieces[index].reset(PieceKind::OpenSession, route);
        self.resume_session(index);
        // One that nobody waits for any more expires.
        let ended = self.ends && self.end_by_ns.is_none();
        let open = if ended { Session::None } else { Session::Open(session) };
        self.route(route).session = open;
        self.route(route).numbers = super::numbers::Numbers::new();
        self.statistics.sessions += 1;
    }

    /// The answer is not "done". The piece is not in flight any more.
    fn on_refusal(&mut self, index: PieceIndex, reply: &Reply<'_>) {
        // The server has answered: it will not write there any more.
        self.pieces[index].landing = None;
        match reply.status {
            ReplyStatus::Ok => unreachable!("handled by the caller"),
            ReplyStatus::NotLeader => self.redirected(index, ReplicaId(reply.value)),
            ReplyStatus::Deposed => {
                self.note_maybe_executed(index);
                self.redirected(index, ReplicaId(reply.value));
            }
            ReplyStatus::Busy => {
                self.statistics.busy += 1;
                self.retry(index, Again::AfterPause, Obstacle::Busy);
            }
            ReplyStatus::SessionsFull => {
                self.retry(index, Again::AfterPause, Obstacle::SessionsFull);
            }
            ReplyStatus::NoSession => self.session_lost(index),
            ReplyStatus::NoCopyset => self.elsewhere(index),
            ReplyStatus::DeviceFailed => {
                self.note_maybe_executed(index);
                self.elsewhere(index);
            }
            ReplyStatus::PayloadChecksum => {
                self.damaged(index, Obstacle::Transfer, ClientError::Corrupt);
            }
            ReplyStatus::Media => self.damaged(index, Obstacle::Media, ClientError::Media),
            ReplyStatus::BelowWindow => self.fail(index, ClientError::OutcomeUnknown),
            ReplyStatus::NoSpace => self.fail_refused(index, ClientError::NoSpace),
            ReplyStatus::Fenced => {
                self.fail_refused(index, ClientError::Fenced(Epoch(reply.value)))
            }
            ReplyStatus::OutOfRange | ReplyStatus::Malformed => {
                self.fail_refused(index, ClientError::Refused);
            }
        }
    }

    /// This attempt is refused for good; an earlier one may still be on its way through the log.
    fn fail_refused(&mut self, index: PieceIndex, error: ClientError) {
        let unknown = self.pieces[index].maybe_executed;
        self.fail(index, if unknown { ClientError::OutcomeUnknown } else { error });
    }

    fn note_maybe_executed(&mut self, index: PieceIndex) {
        let piece = &mut self.pieces[index];
        piece.maybe_executed |= piece.has_effect();
    }

    /// Another replica leads, the one named if it is known.
    fn redirected(&mut self, index: PieceIndex, hint: ReplicaId) {
        self.statistics.redirects += 1;
        let (route, replica) = (self.pieces[index].route, self.pieces[index].replica);
        let now_ns = self.now_ns;
        if self.route(route).current() == replica {
            let hinted = self.route(route).find(hint).filter(|(found, _)| *found != replica);
            let usable = hinted.filter(|(_, id)| self.endpoint(*id).is_usable(now_ns));
            let Some((leader, _)) = usable else {
                return self.elsewhere(index);
            };
            self.turn(route, leader);
        }
        // Somebody knows a leader; but if that one knows another, the election is not over.
        let piece = &mut self.pieces[index];
        piece.hints += 1;
        let again = if piece.hints > HINTS_MAX { Again::AfterPause } else { Again::Now };
        if again == Again::AfterPause {
            piece.hints = 0;
        }
        self.retry(index, again, Obstacle::Leader);
    }

    /// That replica is of no use: after a pause the next one is asked.
    fn elsewhere(&mut self, index: PieceIndex) {
        let (route, replica) = (self.pieces[index].route, self.pieces[index].replica);
        if self.route(route).current() == replica {
            let following = self.route(route).following();
            self.turn(route, following);
        }
        self.pieces[index].hints = 0;
        self.retry(index, Again::AfterPause, Obstacle::Leader);
    }

    /// The session has expired. Without it nobody can say what became of earlier attempts.
    fn session_lost(&mut self, index: PieceIndex) {
        if self.pieces[index].kind == PieceKind::CloseSession {
            return self.session_ended(index);
        }
        let (route, session) = (self.pieces[index].route, self.pieces[index].session);
        if self.route(route).session == Session::Open(session) {
            self.route(route).session = Session::None;
        }
        if self.pieces[index].maybe_executed {
            return self.fail(index, ClientError::OutcomeUnknown);
        }
        self.pieces[index].number = RequestNumber(0);
        self.retry(index, Again::Now, Obstacle::Session);
    }

    /// Bytes were damaged on the way or where they are stored.
    fn damaged(&mut self, index: PieceIndex, obstacle: Obstacle, error: ClientError) {
        let piece = &mut self.pieces[index];
        piece.damaged += 1;
        if piece.damaged < DAMAGED_MAX {
            self.retry(index, Again::AfterPause, obstacle);
        } else if piece.maybe_executed {
            self.fail(index, ClientError::OutcomeUnknown);
        } else {
            self.fail(index, error);
        }
    }
}

fn parse_reply(bytes: &[u8]) -> Result<Reply<'_>, FrameError> {
    let (kind, _, body) = parse_header(bytes)?;
    if kind != FrameKind::Reply {
        return Err(FrameError::Kind(kind as u8));
    }
    Reply::parse(body)
}
