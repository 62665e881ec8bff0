//! How connections begin and end when nobody disturbs them.

use culvert::network::{Class, CloseReason, ListenError, Network, SendError, WindowMode};
use culvert_transport::Refusal;
use rustix::io::Errno;

use super::rig::{Rig, Seen, Side, is_pattern, small};
use crate::sim::network::{Fabric, FabricOptions, address_of};
use crate::sim::random::Random;

#[test]
fn connected_comes_first_at_both_ends() {
    let (rig, server, client) = Rig::connected(small(), 1);
    let is = |seen: &Seen, of, by| {
        matches!(seen, Seen::Connected { connection, initiated }
        if *connection == of && *initiated == by)
    };
    assert!(is(&rig.sides[0].seen[0], server, false));
    assert!(is(&rig.sides[1].seen[0], client, true));
    assert_eq!(rig.sides[0].network.window_pages_granted(server), 8);
    assert_eq!(rig.sides[0].regions.len(), 1, "each side knows its window");
    assert_eq!(rig.sides[1].regions.len(), 1);
}

#[test]
fn nobody_is_connected_before_regions_were_taken() {
    let fabric = Fabric::new(small(), Random::new(2));
    let (mut server, mut client) = (Side::start(&fabric, 0), Side::start(&fabric, 1));
    client.network.connect(&address_of(0), WindowMode::Granted).expect("room");
    client.turn();
    fabric.advance(1_000_000_000);
    assert!(fabric.has_events(0), "the server has a region to look at");
    server.network.poll(0, 9, &mut |event| panic!("too early: {event:?}"));
    client.network.poll(0, 9, &mut |event| panic!("too early: {event:?}"));
    server.turn();
    fabric.advance(2_000_000_000);
    server.turn();
    assert!(server.connected().is_some());
}

#[test]
fn a_client_has_no_regions_to_take() {
    let fabric = Fabric::new(small(), Random::new(2));
    let (mut server, mut client) = (Side::start(&fabric, 0), Side::start(&fabric, 3));
    client.network.connect(&address_of(0), WindowMode::Named).expect("room");
    fabric.advance(1_000_000_000);
    server.turn();
    fabric.advance(2_000_000_000);
    let mut connected = 0;
    client.network.poll(0, 9, &mut |_| connected += 1);
    assert_eq!(connected, 1);
    client.network.regions(&mut |event| panic!("{event:?}"));
}

#[test]
fn a_connection_closes_once_and_for_all() {
    for seed in 0..20 {
        let (mut rig, server, client) = Rig::connected(small(), seed);
        let network = &mut rig.sides[1].network;
        network.close(client, "done");
        network.close(client, "again");
        assert_eq!(network.send(client, Class::Data, b"", &[]), Err(SendError::Closed));
        assert_eq!(network.reserve(client, 1), None);
        rig.settle();
        assert_eq!(rig.sides[1].closed(), [(client, CloseReason::Caller("done"))]);
        assert_eq!(rig.sides[0].closed(), [(server, CloseReason::PeerClosed)]);
        let (_, again) = rig.connect(WindowMode::Granted);
        assert_eq!(again.slot(), client.slot());
        assert_ne!(again, client, "an id is never used again");
        rig.sides[1].network.close(client, "long gone");
        assert_eq!(rig.sides[1].network.window_pages_granted(again), 8);
        rig.sides[1].network.close(again, "done");
        rig.settle();
        rig.sides.iter().for_each(Side::assert_nothing_lost);
    }
}

#[test]
fn what_was_sent_before_the_close_usually_arrives_whole() {
    let mut arrived = 0;
    for seed in 0..20 {
        let (mut rig, _, client) = Rig::connected(small(), seed);
        rig.sides[1].send_granted(client, b"goodbye", 4, 1);
        rig.sides[1].network.close(client, "done");
        assert_eq!(rig.sides[1].pool.free_pages(), rig.sides[1].pool.total_pages());
        rig.until(|rig| !rig.sides[0].closed().is_empty());
        for (_, bytes, payloads) in rig.sides[0].take_frames() {
            assert_eq!(bytes, b"goodbye");
            assert!(is_pattern(&payloads[0], 1));
            arrived += 1;
            rig.sides[0].turn();
            assert_eq!(rig.sides[0].regions.len(), 1, "a page of it is still held");
        }
        rig.settle();
        rig.sides.iter().for_each(Side::assert_nothing_lost);
    }
    assert!((10..20).contains(&arrived), "{arrived} of 20");
}

#[test]
fn nobody_at_an_address_refuses() {
    let mut rig = Rig::new(small(), 3, 2);
    let client = rig.sides[1].network.connect(&address_of(7), WindowMode::Named).expect("room");
    rig.settle();
    assert_eq!(rig.sides[1].closed(), [(client, CloseReason::Io(Errno::CONNREFUSED))]);
    rig.sides[1].assert_nothing_lost();
}

#[test]
fn an_address_is_listened_to_once() {
    let mut rig = Rig::new(small(), 3, 2);
    let taken = rig.sides[0].network.listen(&address_of(0));
    assert!(matches!(taken, Err(ListenError::InUse)));
    let foreign = rig.sides[0].network.listen(&address_of(1));
    assert!(matches!(foreign, Err(ListenError::Io { .. })));
}

#[test]
fn a_refused_region_costs_its_connection() {
    for refuser in 0..2 {
        let mut rig = Rig::new(small(), 4, 2);
        rig.sides[refuser].refuses_regions = true;
        let client = rig.sides[1].network.connect(&address_of(0), WindowMode::Granted);
        let client = client.expect("room");
        rig.settle();
        let reason = match refuser {
            0 => CloseReason::RefusedByPeer(Refusal::Resources),
            _ => CloseReason::RegionRefused,
        };
        assert_eq!(rig.sides[1].closed(), [(client, reason)]);
        assert!(rig.sides[0].seen.is_empty(), "the accepting side never had a connection");
        rig.sides.iter().for_each(Side::assert_nothing_lost);
    }
}

#[test]
fn a_full_table_refuses() {
    let options = FabricOptions { connections_max: 1, ..small() };
    let mut rig = Rig::new(options, 5, 3);
    rig.sides[1].network.connect(&address_of(0), WindowMode::Granted).expect("room");
    assert!(rig.sides[1].network.connect(&address_of(0), WindowMode::Granted).is_err());
    rig.until(|rig| rig.sides[0].connected().is_some());
    let late = rig.sides[2].network.connect(&address_of(0), WindowMode::Granted).expect("room");
    rig.until(|rig| !rig.sides[2].closed().is_empty());
    let reason = CloseReason::RefusedByPeer(Refusal::Resources);
    assert_eq!(rig.sides[2].closed(), [(late, reason)]);
}

#[test]
fn a_dropped_process_closes_what_it_had() {
    let (mut rig, server, _) = Rig::connected(small(), 6);
    drop(rig.sides.pop());
    rig.settle();
    assert_eq!(rig.sides[0].closed(), [(server, CloseReason::PeerClosed)]);
    rig.sides[0].assert_nothing_lost();
}

/// As in the transport: a table beside the connections must expect it.
#[test]
fn a_slot_may_be_used_again_before_the_close_is_told() {
    let (mut rig, _, client) = Rig::connected(small(), 7);
    rig.sides[1].network.close(client, "done");
    let again = rig.sides[1].network.connect(&address_of(0), WindowMode::Granted).expect("room");
    assert_eq!(again.slot(), client.slot());
    assert!(rig.sides[1].closed().is_empty());
    rig.until(|rig| rig.sides[1].connected() == Some(again));
    assert_eq!(rig.sides[1].closed(), [(client, CloseReason::Caller("done"))]);
}
