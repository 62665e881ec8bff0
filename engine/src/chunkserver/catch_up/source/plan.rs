//! What a round has to send: the list of chunks compared with what the receiver holds.

use std::collections::VecDeque;

use super::ending::Ending;
use super::round::Round;
use crate::ids::{ChunkId, CopysetId, LogIndex};
use crate::store::{ChunkKey, ChunkSummary, Store};
use crate::wire::ManifestItem;

/// What the receiver says that it holds, chunks ascending.
#[derive(Default)]
pub(super) struct Manifest {
    items: Vec<ManifestItem>,
}

impl Manifest {
    /// Adds what the receiver holds behind chunk `after`. Returns the last chunk that it named.
    pub fn add(
        &mut self,
        mut after: Option<ChunkId>,
        items: &[ManifestItem],
    ) -> Result<Option<ChunkId>, Ending> {
        for item in items {
            let chunk = ChunkId(item.chunk.get());
            if after.is_some_and(|after| chunk <= after) {
                return Err(Ending::Nonsense);
            }
            after = Some(chunk);
            self.items.push(*item);
        }
        Ok(after)
    }

    fn held(&self, chunk: ChunkId) -> Option<&ManifestItem> {
        let at = self.items.binary_search_by_key(&chunk.0, |item| item.chunk.get()).ok()?;
        Some(&self.items[at])
    }
}

/// A chunk in which the receiver differs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub chunk: ChunkId,
    /// Birth and applied index of what the receiver holds.
    pub held: Option<(LogIndex, LogIndex)>,
    /// The receiver has more blocks mapped than it will have.
    shrinks: bool,
}

impl Work {
    /// What the receiver needs of a chunk; `None`: nothing by this way.
    fn of(summary: &ChunkSummary, held: Option<&ManifestItem>, round: LogIndex) -> Option<Work> {
        let born_later = summary.birth > round;
        let held_at = held.map(|held| (LogIndex(held.birth.get()), LogIndex(held.applied.get())));
        let there = held_at
            .is_some_and(|(birth, applied)| birth == summary.birth && applied >= summary.applied);
        let shrinks = held.is_some_and(|held| held.mapped.get() > summary.mapped);
        let work = Work { chunk: summary.key.chunk, held: held_at, shrinks };
        (!born_later && !there).then_some(work)
    }
}

/// The chunks of a round in which the receiver differs; empty until they are known.
#[derive(Default)]
pub(super) struct Plan {
    left: VecDeque<Work>,
    total: usize,
}

impl Plan {
    /// Compares the round's list with the manifest. Chunks that shrink come first, so that the
    /// receiver has their room for those that grow.
    pub fn new(copyset: CopysetId, round: &Round, manifest: &Manifest, store: &Store) -> Plan {
        let work = round.chunks.iter().filter_map(|chunk| {
            let summary = store.chunk(ChunkKey { copyset, chunk: *chunk })?;
            Work::of(&summary, manifest.held(*chunk), round.index)
        });
        let mut left: Vec<Work> = work.collect();
        left.sort_by_key(|work| !work.shrinks);
        Plan { total: left.len(), left: left.into() }
    }

    /// The chunk whose turn it is.
    pub fn front(&self) -> Option<&Work> {
        self.left.front()
    }

    /// That chunk is on its way, or needs nothing any more.
    pub fn pop_front(&mut self) {
        self.left.pop_front();
    }

    /// Chunks of the plan.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Chunks whose turn came.
    pub fn begun(&self) -> usize {
        self.total - self.left.len()
    }
}
