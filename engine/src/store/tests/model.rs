//! The store against a naive model, which says what must not be free.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const DATA_BLOCKS: u32 = 400;
const CHUNK_BLOCKS: u32 = 1030;
const CHUNKS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Write {
        chunk: u64,
        at: u32,
        blocks: u32,
    },
    /// An entry that the chunk has seen.
    Stale {
        chunk: u64,
        at: u32,
        blocks: u32,
    },
    Discard {
        chunk: u64,
        at: u32,
        blocks: u32,
    },
    Delete {
        chunk: u64,
    },
    Relocate {
        chunk: u64,
        at: u32,
    },
    Freeze {
        chunk: u64,
    },
    Thaw {
        pick: usize,
    },
    /// A record's payload is allocated, and truncated later.
    Record {
        blocks: u32,
    },
    Truncate {
        pick: usize,
    },
    ReadBegin,
    ReadEnd {
        pick: usize,
    },
    Seal,
    Durable {
        behind: u64,
    },
    /// A checkpoint, or an increment to the one before.
    Save {
        whole: bool,
    },
    /// A superblock counts.
    Superblock,
    /// The device is told of some extents, and answers.
    Deallocate,
}

fn step() -> impl Strategy<Value = Step> {
    let chunk = 0..CHUNKS;
    // Around the borders of the chunk and of its leaves.
    let at = prop_oneof![0_u32..12, 500_u32..520, 998_u32..1003];
    let blocks = prop_oneof![1 => Just(1), 2 => 1_u32..28];
    let place = (chunk.clone(), at, blocks.clone());
    prop_oneof![
        8 => place.clone().prop_map(|(chunk, at, blocks)| Step::Write { chunk, at, blocks }),
        1 => place.clone().prop_map(|(chunk, at, blocks)| Step::Stale { chunk, at, blocks }),
        2 => place.clone().prop_map(|(chunk, at, blocks)| Step::Discard { chunk, at, blocks }),
        1 => chunk.clone().prop_map(|chunk| Step::Delete { chunk }),
        2 => place.prop_map(|(chunk, at, _)| Step::Relocate { chunk, at }),
        1 => chunk.prop_map(|chunk| Step::Freeze { chunk }),
        1 => any::<usize>().prop_map(|pick| Step::Thaw { pick }),
        1 => blocks.prop_map(|blocks| Step::Record { blocks }),
        1 => any::<usize>().prop_map(|pick| Step::Truncate { pick }),
        2 => Just(Step::ReadBegin),
        2 => any::<usize>().prop_map(|pick| Step::ReadEnd { pick }),
        3 => Just(Step::Seal),
        3 => (0_u64..3).prop_map(|behind| Step::Durable { behind }),
        1 => prop::bool::weighted(0.2).prop_map(|whole| Step::Save { whole }),
        1 => Just(Step::Superblock),
        1 => Just(Step::Deallocate),
    ]
}

#[derive(Clone, Debug)]
struct ModelChunk {
    birth: u64,
    applied: u64,
    blocks: BTreeMap<u32, BlockState>,
}

fn names(chunk: &ModelChunk) -> impl Iterator<Item = u32> + '_ {
    chunk.blocks.values().filter_map(|state| match state.place {
        Place::At(block) => Some(block),
        _ => None,
    })
}

struct Harness {
    store: Store,
    index: u64,
    batch: u64,
    chunks: BTreeMap<u64, ModelChunk>,
    frozen: Vec<(FrozenId, u64, ModelChunk)>,
    records: Vec<Extents>,
    /// With what was named when each began.
    tickets: Vec<(ReadTicket, BTreeSet<u32>)>,
    /// Named by nobody any more since a batch (`None`: not sealed yet).
    released: BTreeMap<u32, Option<u64>>,
    durable: u64,
    /// The pieces of a checkpoint and its increments.
    saved: Vec<Vec<Vec<u8>>>,
    /// Superblocks, and for each block that was taken from the active segment how many there were.
    superblocks: u64,
    needed: BTreeMap<u32, u64>,
}

impl Harness {
    fn new(deallocate: bool, segments: bool) -> Harness {
        let geometry = Geometry { deallocate, ..geometry(DATA_BLOCKS, CHUNK_BLOCKS) };
        let mut store = Store::new(geometry);
        if segments {
            store.restore_segments(20, &[], &[]);
            store.prefer_segment(u32::MAX);
        }
        Harness {
            store,
            superblocks: 0,
            needed: BTreeMap::new(),
            index: 0,
            batch: 0,
            chunks: BTreeMap::new(),
            frozen: Vec::new(),
            records: Vec::new(),
            tickets: Vec::new(),
            released: BTreeMap::new(),
            durable: 0,
            saved: Vec::new(),
        }
    }

    /// What maps, images and records name.
    fn named(&self) -> BTreeSet<u32> {
        let chunks = self.chunks.values().chain(self.frozen.iter().map(|(_, _, chunk)| chunk));
        let records = self.records.iter().flatten().flat_map(|extent| extent.start..extent.end());
        chunks.flat_map(names).chain(records).collect()
    }

    fn allocate(&mut self, blocks: u32) -> Option<Extents> {
        let extents = self.store.allocate(blocks)?;
        let named = self.named();
        for block in extents.iter().flat_map(|extent| extent.start..extent.end()) {
            self.check_may_be_free(block, &named);
            self.released.remove(&block);
            self.needed.remove(&block);
            if blocks == 1 && self.store.is_in_active_segment(block) {
                self.needed.insert(block, self.superblocks);
            }
        }
        Some(extents)
    }

    /// What an entry in the metadata of a block says may be needed from the superblock that counted
    /// when it was written, and from the next; so until two more count.
    fn check_not_needed(&self, block: u32) {
        if let Some(superblocks) = self.needed.get(&block) {
            assert!(
                superblocks + 3 <= self.superblocks,
                "{block} holds an entry that may be needed"
            );
        }
    }

    fn check_may_be_free(&self, block: u32, named: &BTreeSet<u32>) {
        assert!(!named.contains(&block), "{block} is named");
        for (_, named) in &self.tickets {
            assert!(!named.contains(&block), "{block} is being read");
        }
        if let Some(batch) = self.released.get(&block) {
            assert!(batch.is_some_and(|batch| batch <= self.durable), "{block} is not durable");
        }
        self.check_not_needed(block);
    }

    fn step(&mut self, step: Step) {
        let before = self.named();
        self.take(step);
        let after = self.named();
        for &block in before.difference(&after) {
            self.released.insert(block, None);
        }
        self.check();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write { chunk, at, blocks } => self.write(chunk, range(at, blocks)),
            Step::Stale { chunk, at, blocks } => self.stale(chunk, range(at, blocks)),
            Step::Discard { chunk, at, blocks } => self.discard(chunk, range(at, blocks)),
            Step::Delete { chunk } => {
                self.index += 1;
                let change = self.store.delete(key(chunk), LogIndex(self.index));
                assert_eq!(change == Change::Made, self.chunks.remove(&chunk).is_some());
            }
            Step::Relocate { chunk, at } => self.relocate(chunk, at),
            Step::Freeze { chunk } => match self.store.freeze(key(chunk)) {
                Ok(id) => self.frozen.push((id, chunk, self.chunks[&chunk].clone())),
                Err(FreezeError::NoChunk) => assert!(!self.chunks.contains_key(&chunk)),
                Err(FreezeError::Full) => assert_eq!(self.frozen.len(), frozen::FROZEN_MAX),
            },
            Step::Thaw { pick } if !self.frozen.is_empty() => {
                let (id, ..) = self.frozen.swap_remove(pick % self.frozen.len());
                self.store.thaw(id);
            }
            Step::Record { blocks } => {
                let extents = self.allocate(blocks);
                self.records.extend(extents);
            }
            Step::Truncate { pick } if !self.records.is_empty() => {
                let extents = self.records.swap_remove(pick % self.records.len());
                extents.into_iter().for_each(|extent| self.store.release(extent));
            }
            Step::ReadBegin => {
                let named = self.named();
                self.tickets.push((self.store.read_begin(), named));
            }
            Step::ReadEnd { pick } if !self.tickets.is_empty() => {
                let (ticket, _) = self.tickets.swap_remove(pick % self.tickets.len());
                self.store.read_end(ticket);
            }
            Step::Seal => self.seal(),
            Step::Durable { behind } => {
                self.durable = self.durable.max(self.batch.saturating_sub(behind));
                self.store.durable(BatchNumber(self.durable));
            }
            Step::Save { whole } => self.save(whole),
            Step::Superblock => {
                self.store.open_segment();
                self.store.advance_segments();
                self.superblocks += 1;
            }
            Step::Deallocate => {
                let mut extents = Vec::new();
                self.store.take_deallocations(8, &mut extents);
                for extent in extents {
                    (extent.start..extent.end()).for_each(|block| self.check_not_needed(block));
                    self.store.deallocated(extent);
                }
            }
            Step::Thaw { .. } | Step::Truncate { .. } | Step::ReadEnd { .. } => {}
        }
    }

    /// Saves what changed, and checks that all that was saved together is what there is.
    fn save(&mut self, whole: bool) {
        if whole {
            self.saved.clear();
        }
        let mut pieces = Vec::new();
        let mut out = vec![0; PIECE_BYTES_MIN];
        for &chunk in self.chunks.keys() {
            let Ok((frozen, saved)) = self.store.freeze_changes(key(chunk)) else {
                // What the next image would have to begin from is not saved now.
                self.saved.clear();
                return;
            };
            let since = if self.saved.is_empty() { LogIndex(0) } else { saved };
            let mut from = Some(0);
            while let Some(block) = from {
                let encoded = self.store.encode_chunk(frozen, since, block, &mut out);
                pieces.push(out[..encoded.bytes].to_vec());
                from = encoded.next;
            }
            self.store.thaw(frozen);
        }
        let absences = self.store.encode_absences(COPYSET, None, &mut out);
        assert_eq!(absences.next, None);
        if absences.bytes > 0 {
            pieces.push(out[..absences.bytes].to_vec());
        }
        self.saved.push(pieces);
        let mut loaded = Store::recovering(self.store.geometry());
        for (number, part) in self.saved.iter().enumerate() {
            if number > 0 {
                loaded.load_increment();
            }
            for piece in part {
                loaded.load(piece).expect("our own");
            }
            loaded.loaded().expect("whole");
        }
        for chunk in 0..CHUNKS {
            assert_eq!(loaded.chunk(key(chunk)), self.store.chunk(key(chunk)));
            for first in (0..CHUNK_BLOCKS - 30).step_by(25) {
                let range = range(first, 30);
                assert_eq!(
                    states(&loaded, key(chunk), range),
                    states(&self.store, key(chunk), range)
                );
            }
            for index in [1, self.index / 2, self.index, self.index + 1] {
                let index = LogIndex(index.max(1));
                assert_eq!(loaded.covers(key(chunk), index), self.store.covers(key(chunk), index));
            }
        }
        assert_eq!(loaded.mapped_blocks(COPYSET), self.store.mapped_blocks(COPYSET));
        loaded.finish_recovery([], &[]).expect("sound");
    }

    fn seal(&mut self) {
        self.batch += 1;
        self.store.seal(BatchNumber(self.batch));
        for batch in self.released.values_mut() {
            *batch = batch.or(Some(self.batch));
        }
    }

    fn write(&mut self, chunk: u64, range: BlockRange) {
        let Some(extents) = self.allocate(range.blocks) else { return };
        self.index += 1;
        let index = LogIndex(self.index);
        let crcs: Vec<u32> =
            (0..range.blocks).map(|block| crc(self.index, range.first + block)).collect();
        let change = self.store.write(key(chunk), index, range, &extents, crcs.iter().copied());
        assert_eq!(change, Change::Made);
        let model = self.chunks.entry(chunk).or_insert_with(|| ModelChunk {
            birth: self.index,
            applied: 0,
            blocks: BTreeMap::new(),
        });
        model.applied = self.index;
        let places = extents.iter().flat_map(|extent| extent.start..extent.end());
        for ((block, place), crc) in (range.first..).zip(places).zip(crcs) {
            model.blocks.insert(block, BlockState { place: Place::At(place), crc, index });
        }
    }

    fn stale(&mut self, chunk: u64, range: BlockRange) {
        let Some(model) = self.chunks.get(&chunk) else { return };
        let index = LogIndex(model.applied);
        let Some(extents) = self.allocate(range.blocks) else { return };
        for extent in &extents {
            self.released.extend((extent.start..extent.end()).map(|block| (block, None)));
        }
        let crcs = vec![1; range.blocks as usize].into_iter();
        let change = self.store.write(key(chunk), index, range, &extents, crcs);
        assert_eq!(change, Change::Skipped);
    }

    fn discard(&mut self, chunk: u64, range: BlockRange) {
        self.index += 1;
        let index = LogIndex(self.index);
        let change = self.store.discard(key(chunk), index, range);
        let Some(model) = self.chunks.get_mut(&chunk) else {
            assert_eq!(change, Change::Skipped);
            return;
        };
        model.applied = self.index;
        for (_, state) in model.blocks.range_mut(range.first..range.first + range.blocks) {
            if state.place != Place::Hole {
                *state = BlockState { place: Place::Hole, crc: 0, index };
            }
        }
    }

    fn relocate(&mut self, chunk: u64, at: u32) {
        let Some(expected) =
            self.chunks.get(&chunk).and_then(|model| model.blocks.get(&at).copied())
        else {
            return;
        };
        let Some(to) = self.allocate(1).map(|extents| extents[0].start) else { return };
        self.released.insert(to, None);
        let moved = self.store.relocate(key(chunk), at, expected, to);
        assert_eq!(moved, expected.place != Place::Hole);
        if moved {
            let moved = BlockState { place: Place::At(to), ..expected };
            self.chunks.get_mut(&chunk).expect("a chunk").blocks.insert(at, moved);
            self.released.remove(&to);
        }
    }

    /// Compares all that can be seen.
    fn check(&self) {
        let space = self.store.space.as_ref().expect("not recovering");
        let named = self.named();
        for block in (0..DATA_BLOCKS).filter(|&block| space.is_free(block)) {
            self.check_may_be_free(block, &named);
        }
        let mut mapped = 0;
        for chunk in 0..CHUNKS {
            let Some(model) = self.chunks.get(&chunk) else {
                assert_eq!(self.store.chunk(key(chunk)), None);
                continue;
            };
            let summary = self.store.chunk(key(chunk)).expect("a chunk");
            assert_eq!((summary.birth.0, summary.applied.0), (model.birth, model.applied));
            assert_eq!(summary.mapped as usize, names(model).count());
            mapped += u64::from(summary.mapped);
            for first in [0, 30, 490, 512, 544, 998] {
                let seen = states(&self.store, key(chunk), range(first, 32)).expect("a chunk");
                for (block, state) in (first..).zip(seen) {
                    assert_eq!(state, model.blocks.get(&block).copied().unwrap_or_default());
                }
            }
        }
        assert_eq!(self.store.mapped_blocks(COPYSET), mapped);
        for (id, chunk, model) in &self.frozen {
            let summary = self.store.frozen_summary(*id);
            assert_eq!((summary.key, summary.applied.0), (key(*chunk), model.applied));
            for above in [0, model.applied / 2, model.applied] {
                let blocks = self.store.frozen_blocks(*id, LogIndex(above), 3);
                let expected = model.blocks.range(3..).map(|(&block, &state)| (block, state));
                let newer = |(_, state): &(u32, BlockState)| state.index.0 > above;
                assert!(blocks.eq(expected.filter(newer)));
            }
        }
        let live: Vec<LivePayload<'_>> = self
            .records
            .iter()
            .map(|extents| LivePayload { key: key(99), index: LogIndex(1), extents })
            .collect();
        assert_eq!(self.store.verify(live, &[]), Ok(0));
    }

    /// Ends all that holds anything back: what is not mapped is free then.
    fn finish(mut self) {
        for (id, ..) in std::mem::take(&mut self.frozen) {
            self.store.thaw(id);
        }
        for (ticket, _) in std::mem::take(&mut self.tickets) {
            self.store.read_end(ticket);
        }
        for extent in std::mem::take(&mut self.records).into_iter().flatten() {
            self.store.release(extent);
        }
        settle(&mut self.store, &mut self.batch);
        let statistics = self.store.statistics();
        let free = statistics.free_blocks + statistics.kept_blocks;
        assert_eq!(free + statistics.mapped_blocks, u64::from(DATA_BLOCKS));
        assert_eq!(statistics.waiting_blocks, 0);
        assert_eq!(self.store.verify([], &[]), Ok(0));
        for chunk in 0..CHUNKS {
            self.index += 1;
            self.store.delete(key(chunk), LogIndex(self.index));
        }
        settle(&mut self.store, &mut self.batch);
        let statistics = self.store.statistics();
        let free = statistics.free_blocks + statistics.kept_blocks;
        assert_eq!(free, u64::from(DATA_BLOCKS));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_free_too_early_and_nothing_leaks(
        deallocate in any::<bool>(),
        segments in any::<bool>(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut harness = Harness::new(deallocate, segments);
        for step in steps {
            harness.step(step);
        }
        harness.finish();
    }
}
