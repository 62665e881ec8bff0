//! Peers that lie: each costs itself its connection, and nobody else anything.

use std::io::Write;

use culvert_memory::PAGE_SIZE;
use culvert_transport::{
    Class, CloseReason, ConnectionId, Fault, SendError, Violation, WindowMode,
};

use crate::harness::{Pair, Scheme, Seen, options};
use crate::raw::{self, Peer, batch, record, runs};

crate::over_sockets!(
    refuses_malformed_records,
    refuses_places_outside_the_window,
    refuses_pages_used_twice,
    refuses_credits_for_nothing,
    refuses_notices_out_of_place,
    refuses_frames_beyond_the_limit,
    survives_garbage,
    takes_a_peer_that_behaves,
);

/// A server with one honest connection beside the raw peers.
struct Stage {
    pair: Pair,
    scheme: Scheme,
    honest: ConnectionId,
}

impl Stage {
    fn new(scheme: Scheme) -> Self {
        let (pair, _, honest) = Pair::connected(scheme);
        Self { pair, scheme, honest }
    }

    fn peer(&mut self) -> Peer {
        self.pair.server.seen.clear();
        Peer::new(self.scheme, &self.pair.address, &mut self.pair.server)
    }

    /// The raw peer's connection is closed for this violation, and the honest one still works.
    #[track_caller]
    fn expect(&mut self, violation: Violation, what: &str) {
        self.pair.until(|pair| pair.server.closed().is_some());
        assert_eq!(self.pair.server.closed(), Some(CloseReason::Violation(violation)), "{what}");
        assert_eq!(CloseReason::Violation(violation).fault(), Fault::Peer);
        self.honest_works();
    }

    #[track_caller]
    fn honest_works(&mut self) {
        self.pair.server.seen.clear();
        let place = self.pair.client.place(self.honest, 1);
        let content = self.pair.client.pages(1, 1);
        self.pair
            .client
            .transport
            .send(self.honest, Class::Data, b"honest", &[(place, content)])
            .expect("room");
        let is_honest =
            |seen: &Seen| matches!(seen, Seen::Frame { bytes, .. } if bytes == b"honest");
        self.pair.until(|pair| pair.server.seen.iter().any(is_honest));
        drop(self.pair.server.take_frames());
        let honest = self.honest;
        self.pair.until(|pair| {
            pair.client.transport.connection_info(honest).expect("open").credits == 8
        });
    }

    /// All pages of closed connections are back.
    #[track_caller]
    fn finish(mut self) {
        self.pair.client.transport.close(self.honest, "done");
        self.pair.until(|pair| pair.server.transport.connections().count() == 0);
        self.pair.assert_nothing_lost();
    }
}

fn refuses_malformed_records(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    let with = |at: usize, value: u8| {
        let mut bytes = record(1, &[], b"frame of a peer");
        bytes[at] = value;
        bytes
    };
    for (frames, violation) in [
        (with(0, 7), Violation::FrameLength { bytes: 7 }),
        (with(0, 0), Violation::FrameLength { bytes: 0 }),
        (with(1, 1), Violation::FrameLength { bytes: 0x117 }),
        (with(3, 0xff), Violation::FrameLength { bytes: 0xff00_0017 }),
        (with(4, 0), Violation::FrameKind { kind: 0 }),
        (with(4, 99), Violation::FrameKind { kind: 99 }),
        (with(6, 1), Violation::FrameMalformed),
        (with(5, 2), Violation::FrameLength { bytes: 23 }),
        (record(3, &[(0, 1)], b""), Violation::FrameMalformed),
        (record(3, &[], b"odd"), Violation::FrameMalformed),
        (record(4, &[], b"too long for a wish"), Violation::FrameMalformed),
    ] {
        let mut peer = stage.peer();
        peer.send(&frames, 0);
        stage.expect(violation, &format!("{frames:?}"));
    }
    stage.finish();
}

fn refuses_places_outside_the_window(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    for (page, pages) in [
        (8, 1),
        (0, 9),
        (7, 2),
        (u32::MAX, 1),
        (u32::MAX - 1, 256),
        (0, 257),
        (0, 0),
        (3, u16::MAX),
    ] {
        let mut peer = stage.peer();
        // A good payload before it in the same batch comes back all the same.
        let mut frames = record(1, &[(0, 1)], b"good");
        frames.extend(record(1, &[(2, 1), (page, pages)], b"bad"));
        peer.send(&frames, 2 + u32::from(pages.min(300)));
        stage.expect(
            Violation::Placement { page, pages: pages.into() },
            &format!("{pages} pages at {page}"),
        );
    }
    stage.finish();
}

fn refuses_pages_used_twice(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    let mut peer = stage.peer();
    peer.send(&record(1, &[(0, 2), (1, 1)], b"overlapping"), 3);
    stage.expect(Violation::PageReused { page: 1 }, "in one frame");
    let mut peer = stage.peer();
    peer.send(&record(1, &[(4, 2)], b"first"), 2);
    stage.pair.until(|pair| pair.server.frames() == 1);
    let held = stage.pair.server.take_frames();
    peer.send(&record(1, &[(5, 1)], b"again"), 1);
    stage.expect(Violation::PageReused { page: 5 }, "while the server holds it");
    assert_eq!(
        stage.pair.server.transport.retiring_windows(),
        1,
        "its window stays until the page is back"
    );
    drop(held);
    stage.finish();
}

fn refuses_credits_for_nothing(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    for (page, pages) in [(0, 1), (0, 9), (7, 2), (u32::MAX, 1), (100, 256)] {
        let mut peer = stage.peer();
        peer.send(&record(3, &[], &runs(&[(page, pages)])), 0);
        stage.expect(
            Violation::CreditOverrun { page, pages: pages.into() },
            &format!("{pages} at {page}"),
        );
    }
    // A credit given back twice.
    let mut peer = stage.peer();
    let server = stage.pair.server.connected().expect("just connected");
    let place = stage.pair.server.place(server, 1);
    let content = stage.pair.server.pages(1, 1);
    stage.pair.server.transport.send(server, Class::Data, b"", &[(place, content)]).expect("room");
    stage.pair.turn();
    peer.send(&record(3, &[], &runs(&[(place.page(), 1)])), 0);
    stage
        .pair
        .until(|pair| pair.server.transport.connection_info(server).expect("open").credits == 8);
    peer.send(&record(3, &[], &runs(&[(place.page(), 1)])), 0);
    stage.expect(Violation::CreditOverrun { page: place.page(), pages: 1 }, "twice");
    stage.finish();
}

fn refuses_notices_out_of_place(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    let body = [8u32.to_le_bytes(), 512u32.to_le_bytes()].concat();
    for kind in [5, 6] {
        let mut peer = stage.peer();
        peer.send(&record(kind, &[], &body), 0);
        stage.expect(Violation::NoticeOutOfPlace, &format!("kind {kind}"));
    }
    stage.finish();
}

fn refuses_frames_beyond_the_limit(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    let mut peer = stage.peer();
    peer.send(&record(1, &[], &vec![1; 8192]), 0);
    stage.pair.until(|pair| pair.server.frames() == 1);
    peer.send(&record(1, &[], &vec![1; 8193]), 0);
    stage.expect(Violation::FrameLength { bytes: 8193 }, "one byte more than allowed");
    let mut peer = stage.peer();
    peer.send(&record(2, &[], &vec![1; 4096]), 0);
    stage.expect(Violation::FrameLength { bytes: 4096 }, "more than half of the control queue");
    stage.finish();
}

fn survives_garbage(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..60 {
        let mut peer = stage.peer();
        let length = 8 * (1 + random() as usize % 64);
        let mut frames: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        if round % 2 == 0 {
            // Garbage in an envelope that looks right.
            let kind = (1 + random() % 6) as u8;
            frames = record(kind, &[(random() as u32 % 10, random() as u16 % 5)], &frames);
        }
        peer.send(&frames, (random() % 4) as u32);
        for _ in 0..20 {
            stage.pair.turn();
        }
        drop(peer);
        stage.pair.until(|pair| pair.server.transport.connections().count() == 1);
        stage.honest_works();
    }
    stage.finish();
}

/// The raw peers of this file are refused for what they do wrong, not for what they are.
fn takes_a_peer_that_behaves(scheme: Scheme) {
    let mut stage = Stage::new(scheme);
    let mut peer = stage.peer();
    for _ in 0..100 {
        let mut frames = record(1, &[(0, 3), (5, 1)], b"good");
        frames.extend(record(2, &[], b"control"));
        peer.send(&frames, 4);
        stage.pair.until(|pair| pair.server.frames() == 2);
        assert_eq!(stage.pair.server.take_frames()[0].2.len(), 2);
        stage.pair.turn();
    }
    stage.honest_works();
    assert_eq!(stage.pair.server.closed(), None);
    drop(peer);
    stage.pair.until(|pair| pair.server.transport.connections().count() == 1);
    stage.finish();
}

#[test]
fn tcp_refuses_lying_batches() {
    let mut stage = Stage::new(Scheme::Tcp);
    let good = || batch(&record(1, &[(0, 1)], b"frame"), 1);
    let with = |at: usize, value: u8| {
        let mut bytes = good();
        bytes[at] = value;
        bytes
    };
    let frames = record(1, &[(0, 1)], b"frame");
    for (bytes, violation) in [
        (with(0, b'X'), Violation::BatchMagic),
        (with(4, 1), Violation::BatchTooLong { bytes: 1 }),
        (with(7, 0x7f), Violation::BatchTooLong { bytes: 0x7f00_0018 }),
        (with(12, 1), Violation::BatchChecksum),
        (with(20, 9), Violation::BatchChecksum),
        (batch(&frames, 2), Violation::BatchPayload { announced: 2, counted: 1 }),
        (batch(&frames, 0), Violation::BatchPayload { announced: 0, counted: 1 }),
        (batch(&frames, u32::MAX), Violation::BatchPayload { announced: u32::MAX, counted: 1 }),
        (batch(&[], 0), Violation::BatchTooLong { bytes: 0 }),
        // A frame that goes on beyond the batch.
        (batch(&record(1, &[], &[0; 100])[..64], 0), Violation::FrameLength { bytes: 108 }),
    ] {
        let Peer::Tcp(mut stream) = stage.peer() else { unreachable!("over TCP") };
        stream.write_all(&bytes).expect("room");
        stage.expect(violation, &format!("{:?}", &bytes[..40]));
    }
    stage.finish();
}

#[test]
fn tcp_takes_back_pages_of_a_payload_cut_off() {
    let mut stage = Stage::new(Scheme::Tcp);
    let full = {
        let mut bytes = batch(&record(1, &[(0, 2), (3, 4)], b"frame"), 6);
        bytes.resize(bytes.len() + 6 * PAGE_SIZE, 1);
        bytes
    };
    for cut in [1, 15, 16, 100, 255, 256, 257, 256 + PAGE_SIZE, 256 + 5 * PAGE_SIZE, full.len() - 1]
    {
        let Peer::Tcp(mut stream) = stage.peer() else { unreachable!("over TCP") };
        stream.write_all(&full[..cut]).expect("room");
        for _ in 0..5 {
            stage.pair.turn();
        }
        assert_eq!(stage.pair.server.frames(), 0, "nothing is delivered before it is whole");
        drop(stream);
        stage.pair.until(|pair| pair.server.closed().is_some());
        assert_eq!(stage.pair.server.closed(), Some(CloseReason::PeerVanished), "cut after {cut}");
        stage.honest_works();
    }
    stage.finish();
}

/// Every byte in a read of its own: the same frames come out.
#[test]
fn tcp_takes_a_trickle() {
    let mut stage = Stage::new(Scheme::Tcp);
    let Peer::Tcp(mut stream) = stage.peer() else { unreachable!("over TCP") };
    stream.set_nodelay(true).expect("an option");
    let mut bytes = batch(&record(1, &[(2, 1)], &[7; 300]), 1);
    bytes.resize(bytes.len() + PAGE_SIZE, 1);
    bytes.extend(batch(&record(1, &[], b"second"), 0));
    for piece in bytes.chunks(13) {
        stream.write_all(piece).expect("room");
        stage.pair.turn();
    }
    stage.pair.until(|pair| pair.server.frames() == 2);
    let frames = stage.pair.server.take_frames();
    assert_eq!((frames[0].1.len(), frames[0].2[0].pages()), (300, 1));
    assert_eq!(frames[1].1, b"second");
}

#[test]
fn shm_refuses_lying_indices() {
    let mut stage = Stage::new(Scheme::Shm);
    let ring = raw::DATA_RING as u32;
    for (at, tail, allowed) in [
        (raw::DATA_TAIL, ring + 8, ring),
        (raw::DATA_TAIL, u32::MAX, ring),
        (raw::CONTROL_TAIL, raw::CONTROL_RING as u32 + 1, raw::CONTROL_RING as u32),
    ] {
        let Peer::Shm(mut peer) = stage.peer() else { unreachable!("over shared memory") };
        peer.set_tail(at, tail);
        stage.expect(
            Violation::RingIndex { index: tail, held: 0, allowed },
            &format!("{tail} at {at}"),
        );
    }
    // A tail in the middle of a record, and a record longer than what is in the ring.
    for (tail, bytes) in [(4, 4), (16, 24)] {
        let Peer::Shm(mut peer) = stage.peer() else { unreachable!("over shared memory") };
        peer.push(&record(1, &[], b"sixteen bytes ok"));
        peer.set_tail(raw::DATA_TAIL, tail);
        stage.expect(Violation::FrameLength { bytes }, &format!("tail {tail}"));
    }
    // A head beyond what was ever produced.
    let Peer::Shm(peer) = stage.peer() else { unreachable!("over shared memory") };
    let server = stage.pair.server.connected().expect("just connected");
    peer.own_rings.store_release_u32(raw::DATA_HEAD, 1 << 20);
    let mut sent = Ok(());
    while sent.is_ok() {
        sent = stage.pair.server.transport.send(server, Class::Data, &[0; 4000], &[]);
    }
    assert_eq!(sent, Err(SendError::Closed), "the index is looked at when the ring seems full");
    stage.pair.until(|pair| pair.server.closed().is_some());
    let reason = stage.pair.server.closed();
    assert!(
        matches!(
            reason,
            Some(CloseReason::Violation(Violation::RingIndex { index: 0x10_0000, .. }))
        ),
        "{reason:?}"
    );
    stage.honest_works();
    stage.finish();
}

#[test]
fn shm_refuses_bad_files() {
    let mut stage = Stage::new(Scheme::Shm);
    let rings_bytes = raw::DATA_RING_AT + raw::DATA_RING;
    let rings = raw::memory(rings_bytes, true);
    let window = raw::memory(8 * PAGE_SIZE, true);
    let unsealed_rings = raw::memory(rings_bytes, false);
    let unsealed_window = raw::memory(8 * PAGE_SIZE, false);
    let short = raw::memory(4 * PAGE_SIZE, true);
    let socket = raw::shm_socket(&stage.pair.address);
    for (what, files) in [
        ("no files", vec![]),
        ("no window", vec![rings.fd()]),
        ("unsealed rings", vec![unsealed_rings.fd(), window.fd()]),
        ("unsealed window", vec![rings.fd(), unsealed_window.fd()]),
        ("short window", vec![rings.fd(), short.fd()]),
        ("short rings", vec![short.fd(), window.fd()]),
        ("swapped", vec![window.fd(), rings.fd()]),
        ("no memory", vec![std::os::fd::AsFd::as_fd(&socket), window.fd()]),
    ] {
        let failed = stage.pair.server.transport.counters().handshakes_failed;
        let socket = raw::shm_socket(&stage.pair.address);
        raw::send(&socket, &raw::hello(1), &[]);
        raw::receive(&socket, &mut stage.pair.server).expect("a Hello");
        raw::send(&socket, &raw::confirm(8), &files);
        stage.pair.until(|pair| pair.server.transport.counters().handshakes_failed > failed);
        assert!(
            stage.pair.server.seen.iter().all(|seen| !matches!(seen, Seen::Closed { .. })),
            "{what}"
        );
        stage.honest_works();
    }
    drop(socket);
    stage.finish();
}

#[test]
fn shm_refuses_bad_notices() {
    let mut stage = Stage::new(Scheme::Shm);
    let file = raw::memory(PAGE_SIZE, true);
    let grant = |page: u32, pages: u32| {
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&page.to_le_bytes());
        bytes.extend_from_slice(&pages.to_le_bytes());
        bytes
    };
    for (bytes, with_file, violation) in [
        (vec![1; 16], false, Violation::FrameMalformed),
        (vec![1], false, Violation::FrameMalformed),
        (vec![1; 17], false, Violation::FrameMalformed),
        (grant(8, 512), true, Violation::NoticeOutOfPlace),
        (
            {
                let mut wake = vec![0; 16];
                wake[0] = 1;
                wake
            },
            true,
            Violation::NoticeOutOfPlace,
        ),
    ] {
        let Peer::Shm(peer) = stage.peer() else { unreachable!("over shared memory") };
        let files = if with_file { vec![file.fd(), file.fd(), file.fd()] } else { vec![] };
        raw::send(&peer.socket, &bytes, &files);
        stage.expect(violation, &format!("{bytes:?}"));
    }
    stage.finish();
}

/// A peer that keeps its own promises about its window is not believed about it either.
#[test]
fn shm_refuses_a_grant_that_was_asked_for_but_lies() {
    let mut stage = Stage::new(Scheme::Shm);
    let file = raw::memory(4 * PAGE_SIZE, true);
    for (page, pages, with_file, violation) in [
        (9u32, 4u32, true, Violation::Grant { page: 9, pages: 4 }),
        (8, 1017, true, Violation::Grant { page: 8, pages: 1017 }),
        (8, 5, true, Violation::SharedMemory),
        (8, 4, false, Violation::SharedMemory),
        (8, u32::MAX, true, Violation::Grant { page: 8, pages: u32::MAX }),
    ] {
        let Peer::Shm(peer) = stage.peer() else { unreachable!("over shared memory") };
        let server = stage.pair.server.connected().expect("just connected");
        assert_eq!(stage.pair.server.transport.reserve(server, 9), None, "so it asks");
        stage.pair.turn();
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&page.to_le_bytes());
        bytes.extend_from_slice(&pages.to_le_bytes());
        let files = if with_file { vec![file.fd()] } else { vec![] };
        raw::send(&peer.socket, &bytes, &files);
        stage.expect(violation, &format!("{pages} at {page}"));
    }
    stage.finish();
}

/// Writes without end into the socket and the rings cost the others nothing.
#[test]
fn shm_bounds_what_a_busy_peer_takes() {
    let mut stage = Stage::new(Scheme::Shm);
    let Peer::Shm(mut peer) = stage.peer() else { unreachable!("over shared memory") };
    rustix::io::ioctl_fionbio(&peer.socket, true).expect("non-blocking");
    let mut wake = vec![0; 16];
    wake[0] = 1;
    for _ in 0..50 {
        for _ in 0..100 {
            raw::send(&peer.socket, &wake, &[]);
        }
        for _ in 0..100 {
            peer.push(&record(1, &[], b""));
        }
        stage.honest_works();
    }
    drop(peer);
    stage.pair.until(|pair| pair.server.transport.connections().count() == 1);
    stage.finish();
}

/// A peer that changes its rings while they are read: what was checked is what is used.
#[test]
fn shm_survives_rings_that_change_under_its_eyes() {
    let mut stage = Stage::new(Scheme::Shm);
    for round in 0..20u32 {
        let Peer::Shm(peer) = stage.peer() else { unreachable!("over shared memory") };
        // The same memory once more, for a thread of its own.
        let file = rustix::io::fcntl_dupfd_cloexec(&peer.rings_file, 0).expect("a descriptor");
        let bytes = raw::DATA_RING_AT + raw::DATA_RING;
        let writer = std::thread::spawn(move || {
            let mapping = culvert_memory::Mapping::from_fd(file, bytes).expect("the same file");
            let rings = culvert_memory::SharedBytes::of_mapping(std::rc::Rc::new(mapping));
            let frames = record(1, &[(round % 8, 1)], &[1; 48]);
            let mut tail = 0u32;
            for step in 0..20_000u32 {
                let at = raw::DATA_RING_AT + tail as usize % raw::DATA_RING;
                let room = (bytes - at).min(frames.len());
                rings.write_bytes(at, &frames[..room]);
                tail = tail.wrapping_add(frames.len() as u32);
                rings.store_release_u32(raw::DATA_TAIL, tail);
                // Lengths, counts and places of what was just shown.
                rings.write_u32(at, step % 200);
                rings.write_u32(at + 8 * (step as usize % 4), step.wrapping_mul(0x9e37_79b9));
            }
        });
        while !writer.is_finished() {
            stage.pair.turn();
            stage.pair.server.take_frames();
        }
        writer.join().expect("it only writes");
        drop(peer);
        stage.pair.until(|pair| pair.server.transport.connections().count() == 1);
        stage.honest_works();
    }
    stage.finish();
}

/// A slow reader must not hold the server's pages for ever.
#[test]
fn tcp_resets_a_peer_that_does_not_read() {
    let mut server = options(1);
    server.unsent_pages_max = 600;
    let mut client = options(2);
    client.window_pages_max = 1024;
    let mut pair = Pair::with(Scheme::Tcp, server, client);
    let (server, client) = pair.connect(WindowMode::Named);
    let content = pair.server.pages(8, 1);
    let place = culvert_transport::Placement::named(0, 8).expect("eight");
    let mut result = Ok(());
    for _ in 0..10_000 {
        result = pair.server.transport.send(server, Class::Data, b"", &[(place, content.clone())]);
        pair.server.transport.post(crate::harness::now());
        match result {
            Ok(()) | Err(SendError::Full) => {}
            Err(_) => break,
        }
    }
    assert_eq!(result, Err(SendError::Closed));
    assert_eq!(content.users(), 1, "every page came back at once");
    pair.server.turn();
    assert_eq!(pair.server.closed(), Some(CloseReason::UnsentBound));
    pair.until(|pair| pair.client.closed().is_some());
    assert!(pair.client.transport.connection_info(client).is_none());
}
