//! Writing a checkpoint while work goes on.
//!
//! The way: position noted; copysets' images, asked from the composer one by one; chunks, frozen
//! and encoded piece by piece; a batch that carries all notes, waited for; flush; superblock. Each
//! turn writes a bounded number of pages. A failure of the device poisons the shard as anywhere;
//! a checkpoint that outgrows its area is given up, and the old one still counts.
//!
//! Most checkpoints are increments: they go on behind the one before, in the same area, and have
//! of each chunk only the blocks whose log index is above that of its last image. What changes
//! otherwise makes the image a whole one; an opening, or a checkpoint that was given up, all images.

use culvert_nvme::Operation;

use super::checkpoint_stream::{Checkpointing, Phase};
use super::config::CHUNK_PIECE_BYTES;
use super::{Event, Purpose, Shard};
use crate::checkpoint::{CopysetHead, CopysetImage, SectionKind, StreamWriter};
use crate::device::{CheckpointPlace, STRUCTURE_BYTES, Superblock};
use crate::ids::{BLOCK_SIZE, BatchNumber, ChunkId, CopysetId, LogIndex};
use crate::journal::Space;
use crate::store::{FreezeError, PIECE_BYTES_MIN, Store};

/// Parts of the state captured in one turn, at most.
const CAPTURES_PER_TURN: usize = 32;

/// Bytes of a checkpoint for each mapped block: its entry, and its share of what stands around the
/// entries of a leaf.
pub const MAP_BYTES_PER_BLOCK: u64 = 16;

const _: () = assert!(CHUNK_PIECE_BYTES >= PIECE_BYTES_MIN);

impl Shard {
    /// Starts a checkpoint, unless one is being written or the shard still recovers.
    pub fn start_checkpoint(&mut self) {
        let idle = self.checkpointing.phase == Phase::Idle;
        if !idle || self.recovering || self.failure.is_some() {
            return;
        }
        let place = self.superblock.checkpoint;
        let state = &mut self.checkpointing;
        state.phase = Phase::Copysets(None);
        state.position = self.appender.ring().head();
        // An increment begins while those before it are shorter together than what they go on
        // behind: an opening reads little more than twice as much.
        let more = |place: &CheckpointPlace| place.pages < 2 * state.whole_pages;
        let (area, writer) = match place {
            Some(place) if more(&place) => (place.area, StreamWriter::resume(&place, self.salt)),
            Some(place) => (1 - place.area, StreamWriter::new(place.number + 1, self.salt)),
            None => (0, StreamWriter::new(1, self.salt)),
        };
        state.increment = writer.first_page() > 0;
        (state.area, state.writer) = (area, Some(writer));
        state.copysets = 0;
        state.pieces = 0;
        state.forget.clear();
        self.groups.keep_all();
        self.bytes_since_checkpoint = 0;
    }

    /// Whether a checkpoint is being written.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointing.phase != Phase::Idle
    }

    /// Whether the last checkpoint was given up because it did not fit its area.
    #[must_use]
    pub fn is_checkpoint_too_large(&self) -> bool {
        self.checkpoint_not_before > 0
    }

    /// The copyset whose image the checkpoint needs next, if it can take one now.
    #[must_use]
    pub fn checkpoint_wants(&self) -> Option<CopysetId> {
        match self.checkpointing.phase {
            Phase::Copysets(after) if self.checkpointing.is_drained() => {
                self.groups.kept_after(after)
            }
            _ => None,
        }
    }

    /// Takes the image of the copyset that [`Shard::checkpoint_wants`] named, as it is now.
    ///
    /// # Panics
    ///
    /// If another copyset was named.
    pub fn checkpoint_copyset(&mut self, copyset: CopysetId, fill: impl FnOnce(&mut CopysetImage)) {
        assert_eq!(self.checkpoint_wants(), Some(copyset), "the copyset that was named");
        let group = self.groups.get(copyset).expect("it was named");
        let head = CopysetHead {
            copyset,
            identity: group.identity,
            applied: group.applied,
            in_doubt: group.in_doubt,
        };
        let state = &mut self.checkpointing;
        state.image.begin(copyset);
        fill(&mut state.image);
        state.image.emit(&head, &mut state.stream);
        state.copysets += 1;
        state.forget.push((copyset, head.applied));
        state.phase = Phase::Copysets(Some(copyset));
    }

    /// Sets at how many bytes of payload the next checkpoint begins.
    pub(super) fn plan_checkpoint(&mut self) {
        let pages = match self.checkpointing.whole_pages {
            0 => self.superblock.checkpoint.map_or(0, |place| place.pages),
            pages => pages,
        };
        let map = self.store.statistics().mapped_blocks * MAP_BYTES_PER_BLOCK;
        self.whole_bytes = map.max(u64::from(pages) * BLOCK_SIZE as u64);
        let bytes = self.whole_bytes.saturating_mul(self.config.checkpoint_bytes_factor);
        self.checkpoint_at_bytes = bytes.max(self.config.checkpoint_bytes_min);
    }

    /// Whether single blocks find no segment, and a checkpoint, whose superblock makes the newest one
    /// active, is worth its bytes. A life's first, which only opens one, is when the ring has taken as
    /// much; those behind it are increments, each of which brings the next whole one nearer by as much.
    fn misses_segment(&self) -> bool {
        let missed = self.bytes_without_segment;
        match self.counters.checkpoints {
            0 => missed > self.whole_bytes,
            _ => missed > 0 && self.store.next_segment_bytes() > 4 * self.increment_bytes,
        }
    }

    /// Goes on with a checkpoint, or starts one that is due: the work of one turn.
    pub(super) fn step_checkpoint(&mut self) {
        if self.checkpointing.phase == Phase::Idle {
            let (used, blocks) = self.ring_use();
            if self.bytes_since_checkpoint >= self.checkpoint_at_bytes {
                self.plan_checkpoint();
            }
            let bytes = self.bytes_since_checkpoint >= self.checkpoint_at_bytes;
            let bytes = bytes || self.misses_segment();
            let early = self.recovering || self.appender.ring().head() < self.checkpoint_not_before;
            // A ring that refuses proposals is emptied, however little is in it.
            let pressed = used > blocks / 2 || self.space() != Space::Normal;
            if early || !(bytes || pressed) {
                return;
            }
            self.start_checkpoint();
        }
        // What is captured costs the turn, and with it every operation of the turn, more than
        // handing it to the device.
        let budget = self.config.checkpoint_pages_per_turn as usize * BLOCK_SIZE;
        let mut captured = 0;
        for _ in 0..CAPTURES_PER_TURN {
            if self.checkpointing.is_drained() {
                if captured >= budget || !self.capture() {
                    break;
                }
                captured += self.checkpointing.stream.len();
            }
            let ending = self.checkpointing.phase == Phase::Ending;
            let Some(pages) = self.checkpointing.fill_run(ending) else {
                if ending || !self.checkpointing.is_drained() {
                    break;
                }
                continue;
            };
            if !self.write_run(pages) {
                return;
            }
        }
        self.step_end();
    }

    /// Captures the next part of the state into the stream; false if there is nothing to capture
    /// now.
    fn capture(&mut self) -> bool {
        match self.checkpointing.phase {
            Phase::Copysets(after) => {
                if self.groups.kept_after(after).is_some() {
                    return false;
                }
                self.checkpointing.phase = match self.groups.kept_after(None) {
                    Some(copyset) => Phase::Chunks(copyset, None),
                    None => self.capture_end(),
                };
                true
            }
            Phase::Chunks(copyset, after) => self.capture_next_chunk(copyset, after),
            Phase::Chunk(key, frozen, since, from) => {
                let store = &self.store;
                let next = self.checkpointing.piece(CHUNK_PIECE_BYTES, |out| {
                    let encoded = store.encode_chunk(frozen, since, from, out);
                    (encoded.bytes, encoded.next)
                });
                self.checkpointing.phase = match next {
                    Some(from) => Phase::Chunk(key, frozen, since, from),
                    None => {
                        self.store.thaw(frozen);
                        self.touched = true;
                        Phase::Chunks(key.copyset, Some(key.chunk))
                    }
                };
                true
            }
            Phase::Ending => true,
            Phase::Idle
            | Phase::Noting(_)
            | Phase::Barrier(_)
            | Phase::Flushing
            | Phase::Superblock => false,
        }
    }

    /// Begins the next chunk of a copyset, or ends the copyset. False: to be tried again later.
    fn capture_next_chunk(&mut self, copyset: CopysetId, after: Option<ChunkId>) -> bool {
        let Some(summary) = self.store.chunk_after(copyset, after) else {
            encode_absences(&self.store, copyset, &mut self.checkpointing);
            self.checkpointing.phase = match self.groups.kept_after(Some(copyset)) {
                Some(copyset) => Phase::Chunks(copyset, None),
                None => self.capture_end(),
            };
            return true;
        };
        match self.store.freeze_changes(summary.key) {
            Ok((frozen, saved)) => {
                let since = if self.checkpointing.increment { saved } else { LogIndex(0) };
                self.checkpointing.phase = Phase::Chunk(summary.key, frozen, since, 0);
                true
            }
            Err(FreezeError::Full) => false,
            Err(FreezeError::NoChunk) => {
                self.checkpointing.phase = Phase::Chunks(copyset, Some(summary.key.chunk));
                true
            }
        }
    }

    /// Everything is captured: the end section, and a batch with all notes.
    fn capture_end(&mut self) -> Phase {
        let state = &mut self.checkpointing;
        let counts = [state.copysets.to_le_bytes(), state.pieces.to_le_bytes()];
        state.section(SectionKind::End, counts.as_flattened());
        Phase::Ending
    }

    /// Hands a run to the device; false if the checkpoint had to be given up.
    fn write_run(&mut self, pages: u32) -> bool {
        let state = &mut self.checkpointing;
        let writer = state.writer.as_mut().expect("a checkpoint is being written");
        let first = u64::from(writer.first_page());
        let bytes = u64::from(pages) * BLOCK_SIZE as u64;
        let at = first * BLOCK_SIZE as u64;
        if at + bytes > self.layout.checkpoint_bytes {
            let increment = self.checkpointing.increment;
            self.abandon();
            if increment {
                self.start_checkpoint();
            } else {
                self.outgrown();
            }
            return false;
        }
        writer.take();
        let memory = state.run.take().expect("a run was filled").freeze();
        let lba = self.device.lba(self.layout.checkpoint(state.area) + at);
        let write = Operation::Write { lba, pages: memory.slice(0, pages), fua: false };
        state.writing[state.run_number] = Some(memory);
        self.commands.push(Purpose::CheckpointRun(state.run_number), write);
        self.counters.checkpoint_bytes += bytes;
        true
    }

    /// Gives a checkpoint up; the old one still counts. What is marked as saved in this one is not.
    fn abandon(&mut self) {
        let state = &mut self.checkpointing;
        if let Phase::Chunk(_, frozen, ..) = state.phase {
            self.store.thaw(frozen);
            self.touched = true;
        }
        state.stream.clear();
        state.put = 0;
        if let Some(memory) = state.run.take() {
            state.spare.push((state.run_number, memory));
        }
        state.writer = None;
        state.phase = Phase::Idle;
        state.whole_pages = 0;
        self.groups.keep_none();
    }

    /// A whole checkpoint does not fit its area. The next is tried when the journal has gone on for
    /// 1/16 of its ring.
    fn outgrown(&mut self) {
        self.checkpoint_too_large = true;
        let ring = self.appender.ring();
        self.checkpoint_not_before = ring.head() + ring.blocks() / 16;
        self.plan_checkpoint();
    }

    /// The steps behind the last page.
    fn step_end(&mut self) {
        let state = &mut self.checkpointing;
        let all_pages = state.is_drained() && state.run.is_none() && state.is_written();
        if state.phase == Phase::Ending && all_pages {
            state.phase = Phase::Noting(self.batches.open());
        }
        if let Phase::Noting(batch) = self.checkpointing.phase {
            self.close_now = self.all_noted < batch;
            if self.close_now {
                return;
            }
            self.checkpointing.phase = Phase::Barrier(self.all_noted);
        }
        let Phase::Barrier(batch) = self.checkpointing.phase else { return };
        if self.batches.durable() < batch {
            return;
        }
        if self.device.volatile {
            self.checkpointing.phase = Phase::Flushing;
            self.commands.push(Purpose::CheckpointFlush, Operation::Flush);
            self.counters.flushes += 1;
        } else {
            self.write_superblock();
        }
    }

    /// The last batch that must be durable for the checkpoint to end; until it is known which that
    /// will be, any. It may use what the ring keeps for openings: the old superblock names a ring
    /// that is full to that, where openings crashed again and again, or where it counts because a
    /// newer one was lost.
    pub(super) fn urgent_batch(&self) -> BatchNumber {
        match self.checkpointing.phase {
            Phase::Noting(_) => BatchNumber(u64::MAX),
            Phase::Barrier(batch) => batch,
            _ => BatchNumber(0),
        }
    }

    /// The checkpoint's pages are durable.
    pub(super) fn checkpoint_flushed(&mut self) {
        if self.checkpointing.phase == Phase::Flushing {
            self.write_superblock();
        }
    }

    fn write_superblock(&mut self) {
        let state = &mut self.checkpointing;
        let writer = state.writer.take().expect("a checkpoint is being written");
        state.next = Superblock {
            sequence: self.superblock.sequence + 1,
            position: state.position,
            mark: self.batches.durable_end(),
            incarnation: self.incarnation,
            checkpoint: Some(writer.place(state.area)),
            segments: self.store.open_segment(),
        };
        let bytes = state.next.emit(self.layout.shard, self.salt);
        let (run, mut memory) = state.spare.pop().expect("all runs are back");
        memory.as_mut_slice()[..STRUCTURE_BYTES].copy_from_slice(&bytes);
        let memory = memory.freeze();
        let lba = self.device.lba(self.layout.superblock(state.next.sequence));
        let pages = memory.slice(0, 1);
        state.writing[run] = Some(memory);
        state.run_number = run;
        state.phase = Phase::Superblock;
        let write = Operation::Write { lba, pages, fua: self.device.volatile };
        self.commands.push(Purpose::Superblock, write);
        self.counters.checkpoint_bytes += STRUCTURE_BYTES as u64;
    }

    /// The superblock is durable: the checkpoint counts, and the ring's tail moves.
    pub(super) fn superblock_done(&mut self, events: &mut Vec<Event>) {
        let state = &mut self.checkpointing;
        state.run_done(state.run_number);
        state.phase = Phase::Idle;
        let before = self.superblock.checkpoint.map_or(0, |place| place.pages);
        self.superblock = state.next;
        self.store.advance_segments();
        self.bytes_without_segment = 0;
        let pages = self.superblock.checkpoint.map_or(0, |place| place.pages);
        if !state.increment {
            state.whole_pages = pages;
            self.counters.whole_checkpoints += 1;
        } else {
            self.increment_bytes = u64::from(pages - before) * BLOCK_SIZE as u64;
        }
        self.appender.release(state.position);
        for (copyset, through) in state.forget.drain(..) {
            self.store.forget_deletions(copyset, through);
        }
        self.groups.keep_none();
        self.counters.checkpoints += 1;
        self.checkpoint_not_before = 0;
        self.plan_checkpoint();
        events.push(Event::CheckpointDone { pages });
    }
}

/// Appends what is known of a copyset's absent chunks; all of it in one turn, as it has to be.
fn encode_absences(store: &Store, copyset: CopysetId, state: &mut Checkpointing) {
    let mut after = None;
    loop {
        let next = state.piece(CHUNK_PIECE_BYTES, |out| {
            let encoded = store.encode_absences(copyset, after, out);
            (encoded.bytes, encoded.next)
        });
        match next {
            Some(chunk) => after = Some(chunk),
            None => return,
        }
    }
}
