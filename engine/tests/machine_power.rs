//! The power of a whole machine fails under load, again and again: the client's part.
//!
//! `scripts/softroce power-cuts` boots a virtual machine, in which three servers drive NVMe controllers
//! and this client writes to them over RDMA, kills it at a random moment, and boots it again with the
//! same disks. What was acknowledged leaves the machine line by line, and comes back as a file.
//!
//! | variable | what |
//! | --- | --- |
//! | `CULVERT_POWER_CLUSTER` | the cluster file; without it the test says that it was skipped |
//! | `CULVERT_POWER_KNOWN` | lines `settled FIRST SEQUENCE...` of the boots before |
//! | `CULVERT_POWER_LAST` | set: only look whether all is there |

mod rig;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert::client::{Client, ClientOptions};
use culvert::cluster::Cluster;
use culvert_memory::{Pool, PoolOptions};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};

use rig::history::Sequence;
use rig::load::Load;
use rig::plan::VOLUME;
use rig::random::Random;

const DEPTH: usize = 16;

/// A client that begins with nothing to do.
fn client(cluster: &str) -> Client<Transport> {
    let cluster = Cluster::load(&PathBuf::from(cluster)).expect("the cluster file");
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random numbers");
    let node = uuid::Builder::from_random_bytes(bytes).into_uuid();
    let identity = Identity { node, kind: PeerKind::Client, endpoint: 0 };
    let pool = Pool::new(&PoolOptions { bytes: 8 << 20, lock: false, ..PoolOptions::default() });
    let pool = pool.expect("memory");
    let source = std::env::var("CULVERT_POWER_SOURCE").ok();
    let transport = Transport::new(TransportOptions {
        source: source.map(|source| source.parse().expect("an address")),
        lock_memory: false,
        ..TransportOptions::new(identity, pool.clone())
    });
    let options = ClientOptions { request_timeout: Duration::from_secs(90), ..Default::default() };
    Client::new(cluster, transport.expect("a transport"), pool, options).expect("a client")
}

/// What was acknowledged in the boots before, block by block.
fn known(blocks: usize) -> Vec<Sequence> {
    let mut settled = vec![0; blocks];
    let Ok(file) = std::env::var("CULVERT_POWER_KNOWN") else { return settled };
    for line in std::fs::read_to_string(file).expect("what is known").lines() {
        let mut numbers = line.split_whitespace();
        assert_eq!(numbers.next(), Some("settled"));
        let mut numbers = numbers.map(|number| number.parse::<u64>().expect("a number"));
        let first = numbers.next().expect("a block") as usize;
        for (block, sequence) in settled[first..].iter_mut().zip(numbers) {
            *block = (*block).max(sequence);
        }
    }
    settled
}

fn tell(first: u64, sequences: &[Sequence]) {
    let words: Vec<String> = sequences.iter().map(ToString::to_string).collect();
    println!("settled {first} {}", words.join(" "));
}

#[test]
fn the_machine_loses_its_power() {
    let Ok(cluster) = std::env::var("CULVERT_POWER_CLUSTER") else {
        eprintln!("skipped: CULVERT_POWER_CLUSTER names no cluster (scripts/softroce power-cuts)");
        return;
    };
    let mut load = Load::new(client(&cluster), VOLUME, DEPTH, 1);
    let blocks = load.blocks();
    let settled = known(blocks as usize);
    let written = settled.iter().filter(|sequence| **sequence > 0).count();
    load.recall(&settled);
    let since = Instant::now();
    load.read_all(|| false);
    println!("held: {written} of {blocks} blocks were acknowledged before, and all are there");
    println!("read in {} ms", since.elapsed().as_millis());
    for (first, run) in (0..).step_by(8).zip(load.know().chunks(8)) {
        tell(first, run);
    }
    if std::env::var("CULVERT_POWER_LAST").is_ok() {
        return;
    }
    // Another load in each boot.
    load.reseed(Random::new(written as u64 ^ settled.iter().sum::<u64>()));
    load.keeps_all = true;
    load.on_settled = tell;
    println!("load");
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(120) {
        load.turn();
    }
    panic!("nobody cut the power");
}
