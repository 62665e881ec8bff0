//! Windows whose owner names the pages, and windows that grow.

use culvert::network::{Class, Network, SendError, WindowMode};

use super::rig::{Rig, Side, is_pattern, named, small};
use crate::sim::network::FabricOptions;

/// Sizes for windows that grow: 8 pages, then 24 and 8.
fn growing() -> FabricOptions {
    FabricOptions { window_pages_max: 40, segment_pages: 24, ..FabricOptions::default() }
}

#[test]
fn answers_land_where_they_were_named() {
    let mut rig = Rig::new(small(), 1, 2);
    let (server, client) = rig.connect(WindowMode::Named);
    for round in 0..50u8 {
        let [server_side, client_side] = &mut rig.sides[..] else { panic!("two sides") };
        let acquire = |_| client_side.network.acquire_named(client, 2).expect("eight pages");
        let buffers: Vec<_> = (0..4).map(acquire).collect();
        assert!(client_side.network.acquire_named(client, 1).is_none());
        // The answer comes in another order.
        for buffer in buffers.iter().rev() {
            let page = client_side.network.named_page(client, buffer).expect("of this window");
            let payload = [(named(page, 2), server_side.pages(2, round.wrapping_add(page as u8)))];
            server_side.network.send(server, Class::Data, b"answer", &payload).expect("room");
        }
        rig.until(|rig| rig.sides[1].frames() == 4);
        let frames = rig.sides[1].take_frames();
        assert!(frames.iter().all(|(_, _, payloads)| payloads.is_empty()), "it has them already");
        for buffer in &buffers {
            let page = rig.sides[1].network.named_page(client, buffer).expect("of this window");
            assert!(is_pattern(buffer, round.wrapping_add(page as u8)));
        }
    }
    rig.sides[1].network.close(client, "done");
    rig.settle();
    rig.sides.iter().for_each(Side::assert_nothing_lost);
}

#[test]
fn places_outside_a_named_window_are_refused() {
    let mut rig = Rig::new(small(), 2, 2);
    let (server, client) = rig.connect(WindowMode::Named);
    let side = &mut rig.sides[0];
    assert_eq!(side.network.reserve(server, 1), None, "the client allocates");
    for (page, pages) in [(7, 2), (8, 1), (u32::MAX, 2)] {
        let payload = [(named(page, pages), side.pages(pages, 1))];
        let sent = side.network.send(server, Class::Data, b"", &payload);
        assert_eq!(sent, Err(SendError::OutsideWindow), "{pages} at {page}");
    }
    let foreign = rig.sides[1].pool.acquire(1).expect("a page");
    assert_eq!(rig.sides[1].network.named_page(client, &foreign), None);
    assert!(rig.sides[1].network.reserve(client, 8).is_some(), "the server's is a granted one");
    assert!(rig.sides[0].network.acquire_named(server, 1).is_none());
}

#[test]
fn a_granted_window_grows_on_a_wish() {
    let (mut rig, _, client) = Rig::connected(growing(), 3);
    for pages in [9, 24] {
        assert_eq!(rig.sides[1].network.reserve(client, pages).is_some(), pages == 24);
        rig.settle();
    }
    assert!(rig.sides[1].is_writable(client));
    assert_eq!(rig.sides[1].network.window_pages_granted(client), 32);
    assert_eq!(rig.sides[0].regions.len(), 2);
    assert_eq!(rig.sides[1].network.reserve(client, 32), None, "a run lies in one segment");
    rig.settle();
    assert_eq!(rig.sides[1].network.window_pages_granted(client), 40);
    rig.sides[1].send_granted(client, b"", 8, 1);
    rig.sides[1].send_granted(client, b"", 8, 2);
    rig.until(|rig| rig.sides[0].frames() == 2);
    let frames = rig.sides[0].take_frames();
    assert!(is_pattern(&frames[0].2[0], 1) && is_pattern(&frames[1].2[0], 2));
    rig.sides[1].network.close(client, "done");
    rig.settle();
    assert_eq!(rig.sides[0].regions.len(), 3, "pages are still held");
    drop(frames);
    rig.settle();
    rig.sides.iter().for_each(Side::assert_nothing_lost);
}

#[test]
fn a_named_window_grows_when_its_owner_runs_out() {
    let mut rig = Rig::new(growing(), 4, 2);
    let (_, client) = rig.connect(WindowMode::Named);
    assert!(rig.sides[1].network.acquire_named(client, 20).is_none());
    rig.settle();
    assert!(rig.sides[1].is_writable(client));
    let buffer = rig.sides[1].network.acquire_named(client, 20).expect("it has grown");
    assert_eq!(rig.sides[1].network.named_page(client, &buffer), Some(8));
    rig.sides[1].network.close(client, "done");
    rig.settle();
    assert_eq!(rig.sides[1].regions.len(), 2);
    drop(buffer);
    rig.settle();
    rig.sides.iter().for_each(Side::assert_nothing_lost);
}
