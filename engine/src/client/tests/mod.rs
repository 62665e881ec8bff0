//! The client against modelled servers.

mod link;
mod random;
mod real;
mod rules;
mod server;
mod waits;
mod world;

use std::rc::Rc;

use culvert_memory::{Backing, Pool, PoolOptions};
use uuid::Uuid;

use super::piece::PieceState;
use super::*;
use crate::cluster::{Device, Node, PlanOptions, Reactor, VolumeOptions};
use crate::ids::{BLOCK_SIZE, CopysetId};
use server::{content, parse_content};
use world::{ModelNetwork, World};

/// A client of a modelled cluster: 3 nodes with 2 reactors each, 4 copysets of 3 replicas, a volume
/// "disk" of 2,048 blocks.
struct Bench {
    client: Client<ModelNetwork>,
    network: ModelNetwork,
    volume: VolumeHandle,
    now_ns: u64,
    /// The time of the last turn.
    turned_ns: u64,
}

/// What a completion said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    token: u64,
    result: Result<(), ClientError>,
    /// Tag of each block read.
    tags: Vec<u64>,
}

fn pool(bytes: usize) -> Pool {
    let backing = Backing::Ordinary;
    let options = PoolOptions { bytes, backing, lock: false, ..PoolOptions::default() };
    Pool::new(&options).expect("memory for a pool")
}

fn cluster(stripe_blocks: u32) -> Cluster {
    let addresses = |node: u128, reactor: u128| {
        let port = 9000 + reactor;
        let texts = [format!("shm:///run/{node}-{reactor}"), format!("tcp://10.0.0.{node}:{port}")];
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    };
    let node = |number| Node {
        uuid: Uuid::from_u128(number),
        reactors: (0..2).map(|reactor| Reactor { addresses: addresses(number, reactor) }).collect(),
    };
    let device = |number: u128| Device {
        uuid: Uuid::from_u128(100 + number),
        node: Uuid::from_u128(number),
        shards: 2,
    };
    let options =
        PlanOptions { chunk_size: 64 * BLOCK_SIZE as u64, copysets: 4, ..PlanOptions::default() };
    let nodes = (1..=3).map(node).collect();
    let devices = (1..=3).map(device).collect();
    let mut cluster = Cluster::plan(nodes, devices, &options).expect("a plan");
    let stripe_blocks = Some(stripe_blocks);
    let volume = VolumeOptions { stripe_blocks, ..VolumeOptions::default() };
    cluster.create_volume("disk", 2048 * BLOCK_SIZE as u64, &volume).expect("a volume");
    cluster
}

impl Bench {
    fn new(seed: u64, stripe_blocks: u32, options: ClientOptions) -> Bench {
        let cluster = cluster(stripe_blocks);
        let network = ModelNetwork::new(cluster.clone(), seed);
        let client = Client::new(cluster, network.clone(), pool(8 << 20), options);
        let mut client = client.expect("good options");
        let volume = client.open_volume("disk").expect("it exists");
        // Any clock will do, one that begins late too.
        Bench { client, network, volume, now_ns: seed * 1_000_000_000, turned_ns: 0 }
    }

    fn plain() -> Bench {
        Bench::new(1, 32, ClientOptions::default())
    }

    fn world(&self) -> std::cell::RefMut<'_, World> {
        self.network.0.borrow_mut()
    }

    /// Submits a write of blocks that say `tag` and where they belong.
    fn write(&mut self, token: u64, tag: u64, offset: u64, blocks: u32) -> Result<(), Refusal> {
        let mut buffer = self.client.pool().acquire(blocks).ok_or(Refusal::Full)?;
        for block in 0..u64::from(blocks) {
            let at = block as usize * BLOCK_SIZE;
            buffer.copy_from_slice(at, &content(tag, offset + block));
        }
        let (volume, pages) = (self.volume, buffer.freeze());
        let operation = Operation::Write { volume, offset_blocks: offset, pages };
        self.client.submit(operation, token).map_err(|refused| refused.reason)
    }

    fn read(&mut self, token: u64, offset: u64, blocks: u32) -> Result<(), Refusal> {
        let operation = Operation::Read { volume: self.volume, offset_blocks: offset, blocks };
        self.client.submit(operation, token).map_err(|refused| refused.reason)
    }

    fn discard(&mut self, token: u64, offset: u64, blocks: u64) -> Result<(), Refusal> {
        let operation = Operation::Discard { volume: self.volume, offset_blocks: offset, blocks };
        self.client.submit(operation, token).map_err(|refused| refused.reason)
    }

    /// One turn, and then on to the next time at which something happens.
    fn turn(&mut self, reports: &mut Vec<Report>) {
        self.world().now_ns = self.now_ns;
        self.client.poll(self.now_ns, &mut |completion| {
            let mut tags = Vec::new();
            let mut expected = completion.data.parts().first().map(|part| part.block);
            for part in completion.data.parts() {
                assert_eq!(Some(part.block), expected, "parts are in order and without gaps");
                expected = Some(part.block + u64::from(part.buffer.pages()));
                let mut bytes = vec![0; part.buffer.len()];
                part.buffer.copy_to_slice(0, &mut bytes);
                for (block, bytes) in (part.block..).zip(bytes.chunks(BLOCK_SIZE)) {
                    let (tag, at) = parse_content(bytes);
                    assert!(tag == 0 || at == block, "block {block} says that it is {at}");
                    tags.push(tag);
                }
            }
            reports.push(Report { token: completion.token, result: completion.result, tags });
        });
        self.turned_ns = self.now_ns;
        let happening = self.world().next_happening_ns().unwrap_or(u64::MAX);
        let timer = self.client.next_timer_ns().unwrap_or(u64::MAX);
        let next_ns = happening.min(timer).min(self.now_ns + 100_000_000);
        self.now_ns = next_ns.max(self.now_ns + 1000);
    }

    /// Turns until nothing is in flight.
    fn finish(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        for _ in 0..2_000_000 {
            if self.client.in_flight() == 0 {
                return reports;
            }
            self.turn(&mut reports);
        }
        panic!("{} operations never end", self.client.in_flight());
    }

    /// The only report, as a result.
    fn outcome(&mut self) -> Result<Vec<u64>, ClientError> {
        let mut reports = self.finish();
        assert_eq!(reports.len(), 1);
        let report = reports.remove(0);
        report.result.map(|()| report.tags)
    }

    /// What the servers have at a block of the volume.
    fn stored(&self, block: u64) -> u64 {
        let cluster = self.client.cluster();
        let volume = cluster.volume("disk").expect("it exists");
        let part = cluster.layout(volume).part(block, 1);
        let copyset: CopysetId = volume.copysets[part.copyset as usize];
        self.world().servers.tag(copyset, part.chunk, part.range.first)
    }

    /// Checks that nothing is held while nothing is in flight.
    fn check_idle(&mut self) {
        let core = &self.client.core;
        assert!(core.operations.is_empty());
        let shared = core.pieces.indices().count() - core.routes.len();
        assert_eq!(core.pieces.vacant_count() as usize, shared);
        for index in core.pieces.indices() {
            let piece = &core.pieces[index];
            let opening = piece.kind == piece::PieceKind::OpenSession;
            assert!(opening || piece.state == PieceState::Free, "{piece:?}");
            assert!(piece.pages.is_none() && piece.landing.is_none() && piece.gathered.is_none());
        }
        for route in &core.routes {
            assert!(route.queues.iter().all(piece::PieceList::is_empty));
        }
        assert!(core.endpoints.iter().all(|endpoint| endpoint.reads_in_flight == 0));
        // Writes that are still on their way hold their pages; give them time to arrive.
        let mut reports = Vec::new();
        for _ in 0..100_000 {
            if self.world().is_quiet() {
                break;
            }
            self.turn(&mut reports);
        }
        assert!(self.world().is_quiet());
        assert!(reports.is_empty());
        let pool = self.client.pool();
        assert_eq!(pool.free_pages(), pool.total_pages());
        let quarantined = self.client.reads_in_quarantine();
        let links = self.world().links.len();
        let out: usize = (0..links).map(|link| self.world().links[link].pages_out()).sum();
        assert_eq!(quarantined == 0, out == 0, "{out} pages out, {quarantined} reads quarantined");
        let ids: Vec<_> = self.world().links.iter().map(|link| link.id).collect();
        for id in ids {
            self.world().drop_connection(id, crate::network::CloseReason::PeerClosed);
        }
        self.turn(&mut reports);
        assert_eq!(self.client.reads_in_quarantine(), 0);
        let out: usize = (0..links).map(|link| self.world().links[link].pages_out()).sum();
        assert_eq!(out, 0, "nothing is kept of closed connections");
    }
}

#[test]
fn a_network_has_one_user() {
    let bench = Bench::plain();
    assert_eq!(Rc::strong_count(&bench.network.0), 2);
}
