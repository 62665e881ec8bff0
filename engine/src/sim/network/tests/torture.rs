//! Many processes that do whatever they may, while everything happens to them that can. The
//! contract's rules are asserted throughout.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use culvert::network::{
    Class, CloseReason, ConnectionId, Network, Placement, SendError, WindowMode,
};
use culvert_memory::{Buffer, Pages};

use super::rig::{Seen, Side, is_pattern, named};
use crate::sim::network::{Fabric, FabricInjected, FabricOptions, address_of};
use crate::sim::random::Random;

const NODES: usize = 3;
const HOSTS: usize = 5;

/// What the actors say to each other.
#[derive(Clone, Copy, Debug)]
struct Message {
    kind: Kind,
    /// Counts the frames of a class on a connection.
    number: u64,
    /// Names a request; its lowest byte is the pattern of the payloads.
    token: u64,
    page: u32,
    pages: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain = 0,
    Request = 1,
    Answer = 2,
}

impl Message {
    fn emit(self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8];
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.token.to_le_bytes());
        bytes.extend(self.page.to_le_bytes());
        bytes.extend(self.pages.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Message {
        let kind = [Kind::Plain, Kind::Request, Kind::Answer][usize::from(bytes[0])];
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Message { kind, number: long(1), token: long(9), page: word(17), pages: word(21) }
    }
}

/// One end of a connection as its process knows it.
#[derive(Default)]
struct Known {
    connected: bool,
    /// Closed by this process, or a call was answered so: the event is still to come.
    closing: bool,
    sent: [u64; 2],
    received: [u64; 2],
    /// Requests without an answer, and where it lands.
    asked: BTreeMap<u64, Buffer>,
    owed: VecDeque<Message>,
}

/// A process.
struct Actor {
    side: Side,
    known: BTreeMap<ConnectionId, Known>,
    closed: BTreeSet<ConnectionId>,
    /// Payload that is kept for a while, with its pattern.
    held: Vec<(Buffer, u8)>,
    tokens: u64,
    /// Over everything that it was told.
    hash: u64,
}

impl Actor {
    fn start(fabric: &Fabric, host: usize) -> Actor {
        Actor {
            side: Side::start(fabric, host),
            known: BTreeMap::new(),
            closed: BTreeSet::new(),
            held: Vec::new(),
            tokens: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn note(&mut self, text: &str) {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn turn(&mut self) {
        self.side.turn();
        for seen in std::mem::take(&mut self.side.seen) {
            match seen {
                Seen::Connected { connection, initiated } => self.connected(connection, initiated),
                Seen::Frame { connection, class, bytes, payloads } => {
                    self.frame(connection, class, Message::parse(&bytes), payloads);
                }
                Seen::Writable(connection) => {
                    self.note(&format!("writable {connection}"));
                    assert!(self.known[&connection].connected);
                }
                Seen::Closed { connection, reason } => self.closed(connection, reason),
            }
        }
    }

    fn connected(&mut self, connection: ConnectionId, initiated: bool) {
        self.note(&format!("connected {connection} {initiated}"));
        assert!(!self.closed.contains(&connection));
        assert_eq!(self.known.contains_key(&connection), initiated);
        let known = self.known.entry(connection).or_default();
        assert!(!std::mem::replace(&mut known.connected, true), "once");
    }

    fn frame(&mut self, id: ConnectionId, class: Class, message: Message, payloads: Vec<Buffer>) {
        self.note(&format!("frame {id} {class:?} {message:?} {}", payloads.len()));
        let known = self.known.get_mut(&id).expect("no frame after the close");
        assert!(known.connected, "no frame before the connection");
        assert!(!known.closing, "no frame once it was closed");
        let received = &mut known.received[class as usize - 1];
        assert_eq!(message.number, *received, "in order, none left out");
        *received += 1;
        let pattern = message.token as u8;
        assert!(payloads.iter().all(|payload| is_pattern(payload, pattern)), "payload is whole");
        match message.kind {
            Kind::Plain => {}
            Kind::Request => known.owed.push_back(message),
            Kind::Answer => {
                let landed = known.asked.remove(&message.token).expect("it was asked");
                assert!(is_pattern(&landed, pattern), "the answer is whole");
            }
        }
        self.held.extend(payloads.into_iter().map(|payload| (payload, pattern)));
    }

    fn closed(&mut self, id: ConnectionId, reason: CloseReason) {
        self.note(&format!("closed {id} {reason:?}"));
        let known = self.known.remove(&id).expect("closed once");
        assert!(known.closing || !matches!(reason, CloseReason::Caller(_)));
        assert!(self.closed.insert(id));
        assert_eq!(self.side.network.reserve(id, 1), None);
        assert_eq!(self.side.network.send(id, Class::Data, b"", &[]), Err(SendError::Closed));
        assert_eq!(self.side.network.unsent_pages(id), 0);
    }

    /// Does something.
    fn act(&mut self, host: usize, random: &mut Random) {
        let open = self.known.iter().filter(|(_, known)| known.connected && !known.closing);
        let open: Vec<ConnectionId> = open.map(|(id, _)| *id).collect();
        if open.is_empty() || (self.known.len() < 6 && random.chance(20_000)) {
            if self.known.len() < 6 {
                self.connect(host, random);
            }
            return;
        }
        let id = open[random.below(open.len() as u64) as usize];
        match random.below(100) {
            0 => self.close(id),
            1..35 => self.say(id, random),
            35..60 => self.ask(id, random),
            60..80 => self.answer(id),
            _ => self.let_go(random),
        }
    }

    fn connect(&mut self, host: usize, random: &mut Random) {
        let node = random.below(NODES as u64) as usize;
        let mode = if host < NODES { WindowMode::Granted } else { WindowMode::Named };
        let connected = self.side.network.connect(&address_of(node), mode);
        self.known.insert(connected.expect("room"), Known::default());
    }

    fn close(&mut self, id: ConnectionId) {
        self.side.network.close(id, "enough");
        self.known.get_mut(&id).expect("it is open").closing = true;
    }

    /// A frame with payload into the peer's window, if it is a granted one.
    fn say(&mut self, id: ConnectionId, random: &mut Random) {
        let token = random.bits();
        let class = if random.chance(500_000) { Class::Control } else { Class::Data };
        let mut payloads = Vec::new();
        for _ in 0..random.below(3) {
            let pages = 1 + random.below(4) as u32;
            let Some(place) = self.side.network.reserve(id, pages) else { break };
            payloads.push((place, self.side.pages(pages, token as u8)));
        }
        let message = Message { kind: Kind::Plain, number: 0, token, page: 0, pages: 0 };
        if !self.send(id, class, message, &payloads) {
            payloads.iter().for_each(|(place, _)| self.side.network.cancel(id, *place));
        }
    }

    fn ask(&mut self, id: ConnectionId, random: &mut Random) {
        let pages = 1 + random.below(6) as u32;
        let Some(buffer) = self.side.network.acquire_named(id, pages) else { return };
        let page = self.side.network.named_page(id, &buffer).expect("of this window");
        let token = self.tokens;
        self.tokens += 1;
        if self.send(
            id,
            Class::Data,
            Message { kind: Kind::Request, number: 0, token, page, pages },
            &[],
        ) {
            self.known.get_mut(&id).expect("it is open").asked.insert(token, buffer);
        }
    }

    fn answer(&mut self, id: ConnectionId) {
        let Some(request) = self.known[&id].owed.front().copied() else { return };
        let content = self.side.pages(request.pages, request.token as u8);
        let payload = [(named(request.page, request.pages), content)];
        if self.send(id, Class::Data, Message { kind: Kind::Answer, ..request }, &payload) {
            self.known.get_mut(&id).expect("it is open").owed.pop_front();
        }
    }

    /// Sends with the next number; `false` where nothing was taken.
    fn send(
        &mut self,
        id: ConnectionId,
        class: Class,
        message: Message,
        payloads: &[(Placement, Pages)],
    ) -> bool {
        let known = self.known.get_mut(&id).expect("it is open");
        let number = &mut known.sent[class as usize - 1];
        let frame = Message { number: *number, ..message }.emit();
        match self.side.network.send(id, class, &frame, payloads) {
            Ok(()) => *number += 1,
            Err(SendError::Closed) => {
                known.closing = true;
                return false;
            }
            Err(refused) => {
                assert_eq!(refused, SendError::Full, "it is in the window");
                return false;
            }
        }
        true
    }

    /// Drops payload that was kept: nobody has written it meanwhile.
    fn let_go(&mut self, random: &mut Random) {
        let count = random.below(self.held.len() as u64 + 1) as usize;
        for (buffer, pattern) in self.held.drain(..count) {
            assert!(is_pattern(&buffer, pattern), "a page that is held is not written");
        }
    }

    fn let_go_of_all(&mut self) {
        self.held.clear();
        assert_eq!(self.side.pool.free_pages(), self.side.pool.total_pages());
    }
}

/// Something happens to the network.
fn disturb(fabric: &Fabric, actors: &mut [Actor], random: &mut Random) -> u64 {
    let mut pick = || random.below(HOSTS as u64) as usize;
    let (a, b) = (pick(), pick());
    match random.below(10) {
        0 => {
            fabric.kill(a);
            actors[a].known.clear();
            actors[a].let_go_of_all();
            let hash = actors[a].hash;
            actors[a] = Actor::start(fabric, a);
            return hash;
        }
        1..3 => fabric.cut(a, b),
        3..5 => fabric.partition(a, b),
        5..8 => fabric.heal(a, b),
        _ => fabric.slow(a, b, 1 + random.below(20)),
    }
    0
}

/// Everything calms down: all connections come to their end and nothing is left of them.
fn calm(fabric: &Fabric, actors: &mut [Actor], mut now_ns: u64) {
    for (a, b) in (0..HOSTS).flat_map(|a| (0..HOSTS).map(move |b| (a, b))) {
        fabric.heal(a, b);
    }
    loop {
        for actor in actors.iter_mut() {
            actor.turn();
            let ids: Vec<ConnectionId> = actor.known.keys().copied().collect();
            ids.into_iter().for_each(|id| actor.close(id));
            actor.held.clear();
        }
        if (0..HOSTS).any(|host| fabric.has_events(host)) {
            continue;
        }
        let Some(next_ns) = fabric.next_ns() else { break };
        now_ns = now_ns.max(next_ns);
        fabric.advance(now_ns);
    }
    for actor in actors.iter_mut() {
        assert!(actor.known.is_empty(), "every connection was closed");
        actor.let_go_of_all();
        actor.side.assert_nothing_lost();
    }
    assert!(fabric.state.borrow().links.is_empty(), "nothing is left of any connection");
}

/// Runs for some steps and answers a hash over all that was seen.
fn torture(seed: u64, steps: usize) -> (u64, FabricInjected) {
    let mut random = Random::new(seed);
    let options = FabricOptions {
        window_pages_initial: 6,
        window_pages_max: 22,
        segment_pages: 8,
        data_queue_bytes: 4096,
        control_queue_bytes: 4096,
        partition_break_ns: 5_000_000..50_000_000,
        ..FabricOptions::default()
    };
    let fabric = Fabric::new(options, random.fork("network"));
    let mut actors: Vec<Actor> = (0..HOSTS).map(|host| Actor::start(&fabric, host)).collect();
    let (mut now_ns, mut hash) = (0, 0u64);
    for _ in 0..steps {
        now_ns += random.below(20_000);
        fabric.advance(now_ns);
        let host = random.below(HOSTS as u64) as usize;
        actors[host].turn();
        for _ in 0..random.below(4) {
            actors[host].act(host, &mut random);
        }
        if random.chance(3_000) {
            hash = hash.rotate_left(1) ^ disturb(&fabric, &mut actors, &mut random);
        }
    }
    calm(&fabric, &mut actors, now_ns);
    let hashes = actors.iter().map(|actor| actor.hash);
    (hashes.fold(hash, |hash, next| hash.rotate_left(1) ^ next), fabric.injected())
}

#[test]
fn the_contract_holds_whatever_happens() {
    let mut total = FabricInjected::default();
    for seed in 0..12 {
        let (_, injected) = torture(seed, 10_000);
        total.kills += injected.kills;
        total.connections_broken += injected.connections_broken;
        total.frames_lost += injected.frames_lost;
        total.held += injected.held;
        total.late_sectors += injected.late_sectors;
    }
    assert!(total.kills > 0 && total.connections_broken > 0 && total.frames_lost > 0);
    assert!(total.held > 0 && total.late_sectors > 0);
}

#[test]
fn equal_seeds_give_equal_events() {
    for seed in 100..103 {
        assert_eq!(torture(seed, 3_000), torture(seed, 3_000));
    }
    assert_ne!(torture(100, 3_000), torture(101, 3_000));
}
