//! Deaths, cuts, partitions, slowness.

use culvert::network::{Class, CloseReason, Network, SendError, WindowMode};
use culvert_memory::SharedBytes;

use super::rig::{Rig, Side, is_pattern, named, small};
use crate::sim::network::{FabricOptions, address_of};

/// Frames with payload are under way in both directions.
fn busy(seed: u64) -> (Rig, [culvert::network::ConnectionId; 2]) {
    let (mut rig, server, client) = Rig::connected(small(), seed);
    for round in 0..4 {
        rig.sides[0].send_granted(server, &[round], 1, round);
        rig.sides[1].send_granted(client, &[round], 1, round);
    }
    rig.sides.iter_mut().for_each(|side| side.network.post(0));
    (rig, [server, client])
}

#[test]
fn a_cut_closes_both_ends_once_and_loses_the_tail() {
    let mut lost = 0;
    for seed in 0..50 {
        let (mut rig, ids) = busy(seed);
        rig.fabric.cut(1, 0);
        rig.settle();
        for (side, id) in rig.sides.iter_mut().zip(ids) {
            let closed = side.closed();
            assert_eq!(closed.len(), 1);
            assert_eq!(closed[0].0, id);
            assert_eq!(side.network.send(id, Class::Data, b"", &[]), Err(SendError::Closed));
            let frames = side.take_frames();
            lost += 4 - frames.len();
            for (at, (_, bytes, payloads)) in (0..).zip(frames) {
                assert_eq!(bytes, [at], "no frame is missing before one that came");
                assert!(is_pattern(&payloads[0], at));
            }
        }
        rig.settle();
        rig.sides.iter().for_each(Side::assert_nothing_lost);
        assert_eq!(rig.fabric.injected().connections_broken, 1);
    }
    assert!((1..400).contains(&lost));
}

#[test]
fn a_death_closes_the_survivors_end_once() {
    for seed in 0..50 {
        let (mut rig, [server, client]) = busy(seed);
        rig.fabric.kill(0);
        let dead = &mut rig.sides[0];
        assert_eq!(dead.network.send(server, Class::Data, b"", &[]), Err(SendError::Closed));
        assert_eq!(dead.network.window_pages_granted(server), 0);
        assert_eq!(dead.pool.free_pages(), dead.pool.total_pages(), "nobody reads them any more");
        rig.sides[0].regions.clear();
        rig.until(|rig| !rig.sides[1].closed().is_empty());
        assert_eq!(rig.sides[1].closed()[0].0, client);
        // Another process on the host is a stranger to the old connection.
        rig.sides[0] = Side::start(&rig.fabric, 0);
        drop(rig.sides[1].take_frames());
        rig.settle();
        rig.sides.iter().for_each(Side::assert_nothing_lost);
        let (_, again) = rig.connect(WindowMode::Granted);
        assert_ne!(again, client);
    }
}

#[test]
fn pages_sent_to_the_dead_come_back_with_the_close() {
    let (mut rig, server, client) = Rig::connected(small(), 9);
    rig.sides[1].send_granted(client, b"", 4, 1);
    let _ = server;
    rig.fabric.kill(0);
    rig.sides[1].network.post(0);
    assert_eq!(rig.sides[1].network.unsent_pages(client), 4, "nobody takes them");
    rig.sides[0].regions.clear();
    rig.until(|rig| !rig.sides[1].closed().is_empty());
    rig.settle();
    rig.sides[1].assert_nothing_lost();
}

/// A server dies while it answers: its sectors may land in the client's pages until the client
/// knows that the connection is closed, and not after.
#[test]
fn the_dead_may_write_until_the_survivor_knows() {
    let mut changed = 0;
    for seed in 0..40 {
        let mut rig = Rig::new(small(), seed, 2);
        let (server, client) = rig.connect(WindowMode::Named);
        let buffer = rig.sides[1].network.acquire_named(client, 4).expect("pages");
        let page = rig.sides[1].network.named_page(client, &buffer).expect("of this window");
        let payload = [(named(page, 4), rig.sides[0].pages(4, 9))];
        rig.sides[0].network.send(server, Class::Data, b"answer", &payload).expect("room");
        drop(payload);
        rig.sides[0].network.post(0);
        rig.fabric.kill(0);
        rig.sides[0].regions.clear();
        let view = SharedBytes::of_region(buffer.region());
        let sum = |at: &SharedBytes| at.crc32c(0, at.len());
        let before = sum(&view);
        rig.until(|rig| !rig.sides[1].closed().is_empty());
        let told = sum(&view);
        changed += u32::from(before != told);
        drop(buffer);
        rig.settle();
        assert_eq!(sum(&view), told, "the window is revoked");
        rig.sides[1].assert_nothing_lost();
    }
    assert!(changed > 0, "for some seed it was written");
}

#[test]
fn a_partition_holds_frames_up_and_healing_delivers_them_in_order() {
    for seed in 0..20 {
        let (mut rig, server, client) = Rig::connected(small(), seed);
        rig.fabric.partition(1, 0);
        for round in 0..8 {
            rig.sides[1].send_granted(client, &[round], 1, round);
        }
        rig.sides[0].network.send(server, Class::Data, b"other way", &[]).expect("room");
        rig.until(|rig| rig.sides[1].frames() == 1);
        while rig.now_ns < 1_000_000_000 {
            rig.now_ns += 1_000_000;
            rig.fabric.advance(rig.now_ns);
            rig.sides.iter_mut().for_each(|side| assert!(side.turn() < 9));
        }
        assert_eq!(rig.sides[0].frames(), 0, "nothing arrives");
        rig.fabric.heal(1, 0);
        rig.until(|rig| rig.sides[0].frames() == 8);
        for (at, (_, bytes, payloads)) in (0..).zip(rig.sides[0].take_frames()) {
            assert_eq!(bytes, [at]);
            assert!(is_pattern(&payloads[0], at));
        }
    }
}

#[test]
fn a_partition_that_lasts_breaks_connections() {
    for seed in 0..20 {
        let (mut rig, [server, client]) = busy(seed);
        rig.fabric.partition(0, 1);
        rig.until(|rig| rig.sides.iter().all(|side| !side.closed().is_empty()));
        assert!(rig.now_ns >= 2_000_000_000);
        assert_eq!(rig.sides[0].closed()[0].0, server);
        assert_eq!(rig.sides[1].closed()[0].0, client);
        rig.fabric.heal(0, 1);
        rig.sides.iter_mut().for_each(|side| drop(side.take_frames()));
        rig.settle();
        rig.sides.iter().for_each(Side::assert_nothing_lost);
        assert_eq!((rig.sides[0].closed().len(), rig.sides[1].closed().len()), (1, 1));
    }
}

#[test]
fn nobody_connects_across_a_partition() {
    for route in [(0, 1), (1, 0)] {
        let partition_break_ns = 10_000_000_000..11_000_000_000;
        let mut rig = Rig::new(FabricOptions { partition_break_ns, ..small() }, 3, 2);
        rig.fabric.partition(route.0, route.1);
        let client = rig.sides[1].network.connect(&address_of(0), WindowMode::Granted);
        let client = client.expect("room");
        rig.until(|rig| !rig.sides[1].closed().is_empty());
        assert_eq!(rig.sides[1].closed(), [(client, CloseReason::HandshakeTimeout)]);
        rig.fabric.heal(route.0, route.1);
        rig.settle();
        let (connected, closed) = (rig.sides[0].connected(), rig.sides[0].closed());
        assert_eq!(closed.len(), usize::from(connected.is_some()));
        rig.sides.iter().for_each(Side::assert_nothing_lost);
    }
}

#[test]
fn a_death_behind_a_partition_is_noticed_late() {
    let (mut rig, _, client) = Rig::connected(small(), 5);
    rig.fabric.partition(0, 1);
    rig.fabric.kill(0);
    rig.until(|rig| !rig.sides[1].closed().is_empty());
    assert!(rig.now_ns >= 2_000_000_000);
    assert_eq!(rig.sides[1].closed()[0].0, client);
}

#[test]
fn a_slow_route_delays() {
    let options = FabricOptions { latency_ns: 1000..2000, ..small() };
    let (mut rig, _, client) = Rig::connected(options, 6);
    let arrival_ns = |rig: &mut Rig| {
        let begun_ns = rig.now_ns;
        rig.sides[1].send_granted(client, b"", 1, 1);
        rig.until(|rig| rig.sides[0].frames() == 1);
        drop(rig.sides[0].take_frames());
        rig.now_ns - begun_ns
    };
    assert!(arrival_ns(&mut rig) < 2000);
    rig.fabric.slow(1, 0, 1000);
    assert!(arrival_ns(&mut rig) >= 1_000_000);
    rig.fabric.slow(1, 0, 1);
    rig.settle();
    assert!(arrival_ns(&mut rig) < 2000);
}
