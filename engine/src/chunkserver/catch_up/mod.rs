//! Catch-up by block difference: how a replica that lacks more than its leader's log holds is
//! brought up to date, while everybody goes on working.
//!
//! # The way
//!
//! 1. The library asks for a raft snapshot; the leader has none and starts a *task* instead
//!    ([`source`]). A round begins at the leader's applied index, A0: it takes the copyset's state
//!    and the list of its chunks, both exactly there.
//! 2. The receiver ([`receiver`]) says which chunks it holds. It drops those that are not on the
//!    list, and gets of the others what changed above what it holds. Each chunk is frozen when its
//!    turn comes, at an index of its own, not below A0, and installed by one journal record.
//! 3. When all is there and the leader's log still reaches back to A0, the state follows; else
//!    another, shorter round. When the receiver has everything durable the raft snapshot of A0 is
//!    offered to the library: a mere message, since everything that it stands for is there.
//! 4. The receiver's log begins anew behind A0, with the state of A0. Chunks are ahead of it and
//!    skip the entries that they have seen.
//!
//! # What makes it right
//!
//! - *The list is that of A0*, not of the end of the round. A chunk that was deleted, and born anew
//!   after A0, is on a later list; a receiver that holds its first life would keep it, and never
//!   hear of the deletion if that lies below A0. For the same reason a chunk whose life began after
//!   A0 is not sent: all of it comes by the log.
//! - *The list comes first*, and chunks that shrink before those that grow, so that a receiver needs
//!   hardly more room than its content before or after.
//! - *The state is that of A0*, byte for byte: its sessions decide which entries above A0 are
//!   repetitions. All its parts but the last are journalled as they come; the last stands in one
//!   batch with the log's new beginning, so that a recovery finds the old log and state, or the new
//!   ones, and newer chunks with both (`replaying.rs` says why that is enough).
//! - *A receiver in the middle* knows, durably, up to which index its chunks may be ahead
//!   ([`mark`]). Until its state has come so far it is no source.
//! - *Extents*: those of a chunk on its way belong to the receiver's staging and are released if it
//!   comes to nothing; those of log entries that an installed chunk covers stay with their entries
//!   until these are applied (and skipped) or cut off. Whatever is released is released behind the
//!   append of what released it, so that it counts with the same batch.
//! - *The log is held back*: while a task runs, the leader lets go of no entry above A0, up to
//!   [`LOG_RETAINED_FACTOR`] times what it retains otherwise.
//!
//! A block that is bad or missing at the leader ends the task and is repaired from a peer; the next
//! task goes on. Not here: that repair, and who is member of a copyset.
//!
//! Fault model: every frame is the peer's word. What is no frame closes the connection; what makes
//! no sense ends the task, with one line in the log. A task whose answers stop coming, whose
//! connection closes or whose leader is no longer one ends too; what was installed stays, so that
//! the next task is short.

pub(super) mod mark;
mod receiver;
mod retention;
mod source;
mod status;

use culvert_memory::Buffer;
use culvert_nvme::Status;

pub(super) use receiver::{Arrival, Receiver};
pub(super) use retention::let_go_index;
pub(super) use source::Sources;
pub use status::CatchUpStatus;

use super::{Chunkserver, Offence};
use crate::journal::{ChunkInstalled, ITEM_HEADER_BYTES};
use crate::network::{ConnectionId, Network, Payloads};
use crate::wire::{self, CatchUpHead, CatchUpKind, FrameError};

/// Tasks that one reactor runs at once as their leader.
const TASKS_MAX: usize = 4;

/// Frames that a leader sends before their answers are there.
const WINDOW_FRAMES: u64 = 16;

/// Blocks with payload in one frame.
const FRAME_BLOCKS_MAX: usize = 32;

/// Frames that one task sends, and a receiver deals with, in one turn.
const FRAMES_PER_TURN: usize = 8;

/// A task without an answer for so long, while one is due, is given up.
const SILENCE_NS: u64 = 30_000_000_000;

/// A chunk on its way that finds no space for so long gives back what it has, and begins again:
/// with another list and order there may be room.
const CRAMPED_NS: u64 = 2_000_000_000;

/// A raft snapshot that was offered and has not arrived after so long is lost.
const OFFER_NS: u64 = 5_000_000_000;

/// After a task ended before its end the next one to the same replica waits for so long.
const REST_NS: u64 = 500_000_000;

/// ... or for so long, where it would most likely end alike.
const REST_LONG_NS: u64 = 3_000_000_000;

/// How many times the entries that a log retains otherwise it keeps for a replica that catches up.
const LOG_RETAINED_FACTOR: u64 = 8;

/// Room in the journal that is left for others when a long item is appended.
const JOURNAL_HEADROOM_BYTES: usize = 16 << 10;

/// Bytes of items that one journal write must hold, so that a catch-up can install a chunk of so
/// many blocks whatever has changed in it.
#[must_use]
pub fn journal_write_bytes_min(chunk_blocks: u32) -> u64 {
    (ITEM_HEADER_BYTES + JOURNAL_HEADROOM_BYTES) as u64 + ChunkInstalled::length(chunk_blocks)
}

/// Commands of a shard that are left for others.
const COMMANDS_HEADROOM: u32 = 64;

/// Marks the tokens of device reads for catch-ups. A feed's have the bit above it.
const CATCH_UP_TOKEN: u64 = 1 << 62;

/// Whether a device read belongs to a catch-up; not to be asked for a feed's.
pub(super) fn is_catch_up(token: u64) -> bool {
    token & CATCH_UP_TOKEN != 0
}

const _: () = assert!(FRAME_BLOCKS_MAX <= crate::network::PAYLOADS_MAX);

impl Chunkserver {
    /// Takes a frame of a catch-up.
    pub(super) fn catch_up_frame(
        &mut self,
        connection: ConnectionId,
        count: u16,
        body: &[u8],
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let (head, rest) = wire::parse_catch_up(body)?;
        let came: u32 = payloads.iter().map(Buffer::pages).sum();
        if head.kind != CatchUpKind::Chunk && came > 0 {
            return Err(Offence::Payload { said: 0, came });
        }
        let Some(position) = self.position(head.copyset) else { return Ok(()) };
        let copyset = &self.copysets[position as usize];
        let from_there = copyset.peer_of(head.from) == self.peers.by_connection(connection);
        let to_us = head.to == copyset.group.replica();
        if !from_there || !to_us || !self.in_service(position) {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        match head.kind {
            CatchUpKind::Done | CatchUpKind::Manifest => {
                let items = manifest(&head, count, rest)?;
                self.sources.answer(connection, &head, items, self.now_ns);
            }
            CatchUpKind::Abort => {
                self.sources.abort(connection, &head);
                self.abort_receiver(position, connection, &head);
            }
            _ => self.take_in(position, connection, &head, count, rest, payloads)?,
        }
        Ok(())
    }

    /// A device read for a catch-up has ended.
    pub(super) fn catch_up_read_done(&mut self, token: u64, buffer: Buffer, status: Status) {
        let token = token & !CATCH_UP_TOKEN;
        let shards = &mut self.shards;
        self.sources.read_done(token, buffer, status, |shard, ticket| {
            shards[shard].shard.store_mut().read_end(ticket);
        });
    }

    /// Lets tasks and receivers go on.
    pub(super) fn run_catch_ups<N: Network>(&mut self, network: &mut N) {
        self.sources.busy = false;
        self.run_receivers(network);
        self.run_sources(network);
        while let Some(spot) = self.sources.take_suspect() {
            // The task ends with it. The next one finds it repaired.
            self.suspect(spot);
        }
    }
}

/// The items of a manifest; an answer that is none has none.
fn manifest<'a>(
    head: &CatchUpHead,
    count: u16,
    rest: &'a [u8],
) -> Result<&'a [wire::ManifestItem], FrameError> {
    match head.kind {
        CatchUpKind::Manifest => wire::catch_up_items(count, rest),
        _ if rest.is_empty() => Ok(&[]),
        _ => Err(FrameError::Field("items")),
    }
}

/// A head with nothing in it but who speaks to whom about which frame of which task.
fn plain_head(kind: CatchUpKind, whom: &Parties, number: u64) -> CatchUpHead {
    use crate::ids::{ChunkId, LogIndex, Term};
    CatchUpHead {
        kind,
        first: false,
        last: false,
        copyset: whom.copyset,
        from: whom.from,
        to: whom.to,
        term: whom.term,
        task: whom.task,
        number,
        index: LogIndex(0),
        index_term: Term(0),
        chunk: ChunkId(0),
        birth: LogIndex(0),
        applied: LogIndex(0),
        since: LogIndex(0),
        total: 0,
    }
}

/// Who speaks to whom, in which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parties {
    copyset: crate::ids::CopysetId,
    from: crate::ids::ReplicaId,
    to: crate::ids::ReplicaId,
    term: crate::ids::Term,
    task: u64,
}
