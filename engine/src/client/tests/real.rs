//! Over the real transports: one client and one modelled server in one thread.

use std::time::Duration;

use culvert_memory::{CountingAllocator, Pages, allocations};
use culvert_transport::{Transport, TransportOptions};

use super::server::Servers;
use super::world::{Faults, Random};
use super::*;
use crate::network::*;
use crate::wire::{FrameKind, Request, parse_header};

struct Pair {
    client: Client<Transport>,
    volume: VolumeHandle,
    server: Transport,
    servers: Servers,
    pool: Pool,
    endpoint: EndpointIndex,
    clock: Clock,
}

fn identity(number: u128, kind: PeerKind) -> Identity {
    Identity { node: Uuid::from_u128(number), kind, endpoint: 0 }
}

fn transport(identity: Identity, pool: Pool) -> Transport {
    let options = TransportOptions::new(identity, pool);
    let options = TransportOptions { lock_memory: false, ..options };
    Transport::new(options).expect("good options")
}

/// A cluster of one reactor that listens at `address`.
fn pair(address: &str) -> Pair {
    let server_pool = pool(16 << 20);
    let mut server = transport(identity(1, PeerKind::Node), server_pool.clone());
    let address = server.listen(&address.parse().expect("an address")).expect("it listens");
    let node =
        Node { uuid: Uuid::from_u128(1), reactors: vec![Reactor { addresses: vec![address] }] };
    let device = |number| Device { uuid: Uuid::from_u128(number), node: node.uuid, shards: 1 };
    let devices = (100..103).map(device).collect();
    let options = PlanOptions { copysets: 2, ..PlanOptions::default() };
    let mut cluster = Cluster::plan(vec![node.clone()], devices, &options).expect("a plan");
    let size = 2048 * BLOCK_SIZE as u64;
    cluster.create_volume("disk", size, &VolumeOptions::default()).expect("a volume");
    let servers = Servers::new(&cluster);
    let client_pool = pool(16 << 20);
    let network = transport(identity(2, PeerKind::Client), client_pool.clone());
    let options = ClientOptions { in_flight_max: 64, ..ClientOptions::default() };
    let mut client = Client::new(cluster, network, client_pool, options).expect("good options");
    let volume = client.open_volume("disk").expect("it exists");
    let endpoint = EndpointIndex { node: 0, reactor: 0 };
    Pair { client, volume, server, servers, pool: server_pool, endpoint, clock: Clock::default() }
}

impl Pair {
    fn serve(&mut self) {
        let now_ns = self.clock.now_ns();
        let Pair { client, server, servers, pool, endpoint, .. } = self;
        let (faults, mut random) = (Faults::default(), Random(1));
        Transport::poll(server, now_ns, 64, &mut |server, event| {
            let Event::Frame { connection, bytes, payloads, .. } = event else { return };
            let (kind, _, body) = parse_header(bytes).expect("a frame");
            assert_eq!(kind, FrameKind::Request);
            let request = Request::parse(body).expect("a request");
            let payload: Vec<Pages> =
                payloads.drain(..).map(culvert_memory::Buffer::freeze).collect();
            let context = (connection, *endpoint);
            let (mut answers, proposal) =
                servers.handle(client.cluster(), context, &request, &payload, &faults, &mut random);
            if let Some(proposal) = proposal {
                answers.extend(servers.commit(proposal, &mut random));
            }
            for answer in answers {
                let place = answer.payload.map(|(page, bytes)| {
                    let pages = (bytes.len() / BLOCK_SIZE) as u32;
                    let mut buffer = pool.acquire(pages).expect("a free page");
                    buffer.copy_from_slice(0, &bytes);
                    (Placement::named(page, pages).expect("a place"), buffer.freeze())
                });
                let sent = server.send(connection, Class::Data, &answer.frame, place.as_slice());
                sent.expect("room in the queue");
            }
        });
        server.post(now_ns);
    }

    /// Turns of both until nothing is in flight; hands completions to `handler`.
    fn finish(&mut self, handler: &mut dyn FnMut(Completion<'_>)) {
        let limit_ns = self.clock.now_ns() + Duration::from_secs(20).as_nanos() as u64;
        while self.client.in_flight() > 0 {
            assert!(self.clock.now_ns() < limit_ns, "it takes too long");
            self.client.poll(self.clock.now_ns(), handler);
            self.serve();
        }
    }

    fn write_all(&mut self, tag: u64) {
        for offset in (0..2048).step_by(128) {
            let mut buffer = self.client.pool().acquire(128).expect("free pages");
            for block in 0..128 {
                let at = block as usize * BLOCK_SIZE;
                buffer.copy_from_slice(at, &content(tag, offset + block));
            }
            let (volume, pages) = (self.volume, buffer.freeze());
            let operation = Operation::Write { volume, offset_blocks: offset, pages };
            self.client.submit(operation, offset).expect("room");
        }
        self.finish(&mut |done| assert_eq!(done.result, Ok(())));
    }

    fn read_all(&mut self, tag: u64) {
        let volume = self.volume;
        for offset_blocks in (0..2048).step_by(128) {
            let operation = Operation::Read { volume, offset_blocks, blocks: 128 };
            self.client.submit(operation, offset_blocks).expect("room");
        }
        let mut blocks = 0;
        self.finish(&mut |done| {
            assert_eq!(done.result, Ok(()));
            let mut bytes = vec![0; done.data.len()];
            done.data.copy_to_slice(&mut bytes);
            for (block, bytes) in (done.token..).zip(bytes.chunks(BLOCK_SIZE)) {
                assert_eq!(parse_content(bytes), (tag, block));
                blocks += 1;
            }
        });
        assert_eq!(blocks, 2048);
    }
}

fn works_over(address: &str) {
    let mut pair = pair(address);
    for tag in 1..5 {
        pair.write_all(tag);
        pair.read_all(tag);
    }
    let statistics = *pair.client.statistics();
    assert_eq!((statistics.retries, statistics.failed, statistics.connects), (0, 0, 1));

    // The server goes away with everything in flight, and another one takes its place.
    let address = pair.client.cluster().addresses(pair.endpoint)[0].clone();
    let operation =
        |offset_blocks| Operation::Read { volume: pair.volume, offset_blocks, blocks: 64 };
    let reads: Vec<_> = (0..16).map(|index| operation(index * 64)).collect();
    for (token, read) in (0..).zip(reads) {
        pair.client.submit(read, token).expect("room");
    }
    pair.client.poll(pair.clock.now_ns(), &mut |_| panic!("nobody answers"));
    pair.pool = pool(16 << 20);
    let successor = transport(identity(1, PeerKind::Node), pair.pool.clone());
    drop(std::mem::replace(&mut pair.server, successor));
    pair.server.listen(&address).expect("the address is free again");
    let mut done = 0;
    pair.finish(&mut |completion| {
        assert_eq!(completion.result, Ok(()));
        done += 1;
    });
    assert_eq!(done, 16);
    assert_eq!(pair.client.statistics().disconnects, 1);
    pair.write_all(9);
    pair.read_all(9);
    assert_eq!(pair.client.reads_in_quarantine(), 0);
}

#[test]
fn it_works_over_tcp() {
    works_over("tcp://127.0.0.1:0");
}

#[test]
fn it_works_over_shared_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.sock");
    works_over(&format!("shm://{}", path.display()));
}

/// Counts what the tests of this crate allocate, per thread.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

impl Pair {
    /// Writes and reads some blocks once; what the client allocates for it.
    fn round(&mut self, pages: &Pages) -> u64 {
        let volume = self.volume;
        let mut allocated = 0;
        for index in 0..64 {
            let offset_blocks = index * 31 % 1024;
            let operation = match index % 8 {
                7 => Operation::Discard { volume, offset_blocks, blocks: 300 },
                odd if odd % 2 == 1 => {
                    Operation::Write { volume, offset_blocks, pages: pages.clone() }
                }
                _ => Operation::Read { volume, offset_blocks, blocks: pages.pages() },
            };
            let before = allocations();
            self.client.submit(operation, index).expect("room");
            allocated += allocations() - before;
        }
        while self.client.in_flight() > 0 {
            let now_ns = self.clock.now_ns();
            let before = allocations();
            self.client.poll(now_ns, &mut |done| assert_eq!(done.result, Ok(())));
            allocated += allocations() - before;
            self.serve();
        }
        allocated
    }
}

fn allocates_nothing_over(address: &str) {
    let mut pair = pair(address);
    let mut buffer = pair.client.pool().acquire(48).expect("free pages");
    (0..48).for_each(|block| buffer.copy_from_slice(block * BLOCK_SIZE, &content(1, 1)));
    let pages = buffer.freeze();
    // Windows grow, lists reach their lengths.
    let warm_up: u64 = (0..20).map(|_| pair.round(&pages)).sum();
    assert!(warm_up > 0, "making connections does allocate, and is counted");
    let allocated: u64 = (0..50).map(|_| pair.round(&pages)).sum();
    assert_eq!(allocated, 0, "in steady state nothing is allocated");
}

#[test]
fn steady_state_allocates_nothing() {
    allocates_nothing_over("tcp://127.0.0.1:0");
    let directory = tempfile::tempdir().expect("a directory");
    allocates_nothing_over(&format!("shm://{}", directory.path().join("a.sock").display()));
}

#[test]
fn whoever_waits_sleeps_until_there_is_something() {
    let mut pair = pair("tcp://127.0.0.1:0");
    pair.write_all(1);
    let idle = ClientOptions::default().request_timeout;
    assert!(idle > Duration::from_secs(1));
    // Nobody serves: the wait ends with the operation's time, and costs little until then.
    let options =
        ClientOptions { request_timeout: Duration::from_millis(300), ..ClientOptions::default() };
    let pool = pair.client.pool().clone();
    let network = transport(identity(3, PeerKind::Client), pool.clone());
    let cluster = pair.client.cluster().clone();
    let mut client = Client::new(cluster, network, pool, options).expect("good options");
    let volume = client.open_volume("disk").expect("it exists");
    client.submit(Operation::Read { volume, offset_blocks: 0, blocks: 1 }, 1).expect("room");
    let mut result = None;
    let completed = client.wait(&pair.clock, &mut |done| result = Some(done.result));
    assert_eq!(completed, 1);
    assert!(matches!(result, Some(Err(ClientError::TimedOut(_)))));
    assert!(client.network().counters().system_calls < 2000, "it sleeps");
}
