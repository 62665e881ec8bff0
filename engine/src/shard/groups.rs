//! What the shard itself knows of each group: its replica's name and how far it has applied.

use crate::by_copyset::ByCopyset;
use crate::ids::{CopysetId, LogIndex, ReplicaId, Term};
use crate::journal::ReplicaIdentity;

/// One group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Group {
    pub(super) identity: ReplicaIdentity,
    /// Highest index noted as committed and applied.
    pub(super) applied: LogIndex,
    /// Whether the note is due to be journalled.
    pub(super) dirty: bool,
    /// Term and vote that were journalled last since the opening.
    pub(super) voted: Option<(Term, ReplicaId)>,
    /// Whether the replica may have forgotten votes and acknowledgements.
    pub(super) in_doubt: bool,
    /// Whether the checkpoint in progress keeps it.
    pub(super) kept: bool,
}

/// The groups of a shard, in order of their names.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: ByCopyset<Group>,
    /// Groups whose note is due.
    dirty: Vec<CopysetId>,
}

impl Groups {
    pub(super) fn insert(&mut self, copyset: CopysetId, group: Group) {
        self.groups.insert(copyset, group);
        self.dirty.reserve(self.groups.len());
    }

    pub(super) fn remove(&mut self, copyset: CopysetId) {
        self.groups.remove(copyset);
        self.dirty.retain(|&other| other != copyset);
    }

    pub(super) fn get(&self, copyset: CopysetId) -> Option<&Group> {
        self.groups.get(copyset)
    }

    pub(super) fn get_mut(&mut self, copyset: CopysetId) -> Option<&mut Group> {
        self.groups.get_mut(copyset)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (CopysetId, &Group)> {
        self.groups.iter()
    }

    /// Notes how far a group has applied.
    ///
    /// # Panics
    ///
    /// If the shard holds no such group.
    pub(super) fn note_applied(&mut self, copyset: CopysetId, index: LogIndex) {
        let group = self.groups.get_mut(copyset).expect("a group of this shard");
        if index <= group.applied {
            return;
        }
        group.applied = index;
        if !group.dirty {
            group.dirty = true;
            self.dirty.push(copyset);
        }
    }

    /// Whether a note is due.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A note that is due.
    pub(super) fn next_note(&self) -> Option<(CopysetId, LogIndex)> {
        let copyset = *self.dirty.last()?;
        Some((copyset, self.groups.get(copyset)?.applied))
    }

    /// That note was journalled.
    pub(super) fn note_taken(&mut self) {
        if let Some(copyset) = self.dirty.pop()
            && let Some(group) = self.groups.get_mut(copyset)
        {
            group.dirty = false;
        }
    }

    /// Says that a checkpoint keeps all groups there are now.
    pub(super) fn keep_all(&mut self) {
        for group in self.groups.values_mut() {
            group.kept = true;
        }
    }

    /// The first group behind `after` that the checkpoint in progress keeps.
    pub(super) fn kept_after(&self, after: Option<CopysetId>) -> Option<CopysetId> {
        let mut behind = self.groups.iter_after(after);
        behind.find(|(_, group)| group.kept).map(|(copyset, _)| copyset)
    }

    /// Forgets what the checkpoint keeps.
    pub(super) fn keep_none(&mut self) {
        for group in self.groups.values_mut() {
            group.kept = false;
        }
    }
}
