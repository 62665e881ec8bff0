//! Stored blocks go bad, and come back from a peer: no reader gets anything but what was written.
//!
//! Three nodes and a client in one thread, over emulated devices whose bits are flipped and whose
//! blocks cannot be read.

mod rig;

use std::time::Instant;

use culvert::chunkserver::ScrubStatus;
use culvert::client::ClientError;
use culvert::config::{ByteSize, NodeConfig};
use culvert::ids::{CopysetId, LogIndex, ReplicaId};
use culvert::store::Place;
use culvert::wire::{RepairFrame, RepairKind};
use culvert_nvme::{FaultTarget, Times};
use culvert_transport::PeerKind;
use uuid::Uuid;

use rig::local::{COPYSETS, Rig};
use rig::raw::spot;

/// The name of node 2 in the cluster file.
const NODE_2: Uuid = Uuid::from_u128(0xc017_0002);

/// Nothing is repaired but what somebody meets.
fn without_scrub(config: &mut NodeConfig) {
    config.store.scrub_bytes_per_second = ByteSize(0);
}

/// Everything is walked over, again and again.
fn with_scrub(config: &mut NodeConfig) {
    config.store.scrub_bytes_per_second = ByteSize::mib(64);
    config.store.scrub_period_s = 1;
}

/// So slowly that a pass takes some seconds.
fn with_slow_scrub(config: &mut NodeConfig) {
    config.store.scrub_bytes_per_second = ByteSize::kib(64);
    config.store.scrub_period_s = 12;
    config.store.checkpoint_min_bytes = ByteSize::mib(1);
    config.store.checkpoint_factor = 1;
}

/// Blocks 0 to 31 are written at once, and some after them; all replicas have them.
fn written(adjust: fn(&mut NodeConfig)) -> Rig {
    let mut rig = Rig::new(false, 5, adjust);
    rig.write(0, 32);
    for block in 32..64 {
        rig.write(block, 1);
    }
    rig.settle();
    rig
}

fn leader(rig: &mut Rig, block: u64) -> usize {
    let copyset = spot(rig.local.cluster(), block).copyset;
    rig.leader_of(copyset.0).expect("a leader")
}

fn repaired(rig: &mut Rig, node: usize) -> u64 {
    rig.status(node).expect("it runs").counters.blocks_repaired
}

/// All is well again, on the devices too.
fn is_whole(mut rig: Rig) {
    rig.settle();
    rig.read_all();
    rig.settle();
    rig.compare_stores();
    // What was applied is noted in the journal when nothing else was written for a while. Before
    // that, a check finds the bad block of before the last overwrite.
    let since = Instant::now();
    rig.turn_until("notes are taken", |_| since.elapsed().as_millis() > 100);
    for node in 0..3 {
        let report = rig.check_offline(node);
        assert!(report.is_clean(), "node {node}: {:#?}", report.findings);
    }
    (0..3).for_each(|node| rig.reopen(node));
    rig.settle();
    rig.read_all();
    rig.compare_stores();
}

#[test]
fn a_read_of_a_bad_block_returns_the_right_bytes_and_leaves_it_repaired() {
    let mut rig = written(without_scrub);
    let node = leader(&mut rig, 3);
    let before = rig.stored(node, 3);
    rig.spoil(node, 3);
    rig.read(0, 32);
    let after = rig.stored(node, 3);
    assert_ne!(before.place, after.place);
    assert_eq!((before.index, before.crc), (after.index, after.crc));
    assert_eq!(repaired(&mut rig, node), 1);
    let counters = rig.status(node).expect("it runs").counters;
    assert_eq!((counters.bad_blocks, counters.blocks_not_repairable), (1, 0));
    is_whole(rig);
}

#[test]
fn blocks_that_cannot_be_read_are_told_from_their_neighbours() {
    let mut rig = written(without_scrub);
    let node = leader(&mut rig, 3);
    let (bad, faults) = rig.place(node, 7);
    faults.fail(FaultTarget::Reads, bad, Times::Always);
    rig.read(0, 32);
    assert_eq!(repaired(&mut rig, node), 1, "of a device read that failed as a whole");
    faults.clear();
    is_whole(rig);
}

/// One that failed once is no finding.
#[test]
fn a_read_that_failed_once_is_repeated() {
    let mut rig = written(without_scrub);
    let node = leader(&mut rig, 3);
    let (bad, faults) = rig.place(node, 7);
    faults.fail(FaultTarget::Reads, bad, Times::Next(1));
    rig.read(0, 32);
    let counters = rig.status(node).expect("it runs").counters;
    assert_eq!((counters.bad_blocks, counters.blocks_repaired), (0, 0));
    is_whole(rig);
}

/// Every other block is bad on each of two replicas, so that each repairs from a different peer.
#[test]
fn many_bad_blocks_on_two_replicas() {
    let mut rig = written(without_scrub);
    for block in 0..64 {
        let node = leader(&mut rig, block);
        rig.spoil(node, block);
        rig.spoil((node + 1) % 3, block);
    }
    rig.read(0, 32);
    for block in 32..64 {
        rig.read(block, 1);
    }
    let all: u64 = (0..3).map(|node| repaired(&mut rig, node)).sum();
    assert!(all >= 64, "{all} blocks were repaired");
    // Who was asked and found it bad has repaired it too, or will.
    rig.turn_until("everything is repaired", |rig| {
        (0..3).map(|node| repaired(rig, node)).sum::<u64>() >= 64
    });
}

#[test]
fn a_block_that_nobody_has_is_an_error_and_nothing_else() {
    let mut rig = written(without_scrub);
    (0..3).for_each(|node| rig.spoil(node, 9));
    assert_eq!(rig.read_in_vain(0, 32), ClientError::Media);
    assert_eq!(rig.read_in_vain(9, 1), ClientError::Media);
    rig.read(0, 9);
    rig.read(10, 22);
    rig.churn(200);
    let told = (0..3).map(|node| rig.status(node).expect("it runs").counters);
    assert!(told.map(|counters| counters.blocks_not_repairable).sum::<u64>() > 0);
    // What is written anew is whole again.
    rig.write(9, 1);
    rig.read(0, 32);
    is_whole(rig);
}

/// A block is changed while it is being repaired: the change counts.
#[test]
fn repairs_race_with_changes() {
    let mut rig = written(without_scrub);
    for round in 0..40 {
        let block = round % 32;
        let node = leader(&mut rig, block);
        if matches!(rig.stored(node, block).place, Place::At(_)) {
            rig.spoil(node, block);
        }
        rig.submit_read(block, 1);
        for _ in 0..rig.random.below(30) {
            rig.go_on();
        }
        let change = rig.random.below(3);
        if change == 0 {
            rig.finish();
        }
        // The read of the same block has ended, or another one goes along with it.
        let other = (block + 1) % 32;
        match change {
            1 => rig.submit_discard(other),
            _ => rig.submit_write(other, 1),
        }
        if matches!(rig.stored(node, other).place, Place::At(_)) {
            rig.spoil(node, other);
        }
        rig.finish();
    }
    is_whole(rig);
}

/// A chunk is deleted while blocks of it are being repaired, and written again.
#[test]
fn repairs_race_with_a_deletion() {
    let mut rig = written(without_scrub);
    let mut cut_short = 0;
    for round in 0..40 {
        rig.write(0, 32);
        let node = leader(&mut rig, 0);
        (0..8).for_each(|block| rig.spoil(node, block));
        let before = repaired(&mut rig, node);
        rig.submit_read(1, 31);
        rig.turn_until("some are repaired", |rig| repaired(rig, node) - before >= round % 7);
        for _ in 0..rig.random.below(10) {
            rig.go_on();
        }
        rig.submit_deletion();
        rig.finish();
        cut_short += u64::from(repaired(&mut rig, node) - before < 7);
        assert!(rig.mapped(node, 0).is_none(), "the chunk is gone, and no repair brought it back");
    }
    assert!(cut_short > 0, "the deletion never came before the last repair");
    rig.write(0, 32);
    is_whole(rig);
}

fn scrubs(rig: &mut Rig, node: usize) -> ScrubStatus {
    rig.status(node).expect("it runs").shards[0].scrub
}

/// Waits until every node has begun a pass and ended it.
fn a_pass_of_all(rig: &mut Rig) {
    let passes = [0, 1, 2].map(|node| scrubs(rig, node).pass + 1);
    rig.turn_until("a pass of every node", |rig| {
        (0..3).all(|node| scrubs(rig, node).pass > passes[node])
    });
}

#[test]
fn the_scrub_repairs_what_nobody_reads() {
    let mut rig = written(with_scrub);
    let (mut spoiled, mut latent) = (0, 0);
    for block in 0..64 {
        let node = leader(&mut rig, block);
        // Of the leader, of one follower, of both, of the leader and a follower; never of all.
        let bad = [&[0][..], &[1], &[1, 2], &[0, 2]][block as usize % 4];
        for behind in bad {
            let node = (node + behind) % 3;
            if block == 21 {
                let (blocks, faults) = rig.place(node, block);
                faults.fail(FaultTarget::Reads, blocks, Times::Always);
                latent += 1;
            } else {
                rig.spoil(node, block);
                spoiled += 1;
            }
        }
    }
    assert_eq!((spoiled, latent), (95, 1));
    rig.turn_until("everything is repaired", |rig| {
        (0..3).map(|node| repaired(rig, node)).sum::<u64>() == 96
    });
    a_pass_of_all(&mut rig);
    for node in 0..3 {
        let status = rig.status(node).expect("it runs");
        assert_eq!(status.counters.blocks_not_repairable, 0);
        assert_eq!(status.counters.bad_blocks, status.counters.blocks_repaired);
        assert!(status.counters.blocks_scrubbed >= 128);
        assert_eq!((status.repairs, status.repairs_given_up), (0, 0));
        let (_, faults) = rig.place(node, 21);
        faults.clear();
    }
    is_whole(rig);
}

/// What the scrub finds is bad on all replicas: it says so and goes on.
#[test]
fn the_scrub_goes_on_over_blocks_that_nobody_has() {
    let mut rig = written(with_scrub);
    (0..3).for_each(|node| rig.spoil(node, 9));
    rig.spoil(0, 40);
    rig.turn_until("the other one is repaired", |rig| repaired(rig, 0) > 0);
    a_pass_of_all(&mut rig);
    rig.turn_until("the one is given up", |rig| {
        let status = rig.status(0).expect("it runs");
        (status.counters.bad_blocks, status.repairs_given_up) == (2, 1)
    });
    assert_eq!(rig.read_in_vain(9, 1), ClientError::Media);
    rig.write(9, 1);
    is_whole(rig);
}

#[test]
fn a_pass_goes_on_after_a_restart() {
    let mut rig = written(with_slow_scrub);
    // The first one found an empty device.
    rig.turn_until("a pass has come some way", |rig| {
        let scrub = scrubs(rig, 0);
        scrub.running && scrub.percent >= 55
    });
    let pass = scrubs(&mut rig, 0).pass;
    assert!(pass > 1);
    for checkpoint in [false, true] {
        if checkpoint {
            // Overwrites only, so that the pass gets no longer.
            for _ in 0..40 {
                rig.write(0, 32);
            }
            let status = rig.status(0).expect("it runs");
            assert!(status.shards[0].counters.checkpoints > 0);
            rig.turns(20_000);
        }
        rig.local.kill(0);
        rig.reopen(0);
        rig.turn_until("it goes on", |rig| scrubs(rig, 0).blocks_verified > 0);
        let scrub = scrubs(&mut rig, 0);
        assert_eq!((scrub.pass, scrub.running), (pass, true), "{scrub:?}");
        assert!(scrub.percent >= 50 && scrub.blocks_verified < 16, "{scrub:?}");
        rig.settle();
    }
    rig.turn_until("the pass is over", |rig| !scrubs(rig, 0).running);
    // That is noted with the next journal write.
    rig.turns(2000);
    rig.local.kill(0);
    rig.reopen(0);
    rig.turns(1000);
    let scrub = scrubs(&mut rig, 0);
    assert_eq!((scrub.pass, scrub.running, scrub.percent), (pass, false, 100));
}

#[test]
fn a_scrub_that_is_switched_off_reads_nothing() {
    let mut rig = written(without_scrub);
    rig.turns(5000);
    let status = rig.status(0).expect("it runs");
    assert_eq!((status.counters.blocks_scrubbed, status.shards[0].scrub.pass), (0, 0));
}

/// Repairs go on while nodes die and come back.
#[test]
fn restarts_in_the_middle_of_repairs() {
    let mut rig = written(with_scrub);
    for round in 0..10 {
        let node = round % 3;
        for block in 0..64 {
            rig.spoil(node, block);
        }
        rig.submit_read(0, 32);
        for _ in 0..100 * round {
            rig.go_on();
        }
        rig.local.kill(node);
        rig.reopen(node);
        rig.finish();
        rig.settle();
        a_pass_of_all(&mut rig);
    }
    let (blocks, bad) = (0..64, rig.status(0).expect("it runs").counters.bad_blocks);
    println!("{} blocks, {bad} bad since the last restart", blocks.len());
    is_whole(rig);
}

/// A feed that meets a bad block: the follower gets its entry all the same.
#[test]
fn a_follower_gets_its_entries_although_their_blocks_went_bad() {
    let mut rig = written(without_scrub);
    rig.local.kill(2);
    rig.turn_until("the others have leaders", |rig| {
        (1..=COPYSETS).all(|id| rig.leader_of(id).is_some())
    });
    for block in 100..130 {
        rig.write(block, 1);
    }
    // Of what the leaders hold in memory nothing is left.
    for block in 100..130 {
        let node = leader(&mut rig, block);
        rig.spoil(node, block);
    }
    rig.reopen(2);
    rig.settle();
    let all: u64 = [0, 1].map(|node| repaired(&mut rig, node)).iter().sum();
    assert!(all > 0, "no bad block was fed: the test shows nothing");
    is_whole(rig);
}

/// A catch-up that meets bad blocks: they are repaired, and the next task goes on.
#[test]
fn a_catch_up_goes_on_although_blocks_went_bad() {
    let mut rig = written(|config| {
        without_scrub(config);
        config.store.retained_entries = 64;
    });
    rig.leave_behind(2);
    let mut spoiled = 0;
    for block in 0..4096 {
        let copyset = spot(rig.local.cluster(), block).copyset;
        let Some(node) = rig.leader_of(copyset.0) else { continue };
        let chunk =
            culvert::store::ChunkKey { copyset, chunk: spot(rig.local.cluster(), block).chunk };
        let server = rig.local.node(node).expect("it runs").reactor().chunkserver_mut();
        if server.shard_mut(0).store().chunk(chunk).is_none() {
            continue;
        }
        if block % 97 == 0 && matches!(rig.stored(node, block).place, Place::At(_)) {
            rig.spoil(node, block);
            spoiled += 1;
        }
    }
    assert!(spoiled > 10, "{spoiled}");
    rig.reopen(2);
    rig.settle();
    assert!(rig.catch_up_bytes() > 0, "the log was enough: nothing was tested");
    let all: u64 = (0..3).map(|node| repaired(&mut rig, node)).sum();
    assert!(all > 0, "no bad block was sent: the test shows nothing");
}

/// A node whose answers are lies, late or about something else.
#[test]
fn hostile_answers_do_no_harm() {
    let mut rig = written(without_scrub);
    rig.local.kill(2);
    rig.turn_until("the others have leaders", |rig| {
        (1..=COPYSETS).all(|id| rig.leader_of(id).is_some())
    });
    let node = leader(&mut rig, 3);
    let at = spot(rig.local.cluster(), 3);
    let state = rig.stored(node, 3);
    let replicas: Vec<ReplicaId> = (0..3).map(|node| replica(&mut rig, node, at.copyset)).collect();
    let mut raw = rig.raw(node, PeerKind::Node, NODE_2);
    rig.spoil(node, 3);
    let mut frame = RepairFrame {
        kind: RepairKind::Found,
        copyset: at.copyset,
        from: replicas[2],
        to: replicas[node],
        number: 0,
        chunk: at.chunk,
        index: state.index,
        block: at.range.first,
        crc: state.crc,
    };
    rig.submit_read(3, 1);
    for number in 0..60 {
        frame.number = number % 4;
        frame.kind = match number % 5 {
            0 => RepairKind::Newer,
            1 => RepairKind::Absent,
            2 => RepairKind::Bad,
            _ => RepairKind::Found,
        };
        frame.index = LogIndex(state.index.0 + u64::from(number % 7 == 0));
        let pages = u32::from(frame.kind == RepairKind::Found);
        raw.try_send(&frame.emit(), pages, 0x5a);
        frame.kind = RepairKind::Ask;
        frame.block = (number as u32).wrapping_mul(0x1234_5678);
        raw.try_send(&frame.emit(), 0, 0);
        frame.block = at.range.first;
        rig.local.turn();
        raw.poll();
    }
    rig.finish();
    assert_eq!(repaired(&mut rig, node), 1, "from the one that does not lie");
    // What is no frame of a repair costs the connection.
    frame.kind = RepairKind::Bad;
    raw.try_send(&frame.emit(), 1, 0x5a);
    let closed = raw.closing(&mut || rig.local.turn());
    println!("{closed:?}");
    rig.reopen(2);
    is_whole(rig);
}

fn replica(rig: &mut Rig, node: usize, copyset: CopysetId) -> ReplicaId {
    let device = rig.local.cluster().devices()[node].uuid;
    let copysets = &rig.local.cluster().document().copysets;
    let copyset = copysets.iter().find(|other| other.id == copyset).expect("a copyset");
    let replica = copyset.replicas.iter().find(|replica| replica.device == device);
    replica.expect("a replica of each").id
}
