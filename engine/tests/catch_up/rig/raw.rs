//! A client that says exactly what it is told: for requests that the real one would not send.

use std::time::{Duration, Instant};

use culvert::ids::{BlockRange, ChunkId, CopysetId, Epoch, RequestNumber, SessionId};
use culvert::network::{Address, Class, ConnectionId, Event, WindowMode};
use culvert::node::SystemClock;
use culvert::reactor::Clock;
use culvert::wire::{self, Reply, ReplyStatus, Request, RequestKind};
use culvert_memory::{Backing, Pool, PoolOptions};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};

use super::{BLOCK, Rig};

pub struct RawClient {
    transport: Transport,
    pool: Pool,
    token: u64,
}

/// What a request says, apart from where it goes.
#[derive(Clone, Copy)]
pub struct Ask {
    pub kind: RequestKind,
    pub copyset: u32,
    pub chunk: u64,
    pub block: u32,
    pub session: u64,
    pub number: u64,
    pub value: u8,
}

impl RawClient {
    pub fn new() -> RawClient {
        let pool = Pool::new(&PoolOptions {
            name: "raw".to_owned(),
            bytes: 4 << 20,
            backing: Backing::Ordinary,
            numa_node: None,
            lock: false,
        })
        .expect("memory");
        let node = uuid::Uuid::from_u128(0xabcd);
        let identity = Identity { node, kind: PeerKind::Client, endpoint: 0 };
        let transport = Transport::new(TransportOptions {
            frame_bytes_max: wire::FRAME_BYTES_MAX,
            ..TransportOptions::new(identity, pool.clone())
        })
        .expect("the usual options");
        RawClient { transport, pool, token: 0 }
    }

    fn connect(&mut self, rig: &mut Rig, node: usize) -> ConnectionId {
        let address = Address::Shm(rig.folder.path().join(format!("node-{node}.sock")));
        let connection =
            self.transport.connect(&address, WindowMode::Named).expect("a socket to connect to");
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut up = false;
        while !up {
            assert!(Instant::now() < deadline, "no connection to node {node}");
            rig.turn(|_, _, _| {});
            self.transport.poll(SystemClock.now_ns(), 64, &mut |_, event| {
                up |= matches!(event, Event::Connected { .. });
            });
            self.transport.post(SystemClock.now_ns());
        }
        connection
    }

    /// Asks the copyset's leader, whoever that is, until it is not busy. Returns status and value.
    pub fn ask(&mut self, rig: &mut Rig, ask: Ask) -> (ReplyStatus, u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < deadline, "nobody answers");
            rig.turn(|_, _, _| {});
            let Some(node) = rig.leader_of(ask.copyset) else { continue };
            let connection = self.connect(rig, node);
            let (status, value) = self.ask_once(rig, connection, ask);
            self.transport.close(connection, "asked");
            if !matches!(status, ReplyStatus::Busy | ReplyStatus::NotLeader) {
                return (status, value);
            }
        }
    }

    fn ask_once(
        &mut self,
        rig: &mut Rig,
        connection: ConnectionId,
        ask: Ask,
    ) -> (ReplyStatus, u64) {
        self.token += 1;
        let write = ask.kind == RequestKind::Write;
        let mut buffer = self.pool.acquire(1).expect("a page");
        buffer.as_mut_slice().fill(ask.value);
        let crc = buffer.crc32c(0, BLOCK).to_le_bytes();
        let pages = buffer.freeze();
        let request = Request {
            kind: ask.kind,
            token: self.token,
            copyset: CopysetId(ask.copyset),
            chunk: ChunkId(ask.chunk),
            range: BlockRange { first: ask.block, blocks: u32::from(write) },
            landing_page: 0,
            epoch: Epoch(0),
            session: SessionId(ask.session),
            request: RequestNumber(ask.number),
            sequence: 0,
            crcs: if write { &crc } else { &[] },
        };
        let mut out = [0; wire::FRAME_BYTES_MAX];
        let frame = request.emit(&mut out).to_vec();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut sent, mut answer) = (false, None);
        while answer.is_none() {
            assert!(Instant::now() < deadline, "no answer");
            let now_ns = SystemClock.now_ns();
            if !sent {
                let place = write.then(|| self.transport.reserve(connection, 1));
                if place != Some(None) {
                    let payload = place.flatten().map(|place| (place, pages.clone()));
                    let payload: Vec<_> = payload.into_iter().collect();
                    self.transport.send(connection, Class::Data, &frame, &payload).expect("room");
                    sent = true;
                }
            }
            self.transport.post(now_ns);
            rig.turn(|_, _, _| {});
            self.transport.poll(now_ns, 64, &mut |_, event| match event {
                Event::Frame { bytes, .. } => {
                    let (_, _, body) = wire::parse_header(bytes).expect("a frame");
                    let reply = Reply::parse(body).expect("a reply");
                    answer = Some((reply.status, reply.value));
                }
                Event::Closed { .. } => answer = Some((ReplyStatus::Busy, 0)),
                _ => {}
            });
        }
        answer.expect("just seen")
    }
}

/// A node that says whatever it likes: the name of one of the cluster's, without the rest.
pub struct RawNode {
    transport: Transport,
    pool: Pool,
    connection: Option<ConnectionId>,
    to: usize,
    closed: bool,
}

impl RawNode {
    /// Speaks as node `own` to node `to`.
    pub fn new(own: usize, to: usize) -> RawNode {
        let RawClient { pool, .. } = RawClient::new();
        let node = uuid::Uuid::from_u128(0xc017_0000 + own as u128);
        let identity = Identity { node, kind: PeerKind::Node, endpoint: 0 };
        let transport = Transport::new(TransportOptions {
            frame_bytes_max: wire::FRAME_BYTES_MAX,
            ..TransportOptions::new(identity, pool.clone())
        })
        .expect("the usual options");
        RawNode { transport, pool, connection: None, to, closed: true }
    }

    /// Whether the connection was closed since the last call; connects again if so.
    pub fn reconnect(&mut self, rig: &mut Rig) -> bool {
        if !std::mem::replace(&mut self.closed, false) {
            return false;
        }
        let address = Address::Shm(rig.folder.path().join(format!("node-{}.sock", self.to)));
        let connection = self.transport.connect(&address, WindowMode::Granted);
        self.connection = Some(connection.expect("a socket to connect to"));
        for _ in 0..200 {
            self.poll(rig);
        }
        true
    }

    /// Sends a frame with so many pages of payload, as long as there is room.
    pub fn send(&mut self, rig: &mut Rig, frame: &[u8], pages: u32) {
        let Some(connection) = self.connection else { return };
        let mut payloads = Vec::new();
        for _ in 0..pages {
            let Some(place) = self.transport.reserve(connection, 1) else { continue };
            let mut buffer = self.pool.acquire(1).expect("a page");
            buffer.as_mut_slice().fill(7);
            payloads.push((place, buffer.freeze()));
        }
        if self.transport.send(connection, Class::Data, frame, &payloads).is_err() {
            for (place, _) in payloads {
                self.transport.cancel(connection, place);
            }
        }
        self.poll(rig);
    }

    fn poll(&mut self, rig: &mut Rig) {
        let now_ns = SystemClock.now_ns();
        self.transport.post(now_ns);
        rig.turn(|_, _, _| {});
        let (closed, own) = (&mut self.closed, self.connection);
        self.transport.poll(now_ns, 64, &mut |_, event| {
            *closed |= matches!(event, Event::Closed { connection, .. } if Some(connection) == own);
        });
    }
}
