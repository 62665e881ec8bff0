//! Crashes at random moments: nothing that was durable is lost, what is kept is a state that was,
//! and no torn payload is ever taken for whole.

use super::composer::Composer;
use super::rig::{Random, Rig, RigOptions};
use crate::device::LayoutOptions;
use crate::ids::CopysetId;

/// One life after the other on one device.
/// Returns the checkpoints that were written, how often the journal went around, and the repairs.
fn lives(seed: u64, lives: u32, turns: u64) -> (u64, u64, u64) {
    let mut random = Random::new(seed);
    // A small data space, so that extents are soon written again; a tiny one, so that they are
    // before the next block of the journal.
    let small = random.chance(2);
    let data_blocks = if random.chance(2) { 80 } else { 300 };
    let layout =
        LayoutOptions { chunk_blocks: if small { 16 } else { 64 }, ..LayoutOptions::default() };
    let options = RigOptions {
        bytes: if small { (6 << 20) + (data_blocks << 12) } else { 16 << 20 },
        block_size: if random.chance(2) { 512 } else { 4096 },
        volatile: !random.chance(5),
        seed,
        layout,
    };
    let mut rig = Rig::new(&options);
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, 1 + random.below(5) as u32);
    rig.settle(&mut composer.shard);
    let (mut checkpoints, mut laps) = (0, 0);
    for _ in 0..lives {
        for _ in 0..random.below(turns) {
            turn(&mut rig, &mut composer, &mut random);
        }
        checkpoints += composer.shard.counters().checkpoints;
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
        let recovered = rig.open();
        assert!(!recovered.report.fell_back, "a checkpoint counts only when it is durable");
        // What it made free may be overwritten already.
        assert!(recovered.report.position >= counted, "a checkpoint counted and is lost");
        laps = recovered.report.end / composer.shard.ring_use().1;
        composer = composer.resume(&mut rig, recovered);
    }
    (checkpoints, laps, composer.repaired)
}

fn turn(rig: &mut Rig, composer: &mut Composer, random: &mut Random) {
    for _ in 0..random.below(6) {
        let copyset = composer.pick(random);
        composer.append(rig, copyset, random);
    }
    let copyset = composer.pick(random);
    match random.below(12) {
        0 => composer.truncate(rig, copyset, random),
        1 => composer.vote(copyset, random),
        2..7 => composer.apply(copyset, 20),
        9 => (0..random.below(4)).for_each(|_| composer.begin_repair(rig, random)),
        7 if random.chance(10) => composer.shard.start_checkpoint(),
        8 => rig.now += 11_000_000,
        _ => {}
    }
    composer.end_repairs();
    composer.checkpoint(random);
    composer.shard.seal(rig.now);
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
        lives(seed, 6, 60);
    }
}

#[test]
fn long_lives_with_checkpoints_and_laps() {
    let (mut checkpoints, mut laps, mut repairs) = (0, 0, 0);
    for seed in 0..seeds(24) {
        let (more, around, repaired) = lives(1_000_000 + seed, 4, 3000);
        repairs += repaired;
        checkpoints += more;
        laps += around;
    }
    println!("{checkpoints} checkpoints, {laps} laps, {repairs} repairs");
    assert!(repairs > 1000, "blocks were repaired: {repairs}");
    assert!(checkpoints > 10, "checkpoints were written: {checkpoints}");
    assert!(laps > 4, "the ring went around: {laps}");
}
