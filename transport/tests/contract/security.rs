//! Keys, versions, and peers that never finish.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use culvert_transport::{CloseReason, ConnectError, Refusal, WindowMode};

use crate::harness::{Pair, Scheme, options};
use crate::raw;

crate::over_backends!(
    lets_the_right_key_in,
    refuses_another_key,
    refuses_a_missing_key,
    refuses_a_key_it_does_not_know,
    refuses_when_the_table_is_full,
);

crate::over_sockets!(
    refuses_another_version,
    refuses_another_protocol,
    gives_up_on_half_a_handshake,
    bounds_half_open_connections,
);

fn keyed(scheme: Scheme, server: Option<&[u8]>, client: Option<&[u8]>) -> Pair {
    let (mut server_options, mut client_options) = (options(1), options(2));
    server_options.pre_shared_key = server.map(<[u8]>::to_vec);
    client_options.pre_shared_key = client.map(<[u8]>::to_vec);
    Pair::with(scheme, server_options, client_options)
}

/// Counts the warnings of a thread.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Both sides come to the same end, each with one warning, and with nothing held.
#[track_caller]
fn refused(mut pair: Pair, refusal: Refusal) {
    let warnings = Arc::new(AtomicUsize::new(0));
    let guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
    let client = pair
        .client
        .transport
        .connect(&pair.address, WindowMode::Granted)
        .expect("somebody listens");
    pair.until(|pair| {
        pair.client.closed().is_some() && pair.server.transport.counters().handshakes_failed == 1
    });
    assert!(pair.server.seen.is_empty(), "nothing else happens");
    let here_or_there = [CloseReason::RefusedByPeer(refusal), CloseReason::RefusedHere(refusal)];
    assert!(
        here_or_there.contains(&pair.client.closed().expect("just seen")),
        "{:?}",
        pair.client.closed()
    );
    assert_eq!(pair.client.closed_ids(), [client]);
    assert_eq!(warnings.load(Ordering::Relaxed), 2, "one on each side");
    drop(guard);
    pair.assert_nothing_lost();
}

fn lets_the_right_key_in(scheme: Scheme) {
    let mut pair = keyed(scheme, Some(b"secret"), Some(b"secret"));
    pair.connect(WindowMode::Granted);
    assert!(!format!("{:?}", pair.server.transport).contains("secret"));
}

fn refuses_another_key(scheme: Scheme) {
    refused(keyed(scheme, Some(b"secret"), Some(b"guess")), Refusal::WrongKey);
}

fn refuses_a_missing_key(scheme: Scheme) {
    refused(keyed(scheme, Some(b"secret"), None), Refusal::KeyRequired);
}

fn refuses_a_key_it_does_not_know(scheme: Scheme) {
    refused(keyed(scheme, None, Some(b"secret")), Refusal::KeyUnknown);
}

/// Sends the first bytes of a peer; the answer, if there is one before the end.
fn say(pair: &mut Pair, scheme: Scheme, bytes: &[u8], answer: usize) -> Vec<u8> {
    match scheme {
        Scheme::Tcp => {
            let mut stream = raw::tcp_stream(&pair.address);
            stream.write_all(bytes).expect("room");
            match answer {
                0 => pair.until(|pair| pair.server.transport.counters().handshakes_failed > 0),
                _ => return raw::read_exactly(&mut stream, &mut pair.server, answer),
            }
            Vec::new()
        }
        Scheme::Shm => {
            let socket = raw::shm_socket(&pair.address);
            raw::send(&socket, bytes, &[]);
            raw::receive(&socket, &mut pair.server).map_or(Vec::new(), |(bytes, _)| bytes)
        }
        Scheme::Rdma => unreachable!("it has no socket"),
    }
}

fn refuses_another_version(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let mut hello = raw::hello(1);
    hello[8] = 2;
    let answer = say(&mut pair, scheme, &hello, 96);
    assert_eq!(&answer[..12], b"CULVERT\0\x01\0\x01\0", "our version and the reason");
    pair.until(|pair| pair.server.transport.connections().count() == 0);
    assert_eq!(pair.server.transport.counters().handshakes_failed, 1);
}

fn refuses_another_protocol(scheme: Scheme) {
    let mut pair = Pair::new(scheme);
    let answer = say(&mut pair, scheme, b"GET / HTTP/1.1\r\nHost: culvert\r\n\r\n", 0);
    assert!(answer.is_empty(), "it is told nothing");
    pair.until(|pair| pair.server.transport.connections().count() == 0);
    assert_eq!(pair.server.transport.counters().handshakes_failed, 1);
}

fn gives_up_on_half_a_handshake(scheme: Scheme) {
    let mut server = options(1);
    server.handshake_timeout = Duration::from_millis(50);
    let mut pair = Pair::with(scheme, server, options(2));
    let (tcp, shm);
    match scheme {
        Scheme::Tcp => {
            tcp = raw::tcp_stream(&pair.address);
            (&tcp).write_all(&raw::hello(1)[..50]).expect("room");
        }
        Scheme::Shm => {
            shm = raw::shm_socket(&pair.address);
            raw::send(&shm, &raw::hello(1), &[]);
        }
        Scheme::Rdma => unreachable!("it has no socket"),
    }
    pair.until(|pair| pair.server.transport.connections().count() == 1);
    assert!(pair.server.transport.next_deadline().is_some());
    pair.until(|pair| pair.server.transport.counters().handshakes_failed == 1);
    assert_eq!(pair.server.transport.connections().count(), 0);
    assert!(pair.server.seen.is_empty());
    pair.connect(WindowMode::Granted);
}

fn bounds_half_open_connections(scheme: Scheme) {
    let mut server = options(1);
    server.connections_max = 32;
    let mut pair = Pair::with(scheme, server, options(2));
    let mut held: (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        match scheme {
            Scheme::Tcp => held.0.push(raw::tcp_stream(&pair.address)),
            Scheme::Shm => held.1.push(raw::shm_socket(&pair.address)),
            Scheme::Rdma => unreachable!("it has no socket"),
        }
        pair.server.turn();
    }
    assert!(pair.server.transport.connections().count() <= 8);
    pair.connect(WindowMode::Granted);
}

fn refuses_when_the_table_is_full(scheme: Scheme) {
    let (mut server, mut client) = (options(1), options(2));
    server.connections_max = 2;
    client.connections_max = 3;
    let mut pair = Pair::with(scheme, server, client);
    pair.connect(WindowMode::Granted);
    pair.connect(WindowMode::Granted);
    pair.client.transport.connect(&pair.address, WindowMode::Granted).expect("somebody listens");
    pair.until(|pair| pair.client.closed().is_some());
    assert_eq!(pair.client.closed(), Some(CloseReason::RefusedByPeer(Refusal::Resources)));
    pair.client.seen.clear();
    pair.client.transport.connect(&pair.address, WindowMode::Granted).expect("a free slot");
    let full = pair.client.transport.connect(&pair.address, WindowMode::Granted);
    assert!(matches!(full, Err(ConnectError::TableFull)));
}
