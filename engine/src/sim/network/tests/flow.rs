//! Frames, queues, credits.

use culvert::network::{Class, Network, SendError};
use culvert_memory::SharedBytes;

use super::rig::{Rig, Side, is_pattern, named, small};
use crate::sim::network::FabricOptions;

#[test]
fn frames_arrive_in_order_and_whole() {
    for seed in 0..20 {
        let (mut rig, _, client) = Rig::connected(small(), seed);
        let (mut sent, mut received) = (0, 0);
        while received < 60 {
            if sent < 60 && rig.sides[1].has_credits(client, 2) {
                rig.sides[1].send_granted(client, &[sent], 2, sent);
                sent += 1;
            }
            assert!(rig.step());
            for (_, bytes, payloads) in rig.sides[0].take_frames() {
                assert_eq!(bytes, [received]);
                assert!(is_pattern(&payloads[0], received), "payload is whole with its frame");
                received += 1;
            }
        }
        rig.sides[1].network.close(client, "done");
        rig.settle();
        rig.sides.iter().for_each(Side::assert_nothing_lost);
    }
}

#[test]
fn nothing_leaves_before_the_post() {
    let (mut rig, _, client) = Rig::connected(small(), 1);
    rig.sides[1].send_granted(client, b"waits", 1, 1);
    rig.fabric.advance(1_000_000_000);
    assert!(!rig.fabric.has_events(0));
    assert_eq!(rig.sides[1].network.unsent_pages(client), 1);
    rig.sides[1].network.post(0);
    rig.fabric.advance(2_000_000_000);
    assert!(rig.fabric.has_events(0));
    assert_eq!(rig.sides[1].network.unsent_pages(client), 0);
    assert_eq!(rig.sides[1].pool.free_pages(), rig.sides[1].pool.total_pages());
}

#[test]
fn pages_of_a_sender_are_let_go_with_their_last_sector() {
    let (mut rig, _, client) = Rig::connected(small(), 2);
    let place = rig.sides[1].network.reserve(client, 4).expect("credits");
    let pages = rig.sides[1].pages(4, 7);
    let payload = [(place, pages.clone())];
    rig.sides[1].network.send(client, Class::Data, b"f", &payload).expect("room");
    drop(payload);
    assert_eq!(pages.users(), 2);
    rig.until(|rig| rig.sides[1].network.unsent_pages(client) == 0);
    assert_eq!(pages.users(), 1);
}

#[test]
fn credits_come_back_when_the_last_user_drops_the_pages() {
    let (mut rig, _, client) = Rig::connected(small(), 3);
    rig.sides[1].send_granted(client, b"all", 8, 1);
    assert_eq!(rig.sides[1].network.reserve(client, 1), None);
    rig.until(|rig| rig.sides[0].frames() == 1);
    let held = rig.sides[0].take_frames();
    rig.settle();
    assert!(!rig.sides[1].is_writable(client));
    drop(held);
    rig.settle();
    assert!(rig.sides[1].is_writable(client));
    assert!(rig.sides[1].network.reserve(client, 8).is_some());
}

#[test]
fn a_full_queue_says_when_there_is_room() {
    for class in [Class::Data, Class::Control] {
        let (mut rig, _, client) = Rig::connected(small(), 4);
        let mut sent = 0;
        let refused = loop {
            match rig.sides[1].network.send(client, class, &[0; 1000], &[]) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, SendError::Full);
        assert_eq!(sent, if class == Class::Data { 65 } else { 8 });
        rig.sides[1].network.post(0);
        rig.fabric.advance(1_000_000_000);
        rig.sides[1].turn();
        assert!(!rig.sides[1].is_writable(client), "the receiver is paused");
        rig.settle();
        assert!(rig.sides[1].is_writable(client));
        assert_eq!(rig.sides[0].take_frames().len(), sent);
        assert!(rig.sides[1].network.send(client, class, &[0; 1000], &[]).is_ok());
    }
}

#[test]
fn frames_and_places_are_checked() {
    let (mut rig, _, client) = Rig::connected(small(), 5);
    let side = &mut rig.sides[1];
    let long = vec![0; 8 * 1024 + 1];
    let too_large = Err(SendError::TooLarge);
    assert_eq!(side.network.send(client, Class::Data, &long, &[]), too_large);
    assert_eq!(side.network.send(client, Class::Control, &long[..4000], &[]), too_large);
    let outside = Err(SendError::OutsideWindow);
    let unreserved = [(named(0, 1), side.pages(1, 1))];
    assert_eq!(side.network.send(client, Class::Data, b"", &unreserved), outside);
    let place = side.network.reserve(client, 1).expect("credits");
    let payload = [(place, side.pages(1, 1))];
    assert_eq!(side.network.send(client, Class::Data, b"", &payload), Ok(()));
    assert_eq!(side.network.send(client, Class::Data, b"", &payload), outside, "sent once");
}

#[test]
fn too_many_unsent_pages_reset_the_connection() {
    let options = FabricOptions { unsent_pages_max: 4, ..small() };
    let (mut rig, _, client) = Rig::connected(options, 6);
    let place = rig.sides[1].network.reserve(client, 5).expect("credits");
    let payload = [(place, rig.sides[1].pages(5, 1))];
    let sent = rig.sides[1].network.send(client, Class::Data, b"", &payload);
    assert_eq!(sent, Err(SendError::Closed));
    drop(payload);
    rig.settle();
    assert_eq!((rig.sides[0].closed().len(), rig.sides[1].closed().len()), (1, 1));
    rig.sides.iter().for_each(Side::assert_nothing_lost);
}

#[test]
fn control_may_overtake_data() {
    let overtaken = (0..20).filter(|seed| {
        let (mut rig, _, client) = Rig::connected(small(), *seed);
        rig.sides[1].send_granted(client, b"data", 8, 1);
        rig.sides[1].network.send(client, Class::Control, b"control", &[]).expect("room");
        rig.until(|rig| rig.sides[0].frames() == 2);
        rig.sides[0].take_frames()[0].0 == Class::Control
    });
    assert!((1..20).contains(&overtaken.count()));
}

/// What the model is for: the receiver gives a page back and goes on reading it.
#[test]
fn a_page_given_back_too_early_is_corrupted() {
    assert!((0..10).any(is_torn_when_given_back), "its sectors are written one by one");
}

/// Whether the reader of a page that was given back saw half of the next payload.
fn is_torn_when_given_back(seed: u64) -> bool {
    let (mut rig, _, client) = Rig::connected(small(), seed);
    rig.sides[1].send_granted(client, b"first", 8, 1);
    rig.until(|rig| rig.sides[0].frames() == 1);
    let (_, _, payloads) = rig.sides[0].take_frames().remove(0);
    let view = SharedBytes::of_region(payloads[0].region());
    drop(payloads);
    rig.until(|rig| rig.sides[1].is_writable(client) || rig.fabric.next_ns() > Some(1 << 32));
    assert_eq!(view.read_u32(0), 0x0101_0101, "nobody has written it yet");
    rig.sides[1].send_granted(client, b"second", 8, 2);
    rig.sides[1].network.post(0);
    let mut torn = false;
    while !rig.fabric.has_events(0) {
        rig.now_ns = rig.fabric.next_ns().expect("a frame is under way");
        rig.fabric.advance(rig.now_ns);
        let new = (0..8).filter(|sector| view.read_u32(sector * 512) == 0x0202_0202).count();
        torn |= (1..8).contains(&new);
    }
    assert_eq!(view.read_u32(0), 0x0202_0202);
    torn
}
