//! Windows whose owner names the pages.

use culvert_transport::{Class, Placement, SendError, WindowMode};

use crate::harness::{Pair, Scheme, is_pattern, options};

crate::over_backends!(
    lands_where_it_was_named,
    runs_out_of_pages,
    refuses_places_outside_the_window,
    mixes_both_directions,
    knows_its_own_buffers,
    survives_a_late_answer,
);

fn lands_where_it_was_named(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let (server, client) = pair.connect(WindowMode::Named);
    for round in 0..50u8 {
        let buffers: Vec<_> = (0..4)
            .map(|_| pair.client.transport.acquire_named(client, 2).expect("eight pages"))
            .collect();
        assert!(pair.client.transport.acquire_named(client, 1).is_none() || round > 0);
        // The request names the pages; the answer comes in another order.
        let payloads: Vec<_> = buffers
            .iter()
            .rev()
            .map(|buffer| {
                let place =
                    pair.client.transport.named_page(client, buffer).expect("of this window");
                (
                    Placement::named(place.page(), 2).expect("two"),
                    pair.server.pages(2, (place.page() as u8).wrapping_add(round)),
                )
            })
            .collect();
        pair.server.transport.send(server, Class::Data, b"answer", &payloads).expect("room");
        pair.until(|pair| pair.client.frames() == 1);
        let frames = pair.client.take_frames();
        assert!(frames[0].2.is_empty(), "the client has the buffers already");
        for buffer in &buffers {
            let place = pair.client.transport.named_page(client, buffer).expect("of this window");
            assert!(is_pattern(buffer, (place.page() as u8).wrapping_add(round)));
        }
    }
    pair.client.transport.close(client, "done");
    pair.until(|pair| pair.server.closed().is_some());
    pair.assert_nothing_lost();
}

fn runs_out_of_pages(scheme: Scheme) {
    let mut client = options(2);
    client.window_pages_max = 8;
    let mut pair = Pair::with(scheme, options(1), client);
    let (_, client) = pair.connect(WindowMode::Named);
    let first = pair.client.transport.acquire_named(client, 4).expect("half of it");
    let second = pair.client.transport.acquire_named(client, 4).expect("the other half");
    assert!(pair.client.transport.acquire_named(client, 1).is_none());
    drop(first);
    assert!(pair.client.transport.acquire_named(client, 5).is_none());
    let again = pair.client.transport.acquire_named(client, 4).expect("it came back at once");
    drop((second, again));
    assert!(pair.client.transport.acquire_named(client, 8).is_some());
    assert!(pair.client.transport.acquire_named(client, 0).is_none());
}

fn refuses_places_outside_the_window(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let (server, client) = pair.connect(WindowMode::Named);
    for (page, pages) in [(8, 1), (7, 2), (0, 9), (u32::MAX, 1), (u32::MAX, 256)] {
        let content = pair.server.pages(pages, 1);
        let place = Placement::named(page, pages).expect("a length");
        let sent = pair.server.transport.send(server, Class::Data, b"", &[(place, content)]);
        assert_eq!(sent, Err(SendError::OutsideWindow), "{pages} at {page}");
    }
    assert_eq!(pair.server.transport.reserve(server, 1), None, "nothing is granted here");
    assert!(pair.client.transport.connection_info(client).is_some());
    assert_eq!(Placement::named(0, 0), None);
    assert_eq!(Placement::named(0, 257), None);
}

fn mixes_both_directions(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let (server, client) = pair.connect(WindowMode::Named);
    for round in 0..100u8 {
        let wanted = pair.client.transport.acquire_named(client, 1).expect("a page");
        let named = pair.client.transport.named_page(client, &wanted).expect("of this window");
        let granted = pair.client.place(client, 3);
        let content = pair.client.pages(3, round);
        pair.client
            .transport
            .send(client, Class::Data, b"request", &[(granted, content)])
            .expect("room");
        pair.until(|pair| pair.server.frames() == 1);
        assert!(is_pattern(&pair.server.take_frames()[0].2[0], round));
        let content = pair.server.pages(1, round + 1);
        pair.server
            .transport
            .send(server, Class::Data, b"answer", &[(named, content)])
            .expect("room");
        pair.until(|pair| pair.client.frames() == 1);
        pair.client.take_frames();
        assert!(is_pattern(&wanted, round + 1));
        pair.until(|pair| {
            pair.client.transport.connection_info(client).expect("open").credits == 8
        });
    }
}

fn knows_its_own_buffers(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let (server, client) = pair.connect(WindowMode::Named);
    let foreign = pair.client.pool.acquire(1).expect("a page");
    assert_eq!(pair.client.transport.named_page(client, &foreign), None);
    let own = pair.client.transport.acquire_named(client, 1).expect("a page");
    assert!(pair.client.transport.named_page(client, &own).is_some());
    assert!(
        pair.server.transport.acquire_named(server, 1).is_none(),
        "the accepting side's window is granted"
    );
}

/// The client gave up and uses the page for something else: it gets undefined bytes there and
/// nothing worse.
fn survives_a_late_answer(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let (server, client) = pair.connect(WindowMode::Named);
    let buffer = pair.client.transport.acquire_named(client, 8).expect("all of it");
    let place = pair.client.transport.named_page(client, &buffer).expect("of this window");
    drop(buffer);
    let content = pair.server.pages(8, 1);
    pair.server.transport.send(server, Class::Data, b"late", &[(place, content)]).expect("room");
    pair.until(|pair| pair.client.frames() == 1);
    assert!(pair.client.transport.acquire_named(client, 8).is_some());
}
