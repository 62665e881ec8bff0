//! Devices that lie: flipped bits, lost writes, misdirected writes, unreadable blocks. Nothing
//! panics, and every group that is found is in a state that it was in once.

use culvert_memory::{Pool, PoolOptions};
use culvert_nvme::{FaultTarget, Lba, QueuePair, Times};

use super::composer::Composer;
use super::rig::{Random, Rig, RigOptions};
use crate::device::{HeaderError, LayoutOptions, OpenDeviceError, read_header};
use crate::ids::BatchNumber;
use crate::shard::{OpenError, Opened, OpeningMode, RecoveredGroup, RecoveryReport};

const PAGE: u64 = 4096;

fn worn(seed: u64, random: &mut Random) -> (Rig, Composer, Vec<(u64, Vec<u8>)>) {
    let options = RigOptions {
        block_size: if random.chance(2) { 512 } else { 4096 },
        volatile: random.chance(2),
        seed,
        ..RigOptions::default()
    };
    let mut rig = Rig::new(&options);
    let recovered = rig.open();
    let mut composer = Composer::create(recovered, 1 + random.below(3) as u32);
    rig.settle(&mut composer.shard);
    let mut old = Vec::new();
    for _ in 0..random.below(120) + 1 {
        for _ in 0..random.below(6) {
            let copyset = composer.pick(random);
            composer.append(&rig, copyset, random);
        }
        let copyset = composer.pick(random);
        match random.below(8) {
            0 => composer.truncate(&rig, copyset, random),
            1 => composer.vote(copyset, random),
            2 if random.chance(4) => composer.shard.start_checkpoint(),
            _ => composer.apply(copyset, 50),
        }
        composer.checkpoint(random);
        rig.settle(&mut composer.shard);
        if random.chance(6) {
            let at = place(&composer, random);
            old.push((at, rig.read(at).as_slice().to_vec()));
        }
    }
    (rig, composer, old)
}

/// Some page of the superblocks, the ring in use, or the checkpoints.
fn place(composer: &Composer, random: &mut Random) -> u64 {
    let layout = composer.shard.layout();
    match random.below(8) {
        0 => layout.superblock(random.below(2)),
        1 => layout.checkpoint(random.below(2) as u32) + random.below(8) * PAGE,
        _ => {
            let (used, _) = composer.shard.ring_use();
            let block = (layout.ring_bytes / composer.shard.ring_use().1).min(PAGE);
            layout.ring() + random.below(used + 1) * block / PAGE * PAGE
        }
    }
}

fn open(
    rig: &mut Rig,
    mode: OpeningMode,
) -> Result<(Vec<RecoveredGroup>, RecoveryReport), OpenError> {
    Ok(match rig.try_open(mode)? {
        Opened::Running(recovered) => (recovered.groups, recovered.report),
        Opened::Inspected(inspection) => (inspection.groups, inspection.report),
    })
}

#[test]
fn damaged_devices_do_not_panic_and_do_not_lie() {
    let (mut refused, mut damaged, mut whole) = (0, 0, 0);
    for seed in 0..super::crash::seeds(400) {
        let mut random = Random::new(seed + 77);
        let (mut rig, composer, old) = worn(seed, &mut random);
        rig.crash();
        for _ in 0..=random.below(3) {
            let at = place(&composer, &mut random);
            match random.below(4) {
                0 => rig.overwrite(at, |page| page[random.below(PAGE) as usize] ^= 1),
                1 => rig.overwrite(at, |page| page.fill(0)),
                2 => {
                    let other = rig.read(place(&composer, &mut random)).as_slice().to_vec();
                    rig.overwrite(at, |page| page.copy_from_slice(&other));
                }
                _ => {
                    for (at, bytes) in old.iter().take(1) {
                        rig.overwrite(*at, |page| page.copy_from_slice(bytes));
                    }
                }
            }
        }
        let inspected = open(&mut rig, OpeningMode::Inspect);
        let opened = open(&mut rig, OpeningMode::Run);
        let (groups, report) = match (inspected, opened) {
            (Ok((_, inspected)), Ok((groups, report))) => {
                assert_eq!(inspected, report, "an inspection sees what an opening sees");
                (groups, report)
            }
            (Err(inspected), Err(error)) => {
                assert_eq!(inspected, error);
                refused += 1;
                continue;
            }
            (inspected, opened) => {
                panic!("{:?} and {:?}", inspected.err(), opened.err())
            }
        };
        for group in &groups {
            if group.cut_off {
                damaged += 1
            } else {
                whole += 1
            }
            if group.identity.is_some() {
                composer.groups[&group.copyset].check(group, BatchNumber(0), BatchNumber(0));
            }
        }
        assert_eq!(
            report.cut_off_groups as usize,
            groups.iter().filter(|group| group.cut_off).count()
        );
        // What was found once is found again.
        rig.crash();
        let (again, _) = open(&mut rig, OpeningMode::Inspect).expect("it opened before");
        for (first, second) in groups.iter().zip(&again) {
            assert_eq!(first.cut_off, second.cut_off, "{} of {seed}", first.copyset);
            assert_eq!(first.hard_state, second.hard_state);
            assert!(
                first
                    .entries
                    .iter()
                    .map(|e| e.record.bytes().to_vec())
                    .eq(second.entries.iter().map(|e| e.record.bytes().to_vec()))
            );
        }
        assert_eq!(groups.len(), again.len());
    }
    println!("{refused} refused, {damaged} groups cut off, {whole} whole");
    assert!(damaged > 0);
    assert!(whole > 0);
}

#[test]
fn unreadable_blocks_cost_a_page_and_not_the_neighbourhood() {
    for block_size in [512, 4096] {
        let mut random = Random::new(4);
        let options = RigOptions { block_size, volatile: false, ..RigOptions::default() };
        let mut rig = Rig::new(&options);
        let recovered = rig.open();
        let mut composer = Composer::create(recovered, 1);
        for _ in 0..60 {
            for _ in 0..20 {
                let copyset = composer.pick(&mut random);
                composer.append(&rig, copyset, &mut random);
            }
            rig.settle(&mut composer.shard);
        }
        rig.crash();
        let ring = composer.shard.layout().ring() / u64::from(block_size);
        let per_page = PAGE / u64::from(block_size);
        let bad = ring + 2 * per_page;
        rig.pair.faults().fail(FaultTarget::Reads, Lba(bad)..Lba(bad + 1), Times::Always);
        let inspection = rig.inspect();
        assert_eq!(inspection.report.bad_blocks, per_page);
        assert_eq!(inspection.report.holes, [(2 * per_page, 3 * per_page)]);
        assert!(!inspection.groups[0].entries.is_empty());
    }
}

#[test]
fn shards_and_formats_do_not_mix() {
    let layout = LayoutOptions { shards: 2, chunk_blocks: 64, ..LayoutOptions::default() };
    let options = RigOptions { layout, volatile: false, ..RigOptions::default() };
    let mut rig = Rig::new(&options);
    let recovered = rig.open();
    let mut random = Random::new(4);
    let mut composer = Composer::create(recovered, 2);
    for _ in 0..10 {
        let copyset = composer.pick(&mut random);
        composer.append(&rig, copyset, &mut random);
        rig.settle(&mut composer.shard);
    }
    let [first, second] = rig.header.layout.shards[..] else { panic!("two shards") };
    for page in 0..8 {
        let bytes = rig.read(first.ring() + page * PAGE).as_slice().to_vec();
        rig.overwrite(second.ring() + page * PAGE, |target| target.copy_from_slice(&bytes));
    }
    let bytes = rig.read(first.superblock(1)).as_slice().to_vec();
    rig.overwrite(second.superblock(0), |target| target.copy_from_slice(&bytes));
    let opened = rig.open_shard(1, OpeningMode::Run).expect("it is whole");
    let Opened::Running(recovered) = opened else { panic!("asked to run") };
    assert!(recovered.groups.is_empty());
    assert!(recovered.report.bad_blocks > 0);
    assert!(matches!(rig.open_shard(2, OpeningMode::Run), Err(OpenError::NoShard { shard: 2 })));
    // The same UUID, formatted later.
    let before = rig.header.clone();
    let again = crate::device::FormatOptions {
        uuid: before.uuid,
        now_ns: before.created_ns + 1,
        layout,
        force: true,
    };
    let pool = rig.pool.clone();
    let refused = crate::device::FormatOptions { force: false, ..again };
    let error = crate::device::format(&mut rig.pair, &pool, &refused).expect_err("it is ours");
    assert_eq!(error, crate::device::FormatError::AlreadyFormatted { uuid: before.uuid });
    rig.header = crate::device::format(&mut rig.pair, &pool, &again).expect("forced");
    assert!(rig.open().groups.is_empty());
}

#[test]
fn headers_are_found_in_either_place() {
    let mut rig = Rig::new(&RigOptions::default());
    let pool = rig.pool.clone();
    rig.overwrite(0, |page| page[30] ^= 1);
    assert_eq!(read_header(&mut rig.pair, &pool).expect("the copy"), rig.header);
    rig.overwrite((1 << 20) - PAGE, |page| page[30] ^= 1);
    let error = read_header(&mut rig.pair, &pool).expect_err("both are damaged");
    assert_eq!(error, OpenDeviceError::Header(HeaderError::Checksum));
    rig.overwrite(0, |page| page.fill(0));
    rig.overwrite((1 << 20) - PAGE, |page| page.fill(0));
    let error = read_header(&mut rig.pair, &pool).expect_err("nothing is there");
    assert_eq!(error, OpenDeviceError::Header(HeaderError::NotCulvert));
}

#[test]
fn a_pool_that_is_too_small_is_an_answer() {
    let mut rig = Rig::new(&RigOptions { volatile: false, ..RigOptions::default() });
    let small = Pool::new(&PoolOptions { bytes: 2 << 20, lock: false, ..PoolOptions::default() })
        .expect("memory");
    rig.pair.register(&small.regions()[0]).expect("a place");
    for kept in [0, 1, 2, 40, 58] {
        let taken: Vec<_> = (0..small.free_pages() - kept).map(|_| small.acquire(1)).collect();
        rig.pool = small.clone();
        let result = rig.try_open(OpeningMode::Run);
        assert!(matches!(result, Err(OpenError::Memory)), "{kept} pages");
        drop(taken);
    }
}
