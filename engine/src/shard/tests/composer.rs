//! A composer without raft: groups that append, truncate, apply and read, and remember what they
//! did, so that recovery can be held against it.

use std::collections::BTreeMap;

use culvert_memory::Pages;

use super::rig::{Random, Rig};
use crate::ids::{
    BatchNumber, BlockRange, ChunkId, CopysetId, Epoch, Extent, LogIndex, ReplicaId, RequestNumber,
    SessionId, Term,
};
use crate::journal::{BlockRepaired, HardState, Item, ReplicaIdentity, Space};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use crate::shard::{Recovered, RecoveredGroup, Shard};
use crate::store::{BlockState, ChunkKey, LivePayload, Store};

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub(super) record: Vec<u8>,
    pub(super) extents: Vec<Extent>,
}

impl LogEntry {
    fn view(&self) -> RecordView<'_> {
        RecordView::trusted(&self.record)
    }

    fn index(&self) -> LogIndex {
        self.view().index()
    }
}

/// What a group did, in order, and in which batch.
#[derive(Clone, Debug)]
enum Act {
    Append(Box<LogEntry>),
    Truncate(LogIndex),
    HardState(HardState),
}

/// A group and its history.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelGroup {
    /// The log as it is now, from `base + 1` on.
    pub(super) log: Vec<LogEntry>,
    pub(super) base: LogIndex,
    pub(super) term: u64,
    pub(super) hard_state: HardState,
    pub(super) applied: LogIndex,
    history: Vec<(BatchNumber, Act)>,
    /// Batch of each entry of the log.
    batches: BTreeMap<LogIndex, BatchNumber>,
    /// Applied notes that were given, and the batch open then: the note is in it or a later one.
    notes: Vec<(BatchNumber, LogIndex)>,
    /// The state at the last opening: log, hard state, applied.
    start: Option<(Vec<LogEntry>, HardState, LogIndex)>,
    /// Chunk blocks as of `applied`: checksum and index, `None` if discarded.
    pub(super) blocks: BTreeMap<(ChunkId, u32), u32>,
}

/// A repair on its way: the block and what it holds, its new place, and the batch that its bytes
/// count to.
#[derive(Clone, Copy, Debug)]
struct Repair {
    key: ChunkKey,
    block: u32,
    state: BlockState,
    to: u32,
    batch: BatchNumber,
}

pub(super) struct Composer {
    pub(super) shard: Shard,
    repairs: Vec<Repair>,
    /// By the checksum of a block, the payload that it is of: its number and blocks, and which of
    /// them.
    contents: BTreeMap<u32, (u64, u32, u32)>,
    /// Repairs done.
    pub(super) repaired: u64,
    /// Whether entries come one by one.
    alone: bool,
    /// Batches at whose closing no note was left over.
    noted: Vec<BatchNumber>,
    pub(super) groups: BTreeMap<CopysetId, ModelGroup>,
    number: u64,
    chunks: u64,
    chunk_blocks: u32,
}

impl Composer {
    /// Makes a composer of a shard without groups and creates some.
    pub(super) fn create(recovered: Recovered, groups: u32) -> Composer {
        let Recovered { mut shard, groups: found, .. } = recovered;
        assert!(found.is_empty());
        shard.finish_recovery([], &[]).expect("nothing is used");
        let chunk_blocks = shard.store().geometry().chunk_blocks;
        let mut composer = Composer {
            shard,
            repairs: Vec::new(),
            contents: BTreeMap::new(),
            repaired: 0,
            alone: false,
            noted: Vec::new(),
            groups: BTreeMap::new(),
            number: 0,
            chunks: 3,
            chunk_blocks,
        };
        for copyset in (1..=groups).map(CopysetId) {
            let identity = ReplicaIdentity {
                id: ReplicaId(u64::from(copyset.0) + 100),
                uuid: uuid::Uuid::from_u128(copyset.0.into()),
            };
            composer.shard.append_item(&Item::ReplicaCreated(copyset, identity, b"new"));
            composer.groups.insert(copyset, ModelGroup::default());
        }
        composer
    }

    /// Ends a turn.
    pub(super) fn seal(&mut self, now: u64) {
        self.shard.seal(now);
        let noted = self.shard.all_noted;
        if self.noted.last() != Some(&noted) {
            self.noted.push(noted);
        }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// From now on entries come one by one, or no more.
    pub(super) fn toggle_alone(&mut self) {
        self.alone = !self.alone;
    }

    pub(super) fn pick(&self, random: &mut Random) -> CopysetId {
        let at = random.below(self.groups.len() as u64) as usize;
        *self.groups.keys().nth(at).expect("in range")
    }

    /// Appends a write of a random range, if there is room for it.
    pub(super) fn append(&mut self, rig: &Rig, copyset: CopysetId, random: &mut Random) -> bool {
        let busy = self.shard.space() != Space::Normal || self.shard.room() < 2 * RECORD_BYTES_MAX;
        if busy || self.shard.commands_free() < 32 || rig.pool.free_pages() < 200 {
            return false;
        }
        let blocks = if random.chance(4) { random.below(8) as u32 + 1 } else { 1 };
        let kind = random.below(20);
        let chunk = ChunkId(1 + random.below(self.chunks));
        let first = random.below(u64::from(self.chunk_blocks - blocks)) as u32;
        let range = BlockRange { first, blocks };
        self.number += 1;
        let (operation, payload) = match kind {
            0 => (Operation::Discard, None),
            1 => (Operation::Delete, None),
            _ => {
                let Some(extents) = self.shard.store_mut().allocate(blocks) else { return false };
                (Operation::Write, Some((extents, rig.payload(blocks, self.number))))
            }
        };
        let group = self.groups.get_mut(&copyset).expect("a group");
        let crcs = payload.as_ref().map_or(&[][..], |(_, (_, crcs))| &crcs[..]);
        let places = (0..).map(|at| (self.number, blocks, at));
        self.contents.extend(crcs.iter().copied().zip(places));
        let deleted = operation == Operation::Delete;
        let proposal = Proposal {
            operation,
            chunk,
            range: if deleted { BlockRange::default() } else { range },
            sequence: 0,
            epoch: Epoch(0),
            session: SessionId(0),
            request: RequestNumber(0),
            crcs,
            body: &[],
        };
        let index = LogIndex(group.base.0 + group.log.len() as u64 + 1);
        let mut bytes = [0; RECORD_BYTES_MAX];
        let record = proposal.emit(copyset, Term(group.term), index, &mut bytes).to_vec();
        let extents = payload.as_ref().map_or_else(Vec::new, |(extents, _)| extents.to_vec());
        let batch = self.shard.append(&record, &extents, None);
        if let Some((extents, (buffer, _))) = payload {
            let pages: Pages = buffer.freeze();
            self.shard.write_payload(&extents, &pages);
        }
        let entry = LogEntry { record, extents };
        group.log.push(entry.clone());
        group.batches.insert(index, batch);
        group.history.push((batch, Act::Append(Box::new(entry))));
        true
    }

    /// A new leader: drops entries that are not applied and goes on in a later term.
    pub(super) fn truncate(&mut self, rig: &Rig, copyset: CopysetId, random: &mut Random) {
        let group = self.groups.get_mut(&copyset).expect("a group");
        let kept = (group.applied.0 - group.base.0) as usize;
        let loose = group.log.len() - kept;
        if loose == 0 || self.shard.space() != Space::Normal || self.shard.room() < 4096 {
            return;
        }
        group.term += 1;
        group.hard_state.term = Term(group.term);
        let batch = self.shard.append_hard_state(copyset, group.hard_state);
        group.history.push((batch, Act::HardState(group.hard_state)));
        let keep = kept + random.below(loose as u64) as usize;
        let dropped = group.log.split_off(keep);
        for entry in &dropped {
            group.batches.remove(&entry.index());
        }
        if !self.append(rig, copyset, random) {
            let from = LogIndex(self.groups[&copyset].base.0 + keep as u64 + 1);
            let batch = self.shard.append_item(&Item::Truncate(copyset, from));
            let group = self.groups.get_mut(&copyset).expect("a group");
            group.history.push((batch, Act::Truncate(from)));
        }
        for entry in dropped {
            for extent in entry.extents {
                self.shard.store_mut().release(extent);
            }
        }
    }

    pub(super) fn vote(&mut self, copyset: CopysetId, random: &mut Random) {
        if self.shard.room() < 4096 || self.shard.space() == Space::Full {
            return;
        }
        let group = self.groups.get_mut(&copyset).expect("a group");
        // A term may be known before anybody has the vote in it.
        let known = group.hard_state.vote == ReplicaId(0) && random.chance(2);
        group.term += u64::from(!known);
        let vote = ReplicaId(random.below(4) + u64::from(known));
        group.hard_state = HardState { term: Term(group.term), vote, commit: group.applied };
        let batch = self.shard.append_hard_state(copyset, group.hard_state);
        group.history.push((batch, Act::HardState(group.hard_state)));
    }

    /// Applies entries that are durable here.
    pub(super) fn apply(&mut self, copyset: CopysetId, most: u64) {
        let group = self.groups.get_mut(&copyset).expect("a group");
        let durable = self.shard.durable();
        for _ in 0..most {
            let next = group.applied.next();
            let Some(&batch) = group.batches.get(&next) else { return };
            if batch > durable {
                return;
            }
            let entry = group.log[(next.0 - group.base.0 - 1) as usize].clone();
            apply_entry(&mut self.shard, copyset, &entry);
            group.apply(&entry);
            self.shard.note_applied(copyset, next);
            group.notes.push((self.shard.open_batch(), next));
        }
    }

    /// Copies a mapped block to another place, as a repair does with what came from a peer.
    pub(super) fn begin_repair(&mut self, rig: &Rig, random: &mut Random) {
        let copyset = self.pick(random);
        let blocks = &self.groups[&copyset].blocks;
        if blocks.is_empty() || self.shard.commands_free() < 32 || rig.pool.free_pages() < 200 {
            return;
        }
        let at = random.below(blocks.len() as u64) as usize;
        let (&(chunk, block), _) = blocks.iter().nth(at).expect("in range");
        let key = ChunkKey { copyset, chunk };
        if self.repairs.iter().any(|repair| (repair.key, repair.block) == (key, block)) {
            return;
        }
        let state = self.shard.store().block(key, block).expect("it is mapped");
        let Some(extents) = self.shard.store_mut().allocate(1) else { return };
        let (number, blocks, at) = self.contents[&state.crc];
        let (buffer, _) = rig.payload(blocks, number);
        let batch = self.shard.open_batch();
        self.shard.write_payload(&extents, &buffer.freeze().slice(at, 1));
        self.repairs.push(Repair { key, block, state, to: extents[0].start, batch });
    }

    /// Ends repairs whose bytes are durable.
    pub(super) fn end_repairs(&mut self) {
        let durable = self.shard.durable();
        let ready = |repair: &Repair| repair.batch <= durable;
        for repair in self.repairs.extract_if(.., |repair| ready(repair)).collect::<Vec<_>>() {
            let Repair { key, block, state, to, .. } = repair;
            let full = self.shard.space() == Space::Full || self.shard.room() < 4096;
            if full || self.shard.store().block(key, block) != Some(state) {
                self.shard.store_mut().release(Extent { start: to, blocks: 1 });
                continue;
            }
            self.shard.append_repaired(BlockRepaired {
                copyset: key.copyset,
                chunk: key.chunk,
                block,
                index: state.index,
                crc: state.crc,
                granule: to,
            });
            assert!(self.shard.store_mut().relocate(key, block, state, to));
            self.repaired += 1;
        }
    }

    /// Gives the checkpoint what it asks for, and compacts the log a little.
    pub(super) fn checkpoint(&mut self, random: &mut Random) {
        let Some(copyset) = self.shard.checkpoint_wants() else { return };
        let group = self.groups.get_mut(&copyset).expect("a group");
        let applied = group.applied.0 - group.base.0;
        let keep = applied.min(random.below(4));
        let base = LogIndex(group.applied.0 - keep);
        self.shard.checkpoint_copyset(copyset, |image| {
            image.log_start(base, Term(0));
            image.hard_state(group.hard_state);
            for entry in group.log.iter().filter(|entry| entry.index() > base) {
                image.entry(entry.view(), &entry.extents, None);
            }
            image.state().extend_from_slice(&group.applied.0.to_le_bytes());
        });
    }

    /// Holds a recovered shard against what was done, and goes on with it.
    pub(super) fn resume(self, rig: &mut Rig, recovered: Recovered) -> Composer {
        let Recovered { mut shard, groups: found, report } = recovered;
        assert_eq!(report.holes, [], "nothing was damaged");
        let durable = self.shard.durable();
        let noted = self.noted.iter().rev().find(|batch| **batch <= durable).copied();
        drop(self.shard);
        let mut groups = BTreeMap::new();
        assert!(found.len() <= self.groups.len());
        for (copyset, model) in &self.groups {
            let Some(group) = found.iter().find(|group| group.copyset == *copyset) else {
                assert!(model.nothing_durable(durable), "{copyset} is lost");
                continue;
            };
            assert!(!group.cut_off && !group.in_doubt);
            let (log, hard_state) = model.check(group, durable, noted.unwrap_or_default());
            let applied = restore(&mut shard, group, model, &log);
            let mut next = ModelGroup {
                base: model.base,
                log: log.clone(),
                term: model.term,
                hard_state,
                applied,
                start: Some((log.clone(), hard_state, applied)),
                ..ModelGroup::default()
            };
            for entry in &log {
                next.batches.insert(entry.index(), BatchNumber(0));
                if entry.index() <= applied {
                    next.apply_blocks(entry);
                }
            }
            groups.insert(*copyset, next);
        }
        let live: Vec<_> =
            groups.iter().flat_map(|(&copyset, group)| live(copyset, group)).collect();
        let live = live.iter().map(|(key, index, extents)| LivePayload {
            key: *key,
            index: *index,
            extents,
        });
        shard.finish_recovery(live, &[]).expect("maps and records agree");
        let composer = Composer { shard, groups, repairs: Vec::new(), noted: Vec::new(), ..self };
        composer.check_payload(rig);
        composer
    }

    /// Some block of the data space that a map names.
    pub(super) fn a_mapped_block(&self) -> u32 {
        for (&copyset, group) in &self.groups {
            if let Some(&(chunk, block)) = group.blocks.keys().next() {
                let mut states = crate::store::BlockStates::new();
                let range = BlockRange { first: block, blocks: 1 };
                self.shard.store().lookup(ChunkKey { copyset, chunk }, range, &mut states);
                let crate::store::Place::At(start) = states[0].place else { panic!("mapped") };
                return start;
            }
        }
        panic!("nothing is mapped")
    }

    /// Reads every mapped block and every payload that is not applied, and checks them.
    pub(super) fn check_payload(&self, rig: &mut Rig) {
        let data = self.shard.layout().data();
        let mut check = |start: u32, crc: u32, what: &str| {
            let buffer = rig.read(data + u64::from(start) * 4096);
            assert_eq!(buffer.crc32c(0, 4096), crc, "{what}");
        };
        for (&copyset, group) in &self.groups {
            for (&(chunk, block), &crc) in &group.blocks {
                let key = ChunkKey { copyset, chunk };
                let mut states = crate::store::BlockStates::new();
                let range = BlockRange { first: block, blocks: 1 };
                assert!(self.shard.store().lookup(key, range, &mut states), "{key:?} is there");
                assert_eq!(states[0].crc, crc, "{copyset} {chunk} {block}");
                let crate::store::Place::At(start) = states[0].place else {
                    panic!("it is mapped")
                };
                check(start, crc, "a mapped block");
            }
            let loose = group.log.iter().filter(|entry| entry.index() > group.applied);
            for entry in loose {
                let mut crcs = entry.view().crcs();
                for extent in &entry.extents {
                    for start in extent.start..extent.end() {
                        check(start, crcs.next().expect("one per block"), "an entry's payload");
                    }
                }
            }
        }
    }
}

impl ModelGroup {
    fn nothing_durable(&self, durable: BatchNumber) -> bool {
        self.start.is_none() && self.history.first().is_none_or(|(batch, _)| *batch > durable)
    }

    fn apply(&mut self, entry: &LogEntry) {
        self.applied = entry.index();
        self.apply_blocks(entry);
    }

    fn apply_blocks(&mut self, entry: &LogEntry) {
        let view = entry.view();
        let range = view.range();
        match view.operation() {
            Operation::Write => {
                for (block, crc) in (range.first..).zip(view.crcs()) {
                    self.blocks.insert((view.chunk(), block), crc);
                }
            }
            Operation::Discard => {
                for block in range.first..range.first + range.blocks {
                    self.blocks.remove(&(view.chunk(), block));
                }
            }
            _ => self.blocks.retain(|&(chunk, _), _| chunk != view.chunk()),
        }
    }

    /// Finds the state that was recovered among those that the group went through, not before the
    /// last durable one, and returns it whole.
    pub(super) fn check(
        &self,
        found: &RecoveredGroup,
        durable: BatchNumber,
        noted: BatchNumber,
    ) -> (Vec<LogEntry>, HardState) {
        let (base, _) = found.log_start.unwrap_or_default();
        let kept: Vec<LogEntry> = found
            .entries
            .iter()
            .map(|entry| LogEntry { record: entry.record.bytes().to_vec(), extents: entry.extents })
            .collect();
        for (at, entry) in kept.iter().enumerate() {
            let index = entry.index();
            assert_eq!(index.0, kept[0].index().0 + at as u64, "no gap");
        }
        assert!(kept.first().is_none_or(|first| first.index() <= base.next()), "no gap");
        let least = self.notes.iter().rev().find(|(batch, _)| *batch <= noted);
        let least = least.map_or(LogIndex(0), |&(_, index)| index);
        assert!(found.applied_note >= least, "a durable note is lost");
        assert!(found.applied_note <= self.applied, "a note that nobody gave");
        let kept: Vec<&LogEntry> = kept.iter().filter(|entry| entry.index() > base).collect();
        let (log, hard_state, next) = self
            .last_match(|log, hard_state| {
                let last = log.last().filter(|entry| entry.index() > base);
                hard_state == found.hard_state
                    && last == kept.last().copied()
                    && log.iter().rev().zip(kept.iter().rev()).all(|(ours, theirs)| ours == *theirs)
            })
            .unwrap_or_else(|| panic!("a state that never was"));
        assert!(next.is_none_or(|batch| batch > durable), "durable history is lost: {durable:?}");
        (log, hard_state)
    }

    /// The last state of the history that matches, and the batch that ended it.
    fn last_match(
        &self,
        matches: impl Fn(&[LogEntry], HardState) -> bool,
    ) -> Option<(Vec<LogEntry>, HardState, Option<BatchNumber>)> {
        let (mut log, mut hard_state, _) = self.start.clone().unwrap_or_default();
        let mut found = matches(&log, hard_state).then_some(0);
        let play = |log: &mut Vec<LogEntry>, hard_state: &mut HardState, act: &Act| match act {
            Act::Append(entry) => {
                while log.last().is_some_and(|last| last.index() >= entry.index()) {
                    log.pop();
                }
                log.push(LogEntry::clone(entry));
            }
            Act::Truncate(from) => log.retain(|old| old.index() < *from),
            Act::HardState(state) => *hard_state = *state,
        };
        for (at, (_, act)) in self.history.iter().enumerate() {
            play(&mut log, &mut hard_state, act);
            if matches(&log, hard_state) {
                found = Some(at + 1);
            }
        }
        let found = found?;
        let (mut log, mut hard_state, _) = self.start.clone().unwrap_or_default();
        for (_, act) in &self.history[..found] {
            play(&mut log, &mut hard_state, act);
        }
        Some((log, hard_state, self.history.get(found).map(|(batch, _)| *batch)))
    }
}

/// Applies the entries of a recovered group to the store, as far as its note says.
fn restore(
    shard: &mut Shard,
    found: &RecoveredGroup,
    model: &ModelGroup,
    log: &[LogEntry],
) -> LogIndex {
    let image = found.image.as_ref().map_or(LogIndex(0), |image| {
        LogIndex(u64::from_le_bytes(image[..].try_into().expect("eight bytes")))
    });
    assert!(image <= model.applied);
    assert!(found.applied_note >= image);
    for entry in log {
        if entry.index() > image && entry.index() <= found.applied_note {
            apply_entry(shard, found.copyset, entry);
        }
    }
    for repair in &found.repairs {
        let key = ChunkKey { copyset: repair.copyset, chunk: repair.chunk };
        let told = (repair.index, repair.crc);
        shard.store_mut().repaired(key, repair.block, told, repair.granule).expect("our own");
    }
    found.applied_note
}

/// The payload of entries that are not applied.
fn live(copyset: CopysetId, group: &ModelGroup) -> Vec<(ChunkKey, LogIndex, Vec<Extent>)> {
    let loose = group.log.iter().filter(|entry| entry.index() > group.applied);
    loose
        .filter(|entry| !entry.extents.is_empty())
        .map(|entry| {
            let view = entry.view();
            let key = ChunkKey { copyset, chunk: view.chunk() };
            (key, view.index(), entry.extents.to_vec())
        })
        .collect()
}

fn apply_entry(shard: &mut Shard, copyset: CopysetId, entry: &LogEntry) {
    let view = entry.view();
    let key = ChunkKey { copyset, chunk: view.chunk() };
    apply_record(shard.store_mut(), key, view, &entry.extents);
}

pub(super) fn apply_record(
    store: &mut Store,
    key: ChunkKey,
    view: RecordView<'_>,
    extents: &[Extent],
) {
    match view.operation() {
        Operation::Write => {
            store.write(key, view.index(), view.range(), extents, view.crcs());
        }
        Operation::Discard => {
            store.discard(key, view.index(), view.range());
        }
        _ => {
            store.delete(key, view.index());
        }
    }
}
