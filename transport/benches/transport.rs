//! What a 4 KiB payload with its 64-byte frame costs between two transports.
//!
//! * `stream`: one side sends as credits allow, at most 128 in flight; the other drops the payload,
//!   and with it returns the credit. In one thread the figure is the processor time of both sides
//!   together; with two threads it is the inverse of the rate.
//! * `ping_pong`: one frame with payload to the other side and one without back.
//!
//! `cargo bench -p culvert-transport -- --test` runs each once.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_memory::{Backing, Pages, Pool, PoolOptions};
use culvert_transport::{
    Address, Class, ConnectionId, Event, Identity, PeerKind, Transport, TransportOptions,
    WindowMode,
};
use uuid::Uuid;

const DEPTH: u32 = 128;
const BATCH: u32 = 32;
const FRAME: [u8; 64] = [7; 64];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Shm,
    Tcp,
}

impl Scheme {
    const ALL: [Self; 2] = [Self::Shm, Self::Tcp];

    const fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
        }
    }

    fn address(self, directory: &tempfile::TempDir) -> Address {
        match self {
            Self::Shm => Address::Shm(directory.path().join("bench.sock")),
            Self::Tcp => "tcp://127.0.0.1:0".parse().expect("an address"),
        }
    }
}

fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    1 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn transport(number: u128) -> (Transport, Pool) {
    let options = PoolOptions {
        bytes: 16 << 20,
        backing: Backing::HugeOrOrdinary,
        lock: false,
        ..PoolOptions::default()
    };
    let pool = Pool::new(&options).expect("memory");
    let identity = Identity { node: Uuid::from_u128(number), kind: PeerKind::Node, endpoint: 0 };
    let mut options = TransportOptions::new(identity, pool.clone());
    options.window_pages_initial = 512;
    options.lock_memory = false;
    (Transport::new(options).expect("options"), pool)
}

/// The sending side.
struct Sender {
    transport: Transport,
    connection: ConnectionId,
    content: Vec<Pages>,
    next: usize,
    in_flight_max: u32,
}

impl Sender {
    fn connect(address: &Address, mut turn: impl FnMut()) -> Self {
        let (mut transport, pool) = transport(2);
        let connection = transport.connect(address, WindowMode::Granted).expect("somebody listens");
        let mut open = false;
        while !open {
            transport
                .poll(now(), 64, &mut |_, event| open |= matches!(event, Event::Connected { .. }));
            transport.post(now());
            turn();
        }
        let content = (0..DEPTH).map(|_| pool.acquire(1).expect("a page").freeze()).collect();
        Self { transport, connection, content, next: 0, in_flight_max: DEPTH }
    }

    /// Sends at most `count` frames as far as credits and the depth allow; how many.
    fn send(&mut self, count: u32) -> u32 {
        let credits = self.transport.credits(self.connection);
        let count = count.min((self.in_flight_max + credits).saturating_sub(512)).min(BATCH);
        for index in 0..count {
            let Some(place) = self.transport.reserve(self.connection, 1) else { return index };
            let content = self.content[self.next].clone();
            self.next = (self.next + 1) % self.content.len();
            let sent =
                self.transport.send(self.connection, Class::Data, &FRAME, &[(place, content)]);
            if sent.is_err() {
                self.transport.cancel(self.connection, place);
                return index;
            }
        }
        count
    }

    /// The end of a turn; frames that came in.
    fn turn(&mut self) -> u32 {
        let mut frames = 0;
        self.transport.post(now());
        self.transport.poll(now(), 256, &mut |_, event| {
            frames += u32::from(matches!(event, Event::Frame { .. }))
        });
        frames
    }
}

/// One turn of the receiving side: payloads are dropped; every frame is answered if asked for.
/// Frames taken.
fn receive(transport: &mut Transport, answer: bool) -> u32 {
    let mut frames = 0;
    transport.poll(now(), 256, &mut |transport, event| {
        let Event::Frame { connection, bytes, payloads, .. } = event else { return };
        black_box(payloads.len());
        frames += 1;
        if answer {
            transport.send(connection, Class::Data, bytes, &[]).expect("room");
        }
    });
    transport.post(now());
    frames
}

/// Both sides in one thread.
fn one_thread(scheme: Scheme, ping_pong: bool, frames: u64) -> Duration {
    let directory = tempfile::TempDir::new().expect("a directory");
    let (mut server, _pool) = transport(1);
    let address = server.listen(&scheme.address(&directory)).expect("a free address");
    let mut sender = Sender::connect(&address, || {
        receive(&mut server, false);
    });
    let start = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while done < frames {
        if ping_pong {
            sent += u64::from(sender.send(u32::from(sent == done)));
        } else {
            sent += u64::from(sender.send(u32::try_from(frames - sent).unwrap_or(u32::MAX)));
        }
        sender.transport.post(now());
        let received = u64::from(receive(&mut server, ping_pong));
        let answers = u64::from(sender.turn());
        done += if ping_pong { answers } else { received };
    }
    start.elapsed()
}

/// Each side in a thread of its own, both spinning and yielding the core after an empty turn, like
/// reactors do.
fn two_threads(scheme: Scheme, ping_pong: bool, frames: u64) -> Duration {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, address) = mpsc::channel();
    let stopped = Arc::clone(&stop);
    let server = std::thread::spawn(move || {
        let directory = tempfile::TempDir::new().expect("a directory");
        let (mut server, _pool) = transport(1);
        ready
            .send(server.listen(&scheme.address(&directory)).expect("a free address"))
            .expect("somebody waits");
        while !stopped.load(Ordering::Relaxed) {
            if receive(&mut server, ping_pong) == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut sender = Sender::connect(&address.recv().expect("the server listens"), || ());
    let start = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while done < frames {
        let before = (sent, done);
        if ping_pong {
            sent += u64::from(sender.send(u32::from(sent == done)));
            done += u64::from(sender.turn());
        } else {
            sent += u64::from(sender.send(u32::try_from(frames - sent).unwrap_or(u32::MAX)));
            sender.turn();
            let credits = sender.transport.credits(sender.connection);
            done = sent - u64::from(512 - credits);
        }
        if before == (sent, done) {
            std::thread::yield_now();
        }
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    server.join().expect("the server ends well");
    took
}

fn transports(criterion: &mut Criterion) {
    for scheme in Scheme::ALL {
        for (flow, ping_pong) in [("stream", false), ("ping_pong", true)] {
            let mut group = criterion.benchmark_group(format!("{}/{flow}", scheme.name()));
            group.throughput(Throughput::Elements(1)).sample_size(20);
            group.bench_function("one_thread", |bencher| {
                bencher.iter_custom(|frames| one_thread(scheme, ping_pong, frames));
            });
            group.bench_function("two_threads", |bencher| {
                bencher.iter_custom(|frames| two_threads(scheme, ping_pong, frames));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, transports);
criterion_main!(benches);
