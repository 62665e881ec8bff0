#![allow(unsafe_code)]
//! What a 4 KiB command costs through a queue pair.
//!
//! One iteration keeps `depth` commands in flight in batches of `batch`: submit a batch, ring once,
//! poll until a batch has completed. Throughput is in commands.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert_memory::{Buffer, Pages, Pool, PoolOptions};
use culvert_nvme::{AnyQueuePair, Lba, OpenOptions, Operation, QueuePair, Submission, Tag, open};

/// Commands of one iteration.
const COMMANDS: usize = 1024;
/// Pages that are read and written in turn.
const PAGES: u64 = 1024;

const BACKENDS: [(&str, &str); 4] = [
    ("null", "emulated:64MiB?medium=null"),
    ("ram", "emulated:64MiB"),
    ("ram_cache", "emulated:64MiB?cache=volatile"),
    ("null_thread", "emulated:64MiB?medium=null&thread=1"),
];
/// Depth and batch.
const SHAPES: [(usize, usize); 4] = [(1, 1), (128, 1), (128, 16), (128, 64)];

struct Bench {
    pair: AnyQueuePair,
    buffers: Vec<Buffer>,
    pages: Vec<Pages>,
    lba: u64,
}

impl Bench {
    fn new(uri: &str, depth: usize) -> Bench {
        let pool = Pool::new(&PoolOptions::default()).expect("memory");
        let options = OpenOptions { depth: depth as u32, ..OpenOptions::default() };
        let mut pair = open(&uri.parse().expect("a good URI"), &options).expect("a device");
        pair.register(&pool.regions()[0]).expect("registering the pool");
        let take = || pool.acquire(1).expect("the pool is large enough");
        let buffers = (0..depth).map(|_| take()).collect();
        let pages = (0..depth).map(|_| take().freeze()).collect();
        Bench { pair, buffers, pages, lba: 0 }
    }

    fn next_lba(&mut self) -> Lba {
        self.lba = (self.lba + 7) % PAGES;
        Lba(self.lba)
    }

    fn next(&mut self, write: bool) -> Option<Operation> {
        let lba = self.next_lba();
        if write {
            let pages = self.pages.pop()?;
            return Some(Operation::Write { lba, pages, fua: false });
        }
        let buffer = self.buffers.pop()?;
        Some(Operation::Read { lba, buffer })
    }

    /// Runs `COMMANDS` commands.
    fn run(&mut self, batch: usize, write: bool) {
        let mut completed = 0;
        while completed < COMMANDS {
            for _ in 0..batch {
                let Some(operation) = self.next(write) else { break };
                let submission = Submission { tag: Tag(0), operation };
                assert!(self.pair.submit(submission).is_ok(), "a buffer is a place in the queue");
            }
            self.pair.ring();
            let Bench { pair, buffers, pages, .. } = self;
            let visited = pair.poll(batch, &mut |completion| {
                assert!(completion.status.is_success());
                buffers.extend(completion.buffer);
                pages.extend(completion.pages);
            });
            if visited == 0 {
                // Only where the controller has a thread, which may need this core.
                std::thread::yield_now();
            }
            completed += visited;
        }
    }
}

fn queue_pair(criterion: &mut Criterion) {
    for (name, uri) in BACKENDS {
        let mut group = criterion.benchmark_group(format!("queue_pair/{name}"));
        group.throughput(Throughput::Elements(COMMANDS as u64));
        for (depth, batch) in SHAPES {
            for (kind, write) in [("read", false), ("write", true)] {
                let shape = format!("depth{depth}_batch{batch}");
                let mut bench = Bench::new(uri, depth);
                group.bench_function(BenchmarkId::new(kind, shape), |bencher| {
                    bencher.iter(|| bench.run(batch, write));
                });
            }
        }
        group.finish();
    }
}

/// The time stamp counter: cycles at the processor's nominal frequency.
#[cfg(target_arch = "x86_64")]
fn time_stamp() -> u64 {
    // SAFETY: every x86-64 has the counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Prints what a command costs in cycles, the controller included: the median of many runs.
#[cfg(target_arch = "x86_64")]
fn cycles(_: &mut Criterion) {
    const RUNS: usize = 101;
    let (name, uri) = BACKENDS[0];
    for (depth, batch) in SHAPES {
        for (kind, write) in [("read", false), ("write", true)] {
            let mut bench = Bench::new(uri, depth);
            let mut runs: Vec<u64> = (0..RUNS)
                .map(|_| {
                    let start = time_stamp();
                    bench.run(batch, write);
                    time_stamp() - start
                })
                .collect();
            runs.sort_unstable();
            let cycles = runs[RUNS / 2] / COMMANDS as u64;
            println!(
                "queue_pair/{name}/{kind}/depth{depth}_batch{batch}: {cycles} cycles a command"
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn cycles(_: &mut Criterion) {}

criterion_group!(benches, cycles, queue_pair);
criterion_main!(benches);
