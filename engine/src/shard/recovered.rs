//! What an opening found.

use std::collections::BTreeSet;

use crate::ids::{CopysetId, Extent, LogIndex, Term};
use crate::journal::{
    BlockRepaired, ChunkInstalled, ChunkList, Entry, HardState, Item, ReplicaIdentity, ScrubNote,
};
use crate::record::RecordView;
use crate::store::Store;

use super::Shard;

/// A shard that runs again, and what its composer has to make of it.
pub struct Recovered {
    /// The shard. Its store still recovers: the composer applies entries up to each group's
    /// applied note and then calls [`Shard::finish_recovery`].
    pub shard: Shard,
    /// The groups, in order of copyset.
    pub groups: Vec<RecoveredGroup>,
    /// What recovery saw.
    pub report: RecoveryReport,
}

/// What an inspection found: everything, and nothing was written.
pub struct Inspection {
    /// The store, still recovering.
    pub store: Store,
    /// The groups, in order of copyset.
    pub groups: Vec<RecoveredGroup>,
    /// What recovery would have seen.
    pub report: RecoveryReport,
}

/// One group as recovery found it.
#[derive(Default)]
pub struct RecoveredGroup {
    /// The copyset.
    pub copyset: CopysetId,
    /// The replica's name; `None` only for a group that is cut off.
    pub identity: Option<ReplicaIdentity>,
    /// The bytes that its creation was journalled with, if that is still in the journal.
    pub created: Option<Vec<u8>>,
    /// The composer's state from the checkpoint, or a newer one from the journal.
    pub image: Option<Vec<u8>>,
    /// Raft's hard state; the commit index may be beyond the entries kept.
    pub hard_state: HardState,
    /// Raft's configuration, in the composer's encoding.
    pub conf_state: Option<Vec<u8>>,
    /// The newest catch-up mark.
    pub catch_up: Option<Vec<u8>>,
    /// Where the log begins, if that was ever said.
    pub log_start: Option<(LogIndex, Term)>,
    /// Everything up to here is committed and was applied: to be applied again, where the image
    /// and the chunks are behind.
    pub applied_note: LogIndex,
    /// The entries kept, ascending. Without gaps.
    pub entries: EntryList,
    /// What catch-up did, in order; each is skipped by the store where it is already done. One that
    /// brings what changed above an index wants the entries up to that index applied before.
    pub changes: ChangeList,
    /// Logs that a raft snapshot ended, oldest first. What they did to chunks comes before what
    /// this log does: a snapshot replaces the state, and leaves the chunks that it found right.
    pub past: Vec<PastLog>,
    /// Blocks that repairs have moved, in order, of all logs together: to be done again when all
    /// else was, each where its block still is what it was ([`Store::repaired`] says why).
    pub repairs: Vec<BlockRepaired>,
    /// How far the scrub had come.
    pub scrub: Option<ScrubNote>,
    /// Extension items, in order.
    pub extensions: Vec<Vec<u8>>,
    /// Records below the mark are lost: this is the group as it was before them, and what is known
    /// of it behind them does not count.
    pub cut_off: bool,
    /// Whether the replica may have forgotten votes and acknowledgements: it gives none before its
    /// leader has readmitted it.
    pub in_doubt: bool,
    /// Whether records were lost that were never acknowledged: a torn tail.
    pub torn: bool,
    /// Parts of a state that is not complete.
    pub(super) partial_state: Vec<u8>,
}

/// A log before the one that counts, up to the raft snapshot that ended it.
pub struct PastLog {
    /// The composer's state from which it is replayed.
    pub image: Option<Vec<u8>>,
    /// Where it began, if that was ever said.
    pub log_start: Option<(LogIndex, Term)>,
    /// Everything up to here was applied, and nothing else was.
    pub applied_note: LogIndex,
    /// Its entries, ascending.
    pub entries: EntryList,
    /// What catch-up did meanwhile.
    pub changes: ChangeList,
}

impl RecoveredGroup {
    /// The log begins behind `index` from now on; what was there before is past.
    pub(super) fn restart_log(&mut self, index: LogIndex, term: Term) {
        let started = self.log_start.replace((index, term));
        let fresh = started.is_none() && self.entries.is_empty() && self.changes.is_empty();
        if fresh {
            return;
        }
        self.past.push(PastLog {
            image: self.image.clone(),
            log_start: started,
            applied_note: self.applied_note,
            entries: std::mem::take(&mut self.entries),
            changes: std::mem::take(&mut self.changes),
        });
    }

    /// A catch-up has installed these blocks: where earlier repairs put them means nothing any
    /// more, even where they are the same blocks.
    pub(super) fn forget_repairs(&mut self, installed: &ChunkInstalled<'_>) {
        let chunk = installed.head().chunk;
        if self.repairs.iter().any(|repair| repair.chunk == chunk) {
            let blocks: BTreeSet<u32> = installed.blocks().map(|block| block.block).collect();
            self.repairs.retain(|r| r.chunk != chunk || !blocks.contains(&r.block));
        }
    }

    /// The last index of the log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        let start = self.log_start.map_or(LogIndex(0), |(index, _)| index);
        self.entries.last().unwrap_or(start)
    }
}

/// An entry that was kept.
#[derive(Clone)]
pub struct RecoveredEntry<'a> {
    /// The record.
    pub record: RecordView<'a>,
    /// Where its payload lies.
    pub extents: Vec<Extent>,
    /// The entry that superseded what is not stored.
    pub superseded_by: Option<LogIndex>,
}

/// Entries in the order of their indices, in compact form.
#[derive(Clone, Debug, Default)]
pub struct EntryList {
    bytes: Vec<u8>,
    /// Index and place of each.
    places: Vec<(LogIndex, usize)>,
}

impl EntryList {
    /// Adds an entry; those from its index on are dropped first.
    pub(super) fn push(&mut self, entry: &Entry<'_>) {
        let index = entry.record.index();
        self.truncate(index);
        self.places.push((index, self.bytes.len()));
        Item::Entry(entry.clone()).emit(&mut self.bytes);
    }

    /// Drops all entries from an index on.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        while let Some(&(index, at)) = self.places.last()
            && index >= from
        {
            self.places.pop();
            self.bytes.truncate(at);
        }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last(&self) -> Option<LogIndex> {
        self.places.last().map(|&(index, _)| index)
    }

    /// The entries.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecoveredEntry<'_>> {
        self.places.iter().map(|&(_, at)| match Item::parse(&self.bytes[at..]) {
            Ok((Item::Entry(entry), _)) => RecoveredEntry {
                record: entry.record,
                extents: entry.extents.into_owned(),
                superseded_by: entry.superseded_by,
            },
            _ => unreachable!("an entry was put there"),
        })
    }
}

/// What catch-up did to the chunks of a group.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// A chunk was installed.
    Installed(ChunkInstalled<'a>),
    /// All chunks but these were removed.
    Retained(LogIndex, ChunkList<'a>),
}

/// Changes, in the order of the journal.
#[derive(Clone, Debug, Default)]
pub struct ChangeList {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl ChangeList {
    pub(super) fn push(&mut self, item: &Item<'_>) {
        self.places.push(self.bytes.len());
        item.emit(&mut self.bytes);
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The changes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.places.iter().map(|&at| match Item::parse(&self.bytes[at..]) {
            Ok((Item::ChunkInstalled(installed), _)) => Change::Installed(installed),
            Ok((Item::ChunksRetained(_, index, chunks), _)) => Change::Retained(index, chunks),
            _ => unreachable!("a change was put there"),
        })
    }
}

/// What recovery saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecoveryReport {
    /// The incarnation that this opening began, or would have begun.
    pub incarnation: u32,
    /// Whether the newest superblock's checkpoint was damaged and the one before it was used.
    pub fell_back: bool,
    /// Whether one of the two superblocks is bad; the next checkpoint writes it anew.
    pub bad_superblock: bool,
    /// Pages of the checkpoint.
    pub checkpoint_pages: u32,
    /// Position from which the journal was replayed.
    pub position: u64,
    /// The highest mark.
    pub mark: u64,
    /// Position at which the new incarnation starts.
    pub end: u64,
    /// Items replayed.
    pub items: u64,
    /// Blocks of the ring that fail their checksum, could not be read or stand in a wrong slot.
    pub bad_blocks: u64,
    /// Entries from that position on that stand in metadata.
    pub metadata_entries: u64,
    /// Blocks of open segments that could not be read.
    pub unreadable_metadata: u64,
    /// Blocks that a later incarnation had given up.
    pub stale_blocks: u64,
    /// Good blocks behind the end.
    pub torn_blocks: u64,
    /// Positions below the mark that are lost.
    pub holes: Vec<(u64, u64)>,
    /// Payload blocks above the mark that were read and checked.
    pub payload_blocks: u64,
    /// Groups that lost records above the mark to bad payload.
    pub torn_groups: u32,
    /// Groups that lost records below the mark.
    pub cut_off_groups: u32,
}
