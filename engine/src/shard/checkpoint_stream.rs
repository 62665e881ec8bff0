//! The state of a checkpoint that is being written: captured sections on their way into pages.

use culvert_memory::{Buffer, Pages, Pool};

use crate::checkpoint::{CopysetImage, SectionKind, StreamWriter, section_head};
use crate::device::Superblock;
use crate::ids::{BatchNumber, ChunkId, CopysetId, LogIndex};
use crate::store::{ChunkKey, FrozenId};

/// Runs of pages that are filled and written in turn.
pub(super) const RUNS: usize = 2;

/// How far a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// None is being written.
    Idle,
    /// The composer is asked for the copysets behind this one.
    Copysets(Option<CopysetId>),
    /// The chunks of this copyset behind this chunk are next.
    Chunks(CopysetId, Option<ChunkId>),
    /// A chunk is being encoded: what is above the index, from the block on.
    Chunk(ChunkKey, FrozenId, LogIndex, u32),
    /// Everything was captured; the last pages are on their way.
    Ending,
    /// All pages are written; a batch not before this one has to carry all notes.
    Noting(BatchNumber),
    /// This batch has to be durable.
    Barrier(BatchNumber),
    /// A flush of the pages is in flight.
    Flushing,
    /// The superblock is in flight.
    Superblock,
}

/// The state of the checkpoint being written, if any.
pub(super) struct Checkpointing {
    pub(super) phase: Phase,
    /// Position from which replay will begin.
    pub(super) position: u64,
    pub(super) area: u32,
    /// It goes on behind the one before, with what has changed since.
    pub(super) increment: bool,
    /// Pages of the checkpoint that increments go on behind; zero: the next is none, since an opening
    /// or a checkpoint that was given up has left nothing to tell what changed.
    pub(super) whole_pages: u32,
    pub(super) writer: Option<StreamWriter>,
    /// Bytes of sections, and how many of them are in pages already.
    pub(super) stream: Vec<u8>,
    pub(super) put: usize,
    /// The run being filled, and those that are free.
    pub(super) run: Option<Buffer>,
    pub(super) spare: Vec<(usize, Buffer)>,
    pub(super) run_number: usize,
    /// Runs that the device has.
    pub(super) writing: [Option<Pages>; RUNS],
    pub(super) copysets: u32,
    pub(super) pieces: u32,
    pub(super) image: CopysetImage,
    /// Per copyset kept: through which index deletions can be forgotten once it counts.
    pub(super) forget: Vec<(CopysetId, LogIndex)>,
    pub(super) next: Superblock,
    pub(super) run_pages: u32,
}

impl Checkpointing {
    /// Takes its runs from the pool; `None` if the pool has not so many pages.
    pub(super) fn new(run_pages: u32, pool: &Pool) -> Option<Checkpointing> {
        let spare: Option<Vec<(usize, Buffer)>> =
            (0..RUNS).map(|run| Some((run, pool.acquire(run_pages)?))).collect();
        Some(Checkpointing {
            phase: Phase::Idle,
            position: 0,
            area: 0,
            increment: false,
            whole_pages: 0,
            writer: None,
            stream: Vec::new(),
            put: 0,
            run: None,
            spare: spare?,
            run_number: 0,
            writing: [const { None }; RUNS],
            copysets: 0,
            pieces: 0,
            image: CopysetImage::default(),
            forget: Vec::new(),
            next: Superblock::empty(),
            run_pages,
        })
    }

    /// Whether all bytes of sections are in pages.
    pub(super) fn is_drained(&self) -> bool {
        self.put == self.stream.len()
    }

    /// Whether the device has none of the runs.
    pub(super) fn is_written(&self) -> bool {
        self.writing.iter().all(Option::is_none)
    }

    /// A run was written.
    pub(super) fn run_done(&mut self, run: usize) {
        let pages = self.writing[run].take().expect("the run was in flight");
        let memory = pages.try_into_buffer().expect("its command has given its pages back");
        self.spare.push((run, memory));
    }

    /// Appends a section.
    pub(super) fn section(&mut self, kind: SectionKind, body: &[u8]) {
        self.stream.extend_from_slice(&section_head(kind, body.len()));
        self.stream.extend_from_slice(body);
    }

    /// Makes room for a section's body of at most `bytes` bytes, lets `fill` write it, and returns
    /// what `fill` returned beside the body's length. An empty body is no section.
    pub(super) fn piece<T>(
        &mut self,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> (usize, T),
    ) -> T {
        let head = self.stream.len();
        let body = head + section_head(SectionKind::Chunk, 0).len();
        self.stream.resize(body + bytes, 0);
        let (length, result) = fill(&mut self.stream[body..]);
        if length == 0 {
            self.stream.truncate(head);
            return result;
        }
        self.stream.truncate(body + length);
        self.stream[head..body].copy_from_slice(&section_head(SectionKind::Chunk, length));
        self.pieces += 1;
        result
    }

    /// Moves bytes of sections into pages. Returns a run that is to be written: all full ones, and
    /// at the end of the stream the last.
    pub(super) fn fill_run(&mut self, ending: bool) -> Option<u32> {
        let writer = self.writer.as_mut()?;
        if self.run.is_none() {
            if self.stream.is_empty() {
                return None;
            }
            let (number, memory) = self.spare.pop()?;
            self.run = Some(memory);
            self.run_number = number;
        }
        let run = self.run.as_mut().expect("just taken").as_mut_slice();
        self.put += writer.put(run, &self.stream[self.put..]);
        if self.put == self.stream.len() {
            self.stream.clear();
            self.put = 0;
        }
        let drained = self.stream.is_empty();
        if ending && drained {
            writer.finish(run);
        }
        let full = writer.pages() == self.run_pages;
        (full || (ending && drained && writer.pages() > 0)).then(|| writer.pages())
    }
}
