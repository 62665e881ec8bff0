#![allow(unsafe_code)]
//! Peers that mean no good, straight on verbs: each costs itself its connection, and nobody else
//! anything. What they put into records is refused by the same code as over TCP, which
//! `tests/contract/hostile.rs` tries from all sides; here it is what only verbs can do.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_memory::{Backing, Buffer, PAGE_SIZE, Pool, PoolOptions};
use tracing::field::{Field, Visit};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use super::cm::{Channel, Happening, Id, PrivateData};
use super::device::{COMPLETIONS_MAX, Device, RECEIVE, Registration};
use super::ffi::{self, BindWindow, SendRequest, Sge, WorkCompletion};
use super::library::functions;
use super::link::Place;
use crate::config::RDMA_SLOTS;
use crate::handshake::message::tests::introduction;
use crate::handshake::message::{Confirm, Hello, WirePlace};
use crate::{
    Address, Class, CloseReason, ConnectionId, Event, Identity, PeerKind, Transport,
    TransportOptions, Violation, WindowMode, WorkStatus,
};

/// How long anything may take, in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The class control, in immediate data.
const CONTROL: u32 = 1 << 16;

/// The addresses of two devices that reach each other; says so where there are none.
fn addresses() -> Option<[IpAddr; 2]> {
    let Ok(text) = std::env::var("CULVERT_TEST_RDMA") else {
        println!(
            "skipped: no RDMA devices here (CULVERT_TEST_RDMA); scripts/softroce test has some"
        );
        return None;
    };
    let (server, client) = text.split_once(',').expect("two addresses with a comma between them");
    Some([server, client].map(|text| text.parse().expect("an IP address")))
}

fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    1 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn options(number: u128, kind: PeerKind) -> TransportOptions {
    let pool = PoolOptions { bytes: 16 << 20, backing: Backing::Ordinary, ..Default::default() };
    let pool = Pool::new(&PoolOptions { lock: false, ..pool }).expect("memory for a pool");
    let identity = Identity { node: Uuid::from_u128(number), kind, endpoint: 0 };
    let mut options = TransportOptions::new(identity, pool);
    options.lock_memory = false;
    options
}

/// Keeps warnings, as an operator would read them.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("one thread"))
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("one thread").push(line.0);
    }
}

/// One honest transport and what it has seen.
struct Side {
    transport: Transport,
    connected: Vec<ConnectionId>,
    closed: Vec<CloseReason>,
    frames: Vec<(Vec<u8>, Vec<Buffer>)>,
}

impl Side {
    fn new(options: TransportOptions) -> Self {
        let transport = Transport::new(options).expect("sensible options");
        Self { transport, connected: Vec::new(), closed: Vec::new(), frames: Vec::new() }
    }

    fn turn(&mut self) {
        let Self { transport, connected, closed, frames } = self;
        transport.poll(now(), 256, &mut |_, event| match event {
            Event::Connected { connection, .. } => connected.push(connection),
            Event::Closed { reason, .. } => closed.push(reason),
            Event::Frame { bytes, payloads, .. } => {
                frames.push((bytes.to_vec(), payloads.drain(..).collect()));
            }
            Event::Writable { .. } => {}
        });
        transport.post(now());
    }
}

/// A server with one honest connection beside the hostile ones.
struct Stage {
    server: Side,
    client: Side,
    honest: ConnectionId,
    address: SocketAddr,
    from: IpAddr,
    warnings: Warnings,
    _logging: tracing::subscriber::DefaultGuard,
}

impl Stage {
    fn new() -> Option<Self> {
        let [at, from] = addresses()?;
        let warnings = Warnings::default();
        let logging = tracing::subscriber::set_default(warnings.clone());
        let mut server = options(1, PeerKind::Node);
        server.handshake_timeout = Duration::from_secs(2);
        let mut server = Side::new(server);
        let address = Address::Rdma(SocketAddr::new(at, 0));
        let Address::Rdma(address) = server.transport.listen(&address).expect("a device") else {
            unreachable!("what was asked for")
        };
        let mut client = options(2, PeerKind::Client);
        client.source = Some(from);
        let mut client = Side::new(client);
        let peer = Address::Rdma(address);
        let honest = client.transport.connect(&peer, WindowMode::Granted).expect("it listens");
        let (_logging, honest) = (logging, honest);
        let mut stage = Self { server, client, honest, address, from, warnings, _logging };
        stage.until(|stage| stage.server.connected.len() == 1 && stage.client.connected.len() == 1);
        Some(stage)
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "it never came");
            self.client.turn();
            self.server.turn();
        }
    }

    /// The hostile peer is gone, with one clear line; everything else is as it was.
    fn expect(&mut self, what: &str, is_it: impl Fn(CloseReason) -> bool) {
        self.until(|stage| !stage.server.closed.is_empty());
        let closed = std::mem::take(&mut self.server.closed);
        assert!(closed.len() == 1 && is_it(closed[0]), "{what}: {closed:?}");
        assert_eq!(self.server.transport.connections().count(), 1, "{what}");
        let warnings = self.warnings.take();
        assert_eq!(warnings.len(), 1, "{what}: {warnings:?}");
        assert!(warnings[0].contains("address=rdma://"), "{what}: {warnings:?}");
        self.until(|stage| stage.server.transport.retiring_windows() == 0);
        // What was posted for the peer and not used goes with the next messages.
        self.honest_works();
        let verbs = self.server.transport.verbs().expect("it listens");
        assert_eq!(verbs.receives(), [(RDMA_SLOTS, RDMA_SLOTS)], "{what}: receives came back");
    }

    /// More frames than the connection has slots go both ways.
    fn honest_works(&mut self) {
        let server = self.server.connected[0];
        self.server.frames.clear();
        for round in 0..3 * RDMA_SLOTS {
            let place = self.client.transport.reserve(self.honest, 1).expect("credits");
            let mut page = self.client.transport.options().pool.acquire(1).expect("pages");
            page.copy_from_slice(0, &[round as u8; PAGE_SIZE]);
            let payload = [(place, page.freeze())];
            let sent = self.client.transport.send(self.honest, Class::Data, b"honest", &payload);
            sent.expect("room");
            self.server.transport.send(server, Class::Data, b"answer", &[]).expect("room");
            self.until(|stage| stage.server.frames.len() == 1 && !stage.client.frames.is_empty());
            let (bytes, payloads) = self.server.frames.pop().expect("just seen");
            self.client.frames.clear();
            let mut content = vec![0; PAGE_SIZE];
            payloads[0].copy_to_slice(0, &mut content);
            assert_eq!((bytes, content), (b"honest".to_vec(), vec![round as u8; PAGE_SIZE]));
        }
    }

    fn peer(&mut self) -> Peer {
        let mut peer = Peer::connect(self);
        peer.confirm(self);
        self.server.connected.truncate(1);
        peer
    }
}

/// A peer that speaks for itself.
struct Peer {
    /// The first page is for messages, the others are payload.
    memory: Buffer,
    registration: Registration,
    id: Id,
    device: Rc<Device>,
    /// Our pages in the server's window.
    place: Place,
    /// Messages that came and were not taken.
    messages: Vec<Vec<u8>>,
    statuses: Vec<WorkStatus>,
}

impl Peer {
    /// Waits for the connection manager while the server has its turns.
    fn wait(stage: &mut Stage, channel: &Channel, wanted: Happening) -> PrivateData {
        let start = Instant::now();
        loop {
            stage.server.turn();
            if let Some(report) = channel.next() {
                assert_eq!(report.what, wanted);
                return report.said;
            }
            assert!(start.elapsed() < PATIENCE, "{wanted:?} never came");
        }
    }

    /// Connects, and says nothing after its Hello.
    fn connect(stage: &mut Stage) -> Self {
        let functions = functions().expect("rdma-core");
        let channel = Channel::new(functions).expect("a channel");
        let mut id = Id::new(&channel).expect("an identifier");
        let from = SocketAddr::new(stage.from, 0);
        id.resolve_address(Some(from), stage.address, 2000).expect("a way");
        Self::wait(stage, &channel, Happening::AddressResolved);
        id.resolve_route(2000).expect("a way");
        Self::wait(stage, &channel, Happening::RouteResolved);
        let device = Device::open(functions, &id, 64, 256).expect("a device");
        device.promise(RDMA_SLOTS).expect("receives");
        let _serial = id.create_queue_pair(&device, 64, 0).expect("a queue pair");
        let memory = stage.client.transport.options().pool.acquire(16).expect("pages");
        let (start, bytes) = (memory.as_ptr(), 16 * PAGE_SIZE);
        let registration = device.register(memory.region(), start, bytes, 0).expect("memory");
        let mut hello = introduction();
        (hello.keyed, hello.window_mode) = (false, WindowMode::Granted);
        let hello = Hello::new(&hello, [0; 32]).shorten();
        id.connect(hello.as_bytes(), 6).expect("it listens");
        let said = Self::wait(stage, &channel, Happening::Established);
        assert_eq!(said[..8], *b"CULVERT\0");
        let (messages, statuses) = (Vec::new(), Vec::new());
        let place = Place::default();
        Self { memory, registration, id, device, place, messages, statuses }
    }

    /// Ends the handshake as it should be.
    fn confirm(&mut self, stage: &mut Stage) {
        let confirm = Confirm::new(8, WirePlace::default(), [0; 32]);
        self.send(confirm.as_bytes(), CONTROL);
        self.pump(stage, |peer| !peer.messages.is_empty());
        let answer = self.messages.remove(0);
        let answer = Confirm::read_from_bytes(&answer).expect("a Confirm");
        let (pages, place, _) = answer.content().expect("a good one");
        assert_eq!(pages, 8);
        self.place = Place { address: place.address.get(), rkey: place.rkey.get() };
        let closed = stage.server.connected.len();
        stage.until(|stage| stage.server.connected.len() == closed.max(2));
    }

    /// Takes completions while the server has its turns.
    fn pump(&mut self, stage: &mut Stage, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "it never came");
            stage.server.turn();
            stage.client.turn();
            let mut completions = [WorkCompletion::default(); COMPLETIONS_MAX];
            let count = self.device.poll(&mut completions).expect("a queue");
            for completion in &completions[..count] {
                let status = WorkStatus::new(completion.status);
                if completion.wr_id & RECEIVE == 0 {
                    self.statuses.push(status);
                    continue;
                }
                let received = self.device.received(completion.wr_id);
                if status.is_success() {
                    self.messages.push(received.bytes(completion.byte_len).to_vec());
                }
                self.device.repost(received).expect("a receive");
            }
        }
    }

    /// Posts anything at all, from the page `from` on.
    fn post(&mut self, opcode: u32, from: usize, bytes: usize, target: Place, immediate: u32) {
        let addr = self.memory.as_ptr().as_ptr() as u64 + (from * PAGE_SIZE) as u64;
        let mut sge = Sge { addr, length: bytes as u32, lkey: self.registration.lkey() };
        let mut request = SendRequest {
            wr_id: 1,
            next: std::ptr::null_mut(),
            sg_list: &mut sge,
            num_sge: i32::from(bytes > 0),
            opcode,
            send_flags: ffi::FLAG_SIGNALED,
            imm_data: immediate.to_be(),
            remote_addr: target.address,
            rkey: target.rkey,
            rest_of_union: [0; 2],
            remote_srqn: 0,
            bind: BindWindow::NONE,
        };
        // SAFETY: the queue pair and the memory live as long as the peer, longer than its requests.
        let posted = unsafe { self.device.post_send(self.id.queue_pair(), &mut request) };
        posted.expect("room");
    }

    /// Sends a message, as one that keeps the rules does.
    fn send(&mut self, message: &[u8], immediate: u32) {
        self.memory.copy_from_slice(0, message);
        self.post(ffi::OPCODE_SEND_WITH_IMM, 0, message.len(), Place::default(), immediate);
    }

    fn page(&self, page: u64) -> Place {
        Place { address: self.place.address + page * PAGE_SIZE as u64, ..self.place }
    }
}

/// A record: kind, placements, body.
fn record(kind: u8, places: &[(u32, u16)], body: &[u8]) -> Vec<u8> {
    let mut bytes = ((8 + 8 * places.len() + body.len()) as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&[kind, places.len() as u8, 0, 0]);
    for (page, pages) in places {
        bytes.extend_from_slice(&page.to_le_bytes());
        bytes.extend_from_slice(&pages.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
    }
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The peers here are refused for what they do wrong, not for what they are.
#[test]
fn takes_a_peer_that_behaves() {
    let Some(mut stage) = Stage::new() else { return };
    let mut peer = stage.peer();
    let target = peer.page(3);
    peer.memory.copy_from_slice(PAGE_SIZE, &[7; PAGE_SIZE]);
    peer.post(ffi::OPCODE_WRITE, 1, PAGE_SIZE, target, 0);
    peer.send(&record(1, &[(3, 1)], b"good"), 1);
    stage.until(|stage| stage.server.frames.len() == 1);
    let (bytes, payloads) = stage.server.frames.pop().expect("just seen");
    // Handed out where the device has written it: whoever writes it to a disk points there.
    assert_eq!(payloads[0].as_ptr().as_ptr() as u64, target.address);
    let mut content = vec![0; PAGE_SIZE];
    payloads[0].copy_to_slice(0, &mut content);
    assert_eq!((bytes, content), (b"good".to_vec(), vec![7; PAGE_SIZE]));
    drop(payloads);
    peer.pump(&mut stage, |peer| peer.statuses.len() == 3);
    assert!(peer.statuses.iter().all(|status| status.is_success()));
    assert_eq!(stage.warnings.take(), [""; 0]);
    stage.honest_works();
}

#[test]
fn refuses_writes_where_the_peer_may_not() {
    let Some(mut stage) = Stage::new() else { return };
    let honest = stage.server.transport.window_place(stage.server.connected[0]).expect("open");
    // Reads need not be tried: a connection has no resources for them, so they never leave.
    for what in [
        "behind its window",
        "before its window",
        "with no key",
        "with the key that its own was made from",
        "into the window of another, with its key",
    ] {
        let mut peer = stage.peer();
        peer.statuses.clear();
        let Place { address, rkey } = peer.place;
        let target = match what {
            "behind its window" => peer.page(8),
            "before its window" => Place { address: address - 8, rkey },
            "with no key" => Place { address, rkey: 0 },
            "with the key that its own was made from" => {
                Place { address, rkey: (rkey & !0xff) | (rkey.wrapping_sub(1) & 0xff) }
            }
            _ => honest,
        };
        peer.post(ffi::OPCODE_WRITE, 1, 64, target, 0);
        peer.pump(&mut stage, |peer| peer.statuses.iter().any(|status| !status.is_success()));
        stage.expect(what, |reason| {
            // Whether the device says what it refused is its affair.
            matches!(
                reason,
                CloseReason::Violation(Violation::RemoteAccess) | CloseReason::QueuePairFatal
            )
        });
    }
}

#[test]
fn refuses_requests_of_other_kinds() {
    let Some(mut stage) = Stage::new() else { return };
    for (what, opcode) in
        [("a send without immediate data", OPCODE_SEND), ("a write with", OPCODE_WRITE_WITH_IMM)]
    {
        let mut peer = stage.peer();
        let target = peer.page(0);
        peer.post(opcode, 1, 64, target, 0);
        stage.expect(what, |reason| reason == Violation::RemoteAccess.into());
    }
    // A message longer than what it may fill.
    let mut peer = stage.peer();
    peer.post(ffi::OPCODE_SEND_WITH_IMM, 1, 2 * PAGE_SIZE, Place::default(), 0);
    stage.expect("two pages", |reason| matches!(reason, CloseReason::WorkRequest(_)));
}

#[test]
fn refuses_messages_out_of_turn() {
    let Some(mut stage) = Stage::new() else { return };
    // The server never has the time to take one: it is not asked to in between.
    let mut peer = stage.peer();
    for _ in 0..2 * RDMA_SLOTS {
        peer.send(&record(2, &[], b"control"), CONTROL);
    }
    stage.expect("more messages than slots", |reason| {
        matches!(reason, CloseReason::Violation(Violation::Slots { .. }))
    });
    for (what, immediate) in
        [("slots that were never used", 2), ("many more", 0xffff), ("bits without sense", 1 << 17)]
    {
        let mut peer = stage.peer();
        peer.send(&record(1, &[], b"frame"), immediate);
        stage.expect(what, |reason| {
            matches!(reason, CloseReason::Violation(Violation::Slots { .. }))
        });
    }
}

#[test]
fn refuses_records_that_lie() {
    let Some(mut stage) = Stage::new() else { return };
    let mut garbled = record(1, &[], b"frame");
    garbled[4] = 99;
    let kind = Violation::FrameKind { kind: 99 };
    let mut long = record(1, &[], b"frame");
    long[3] = 0xff;
    let placement = |page, pages| Violation::Placement { page, pages };
    for (what, bytes, violation) in [
        ("a garbled frame", garbled, kind),
        ("a long frame", long, Violation::FrameLength { bytes: 0xff00_000d }),
        ("a page outside", record(1, &[(8, 1)], b""), placement(8, 1)),
        ("credits with a place", record(3, &[(0, 1)], b""), Violation::FrameMalformed),
        (
            "credits for nothing",
            {
                let mut bytes = record(3, &[], &[0; 8]);
                bytes[12] = 1;
                bytes
            },
            Violation::CreditOverrun { page: 0, pages: 1 },
        ),
    ] {
        let mut peer = stage.peer();
        peer.send(&bytes, 1);
        stage.expect(what, |reason| reason == violation.into());
    }
    // A page that the server still holds.
    let mut peer = stage.peer();
    peer.send(&record(1, &[(4, 2)], b"first"), 1);
    stage.until(|stage| stage.server.frames.len() == 1);
    let held = std::mem::take(&mut stage.server.frames);
    peer.memory.copy_from_slice(0, &[0; 64]);
    peer.send(&record(1, &[(5, 1)], b"again"), 0);
    stage.until(|stage| !stage.server.closed.is_empty());
    drop(held);
    stage.expect("a page twice", |reason| reason == Violation::PageReused { page: 5 }.into());
}

#[test]
fn forgets_a_peer_that_never_finishes_its_handshake() {
    let Some(mut stage) = Stage::new() else { return };
    let peer = Peer::connect(&mut stage);
    let failed = stage.server.transport.counters().handshakes_failed;
    stage.until(|stage| stage.server.transport.counters().handshakes_failed > failed);
    assert_eq!(stage.warnings.take().len(), 1);
    stage.honest_works();
    stage.until(|stage| stage.server.transport.retiring_windows() == 0);
    drop(peer);
    // One that says something else.
    let mut peer = Peer::connect(&mut stage);
    peer.send(&[0x5a; 64], CONTROL);
    let failed = stage.server.transport.counters().handshakes_failed;
    stage.until(|stage| stage.server.transport.counters().handshakes_failed > failed);
    assert_eq!(stage.warnings.take().len(), 1);
    stage.honest_works();
    assert_eq!(stage.server.closed, [], "nobody was told of a connection that was none");
}

/// `IBV_WR_RDMA_WRITE_WITH_IMM`
const OPCODE_WRITE_WITH_IMM: u32 = 1;
/// `IBV_WR_SEND`
const OPCODE_SEND: u32 = 2;
