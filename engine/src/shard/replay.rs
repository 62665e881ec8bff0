//! Replaying: items, in the order of the journal, into the groups they leave behind.

use std::collections::BTreeMap;

use super::recovered::RecoveredGroup;
use super::verdict::Voids;
use crate::checkpoint::CopysetHead;
use crate::ids::CopysetId;
use crate::journal::{Item, ItemError, Located, MalformedItem, Scanned, Step};

/// The groups, while items are replayed. It says nothing of chunks: their images are the store's,
/// and entries are applied by the composer.
#[derive(Default)]
pub(super) struct Replay {
    groups: BTreeMap<CopysetId, RecoveredGroup>,
    /// Groups whose replica was removed: their chunks in the checkpoint are gone.
    removed: Vec<CopysetId>,
    items: u64,
}

impl Replay {
    /// Takes a copyset's section of the checkpoint.
    pub(super) fn copyset(
        &mut self,
        head: &CopysetHead,
        mut items: &[u8],
        image: &[u8],
    ) -> Result<(), ItemError> {
        let group = self.group(head.copyset);
        group.identity = Some(head.identity);
        group.applied_note = head.applied;
        group.image = Some(image.to_vec());
        group.in_doubt = head.in_doubt;
        while !items.is_empty() {
            let (item, length) = Item::parse(items)?;
            self.item(&item);
            items = &items[length..];
        }
        Ok(())
    }

    /// Replays a ring. `told`: the mark of the superblock; what stands in the checkpoint was journalled
    /// below it.
    pub(super) fn ring(
        &mut self,
        scanned: &Scanned,
        voids: &Voids,
        told: u64,
    ) -> Result<(), MalformedItem> {
        // The checkpoint has groups as they were later than at its position. Up to where it took them
        // the ring leads away from that and back: a way that must not end in a hole.
        if scanned.holes().next().is_some_and(|hole| hole.start < told) {
            self.hole();
        }
        for step in scanned.steps() {
            match step? {
                Step::Hole(_) => self.hole(),
                Step::Item(Located { batch, item }) => {
                    self.items += 1;
                    match item.copyset() {
                        Some(copyset) if voids.covers(copyset, batch) => {
                            self.group(copyset).torn = true;
                        }
                        _ => self.item(&item),
                    }
                }
            }
        }
        Ok(())
    }

    fn group(&mut self, copyset: CopysetId) -> &mut RecoveredGroup {
        let new = || RecoveredGroup { copyset, ..RecoveredGroup::default() };
        self.groups.entry(copyset).or_insert_with(new)
    }

    fn item(&mut self, item: &Item<'_>) {
        let Some(copyset) = item.copyset() else { return };
        match item {
            Item::ReplicaCreated(_, identity, bytes) => {
                self.removed.push(copyset);
                self.groups.remove(&copyset);
                let group = self.group(copyset);
                group.identity = Some(*identity);
                group.created = Some(bytes.to_vec());
            }
            Item::ReplicaRemoved(_) => {
                self.removed.push(copyset);
                self.groups.remove(&copyset);
            }
            _ => {
                let group = self.group(copyset);
                if !group.cut_off {
                    change(group, item);
                }
            }
        }
    }

    /// Anything of any group may be lost here. All of them are left at this point: what each has is
    /// what it once had, and together they name no block twice, which what stands behind the hole
    /// could not promise.
    fn hole(&mut self) {
        for group in self.groups.values_mut() {
            group.cut_off = true;
            group.in_doubt = true;
        }
    }

    /// Ends the replay: the groups, those whose replica was removed or made anew, and the number
    /// of items.
    pub(super) fn finish(mut self) -> (Vec<RecoveredGroup>, Vec<CopysetId>, u64) {
        for group in self.groups.values_mut() {
            if group.identity.is_none() {
                group.cut_off = true;
                group.in_doubt = true;
            }
        }
        (self.groups.into_values().collect(), self.removed, self.items)
    }
}

/// What an item changes in its group.
fn change(group: &mut RecoveredGroup, item: &Item<'_>) {
    match item {
        Item::Entry(entry) => group.entries.push(entry),
        Item::HardState(_, state) => {
            group.hard_state = *state;
        }
        Item::AppliedNote(_, index) => group.applied_note = group.applied_note.max(*index),
        Item::Truncate(_, from) => group.entries.truncate(*from),
        Item::LogStart(_, index, term) => group.restart_log(*index, *term),
        Item::ConfState(_, bytes) => group.conf_state = Some(bytes.to_vec()),
        Item::CatchUp(_, bytes) => group.catch_up = Some(bytes.to_vec()),
        Item::Extension(_, bytes) => group.extensions.push(bytes.to_vec()),
        Item::Doubt(_, in_doubt) => group.in_doubt = *in_doubt,
        Item::ChunkInstalled(installed) => {
            group.forget_repairs(installed);
            group.changes.push(item);
        }
        Item::ChunksRetained(..) => group.changes.push(item),
        Item::BlockRepaired(repaired) => group.repairs.push(*repaired),
        Item::ScrubNote(note) => group.scrub = Some(*note),
        Item::StatePart(_, part) => {
            group.partial_state.truncate(part.offset as usize);
            if group.partial_state.len() == part.offset as usize {
                group.partial_state.extend_from_slice(part.bytes);
            }
            if group.partial_state.len() == part.total as usize {
                group.image = Some(std::mem::take(&mut group.partial_state));
            }
        }
        Item::ReplicaCreated(..) | Item::ReplicaRemoved(_) | Item::Verdict(_) => {}
    }
}
