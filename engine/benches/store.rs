//! What the store costs per operation: allocate, apply a write, look up, admit and apply an entry.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use culvert::copyset::{CopysetState, Request};
use culvert::ids::{
    BatchNumber, BlockRange, ChunkId, CopysetId, Epoch, LogIndex, RequestNumber, SessionId, Term,
};
use culvert::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use culvert::store::allocator::Allocator;
use culvert::store::{BlockStates, ChunkKey, Geometry, Store};

const COPYSETS: u32 = 16;
/// 16 MiB.
const CHUNK_BLOCKS: u32 = 4096;
/// 16 GiB, nine tenths of them mapped.
const DATA_BLOCKS: u32 = 1 << 22;
const CHUNKS: u32 = DATA_BLOCKS / CHUNK_BLOCKS * 9 / 10;

/// A number that looks random.
fn scatter(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn place(number: u64) -> (ChunkKey, u32) {
    let block = (number % u64::from(CHUNKS * CHUNK_BLOCKS)) as u32;
    let chunk = block / CHUNK_BLOCKS;
    let key = ChunkKey { copyset: CopysetId(chunk % COPYSETS), chunk: ChunkId(chunk.into()) };
    (key, block % CHUNK_BLOCKS)
}

/// A shard in its steady state: filled, then overwritten once over in writes of one size, aligned
/// to it.
struct Shard {
    store: Store,
    blocks: u32,
    index: u64,
    random: u64,
}

impl Shard {
    fn full(blocks: u32) -> Shard {
        let deallocate = false;
        let geometry =
            Geometry { data_blocks: DATA_BLOCKS, chunk_blocks: CHUNK_BLOCKS, deallocate };
        let mut shard = Shard { store: Store::new(geometry), blocks, index: 0, random: 1 };
        for block in (0..CHUNKS * CHUNK_BLOCKS).step_by(32) {
            let (key, first) = place(block.into());
            shard.write(key, BlockRange { first, blocks: 32 });
        }
        for _ in 0..DATA_BLOCKS / blocks {
            shard.overwrite();
        }
        shard
    }

    fn write(&mut self, key: ChunkKey, range: BlockRange) {
        self.index += 1;
        let extents = self.store.allocate(range.blocks).expect("room");
        let crcs = [self.index as u32; 32];
        let crcs = crcs[..range.blocks as usize].iter().copied();
        self.store.write(key, LogIndex(self.index), range, &extents, crcs);
        if self.index.is_multiple_of(32) {
            self.store.seal(BatchNumber(self.index));
            self.store.durable(BatchNumber(self.index));
        }
    }

    fn place(&mut self) -> (ChunkKey, BlockRange) {
        let (key, first) = place(scatter(&mut self.random));
        (key, BlockRange { first: first / self.blocks * self.blocks, blocks: self.blocks })
    }

    /// Allocates, applies and frees: all that the store does for a write.
    fn overwrite(&mut self) {
        let (key, range) = self.place();
        self.write(key, range);
    }

    fn lookup(&mut self) {
        let (key, range) = self.place();
        let mut out = BlockStates::new();
        self.store.lookup(key, range, &mut out);
        black_box(&out);
    }
}

fn store(c: &mut Criterion) {
    for blocks in [1, 8, 32] {
        let mut shard = Shard::full(blocks);
        let statistics = shard.store.statistics();
        let per_block = statistics.memory_bytes as f64 / statistics.mapped_blocks as f64;
        println!("{per_block:.2} bytes a mapped block");
        c.bench_function(&format!("overwrite, {blocks} blocks"), |b| b.iter(|| shard.overwrite()));
        c.bench_function(&format!("lookup, {blocks} blocks"), |b| b.iter(|| shard.lookup()));
    }
    let mut shard = Shard::full(32);
    let (key, _) = place(7);
    c.bench_function("freeze and thaw", |b| {
        b.iter(|| {
            let frozen = shard.store.freeze(key).expect("a chunk");
            shard.store.thaw(frozen);
        });
    });
    c.bench_function("read ticket", |b| {
        b.iter(|| {
            let ticket = shard.store.read_begin();
            shard.store.read_end(black_box(ticket));
        });
    });
}

fn allocator(c: &mut Criterion) {
    c.bench_function("allocate 1 of empty space", |b| {
        let mut space = Allocator::new(DATA_BLOCKS);
        b.iter(|| {
            let extents = space.allocate(1).unwrap_or_else(|| {
                space = Allocator::new(DATA_BLOCKS);
                space.allocate(1).expect("room")
            });
            black_box(extents);
        });
    });
    for (name, every) in [("half", 2), ("nine tenths", 10)] {
        for blocks in [1, 32] {
            c.bench_function(&format!("allocate {blocks}, {name} used at random"), |b| {
                let mut space = Allocator::new(DATA_BLOCKS);
                let mut random = 1;
                for start in 0..DATA_BLOCKS {
                    if !scatter(&mut random).is_multiple_of(every) {
                        let extent = culvert::ids::Extent { start, blocks: 1 };
                        space.mark_used(extent).expect("free");
                    }
                }
                b.iter(|| {
                    let extents = space.allocate(blocks).expect("room");
                    extents.iter().for_each(|&extent| space.free(extent));
                });
            });
        }
    }
}

fn copyset(c: &mut Criterion) {
    let id = CopysetId(1);
    let geometry = Geometry { data_blocks: 1 << 20, chunk_blocks: CHUNK_BLOCKS, deallocate: false };
    let mut store = Store::new(geometry);
    let mut state = CopysetState::new(id, 1 << 19);
    let mut out = [0; RECORD_BYTES_MAX];
    let open = Proposal { operation: Operation::OpenSession, body: &[1; 16], ..Proposal::noop() };
    let record = open.emit(id, Term(1), LogIndex(1), &mut out);
    state.apply(RecordView::parse(record).expect("a record"), &[], &mut store);
    let write = |number: u64| Proposal {
        operation: Operation::Write,
        chunk: ChunkId(number % 64),
        range: BlockRange { first: (number / 64 % u64::from(CHUNK_BLOCKS)) as u32, blocks: 1 },
        epoch: Epoch(0),
        session: SessionId(1),
        request: RequestNumber(number),
        crcs: &[7],
        ..Proposal::noop()
    };
    c.bench_function("admit and apply a 4 KiB write", |b| {
        b.iter_batched_ref(
            || (),
            |()| {
                let index = state.applied().next();
                let proposal = write(index.0);
                let request = Request {
                    operation: proposal.operation,
                    chunk: proposal.chunk,
                    range: proposal.range,
                    epoch: proposal.epoch,
                    session: proposal.session,
                    request: proposal.request,
                };
                black_box(state.admit(&request, &store));
                state.proposed(index, 1);
                let extents = store.allocate(1).expect("room");
                let record = RecordView::trusted(proposal.emit(id, Term(1), index, &mut out));
                black_box(state.apply(record, &extents, &mut store));
                if index.0.is_multiple_of(32) {
                    store.seal(BatchNumber(index.0));
                    store.durable(BatchNumber(index.0));
                }
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, allocator, store, copyset);
criterion_main!(benches);
