//! What the structures of the data plane cost.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_memory::{
    Buffer, PAGE_SIZE, Pages, Pool, PoolOptions, SharedBytes, SlotTable, Window, WindowOptions,
    spsc,
};

fn pool() -> Pool {
    let options = PoolOptions { bytes: 16 << 20, ..PoolOptions::default() };
    Pool::new(&options).expect("16 MiB of memory")
}

fn filled(pool: &Pool, pages: u32) -> Buffer {
    let mut buffer = pool.acquire(pages).expect("a free page");
    buffer.as_mut_slice().iter_mut().zip(0..).for_each(|(byte, i): (_, usize)| *byte = i as u8);
    buffer
}

fn pages(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("pages");
    group.bench_function("acquire_release_1", |bencher| {
        bencher.iter(|| drop(black_box(pool.acquire(1))));
    });
    group.bench_function("acquire_release_8", |bencher| {
        bencher.iter(|| drop(black_box(pool.acquire(8))));
    });
    group.bench_function("acquire_release_64_deep", |bencher| {
        let mut held: Vec<Buffer> = Vec::with_capacity(64);
        bencher.iter(|| {
            held.extend((0..64).map(|_| pool.acquire(1).expect("a free page")));
            held.clear();
        });
    });
    group.bench_function("freeze_clone_twice_release", |bencher| {
        bencher.iter(|| {
            let pages: Pages = pool.acquire(1).expect("a free page").freeze();
            black_box((pages.clone(), pages.clone(), pages));
        });
    });
    group.bench_function("window_claim_release", |bencher| {
        let options = WindowOptions { name: "culvert-bench".into(), pages: 64, lock: false };
        let window = Window::create(&options).expect("a window");
        bencher.iter(|| {
            drop(black_box(window.claim(3, 1).expect("the page's credit is back")));
            window.poll_released(|page, pages| assert_eq!((page, pages), (3, 1)));
        });
    });
    group.finish();
}

fn bytes(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("bytes");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    let source = filled(&pool, 1);
    let slice = source.as_slice().to_vec();
    group.bench_function("crc32c_4k", |bencher| {
        bencher.iter(|| black_box(&source).crc32c(0, PAGE_SIZE));
    });
    group.bench_function("crc32c_4k_crate_over_slice", |bencher| {
        bencher.iter(|| crc32c::crc32c(black_box(&slice)));
    });
    let mut target = filled(&pool, 1);
    let source = source.freeze();
    group.bench_function("copy_4k", |bencher| {
        bencher.iter(|| black_box(&mut target).copy_from(0, black_box(&source)));
    });
    group.throughput(Throughput::Bytes(512));
    group.bench_function("crc32c_512", |bencher| {
        bencher.iter(|| black_box(&source).crc32c(0, 512));
    });
    group.throughput(Throughput::Bytes(64));
    let shared = SharedBytes::of_buffer(target);
    group.bench_function("read_64", |bencher| {
        let mut entry = [0; 64];
        bencher.iter(|| shared.read_bytes(black_box(128), black_box(&mut entry)));
    });
    group.finish();
}

/// Many pages, so that they come from memory and not from the cache.
fn cold_bytes(criterion: &mut Criterion) {
    let pool = Pool::new(&PoolOptions { bytes: 128 << 20, ..PoolOptions::default() })
        .expect("128 MiB of memory");
    let source = filled(&pool, 16 << 10).freeze();
    let mut target = filled(&pool, 16 << 10);
    let mut group = criterion.benchmark_group("cold_bytes");
    group.throughput(Throughput::Bytes(source.len() as u64));
    group.sample_size(10);
    group.bench_function("crc32c_64m", |bencher| {
        bencher.iter(|| black_box(&source).crc32c(0, source.len()));
    });
    group.bench_function("copy_64m", |bencher| {
        bencher.iter(|| black_box(&mut target).copy_from(0, black_box(&source)));
    });
    group.finish();
}

fn tables(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tables");
    group.bench_function("slot_insert_remove", |bencher| {
        let mut table = SlotTable::new(1024);
        bencher.iter(|| {
            let id = table.insert(black_box(7u64)).expect("a vacant slot");
            table.remove(black_box(id))
        });
    });
    group.bench_function("spsc_push_pop", |bencher| {
        let (mut producer, mut consumer) = spsc(1024);
        bencher.iter(|| {
            producer.push(black_box(7u64)).expect("an empty queue");
            consumer.pop()
        });
    });
    group.bench_function("spsc_push_pop_in_32s", |bencher| {
        let (mut producer, mut consumer) = spsc(1024);
        bencher.iter(|| {
            for value in 0..32u64 {
                producer.push(black_box(value)).expect("room for 32");
            }
            while let Some(value) = consumer.pop() {
                black_box(value);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, pages, bytes, cold_bytes, tables);
criterion_main!(benches);
