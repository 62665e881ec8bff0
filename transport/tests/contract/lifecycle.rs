//! How connections begin and end.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use culvert_transport::{
    Address, Class, CloseReason, ConnectError, Event, ListenError, OptionsError, SendError,
    Transport, WindowMode,
};

use crate::harness::{Pair, Scheme, Seen, Side, is_pattern, now, options};

crate::over_backends!(
    closes_once_and_for_all,
    delivers_what_was_sent_before_the_close,
    hands_back_what_was_queued,
    notices_a_dropped_transport,
    notices_a_killed_process,
    fails_to_connect_to_nobody,
    refuses_a_second_listener,
    holds_many_connections,
    tells_of_a_connection_before_its_frames,
    leaks_nothing,
);

fn closes_once_and_for_all(scheme: Scheme) {
    let (mut pair, server, client) = Pair::connected(scheme);
    pair.client.transport.close(client, "done");
    pair.client.transport.close(client, "again");
    assert_eq!(pair.client.transport.send(client, Class::Data, b"", &[]), Err(SendError::Closed));
    assert_eq!(pair.client.transport.reserve(client, 1), None);
    assert!(pair.client.transport.connection_info(client).is_none());
    pair.until(|pair| pair.server.closed().is_some());
    pair.settle();
    assert_eq!((pair.client.closed_ids(), pair.server.closed_ids()), (vec![client], vec![server]));
    assert_eq!(pair.client.closed(), Some(CloseReason::Caller("done")));
    assert_eq!(pair.server.closed(), Some(CloseReason::PeerClosed));
    pair.client.seen.clear();
    let (_, again) = pair.connect(WindowMode::Granted);
    assert_eq!(again.slot(), client.slot());
    assert_ne!(again, client, "an id is never used again");
    pair.client.transport.close(client, "long gone");
    assert!(pair.client.transport.connection_info(again).is_some());
    pair.client.transport.close(again, "done");
    pair.settle();
    pair.assert_nothing_lost();
}

fn delivers_what_was_sent_before_the_close(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let place = pair.client.place(client, 4);
    let content = pair.client.pages(4, 1);
    pair.client.transport.send(client, Class::Data, b"goodbye", &[(place, content)]).expect("room");
    pair.client.transport.close(client, "done");
    pair.until(|pair| pair.server.closed().is_some());
    let frames = pair.server.take_frames();
    assert_eq!(frames[0].1, b"goodbye");
    assert!(is_pattern(&frames[0].2[0], 1));
    assert_eq!(pair.server.transport.retiring_windows(), 1);
    drop(frames);
    pair.assert_nothing_lost();
}

/// Frames under way in both directions, pages held by the handler: all come back.
fn hands_back_what_was_queued(scheme: Scheme) {
    let (mut pair, server, client) = Pair::connected(scheme);
    for round in 0..4 {
        let place = pair.client.place(client, 1);
        let content = pair.client.pages(1, round);
        pair.client
            .transport
            .send(client, Class::Data, b"held", &[(place, content)])
            .expect("room");
    }
    pair.until(|pair| pair.server.frames() == 4);
    let held = pair.server.take_frames();
    for round in 0..4 {
        let place = pair.client.place(client, 1);
        let content = pair.client.pages(1, round);
        pair.client
            .transport
            .send(client, Class::Data, b"unread", &[(place, content)])
            .expect("room");
        let place = pair.server.place(server, 1);
        let content = pair.server.pages(1, round);
        pair.server
            .transport
            .send(server, Class::Data, b"unsent", &[(place, content)])
            .expect("room");
    }
    pair.client.transport.post(crate::harness::now());
    pair.server.transport.close(server, "done");
    pair.until(|pair| pair.client.closed().is_some());
    drop(held);
    pair.assert_nothing_lost();
}

fn notices_a_dropped_transport(scheme: Scheme) {
    let (mut pair, _, _) = Pair::connected(scheme);
    let gone = std::mem::replace(&mut pair.client, Side::new(options(3)));
    drop(gone.transport);
    pair.until(|pair| pair.server.closed().is_some());
    assert!(matches!(pair.server.closed(), Some(CloseReason::PeerClosed | CloseReason::Io(_))));
    pair.assert_nothing_lost();
}

/// What the killed process does: it connects and sends without end.
#[test]
#[ignore = "run by notices_a_killed_process in a process of its own"]
fn child_sends_for_ever() {
    let address: Address = std::env::var("CULVERT_TEST_ADDRESS")
        .expect("set by the parent")
        .parse()
        .expect("an address");
    let mut side = Side::new(options(2));
    let client = side.transport.connect(&address, WindowMode::Granted).expect("the parent listens");
    loop {
        side.turn();
        while let Some(place) = side.transport.reserve(client, 2) {
            let content = side.pages(2, place.page() as u8);
            if side
                .transport
                .send(client, Class::Data, b"from the child", &[(place, content)])
                .is_err()
            {
                side.transport.cancel(client, place);
                break;
            }
        }
    }
}

fn child(test: &str, address: &str) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--ignored", "--test-threads=1", "--nocapture"])
        .env("CULVERT_TEST_ADDRESS", address)
        .stdout(Stdio::null())
        .spawn()
        .expect("a process")
}

fn notices_a_killed_process(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    for round in 0..3 {
        pair.server.seen.clear();
        let mut child = child("lifecycle::child_sends_for_ever", &pair.address.to_string());
        let mut frames = 0;
        let mut held = Vec::new();
        while frames < 500 + round * 100 {
            pair.server.turn();
            for (_, bytes, payloads) in pair.server.take_frames() {
                assert_eq!(bytes, b"from the child");
                frames += 1;
                held = payloads;
            }
        }
        child.kill().expect("it was alive");
        child.wait().expect("it is dead");
        pair.until(|pair| pair.server.closed().is_some());
        let reason = pair.server.closed().expect("just seen");
        let expected = [
            CloseReason::PeerClosed,
            CloseReason::PeerVanished,
            CloseReason::Io(rustix::io::Errno::CONNRESET),
        ];
        assert!(expected.contains(&reason), "{reason}");
        pair.server.take_frames();
        drop(held);
    }
    pair.assert_nothing_lost();
}

fn fails_to_connect_to_nobody(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let nobody = match scheme {
        Scheme::Shm => "shm:///nonexistent/culvert.sock".parse().expect("an address"),
        Scheme::Tcp => {
            let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            Address::Tcp(gone.local_addr().expect("bound"))
        }
        Scheme::Rdma => {
            let Address::Rdma(address) = &pair.address else { panic!("{}", pair.address) };
            Address::Rdma(std::net::SocketAddr::new(address.ip(), 9))
        }
    };
    match pair.client.transport.connect(&nobody, WindowMode::Granted) {
        Err(ConnectError::Io { .. }) => assert_eq!(scheme, Scheme::Shm),
        Err(error) => panic!("{error}"),
        Ok(connection) => {
            pair.until(|pair| pair.client.closed().is_some());
            assert!(matches!(pair.client.closed(), Some(CloseReason::Io(_))));
            assert_eq!(pair.client.closed_ids(), [connection]);
        }
    }
    pair.assert_nothing_lost();
}

fn refuses_a_second_listener(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    assert!(matches!(pair.client.transport.listen(&pair.address), Err(ListenError::InUse)));
    if let (Scheme::Shm, Address::Shm(path)) = (scheme, &pair.address) {
        // A socket file whose process is gone is replaced; anything else is left alone.
        let stale = path.with_extension("stale");
        drop(std::os::unix::net::UnixListener::bind(&stale).expect("a free path"));
        pair.client.transport.listen(&Address::Shm(stale)).expect("nobody is there");
        let file = path.with_extension("file");
        std::fs::write(&file, "precious").expect("a file");
        assert!(matches!(
            pair.client.transport.listen(&Address::Shm(file.clone())),
            Err(ListenError::InUse)
        ));
        assert_eq!(std::fs::read(file).expect("still there"), b"precious");
    }
}

/// A server that speaks at once, and a client that is slow to listen.
fn tells_of_a_connection_before_its_frames(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    pair.client.transport.connect(&pair.address, WindowMode::Granted).expect("somebody listens");
    let mut sent = None;
    let is_late = |sent: Option<Instant>| sent.is_some_and(|at| at.elapsed().as_millis() > 100);
    while !is_late(sent) {
        if sent.is_none() {
            pair.client.turn();
        }
        for _ in 0..20 {
            pair.server.transport.poll(now(), 64, &mut |server, event| {
                if let Event::Connected { connection, .. } = event {
                    server.send(connection, Class::Data, b"at once", &[]).expect("room");
                    sent = Some(Instant::now());
                }
            });
            pair.server.transport.post(now());
        }
    }
    pair.until(|pair| pair.client.frames() == 1);
    assert!(matches!(pair.client.seen[0], Seen::Connected { .. }), "{:?}", pair.client.seen);
}

fn holds_many_connections(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(pair.connect(WindowMode::Granted).1);
    }
    for round in 0..20u8 {
        for (index, client) in clients.iter().enumerate() {
            let place = pair.client.place(*client, 1);
            let content = pair.client.pages(1, index as u8 ^ round);
            pair.client
                .transport
                .send(*client, Class::Data, &[index as u8], &[(place, content)])
                .expect("room");
        }
        pair.until(|pair| pair.server.frames() == 64);
        for (_, bytes, payloads) in pair.server.take_frames() {
            assert!(is_pattern(&payloads[0], bytes[0] ^ round));
        }
    }
    for client in clients {
        pair.client.transport.close(client, "done");
    }
    pair.until(|pair| pair.server.transport.connections().count() == 0);
    pair.assert_nothing_lost();
}

fn leaks_nothing(scheme: Scheme) {
    // In a process of its own, because it counts descriptors.
    let address = match scheme {
        Scheme::Shm => "shm",
        Scheme::Tcp => "tcp",
        Scheme::Rdma => "rdma",
    };
    let status =
        child("lifecycle::child_connects_and_disconnects", address).wait().expect("it ends");
    assert!(status.success());
}

/// What processes have on RDMA devices, as the kernel counts it: queue pairs, regions and the rest.
fn device_resources(scheme: Scheme) -> String {
    if scheme != Scheme::Rdma {
        return String::new();
    }
    let counted = Command::new("rdma").args(["resource", "show"]).output();
    let counted = counted.expect("the tool rdma of iproute2").stdout;
    assert!(!counted.is_empty(), "there is a device");
    String::from_utf8(counted).expect("text")
}

/// Identifiers of connections that have ended stay for a while, for their peers to hear of it.
fn wait_for_the_end_of_identifiers(pair: &mut Pair, scheme: Scheme) {
    let is_over = |pair: &Pair| {
        let due = |side: &Side| side.transport.next_deadline().is_none();
        scheme != Scheme::Rdma || (due(&pair.server) && due(&pair.client))
    };
    pair.until(is_over);
}

/// Bytes that processes have registered with RDMA devices, as the kernel counts them.
fn registered_bytes() -> u64 {
    let listed = std::process::Command::new("rdma").args(["resource", "show", "mr"]).output();
    let listed = listed.expect("the tool rdma of iproute2").stdout;
    let listed = String::from_utf8(listed).expect("text");
    let mut words = listed.split_whitespace();
    let mut bytes = 0;
    while words.any(|word| word == "mrlen") {
        bytes += words.next().expect("a length").parse::<u64>().expect("a number");
    }
    bytes
}

#[test]
fn rdma_idle_connections_register_little() {
    if !crate::harness::has_rdma() {
        return;
    }
    let mut pair = Pair::new(Scheme::Rdma);
    let before = registered_bytes();
    const CONNECTIONS: u64 = 64;
    for _ in 0..CONNECTIONS {
        pair.connect(WindowMode::Granted);
    }
    // Each connection has two sides, and both are here.
    let each = (registered_bytes() - before) / (2 * CONNECTIONS);
    println!("{each} bytes registered for an idle connection");
    assert!((32 << 10..=64 << 10).contains(&each), "{each} bytes");
}

#[test]
#[ignore = "run by leaks_nothing in a process of its own"]
fn child_connects_and_disconnects() {
    let scheme = match std::env::var("CULVERT_TEST_ADDRESS").expect("set by the parent").as_str() {
        "shm" => Scheme::Shm,
        "rdma" => Scheme::Rdma,
        _ => Scheme::Tcp,
    };
    let quick = cfg!(debug_assertions) && scheme != Scheme::Rdma;
    let cycles = if quick { 300 } else { 2000 };
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("Linux").count();
    let mappings = || std::fs::read_to_string("/proc/self/maps").expect("Linux").lines().count();
    let mut pair = Pair::new(scheme);
    let mut before = (0, 0, String::new());
    for cycle in 0..cycles {
        pair.client.seen.clear();
        pair.server.seen.clear();
        let window = if cycle % 2 == 0 { WindowMode::Granted } else { WindowMode::Named };
        let (server, client) = pair.connect(window);
        let place = pair.client.place(client, 2);
        let content = pair.client.pages(2, 1);
        pair.client
            .transport
            .send(client, Class::Data, b"frame", &[(place, content)])
            .expect("room");
        if cycle % 3 > 0 {
            pair.until(|pair| pair.server.frames() == 1);
        }
        match cycle % 4 {
            0 | 1 => pair.client.transport.close(client, "done"),
            _ => pair.server.transport.close(server, "done"),
        }
        pair.until(|pair| pair.client.closed().is_some() && pair.server.closed().is_some());
        if cycle == 10 {
            pair.assert_nothing_lost();
            wait_for_the_end_of_identifiers(&mut pair, scheme);
            before = (descriptors(), mappings(), device_resources(scheme));
        }
    }
    pair.assert_nothing_lost();
    wait_for_the_end_of_identifiers(&mut pair, scheme);
    assert_eq!(descriptors(), before.0, "descriptors");
    assert_eq!(device_resources(scheme), before.2, "what the kernel has made on RDMA devices");
    assert!(mappings() <= before.1 + 8, "{} mappings, {} before", mappings(), before.1);
}

#[test]
fn checks_its_options() {
    let check = |change: fn(&mut culvert_transport::TransportOptions)| {
        let mut options = options(1);
        change(&mut options);
        Transport::new(options).map(drop)
    };
    assert!(check(|_| ()).is_ok());
    assert!(matches!(
        check(|options| options.connections_max = 0),
        Err(OptionsError::OutOfRange { .. })
    ));
    assert!(matches!(
        check(|options| options.frame_bytes_max = 1 << 20),
        Err(OptionsError::OutOfRange { .. })
    ));
    assert!(matches!(
        check(|options| options.data_queue_bytes = 5000),
        Err(OptionsError::NotAPowerOfTwo { .. })
    ));
    assert!(matches!(
        check(|options| options.window_pages_initial = 2000),
        Err(OptionsError::OutOfRange { .. })
    ));
    assert!(matches!(
        check(|options| options.pre_shared_key = Some(Vec::new())),
        Err(OptionsError::EmptyKey)
    ));
    assert!(check(|options| options.handshake_timeout = Duration::MAX).is_ok());
}
