//! Everything that the fabric knows, and the course of its time.

use std::collections::BTreeMap;

use culvert::network::{ConnectionId, Identity};

use super::agenda::{Agenda, Bound, Due, Entry, What};
use super::link::{Link, LinkId, Side, Stage};
use super::options::{FabricInjected, FabricOptions};
use super::process::{Pending, Process, ProcessId};
use super::weather::Weather;
use crate::sim::random::Random;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: FabricOptions,
    pub(super) random: Random,
    pub(super) now_ns: u64,
    pub(super) agenda: Agenda,
    pub(super) weather: Weather,
    pub(super) processes: BTreeMap<usize, Process>,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) injected: FabricInjected,
    processes_started: u64,
    links_begun: u64,
    pub(super) flights_begun: u64,
}

impl State {
    pub(super) fn new(options: FabricOptions, random: Random) -> State {
        options.check();
        State {
            options,
            random,
            now_ns: 0,
            agenda: Agenda::default(),
            weather: Weather::default(),
            processes: BTreeMap::new(),
            links: BTreeMap::new(),
            injected: FabricInjected::default(),
            processes_started: 0,
            links_begun: 0,
            flights_begun: 0,
        }
    }

    /// A new process on a host; the old one there is dead from here on.
    pub(super) fn start(&mut self, host: usize, identity: Identity) -> ProcessId {
        self.die(host);
        let id = ProcessId { host, number: self.processes_started };
        self.processes_started += 1;
        self.processes.insert(host, Process::new(id, identity, self.options.connections_max));
        id
    }

    /// Carries out everything that is due by `now_ns`.
    pub(super) fn advance(&mut self, now_ns: u64) {
        while let Some((at_ns, entry)) = self.agenda.pop(now_ns) {
            self.now_ns = self.now_ns.max(at_ns);
            match entry {
                Entry::Due(due) => self.carry_out(due),
                Entry::Bound(bound) => self.reach_bound(bound),
            }
        }
        self.now_ns = self.now_ns.max(now_ns);
    }

    fn carry_out(&mut self, due: Due) {
        let Some(link) = self.links.get(&due.link) else { return };
        let route = link.route(due.to);
        if due.what.travels() && self.weather.blocks(route) {
            self.injected.held += 1;
            return self.weather.hold(route, due);
        }
        if due.what.is_lost_when_severed() && link.way(due.to.other()).severed {
            return;
        }
        let at = (due.link, due.to);
        match due.what {
            What::Dial => self.dial(due.link),
            What::Establish => self.establish(at),
            What::HandshakeTimeout => self.expire(due.link),
            What::Arrival { flight } => self.arrive(at, flight),
            What::Sectors { flight, group } => self.land(at, flight, group),
            What::Credit { run } => self.credit(at, run),
            What::Room { class, bytes } => self.make_room(at, class, bytes),
            What::Want => self.take_want(at),
            What::Grant { pages } => self.take_grant(at, pages),
            What::Taken => self.take_taken(at),
            What::Fin => self.take_fin(at),
            What::Reset { reason } | What::Notice { reason } => self.conclude(at, reason),
        }
    }

    /// Has something happen at an end after the usual time for it.
    pub(super) fn send_word(&mut self, (link, to): (LinkId, Side), what: What) {
        let delay_ns = self.latency_ns(link, to);
        self.schedule((link, to), delay_ns, what);
    }

    /// Has something happen at an end so much later.
    pub(super) fn schedule(&mut self, (link, to): (LinkId, Side), delay_ns: u64, what: What) {
        self.agenda.schedule(self.now_ns + delay_ns, Entry::Due(Due { link, to, what }));
    }

    /// A time that something needs which arrives at `to`.
    pub(super) fn latency_ns(&mut self, link: LinkId, to: Side) -> u64 {
        let factor = self.links.get(&link).map_or(1, |link| self.weather.factor(link.route(to)));
        self.random.within(self.options.latency_ns.clone()) * factor
    }

    /// Begins to watch how long a partition lasts.
    pub(super) fn schedule_bound(&mut self, bound: Bound) {
        let delay_ns = self.random.within(self.options.partition_break_ns.clone());
        self.agenda.schedule(self.now_ns + delay_ns, Entry::Bound(bound));
    }

    /// The number of the next connection.
    pub(super) fn begin_link(&mut self, link: Link) -> LinkId {
        let id = LinkId(self.links_begun);
        self.links_begun += 1;
        self.links.insert(id, link);
        id
    }

    /// A process, while it is the one that lives on its host.
    pub(super) fn process(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(&id.host).filter(|process| process.id == id)
    }

    /// The end of a connection by its name; `None` once it is closed.
    pub(super) fn find(&self, id: ProcessId, connection: ConnectionId) -> Option<(LinkId, Side)> {
        let process = self.processes.get(&id.host).filter(|process| process.id == id)?;
        process.find(connection)
    }

    /// The same, where frames may be sent.
    pub(super) fn find_open(
        &self,
        id: ProcessId,
        connection: ConnectionId,
    ) -> Option<(LinkId, Side)> {
        let (link, side) = self.find(id, connection)?;
        let open = self.links[&link].end(side).stage == Stage::Open;
        open.then_some((link, side))
    }

    /// Has the process of an end poll something. Ends that never had a process have none to tell.
    pub(super) fn tell(&mut self, (link, side): (LinkId, Side), pending: Pending) {
        let process = self.links.get(&link).and_then(|link| link.end(side).process);
        if let Some(process) = process.and_then(|id| self.process(id)) {
            process.events.push_back(pending);
        }
    }

    /// Something that was refused at an end may go now.
    pub(super) fn tell_writable(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get(&at.0) else { return };
        let end = link.end(at.1);
        if end.stage == Stage::Open {
            let connection = end.connection;
            self.tell(at, Pending::Writable { connection });
        }
    }

    /// Forgets a connection that both ends are done with.
    pub(super) fn sweep(&mut self, link: LinkId) {
        if self.links.get(&link).is_some_and(Link::is_over) {
            self.links.remove(&link);
        }
    }
}
