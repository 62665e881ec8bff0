//! Many commands at once: batches, bounds, counters.

use culvert_nvme::{Lba, OpenOptions, Operation, QueuePair, Submission, Tag};

use crate::rig::{DEPTH, Rig, finish, pattern};

fn write_of(rig: &Rig<impl QueuePair>, lba: u64, seed: u64) -> Operation {
    Operation::Write { lba: Lba(lba), pages: rig.filled(1, seed).freeze(), fua: false }
}

pub fn every_completion_is_visited_once(mut rig: Rig<impl QueuePair>) {
    let per_page = rig.per_page();
    for tag in 0..DEPTH as u64 {
        let write = write_of(&rig, tag * per_page, tag);
        rig.submit(tag, write);
    }
    let completions = rig.finish();
    assert_eq!(completions.len(), DEPTH);
    for tag in 0..DEPTH as u64 {
        assert!(completions[&tag].status.is_success());
        assert!(completions[&tag].pages.is_some(), "pages come back with their own tag");
        assert!(completions[&tag].buffer.is_none());
    }
    for tag in 0..DEPTH as u64 {
        let buffer = rig.pool.acquire(1).expect("memory");
        rig.submit(tag, Operation::Read { lba: Lba(tag * per_page), buffer });
    }
    for (tag, completion) in rig.finish() {
        let buffer = completion.buffer.expect("a read hands its buffer back");
        assert!(buffer.as_slice() == pattern(tag, 4096), "data come back with their own tag");
    }
}

pub fn a_full_queue_gives_the_submission_back(mut rig: Rig<impl QueuePair>) {
    for tag in 0..DEPTH as u64 {
        let write = write_of(&rig, 0, tag);
        rig.submit(tag, write);
    }
    assert_eq!(rig.pair.in_flight(), DEPTH);
    let free = rig.pool.free_pages();
    let write = write_of(&rig, 0, 99);
    let refused = rig.try_submit(99, write).expect_err("the queue is full");
    assert_eq!(refused.tag, Tag(99));
    assert!(matches!(refused.operation, Operation::Write { lba: Lba(0), .. }));
    drop(refused);
    assert_eq!(rig.pool.free_pages(), free);
    assert_eq!(rig.pair.in_flight(), DEPTH);
    // Rung or not, it stays full until a completion is visited.
    rig.pair.ring();
    assert!(rig.try_submit(99, Operation::Flush).is_err());
    assert_eq!(finish(&mut rig.pair).len(), DEPTH);
    rig.run_well(Operation::Flush);
}

pub fn one_doorbell_for_a_batch(mut rig: Rig<impl QueuePair>) {
    for tag in 0..DEPTH as u64 {
        let write = write_of(&rig, 8 * tag, tag);
        rig.submit(tag, write);
    }
    let before = *rig.pair.counters();
    rig.pair.ring();
    let after = *rig.pair.counters();
    if rig.pair.namespace().backend == "uring" {
        assert_eq!(after.system_calls - before.system_calls, 1);
        assert_eq!(after.doorbells, 0);
    } else {
        assert_eq!(after.doorbells - before.doorbells, 1);
    }
    finish(&mut rig.pair);
    let before = *rig.pair.counters();
    rig.pair.ring();
    assert_eq!(*rig.pair.counters(), before, "nothing to hand over, nothing done");
}

pub fn a_budget_bounds_a_poll(mut rig: Rig<impl QueuePair>) {
    for tag in 0..10 {
        rig.submit(tag, Operation::Flush);
    }
    // One of them is answered without a device.
    rig.submit(10, Operation::WriteZeroes { lba: Lba(0), blocks: 0, deallocate: false });
    rig.pair.ring();
    let mut seen = 0;
    while rig.pair.in_flight() > 0 {
        let before = rig.pair.in_flight();
        let mut called = 0;
        let visited = rig.pair.poll(3, &mut |_| called += 1);
        assert!(visited <= 3, "{visited} visited");
        assert_eq!(visited, called);
        assert_eq!(rig.pair.in_flight(), before - visited);
        seen += visited;
    }
    assert_eq!(seen, 11);
    assert_eq!(rig.pair.poll(0, &mut |_| unreachable!("a budget of nothing")), 0);
}

pub fn nothing_completes_before_it_is_rung(mut rig: Rig<impl QueuePair>) {
    let write = write_of(&rig, 0, 1);
    rig.submit(1, write);
    for _ in 0..100 {
        rig.pair.poll(8, &mut |_| panic!("the doorbell was not rung"));
    }
    assert_eq!(rig.finish().len(), 1);
}

pub fn counters_count(mut rig: Rig<impl QueuePair>) {
    let written = rig.filled(3, 1);
    rig.write(0, written);
    rig.read(0, 2);
    rig.run_well(Operation::Flush);
    rig.run_well(Operation::WriteZeroes { lba: Lba(0), blocks: 1, deallocate: false });
    let blocks = rig.pair.namespace().blocks;
    rig.run(Operation::WriteZeroes { lba: Lba(blocks), blocks: 1, deallocate: false });
    let counters = *rig.pair.counters();
    assert_eq!(counters.writes, 1);
    assert_eq!(counters.reads, 1);
    assert_eq!(counters.flushes, 1);
    assert_eq!(counters.write_zeroes, 2);
    assert_eq!(counters.deallocates, 0);
    assert_eq!(counters.commands(), 5);
    assert_eq!(counters.bytes_written, 3 * 4096 + rig.metadata_bytes(3 * 4096));
    assert_eq!(counters.bytes_read, 2 * 4096);
    assert_eq!(counters.errors, 1);
    let emulated = rig.pair.namespace().backend == "emulated";
    let copied = if emulated { counters.bytes_read + counters.bytes_written } else { 0 };
    assert_eq!(counters.bytes_copied_for_dma, copied);
}

pub fn dropping_gives_every_page_back(mut rig: Rig<impl QueuePair>) {
    let total = rig.pool.total_pages();
    for tag in 0..DEPTH as u64 / 2 {
        let write = write_of(&rig, tag, tag);
        rig.submit(tag, write);
        let buffer = rig.pool.acquire(2).expect("memory");
        rig.submit(100 + tag, Operation::Read { lba: Lba(0), buffer });
    }
    rig.pair.ring();
    let Rig { pair, pool, .. } = rig;
    drop(pair);
    assert_eq!(pool.free_pages(), total);
}

pub fn the_rings_wrap(mut rig: Rig<impl QueuePair>) {
    // Batches of many sizes, far more commands than a ring has entries, each with its own data.
    let mut tag = 0;
    for round in 0..60 {
        let batch = 1 + round % DEPTH as u64;
        for index in 0..batch {
            let write = write_of(&rig, index * 8, tag);
            rig.submit(tag, write);
            tag += 1;
        }
        let completions = rig.finish();
        assert_eq!(completions.len() as u64, batch);
        assert!(completions.values().all(|completion| completion.status.is_success()));
    }
    assert_eq!(rig.pair.counters().writes, tag);
}

pub fn depth_one_works(mut rig: Rig) {
    let mut pair = rig.open_again(&OpenOptions { depth: 1, ..OpenOptions::default() });
    for region in rig.pool.regions() {
        pair.register(region).expect("registering the pool");
    }
    for tag in 0..20 {
        let write = write_of(&rig, tag * 8, tag);
        pair.submit(Submission { tag: Tag(tag), operation: write }).expect("the queue is empty");
        let flush = Submission { tag: Tag(0), operation: Operation::Flush };
        assert!(pair.submit(flush).is_err(), "the queue is full");
        pair.ring();
        assert!(finish(&mut pair)[&tag].status.is_success());
    }
}
