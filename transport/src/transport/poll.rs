//! Taking in: sockets, handshakes, frames.

use culvert_memory::SlotId;

use crate::config::{FRAMES_PER_TURN, NOTICES_PER_TURN, READINESS_INTERVAL_NS};
use crate::connection::established::{Link, Next};
use crate::connection::opening::Progress;
use crate::connection::{Connection, id, slot};
use crate::event::{Event, Payloads};
use crate::shm::notice::Notice;
use crate::transport::Transport;
use crate::transport::readiness::Source;
use crate::transport::shared::{Backend, Pending};
use crate::{CloseReason, Violation};

/// What the caller does with events. It may use the transport, except for polling it.
pub(super) type Handler<'a> = dyn FnMut(&mut Transport, Event<'_>) + 'a;

impl Transport {
    /// Takes in what there is, at most `budget` events, and gives each to `handler`. Returns how
    /// many there were.
    ///
    /// `now` is monotonic time in nanoseconds. Never blocks. While only shared-memory connections
    /// are open this makes a system call every 200 us at most.
    ///
    /// # Panics
    ///
    /// When called by its own handler.
    pub fn poll(&mut self, now: u64, budget: usize, handler: &mut Handler<'_>) -> usize {
        assert!(self.record.capacity() > 0, "a handler does not poll");
        self.shared.now = now;
        if self.readiness_is_due() {
            self.check_readiness();
        }
        self.expire();
        let mut record = std::mem::take(&mut self.record);
        let mut left = budget;
        self.deliver_pending(&mut left, handler);
        self.poll_shm(&mut left, &mut record, handler);
        self.poll_tcp(&mut left, &mut record, handler);
        self.poll_rdma(&mut left, &mut record, handler);
        self.deliver_pending(&mut left, handler);
        self.record = record;
        budget - left
    }

    fn readiness_is_due(&self) -> bool {
        self.readiness.due
            || self.tcp_open > 0
            || !self.openings.is_empty()
            || self.shared.wishing > 0
            || self.shared.now.saturating_sub(self.readiness.asked) >= READINESS_INTERVAL_NS
    }

    /// Asks which sockets have something to say, and listens to them.
    fn check_readiness(&mut self) {
        self.readiness.asked = self.shared.now;
        self.readiness.due = false;
        self.wake_listeners();
        self.shared.counters.system_calls += 1;
        for index in 0..self.readiness.ask() {
            let report = self.readiness.report(index);
            match report.source {
                Source::Listener(listener) => self.accept(listener),
                Source::Manager => self.take_reports(),
                Source::Completions(device) => self.take_wake_ups(device),
                Source::Device(device) => self.take_device_events(device),
                Source::Connection(slot) => match self.connections.get_mut(slot) {
                    None | Some(Connection::Between) => {}
                    Some(Connection::Opening(_)) => self.advance_opening(slot),
                    Some(Connection::Open(open)) => match &mut open.link {
                        Link::Shm(_) => self.read_notices(slot),
                        Link::Tcp(link) => {
                            if report.readable {
                                link.set_readable();
                            }
                            if report.writable {
                                link.set_writable();
                                open.mark_busy(&mut self.shared);
                            }
                            if report.readable {
                                self.list_ready(slot);
                            }
                        }
                        // It has no socket.
                        Link::Rdma(_) => {}
                    },
                },
            }
        }
    }

    /// Ends handshakes that take too long.
    fn expire(&mut self) {
        if self.openings.is_empty() {
            return;
        }
        let now = self.shared.now;
        let timeout =
            u64::try_from(self.shared.options.handshake_timeout.as_nanos()).unwrap_or(u64::MAX);
        let connect_timeout = self.shared.options.rdma.connect_timeout.as_nanos();
        let connect_timeout = u64::try_from(connect_timeout).unwrap_or(u64::MAX);
        let mut index = 0;
        while let Some(slot) = self.openings.get(index).copied() {
            index += 1;
            let Some(Connection::Opening(opening)) = self.connections.get_mut(slot) else {
                continue;
            };
            let patience = match opening.backend() {
                Backend::Rdma if opening.initiated => timeout.min(connect_timeout),
                _ => timeout,
            };
            if now >= *opening.deadline.get_or_insert(now.saturating_add(patience)) {
                // Ending it takes it off the list.
                index -= 1;
                self.end(slot, CloseReason::HandshakeTimeout);
            }
        }
    }

    /// Goes on with a handshake whose socket has something to say.
    pub(super) fn advance_opening(&mut self, slot: SlotId) {
        let Some(Connection::Opening(opening)) = self.connections.get_mut(slot) else { return };
        if opening.connecting {
            let connected = opening.finish_connecting(&mut self.shared.counters).and_then(|()| {
                let socket = opening.socket().ok_or(CloseReason::PeerVanished)?;
                self.readiness.watch(socket, slot, false).map_err(CloseReason::Io)
            });
            match connected {
                Ok(()) => {}
                Err(reason) => return self.end(slot, reason),
            }
        }
        let progress = opening.advance(&mut self.shared);
        self.follow_opening(slot, progress);
    }

    /// Does what the progress of a handshake asks for.
    pub(super) fn follow_opening(&mut self, slot: SlotId, progress: Result<Progress, CloseReason>) {
        match progress {
            Ok(Progress::Waiting) => {}
            Ok(Progress::Unreported) => self.shared.unreported.push(slot),
            Ok(Progress::Done) => self.establish(slot),
            Err(reason) => self.end(slot, reason),
        }
    }

    fn establish(&mut self, slot: SlotId) {
        let Some(place) = self.connections.get_mut(slot) else { return };
        let Connection::Opening(opening) = place else { return };
        if let Err(reason) = opening.open_peer(&self.shared) {
            return self.end(slot, reason);
        }
        let Connection::Opening(opening) = std::mem::replace(place, Connection::Between) else {
            return;
        };
        let open = opening.establish(&self.shared);
        self.openings.retain(|other| *other != slot);
        self.shared.counters.connections_opened += 1;
        tracing::debug!(peer = %open.peer, address = %open.address, "connection established");
        let (connection, peer, initiated) = (id(slot), open.peer, open.initiated);
        if initiated {
            self.failing.reached(&open.address);
        }
        let scheme = open.address.scheme();
        self.adopt(slot, Connection::Open(Box::new(open)));
        self.shared.events.push_back(Pending::Connected { connection, peer, initiated, scheme });
    }

    /// Reads the socket of a shared-memory connection.
    fn read_notices(&mut self, slot: SlotId) {
        for _ in 0..NOTICES_PER_TURN {
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                return;
            };
            let Link::Shm(link) = &mut open.link else { return };
            let taken = match link.receive_notice(&mut self.shared.counters) {
                Ok(None) => return,
                Ok(Some((Notice::Wake, files))) if files.is_empty() => Ok(()),
                Ok(Some((Notice::Wake, _))) => Err(Violation::NoticeOutOfPlace.into()),
                Ok(Some((Notice::Grant { page, pages }, files))) => {
                    open.take_grant_file(&mut self.shared, (page, pages), files.into_iter().next())
                }
                Err(reason) => Err(reason),
            };
            if let Err(reason) = taken {
                return self.end(slot, reason);
            }
        }
    }

    /// Delivers what concerns whole connections.
    pub(super) fn deliver_pending(&mut self, left: &mut usize, handler: &mut Handler<'_>) {
        while *left > 0 {
            let Some(pending) = self.shared.events.pop_front() else { return };
            let event = match pending {
                Pending::Connected { connection, peer, initiated, scheme } => {
                    Event::Connected { connection, peer, initiated, scheme }
                }
                Pending::Writable { connection } => Event::Writable { connection },
                Pending::Closed { connection, reason } => Event::Closed { connection, reason },
            };
            if let Pending::Writable { connection } = pending
                && self.connections.get(slot(connection)).is_none()
            {
                // It has closed since.
                continue;
            }
            *left -= 1;
            handler(self, event);
        }
    }

    /// Looks at the rings of all shared-memory connections.
    fn poll_shm(&mut self, left: &mut usize, record: &mut Vec<u8>, handler: &mut Handler<'_>) {
        let count = self.shm.len();
        let mut index = self.shm_next;
        for _ in 0..count {
            if *left == 0 {
                return;
            }
            // The list may become shorter meanwhile; whom that skips is looked at in the next poll.
            index = if index + 1 < count { index + 1 } else { 0 };
            let Some(slot) = self.shm.get(index).copied() else { continue };
            self.take_frames(slot, left, record, handler);
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                continue;
            };
            let Link::Shm(link) = &mut open.link else { continue };
            let ended = link.ended && !link.inbound.is_ready();
            if link.publish_consumed() {
                open.nudge = true;
                open.mark_busy(&mut self.shared);
            }
            if ended {
                self.end(slot, CloseReason::PeerClosed);
            } else if let Err(violation) = open.tell_of_room(&mut self.shared) {
                self.end(slot, violation.into());
            }
        }
        self.shm_next = if self.shm_next + 1 < count { self.shm_next + 1 } else { 0 };
    }

    /// Reads the sockets that have something to be read.
    fn poll_tcp(&mut self, left: &mut usize, record: &mut Vec<u8>, handler: &mut Handler<'_>) {
        for _ in 0..self.tcp_ready.len() {
            if *left == 0 {
                return;
            }
            let Some(slot) = self.tcp_ready.pop_front() else { return };
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                continue;
            };
            let Link::Tcp(link) = &mut open.link else { continue };
            link.listed = false;
            link.begin_turn();
            let idle = self.take_frames(slot, left, record, handler);
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                continue;
            };
            let Link::Tcp(link) = &mut open.link else { continue };
            if !idle || link.wants_turn() {
                self.list_ready(slot);
            } else if link.ended {
                self.end(slot, CloseReason::PeerClosed);
            }
        }
    }

    /// Puts a TCP connection on the list of those to be read.
    pub(super) fn list_ready(&mut self, slot: SlotId) {
        let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
            return;
        };
        if let Link::Tcp(link) = &mut open.link
            && !link.listed
        {
            link.listed = true;
            self.tcp_ready.push_back(slot);
        }
    }

    /// Takes records off a connection, and gives the frames among them to the handler; whether it
    /// has none left.
    pub(super) fn take_frames(
        &mut self,
        slot: SlotId,
        left: &mut usize,
        record: &mut Vec<u8>,
        handler: &mut Handler<'_>,
    ) -> bool {
        let mut payloads = Payloads::new();
        for _ in 0..FRAMES_PER_TURN {
            if *left == 0 {
                return false;
            }
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                return true;
            };
            match open.next(&mut self.shared, record, &mut payloads) {
                Ok(Next::Nothing) => return true,
                Ok(Next::Internal) => {}
                Ok(Next::Frame(class, range)) => {
                    *left -= 1;
                    let bytes = &record[range];
                    handler(
                        self,
                        Event::Frame {
                            connection: id(slot),
                            class,
                            bytes,
                            payloads: &mut payloads,
                        },
                    );
                    payloads.clear();
                }
                Err(reason) => {
                    payloads.clear();
                    self.end(slot, reason);
                    return true;
                }
            }
        }
        false
    }
}
