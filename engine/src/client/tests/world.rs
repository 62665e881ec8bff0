//! A modelled network with the servers behind it, all in one thread and from one seed.
//!
//! Frames are delayed, in order within a connection and direction. Payload of a read is written
//! into the client's window some time before its frame arrives. Connections may drop; what was
//! sent to a server before may still reach it afterwards, what it sends does not.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use culvert_memory::{Buffer, PAGE_SIZE, Pages};

use super::link::Link;
use super::server::{Answer, Servers};
use crate::cluster::{Cluster, EndpointIndex};
use crate::network::*;
use crate::wire::{FrameKind, Request, parse_header};

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What goes wrong, each in so many of a thousand cases.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub connect_fails: u64,
    /// Per client turn.
    pub drop_connection: u64,
    /// Per client turn.
    pub change_leader: u64,
    /// Per client turn.
    pub expire_sessions: u64,
    pub busy: u64,
    /// A request is lost before it is executed, without an answer.
    pub lose_request: u64,
    /// A request is executed and its answer lost.
    pub lose_reply: u64,
    pub duplicate_reply: u64,
    /// A frame takes up to 3 s.
    pub slow: u64,
    pub corrupt_read: u64,
    pub damage_write: u64,
    /// A hint is missing or names any replica.
    pub bad_hint: u64,
    pub media: u64,
    /// No connection is made over shared memory.
    pub no_shm: bool,
    /// No replica leads or knows a leader.
    pub no_leader: bool,
}

#[derive(Debug)]
pub enum OwnedEvent {
    Connected(ConnectionId, Identity),
    Frame(ConnectionId, Vec<u8>),
    Writable(ConnectionId),
    Closed(ConnectionId, CloseReason),
}

/// Something that happens at a time.
#[derive(Debug)]
enum Happening {
    Connect(ConnectionId),
    ToServer(ConnectionId, EndpointIndex, Vec<u8>, Vec<Pages>, u32),
    /// Bytes for the client's window, and how often its pages had been given out at the request.
    Payload(ConnectionId, Placement, Vec<u64>, Vec<u8>),
    ToClient(ConnectionId, Vec<u8>),
    Credit(ConnectionId, u32),
    Grown(ConnectionId),
    Commit(u64),
}

pub struct World {
    pub cluster: Cluster,
    pub now_ns: u64,
    pub random: Random,
    pub faults: Faults,
    pub servers: Servers,
    /// Nodes that cannot be reached.
    pub down: Vec<usize>,
    /// Nodes that are stopped: what comes to them stays where it is.
    pub stopped: Vec<usize>,
    /// Pages of a new connection's windows, and to what they may grow.
    pub window_pages: (u32, u32),
    /// Frames of one connection on their way to the server.
    pub queue_frames: usize,
    /// Frames from one direction take so long, and up to twice that.
    pub delay_ns: u64,
    /// All connections ever made.
    pub links: Vec<Link>,
    events: VecDeque<OwnedEvent>,
    happenings: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    /// Connections asked for, by address.
    pub asked: Vec<Address>,
    pub requests_seen: u64,
    /// Whoever answers says that it is somebody else.
    pub impostor: bool,
    /// Copyset, session and number of all changes, and of all else something unique.
    numbers: HashSet<(u32, u64, u64)>,
}

fn number_of(frame: &[u8]) -> (u32, u64, u64) {
    let (_, _, body) = parse_header(frame).expect("a client sends frames");
    let request = Request::parse(body).expect("a client sends requests");
    match request.request.0 {
        0 => (0, 0, request.token),
        number => (request.copyset.0, request.session.0, number),
    }
}

/// The client's handle.
#[derive(Clone)]
pub struct ModelNetwork(pub Rc<RefCell<World>>);

impl ModelNetwork {
    pub fn new(cluster: Cluster, seed: u64) -> ModelNetwork {
        let servers = Servers::new(&cluster);
        ModelNetwork(Rc::new(RefCell::new(World {
            cluster,
            now_ns: 0,
            random: Random(seed),
            faults: Faults::default(),
            servers,
            down: Vec::new(),
            stopped: Vec::new(),
            window_pages: (64, 512),
            queue_frames: 64,
            delay_ns: 10_000,
            links: Vec::new(),
            events: VecDeque::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            asked: Vec::new(),
            requests_seen: 0,
            impostor: false,
            numbers: HashSet::new(),
        })))
    }
}

impl World {
    pub fn next_happening_ns(&self) -> Option<u64> {
        if self.events.is_empty() {
            self.happenings.first_key_value().map(|((at_ns, _), _)| *at_ns)
        } else {
            Some(self.now_ns)
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.happenings.is_empty()
    }

    /// Something arrives at the client that no server sends.
    pub fn inject(&mut self, event: OwnedEvent) {
        self.events.push_back(event);
    }

    fn link(&mut self, connection: ConnectionId) -> Option<&mut Link> {
        self.links.get_mut(connection.generation() as usize).filter(|link| link.open)
    }

    /// The lowest slot that no open connection has: one that was closed leaves its own at once,
    /// before its end is told. Generations are places in `links`.
    fn free_id(&self) -> ConnectionId {
        let taken = |slot: &u32| self.links.iter().any(|link| link.open && link.id.slot() == *slot);
        let slot = (0..).find(|slot| !taken(slot)).expect("there are always more numbers");
        ConnectionId::new(slot, self.links.len() as u32)
    }

    fn happen(&mut self, after_ns: u64, happening: Happening) {
        self.sequence += 1;
        self.happenings.insert((self.now_ns + after_ns, self.sequence), happening);
    }

    fn delay(&mut self) -> u64 {
        if self.random.chance(self.faults.slow) {
            return self.random.below(3_000_000_000);
        }
        self.delay_ns + self.random.below(self.delay_ns)
    }

    fn run(&mut self, now_ns: u64) {
        while let Some(entry) = self.happenings.first_entry() {
            if entry.key().0 > now_ns {
                break;
            }
            let ((at_ns, _), happening) = entry.remove_entry();
            self.now_ns = self.now_ns.max(at_ns);
            self.do_happen(happening);
        }
        self.now_ns = now_ns.max(self.now_ns);
        self.misfortune();
    }

    fn do_happen(&mut self, happening: Happening) {
        let stopped = match &happening {
            Happening::ToServer(_, endpoint, ..) => self.stopped.contains(&endpoint.node),
            Happening::Connect(connection) => {
                let node = self.links.iter().find(|link| link.id == *connection);
                node.is_some_and(|link| self.stopped.contains(&link.endpoint.node))
            }
            _ => false,
        };
        if stopped {
            return self.happen(10_000_000, happening);
        }
        match happening {
            Happening::Connect(connection) => self.finish_connecting(connection),
            Happening::ToServer(connection, endpoint, frame, payload, pages) => {
                self.arrive(connection, endpoint, &frame, &payload);
                if let Some(link) = self.link(connection) {
                    link.queued -= 1;
                    if std::mem::take(&mut link.queue_refused) {
                        self.events.push_back(OwnedEvent::Writable(connection));
                    }
                }
                let delay = self.delay();
                if pages > 0 {
                    self.happen(delay, Happening::Credit(connection, pages));
                }
            }
            Happening::Payload(connection, placement, uses, bytes) => {
                if let Some(link) = self.link(connection) {
                    link.write(placement, &uses, &bytes);
                }
            }
            Happening::ToClient(connection, frame) => {
                if self.link(connection).is_some() {
                    self.events.push_back(OwnedEvent::Frame(connection, frame));
                }
            }
            Happening::Credit(connection, pages) => {
                if let Some(link) = self.link(connection)
                    && link.credit(pages)
                {
                    self.events.push_back(OwnedEvent::Writable(connection));
                }
            }
            Happening::Grown(connection) => {
                if let Some(link) = self.link(connection) {
                    link.grow();
                    self.events.push_back(OwnedEvent::Writable(connection));
                }
            }
            Happening::Commit(proposal) => {
                let answers = self.servers.commit(proposal, &mut self.random);
                self.answer_all(answers);
            }
        }
    }

    fn finish_connecting(&mut self, connection: ConnectionId) {
        let shm = matches!(self.asked[connection.generation() as usize], Address::Shm(_));
        let fails = self.random.chance(self.faults.connect_fails) || (shm && self.faults.no_shm);
        let Some(link) = self.link(connection) else { return };
        let endpoint = link.endpoint;
        link.established = true;
        if fails || self.down.contains(&endpoint.node) {
            self.drop_connection(connection, CloseReason::HandshakeTimeout);
            return;
        }
        let mut node = self.cluster.nodes()[endpoint.node].uuid;
        if self.impostor {
            node = self.cluster.uuid();
        }
        let identity = Identity { node, kind: PeerKind::Node, endpoint: endpoint.reactor as u32 };
        self.events.push_back(OwnedEvent::Connected(connection, identity));
    }

    pub fn drop_connection(&mut self, connection: ConnectionId, reason: CloseReason) {
        if let Some(link) = self.link(connection) {
            link.close();
            self.events.push_back(OwnedEvent::Closed(connection, reason));
        }
    }

    /// Takes a node down: its connections drop and no new ones are made.
    pub fn take_down(&mut self, node: usize) {
        self.down.push(node);
        let links: Vec<_> = self.links.iter().filter(|link| link.endpoint.node == node).collect();
        let ids: Vec<_> = links.iter().map(|link| link.id).collect();
        for id in ids {
            self.drop_connection(id, CloseReason::PeerVanished);
        }
        self.servers.depose_node(node, &self.cluster, &mut self.random);
    }

    /// What goes wrong by itself, once per turn of the client.
    fn misfortune(&mut self) {
        if self.random.chance(self.faults.drop_connection) && !self.links.is_empty() {
            let index = self.random.below(self.links.len() as u64) as usize;
            let id = self.links[index].id;
            if self.links[index].established {
                self.drop_connection(id, CloseReason::PeerVanished);
            }
        }
        if self.random.chance(self.faults.change_leader) {
            let answers = self.servers.change_leader(&mut self.random);
            self.answer_all(answers);
        }
        if self.random.chance(self.faults.expire_sessions) {
            self.servers.expire_sessions(&mut self.random);
        }
    }

    /// A frame reaches a server.
    fn arrive(
        &mut self,
        connection: ConnectionId,
        endpoint: EndpointIndex,
        frame: &[u8],
        payload: &[Pages],
    ) {
        if self.down.contains(&endpoint.node) {
            return;
        }
        self.requests_seen += 1;
        let (kind, _, body) = parse_header(frame).expect("a client sends frames");
        assert_eq!(kind, FrameKind::Request);
        let request = Request::parse(body).expect("a client sends requests");
        if self.random.chance(self.faults.lose_request) {
            return;
        }
        let context = (connection, endpoint);
        let (faults, random) = (&self.faults, &mut self.random);
        let (answers, proposal) =
            self.servers.handle(&self.cluster, context, &request, payload, faults, random);
        if let Some(proposal) = proposal {
            let delay = self.delay();
            self.happen(delay, Happening::Commit(proposal));
        }
        self.answer_all(answers);
    }

    pub fn answer_all(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            if self.random.chance(self.faults.lose_reply) {
                continue;
            }
            if self.random.chance(self.faults.duplicate_reply) && answer.payload.is_none() {
                self.answer(&answer);
            }
            self.answer(&answer);
        }
    }

    fn answer(&mut self, answer: &Answer) {
        let delay = self.delay();
        let now_ns = self.now_ns;
        let corrupt = self.random.chance(self.faults.corrupt_read);
        let early = self.random.below(delay);
        let Some(link) = self.link(answer.connection) else { return };
        // In order: not before what was sent before.
        let at_ns = (now_ns + delay).max(link.last_to_client_ns);
        link.last_to_client_ns = at_ns;
        if let Some((page, bytes)) = &answer.payload {
            let pages = (bytes.len() / PAGE_SIZE) as u32;
            let placement = Placement::named(*page, pages).expect("a place that was named");
            let uses = link.requested[&answer.token].clone();
            let mut bytes = bytes.clone();
            if corrupt {
                let at = early as usize % bytes.len();
                bytes[at] ^= 1;
            }
            let happening = Happening::Payload(answer.connection, placement, uses, bytes);
            self.happen(early, happening);
        }
        let frame = answer.frame.clone();
        self.happen(at_ns - now_ns, Happening::ToClient(answer.connection, frame));
    }
}

impl Network for ModelNetwork {
    fn listen(&mut self, _: &Address) -> Result<Address, ListenError> {
        Err(ListenError::InUse)
    }

    fn connect(
        &mut self,
        address: &Address,
        window: WindowMode,
    ) -> Result<ConnectionId, ConnectError> {
        assert_eq!(window, WindowMode::Named);
        let world = &mut *self.0.borrow_mut();
        world.asked.push(address.clone());
        let nodes = world.cluster.nodes().iter().enumerate();
        let mut reactors = nodes.flat_map(|(node, of)| {
            of.reactors.iter().enumerate().map(move |(reactor, of)| (node, reactor, of))
        });
        let found = reactors.find(|(_, _, reactor)| reactor.addresses.contains(address));
        let (node, reactor, _) = found.expect("an address of the cluster file");
        let id = world.free_id();
        let endpoint = EndpointIndex { node, reactor };
        world.links.push(Link::new(id, endpoint, world.window_pages));
        let delay = world.delay_ns + world.random.below(world.delay_ns);
        world.happen(delay, Happening::Connect(id));
        Ok(id)
    }

    fn poll(&mut self, now_ns: u64, budget: usize, handler: &mut dyn FnMut(Event<'_>)) -> usize {
        self.0.borrow_mut().run(now_ns);
        for count in 0..budget {
            let Some(event) = self.0.borrow_mut().events.pop_front() else { return count };
            let payloads = &mut Payloads::new();
            handler(match &event {
                OwnedEvent::Connected(connection, peer) => Event::Connected {
                    connection: *connection,
                    peer: *peer,
                    initiated: true,
                    scheme: "tcp",
                },
                OwnedEvent::Frame(connection, bytes) => {
                    Event::Frame { connection: *connection, class: Class::Data, bytes, payloads }
                }
                OwnedEvent::Writable(connection) => Event::Writable { connection: *connection },
                OwnedEvent::Closed(connection, reason) => {
                    Event::Closed { connection: *connection, reason: *reason }
                }
            });
        }
        budget
    }

    fn reserve(&mut self, connection: ConnectionId, pages: u32) -> Option<Placement> {
        let world = &mut *self.0.borrow_mut();
        let reserved = world.link(connection)?.reserve(pages);
        if reserved.is_none() && world.link(connection)?.wish_to_grow() {
            let delay = world.delay();
            world.happen(delay, Happening::Grown(connection));
        }
        reserved
    }

    fn cancel(&mut self, connection: ConnectionId, placement: Placement) {
        if let Some(link) = self.0.borrow_mut().link(connection) {
            link.cancel(placement);
        }
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        class: Class,
        frame: &[u8],
        payloads: &[(Placement, Pages)],
    ) -> Result<(), SendError> {
        assert_eq!(class, Class::Data);
        let world = &mut *self.0.borrow_mut();
        let (delay, now_ns, limit) = (world.delay(), world.now_ns, world.queue_frames);
        let number = number_of(frame);
        let repeated = world.numbers.contains(&number);
        let link = world.link(connection).ok_or(SendError::Closed)?;
        if link.queued == limit {
            link.queue_refused = true;
            return Err(SendError::Full);
        }
        let pages = payloads.iter().map(|(placement, _)| placement.pages()).sum();
        link.check_sent(pages, repeated);
        link.queued += 1;
        link.note_request(frame);
        let at_ns = (now_ns + delay).max(link.last_to_server_ns);
        link.last_to_server_ns = at_ns;
        let endpoint = link.endpoint;
        let content = payloads.iter().map(|(_, content)| content.clone()).collect();
        let happening = Happening::ToServer(connection, endpoint, frame.to_vec(), content, pages);
        world.happen(at_ns - now_ns, happening);
        world.numbers.insert(number);
        Ok(())
    }

    fn post(&mut self, _: u64) {}

    fn close(&mut self, connection: ConnectionId, reason: &'static str) {
        self.0.borrow_mut().drop_connection(connection, CloseReason::Caller(reason));
    }

    fn acquire_named(&mut self, connection: ConnectionId, pages: u32) -> Option<Buffer> {
        let world = &mut *self.0.borrow_mut();
        let acquired = world.link(connection)?.acquire_named(pages);
        if acquired.is_none() && world.link(connection)?.wish_to_grow() {
            let delay = world.delay();
            world.happen(delay, Happening::Grown(connection));
        }
        acquired
    }

    fn named_page(&self, connection: ConnectionId, buffer: &Buffer) -> Option<u32> {
        self.0.borrow_mut().link(connection)?.page_of(buffer)
    }

    fn window_pages_granted(&self, connection: ConnectionId) -> u32 {
        self.0.borrow_mut().link(connection).map_or(0, |link| link.granted)
    }

    fn regions(&mut self, _: &mut RegionHandler<'_>) {}

    fn counters(&self) -> NetworkCounters {
        NetworkCounters::default()
    }

    fn prepare_sleep(&mut self) -> bool {
        true
    }

    fn unsent_pages(&self, _: ConnectionId) -> u32 {
        0
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }

    fn finish_sleep(&mut self) {}

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
