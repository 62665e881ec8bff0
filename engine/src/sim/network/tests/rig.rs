//! A fabric, processes on it, and what they saw.

use culvert::network::{
    Class, CloseReason, ConnectionId, Event, Identity, Network, PeerKind, Placement, RegionEvent,
    RegionRefused, WindowMode,
};
use culvert_memory::{Backing, Buffer, Pages, Pool, PoolOptions, RegionId};
use uuid::Uuid;

use crate::sim::network::{Fabric, FabricOptions, SimNetwork, address_of};
use crate::sim::random::Random;

/// What one process was told.
#[derive(Debug)]
pub enum Seen {
    Connected { connection: ConnectionId, initiated: bool },
    Frame { connection: ConnectionId, class: Class, bytes: Vec<u8>, payloads: Vec<Buffer> },
    Writable(ConnectionId),
    Closed { connection: ConnectionId, reason: CloseReason },
}

/// One process.
pub struct Side {
    pub network: SimNetwork,
    pub pool: Pool,
    pub seen: Vec<Seen>,
    /// Regions that were added and have not been retired.
    pub regions: Vec<RegionId>,
    pub refuses_regions: bool,
}

/// Sizes for tests: windows of 8 pages that do not grow.
pub fn small() -> FabricOptions {
    FabricOptions { window_pages_max: 8, segment_pages: 8, ..FabricOptions::default() }
}

pub fn identity(host: usize) -> Identity {
    let kind = if host < 3 { PeerKind::Node } else { PeerKind::Client };
    Identity { node: Uuid::from_u128(host as u128 + 1), kind, endpoint: 0 }
}

impl Side {
    pub fn start(fabric: &Fabric, host: usize) -> Side {
        let pool = Pool::new(&PoolOptions {
            backing: Backing::Ordinary,
            lock: false,
            ..PoolOptions::default()
        });
        let mut network = fabric.host(host, identity(host));
        network.listen(&address_of(host)).expect("a free address");
        let (seen, regions) = (Vec::new(), Vec::new());
        Side { network, pool: pool.expect("memory"), seen, regions, refuses_regions: false }
    }

    /// One turn, as a reactor does it. Answers how many events there were.
    pub fn turn(&mut self) -> usize {
        self.take_regions();
        let seen = &mut self.seen;
        let events = self.network.poll(0, 16, &mut |event| seen.push(own(event)));
        self.network.post(0);
        events
    }

    fn take_regions(&mut self) {
        let (regions, refuses) = (&mut self.regions, self.refuses_regions);
        self.network.regions(&mut |event| {
            match event {
                RegionEvent::Added(region) => regions.push(region.id()),
                RegionEvent::Retired(id) => {
                    let at = regions.iter().position(|known| *known == id);
                    regions.swap_remove(at.expect("it was added"));
                }
            }
            if refuses { Err(RegionRefused) } else { Ok(()) }
        });
    }

    /// Pages filled with a pattern.
    pub fn pages(&self, pages: u32, pattern: u8) -> Pages {
        let mut buffer = self.pool.acquire(pages).expect("free pages");
        let bytes = vec![pattern; buffer.len()];
        buffer.copy_from_slice(0, &bytes);
        buffer.freeze()
    }

    /// Sends a frame with one payload into the peer's granted window.
    pub fn send_granted(&mut self, to: ConnectionId, frame: &[u8], pages: u32, pattern: u8) {
        let place = self.network.reserve(to, pages).expect("credits");
        let payload = [(place, self.pages(pages, pattern))];
        self.network.send(to, Class::Data, frame, &payload).expect("room");
    }

    /// Whether a run of the peer's window could be reserved.
    pub fn has_credits(&mut self, to: ConnectionId, pages: u32) -> bool {
        let place = self.network.reserve(to, pages);
        place.inspect(|place| self.network.cancel(to, *place)).is_some()
    }

    /// Takes the frames that came.
    pub fn take_frames(&mut self) -> Vec<(Class, Vec<u8>, Vec<Buffer>)> {
        let mut frames = Vec::new();
        for seen in std::mem::take(&mut self.seen) {
            match seen {
                Seen::Frame { class, bytes, payloads, .. } => frames.push((class, bytes, payloads)),
                other => self.seen.push(other),
            }
        }
        frames
    }

    pub fn frames(&self) -> usize {
        self.seen.iter().filter(|seen| matches!(seen, Seen::Frame { .. })).count()
    }

    pub fn closed(&self) -> Vec<(ConnectionId, CloseReason)> {
        let closed = self.seen.iter().filter_map(|seen| match seen {
            Seen::Closed { connection, reason } => Some((*connection, *reason)),
            _ => None,
        });
        closed.collect()
    }

    pub fn is_writable(&self, of: ConnectionId) -> bool {
        self.seen.iter().any(|seen| matches!(seen, Seen::Writable(connection) if *connection == of))
    }

    /// The connection of the last `Connected`.
    pub fn connected(&self) -> Option<ConnectionId> {
        self.seen.iter().rev().find_map(|seen| match seen {
            Seen::Connected { connection, .. } => Some(*connection),
            _ => None,
        })
    }

    /// Every page of the pool is back, and no region is left.
    pub fn assert_nothing_lost(&self) {
        assert_eq!(self.pool.free_pages(), self.pool.total_pages(), "all pages come back");
        assert!(self.regions.is_empty(), "all regions are retired");
    }
}

fn own(event: Event<'_>) -> Seen {
    match event {
        Event::Connected { connection, initiated, .. } => Seen::Connected { connection, initiated },
        Event::Frame { connection, class, bytes, payloads } => {
            let payloads = payloads.drain(..).collect();
            Seen::Frame { connection, class, bytes: bytes.to_vec(), payloads }
        }
        Event::Writable { connection } => Seen::Writable(connection),
        Event::Closed { connection, reason } => Seen::Closed { connection, reason },
    }
}

/// Whether all bytes of a buffer are the pattern.
pub fn is_pattern(buffer: &Buffer, pattern: u8) -> bool {
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_to_slice(0, &mut bytes);
    bytes.iter().all(|byte| *byte == pattern)
}

/// The run that a peer names in its own window.
pub fn named(page: u32, pages: u32) -> Placement {
    Placement::named(page, pages).expect("a length of a placement")
}

/// A fabric and its processes, by host.
pub struct Rig {
    pub fabric: Fabric,
    pub now_ns: u64,
    pub sides: Vec<Side>,
}

impl Rig {
    pub fn new(options: FabricOptions, seed: u64, hosts: usize) -> Rig {
        let fabric = Fabric::new(options, Random::new(seed));
        let sides = (0..hosts).map(|host| Side::start(&fabric, host)).collect();
        Rig { fabric, now_ns: 0, sides }
    }

    /// Two hosts with a connection from host 1 to host 0: its name at each.
    pub fn connected(options: FabricOptions, seed: u64) -> (Rig, ConnectionId, ConnectionId) {
        let mut rig = Rig::new(options, seed, 2);
        let (server, client) = rig.connect(WindowMode::Granted);
        (rig, server, client)
    }

    /// Connects host 1 to host 0.
    pub fn connect(&mut self, window: WindowMode) -> (ConnectionId, ConnectionId) {
        self.sides.iter_mut().for_each(|side| side.seen.clear());
        let client = self.sides[1].network.connect(&address_of(0), window).expect("room");
        self.until(|rig| rig.sides.iter().all(|side| side.connected().is_some()));
        assert_eq!(self.sides[1].connected(), Some(client));
        let server = self.sides[0].connected().expect("it was awaited");
        (server, client)
    }

    /// Lets a moment pass in which something happens; `false` when nothing ever does.
    pub fn step(&mut self) -> bool {
        let mut pending = false;
        for (host, side) in self.sides.iter_mut().enumerate() {
            pending |= side.turn() > 0 || self.fabric.has_events(host);
        }
        if let Some(at_ns) = self.fabric.next_ns().filter(|_| !pending) {
            self.now_ns = self.now_ns.max(at_ns);
            self.fabric.advance(self.now_ns);
            pending = true;
        }
        pending
    }

    pub fn until(&mut self, done: impl Fn(&Rig) -> bool) {
        while !done(self) {
            assert!(self.step(), "nothing happens any more");
        }
    }

    /// Until nothing happens any more. A partition must not last.
    pub fn settle(&mut self) {
        while self.step() {}
    }
}
