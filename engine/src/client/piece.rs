//! Pieces: what operations are split into, and what is sent, awaited and retried.
//!
//! A piece lies in one stripe of one chunk and has at most 32 blocks (a discard's: one run of one
//! chunk). Usually one request does it. Where the connection's window is small it takes several,
//! one after another, each with its own number: `done` blocks are finished and the next `sent`
//! ones are on their way.
//!
//! Pieces live in a fixed table, linked into lists by their indices.

use culvert_memory::{Buffer, Pages, SlotId};

use super::error::Obstacle;
use super::route::RouteIndex;
use crate::ids::{BlockRange, ChunkId, Epoch, OPERATION_BLOCKS_MAX, RequestNumber, SessionId};
use crate::network::ConnectionId;

/// A slot of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceIndex(pub(super) u32);

/// What a piece asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    Write,
    Read,
    Discard,
    Delete,
    Fence,
    /// Belongs to its route and to no operation.
    OpenSession,
    /// Likewise.
    CloseSession,
}

/// Where a piece is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceState {
    /// Nobody's.
    Free,
    /// Of an operation that has not been started.
    Fresh,
    /// In its route's queue.
    Queued,
    /// Sent, waiting for the answer.
    InFlight,
    /// Waiting for its timer.
    Paused,
    /// Over; what it read is kept until its operation is complete.
    Done,
}

/// One piece.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) kind: PieceKind,
    pub(super) state: PieceState,
    pub(super) operation: Option<SlotId>,
    /// The next piece of the same operation.
    pub(super) sibling: Option<PieceIndex>,
    previous: Option<PieceIndex>,
    next: Option<PieceIndex>,

    pub(super) route: RouteIndex,
    pub(super) chunk: ChunkId,
    pub(super) range: BlockRange,
    /// First block in the volume.
    pub(super) offset: u64,
    /// Blocks finished.
    pub(super) done: u32,
    /// Blocks of the request on its way or to be sent again; zero: not chosen.
    pub(super) sent: u32,

    /// Payload of a write.
    pub(super) pages: Option<Pages>,
    /// CRC-32C of each block of it, little-endian.
    pub(super) crcs: [[u8; 4]; OPERATION_BLOCKS_MAX as usize],
    /// Where a read lands, or has landed.
    pub(super) landing: Option<Buffer>,
    /// Pages of the pool that hold all of a read which did not land in one piece.
    pub(super) gathered: Option<Buffer>,

    /// What a fence raises the epoch to.
    pub(super) epoch: Epoch,

    /// Session and number of a change; number zero: none yet.
    pub(super) session: SessionId,
    pub(super) number: RequestNumber,
    /// Whether an attempt under this number may have been executed.
    pub(super) maybe_executed: bool,

    pub(super) attempts: u32,
    /// Hints followed one after another.
    pub(super) hints: u8,
    /// Pauses made so far, which sets the length of the next.
    pub(super) pauses: u32,
    /// Attempts that failed for damaged bytes.
    pub(super) damaged: u8,
    /// Why it is paused.
    pub(super) obstacle: Obstacle,
    /// Distinguishes the attempts made from this slot.
    pub(super) nonce: u32,
    /// Where it was sent.
    pub(super) connection: ConnectionId,
    /// The replica of the route it was sent to.
    pub(super) replica: u8,
    /// When it was sent last.
    pub(super) sent_ns: u64,
    /// End of the attempt or of the pause.
    pub(super) timer_ns: u64,
    /// End of the operation.
    pub(super) deadline_ns: u64,
}

impl Piece {
    fn vacant() -> Piece {
        Piece {
            kind: PieceKind::Read,
            state: PieceState::Free,
            operation: None,
            sibling: None,
            previous: None,
            next: None,
            route: RouteIndex(0),
            chunk: ChunkId(0),
            range: BlockRange::default(),
            offset: 0,
            done: 0,
            sent: 0,
            pages: None,
            crcs: [[0; 4]; OPERATION_BLOCKS_MAX as usize],
            landing: None,
            gathered: None,
            epoch: Epoch(0),
            session: SessionId(0),
            number: RequestNumber(0),
            maybe_executed: false,
            attempts: 0,
            hints: 0,
            pauses: 0,
            damaged: 0,
            obstacle: Obstacle::Connection,
            nonce: 0,
            connection: ConnectionId::new(u32::MAX, 0),
            replica: 0,
            sent_ns: 0,
            timer_ns: u64::MAX,
            deadline_ns: u64::MAX,
        }
    }

    /// Makes the slot ready for a new piece. The checksums stay: they are written with the pages.
    pub(super) fn reset(&mut self, kind: PieceKind, route: RouteIndex) {
        debug_assert!(self.landing.is_none() && self.gathered.is_none() && self.pages.is_none());
        self.kind = kind;
        self.state = PieceState::Fresh;
        self.operation = None;
        self.sibling = None;
        self.route = route;
        self.done = 0;
        self.sent = 0;
        self.session = SessionId(0);
        self.number = RequestNumber(0);
        self.maybe_executed = false;
        self.attempts = 0;
        self.hints = 0;
        self.pauses = 0;
        self.damaged = 0;
        self.obstacle = Obstacle::Connection;
        self.timer_ns = u64::MAX;
        self.deadline_ns = u64::MAX;
    }

    /// Whether the piece changes something, and so has a number and goes behind a session.
    pub(super) fn is_change(&self) -> bool {
        matches!(self.kind, PieceKind::Write | PieceKind::Discard | PieceKind::Delete)
    }

    /// Whether it matters if an attempt was executed that was not answered.
    pub(super) fn has_effect(&self) -> bool {
        self.is_change() || self.kind == PieceKind::Fence
    }

    /// Blocks that are neither finished nor on their way.
    pub(super) fn blocks_left(&self) -> u32 {
        self.range.blocks - self.done
    }

    /// Releases everything the piece holds; late answers find nothing.
    pub(super) fn clear(&mut self) {
        self.pages = None;
        self.landing = None;
        self.gathered = None;
    }
}

/// A list of pieces; the links are in the table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PieceList {
    head: Option<PieceIndex>,
    tail: Option<PieceIndex>,
}

impl PieceList {
    /// The first piece.
    pub(super) fn first(&self) -> Option<PieceIndex> {
        self.head
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }
}

/// All pieces.
#[derive(Debug)]
pub(super) struct PieceTable {
    pieces: Box<[Piece]>,
    vacant: PieceList,
    vacant_count: u32,
    /// Slots beyond this belong to routes and are never vacant.
    shared: u32,
}

impl PieceTable {
    /// `shared` slots for operations, and one more for each of `routes` routes.
    pub(super) fn new(shared: u32, routes: u32) -> PieceTable {
        let pieces = (0..shared + routes).map(|_| Piece::vacant()).collect();
        let vacant = PieceList::default();
        let mut table = PieceTable { pieces, vacant, vacant_count: 0, shared };
        (0..shared).rev().for_each(|index| table.release(PieceIndex(index)));
        table
    }

    /// The slot that belongs to a route.
    pub(super) fn of_route(&self, route: RouteIndex) -> PieceIndex {
        PieceIndex(self.shared + route.0)
    }

    /// Slots that [`PieceTable::acquire`] can hand out.
    pub(super) fn vacant_count(&self) -> u32 {
        self.vacant_count
    }

    /// All slots.
    pub(super) fn indices(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.pieces.len() as u32).map(PieceIndex)
    }

    /// The index of a number from the wire.
    pub(super) fn index(&self, number: u32) -> Option<PieceIndex> {
        ((number as usize) < self.pieces.len()).then_some(PieceIndex(number))
    }

    /// Takes a vacant slot.
    pub(super) fn acquire(&mut self) -> Option<PieceIndex> {
        let mut vacant = self.vacant;
        let index = self.pop_front(&mut vacant)?;
        self.vacant = vacant;
        self.vacant_count -= 1;
        Some(index)
    }

    /// Gives a slot back; what the piece holds must be gone.
    pub(super) fn release(&mut self, index: PieceIndex) {
        debug_assert!(index.0 < self.shared);
        self[index].state = PieceState::Free;
        let mut vacant = self.vacant;
        self.push_front(&mut vacant, index);
        self.vacant = vacant;
        self.vacant_count += 1;
    }

    pub(super) fn push_back(&mut self, list: &mut PieceList, index: PieceIndex) {
        self[index].previous = list.tail;
        self[index].next = None;
        match list.tail {
            Some(tail) => self[tail].next = Some(index),
            None => list.head = Some(index),
        }
        list.tail = Some(index);
    }

    pub(super) fn push_front(&mut self, list: &mut PieceList, index: PieceIndex) {
        self[index].previous = None;
        self[index].next = list.head;
        match list.head {
            Some(head) => self[head].previous = Some(index),
            None => list.tail = Some(index),
        }
        list.head = Some(index);
    }

    /// Takes a piece out of the list that it is in.
    pub(super) fn remove(&mut self, list: &mut PieceList, index: PieceIndex) {
        let (previous, next) = (self[index].previous.take(), self[index].next.take());
        match previous {
            Some(previous) => self[previous].next = next,
            None => list.head = next,
        }
        match next {
            Some(next) => self[next].previous = previous,
            None => list.tail = previous,
        }
    }

    fn pop_front(&mut self, list: &mut PieceList) -> Option<PieceIndex> {
        let index = list.head?;
        self.remove(list, index);
        Some(index)
    }
}

impl std::ops::Index<PieceIndex> for PieceTable {
    type Output = Piece;

    fn index(&self, index: PieceIndex) -> &Piece {
        &self.pieces[index.0 as usize]
    }
}

impl std::ops::IndexMut<PieceIndex> for PieceTable {
    fn index_mut(&mut self, index: PieceIndex) -> &mut Piece {
        &mut self.pieces[index.0 as usize]
    }
}
