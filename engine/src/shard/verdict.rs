//! Which part of which group's history is void.

use crate::ids::{CopysetId, LogIndex};
use crate::journal::{GroupVerdict, Item, Located, MalformedItem, Scanned, Step};

/// Everything of a group in batches from `from` up to `until` is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Void {
    copyset: CopysetId,
    from: u64,
    until: u64,
}

/// The verdicts of earlier openings and of this one.
#[derive(Clone, Debug, Default)]
pub(super) struct Voids {
    voids: Vec<Void>,
}

impl Voids {
    /// The verdicts in the journal.
    pub(super) fn collect(scanned: &Scanned) -> Result<Voids, MalformedItem> {
        let mut voids = Voids::default();
        for step in scanned.steps() {
            let Step::Item(Located { batch, item: Item::Verdict(verdict) }) = step? else {
                continue;
            };
            voids.voids.extend(verdict.groups().map(|group| Void {
                copyset: group.copyset,
                from: group.position,
                until: batch,
            }));
        }
        Ok(voids)
    }

    /// Adds this opening's verdict on a group: everything from a batch on is void.
    pub(super) fn add(&mut self, copyset: CopysetId, from: u64) {
        self.voids.push(Void { copyset, from, until: u64::MAX });
    }

    /// Whether an item of a group is void.
    pub(super) fn covers(&self, copyset: CopysetId, batch: u64) -> bool {
        self.voids
            .iter()
            .any(|void| void.copyset == copyset && (void.from..void.until).contains(&batch))
    }

    /// This opening's verdict, once it is known what each group kept.
    pub(super) fn to_write(&self, last_kept: impl Fn(CopysetId) -> LogIndex) -> Vec<GroupVerdict> {
        let new = self.voids.iter().filter(|void| void.until == u64::MAX);
        new.map(|void| GroupVerdict {
            copyset: void.copyset,
            last_kept: last_kept(void.copyset),
            position: void.from,
        })
        .collect()
    }
}
