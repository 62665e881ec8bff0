//! Frames and payloads.

use culvert_memory::PAGE_SIZE;
use culvert_transport::{Class, PAYLOADS_MAX, Placement, SendError, WindowMode};

use crate::harness::{Pair, Scheme, Seen, identity, is_pattern, options};

crate::over_backends!(
    introduces_both_sides,
    keeps_frames_in_order,
    carries_payloads_of_every_length,
    carries_many_payloads_in_one_frame,
    takes_credits_and_gives_them_back,
    refuses_what_is_too_large,
    tells_when_the_queue_has_room,
    control_does_not_wait_for_data,
    answers_from_within_the_handler,
    copies_nothing_but_for_the_wire,
    forwards_a_landing_page,
    streams_in_both_directions,
    respects_the_budget,
);

fn introduces_both_sides(scheme: Scheme) {
    let (pair, _, client) = Pair::connected(scheme);
    let Some(Seen::Connected { peer, initiated, .. }) = pair.client.seen.first() else {
        panic!("connected")
    };
    assert_eq!((*peer, *initiated), (identity(1, culvert_transport::PeerKind::Node), true));
    let Some(Seen::Connected { peer, initiated, .. }) = pair.server.seen.first() else {
        panic!("connected")
    };
    assert_eq!((*peer, *initiated), (identity(2, culvert_transport::PeerKind::Client), false));
    let info = pair.client.transport.connection_info(client).expect("open");
    assert_eq!(info.address, pair.address);
    assert_eq!((info.window_pages, info.peer_window_pages, info.credits), (8, 8, 8));
    assert_eq!(pair.client.transport.window_pages_granted(client), 8);
}

fn keeps_frames_in_order(scheme: Scheme) {
    let (mut pair, server, client) = Pair::connected(scheme);
    let (mut sent, mut received) = (0u32, 0u32);
    while received < 5000 {
        while sent < 5000 {
            let mut frame = sent.to_le_bytes().to_vec();
            frame.resize(4 + sent as usize % 300, sent as u8);
            match pair.client.transport.send(client, Class::Data, &frame, &[]) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error, SendError::Full);
                    break;
                }
            }
        }
        pair.turn();
        for (class, bytes, payloads) in pair.server.take_frames() {
            assert_eq!(class, Class::Data);
            assert_eq!(&bytes[..4], received.to_le_bytes());
            assert_eq!(bytes.len(), 4 + received as usize % 300);
            assert!(bytes[4..].iter().all(|byte| *byte == received as u8) && payloads.is_empty());
            received += 1;
        }
    }
    let info = pair.server.transport.connection_info(server).expect("open");
    assert!(info.bytes_received > 5000 * 4);
}

fn carries_payloads_of_every_length(scheme: Scheme) {
    let mut server = options(1);
    server.window_pages_initial = 512;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, client) = pair.connect(WindowMode::Granted);
    for pages in [1, 2, 3, 7, 64, 255, 256] {
        let content = pair.client.pages(pages, pages as u8);
        let place = pair.client.place(client, pages);
        pair.client
            .transport
            .send(client, Class::Data, b"payload", &[(place, content)])
            .expect("room");
        pair.until(|pair| pair.server.frames() == 1);
        let frames = pair.server.take_frames();
        assert_eq!(frames[0].2.len(), 1);
        assert!(is_pattern(&frames[0].2[0], pages as u8), "{pages} pages");
        drop(frames);
        pair.until(|pair| {
            pair.client.transport.connection_info(client).expect("open").credits == 512
        });
    }
    pair.client.transport.close(client, "done");
    pair.until(|pair| pair.server.closed().is_some());
    pair.assert_nothing_lost();
}

fn carries_many_payloads_in_one_frame(scheme: Scheme) {
    let mut server = options(1);
    server.window_pages_initial = 512;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, client) = pair.connect(WindowMode::Granted);
    for round in 0..20u8 {
        let payloads: Vec<_> = (0..PAYLOADS_MAX as u32)
            .map(|index| {
                let pages = 1 + (index + u32::from(round)) % 5;
                (pair.client.place(client, pages), pair.client.pages(pages, index as u8))
            })
            .collect();
        pair.client.transport.send(client, Class::Data, &[round; 200], &payloads).expect("room");
        drop(payloads);
        pair.until(|pair| pair.server.frames() == 1);
        let frames = pair.server.take_frames();
        let (_, bytes, landed) = &frames[0];
        assert_eq!((bytes.len(), landed.len()), (200, PAYLOADS_MAX));
        for (index, buffer) in landed.iter().enumerate() {
            assert!(is_pattern(buffer, index as u8), "payload {index} of round {round}");
        }
        drop(frames);
        let window = if scheme == Scheme::Shm { 0 } else { 8 };
        pair.until(|pair| {
            let credits = pair.client.transport.connection_info(client).expect("open").credits;
            // A device may say later than the peer that a write has arrived.
            credits == 512
                && pair.client.pool.free_pages() + window == pair.client.pool.total_pages()
        });
    }
}

fn takes_credits_and_gives_them_back(scheme: Scheme) {
    let mut server = options(1);
    server.window_pages_max = 8;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, client) = pair.connect(WindowMode::Granted);
    let places: Vec<Placement> = (0..8).map(|_| pair.client.place(client, 1)).collect();
    assert_eq!(pair.client.transport.reserve(client, 1), None, "the window is used up");
    for (index, place) in places.iter().enumerate() {
        let content = pair.client.pages(1, index as u8);
        pair.client.transport.send(client, Class::Data, b"", &[(*place, content)]).expect("room");
    }
    pair.until(|pair| pair.server.frames() == 8);
    pair.settle();
    assert_eq!(pair.client.writable(), 0, "nothing was given back yet");
    let frames = pair.server.take_frames();
    let kept: Vec<_> = frames.into_iter().skip(1).collect();
    pair.until(|pair| pair.client.writable() == 1);
    let place = pair.client.place(client, 1);
    assert_eq!(place, places[0], "only the first page is free");
    pair.client.transport.cancel(client, place);
    drop(kept);
    pair.until(|pair| pair.client.transport.connection_info(client).expect("open").credits == 8);
    pair.client.place(client, 8);
}

fn refuses_what_is_too_large(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let data_max = pair.client.transport.frame_bytes_max(client, Class::Data).expect("open");
    let control_max = pair.client.transport.frame_bytes_max(client, Class::Control).expect("open");
    assert_eq!(data_max, 8192);
    assert!((3000..=4096).contains(&control_max));
    let send = |pair: &mut Pair, class, bytes| {
        pair.client.transport.send(client, class, &vec![7; bytes], &[])
    };
    assert_eq!(send(&mut pair, Class::Data, data_max + 1), Err(SendError::TooLarge));
    assert_eq!(send(&mut pair, Class::Control, control_max + 1), Err(SendError::TooLarge));
    assert_eq!(send(&mut pair, Class::Data, data_max), Ok(()));
    assert_eq!(send(&mut pair, Class::Control, control_max), Ok(()));
    pair.until(|pair| pair.server.frames() == 2);
}

fn tells_when_the_queue_has_room(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let mut sent = 0;
    while pair.client.transport.send(client, Class::Data, &[1; 4000], &[]).is_ok() {
        sent += 1;
    }
    assert!((8..=16).contains(&sent), "{sent} frames of 4000 bytes in a queue of 64 KiB");
    pair.client
        .transport
        .send(client, Class::Control, b"overtakes", &[])
        .expect("a queue of its own");
    pair.until(|pair| pair.client.writable() == 1);
    pair.client.transport.send(client, Class::Data, &[2; 4000], &[]).expect("room again");
    pair.until(|pair| pair.server.frames() == sent + 2);
}

fn control_does_not_wait_for_data(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    for _ in 0..10 {
        pair.client.transport.send(client, Class::Data, &[1; 1000], &[]).expect("room");
    }
    pair.client.transport.send(client, Class::Control, b"heartbeat", &[]).expect("room");
    pair.until(|pair| pair.server.frames() == 11);
    let frames = pair.server.take_frames();
    assert_eq!((frames[0].0, frames[0].1.as_slice()), (Class::Control, &b"heartbeat"[..]));
}

fn answers_from_within_the_handler(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    pair.client.transport.send(client, Class::Data, b"ping", &[]).expect("room");
    let mut rounds = 0;
    while rounds < 100 {
        pair.client.transport.post(crate::harness::now());
        pair.server.transport.poll(crate::harness::now(), 64, &mut |transport, event| {
            if let culvert_transport::Event::Frame { connection, bytes, .. } = event {
                transport.send(connection, Class::Data, bytes, &[]).expect("room");
            }
        });
        pair.server.transport.post(crate::harness::now());
        pair.client.transport.poll(crate::harness::now(), 64, &mut |transport, event| {
            if let culvert_transport::Event::Frame { connection, bytes, .. } = event {
                assert_eq!(bytes, b"ping");
                rounds += 1;
                transport.send(connection, Class::Data, bytes, &[]).expect("room");
            }
        });
    }
}

/// The harness sees to it that polling and posting copy no payload; this is about sending.
fn copies_nothing_but_for_the_wire(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let place = pair.client.place(client, 4);
    let content = pair.client.pages(4, 1);
    let copied = culvert_memory::page_bytes_copied();
    pair.client.transport.send(client, Class::Data, b"", &[(place, content)]).expect("room");
    let copied = culvert_memory::page_bytes_copied() - copied;
    assert_eq!(copied, pair.client.transport.counters().wire_copy_bytes);
    assert_eq!(copied, if scheme == Scheme::Shm { 4 * PAGE_SIZE as u64 } else { 0 });
    pair.until(|pair| pair.server.frames() == 1);
    assert!(is_pattern(&pair.server.take_frames()[0].2[0], 1));
    assert_eq!(pair.server.transport.counters().wire_copy_bytes, 0);
}

/// A leader sends the very page that it received on to a follower, and keeps it meanwhile.
fn forwards_a_landing_page(scheme: Scheme) {
    let (mut pair, server, client) = Pair::connected(scheme);
    let place = pair.client.place(client, 2);
    let content = pair.client.pages(2, 9);
    pair.client.transport.send(client, Class::Data, b"write", &[(place, content)]).expect("room");
    pair.until(|pair| pair.server.frames() == 1);
    let landed = pair.server.take_frames().remove(0).2.remove(0).freeze();
    let place = pair.server.place(server, 2);
    pair.server
        .transport
        .send(server, Class::Data, b"on", &[(place, landed.clone())])
        .expect("room");
    pair.until(|pair| pair.client.frames() == 1);
    assert!(is_pattern(&pair.client.take_frames()[0].2[0], 9));
    assert_eq!(
        pair.client.transport.connection_info(client).expect("open").credits,
        6,
        "it is still held"
    );
    drop(landed);
    pair.until(|pair| pair.client.transport.connection_info(client).expect("open").credits == 8);
}

/// Frames of one to four pages, as fast as credits allow, checked at the other end.
fn streams_in_both_directions(scheme: Scheme) {
    const COUNT: u32 = 3000;
    let (mut pair, server, client) = Pair::connected(scheme);
    let (mut sent, mut received) = ([0u32; 2], [0u32; 2]);
    while received != [COUNT; 2] {
        for (index, side, connection) in
            [(0, &mut pair.client, client), (1, &mut pair.server, server)]
        {
            while sent[index] < COUNT {
                let pages = 1 + sent[index] % 4;
                let Some(place) = side.transport.reserve(connection, pages) else { break };
                let content = side.pages(pages, sent[index] as u8);
                let frame = sent[index].to_le_bytes();
                if side
                    .transport
                    .send(connection, Class::Data, &frame, &[(place, content)])
                    .is_err()
                {
                    side.transport.cancel(connection, place);
                    break;
                }
                sent[index] += 1;
            }
            side.turn();
        }
        for (index, side) in [(0, &mut pair.server), (1, &mut pair.client)] {
            for (_, bytes, payloads) in side.take_frames() {
                assert_eq!(bytes, received[index].to_le_bytes());
                assert_eq!(payloads[0].pages(), 1 + received[index] % 4);
                assert!(is_pattern(&payloads[0], received[index] as u8));
                received[index] += 1;
            }
        }
    }
    pair.server.transport.close(server, "done");
    pair.until(|pair| pair.client.closed().is_some());
    pair.assert_nothing_lost();
}

fn respects_the_budget(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    for index in 0..20u8 {
        pair.client.transport.send(client, Class::Data, &[index], &[]).expect("room");
    }
    pair.client.transport.post(crate::harness::now());
    let mut next = 0;
    while next < 20 {
        let mut here = 0;
        let count = pair.server.transport.poll(crate::harness::now(), 3, &mut |_, event| {
            if let culvert_transport::Event::Frame { bytes, .. } = event {
                assert_eq!(bytes, [next]);
                next += 1;
            }
            here += 1;
        });
        assert!(count <= 3 && count == here);
    }
}

/// A page and its frame: a write and a send, one doorbell, one completion.
#[test]
fn a_page_and_its_frame_cost_one_doorbell() {
    if !crate::harness::has_rdma() {
        return;
    }
    let (mut pair, _, client) = Pair::connected(Scheme::Rdma);
    pair.settle();
    let place = pair.client.place(client, 1);
    let content = pair.client.pages(1, 1);
    let before = *pair.client.transport.counters();
    pair.client.transport.send(client, Class::Data, &[1; 100], &[(place, content)]).expect("room");
    pair.client.transport.post(crate::harness::now());
    let after = *pair.client.transport.counters();
    assert_eq!(after.work_requests - before.work_requests, 2);
    assert_eq!(after.chains_posted - before.chains_posted, 1);
    assert_eq!(after.work_requests_signalled - before.work_requests_signalled, 1);
    pair.until(|pair| pair.server.frames() == 1);
    assert!(is_pattern(&pair.server.take_frames()[0].2[0], 1));
}
