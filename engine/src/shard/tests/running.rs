//! A shard that runs: batches, durability, reads, idle writes, failures, checkpoints, damage.

use culvert_nvme::{FaultTarget, Lba, QueuePair, Times};

use super::composer::Composer;
use super::rig::{Random, Rig, RigOptions};
use crate::device::{CHECKPOINT_BYTES_MIN, LayoutOptions};
use crate::ids::{BatchNumber, CopysetId, Extent, LogIndex};
use crate::journal::{BLOCK_HEADER_BYTES, Space};
use crate::shard::check::{HeldPayload, Rebuilt, check};
use crate::shard::{
    Event, FailedCommand, OpenError, OpeningMode, RecoveredGroup, Shard, ShardConfig,
};
use crate::store::{ChunkKey, Store};

fn start(options: &RigOptions, groups: u32) -> (Rig, Composer) {
    let mut rig = Rig::new(options);
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, groups);
    rig.settle(&mut composer.shard);
    rig.events.clear();
    (rig, composer)
}

/// Writes, applies and settles, so many times.
fn work(rig: &mut Rig, composer: &mut Composer, random: &mut Random, turns: u64) {
    for _ in 0..turns {
        for _ in 0..random.below(8) {
            let copyset = composer.pick(random);
            composer.append(rig, copyset, random);
        }
        composer.checkpoint(random);
        rig.settle(&mut composer.shard);
        let copyset = composer.pick(random);
        composer.apply(copyset, 100);
        rig.now += 100_000;
    }
}

#[test]
fn batches_form_by_themselves_and_share_a_block() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 1);
    let mut random = Random::new(1);
    let before = *composer.shard.counters();
    let first = composer.shard.open_batch();
    assert!(composer.append(&rig, CopysetId(1), &mut random));
    composer.shard.seal(rig.now);
    rig.submit(&mut composer.shard);
    let second = composer.shard.open_batch();
    assert_eq!(second.0, first.0 + 1);
    for _ in 0..20 {
        assert!(composer.append(&rig, CopysetId(1), &mut random));
        composer.shard.seal(rig.now);
        assert_eq!(composer.shard.open_batch(), second, "one journal write at a time");
    }
    rig.settle(&mut composer.shard);
    let after = *composer.shard.counters();
    assert_eq!(after.batches - before.batches, 2);
    assert_eq!(after.entries - before.entries, 21);
    let durable: Vec<_> =
        rig.events.iter().filter(|event| matches!(event, Event::Durable(_))).collect();
    assert_eq!(durable.len(), 2);
}

#[test]
fn notes_and_the_mark_are_written_when_nothing_follows() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 1);
    let mut random = Random::new(1);
    composer.append(&rig, CopysetId(1), &mut random);
    rig.settle(&mut composer.shard);
    composer.apply(CopysetId(1), 1);
    let batches = composer.shard.counters().batches;
    let mut ticks = 0;
    for _ in 0..2000 {
        composer.shard.seal(rig.now);
        rig.settle(&mut composer.shard);
        if composer.shard.deadline().is_some() {
            ticks += 1;
        }
        rig.now += 100_000;
    }
    let idle = composer.shard.counters().batches - batches;
    assert!((1..=3).contains(&idle), "{idle} blocks for a note, a release and the mark");
    assert!(ticks >= 99, "not before 10 ms");
    assert_eq!(composer.shard.deadline(), None, "then it is quiet");
    rig.crash();
    let recovered = rig.open();
    assert_eq!(recovered.groups[0].applied_note, LogIndex(1));
    assert!(recovered.report.mark >= recovered.report.end - 2, "the mark covers what was idle");
    assert_eq!(recovered.report.payload_blocks, 0);
}

#[test]
fn reads_return_what_was_written() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 1);
    let extents = composer.shard.store_mut().allocate(3).expect("space");
    let (buffer, crcs) = rig.payload(3, 77);
    let pages = buffer.freeze();
    composer.shard.write_payload(&extents, &pages);
    drop(pages);
    let batch = composer.shard.open_batch();
    rig.settle(&mut composer.shard);
    assert!(composer.shard.durable() >= batch, "payload alone makes a batch");
    let extent = Extent { start: extents[0].start + 1, blocks: 2 };
    composer.shard.read(99, extent, rig.pool.acquire(2).expect("pages"));
    rig.submit(&mut composer.shard);
    rig.events.clear();
    rig.poll(&mut composer.shard, 10);
    let Some(Event::ReadDone { token: 99, buffer, status }) = rig.events.pop() else {
        panic!("a read came back")
    };
    assert!(status.is_success());
    assert_eq!([buffer.crc32c(0, 4096), buffer.crc32c(4096, 4096)], crcs[1..]);
    drop(buffer);
    let lost = rig.config.batch_buffers + 2;
    assert!(rig.pool.free_pages() as usize > lost, "pages come back");
}

#[test]
fn a_failed_write_poisons_and_acknowledges_nothing() {
    for (target, expected) in [
        (FaultTarget::Writes, FailedCommand::Payload),
        (FaultTarget::Flushes, FailedCommand::Flush),
    ] {
        let (mut rig, mut composer) = start(&RigOptions::default(), 1);
        let mut random = Random::new(3);
        let durable = composer.shard.durable();
        let data = composer.shard.layout().data() / 4096;
        let blocks = Lba(data)..Lba(rig.pair.namespace().blocks);
        rig.pair.faults().fail(target, blocks, Times::Always);
        let mut appended = 0;
        while appended < 5 {
            appended += u32::from(composer.append(&rig, CopysetId(1), &mut random));
        }
        for _ in 0..50 {
            composer.shard.seal(rig.now);
            rig.submit(&mut composer.shard);
            rig.poll(&mut composer.shard, 64);
            rig.now += 1_000_000;
        }
        assert_eq!(composer.shard.durable(), durable);
        assert_eq!(composer.shard.failure().map(|failure| failure.what), Some(expected));
        let told = rig.events.iter().filter(|event| matches!(event, Event::Failed(_))).count();
        assert_eq!(told, 1);
        composer.append(&rig, CopysetId(1), &mut random);
        assert_eq!(composer.shard.commands_in_flight(), 0);
        rig.pair.faults().clear();
        rig.crash();
        let recovered = rig.open();
        drop(composer.resume(&mut rig, recovered));
    }
}

#[test]
fn a_checkpoint_runs_beside_the_work_and_moves_the_tail() {
    for volatile in [false, true] {
        let (mut rig, mut composer) = start(&RigOptions { volatile, ..RigOptions::default() }, 3);
        let mut random = Random::new(5);
        work(&mut rig, &mut composer, &mut random, 30);
        let (used, _) = composer.shard.ring_use();
        composer.shard.start_checkpoint();
        let mut turns = 0;
        while composer.shard.is_checkpointing() {
            work(&mut rig, &mut composer, &mut random, 1);
            turns += 1;
            assert!(turns < 1000, "it makes progress");
        }
        assert!(composer.shard.ring_use().0 < used + turns);
        let done = rig.events.iter().any(|event| matches!(event, Event::CheckpointDone { .. }));
        assert!(done);
        rig.crash();
        let recovered = rig.open();
        assert!(recovered.report.checkpoint_pages > 0);
        assert!(recovered.report.position > 0);
        composer = composer.resume(&mut rig, recovered);
        work(&mut rig, &mut composer, &mut random, 5);
    }
}

#[test]
fn a_checkpoint_counts_only_when_it_is_durable() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 2);
    let mut random = Random::new(6);
    work(&mut rig, &mut composer, &mut random, 20);
    composer.shard.start_checkpoint();
    for _ in 0..10_000 {
        composer.checkpoint(&mut random);
        composer.shard.seal(rig.now);
        rig.submit(&mut composer.shard);
        rig.poll(&mut composer.shard, 1);
        if rig.events.iter().any(|event| matches!(event, Event::CheckpointDone { .. })) {
            break;
        }
    }
    assert_eq!(composer.shard.counters().checkpoints, 1);
    rig.crash_losing_from(0);
    let recovered = rig.open();
    assert!(recovered.report.checkpoint_pages > 0);
    assert!(!recovered.report.fell_back);
    drop(composer.resume(&mut rig, recovered));
}

#[test]
fn a_full_ring_is_busy_and_a_checkpoint_frees_it() {
    let options = RigOptions { volatile: false, ..RigOptions::default() };
    let mut rig = Rig::new(&options);
    rig.config.checkpoint_bytes_min = u64::MAX;
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, 1);
    let mut random = Random::new(9);
    rig.settle(&mut composer.shard);
    // The composer does not feed the checkpoint: it cannot end.
    let mut random_votes = Random::new(10);
    while composer.shard.space() == Space::Normal {
        composer.vote(CopysetId(1), &mut random_votes);
        rig.settle(&mut composer.shard);
    }
    assert!(!composer.append(&rig, CopysetId(1), &mut random), "proposals are refused");
    while composer.shard.space() == Space::Busy {
        composer.vote(CopysetId(1), &mut random_votes);
        rig.settle(&mut composer.shard);
    }
    assert!(composer.shard.is_checkpointing(), "past half it began by itself");
    for _ in 0..100 {
        composer.checkpoint(&mut random);
        rig.settle(&mut composer.shard);
    }
    assert_eq!(composer.shard.space(), Space::Normal);
    assert!(composer.append(&rig, CopysetId(1), &mut random));
}

/// Openings that crash use up what is kept for them; a checkpoint can still end.
#[test]
fn a_ring_that_openings_have_filled_is_emptied() {
    let mut rig = Rig::new(&RigOptions { volatile: false, ..RigOptions::default() });
    rig.config.checkpoint_bytes_min = u64::MAX;
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, 1);
    let mut random = Random::new(9);
    rig.settle(&mut composer.shard);
    while composer.shard.space() != Space::Full {
        composer.vote(CopysetId(1), &mut random);
        rig.settle(&mut composer.shard);
    }
    let unused = |composer: &Composer| {
        let (used, blocks) = composer.shard.ring_use();
        blocks - used
    };
    // An opening takes two blocks, and leaves two for the end of a checkpoint.
    while unused(&composer) >= 6 {
        rig.crash();
        let recovered = rig.open();
        composer = composer.resume(&mut rig, recovered);
        assert_eq!(composer.shard.space(), Space::Full);
    }
    for _ in 0..100 {
        composer.checkpoint(&mut random);
        rig.settle(&mut composer.shard);
    }
    assert_eq!(composer.shard.space(), Space::Normal);
    assert!(composer.append(&rig, CopysetId(1), &mut random));
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 2);
    let mut random = Random::new(8);
    save(&mut rig, &mut composer, &mut random);
    // The first after an opening is a whole one.
    rig.crash();
    let recovered = rig.open();
    let mut composer = composer.resume(&mut rig, recovered);
    save(&mut rig, &mut composer, &mut random);
    rig.crash();
    let area = composer.shard.layout().checkpoint(1);
    rig.overwrite(area, |page| page[100] ^= 1);
    let recovered = rig.open();
    assert!(recovered.report.fell_back);
    let composer = composer.resume(&mut rig, recovered);
    rig.crash();
    let area = composer.shard.layout().checkpoint(0);
    rig.overwrite(area, |page| page[100] ^= 1);
    let error = rig.try_open(OpeningMode::Run).err().expect("nothing to fall back to");
    assert!(matches!(error, OpenError::Checkpoint(_)), "{error:?}");
}

/// Works a little, and writes a checkpoint beside more work; returns its pages.
fn save(rig: &mut Rig, composer: &mut Composer, random: &mut Random) -> u32 {
    work(rig, composer, random, 10);
    rig.events.clear();
    composer.shard.start_checkpoint();
    while composer.shard.is_checkpointing() {
        work(rig, composer, random, 1);
    }
    let pages = |event: &Event| match event {
        Event::CheckpointDone { pages } => Some(*pages),
        _ => None,
    };
    rig.events.iter().find_map(pages).expect("it counts")
}

#[test]
fn an_increment_goes_on_behind_a_checkpoint_and_is_dropped_when_damaged() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 2);
    let mut random = Random::new(8);
    let whole = save(&mut rig, &mut composer, &mut random);
    let both = save(&mut rig, &mut composer, &mut random);
    assert!(both > whole);
    assert_eq!(composer.shard.counters().whole_checkpoints, 1);
    rig.crash();
    let recovered = rig.open();
    assert_eq!(recovered.report.checkpoint_pages, both);
    // The device as it is now, without what the opening writes.
    let composer = composer.resume(&mut rig, recovered);
    rig.crash();
    let page = composer.shard.layout().checkpoint(0) + u64::from(whole) * 4096;
    rig.overwrite(page, |page| page[100] ^= 1);
    let recovered = rig.open();
    assert!(recovered.report.fell_back, "the part before it is whole");
    assert_eq!(recovered.report.checkpoint_pages, whole);
    drop(composer.resume(&mut rig, recovered));
}

#[test]
fn increments_are_no_longer_than_what_they_go_on_behind() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 3);
    let mut random = Random::new(11);
    let (mut before, mut whole, mut increments) = (0, 0, 0);
    for _ in 0..40 {
        let pages = save(&mut rig, &mut composer, &mut random);
        if pages > before && whole > 0 {
            assert!(before < 2 * whole);
            increments += 1;
        } else {
            assert!(before >= 2 * whole);
            whole = pages;
        }
        before = pages;
    }
    let counters = *composer.shard.counters();
    assert!(increments >= 15, "{increments}");
    assert_eq!(counters.checkpoints - counters.whole_checkpoints, increments);
    rig.crash();
    let recovered = rig.open();
    drop(composer.resume(&mut rig, recovered));
}

#[test]
fn an_increment_that_outgrows_the_area_becomes_a_whole_checkpoint() {
    let layout = LayoutOptions {
        checkpoint_bytes: Some(CHECKPOINT_BYTES_MIN),
        ..RigOptions::default().layout
    };
    let options = RigOptions { bytes: 64 << 20, layout, ..RigOptions::default() };
    let (mut rig, mut composer) = start(&options, 1);
    let mut random = Random::new(12);
    // Entries that are not applied stand in each increment again: they take more than half of the
    // area.
    let area_pages = (CHECKPOINT_BYTES_MIN / 4096) as u32;
    while composer.shard.counters().item_bytes < CHECKPOINT_BYTES_MIN * 2 / 3 {
        for _ in 0..20 {
            assert!(composer.append(&rig, CopysetId(1), &mut random));
        }
        rig.settle(&mut composer.shard);
    }
    for whole in 1..=3 {
        composer.shard.start_checkpoint();
        while composer.shard.is_checkpointing() {
            composer.checkpoint(&mut random);
            rig.settle(&mut composer.shard);
        }
        let counters = composer.shard.counters();
        assert_eq!((counters.checkpoints, counters.whole_checkpoints), (whole, whole));
        assert!(!composer.shard.is_checkpoint_too_large());
        rig.crash();
        let pages = rig.inspect().report.checkpoint_pages;
        assert!(pages > area_pages / 2, "{pages}");
    }
    let recovered = rig.open();
    drop(composer.resume(&mut rig, recovered));
}

#[test]
fn damage_below_the_mark_flags_the_groups() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 2);
    let mut random = Random::new(8);
    work(&mut rig, &mut composer, &mut random, 20);
    rig.crash();
    let ring = composer.shard.layout().ring();
    rig.overwrite(ring + 8 * 4096, |page| page[BLOCK_HEADER_BYTES + 5] ^= 1);
    let inspection = rig.inspect();
    assert_eq!(inspection.report.cut_off_groups, 2);
    let recovered = rig.open();
    assert_eq!(recovered.report.holes.len(), 1);
    for group in &recovered.groups {
        assert!(group.cut_off && group.in_doubt);
        assert!(recovered.shard.is_in_doubt(group.copyset));
    }
    drop(recovered);
    rig.crash();
    let again = rig.open();
    assert_eq!(again.report.cut_off_groups, 2, "it stays so until a checkpoint");
}

#[test]
fn a_bad_superblock_is_no_matter_while_the_other_is_whole() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 1);
    let mut random = Random::new(2);
    work(&mut rig, &mut composer, &mut random, 5);
    rig.crash();
    let layout = *composer.shard.layout();
    rig.overwrite(layout.superblock(0), |page| page.fill(0xff));
    let recovered = rig.open();
    let composer = composer.resume(&mut rig, recovered);
    drop(composer);
    rig.crash();
    rig.overwrite(layout.superblock(1), |page| page[20] ^= 1);
    let error = rig.try_open(OpeningMode::Run).err().expect("no superblock");
    assert!(matches!(error, OpenError::Superblock(..)), "{error:?}");
}

/// Brings the maps up to the note, like [`Composer`] does.
fn rebuild(store: &mut Store, group: &RecoveredGroup) -> Rebuilt {
    let image = group.image.as_ref();
    let image = image
        .map_or(0, |image| u64::from_le_bytes(image[..].try_into().expect("as it was written")));
    let mut held = Vec::new();
    for entry in group.entries.iter() {
        let view = entry.record;
        let key = ChunkKey { copyset: group.copyset, chunk: view.chunk() };
        if view.index() > group.applied_note {
            let crcs = view.crcs().collect();
            held.push(HeldPayload { key, index: view.index(), extents: entry.extents, crcs });
        } else if view.index().0 > image {
            super::composer::apply_record(store, key, view, &entry.extents);
        }
    }
    Rebuilt { held, whole: true, applied: group.applied_note }
}

#[test]
fn check_finds_what_is_wrong_and_nothing_else() {
    let (mut rig, mut composer) = start(&RigOptions::default(), 3);
    let mut random = Random::new(12);
    work(&mut rig, &mut composer, &mut random, 40);
    composer.shard.start_checkpoint();
    work(&mut rig, &mut composer, &mut random, 40);
    rig.crash();
    let mut told = 0;
    let config = rig.config;
    let look = |rig: &mut Rig, told: &mut u64| {
        let pool = rig.pool.clone();
        check(&mut rig.pair, &pool, &config, &mut rebuild, &mut |progress| {
            assert!(progress.blocks <= progress.blocks_total);
            *told += 1;
        })
        .expect("pages")
    };
    let report = look(&mut rig, &mut told);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(report.shards[0].checked_blocks > 50);
    assert_eq!(report.shards[0].groups, 3);
    assert!(told > 0);
    let json = serde_json::to_string(&report).expect("a report is serializable");
    assert!(json.contains("\"checked_blocks\""));
    // A block of payload, a copy of the header, the journal.
    let (_, group) =
        composer.groups.iter().find(|(_, group)| !group.blocks.is_empty()).expect("one");
    let _ = group;
    let granule = composer.a_mapped_block();
    let data = composer.shard.layout().data();
    rig.overwrite(data + u64::from(granule) * 4096, |page| page[7] ^= 1);
    rig.overwrite(0, |page| page[20] ^= 1);
    let report = look(&mut rig, &mut told);
    assert_eq!(report.shards[0].bad_blocks, 1, "{:?}", report.findings);
    assert_eq!(
        report
            .findings
            .iter()
            .filter(|finding| finding.severity == crate::shard::check::Severity::Damage)
            .count(),
        2
    );
    assert!(!report.is_clean());
}

#[test]
fn numbers_of_a_fresh_shard() {
    let (rig, composer) = start(&RigOptions::default(), 1);
    let shard: &Shard = &composer.shard;
    assert_eq!(shard.durable(), BatchNumber(1));
    assert!(shard.room() > 10_000);
    assert!(Shard::pool_pages(&ShardConfig::default()) < 300);
    assert!(rig.pool.free_pages() > 0);
}

/// Single blocks find a segment soon after the first of them, and again when one is used up.
#[test]
fn a_checkpoint_begins_where_a_segment_is_missed() {
    let layout = LayoutOptions { chunk_blocks: 64, metadata: true, ..LayoutOptions::default() };
    let mut rig = Rig::new(&RigOptions { layout, ..RigOptions::default() });
    rig.config.checkpoint_bytes_min = u64::MAX;
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, 1);
    let mut random = Random::new(9);
    let mut write = |rig: &mut Rig, composer: &mut Composer| {
        composer.append(rig, CopysetId(1), &mut random);
        for _ in 0..8 {
            rig.settle(&mut composer.shard);
            composer.checkpoint(&mut random);
        }
        composer.apply(CopysetId(1), 20);
    };
    for _ in 0..20 {
        write(&mut rig, &mut composer);
    }
    let counters = composer.shard.counters();
    assert_eq!((counters.checkpoints, counters.whole_checkpoints), (2, 1));
    assert!(counters.metadata_batches > 0, "{counters:?}");
    for _ in 0..460 {
        write(&mut rig, &mut composer);
    }
    let counters = composer.shard.counters();
    let (_, blocks) = composer.shard.ring_use();
    assert!(counters.batches < blocks / 2, "too few for the ring to ask for any");
    let segment = u64::from(rig.header.layout.shards[0].segment_blocks());
    assert!(counters.metadata_batches > segment, "{counters:?}, segments of {segment}");
    assert!(counters.metadata_batches > counters.entries / 2, "{counters:?}");
}
