//! Two transports in one thread, and what they have seen.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_memory::{Backing, Buffer, PAGE_SIZE, Pages, Pool, PoolOptions};
use culvert_transport::{
    Address, Class, CloseReason, ConnectionId, Event, Identity, PeerKind, Placement, RegionEvent,
    Transport, TransportOptions, WindowMode,
};
use tempfile::TempDir;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Shm,
    Tcp,
    Rdma,
}

/// The addresses of two RDMA devices that reach each other, where there are some: the server's and
/// the client's.
fn rdma_addresses() -> Option<[IpAddr; 2]> {
    let text = std::env::var("CULVERT_TEST_RDMA").ok()?;
    let (server, client) = text.split_once(',').expect("two addresses with a comma between them");
    Some([server, client].map(|text| text.parse().expect("an IP address")))
}

/// Whether tests over verbs can run here; says so where they cannot.
pub fn has_rdma() -> bool {
    let has = rdma_addresses().is_some();
    if !has {
        println!(
            "skipped: no RDMA devices here (CULVERT_TEST_RDMA); scripts/softroce test has some"
        );
    }
    has
}

impl Scheme {
    /// Where a server of this scheme may listen.
    pub fn address(self, directory: &Path) -> Address {
        match self {
            Scheme::Shm => Address::Shm(directory.join("a.sock")),
            Scheme::Tcp => "tcp://127.0.0.1:0".parse().expect("an address"),
            Scheme::Rdma => {
                let [server, _] = rdma_addresses().expect("asked before");
                Address::Rdma(SocketAddr::new(server, 0))
            }
        }
    }

    /// What a client of this scheme has to be told.
    pub fn client(self, mut options: TransportOptions) -> TransportOptions {
        if self == Scheme::Rdma {
            options.source = rdma_addresses().map(|[_, client]| client);
        }
        options
    }
}

/// How long anything may take, also in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An event, kept.
#[derive(Debug)]
pub enum Seen {
    Connected { connection: ConnectionId, peer: Identity, initiated: bool },
    Frame { class: Class, bytes: Vec<u8>, payloads: Vec<Buffer> },
    Writable,
    Closed { connection: ConnectionId, reason: CloseReason },
}

/// One transport and its events.
pub struct Side {
    pub transport: Transport,
    pub pool: Pool,
    pub seen: Vec<Seen>,
    pub regions: Vec<RegionEvent>,
}

pub fn now() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    1 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

pub fn identity(number: u128, kind: PeerKind) -> Identity {
    Identity { node: Uuid::from_u128(number), kind, endpoint: number as u32 }
}

pub fn pool(bytes: usize) -> Pool {
    let options =
        PoolOptions { bytes, backing: Backing::Ordinary, lock: false, ..PoolOptions::default() };
    Pool::new(&options).expect("memory for a pool")
}

pub fn options(number: u128) -> TransportOptions {
    let kind = if number == 1 { PeerKind::Node } else { PeerKind::Client };
    let mut options = TransportOptions::new(identity(number, kind), pool(16 << 20));
    options.lock_memory = false;
    // An emulated machine may stand still for longer than a real one is waited for.
    options.rdma.connect_timeout = Duration::from_secs(10);
    options
}

impl Side {
    pub fn new(options: TransportOptions) -> Self {
        let pool = options.pool.clone();
        let transport = Transport::new(options).expect("sensible options");
        Self { transport, pool, seen: Vec::new(), regions: Vec::new() }
    }

    /// One turn of a reactor.
    pub fn turn(&mut self) -> usize {
        let copied = culvert_memory::page_bytes_copied();
        let seen = &mut self.seen;
        let count = self.transport.poll(now(), 256, &mut |_, event| seen.push(keep(event)));
        let regions = &mut self.regions;
        self.transport.regions(|event| {
            regions.push(event);
            Ok(())
        });
        self.transport.post(now());
        // The one copy that stands for the wire is made when a frame is sent.
        assert_eq!(culvert_memory::page_bytes_copied(), copied, "payload was copied");
        count
    }

    /// Pages with a pattern, of this side's pool.
    pub fn pages(&self, pages: u32, seed: u8) -> Pages {
        let mut buffer = self.pool.acquire(pages).expect("the pool has pages");
        for page in 0..pages {
            buffer.copy_from_slice(
                page as usize * PAGE_SIZE,
                &pattern(seed.wrapping_add(page as u8)),
            );
        }
        buffer.freeze()
    }

    pub fn take_frames(&mut self) -> Vec<(Class, Vec<u8>, Vec<Buffer>)> {
        let (frames, rest) = std::mem::take(&mut self.seen)
            .into_iter()
            .partition::<Vec<_>, _>(|seen| matches!(seen, Seen::Frame { .. }));
        self.seen = rest;
        let content = |seen| match seen {
            Seen::Frame { class, bytes, payloads, .. } => (class, bytes, payloads),
            _ => unreachable!("partitioned"),
        };
        frames.into_iter().map(content).collect()
    }

    pub fn closed(&self) -> Option<CloseReason> {
        self.seen.iter().find_map(|seen| match seen {
            Seen::Closed { reason, .. } => Some(*reason),
            _ => None,
        })
    }

    pub fn connected(&self) -> Option<ConnectionId> {
        self.seen.iter().rev().find_map(|seen| match seen {
            Seen::Connected { connection, .. } => Some(*connection),
            _ => None,
        })
    }

    /// Connections that have closed, in order.
    pub fn closed_ids(&self) -> Vec<ConnectionId> {
        let id = |seen: &Seen| match seen {
            Seen::Closed { connection, .. } => Some(*connection),
            _ => None,
        };
        self.seen.iter().filter_map(id).collect()
    }

    pub fn writable(&self) -> usize {
        self.seen.iter().filter(|seen| matches!(seen, Seen::Writable)).count()
    }

    pub fn frames(&self) -> usize {
        self.seen.iter().filter(|seen| matches!(seen, Seen::Frame { .. })).count()
    }

    /// Reserves or panics.
    pub fn place(&mut self, connection: ConnectionId, pages: u32) -> Placement {
        self.transport.reserve(connection, pages).expect("credits")
    }
}

fn keep(event: Event<'_>) -> Seen {
    match event {
        Event::Connected { connection, peer, initiated, .. } => {
            Seen::Connected { connection, peer, initiated }
        }
        Event::Frame { class, bytes, payloads, .. } => {
            Seen::Frame { class, bytes: bytes.to_vec(), payloads: payloads.drain(..).collect() }
        }
        Event::Writable { .. } => Seen::Writable,
        Event::Closed { connection, reason } => Seen::Closed { connection, reason },
    }
}

pub fn pattern(seed: u8) -> Vec<u8> {
    (0..PAGE_SIZE)
        .map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed) ^ (index >> 8) as u8)
        .collect()
}

/// Whether a landed payload is what [`Side::pages`] made.
pub fn is_pattern(buffer: &Buffer, seed: u8) -> bool {
    let mut page_bytes = vec![0; PAGE_SIZE];
    (0..buffer.pages()).all(|page| {
        buffer.copy_to_slice(page as usize * PAGE_SIZE, &mut page_bytes);
        page_bytes == pattern(seed.wrapping_add(page as u8))
    })
}

/// A server and a client that are not yet connected.
pub struct Pair {
    pub server: Side,
    pub client: Side,
    pub address: Address,
    _directory: TempDir,
}

impl Pair {
    pub fn new(scheme: Scheme) -> Self {
        Self::with(scheme, options(1), options(2))
    }

    pub fn with(scheme: Scheme, server: TransportOptions, client: TransportOptions) -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut server = Side::new(server);
        let wanted = scheme.address(directory.path());
        let address = server.transport.listen(&wanted).expect("a free address");
        let client = Side::new(scheme.client(client));
        Self { server, client, address, _directory: directory }
    }

    /// Connects; the ids on both sides.
    pub fn connect(&mut self, window: WindowMode) -> (ConnectionId, ConnectionId) {
        let client =
            self.client.transport.connect(&self.address, window).expect("somebody listens");
        let before = self.server.transport.counters().connections_opened;
        self.until(|pair| {
            let lost = pair.client.closed_ids().contains(&client);
            assert!(!lost, "it is not connected: {:?}", pair.client.closed());
            pair.client.connected() == Some(client)
                && pair.server.transport.counters().connections_opened > before
                && pair.server.connected().is_some()
        });
        (self.server.connected().expect("just seen"), client)
    }

    /// A pair that is connected with granted windows.
    pub fn connected(scheme: Scheme) -> (Self, ConnectionId, ConnectionId) {
        let mut pair = Self::new(scheme);
        let (server, client) = pair.connect(WindowMode::Granted);
        (pair, server, client)
    }

    pub fn turn(&mut self) {
        self.client.turn();
        self.server.turn();
    }

    /// Pumps both sides until something holds.
    #[track_caller]
    pub fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "it never came");
            self.turn();
        }
    }

    /// Pumps both sides for a while in which nothing should happen.
    pub fn settle(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            self.turn();
        }
    }

    /// Everything comes back to where it belongs once all connections are closed.
    #[track_caller]
    pub fn assert_nothing_lost(&mut self) {
        self.settle();
        for side in [&mut self.server, &mut self.client] {
            side.seen.clear();
            assert_eq!(side.transport.connections().count(), 0);
        }
        self.until(|pair| {
            pair.server.transport.retiring_windows() + pair.client.transport.retiring_windows() == 0
        });
        for side in [&mut self.server, &mut self.client] {
            assert_eq!(
                side.transport.window_budget_left(),
                side.transport.options().window_budget_pages
            );
            assert_eq!(side.pool.free_pages(), side.pool.total_pages(), "every page came back");
        }
    }
}
