//! Reads: lease or read index, map, device, checksum, and a one-sided write to the client.
//!
//! A read is queued while frames are polled and started afterwards, with a time that was read
//! after the last of them, so that its lease covers it. What the map names cannot be freed while
//! the read holds its ticket. Blocks that are not mapped read as zeroes. A read that meets a bad or
//! missing block waits for its repair and is carried out again.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, Pages, Pool};
use culvert_nvme::Status;

use super::Chunkserver;
use super::copyset::RoundRead;
use super::lanes::Lanes;
use super::replies::QueuedReply;
use crate::counters::Counters;
use crate::ids::{BLOCK_SIZE, BlockRange, ChunkId, Extent, LogIndex, OPERATION_BLOCKS_MAX};
use crate::network::{Class, ConnectionId, Network, Placement, SendError};
use crate::stages::{Stage, Stages};
use crate::store::{BlockStates, ChunkKey, Place, ReadTicket};
use crate::wire::{FRAME_BYTES_MAX, Reply, ReplyStatus};

const PIECES_MAX: usize = OPERATION_BLOCKS_MAX as usize;

/// A read that was admitted and not started.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedRead {
    pub connection: ConnectionId,
    pub token: u64,
    pub position: u32,
    /// Position of the copyset's shard.
    pub shard: u32,
    /// A read-index round vouches for it: it needs no lease.
    pub confirmed: bool,
    pub chunk: ChunkId,
    pub range: BlockRange,
    pub landing_page: u32,
    /// When its request was taken off the wire.
    pub taken_ns: u64,
}

/// A run of blocks that lies together on the device, or is a hole.
struct Piece {
    first: u32,
    pages: Option<Pages>,
}

/// A started read. Its place in the table is reused; nothing is allocated per read.
struct Started {
    read: QueuedRead,
    states: BlockStates,
    pieces: ArrayVec<Piece, PIECES_MAX>,
    outstanding: u32,
    ticket: Option<ReadTicket>,
    status: ReplyStatus,
    /// Blocks that are bad here or missing, by their bits.
    bad: u32,
}

const _: () = assert!(OPERATION_BLOCKS_MAX <= u32::BITS);

/// See the module's documentation.
pub(super) struct Reads {
    pub lanes: Lanes,
    started: Vec<Started>,
    free: Vec<u32>,
    /// Reads whose pieces are all there, in order.
    finished: VecDeque<u32>,
    /// As many zero pages as the longest hole.
    zeroes: Pages,
    zero_crc: u32,
    frame: Box<[u8; FRAME_BYTES_MAX]>,
}

impl Reads {
    /// A table for `capacity` reads on `shards` shards; `None` where the pool has no pages for the
    /// zeroes.
    pub fn new(capacity: u32, shards: usize, pool: &Pool) -> Option<Reads> {
        let mut zeroes = pool.acquire(OPERATION_BLOCKS_MAX)?;
        zeroes.fill_zero(0..zeroes.len());
        let zero_crc = zeroes.crc32c(0, BLOCK_SIZE);
        let lanes = Lanes::new(capacity, shards, pool.total_pages());
        let table = lanes.started_max();
        Some(Reads {
            lanes,
            started: Vec::with_capacity(table),
            free: Vec::with_capacity(table),
            finished: VecDeque::with_capacity(table),
            zeroes: zeroes.freeze(),
            zero_crc,
            frame: Box::new([0; FRAME_BYTES_MAX]),
        })
    }

    pub fn has_work(&self) -> bool {
        self.lanes.has_work() || !self.finished.is_empty()
    }

    /// Takes a place for a read, which the shard's share of the table has.
    fn open(&mut self, read: QueuedRead) -> u32 {
        if let Some(slot) = self.free.pop() {
            let started = &mut self.started[slot as usize];
            started.read = read;
            started.states.clear();
            started.outstanding = 0;
            started.status = ReplyStatus::Ok;
            started.bad = 0;
            return slot;
        }
        debug_assert!(self.started.len() < self.lanes.started_max());
        self.started.push(Started {
            read,
            states: BlockStates::new(),
            pieces: ArrayVec::new(),
            outstanding: 0,
            ticket: None,
            status: ReplyStatus::Ok,
            bad: 0,
        });
        self.started.len() as u32 - 1
    }

    /// Gives a place back, with the pages that are still in it.
    fn close(&mut self, slot: u32) {
        self.started[slot as usize].pieces.clear();
        self.free.push(slot);
    }

    /// A piece came from the device, good or bad.
    pub fn piece_done(
        &mut self,
        (token, buffer, status): (u64, Buffer, Status),
        stages: &mut Stages,
        counters: &mut Counters,
    ) {
        let (slot, piece) = split(token);
        let started = &mut self.started[slot as usize];
        started.outstanding -= 1;
        let first = started.pieces[piece].first;
        let bad = (0..buffer.pages()).filter(|page| {
            let expected = started.states[(first + page) as usize].crc;
            // Which of the blocks cannot be read, nobody says.
            !status.is_success()
                || buffer.crc32c(*page as usize * BLOCK_SIZE, BLOCK_SIZE) != expected
        });
        let bad: u32 = bad.fold(0, |bits, page| bits | 1 << (first + page));
        if bad != 0 && status.is_success() {
            counters.mismatched_blocks += u64::from(bad.count_ones());
        }
        if status.is_device_gone() {
            // The shard says so, once, and leaves service.
            started.status = ReplyStatus::DeviceFailed;
        } else if bad != 0 {
            started.status = ReplyStatus::Media;
            started.bad |= bad;
        }
        started.pieces[piece].pages = Some(buffer.freeze());
        if started.outstanding == 0 {
            if started.status == ReplyStatus::Ok {
                stages.note(Stage::ReadVerified, started.read.taken_ns, 1);
            }
            self.finished.push_back(slot);
        }
    }
}

/// Device reads of clients carry the table slot and the piece.
fn token_of(slot: u32, piece: usize) -> u64 {
    u64::from(slot) << 8 | piece as u64
}

fn split(token: u64) -> (u32, usize) {
    ((token >> 8) as u32, (token & 0xff) as usize)
}

impl Chunkserver {
    /// Starts what may be served now; what needs a read-index round waits for it.
    pub(super) fn start_reads(&mut self) {
        self.settle_rounds();
        for shard in 0..self.shards.len() {
            while let Some(read) = self.reads.lanes.next(shard) {
                if !self.serve_read(read) {
                    break;
                }
            }
        }
    }

    /// Starts, answers or parks one read; `false` where its shard has no room, and it is the
    /// shard's next again.
    fn serve_read(&mut self, read: QueuedRead) -> bool {
        let copyset = &self.copysets[read.position as usize];
        if !self.in_service(read.position) {
            self.refuse_read(&read, ReplyStatus::DeviceFailed, 0);
        } else if !read.confirmed && !copyset.group.is_leader() {
            let hint = copyset.group.leader().map_or(0, |leader| leader.0);
            self.refuse_read(&read, ReplyStatus::NotLeader, hint);
        } else if !read.confirmed && !copyset.group.holds_lease(self.now_ns) {
            self.start_round(read);
        } else {
            return self.start_read(read);
        }
        true
    }

    pub(super) fn refuse_read(&mut self, read: &QueuedRead, status: ReplyStatus, value: u64) {
        let reply = QueuedReply::new(read.connection, read.token, status);
        self.replies.push(QueuedReply { value, ..reply });
        self.reads.lanes.leave(read, false);
    }

    /// Without a lease: asks a majority whether this replica still leads. Reads that come while a
    /// round is under way wait for the next one, because a round vouches only for what came before.
    fn start_round(&mut self, read: QueuedRead) {
        let position = read.position;
        let copyset = &mut self.copysets[position as usize];
        if copyset.round.is_none() {
            copyset.round = copyset.group.read_index();
            self.rounds.extend(copyset.round.map(|_| position));
        }
        let Some(context) = copyset.round else {
            return self.refuse_read(&read, ReplyStatus::Busy, 0);
        };
        let fresh = copyset.round_reads.back().is_none_or(|last| last.context <= context);
        debug_assert!(fresh);
        copyset.round_reads.push_back(RoundRead { context, index: None, read });
        self.mark_dirty(position);
    }

    /// Ends the rounds of this turn: later reads start a new one.
    fn settle_rounds(&mut self) {
        for position in self.rounds.drain(..) {
            self.copysets[position as usize].round = None;
        }
    }

    /// A majority confirmed a round.
    pub(super) fn round_done(&mut self, position: u32, context: u64, index: LogIndex) {
        let copyset = &mut self.copysets[position as usize];
        for round in copyset.round_reads.iter_mut().filter(|round| round.context <= context) {
            round.index.get_or_insert(index);
        }
        let applied = copyset.group.applied();
        copyset.settle_reads(applied, &mut self.reads.lanes);
    }

    /// Starts one read; `false` where its shard or the pool has no room: it is the next again.
    fn start_read(&mut self, read: QueuedRead) -> bool {
        let copyset = &self.copysets[read.position as usize];
        let shard = &mut self.shards[copyset.shard].shard;
        let room = shard.commands_free() >= PIECES_MAX as u32;
        if !room || !self.reads.lanes.has_room(&read) {
            // What it waits for ends with a completion, and that is an event.
            self.reads.lanes.put_back(read, true);
            return false;
        }
        let key = ChunkKey { copyset: copyset.id, chunk: read.chunk };
        let slot = self.reads.open(read);
        let started = &mut self.reads.started[slot as usize];
        if !shard.store().lookup(key, read.range, &mut started.states) {
            let hole = std::iter::repeat_n(Default::default(), read.range.blocks as usize);
            started.states.extend(hole);
        }
        let planned = plan(
            started,
            &self.pool,
            &self.reads.zeroes,
            self.reads.zero_crc,
            |piece, extent, buffer| {
                shard.read(token_of(slot, piece), extent, buffer);
            },
        );
        if !planned {
            self.reads.close(slot);
            self.reads.lanes.put_back(read, false);
            return false;
        }
        self.stages.note(Stage::ReadSubmit, read.taken_ns, 1);
        self.reads.lanes.start(&read);
        if started.outstanding == 0 {
            self.stages.note(Stage::ReadVerified, read.taken_ns, 1);
            self.reads.finished.push_back(slot);
        } else {
            started.ticket = Some(shard.store_mut().read_begin());
        }
        true
    }

    /// Sends the answers of reads whose pieces are all there.
    pub(super) fn finish_reads<N: Network>(&mut self, network: &mut N) {
        for _ in 0..self.reads.finished.len() {
            let Some(slot) = self.reads.finished.pop_front() else { break };
            let started = &mut self.reads.started[slot as usize];
            let read = started.read;
            if let Some(ticket) = started.ticket.take() {
                let copyset = &self.copysets[read.position as usize];
                self.shards[copyset.shard].shard.store_mut().read_end(ticket);
            }
            if started.status == ReplyStatus::Media {
                let bad = started.bad;
                self.reads.close(slot);
                self.reads.lanes.end(&read);
                if let Err(status) = self.await_repair(&read, bad) {
                    self.refuse_read(&read, status, 0);
                }
                continue;
            }
            let mut answered = Err(SendError::Full);
            if !self.reads.lanes.is_blocked(read.connection) {
                answered = answer(started, &mut self.reads.frame, network);
            }
            if answered == Err(SendError::OutsideWindow) {
                // The client named pages that it has not granted.
                started.status = ReplyStatus::Malformed;
                answered = answer(started, &mut self.reads.frame, network);
            }
            let whole = started.status == ReplyStatus::Ok;
            self.reads.close(slot);
            self.reads.lanes.end(&read);
            match answered {
                Err(SendError::Full) => {
                    self.reads.lanes.block(&read);
                    continue;
                }
                Ok(()) => {
                    self.counters.replies_sent += 1;
                    if whole {
                        let blocks = u64::from(read.range.blocks);
                        self.counters.user_bytes_read += blocks * BLOCK_SIZE as u64;
                        self.stages.note(Stage::ReadReply, read.taken_ns, 1);
                    }
                }
                Err(_closed) => {}
            }
            self.replies.answered(read.connection);
            self.reads.lanes.leave(&read, answered.is_ok());
        }
    }
}

/// Cuts the range into runs and starts their device reads. All pages are taken before the first
/// read is started, so that a full pool leaves nothing half done.
fn plan(
    started: &mut Started,
    pool: &Pool,
    zeroes: &Pages,
    zero_crc: u32,
    mut submit: impl FnMut(usize, Extent, Buffer),
) -> bool {
    let mut buffers: ArrayVec<(usize, Extent, Buffer), PIECES_MAX> = ArrayVec::new();
    let blocks = started.states.len() as u32;
    let mut first = 0;
    while first < blocks {
        let run = run_length(&started.states, first);
        let mut piece = Piece { first, pages: None };
        match started.states[first as usize].place {
            Place::At(start) => {
                let Some(buffer) = pool.acquire(run) else { return false };
                buffers.push((started.pieces.len(), Extent { start, blocks: run }, buffer));
            }
            Place::Hole => {
                piece.pages = Some(zeroes.slice(0, run));
                for state in &mut started.states[first as usize..(first + run) as usize] {
                    state.crc = zero_crc;
                }
            }
            Place::Missing => {
                started.status = ReplyStatus::Media;
                started.bad |= (first..first + run).fold(0, |bits, block| bits | 1 << block);
            }
        }
        started.pieces.push(piece);
        first += run;
    }
    started.outstanding = buffers.len() as u32;
    for (piece, extent, buffer) in buffers {
        submit(piece, extent, buffer);
    }
    true
}

/// Blocks from `first` on that lie one behind the other, or are all holes.
fn run_length(states: &BlockStates, first: u32) -> u32 {
    let start = states[first as usize].place;
    let mut run = 1;
    while let Some(next) = states.get((first + run) as usize) {
        let follows = match (start, next.place) {
            (Place::At(start), Place::At(next)) => next == start + run,
            (Place::Hole, Place::Hole) | (Place::Missing, Place::Missing) => true,
            _ => false,
        };
        if !follows {
            break;
        }
        run += 1;
    }
    run
}

/// Writes the data into the client's window and the answer behind it; an error without data.
fn answer<N: Network>(
    started: &mut Started,
    out: &mut [u8; FRAME_BYTES_MAX],
    network: &mut N,
) -> Result<(), SendError> {
    let read = &started.read;
    if started.status != ReplyStatus::Ok {
        let frame = Reply::new(started.status, read.token).emit(out);
        return network.send(read.connection, Class::Data, frame, &[]);
    }
    let mut crcs = [0; PIECES_MAX * 4];
    for (bytes, state) in crcs.chunks_exact_mut(4).zip(&started.states) {
        bytes.copy_from_slice(&state.crc.to_le_bytes());
    }
    let mut payloads: ArrayVec<(Placement, Pages), PIECES_MAX> = ArrayVec::new();
    for piece in &started.pieces {
        let pages = piece.pages.as_ref().expect("a finished read has all its pieces");
        let page = read.landing_page.checked_add(piece.first);
        let placement = page.and_then(|page| Placement::named(page, pages.pages()));
        let Some(placement) = placement else { return Err(SendError::OutsideWindow) };
        payloads.push((placement, pages.clone()));
    }
    let reply = Reply {
        blocks: read.range.blocks as u16,
        trailing: &crcs[..started.states.len() * 4],
        ..Reply::new(ReplyStatus::Ok, read.token)
    };
    network.send(read.connection, Class::Data, reply.emit(out), &payloads)
}
