//! What journalling costs: items into a batch, and a batch sealed with its checksums.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert::device::Salt;
use culvert::ids::{
    BlockRange, ChunkId, CopysetId, Epoch, Extent, LogIndex, RequestNumber, SessionId, Term,
};
use culvert::journal::{BatchWriter, Entry, Item, Stamp};
use culvert::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use uuid::Uuid;

const BLOCK_SIZE: usize = 4096;

/// The record of a write of one block.
fn record(out: &mut [u8; RECORD_BYTES_MAX]) -> RecordView<'_> {
    let proposal = Proposal {
        operation: Operation::Write,
        chunk: ChunkId(3),
        range: BlockRange { first: 17, blocks: 1 },
        sequence: 0,
        epoch: Epoch(0),
        session: SessionId(5),
        request: RequestNumber(9),
        crcs: &[0x1234_5678],
        body: &[],
    };
    RecordView::trusted(proposal.emit(CopysetId(1), Term(2), LogIndex(7), out))
}

fn append(criterion: &mut Criterion) {
    let salt = Salt::new(&Uuid::from_u128(1), 2, 0);
    let stamp = Stamp { position: 100, mark: 90, start: 1, incarnation: 1 };
    let mut bytes = [0; RECORD_BYTES_MAX];
    let record = record(&mut bytes);
    let extents = [Extent { start: 77, blocks: 1 }];
    let item = Item::Entry(Entry { record, extents: (&extents).into(), superseded_by: None });
    let mut memory = vec![0; 64 * BLOCK_SIZE];
    let mut group = criterion.benchmark_group("journal");
    for entries in [1, 32, 128] {
        group.throughput(Throughput::Elements(entries));
        group.bench_function(format!("batch_of_{entries}_entries"), |bencher| {
            let mut writer = BatchWriter::new(BLOCK_SIZE, memory.len());
            bencher.iter(|| {
                writer.clear();
                for _ in 0..entries {
                    writer.add(&mut memory, black_box(&item));
                }
                writer.seal(&mut memory, &stamp, salt)
            });
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let mut bytes = [0; RECORD_BYTES_MAX];
    group.bench_function("emit", |bencher| bencher.iter(|| record(&mut bytes).bytes().len()));
    let view = record(&mut bytes).bytes();
    group.bench_function("parse", |bencher| {
        bencher.iter(|| RecordView::parse(black_box(view)).map(|view| view.index()));
    });
    group.finish();
}

criterion_group!(benches, append, records);
criterion_main!(benches);
