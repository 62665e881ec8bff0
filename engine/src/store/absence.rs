//! Absences: what a shard knows of chunks that it does not hold.
//!
//! A chunk that exists says with its applied index which entries it has seen; a chunk that does
//! not exist cannot. Two things speak for it, so that an entry which the chunk outlived is not
//! applied to nothing and brings it back:
//!
//! - a *deletion*: the chunk was deleted at this index. Entries up to it are of an earlier life.
//!   It outlasts the next birth, because a checkpoint may hold neither the old life nor the new;
//! - a *list*: at this index the sender of a catch-up held these chunks of the copyset and no
//!   others. Entries up to it touch a chunk that is not listed only in lives that are over. A
//!   listed chunk that is not here yet has still to come, by an install or from the log.
//!
//! Both are forgotten when a checkpoint is valid that no replay of such entries can start before.
//!
//! Worked example: a receiver's log ends at 30, it has applied 20, and entry 25 creates chunk Y.
//! The sender at 100 lists X only: Y was deleted at 60. If the receiver applied 25 later, Y would
//! be back without its deletion ever coming by log: the list of 100 makes 25 count as seen.

use std::collections::BTreeMap;

use crate::ids::{ChunkId, CopysetId, LogIndex};
use crate::store::ChunkKey;

/// What is known of one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Absence {
    /// It was deleted at this index; zero: not that it is remembered.
    pub(super) deleted: LogIndex,
    /// It was in the copyset's last list.
    pub(super) listed: bool,
}

/// What is known of chunks that do not exist, per shard.
#[derive(Debug, Default)]
pub(super) struct Absences {
    chunks: BTreeMap<ChunkKey, Absence>,
    /// The index of each copyset's last list.
    lists: BTreeMap<CopysetId, LogIndex>,
}

impl Absences {
    /// Whether the absence of a chunk is already the state at or after `index`.
    pub(super) fn covers(&self, key: ChunkKey, index: LogIndex) -> bool {
        let absence = self.chunks.get(&key).copied().unwrap_or_default();
        index <= absence.deleted || !absence.listed && index <= self.list(key.copyset)
    }

    /// The index of the copyset's last list; zero: none.
    pub(super) fn list(&self, copyset: CopysetId) -> LogIndex {
        self.lists.get(&copyset).copied().unwrap_or_default()
    }

    pub(super) fn deleted(&mut self, key: ChunkKey, index: LogIndex) {
        let absence = self.chunks.entry(key).or_default();
        absence.deleted = absence.deleted.max(index);
    }

    /// Takes a list (ascending) in, unless a later one is known. What was covered stays covered: a
    /// chunk that is listed now and was not before is known to have been absent then.
    pub(super) fn listed(&mut self, copyset: CopysetId, as_of: LogIndex, present: &[ChunkId]) {
        let before = self.list(copyset);
        if as_of <= before {
            return;
        }
        self.lists.insert(copyset, as_of);
        for &chunk in present {
            let absence = self.chunks.entry(ChunkKey { copyset, chunk }).or_default();
            if !absence.listed {
                absence.deleted = absence.deleted.max(before);
            }
        }
        for (key, absence) in self.of_mut(copyset) {
            absence.listed = present.binary_search(&key.chunk).is_ok();
        }
        self.tidy(copyset);
    }

    /// Takes in what an image says of the copyset's chunks, piece by piece.
    pub(super) fn load_list(&mut self, copyset: CopysetId, as_of: LogIndex) {
        if as_of > LogIndex(0) {
            self.lists.insert(copyset, as_of);
        }
    }

    /// Takes in what an image says of one chunk.
    pub(super) fn load(&mut self, key: ChunkKey, absence: Absence) {
        self.chunks.insert(key, absence);
    }

    /// Forgets what matters only to a replay of entries up to `through`.
    pub(super) fn forget(&mut self, copyset: CopysetId, through: LogIndex) {
        let list_over = self.list(copyset) <= through;
        if list_over {
            self.lists.remove(&copyset);
        }
        for (_, absence) in self.of_mut(copyset) {
            absence.listed &= !list_over;
            if absence.deleted <= through {
                absence.deleted = LogIndex(0);
            }
        }
        self.tidy(copyset);
    }

    /// Drops what says nothing any more.
    fn tidy(&mut self, copyset: CopysetId) {
        self.chunks.retain(|key, absence| key.copyset != copyset || *absence != Absence::default());
    }

    pub(super) fn remove_copyset(&mut self, copyset: CopysetId) {
        self.lists.remove(&copyset);
        self.chunks.retain(|key, _| key.copyset != copyset);
    }

    /// What is known of the copyset's chunks behind `after`, ascending.
    pub(super) fn after(
        &self,
        copyset: CopysetId,
        after: Option<ChunkId>,
    ) -> impl Iterator<Item = (ChunkId, Absence)> {
        self.chunks
            .range((super::chunk_map::behind(copyset, after), super::chunk_map::end(copyset)))
            .map(|(key, &absence)| (key.chunk, absence))
    }

    fn of_mut(&mut self, copyset: CopysetId) -> impl Iterator<Item = (&ChunkKey, &mut Absence)> {
        let bounds = (super::chunk_map::behind(copyset, None), super::chunk_map::end(copyset));
        self.chunks.range_mut(bounds)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * 2 * size_of::<(ChunkKey, Absence)>()
            + self.lists.len() * 2 * size_of::<(CopysetId, LogIndex)>()
    }
}
