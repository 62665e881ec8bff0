//! A replica without a network or a device: its state, its store, its log with local extents.

use proptest::prelude::*;

use crate::copyset::*;
use crate::ids::{BatchNumber, BlockRange, ChunkId, Extents, RequestNumber};
use crate::record::{Proposal, RECORD_BYTES_MAX};
use crate::store::{BlockState, BlockStates, Geometry, LivePayload, Place};

pub(super) const COPYSET: CopysetId = CopysetId(3);
pub(super) const CHUNKS: u64 = 8;
pub(super) const CHUNK_BLOCKS: u32 = 520;
pub(super) const QUOTA: u64 = 100_000;

pub(super) fn geometry() -> Geometry {
    Geometry { data_blocks: 1500, chunk_blocks: CHUNK_BLOCKS, deallocate: false }
}

/// A generated entry; its bytes are made when it gets its place in the log.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Write { chunk: u64, first: u32, blocks: u32, session: u64, number: u64, epoch: u64 },
    Discard { chunk: u64, first: u32, blocks: u32 },
    Delete { chunk: u64 },
    Open,
    Expire { session: u64 },
    Fence { epoch: u64 },
    Noop,
}

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let first = prop_oneof![0_u32..12, 500_u32..515];
    let place = (0..CHUNKS, first, 1_u32..6);
    // Sessions open at low indexes; request numbers repeat.
    let client = (prop_oneof![2 => Just(0_u64), 3 => 1_u64..6], 1_u64..20, 0_u64..4);
    prop_oneof![
        12 => (place.clone(), client).prop_map(
            |((chunk, first, blocks), (session, number, epoch))| Plan::Write {
                chunk, first, blocks, session, number, epoch
            }
        ),
        3 => place.prop_map(|(chunk, first, blocks)| Plan::Discard { chunk, first, blocks }),
        6 => (0..CHUNKS).prop_map(|chunk| Plan::Delete { chunk }),
        2 => Just(Plan::Open),
        1 => (1_u64..6).prop_map(|session| Plan::Expire { session }),
        1 => (0_u64..4).prop_map(|epoch| Plan::Fence { epoch }),
        1 => Just(Plan::Noop),
    ]
}

/// The entry of a plan at an index.
pub(super) fn record(plan: &Plan, index: LogIndex) -> Vec<u8> {
    let mut proposal = Proposal { epoch: Epoch(9), ..Proposal::noop() };
    let mut crcs = Vec::new();
    match *plan {
        Plan::Write { chunk, first, blocks, session, number, epoch } => {
            proposal.operation = Operation::Write;
            proposal.chunk = ChunkId(chunk);
            proposal.range = BlockRange { first, blocks };
            proposal.session = SessionId(session);
            proposal.request = RequestNumber(number);
            proposal.epoch = Epoch(epoch);
            crcs = (0..blocks).map(|block| (index.0 as u32) << 10 | (first + block)).collect();
        }
        Plan::Discard { chunk, first, blocks } => {
            proposal.operation = Operation::Discard;
            proposal.chunk = ChunkId(chunk);
            proposal.range = BlockRange { first, blocks };
        }
        Plan::Delete { chunk } => {
            proposal.operation = Operation::Delete;
            proposal.chunk = ChunkId(chunk);
        }
        Plan::Open => {
            proposal.operation = Operation::OpenSession;
            proposal.body = &[7; 16];
        }
        Plan::Expire { session } => {
            proposal.operation = Operation::ExpireSession;
            proposal.session = SessionId(session);
        }
        Plan::Fence { epoch } => {
            proposal.operation = Operation::Fence;
            proposal.epoch = Epoch(epoch);
        }
        Plan::Noop => {}
    }
    let mut out = [0; RECORD_BYTES_MAX];
    Proposal { crcs: &crcs, ..proposal }.emit(COPYSET, Term(1), index, &mut out).to_vec()
}

/// An entry of a replica's log.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) bytes: Vec<u8>,
    pub(super) extents: Extents,
}

impl Logged {
    pub(super) fn view(&self) -> RecordView<'_> {
        RecordView::parse(&self.bytes).expect("own record")
    }

    pub(super) fn key(&self) -> ChunkKey {
        ChunkKey { copyset: COPYSET, chunk: self.view().chunk() }
    }
}

/// The image of the state; the chunks with birth and applied index; the blocks.
pub(super) type Digest = (Vec<u8>, Vec<(ChunkId, LogIndex, LogIndex)>, Vec<BlockState>);

/// A replica.
pub(super) struct Node {
    pub(super) state: CopysetState,
    pub(super) store: Store,
    /// Entry `i` at `i - 1`.
    pub(super) log: Vec<Logged>,
    pub(super) batch: u64,
}

impl Node {
    pub(super) fn new() -> Node {
        let state = CopysetState::new(COPYSET, QUOTA);
        Node { state, store: Store::new(geometry()), log: Vec::new(), batch: 0 }
    }

    /// Appends an entry and stores its payload.
    pub(super) fn append(&mut self, bytes: Vec<u8>) {
        let blocks = RecordView::parse(&bytes).expect("own record").payload_blocks();
        let mut extents = Extents::new();
        if blocks > 0 {
            extents = self.store.allocate(blocks).expect("room");
        }
        self.log.push(Logged { bytes, extents });
    }

    /// Applies the next entry.
    pub(super) fn apply(&mut self) -> Applied {
        let entry = &self.log[self.state.applied().0 as usize];
        self.state.apply(entry.view(), &entry.extents, &mut self.store)
    }

    /// Applies entries up to `index`.
    pub(super) fn apply_to(&mut self, index: LogIndex) {
        while self.state.applied() < index {
            self.apply();
        }
    }

    /// Makes what was released free.
    pub(super) fn turn(&mut self) {
        self.batch += 1;
        self.store.seal(BatchNumber(self.batch));
        self.store.durable(BatchNumber(self.batch));
        while self.store.reclaim() {}
    }

    /// The records that hold payload: those not applied and not covered.
    pub(super) fn live(&self) -> Vec<LivePayload<'_>> {
        live(&self.log[self.state.applied().0 as usize..])
    }

    /// Everything that must be equal on two replicas at the same index, and where it lies.
    pub(super) fn digest(&self, with_places: bool) -> Digest {
        let mut image = Vec::new();
        self.state.encode(&mut image);
        let (mut chunks, mut blocks) = (Vec::new(), Vec::new());
        let mut after = None;
        while let Some(summary) = self.store.chunk_after(COPYSET, after) {
            after = Some(summary.key.chunk);
            chunks.push((summary.key.chunk, summary.birth, summary.applied));
            for first in (0..CHUNK_BLOCKS).step_by(26) {
                let mut out = BlockStates::new();
                self.store.lookup(summary.key, BlockRange { first, blocks: 20 }, &mut out);
                blocks.extend(out.into_iter().map(|state| match state.place {
                    Place::At(_) if !with_places => BlockState { place: Place::At(0), ..state },
                    _ => state,
                }));
            }
        }
        (image, chunks, blocks)
    }
}

/// What unapplied entries hold.
pub(super) fn live(log: &[Logged]) -> Vec<LivePayload<'_>> {
    let payload = |entry: &Logged| (entry.key(), entry.view().index());
    log.iter()
        .filter(|entry| !entry.extents.is_empty())
        .map(|entry| (payload(entry), &entry.extents))
        .map(|((key, index), extents)| LivePayload { key, index, extents })
        .collect()
}
