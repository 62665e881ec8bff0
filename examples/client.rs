//! A client: writes to a volume of a running cluster, reads back, and unmaps.
//!
//! ```sh
//! cargo run --example client -- cluster.toml VOLUME      # overwrites its first 2 MiB
//! ```
//!
//! [`BlockingClient`] waits for each operation; `embedded` shows the client that is polled.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use culvert::client::{BlockingClient, Client, ClientOptions};
use culvert::cluster::Cluster;
use culvert_memory::{Pool, PoolOptions};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};
use uuid::Uuid;

const BLOCK: usize = 4096;
const BYTES: usize = 2 << 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), Some(name)) = (arguments.next(), arguments.next()) else {
        println!("usage: client CLUSTER-FILE VOLUME");
        return Ok(());
    };
    let cluster = Cluster::load(&PathBuf::from(file))?;
    let name = name.into_string().ok().context("a volume's name is text")?;

    // The client's name: servers keep what it has asked for under it, so that a request that is
    // repeated after a lost answer is not executed twice. It must not be used by two clients.
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok().context("random numbers")?;
    let node = uuid::Builder::from_random_bytes(bytes).into_uuid();
    let identity = Identity { node, kind: PeerKind::Client, endpoint: 0 };

    let pool = Pool::new(&PoolOptions { bytes: 4 << 20, lock: false, ..PoolOptions::default() })?;
    let transport = Transport::new(TransportOptions::new(identity, pool.clone()))?;
    let client = Client::new(cluster, transport, pool, ClientOptions::default())?;
    let mut client = BlockingClient::new(client);
    let volume = client.client_mut().open_volume(&name)?;
    println!("{name}: {} bytes; this client is {}", volume.bytes(), Uuid::hyphenated(node));

    let written: Vec<u8> = (0..BYTES).map(|index| (index / 7) as u8).collect();
    let clock = Instant::now();
    client.write_bytes(volume, 0, &written)?;
    println!("{BYTES} bytes written in {:?}", clock.elapsed());

    let mut read = vec![0; BYTES];
    let clock = Instant::now();
    client.read_bytes(volume, 0, &mut read)?;
    println!("{BYTES} bytes read in {:?}", clock.elapsed());
    ensure!(read == written, "what was read is not what was written");

    client.discard(volume, 0, (BYTES / BLOCK) as u64)?;
    client.read_bytes(volume, 0, &mut read)?;
    ensure!(read.iter().all(|byte| *byte == 0), "a discarded block reads as zeroes");
    let statistics = client.client().statistics();
    println!("discarded; {} requests, {} repeated", statistics.requests, statistics.retries);
    client.close();
    Ok(())
}
