//! How connections end, and how they are broken.
//!
//! An end that learns of it from outside is *concluded*: the process first takes what has come in,
//! and the connection *ends* there when its poll arrives at that point. An end that closes by
//! itself ends at once. From then on every call is answered "closed"; the window may still be
//! written until the process has been told.

use culvert::network::{CloseReason, ConnectionId};
use rustix::io::Errno;

use super::agenda::{Bound, What};
use super::landing::Landing;
use super::link::{LinkId, Side, Stage};
use super::process::{Pending, ProcessId};
use super::state::State;

/// How often, in a million, an orderly close loses what was sent before it.
const CLOSE_LOSES: u32 = 200_000;

/// How often, in a million, one end notices a break much later than the other.
const NOTICES_LATE: u32 = 250_000;

/// How many times as long it takes then.
const LATE_FACTOR: u64 = 20;

impl State {
    /// The process closes a connection: what was sent goes out before.
    pub(super) fn close(&mut self, id: ProcessId, connection: ConnectionId, reason: &'static str) {
        let Some(at) = self.find(id, connection) else { return };
        self.post_end(at);
        if self.random.chance(CLOSE_LOSES) {
            // Word of the close arrives all the same.
            self.send_word((at.0, at.1.other()), What::Reset { reason: CloseReason::PeerClosed });
            self.sever(at);
        }
        self.end_in_turn(at, CloseReason::Caller(reason));
    }

    /// The connection ends at this end while its process has a turn, among whose copies are those
    /// for the wire.
    pub(super) fn end_in_turn(&mut self, at: (LinkId, Side), reason: CloseReason) {
        let copied = self.end(at, reason);
        let process = self.links.get(&at.0).and_then(|link| link.end(at.1).process);
        if let Some(process) = process.and_then(|id| self.process(id)) {
            process.counters.wire_copy_bytes += copied;
        }
    }

    /// The process ends in an orderly place: all its connections are closed.
    pub(super) fn leave(&mut self, id: ProcessId) {
        if self.process(id).is_none() {
            return;
        }
        for at in self.ends_of(id) {
            self.post_end(at);
            self.end(at, CloseReason::Caller("the process ends"));
        }
        self.vanish(id);
    }

    /// The process on a host dies, if there is one; answers whether there was.
    pub(super) fn die(&mut self, host: usize) -> bool {
        let Some(id) = self.processes.get(&host).map(|process| process.id) else { return false };
        for at in self.ends_of(id) {
            let link = &self.links[&at.0];
            if !link.end(at.1).is_live() {
                continue;
            }
            let peer = (at.0, at.1.other());
            self.sever(at);
            self.sever(peer);
            let reason = self.choose_reason();
            let delay_ns = self.random.within(self.options.break_detection_ns.clone());
            self.schedule(peer, delay_ns, What::Reset { reason });
        }
        self.vanish(id);
        true
    }

    /// Nothing of a process is left.
    fn vanish(&mut self, id: ProcessId) {
        for at in self.ends_of(id) {
            let Some(link) = self.links.get_mut(&at.0) else { continue };
            link.way_mut(at.1).leave_sender();
            let end = link.end_mut(at.1);
            end.landing = Landing::new(end.landing.mode());
            end.unsent_pages = 0;
            end.stage = Stage::Gone;
            self.sweep(at.0);
        }
        self.processes.remove(&id.host);
    }

    /// Breaks all connections between two hosts.
    pub(super) fn break_between(&mut self, a: usize, b: usize, uneven: bool) {
        let broken: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.joins(a, b))
            .filter(|(_, link)| Side::BOTH.iter().any(|side| link.end(*side).is_live()))
            .map(|(id, _)| *id)
            .collect();
        for link in broken {
            self.injected.connections_broken += 1;
            for side in Side::BOTH {
                self.sever((link, side));
                let reason = self.choose_reason();
                let mut delay_ns = self.random.within(self.options.break_detection_ns.clone());
                if uneven && self.random.chance(NOTICES_LATE) {
                    delay_ns *= LATE_FACTOR;
                }
                self.schedule((link, side), delay_ns, What::Notice { reason });
            }
        }
    }

    /// A partition may have lasted too long: connections across it break, and later ones in turn.
    pub(super) fn reach_bound(&mut self, bound: Bound) {
        if self.weather.lasts((bound.from, bound.to), bound.episode) {
            self.break_between(bound.from, bound.to, true);
            self.schedule_bound(bound);
        }
    }

    /// What is under way from an end is lost from some point on, in each class. Its
    /// sectors may be written late.
    fn sever(&mut self, (id, from): (LinkId, Side)) {
        let span_ns = 2 * self.options.break_detection_ns.end;
        let Some(link) = self.links.get_mut(&id) else { return };
        let way = link.way_mut(from);
        let (lost, times) = way.sever(self.now_ns, span_ns, &mut self.random);
        self.injected.frames_lost += lost;
        for (flight, group, at_ns) in times {
            let what = What::Sectors { flight, group };
            self.schedule((id, from.other()), at_ns - self.now_ns, what);
        }
    }

    fn choose_reason(&mut self) -> CloseReason {
        match self.random.below(4) {
            0 => CloseReason::PeerClosed,
            1 => CloseReason::PeerVanished,
            2 => CloseReason::Io(Errno::CONNRESET),
            _ => CloseReason::Io(Errno::TIMEDOUT),
        }
    }

    /// Word that the peer has closed has arrived.
    pub(super) fn take_fin(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        link.way_mut(at.1.other()).fin = true;
        self.settle(at);
    }

    /// The connection ends at this end once the process has taken what has come in.
    pub(super) fn conclude(&mut self, at: (LinkId, Side), reason: CloseReason) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let end = link.end_mut(at.1);
        if !end.is_live() || end.ending {
            return;
        }
        if end.stage == Stage::Opening && at.1 == Side::Acceptor {
            // Its process never hears of it.
            self.end(at, reason);
            return;
        }
        end.ending = true;
        self.tell(at, Pending::Ending { at, reason });
    }

    /// The connection ends at this end. Answers the bytes of pages that were copied, so that the
    /// process has them all back.
    fn end(&mut self, at: (LinkId, Side), reason: CloseReason) -> u64 {
        let Some(link) = self.links.get_mut(&at.0) else { return 0 };
        let was = link.end(at.1).stage;
        if !link.end(at.1).is_live() {
            return 0;
        }
        let copied = link.way_mut(at.1).leave_sender();
        let severed = link.way(at.1).severed;
        let end = link.end_mut(at.1);
        end.stage = Stage::Closing;
        end.unsent_pages = 0;
        let (connection, process) = (end.connection, end.process);
        if !severed {
            self.send_word((at.0, at.1.other()), What::Fin);
        }
        let failed = was == Stage::Opening && at.1 == Side::Initiator;
        self.injected.handshakes_failed += u64::from(failed);
        if let Some(process) = process.and_then(|id| self.process(id)) {
            process.forget(connection);
            match was {
                Stage::Open => process.counters.connections_closed += 1,
                _ => process.counters.handshakes_failed += 1,
            }
        }
        if was == Stage::Opening && at.1 == Side::Acceptor {
            self.revoke(at);
        } else {
            self.tell(at, Pending::Closed { connection, at, reason });
        }
        copied
    }

    /// The process has been told that the connection is closed: nothing writes its window any
    /// more.
    pub(super) fn revoke(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let end = link.end_mut(at.1);
        end.stage = Stage::Gone;
        let mode = end.landing.mode();
        let landing = std::mem::replace(&mut end.landing, Landing::new(mode));
        if let Some(process) = end.process.and_then(|id| self.process(id)) {
            process.retire(landing);
        }
        self.sweep(at.0);
    }
}
