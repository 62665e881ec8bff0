//! In steady state a frame allocates nothing, on either side and over either backend.

use culvert_memory::{Backing, CountingAllocator, Pool, PoolOptions, allocations};
use culvert_transport::{
    Address, Class, Event, Identity, PeerKind, Transport, TransportOptions, WindowMode,
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn transport(number: u128) -> (Transport, Pool) {
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
    (Transport::new(options).expect("options"), pool)
}

/// Requests of 32 frames with two pages each and an answer with one page to each; the allocations
/// of 200 such turns after as many to warm up.
fn allocations_of(address: &Address) -> u64 {
    let ((mut server, pool), (mut client, _)) = (transport(1), transport(2));
    let address = server.listen(address).expect("a free address");
    let connection = client.connect(&address, WindowMode::Granted).expect("somebody listens");
    let content = pool.acquire(2).expect("pages").freeze();
    let answer = content.slice(1, 1);
    let (mut now, mut answers, mut open, mut before) = (1, 0u32, false, 0);
    let mut turn = 0;
    while turn < 400 {
        if turn == 200 {
            before = allocations();
        }
        now += 1000;
        if open {
            for _ in 0..32 {
                let Some(place) = client.reserve(connection, 2) else { break };
                client
                    .send(connection, Class::Data, &[1; 64], &[(place, content.clone())])
                    .expect("room");
            }
            client.send(connection, Class::Control, b"heartbeat", &[]).expect("room");
        }
        client.post(now);
        server.poll(now, 256, &mut |server, event| {
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
            _ => {}
        });
        turn += u32::from(open);
    }
    let after = allocations();
    assert!(answers > 3000, "{answers} answers");
    after - before
}

#[test]
fn steady_state_allocates_nothing() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let shm = Address::Shm(directory.path().join("a.sock"));
    assert_eq!(allocations_of(&shm), 0, "shared memory");
    assert_eq!(allocations_of(&"tcp://127.0.0.1:0".parse().expect("an address")), 0, "TCP");
}
