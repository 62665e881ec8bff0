//! RDMA connections in the turn of a transport.

use std::net::SocketAddr;

use culvert_memory::SlotId;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::config::REPORTS_PER_TURN;
use crate::connection::Connection;
use crate::connection::established::Link;
use crate::connection::opening::{Opening, Way};
use crate::handshake::message::{Hello, MAGIC};
use crate::handshake::proof::Role;
use crate::rdma::link::RdmaLink;
use crate::rdma::{Completed, Happening, Id, Joining, Message, Report, Verbs};
use crate::transport::Transport;
use crate::transport::poll::Handler;
use crate::transport::shared::Backend;
use crate::window::landing::Landing;
use crate::{Address, CloseReason, ConnectError, ListenError, Refusal, WindowMode};

/// What a refusal of the connection manager itself says when nobody listens (`IB_CM_REJ` number 8).
const NOBODY_LISTENS: i32 = 8;

impl Transport {
    /// Opens the libraries when `rdma://` is asked for first.
    fn open_verbs(&mut self) -> Result<&mut Verbs, String> {
        if self.verbs.is_none() {
            let verbs = Verbs::open(&self.shared.options)?;
            let watched = self.readiness.add_manager(verbs.manager_fd());
            watched.map_err(|error| format!("epoll_ctl: {error}"))?;
            self.verbs = Some(Box::new(verbs));
        }
        Ok(self.verbs.as_mut().expect("opened above"))
    }

    /// Begins to connect.
    pub(super) fn resolve(
        &mut self,
        slot: SlotId,
        address: SocketAddr,
    ) -> Result<Way, ConnectError> {
        let options = self.shared.options.clone();
        let verbs = self.open_verbs().map_err(ConnectError::NoVerbs)?;
        let from = options.source.map(|source| SocketAddr::new(source, 0));
        let begun = verbs.resolve(from, address, &options);
        let id = begun.map_err(|(step, source)| ConnectError::Io { step, source })?;
        verbs.name(&id, slot);
        Ok(Way::Verbs(Box::new(Joining::resolving(id))))
    }

    /// Binds an identifier to an address.
    pub(super) fn bind_verbs(&mut self, address: SocketAddr) -> Result<Id, ListenError> {
        let failure = |step| move |source| ListenError::Io { step, source };
        let verbs = self.open_verbs().map_err(ListenError::NoVerbs)?;
        let id = verbs.new_id().map_err(failure("rdma_create_id"))?;
        match id.bind(address) {
            Ok(()) => Ok(id),
            Err(Errno::ADDRINUSE) => Err(ListenError::InUse),
            Err(Errno::NODEV | Errno::ADDRNOTAVAIL) => Err(ListenError::NoDevice),
            Err(error) => Err(failure("rdma_bind_addr")(error)),
        }
    }

    /// Listens to the connection manager.
    pub(super) fn take_reports(&mut self) {
        for _ in 0..REPORTS_PER_TURN {
            let Some(report) = self.verbs.as_ref().and_then(|verbs| verbs.next_report()) else {
                break;
            };
            self.take_report(report);
        }
        // What came before the end of a connection is delivered before it: look again.
        self.take_completions();
    }

    fn take_report(&mut self, report: Report) {
        if let Some(id) = report.incoming {
            return self.admit_verbs(id, &report.said);
        }
        let Some(verbs) = &mut self.verbs else { return };
        let Some(slot) = verbs.owner(report.key) else {
            match report.what {
                Happening::Disconnected | Happening::Gone => verbs.forget_leaving(report.key),
                Happening::DeviceRemoved => {
                    verbs.forget_leaving(report.key);
                    verbs.remove_device(report.key);
                    self.lose_ear(report.key);
                }
                _ => {}
            }
            return;
        };
        let refused = |status: i32| CloseReason::Io(Errno::from_raw_os_error(status.abs().max(1)));
        match (report.what, self.connections.get_mut(slot)) {
            (Happening::AddressResolved, Some(Connection::Opening(opening))) => {
                let timeout = self.shared.options.handshake_timeout.as_millis();
                let timeout = i32::try_from(timeout).unwrap_or(i32::MAX);
                let id = opening.joining().and_then(|joining| joining.id());
                if let Some(Err(error)) = id.map(|id| id.resolve_route(timeout)) {
                    self.end(slot, CloseReason::Io(error));
                }
            }
            (Happening::RouteResolved, Some(Connection::Opening(_))) => self.ask(slot),
            (Happening::Established, Some(Connection::Opening(opening))) => {
                if opening.initiated
                    && let Some(joining) = opening.joining()
                {
                    joining.hear(report.said);
                    self.advance_opening(slot);
                }
            }
            (Happening::Rejected, Some(Connection::Opening(opening))) => {
                if report.status == NOBODY_LISTENS {
                    return self.end(slot, CloseReason::Io(Errno::CONNREFUSED));
                }
                // A peer that ends before it has heard that we are connected is told as a reject,
                // too, without a word: what it said is a message then.
                if report.said.starts_with(&MAGIC)
                    && let Some(joining) = opening.joining()
                {
                    joining.hear(report.said);
                }
                self.break_off(slot, CloseReason::PeerClosed);
            }
            (Happening::Failed, Some(Connection::Opening(_))) => {
                self.end(slot, refused(report.status));
            }
            (Happening::Disconnected, Some(_)) => self.break_off(slot, CloseReason::PeerClosed),
            (Happening::DeviceRemoved, Some(_)) => self.break_off(slot, CloseReason::DeviceGone),
            _ => {}
        }
    }

    /// The way to the peer is known: makes the queue pair and asks to be let in.
    fn ask(&mut self, slot: SlotId) {
        let Some(Connection::Opening(opening)) = self.connections.get_mut(slot) else { return };
        let Some(id) = opening.joining().and_then(Joining::take_id) else { return };
        let linked = self.make_link(id, slot).map_err(|(id, error)| {
            self.verbs.as_mut().expect("an identifier was made").forget(&id);
            error
        });
        let asked = linked.and_then(|link| {
            let Some(Connection::Opening(opening)) = self.connections.get_mut(slot) else {
                return Ok(());
            };
            let (hello, retries) = (opening.short_hello(), opening.retries);
            let joining = opening.joining().expect("it has one");
            joining.connect(link, hello.as_bytes(), retries)
        });
        if let Err(error) = asked {
            self.end(slot, CloseReason::Io(error));
        }
    }

    fn make_link(&mut self, id: Id, slot: SlotId) -> Result<RdmaLink, (Id, Errno)> {
        let link = self.verbs.as_mut().expect("an identifier was made").link(id, slot);
        self.watch_devices();
        link
    }

    /// Sees to it that all devices are watched that are there, and no others.
    fn watch_devices(&mut self) {
        while let Some(verbs) = &mut self.verbs
            && let Some((device, watched)) = verbs.next_to_watch()
            && let Some(descriptors) = verbs.device_fds(device)
        {
            if !watched {
                self.readiness.remove_device(descriptors);
            } else if let Err(error) = self.readiness.add_device(device, descriptors) {
                // Its completions are still polled for, only not slept for.
                tracing::warn!(%error, "an RDMA device could not be watched");
            }
        }
    }

    /// A peer has come in.
    fn admit_verbs(&mut self, id: Id, said: &[u8]) {
        self.drop_oldest_half_open();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = Address::Rdma(id.peer().unwrap_or(unknown));
        let hello = match Hello::lengthen(said) {
            Ok(hello) => hello,
            Err(refusal) => return self.turn_away(&id, &address, refusal),
        };
        let Some(slot) = self.connections.next_id() else {
            return self.turn_away(&id, &address, Refusal::Resources);
        };
        let verbs = self.verbs.as_mut().expect("it listens");
        verbs.name(&id, slot);
        let link = match self.make_link(id, slot) {
            Ok(link) => link,
            Err((id, error)) => {
                tracing::warn!(%address, %error, "no queue pair for a peer");
                self.verbs.as_mut().expect("it listens").forget(&id);
                return self.turn_away(&id, &address, Refusal::Resources);
            }
        };
        let joining = Joining::incoming(link, hello.as_bytes());
        let side = (Backend::Rdma, Role::Acceptor, WindowMode::Granted);
        let way = Way::Verbs(Box::new(joining));
        let opening = Opening::new(slot, address, way, side, &self.shared);
        if let Err(error) = self.begin(opening) {
            tracing::warn!(%error, "a connection could not be watched");
            return;
        }
        self.advance_opening(slot);
    }

    /// Turns a peer away before there is anything for it.
    fn turn_away(&mut self, id: &Id, address: &Address, refusal: Refusal) {
        self.shared.counters.handshakes_failed += 1;
        tracing::warn!(%address, %refusal, "a peer was turned away");
        if let Err(error) = id.reject(Hello::refusal(refusal).as_bytes()) {
            tracing::debug!(%error, "rdma_reject");
        }
    }

    /// A connection over verbs is over; what came in before that is delivered first.
    fn break_off(&mut self, slot: SlotId, reason: CloseReason) {
        self.take_completions();
        self.end_link(slot, reason);
    }

    /// The same, when all has come in.
    fn end_link(&mut self, slot: SlotId, reason: CloseReason) {
        // A refusal may be there, or what makes it an open connection.
        self.advance_opening(slot);
        match self.connections.get_mut(slot) {
            Some(Connection::Opening(_)) => {
                let reason = match reason {
                    CloseReason::PeerClosed => CloseReason::PeerVanished,
                    other => other,
                };
                self.end(slot, reason);
            }
            Some(Connection::Open(open)) => {
                if let Link::Rdma(link) = &mut open.link {
                    link.ended.get_or_insert(reason);
                }
                self.list_received(slot);
            }
            None | Some(Connection::Between) => {}
        }
    }

    /// Lets a connection end that was being made.
    pub(super) fn linger_joining(&mut self, mut joining: Joining, landing: Option<Landing>) {
        if let (Some(id), Some(verbs)) = (joining.take_id(), &mut self.verbs) {
            verbs.forget(&id);
        }
        match joining.into_link() {
            Some(link) => self.linger(link, landing),
            None => landing.into_iter().for_each(|one| self.shared.retire(one, Backend::Rdma)),
        }
    }

    /// Lets a connection end, behind what it has posted: at once if that is done.
    pub(super) fn linger(&mut self, link: RdmaLink, landing: Option<Landing>) {
        let now = self.shared.now;
        self.verbs.as_mut().expect("a link was made").linger(link, landing, now);
        self.advance_ending();
    }

    /// Goes on with connections that have ended.
    pub(super) fn advance_ending(&mut self) {
        self.watch_devices();
        if let Some(verbs) = &mut self.verbs {
            verbs.advance_ending(&mut self.shared);
        }
    }

    /// Takes completions off the devices, and gives each to its connection.
    pub(super) fn take_completions(&mut self) {
        let Some(verbs) = &mut self.verbs else { return };
        verbs.begin_completions();
        let (mut openings, mut broken) = (Vec::new(), Vec::new());
        while let Some(completed) = self.verbs.as_mut().and_then(|verbs| verbs.next_completed()) {
            match completed {
                Completed::Sent(slot, number) => self.take_sent(slot, number),
                Completed::Broken(slot, reason) => broken.push((slot, reason)),
                Completed::Message(slot, message) => {
                    let taken = self.take_message(slot, &message, &mut openings);
                    self.verbs.as_mut().expect("it is the message's").repost(message);
                    if let Err(reason) = taken {
                        broken.push((slot, reason));
                    }
                }
            }
        }
        for slot in openings {
            self.advance_opening(slot);
        }
        for (slot, reason) in broken {
            self.end_link(slot, reason);
        }
    }

    fn take_sent(&mut self, slot: SlotId, number: u64) {
        match self.connections.get_mut(slot) {
            Some(Connection::Open(open)) => {
                if let Link::Rdma(link) = &mut open.link {
                    link.sent(number);
                    if link.can_flush() {
                        open.mark_busy(&mut self.shared);
                    }
                }
            }
            Some(Connection::Opening(opening)) => {
                if let Some(link) = opening.joining().and_then(Joining::link_mut) {
                    link.sent(number);
                }
            }
            None | Some(Connection::Between) => {}
        }
    }

    fn take_message(
        &mut self,
        slot: SlotId,
        message: &Message,
        openings: &mut Vec<SlotId>,
    ) -> Result<(), CloseReason> {
        let (bytes, immediate) = (message.bytes(), message.immediate);
        match self.connections.get_mut(slot) {
            Some(Connection::Open(open)) => {
                let Link::Rdma(link) = &mut open.link else { return Ok(()) };
                link.receive(bytes, immediate)?;
                if link.can_flush() {
                    open.mark_busy(&mut self.shared);
                }
                self.list_received(slot);
            }
            Some(Connection::Opening(opening)) => {
                if let Some(link) = opening.joining().and_then(Joining::link_mut) {
                    link.receive(bytes, immediate)?;
                    openings.push(slot);
                }
            }
            None | Some(Connection::Between) => {}
        }
        Ok(())
    }

    /// Puts an RDMA connection on the list of those to be read.
    pub(super) fn list_received(&mut self, slot: SlotId) {
        let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
            return;
        };
        if let Link::Rdma(link) = &mut open.link
            && !link.listed
        {
            link.listed = true;
            self.rdma_ready.push_back(slot);
        }
    }

    /// Takes what came in over RDMA.
    pub(super) fn poll_rdma(
        &mut self,
        left: &mut usize,
        record: &mut Vec<u8>,
        handler: &mut Handler<'_>,
    ) {
        if self.verbs.is_none() {
            return;
        }
        self.take_completions();
        // Connections that stand now are told of before their frames.
        self.deliver_pending(left, handler);
        for _ in 0..self.rdma_ready.len() {
            if *left == 0 {
                break;
            }
            let Some(slot) = self.rdma_ready.pop_front() else { break };
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                continue;
            };
            let Link::Rdma(link) = &mut open.link else { continue };
            link.listed = false;
            let idle = self.take_frames(slot, left, record, handler);
            let backlog = self.has_rdma_backlog();
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                continue;
            };
            let Link::Rdma(link) = &mut open.link else { continue };
            if !idle || (link.ended.is_some() && backlog) {
                self.list_received(slot);
            } else if let Some(reason) = link.ended {
                let cut = reason == CloseReason::PeerClosed && link.is_amid_record();
                self.end(slot, if cut { CloseReason::PeerVanished } else { reason });
            }
        }
        self.advance_ending();
        self.keep_alive();
    }

    /// Sees to it that a peer that is gone is noticed although nothing is sent to it.
    fn keep_alive(&mut self) {
        let Some(verbs) = &mut self.verbs else { return };
        verbs.check_keepalive(self.shared.now);
        while let Some(slot) = self.verbs.as_mut().and_then(|verbs| verbs.next_due()) {
            let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
                continue;
            };
            if let Link::Rdma(link) = &mut open.link
                && let Err(reason) = link.keep_alive(&mut self.shared.counters)
            {
                self.end(slot, reason);
            }
        }
    }

    pub(super) fn take_wake_ups(&mut self, device: usize) {
        if let Some(verbs) = &self.verbs {
            verbs.take_wake_ups(device);
        }
    }

    /// Listens to a device.
    pub(super) fn take_device_events(&mut self, device: usize) {
        if let Some(verbs) = &mut self.verbs {
            verbs.take_events(device);
        }
        self.take_completions();
    }

    /// Whether messages may have come in that nobody has looked at.
    fn has_rdma_backlog(&self) -> bool {
        self.verbs.as_ref().is_some_and(|verbs| verbs.has_more())
    }

    /// Whether there is something of RDMA that no descriptor would tell of.
    pub(super) fn has_rdma_work(&self) -> bool {
        !self.rdma_ready.is_empty() || self.has_rdma_backlog()
    }

    #[cfg(test)]
    pub(crate) fn verbs(&self) -> Option<&Verbs> {
        self.verbs.as_deref()
    }

    /// Where the window of an open connection is for its peer.
    #[cfg(test)]
    pub(crate) fn window_place(
        &self,
        connection: crate::ConnectionId,
    ) -> Option<crate::rdma::link::Place> {
        let open = self.connections.get(crate::connection::slot(connection))?.open()?;
        let Link::Rdma(link) = &open.link else { return None };
        link.window_place()
    }

    /// Asks to be woken when something comes in over RDMA.
    pub(super) fn ask_to_be_woken(&self) {
        if let Some(verbs) = &self.verbs {
            verbs.ask_to_be_woken();
        }
    }
}
