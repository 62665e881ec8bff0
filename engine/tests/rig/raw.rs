//! A peer that says what it likes: frames of any bytes over the real transport.

use std::time::{Duration, Instant};

use culvert::cluster::Cluster;
use culvert::ids::{BlockRange, ChunkId, CopysetId, Epoch, RequestNumber, SessionId};
use culvert::node::SystemClock;
use culvert::reactor::Clock;
use culvert::wire::{self, FRAME_BYTES_MAX, FrameKind, Reply, ReplyStatus, Request, RequestKind};
use culvert_memory::{Pages, Pool};
use culvert_transport::{
    Address, Class, CloseReason, ConnectionId, Event, Identity, PeerKind, SendError, Transport,
    WindowMode,
};
use uuid::Uuid;

use super::history::BLOCK;
use super::plan::{VOLUME, pool, transport};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A name that no cluster file has.
pub const NOBODY: Uuid = Uuid::from_u128(0x0bad_0000_0001);

/// An answer, copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How the request ended.
    pub status: ReplyStatus,
    /// Which request.
    pub token: u64,
    /// See [`Reply`].
    pub value: u64,
    /// See [`Reply`].
    pub index: u64,
    /// See [`Reply`].
    pub trailing: Vec<u8>,
}

/// One connection.
pub struct Raw {
    transport: Transport,
    pool: Pool,
    connection: ConnectionId,
    connected: bool,
    answers: Vec<Answer>,
    /// Why the connection closed, once it has.
    pub closed: Option<CloseReason>,
}

impl Raw {
    /// A connection on its way.
    pub fn dial(address: &Address, kind: PeerKind, node: Uuid) -> Raw {
        let pool = pool("raw", 4 << 20);
        let mut transport = transport(Identity { node, kind, endpoint: 0 }, pool.clone());
        let connection = transport.connect(address, WindowMode::Granted).expect("an address");
        let answers = Vec::new();
        Raw { transport, pool, connection, connected: false, answers, closed: None }
    }

    /// A connection that is there.
    pub fn connect(
        address: &Address,
        kind: PeerKind,
        node: Uuid,
        turn: &mut impl FnMut() -> bool,
    ) -> Raw {
        let mut raw = Raw::dial(address, kind, node);
        raw.until("connected", turn, |raw| raw.connected);
        raw
    }

    /// The longest frame that the connection takes.
    pub fn frame_bytes_max(&self) -> usize {
        self.transport.frame_bytes_max(self.connection, Class::Data).expect("it is connected")
    }

    /// Takes what has come.
    pub fn poll(&mut self) {
        let now_ns = SystemClock.now_ns();
        let Raw { transport, connected, answers, closed, .. } = self;
        transport.poll(now_ns, 64, &mut |_, event| match event {
            Event::Connected { .. } => *connected = true,
            Event::Closed { reason, .. } => *closed = Some(reason),
            Event::Frame { bytes, .. } => {
                // A node that takes this side for a node speaks to it as to one.
                let Ok((FrameKind::Reply, _, body)) = wire::parse_header(bytes) else { return };
                let reply = Reply::parse(body).expect("servers send whole replies");
                answers.push(Answer {
                    status: reply.status,
                    token: reply.token,
                    value: reply.value,
                    index: reply.index,
                    trailing: reply.trailing.to_vec(),
                });
            }
            Event::Writable { .. } => {}
        });
        transport.post(now_ns);
    }

    fn until(
        &mut self,
        what: &str,
        turn: &mut impl FnMut() -> bool,
        mut done: impl FnMut(&mut Raw) -> bool,
    ) {
        let since = Instant::now();
        while !done(self) {
            assert!(since.elapsed() < PATIENCE, "in vain: {what}; closed: {:?}", self.closed);
            if !turn() {
                std::thread::yield_now();
            }
            self.poll();
        }
    }

    /// Pages full of a byte.
    pub fn pages(&self, blocks: u32, byte: u8) -> Pages {
        let mut buffer = self.pool.acquire(blocks).expect("pages");
        buffer.as_mut_slice().fill(byte);
        buffer.freeze()
    }

    /// Takes pages of the server's window and gives them back; where there are none, that is a wish
    /// for a larger window.
    pub fn wish_for(&mut self, pages: u32) -> bool {
        let placement = self.transport.reserve(self.connection, pages);
        if let Some(placement) = placement {
            self.transport.cancel(self.connection, placement);
        }
        self.transport.post(SystemClock.now_ns());
        placement.is_some()
    }

    /// Sends a frame as it is, with pages behind it where there are any.
    pub fn send(
        &mut self,
        frame: &[u8],
        pages: Option<Pages>,
        turn: &mut impl FnMut() -> bool,
    ) -> Result<(), SendError> {
        let mut payloads = Vec::new();
        if let Some(pages) = pages {
            let mut placement = None;
            self.until("room for a payload", turn, |raw| {
                placement = raw.transport.reserve(raw.connection, pages.pages());
                placement.is_some()
            });
            payloads.push((placement.expect("looked at"), pages));
        }
        let sent = self.transport.send(self.connection, Class::Data, frame, &payloads);
        self.transport.post(SystemClock.now_ns());
        sent
    }

    /// Sends a request.
    pub fn request(
        &mut self,
        request: &Request<'_>,
        pages: Option<Pages>,
        turn: &mut impl FnMut() -> bool,
    ) {
        let mut frame = [0; FRAME_BYTES_MAX];
        let frame = request.emit(&mut frame);
        self.send(frame, pages, turn).expect("an open connection with room");
    }

    /// Hands out the answers that have come, and returns how many there were.
    pub fn take_answers(&mut self, look: impl FnMut(Answer)) -> usize {
        let count = self.answers.len();
        self.answers.drain(..).for_each(look);
        count
    }

    /// Waits for the answer to a request.
    pub fn answer(&mut self, token: u64, turn: &mut impl FnMut() -> bool) -> Answer {
        let mut found = None;
        self.until("an answer", turn, |raw| {
            let at = raw.answers.iter().position(|answer| answer.token == token);
            found = at.map(|at| raw.answers.swap_remove(at));
            found.is_some()
        });
        found.expect("waited for")
    }

    /// Waits until the connection is closed.
    pub fn closing(&mut self, turn: &mut impl FnMut() -> bool) -> CloseReason {
        self.until("the end of the connection", turn, |raw| raw.closed.is_some());
        self.closed.expect("waited for")
    }

    /// Ends the connection without a word.
    pub fn vanish(self) {
        drop(self);
    }
}

/// Where a block of the volume lies.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// The copyset.
    pub copyset: CopysetId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The block.
    pub range: BlockRange,
}

/// Where block `block` of the volume lies.
pub fn spot(cluster: &Cluster, block: u64) -> Spot {
    let volume = cluster.volume(VOLUME).expect("the volume");
    let part = cluster.layout(volume).part(block, 1);
    let copyset = volume.copysets[part.copyset as usize];
    Spot { copyset, chunk: part.chunk, range: part.range }
}

/// A request for one block outside any session.
pub fn request(kind: RequestKind, at: Spot, token: u64) -> Request<'static> {
    Request {
        kind,
        token,
        copyset: at.copyset,
        chunk: at.chunk,
        range: at.range,
        landing_page: 0,
        epoch: Epoch(0),
        session: SessionId(0),
        request: RequestNumber(0),
        sequence: 0,
        crcs: &[],
    }
}

/// Checksums of `blocks` blocks full of a byte, as they stand in a request.
pub fn checksums(blocks: u32, byte: u8) -> Vec<u8> {
    let crc = crc32c::crc32c(&[byte; BLOCK]).to_le_bytes();
    crc.repeat(blocks as usize)
}
