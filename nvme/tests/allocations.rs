//! The data path allocates nothing and, but for io_uring, calls nothing.

use culvert_memory::{Buffer, CountingAllocator, Pages, Pool, PoolOptions, allocations};
use culvert_nvme::{
    AnyQueuePair, Lba, LbaRange, OpenError, OpenOptions, Operation, QueuePair, Submission, Tag,
    open,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const BATCH: usize = 16;

/// Sends every kind of operation, in batches, without allocating anything itself.
fn run(pair: &mut AnyQueuePair, buffers: &mut Vec<Buffer>, pages: &mut Vec<Pages>, rounds: u64) {
    for round in 0..rounds {
        for index in 0..BATCH as u64 {
            let lba = Lba((round * 5 + index) % 64);
            let operation = match index {
                0..6 => Operation::Read { lba, buffer: buffers.pop().expect("a buffer") },
                6..12 => {
                    let pages = pages.pop().expect("pages");
                    Operation::Write { lba, pages, fua: index == 11 }
                }
                12 => Operation::Flush,
                13 => Operation::WriteZeroes { lba, blocks: 3, deallocate: round % 2 == 0 },
                14 => {
                    let range = LbaRange { start: lba, blocks: 2 };
                    Operation::Deallocate { ranges: [range; 3].into_iter().collect() }
                }
                // Refused without a device.
                _ => Operation::WriteZeroes { lba, blocks: 0, deallocate: false },
            };
            let submission = Submission { tag: Tag(index), operation };
            assert!(pair.submit(submission).is_ok(), "the queue has room");
        }
        pair.ring();
        while pair.in_flight() > 0 {
            pair.poll(BATCH, &mut |completion| {
                assert_eq!(completion.status.is_success(), completion.tag.0 < 15);
                buffers.extend(completion.buffer);
                pages.extend(completion.pages);
            });
        }
    }
}

fn check(uri: &str, rounds: u64) {
    let options = OpenOptions { depth: BATCH as u32, ..OpenOptions::default() };
    let mut pair = match open(&uri.parse().expect("a good URI"), &options) {
        Ok(pair) => pair,
        Err(OpenError::Uring { source, .. }) => return eprintln!("skipped: {uri}: {source}"),
        Err(error) => panic!("{uri}: {error:?}"),
    };
    let pool = Pool::new(&PoolOptions::default()).expect("memory");
    pair.register(&pool.regions()[0]).expect("registering");
    let take = |count| pool.acquire(count).expect("memory");
    let mut buffers: Vec<_> = (0..6).map(|index| take(1 + index % 3)).collect();
    let mut pages: Vec<_> = (0..6).map(|index| take(1 + index % 3).freeze()).collect();
    run(&mut pair, &mut buffers, &mut pages, 10);
    let before = (allocations(), pair.counters().system_calls);
    run(&mut pair, &mut buffers, &mut pages, rounds);
    let after = (allocations(), pair.counters().system_calls);
    assert_eq!(after.0, before.0, "{uri} allocates");
    if !uri.starts_with("uring:") {
        assert_eq!(after.1, before.1, "{uri} calls");
    }
}

#[test]
fn the_data_path_allocates_nothing() {
    check("emulated:1MiB", 1000);
    check("emulated:1MiB?block=512", 1000);
    check("emulated:1MiB?cache=volatile&cache_blocks=8", 1000);
    check("emulated:1MiB?order=shuffled&seed=1", 1000);
    let directory = tempfile::tempdir().expect("a temporary directory");
    check(&format!("uring:{}/device?size=1MiB", directory.path().display()), 20);
}
