//! In steady state a frame allocates nothing, on either side and over either backend.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_memory::{Backing, CountingAllocator, Pool, PoolOptions, allocations};
use culvert_transport::{
    Address, Class, Event, Identity, PeerKind, Transport, TransportOptions, WindowMode,
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn transport(number: u128, source: Option<IpAddr>) -> (Transport, Pool) {
    let pool = PoolOptions {
        bytes: 8 << 20,
        backing: Backing::Ordinary,
        lock: false,
        ..PoolOptions::default()
    };
    let pool = Pool::new(&pool).expect("memory");
    let identity = Identity { node: Uuid::from_u128(number), kind: PeerKind::Node, endpoint: 0 };
    let mut options = TransportOptions::new(identity, pool.clone());
    options.lock_memory = false;
    options.window_pages_initial = 64;
    options.source = source;
    // Time is turns here, as many as the processors have leisure for, and nobody looks after a
    // connection that breaks when they have none.
    options.handshake_timeout = Duration::from_secs(3600);
    options.rdma.connect_timeout = options.handshake_timeout;
    options.rdma.ack_timeout = 18;
    (Transport::new(options).expect("options"), pool)
}

/// How often so many answers are waited for.
const STRETCHES: u32 = 6;
const ANSWERS: u32 = 3200;

/// Requests of 32 frames with two pages each and an answer with one page to each: the allocations of
/// each of some stretches, the first of which is there to warm up.
fn allocations_of(address: &Address, source: Option<IpAddr>) -> Vec<u64> {
    let ((mut server, pool), (mut client, _)) = (transport(1, None), transport(2, source));
    let address = server.listen(address).expect("a free address");
    let connection = client.connect(&address, WindowMode::Granted).expect("somebody listens");
    let content = pool.acquire(2).expect("pages").freeze();
    let answer = content.slice(1, 1);
    let (mut now, mut answers, mut open) = (1, 0u32, false);
    let mut marks = Vec::with_capacity(STRETCHES as usize + 1);
    while marks.len() <= STRETCHES as usize {
        if answers >= marks.len() as u32 * ANSWERS {
            marks.push(allocations());
        }
        now += 1000;
        if open {
            for _ in 0..32 {
                let Some(place) = client.reserve(connection, 2) else { break };
                let payload = [(place, content.clone())];
                if client.send(connection, Class::Data, &[1; 64], &payload).is_err() {
                    client.cancel(connection, place);
                    break;
                }
            }
            // What finds no room is sent in the next turn.
            let _ = client.send(connection, Class::Control, b"heartbeat", &[]);
        }
        client.post(now);
        server.poll(now, 256, &mut |server, event| {
            if let Event::Closed { reason, .. } = event {
                panic!("the server's end closed: {reason}");
            }
            let Event::Frame { connection, class: Class::Data, .. } = event else { return };
            if let Some(place) = server.reserve(connection, 1) {
                server
                    .send(connection, Class::Data, &[2; 32], &[(place, answer.clone())])
                    .expect("room");
            }
        });
        server.post(now);
        client.poll(now, 256, &mut |_, event| match event {
            Event::Connected { .. } => open = true,
            Event::Frame { .. } => answers += 1,
            Event::Closed { reason, .. } => panic!("the client's end closed: {reason}"),
            _ => {}
        });
    }
    marks.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn steady_state_allocates_nothing() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let shm = Address::Shm(directory.path().join("a.sock"));
    assert_eq!(allocations_of(&shm, None)[1..], [0; 5], "shared memory");
    let tcp = "tcp://127.0.0.1:0".parse().expect("an address");
    assert_eq!(allocations_of(&tcp, None)[1..], [0; 5], "TCP");
}

#[test]
fn rdma_steady_state_allocates_nothing() {
    let Ok(devices) = std::env::var("CULVERT_TEST_RDMA") else {
        println!(
            "skipped: no RDMA devices here (CULVERT_TEST_RDMA); scripts/softroce test has some"
        );
        return;
    };
    let (at, from) = devices.split_once(',').expect("two addresses with a comma between them");
    let [at, from]: [IpAddr; 2] = [at, from].map(|text| text.parse().expect("an IP address"));
    let address = Address::Rdma(SocketAddr::new(at, 0));
    // How much waits varies, and lists grow until they have had their longest content, rarely in the
    // end; what a frame allocates is there in every stretch.
    let each = allocations_of(&address, Some(from));
    assert!(each.contains(&0), "RDMA: {each:?}");
}
