//! A chunk on its way out: frozen, read from the device a little ahead, sent frame by frame.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, Pages};
use culvert_nvme::Status;
use zerocopy::IntoBytes;

use super::super::{CATCH_UP_TOKEN, COMMANDS_HEADROOM, FRAME_BLOCKS_MAX};
use super::Desk;
use super::blocks::is_intact;
use super::ending::{Ending, Stop};
use super::plan::Work;
use crate::chunkserver::repair::Spot;
use crate::ids::{BLOCK_SIZE, Extent, LogIndex};
use crate::network::{Network, Placement};
use crate::store::{BlockState, ChunkKey, ChunkSummary, FreezeError, FrozenId, Place};
use crate::wire::{CATCH_UP_BODY_BYTES, ChunkBlock};

/// Blocks of one piece: what lies together on the device, or holes.
const PIECE_BLOCKS_MAX: usize = 16;

/// Pieces that are read, or wait to be sent, at once.
const PIECES_MAX: usize = 64;

/// Blocks that are read, or wait to be sent, at once.
const READ_AHEAD_BLOCKS: usize = 64;

/// Items of one frame.
const FRAME_ITEMS_MAX: usize = CATCH_UP_BODY_BYTES / size_of::<ChunkBlock>();

const _: () = assert!(FRAME_BLOCKS_MAX >= PIECE_BLOCKS_MAX);
const _: () = assert!(FRAME_ITEMS_MAX >= PIECE_BLOCKS_MAX);

/// What a piece waits for.
enum Bytes {
    /// Nothing: these are holes.
    None,
    Reading,
    Here(Pages),
    Bad,
}

/// Blocks that are read and sent together.
struct Piece {
    number: u32,
    blocks: ArrayVec<(u32, BlockState), PIECE_BLOCKS_MAX>,
    bytes: Bytes,
}

impl Piece {
    fn payload_blocks(&self) -> usize {
        if matches!(self.bytes, Bytes::None) { 0 } else { self.blocks.len() }
    }

    fn suspects(&self, position: u32, key: ChunkKey) -> impl Iterator<Item = Spot> + '_ {
        self.blocks.iter().map(move |&(block, _)| Spot { position, chunk: key.chunk, block })
    }

    /// Whether a block goes on where the piece ends.
    fn takes(&self, state: &BlockState) -> bool {
        let Some((_, last)) = self.blocks.last() else { return true };
        if self.blocks.is_full() {
            return false;
        }
        match (last.place, state.place) {
            (Place::Hole, Place::Hole) => true,
            (Place::At(last), Place::At(next)) => next == last + 1,
            _ => false,
        }
    }
}

/// See the module's documentation.
pub(super) struct Sending {
    frozen: FrozenId,
    pub summary: ChunkSummary,
    /// The copyset's applied index when it was frozen.
    pub as_of: LogIndex,
    /// Everything above this index is sent.
    pub since: LogIndex,
    /// The block from which on pieces are to be made; `None`: all are.
    next_block: Option<u32>,
    next_piece: u32,
    pieces: VecDeque<Piece>,
    /// No frame was sent yet.
    pub first: bool,
}

/// A frame's worth of a chunk.
pub(super) struct Batch {
    pub items: Vec<ChunkBlock>,
    pub payloads: ArrayVec<(Placement, Pages), FRAME_BLOCKS_MAX>,
    /// Pieces that it takes off the front.
    pieces: usize,
    pub last: bool,
}

impl Sending {
    /// Freezes a chunk. `None`: nothing of it is to be sent any more.
    pub fn open<N>(
        work: &Work,
        round: LogIndex,
        desk: &mut Desk<'_, N>,
    ) -> Result<Option<Sending>, Stop> {
        let key = ChunkKey { copyset: desk.copyset.id, chunk: work.chunk };
        let store = desk.running.shard.store_mut();
        let Some(summary) = store.chunk(key).filter(|summary| summary.birth <= round) else {
            return Ok(None);
        };
        let since = match work.held {
            Some((birth, applied)) if birth == summary.birth => applied,
            _ => LogIndex(0),
        };
        if since >= summary.applied {
            return Ok(None);
        }
        let frozen = match store.freeze(key) {
            Ok(frozen) => frozen,
            Err(FreezeError::Full) => return Err(Stop::Wait),
            Err(FreezeError::NoChunk) => return Ok(None),
        };
        Ok(Some(Sending {
            frozen,
            summary,
            as_of: desk.copyset.state.applied(),
            since,
            next_block: Some(0),
            next_piece: 0,
            pieces: VecDeque::new(),
            first: true,
        }))
    }

    /// Lets go of the image.
    pub fn close<N>(self, desk: &mut Desk<'_, N>) {
        desk.running.shard.store_mut().thaw(self.frozen);
    }

    /// Makes pieces and starts their reads, as far ahead as is allowed.
    pub fn read_ahead<N>(&mut self, task: u64, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let mut ahead: usize = self.pieces.iter().map(Piece::payload_blocks).sum();
        while let Some(from) = self.next_block {
            if ahead >= READ_AHEAD_BLOCKS || self.pieces.len() >= PIECES_MAX {
                break;
            }
            let store = desk.running.shard.store();
            let mut piece =
                Piece { number: self.next_piece, blocks: ArrayVec::new(), bytes: Bytes::None };
            let mut next = None;
            for (block, state) in store.frozen_blocks(self.frozen, self.since, from) {
                if !piece.takes(&state) {
                    next = Some(block);
                    break;
                }
                piece.blocks.push((block, state));
            }
            if let Some((_, BlockState { place, .. })) = piece.blocks.first() {
                match *place {
                    Place::Hole => {}
                    Place::Missing => {
                        desk.suspects.extend(piece.suspects(desk.position, self.summary.key));
                        return Err(Stop::End(Ending::Missing));
                    }
                    Place::At(start) => {
                        if !read(&mut piece, start, task, desk) {
                            break;
                        }
                    }
                }
                ahead += piece.payload_blocks();
                self.next_piece += 1;
                self.pieces.push_back(piece);
            }
            self.next_block = next;
        }
        Ok(())
    }

    /// A read of a piece has ended. Where it did not bring what it should, its blocks go to
    /// `suspects`.
    pub fn read_done(
        &mut self,
        number: u32,
        (buffer, status): (Buffer, Status),
        position: u32,
        suspects: &mut Vec<Spot>,
    ) {
        let Some(piece) = self.pieces.iter_mut().find(|piece| piece.number == number) else {
            return;
        };
        let good = is_intact(&buffer, status, piece.blocks.iter().map(|(_, state)| state.crc));
        piece.bytes = if good { Bytes::Here(buffer.freeze()) } else { Bytes::Bad };
        if !good {
            suspects.extend(piece.suspects(position, self.summary.key));
        }
    }

    /// Collects the next frame: pieces from the front that are there and have a place in the
    /// receiver's window.
    pub fn batch<N: Network>(&self, desk: &mut Desk<'_, N>) -> Result<Batch, Stop> {
        let mut batch =
            Batch { items: Vec::new(), payloads: ArrayVec::new(), pieces: 0, last: false };
        let mut blocks = 0;
        let mut stop = Stop::Wait;
        for piece in &self.pieces {
            let payload = piece.payload_blocks();
            let full = blocks + payload > FRAME_BLOCKS_MAX
                || batch.items.len() + piece.blocks.len() > FRAME_ITEMS_MAX;
            if full {
                break;
            }
            match &piece.bytes {
                Bytes::None => {}
                Bytes::Reading => break,
                Bytes::Bad => {
                    batch.cancel(desk);
                    return Err(Stop::End(Ending::BadBlock));
                }
                Bytes::Here(pages) => {
                    let place = desk.network.reserve(desk.connection, pages.pages());
                    let Some(place) = place else {
                        stop = Stop::Blocked;
                        break;
                    };
                    batch.payloads.push((place, pages.clone()));
                }
            }
            blocks += payload;
            batch.items.extend(piece.blocks.iter().map(|(block, state)| ChunkBlock {
                block: (*block).into(),
                crc: state.crc.into(),
                index: state.index.0.into(),
                mapped: u32::from(state.place != Place::Hole).into(),
            }));
            batch.pieces += 1;
        }
        batch.last = self.next_block.is_none() && batch.pieces == self.pieces.len();
        if batch.items.is_empty() && !batch.last { Err(stop) } else { Ok(batch) }
    }

    /// A batch was sent.
    pub fn sent(&mut self, batch: &Batch) {
        self.first = false;
        self.pieces.drain(..batch.pieces);
    }
}

impl Batch {
    /// The items as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.items.as_bytes()
    }

    /// Payload in it.
    pub fn payload_bytes(&self) -> u64 {
        let pages: u32 = self.payloads.iter().map(|(place, _)| place.pages()).sum();
        u64::from(pages) * BLOCK_SIZE as u64
    }

    /// Gives its places back: it is not sent.
    pub fn cancel<N: Network>(&mut self, desk: &mut Desk<'_, N>) {
        for (place, _) in self.payloads.drain(..) {
            desk.network.cancel(desk.connection, place);
        }
    }
}

/// Starts a piece's read. `false`: no pages or no commands now.
fn read<N>(piece: &mut Piece, start: u32, task: u64, desk: &mut Desk<'_, N>) -> bool {
    let shard = &mut desk.running.shard;
    if shard.commands_free() <= COMMANDS_HEADROOM {
        return false;
    }
    let blocks = piece.blocks.len() as u32;
    let Some(buffer) = desk.pool.acquire(blocks) else { return false };
    let ticket = shard.store_mut().read_begin();
    let token = desk.reads.begin(task, piece.number, desk.copyset.shard, ticket);
    shard.read(CATCH_UP_TOKEN | token, Extent { start, blocks }, buffer);
    piece.bytes = Bytes::Reading;
    true
}
