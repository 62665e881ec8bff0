//! Sleeping and being woken, with real threads.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use culvert_transport::{Address, Class, Event, Transport, WindowMode};
use rustix::event::{PollFd, PollFlags};

use crate::harness::{Pair, Scheme, now, options};

crate::over_backends!(
    wakes_a_sleeping_server,
    does_not_fall_asleep_over_work,
    wakes_a_sender_that_waits_for_room,
    wakes_for_credits,
    sleeps_beside_a_paused_peer,
    stays_asleep_when_nothing_happens,
);

/// Sleeps on the descriptor like a reactor, at most `limit`; whether it was woken.
fn sleep(transport: &mut Transport, limit: Duration) -> bool {
    if !transport.prepare_sleep() {
        transport.finish_sleep();
        return true;
    }
    let timeout = rustix::event::Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    let fd = transport.wake_fd();
    let woken = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))
        .expect("poll")
        > 0;
    transport.finish_sleep();
    woken
}

/// An echo server that sleeps whenever it can; it ends with its only connection. Returns how often
/// it slept.
fn echo_server(address: Address, ready: mpsc::Sender<Address>) -> u32 {
    let mut transport = Transport::new(options(1)).expect("options");
    ready.send(transport.listen(&address).expect("a free address")).expect("the test waits");
    let (mut open, mut sleeps) = (true, 0);
    let start = Instant::now();
    while open {
        assert!(start.elapsed() < Duration::from_secs(30), "the test has hung");
        let count = transport.poll(now(), 64, &mut |transport, event| match event {
            Event::Frame { connection, class, bytes, .. } => {
                transport.send(connection, class, bytes, &[]).expect("room for an echo");
            }
            Event::Closed { .. } => open = false,
            _ => {}
        });
        transport.post(now());
        if count == 0 && open {
            sleeps += 1;
            assert!(
                sleep(&mut transport, Duration::from_secs(10)),
                "something comes within ten seconds"
            );
        }
    }
    sleeps
}

fn wakes_a_sleeping_server(scheme: Scheme) {
    let directory = tempfile::TempDir::new().expect("a directory");
    let wanted = scheme.address(directory.path());
    let (sender, receiver) = mpsc::channel();
    let server = std::thread::spawn(move || echo_server(wanted, sender));
    let address = receiver.recv().expect("the server listens");
    let mut client = Transport::new(scheme.client(options(2))).expect("options");
    let connection = client.connect(&address, WindowMode::Granted).expect("somebody listens");
    let wait = |client: &mut Transport, frames: bool| {
        let (start, mut seen) = (Instant::now(), false);
        while !seen {
            assert!(start.elapsed() < Duration::from_secs(10), "it never came");
            client.poll(now(), 64, &mut |_, event| match event {
                Event::Connected { .. } => seen |= !frames,
                Event::Frame { .. } => seen |= frames,
                event => panic!("{event:?}"),
            });
            client.post(now());
        }
        start.elapsed()
    };
    wait(&mut client, false);
    for round in 0..20 {
        // Long enough for the server to fall asleep, sometimes just about.
        std::thread::sleep(Duration::from_micros(if round < 10 { 5000 } else { round * 20 }));
        client.send(connection, Class::Data, b"wake up", &[]).expect("room");
        client.post(now());
        let took = wait(&mut client, true);
        assert!(took < Duration::from_secs(2), "woken after {took:?}");
    }
    if scheme == Scheme::Shm {
        let doorbells = client.counters().doorbells;
        assert!((10..=20).contains(&doorbells), "{doorbells} doorbells for 20 frames");
    }
    client.close(connection, "done");
    assert!(server.join().expect("the server ends well") >= 10);
}

fn does_not_fall_asleep_over_work(scheme: Scheme) {
    let (mut pair, server, client) = Pair::connected(scheme);
    pair.settle();
    pair.client.transport.send(client, Class::Data, b"before", &[]).expect("room");
    pair.client.transport.post(now());
    if scheme == Scheme::Shm {
        assert!(!pair.server.transport.prepare_sleep(), "a frame is in the ring");
    }
    assert!(sleep(&mut pair.server.transport, Duration::from_secs(10)));
    pair.until(|pair| pair.server.frames() == 1);
    // What was sent and not posted leaves before the sleep.
    pair.server.transport.send(server, Class::Data, b"unposted", &[]).expect("room");
    sleep(&mut pair.server.transport, Duration::from_millis(1));
    pair.client.turn();
    pair.until(|pair| pair.client.frames() == 1);
}

/// A sender whose queue is full sleeps; the receiver, by taking frames, wakes it.
fn wakes_a_sender_that_waits_for_room(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let mut sent = 0;
    loop {
        while pair.client.transport.send(client, Class::Data, &[1; 4000], &[]).is_ok() {
            sent += 1;
        }
        pair.client.transport.post(now());
        pair.client.transport.poll(now(), 64, &mut |_, _| {});
        if pair.client.transport.send(client, Class::Data, &[1; 4000], &[]).is_err()
            && pair.client.transport.prepare_sleep()
        {
            break;
        }
        pair.client.transport.finish_sleep();
        sent +=
            usize::from(pair.client.transport.send(client, Class::Data, &[1; 4000], &[]).is_ok());
    }
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let woken = |pair: &Pair| {
        let fd = pair.client.transport.wake_fd();
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).expect("poll")
            > 0
    };
    assert!(!woken(&pair), "nothing has happened yet, {sent} frames are under way");
    let start = Instant::now();
    while !woken(&pair) {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came");
        pair.server.turn();
    }
    pair.client.transport.finish_sleep();
    pair.until(|pair| pair.client.writable() > 0);
    pair.client.transport.send(client, Class::Data, b"again", &[]).expect("room");
}

fn wakes_for_credits(scheme: Scheme) {
    let (mut pair, _, client) = Pair::connected(scheme);
    let place = pair.client.place(client, 8);
    let content = pair.client.pages(8, 1);
    pair.client.transport.send(client, Class::Data, b"", &[(place, content)]).expect("room");
    pair.until(|pair| pair.server.frames() == 1);
    pair.settle();
    let held = pair.server.take_frames();
    assert!(pair.client.transport.prepare_sleep());
    drop(held);
    pair.server.turn();
    pair.server.transport.prepare_sleep();
    pair.server.transport.finish_sleep();
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let fd = pair.client.transport.wake_fd();
    assert_eq!(rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)), Ok(1));
    pair.client.transport.finish_sleep();
    pair.until(|pair| pair.client.transport.connection_info(client).expect("open").credits == 8);
}

/// A peer that takes nothing any more must not keep us awake with the credits that we owe it.
fn sleeps_beside_a_paused_peer(scheme: Scheme) {
    let mut server = options(1);
    server.window_pages_initial = 1024;
    let mut pair = Pair::with(scheme, server, options(2));
    let (_, client) = pair.connect(WindowMode::Granted);
    let content = pair.client.pages(1, 1);
    for _ in 0..1024 {
        let place = pair.client.place(client, 1);
        pair.client
            .transport
            .send(client, Class::Data, b"", &[(place, content.clone())])
            .expect("room");
        pair.client.turn();
        if pair.server.frames() < 1024 {
            pair.server.turn();
        }
    }
    let start = Instant::now();
    let mut held = Vec::new();
    while held.len() < 1024 {
        assert!(start.elapsed() < Duration::from_secs(10), "{} frames", held.len());
        pair.client.turn();
        pair.server.turn();
        held.extend(pair.server.take_frames());
    }
    // The client is paused from here on. Every second page, so that no two credits can go as one run, and a turn for each.
    for (index, frame) in held.into_iter().enumerate() {
        drop(frame);
        if index % 2 == 0 {
            pair.server.turn();
        }
    }
    // What was posted completes, which may wake us.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(20) {
        pair.server.turn();
    }
    assert!(pair.server.transport.prepare_sleep());
    pair.client.turn();
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let fd = pair.server.transport.wake_fd();
    let woken =
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) == Ok(1);
    assert_eq!(woken, scheme != Scheme::Tcp, "room in the ring, or slots, are what it waits for");
    pair.server.transport.finish_sleep();
    pair.until(|pair| pair.client.transport.credits(client) == 1024);
}

fn stays_asleep_when_nothing_happens(scheme: Scheme) {
    let (mut server, mut client) = (options(1), options(2));
    for options in [&mut server, &mut client] {
        options.rdma.keepalive = Duration::from_secs(3600);
    }
    let mut pair = Pair::with(scheme, server, client);
    pair.connect(WindowMode::Granted);
    pair.settle();
    let deadline = pair.server.transport.next_deadline();
    assert!(deadline.is_none_or(|at| at > now() + 1_000_000_000), "{deadline:?}");
    assert!(!sleep(&mut pair.server.transport, Duration::from_millis(50)));
    assert!(!sleep(&mut pair.client.transport, Duration::from_millis(50)));
}

/// While both sides are awake a frame over shared memory costs no system call.
#[test]
fn shared_memory_makes_no_system_calls() {
    let (mut pair, server, client) = Pair::connected(Scheme::Shm);
    pair.settle();
    let before = (*pair.server.transport.counters(), *pair.client.transport.counters());
    let at = now();
    for _ in 0..1000 {
        let place = pair.client.transport.reserve(client, 1).expect("credits");
        let content = pair.client.pages(1, 1);
        pair.client
            .transport
            .send(client, Class::Data, b"request", &[(place, content)])
            .expect("room");
        pair.client.transport.post(at);
        pair.server.transport.poll(at, 64, &mut |transport, event| {
            let Event::Frame { connection, .. } = event else { return };
            transport.send(connection, Class::Data, b"answer", &[]).expect("room");
        });
        pair.server.transport.post(at);
        pair.client.transport.poll(at, 64, &mut |_, _| {});
    }
    let after = (*pair.server.transport.counters(), *pair.client.transport.counters());
    assert_eq!(after.0.frames_received - before.0.frames_received, 1000);
    assert_eq!(after.1.wire_copy_bytes - before.1.wire_copy_bytes, 1000 * 4096);
    assert!(
        after.0.system_calls - before.0.system_calls <= 1,
        "time stands still, so at most one look at the sockets"
    );
    assert!(after.1.system_calls - before.1.system_calls <= 1);
    assert!(pair.server.transport.connection_info(server).is_some());
}
