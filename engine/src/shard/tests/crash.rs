//! Crashes at random moments: nothing that was durable is lost, what is kept is a state that was,
//! and no torn payload is ever taken for whole.

use super::composer::Composer;
use super::rig::{Random, Rig, RigOptions};
use crate::device::{LayoutOptions, Superblock};
use crate::ids::CopysetId;
use crate::shard::{Opened, OpeningMode, Recovered};

/// What happened in some lives.
#[derive(Default)]
struct Lives {
    checkpoints: u64,
    /// How often the journal went around.
    laps: u64,
    repairs: u64,
    /// Openings without the newest superblock.
    superblocks_lost: u64,
    /// Batches that went to the device in metadata, and entries that recoveries found there.
    in_metadata: u64,
    found_in_metadata: u64,
}

impl Lives {
    fn add(&mut self, other: &Lives) {
        self.checkpoints += other.checkpoints;
        self.laps += other.laps;
        self.repairs += other.repairs;
        self.superblocks_lost += other.superblocks_lost;
        self.in_metadata += other.in_metadata;
        self.found_in_metadata += other.found_in_metadata;
    }
}

/// One life after the other on one device.
fn lives(seed: u64, lives: u32, turns: u64, metadata: bool) -> Lives {
    let mut random = Random::new(seed);
    // A small data space, so that extents are soon written again; a tiny one, so that they are
    // before the next block of the journal.
    let small = random.chance(2);
    let data_blocks = if random.chance(2) { 80 } else { 300 };
    // A segment is a small part of it.
    let data_blocks = if metadata { 2 * data_blocks } else { data_blocks };
    let chunk_blocks = if small { 16 } else { 64 };
    let layout = LayoutOptions { chunk_blocks, metadata, ..LayoutOptions::default() };
    let options = RigOptions {
        bytes: if small { (6 << 20) + (data_blocks << 12) } else { 16 << 20 },
        block_size: if random.chance(2) && !metadata { 512 } else { 4096 },
        volatile: !random.chance(5),
        seed,
        layout,
    };
    let mut rig = Rig::new(&options);
    if metadata {
        // Entries go to metadata from the second checkpoint on.
        rig.config.checkpoint_bytes_min = 128 << 10;
        rig.config.checkpoint_bytes_factor = 1;
    }
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, 1 + random.below(5) as u32);
    rig.settle(&mut composer.shard);
    let mut seen = Lives::default();
    for _ in 0..lives {
        for _ in 0..random.below(turns) {
            turn(&mut rig, &mut composer, &mut random);
        }
        seen.checkpoints += composer.shard.counters().checkpoints;
        seen.in_metadata += composer.shard.counters().metadata_batches;
        let counted = composer.shard.superblock.position;
        if random.chance(3) {
            rig.restart();
            rig.open_and_crash(random.below(40) + 40);
        } else {
            rig.crash();
        }
        while random.chance(4) {
            rig.open_and_crash(random.below(60));
        }
        if metadata && random.chance(4) {
            let Some(recovered) = open_without_newest_superblock(&mut rig) else { break };
            seen.superblocks_lost += 1;
            composer = composer.resume(&mut rig, recovered);
            continue;
        }
        let recovered = rig.open();
        assert!(!recovered.report.fell_back, "a checkpoint counts only when it is durable");
        // What it made free may be overwritten already.
        assert!(recovered.report.position >= counted, "a checkpoint counted and is lost");
        seen.laps = recovered.report.end / composer.shard.ring_use().1;
        seen.found_in_metadata += recovered.report.metadata_entries;
        composer = composer.resume(&mut rig, recovered);
    }
    seen.repairs = composer.repaired;
    seen
}

/// The newest superblock goes bad. The one before may have nothing left to begin with, but then it
/// says so: everything that is found is all there was.
fn open_without_newest_superblock(rig: &mut Rig) -> Option<Recovered> {
    let layout = rig.header.layout.shards[0];
    let salt = rig.header.salt(0);
    let newest = (0..2).filter_map(|slot| {
        let page = rig.read(layout.superblock(slot));
        let bytes = page.as_slice().try_into().expect("a page");
        Superblock::parse(bytes, &layout, salt).ok()
    });
    let newest = newest.map(|superblock| superblock.sequence).max().expect("one is whole");
    rig.overwrite(layout.superblock(newest), |page| page.fill(0xff));
    match rig.try_open(OpeningMode::Run) {
        Ok(Opened::Running(recovered)) => recovered.report.holes.is_empty().then_some(*recovered),
        Ok(Opened::Inspected(_)) => panic!("asked to run"),
        Err(_) => None,
    }
}

fn turn(rig: &mut Rig, composer: &mut Composer, random: &mut Random) {
    let appends = if composer.is_alone() { 1 } else { random.below(6) };
    for _ in 0..appends {
        let copyset = composer.pick(random);
        composer.append(rig, copyset, random);
    }
    let copyset = composer.pick(random);
    // One by one, and applied in between: the rest happens now and then.
    let rest = if composer.is_alone() { 36 } else { 12 };
    match random.below(rest) {
        12.. => composer.apply(copyset, 20),
        0 => composer.truncate(rig, copyset, random),
        1 => composer.vote(copyset, random),
        2..7 => composer.apply(copyset, 20),
        9 => (0..random.below(4)).for_each(|_| composer.begin_repair(rig, random)),
        7 if random.chance(10) => composer.shard.start_checkpoint(),
        10 if rig.header.layout.metadata => composer.toggle_alone(),
        8 => rig.now += 11_000_000,
        _ => {}
    }
    composer.end_repairs();
    composer.checkpoint(random);
    composer.seal(rig.now);
    rig.submit(&mut composer.shard);
    if !random.chance(4) {
        rig.poll(&mut composer.shard, random.below(24) as usize);
    }
    rig.events.clear();
    rig.now += 100_000;
}

pub(super) fn seeds(default: u64) -> u64 {
    std::env::var("CULVERT_CRASH_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Many groups lose something at once: the verdict takes several blocks, and the next crash may
/// hit it.
#[test]
fn long_verdicts() {
    let mut torn = 0;
    for seed in 0..seeds(40) {
        let mut random = Random::new(seed + 500);
        let options = RigOptions { block_size: 512, seed, ..RigOptions::default() };
        let mut rig = Rig::new(&options);
        let recovered = rig.open();
        let mut composer = Composer::create(recovered, 60);
        rig.settle(&mut composer.shard);
        for _ in 0..4 {
            for copyset in (1..=60).map(CopysetId) {
                composer.append(&rig, copyset, &mut random);
            }
            for _ in 0..3 {
                composer.shard.seal(rig.now);
                rig.submit(&mut composer.shard);
                rig.poll(&mut composer.shard, random.below(90) as usize);
            }
            // The journal survives and the payload does not.
            rig.crash_losing_from(composer.shard.layout().data());
            for _ in 0..random.below(4) {
                rig.open_and_crash(random.below(150));
            }
            let recovered = rig.open();
            torn = torn.max(recovered.report.torn_groups);
            composer = composer.resume(&mut rig, recovered);
        }
    }
    assert!(torn > 40, "verdicts are long: {torn}");
}

#[test]
fn short_lives() {
    for seed in 0..seeds(150) {
        lives(seed, 6, 60, false);
    }
}

#[test]
fn long_lives_with_checkpoints_and_laps() {
    let mut all = Lives::default();
    for seed in 0..seeds(24) {
        all.add(&lives(1_000_000 + seed, 4, 3000, false));
    }
    let Lives { checkpoints, laps, repairs, .. } = all;
    println!("{checkpoints} checkpoints, {laps} laps, {repairs} repairs");
    assert!(repairs > 1000, "blocks were repaired: {repairs}");
    assert!(checkpoints > 10, "checkpoints were written: {checkpoints}");
    assert!(laps > 4, "the ring went around: {laps}");
}

#[test]
fn lives_with_entries_in_metadata() {
    let mut all = Lives::default();
    for seed in 0..seeds(100) {
        all.add(&lives(2_000_000 + seed, 6, 300, true));
    }
    for seed in 0..seeds(12) {
        all.add(&lives(3_000_000 + seed, 4, 3000, true));
    }
    let Lives { checkpoints, laps, superblocks_lost, in_metadata, found_in_metadata, .. } = all;
    println!(
        "{checkpoints} checkpoints, {laps} laps, {in_metadata} batches in metadata, \
         {found_in_metadata} entries found there, {superblocks_lost} times without a superblock"
    );
    assert!(superblocks_lost > 20, "superblocks were lost: {superblocks_lost}");
    assert!(laps > 2, "the ring went around: {laps}");
    assert!(in_metadata > 4_000, "entries went there: {in_metadata}");
    assert!(found_in_metadata > 200, "... and were found: {found_in_metadata}");
}
