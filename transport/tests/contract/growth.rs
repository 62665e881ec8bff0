//! Windows that grow under load.

use culvert_transport::{Class, RegionEvent, WindowMode};

use crate::harness::{Pair, Scheme, is_pattern, options};

crate::over_backends!(
    grows_when_credits_run_out,
    stays_within_its_limit,
    takes_what_the_budget_has,
    asks_again_after_a_refusal,
    grows_a_named_window,
    reports_regions_before_the_peer_knows,
    returns_the_budget,
);

fn credits(pair: &Pair, client: culvert_transport::ConnectionId) -> u32 {
    pair.client.transport.connection_info(client).expect("open").credits
}

fn grows_when_credits_run_out(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    assert_eq!(pair.client.transport.reserve(client, 16), None);
    pair.until(|pair| pair.client.writable() > 0);
    assert_eq!(pair.client.transport.window_pages_granted(client), 520);
    let place = pair.client.place(client, 256);
    assert!(place.page() >= 8, "a placement lies in one segment");
    let content = pair.client.pages(256, 3);
    pair.client.transport.send(client, Class::Data, b"big", &[(place, content)]).expect("room");
    pair.until(|pair| pair.server.frames() == 1);
    assert!(is_pattern(&pair.server.take_frames()[0].2[0], 3));
    pair.until(|pair| credits(pair, client) == 520);
    pair.client.transport.close(client, "done");
    pair.until(|pair| pair.server.closed().is_some());
    pair.assert_nothing_lost();
}

fn stays_within_its_limit(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let mut places = Vec::new();
    while pair.client.transport.window_pages_granted(client) < 1024 || places.len() < 1024 {
        match pair.client.transport.reserve(client, 1) {
            Some(place) => places.push(place),
            None => pair.turn(),
        }
    }
    assert_eq!(pair.client.transport.reserve(client, 1), None);
    pair.settle();
    assert_eq!(pair.client.transport.window_pages_granted(client), 1024);
    assert_eq!(pair.server.transport.window_budget_left(), 16 * 1024 - 1024);
    // Every page of it can be written and arrives.
    for (index, place) in places.iter().enumerate() {
        let content = pair.client.pages(1, index as u8);
        pair.client.transport.send(client, Class::Data, b"", &[(*place, content)]).expect("room");
        if index % 32 == 31 {
            pair.turn();
        }
    }
    pair.until(|pair| pair.server.frames() == 1024);
    for (index, (_, _, payloads)) in pair.server.take_frames().iter().enumerate() {
        assert!(is_pattern(&payloads[0], index as u8));
    }
    pair.until(|pair| credits(pair, client) == 1024);
}

fn takes_what_the_budget_has(scheme: Scheme) {
    let mut server = options(1);
    server.window_budget_pages = 8 + 100;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, client) = pair.connect(WindowMode::Granted);
    assert_eq!(pair.client.transport.reserve(client, 9), None);
    pair.until(|pair| pair.client.transport.window_pages_granted(client) == 108);
    assert_eq!(pair.server.transport.window_budget_left(), 0);
    // A second connection gets none, and works all the same as far as frames go.
    let (_, second) = pair.connect(WindowMode::Granted);
    assert_eq!(pair.client.transport.window_pages_granted(second), 0);
    assert_eq!(pair.client.transport.reserve(second, 1), None);
    pair.client.transport.send(second, Class::Data, b"small", &[]).expect("room");
    pair.until(|pair| pair.server.frames() == 1);
}

fn asks_again_after_a_refusal(scheme: Scheme) {
    let mut server = options(1);
    server.window_budget_pages = 16;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, first) = pair.connect(WindowMode::Granted);
    let (_, second) = pair.connect(WindowMode::Granted);
    assert!(pair.client.transport.reserve(second, 8).is_some());
    assert_eq!(pair.client.transport.reserve(second, 8), None);
    pair.settle();
    assert_eq!(pair.client.transport.window_pages_granted(second), 8, "refused");
    let deadline = pair.client.transport.next_deadline().expect("it wishes again");
    assert!(deadline <= crate::harness::now() + 100_000_000);
    pair.client.transport.close(first, "makes room");
    // Nobody calls meanwhile: who was refused waits to be told.
    pair.until(|pair| pair.client.writable() > 0);
    assert_eq!(pair.client.transport.window_pages_granted(second), 16);
}

fn grows_a_named_window(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let (server, client) = pair.connect(WindowMode::Named);
    assert!(pair.client.transport.acquire_named(client, 100).is_none());
    pair.until(|pair| pair.client.writable() > 0);
    assert_eq!(pair.client.transport.window_pages(client), 520);
    let buffer = pair.client.transport.acquire_named(client, 100).expect("it has grown");
    let place = pair.client.transport.named_page(client, &buffer).expect("of this window");
    let content = pair.server.pages(100, 5);
    pair.server
        .transport
        .send(server, Class::Data, b"answer", &[(place, content)])
        .expect("the peer knows it");
    pair.until(|pair| pair.client.frames() == 1);
    assert!(is_pattern(&buffer, 5));
}

fn reports_regions_before_the_peer_knows(scheme: Scheme) {
    let mut server = options(1);
    server.report_regions = true;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, client) = pair.connect(WindowMode::Granted);
    let added = |pair: &Pair| {
        pair.server.regions.iter().filter(|event| matches!(event, RegionEvent::Added(_))).count()
    };
    let expected = usize::from(scheme == Scheme::Shm);
    assert_eq!(added(&pair), expected);
    assert_eq!(pair.client.transport.reserve(client, 9), None);
    // A server that does not take the reports does not tell its peer.
    for _ in 0..1000 {
        pair.client.turn();
        pair.server.transport.poll(crate::harness::now(), 64, &mut |_, _| {});
        pair.server.transport.post(crate::harness::now());
    }
    let known = pair.client.transport.window_pages_granted(client);
    assert_eq!(known, if scheme == Scheme::Shm { 8 } else { 520 });
    pair.until(|pair| pair.client.transport.window_pages_granted(client) == 520);
    assert_eq!(added(&pair), 2 * expected);
    let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    if let Some(RegionEvent::Added(grown)) = pair.server.regions.last() {
        assert!(grown.is_huge() || !is_set("CULVERT_TEST_HUGE"), "2 MiB and more");
        assert!(!grown.is_huge() || !is_set("CULVERT_TEST_ORDINARY"));
    }
    // A page that somebody holds keeps its region.
    let place = pair.client.place(client, 20);
    let content = pair.client.pages(20, 1);
    pair.client.transport.send(client, Class::Data, b"", &[(place, content)]).expect("room");
    pair.until(|pair| pair.server.frames() == 1);
    let held = pair.server.take_frames();
    pair.client.transport.close(client, "done");
    pair.until(|pair| pair.server.closed().is_some());
    let retired = |pair: &Pair| pair.server.regions.len() - added(pair);
    assert_eq!((retired(&pair), pair.server.transport.retiring_windows()), (0, 1));
    drop(held);
    pair.settle();
    assert_eq!(retired(&pair), 2 * expected);
    pair.assert_nothing_lost();
}

fn returns_the_budget(scheme: Scheme) {
    let (mut pair, server, client) = Pair::connected(scheme);
    assert_eq!(pair.client.transport.reserve(client, 9), None);
    pair.until(|pair| pair.client.writable() > 0);
    assert_eq!(pair.server.transport.window_budget_left(), 16 * 1024 - 520);
    pair.server.transport.close(server, "done");
    pair.until(|pair| pair.client.closed().is_some());
    pair.assert_nothing_lost();
}
