//! How connections begin.
//!
//! A wish arrives, both sides make their windows, and when both processes have taken the regions
//! of theirs the handshake is done, at each end at a moment of its own.

use culvert::network::{
    Address, CloseReason, ConnectError, ConnectionId, ListenError, RegionEvent, WindowMode,
};
use culvert_memory::{Region, RegionId};
use culvert_transport::Refusal;
use rustix::io::Errno;

use super::address;
use super::agenda::What;
use super::link::{Link, LinkId, Side, Stage};
use super::process::{Pending, ProcessId};
use super::state::State;

impl State {
    /// Accepts connections at an address of the process's own host.
    pub(super) fn listen(
        &mut self,
        id: ProcessId,
        address: &Address,
    ) -> Result<Address, ListenError> {
        let unavailable = ListenError::Io { step: "bind", source: Errno::ADDRNOTAVAIL };
        if address::host_of(address) != Some(id.host) {
            return Err(unavailable);
        }
        let process = self.process(id).ok_or(unavailable)?;
        let address = address::with_port(address, process.listening.len());
        if process.listening.contains(&address) {
            return Err(ListenError::InUse);
        }
        process.listening.push(address.clone());
        Ok(address)
    }

    /// Starts to connect.
    pub(super) fn connect(
        &mut self,
        id: ProcessId,
        address: &Address,
        window: WindowMode,
    ) -> Result<ConnectionId, ConnectError> {
        let unreachable = ConnectError::Io { step: "connect", source: Errno::NETUNREACH };
        let host = address::host_of(address).ok_or(unreachable)?;
        let link = self.begin_link(Link::new(address.clone(), [id.host, host], window));
        let at = (link, Side::Initiator);
        let Some(connection) = self.enter(at, id) else {
            self.links.remove(&link);
            return Err(ConnectError::TableFull);
        };
        let delay_ns = self.random.within(self.options.connect_ns.clone());
        self.schedule((link, Side::Acceptor), delay_ns, What::Dial);
        self.schedule(at, self.options.handshake_timeout_ns, What::HandshakeTimeout);
        Ok(connection)
    }

    /// Makes a process the owner of an end, with a name and a window; `None` where it has no room
    /// for one more, or is dead.
    fn enter(&mut self, at: (LinkId, Side), id: ProcessId) -> Option<ConnectionId> {
        let (initial, max) = (self.options.window_pages_initial, self.options.window_pages_max);
        let process = self.process(id)?;
        let (identity, connection) = (process.identity, process.name(at)?);
        let end = self.links.get_mut(&at.0)?.end_mut(at.1);
        end.process = Some(id);
        end.identity = Some(identity);
        end.connection = connection;
        end.stage = Stage::Opening;
        let region = end.landing.grow(initial, max);
        self.report(at, region?);
        Some(connection)
    }

    /// The window of an end has a new region: its process is to take it before the peer may know.
    pub(super) fn report(&mut self, at: (LinkId, Side), region: Region) {
        let process = self.links.get(&at.0).and_then(|link| link.end(at.1).process);
        let Some(process) = process.and_then(|id| self.process(id)) else { return };
        if !process.reports_regions {
            return self.reported(at, &[]);
        }
        process.regions.push(RegionEvent::Added(region));
        process.unreported.push(at);
    }

    /// Somebody wishes to connect.
    pub(super) fn dial(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        if !link.end(Side::Initiator).is_live() {
            return;
        }
        let mut all = self.processes.values();
        let listener = all.find(|process| process.listening.contains(&link.address));
        let Some(listener) = listener.map(|process| process.id) else {
            return self.refuse(id, CloseReason::Io(Errno::CONNREFUSED));
        };
        if self.enter((id, Side::Acceptor), listener).is_none() {
            self.refuse(id, CloseReason::RefusedByPeer(Refusal::Resources));
        }
    }

    fn refuse(&mut self, link: LinkId, reason: CloseReason) {
        self.send_word((link, Side::Initiator), What::Reset { reason });
    }

    /// What there is to say of regions, and the ends that wait for it.
    pub(super) fn take_regions(
        &mut self,
        id: ProcessId,
    ) -> (Vec<RegionEvent>, Vec<(LinkId, Side)>) {
        let Some(process) = self.process(id) else { return Default::default() };
        process.poll_retiring();
        (std::mem::take(&mut process.regions), std::mem::take(&mut process.unreported))
    }

    /// The process has taken the newest region of an end, or refused it.
    pub(super) fn reported(&mut self, at: (LinkId, Side), refused: &[RegionId]) {
        let Some(link) = self.links.get(&at.0) else { return };
        let end = link.end(at.1);
        if end.landing.last_region().is_some_and(|region| refused.contains(&region)) {
            return self.refuse_region(at);
        }
        if !end.is_live() {
            return;
        }
        // The peer may be done with the handshake before this end is, and wish for more already.
        if end.confirmed {
            self.tell_grant(at);
        } else {
            self.confirm(at);
        }
    }

    /// An end does not take its own window.
    fn refuse_region(&mut self, at: (LinkId, Side)) {
        let opening = self.links[&at.0].end(at.1).stage == Stage::Opening;
        if opening && at.1 == Side::Acceptor {
            self.refuse(at.0, CloseReason::RefusedByPeer(Refusal::Resources));
        }
        self.end_in_turn(at, CloseReason::RegionRefused);
    }

    /// One end's window may be told of; once both may, the handshake comes to its end.
    fn confirm(&mut self, (id, side): (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.end_mut(side).confirmed = true;
        if !link.end(side.other()).confirmed {
            return;
        }
        for side in Side::BOTH {
            let pages = link.end(side).landing.pages();
            link.end_mut(side).landing.acknowledge();
            link.end_mut(side.other()).credits.grow(pages);
        }
        Side::BOTH.into_iter().for_each(|side| self.send_word((id, side), What::Establish));
    }

    /// The handshake is done at one end.
    pub(super) fn establish(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let peer = link.end(at.1.other()).identity.expect("an end that confirmed has a process");
        let end = link.end_mut(at.1);
        if end.stage != Stage::Opening || end.ending {
            return;
        }
        end.stage = Stage::Open;
        let (connection, mine) = (end.connection, end.process);
        if let Some(process) = mine.and_then(|id| self.process(id)) {
            process.counters.connections_opened += 1;
        }
        let initiated = at.1 == Side::Initiator;
        self.tell(at, Pending::Connected { connection, peer, initiated });
        self.settle(at);
    }

    /// A handshake has taken too long.
    pub(super) fn expire(&mut self, id: LinkId) {
        for side in Side::BOTH {
            let stage = self.links.get(&id).map(|link| link.end(side).stage);
            if stage == Some(Stage::Opening) {
                self.conclude((id, side), CloseReason::HandshakeTimeout);
            }
        }
    }
}
