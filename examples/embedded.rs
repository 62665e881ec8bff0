//! A chunkserver inside a program of your own: three nodes in one process and one thread.
//!
//! The engine has no `main`, no threads and no global state. A program that holds a
//! [`NodeReactor`] decides when it gets a turn; in the short run three of them and a client take
//! turns in one loop, until the client has what it wants. In earnest each reactor has a thread and a
//! core of its own and sleeps when it is idle: [`serve`] does that, and so does the long run here.
//! The nodes are on different machines then.
//!
//! ```sh
//! cargo run --example embedded              # writes a block, reads it back, ends
//! cargo run --example embedded -- FOLDER    # serves a cluster in FOLDER until it is killed
//! ```

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use culvert::client::{Client, ClientOptions, Clock, Operation};
use culvert::cluster::{Cluster, Device, Node, PlanOptions, Reactor, VolumeOptions};
use culvert::config::{ByteSize, DeviceConfig, NodeConfig};
use culvert::device::{FormatOptions, LayoutOptions, format};
use culvert::node::{NodeReactor, Stop, serve};
use culvert_memory::{Pool, PoolOptions};
use culvert_nvme::{DeviceUri, OpenOptions, QueuePair, open};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};
use uuid::Uuid;

const NODES: u128 = 3;
const CHUNK_BLOCKS: u32 = 256;

fn main() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let named = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = named.as_deref().unwrap_or(scratch.path());

    let configs: Vec<NodeConfig> = (0..NODES).map(|number| configure(folder, number)).collect();
    let cluster = plan(&configs)?;
    cluster.save(&folder.join("cluster.toml"))?;
    if named.is_some() {
        println!("serving the volume disk of {}", folder.join("cluster.toml").display());
        return serve_for_ever(&configs, &cluster);
    }
    let mut nodes = Vec::new();
    for config in &configs {
        nodes.push(NodeReactor::open(config, &cluster, 0, true)?);
    }
    write_and_read(&mut nodes, cluster)
}

/// Runs each node as it would run alone. [`serve`] gives each reactor a thread, and there a loop
/// of [`NodeReactor::turn_or_idle`]: poll while there is work and a little longer, then sleep until
/// a frame, a completion or a timer. Reactors that share a thread cannot sleep, because another
/// might have something to do.
fn serve_for_ever(configs: &[NodeConfig], cluster: &Cluster) -> Result<()> {
    let stop = Stop::default();
    let run = |config| {
        let result = serve(config, cluster, true, &stop, |_addresses| {});
        // One that does not start, or fails, ends the others.
        stop.stop();
        result
    };
    thread::scope(|scope| {
        let nodes: Vec<_> = configs.iter().map(|config| scope.spawn(|| run(config))).collect();
        nodes.into_iter().try_for_each(|node| node.join().expect("a node does not panic"))
    })?;
    Ok(())
}

/// What a node's configuration file would say.
fn configure(folder: &Path, number: u128) -> NodeConfig {
    let name = Uuid::from_u128(number + 1);
    let mut config = NodeConfig::new(name, folder.join("cluster.toml"), 0);
    let socket = folder.join(format!("node-{number}.sock"));
    config.reactors[0].listen = vec![format!("shm://{}", socket.display())];
    config.reactors[0].pool_bytes = ByteSize::mib(32);
    config.transport.window_budget_pages = 4096;
    let file = folder.join(format!("device-{number}"));
    let uri = format!("emulated:64MiB?file={}", file.display());
    config.devices.push(DeviceConfig::new(uri));
    config
}

/// Formats the devices and spreads four copysets over them, with one volume on all of them.
fn plan(configs: &[NodeConfig]) -> Result<Cluster> {
    let mut nodes = Vec::new();
    let mut devices = Vec::new();
    for config in configs {
        config.check()?;
        let addresses: Result<Vec<_>, _> =
            config.reactors[0].listen.iter().map(|address| address.parse()).collect();
        nodes.push(Node { uuid: config.node, reactors: vec![Reactor { addresses: addresses? }] });
        let uuid = format_device(&config.devices[0].uri, config.node)?;
        devices.push(Device { uuid, node: config.node, shards: 1 });
    }
    let options = PlanOptions {
        chunk_size: u64::from(CHUNK_BLOCKS) * 4096,
        copysets: 4,
        replicas: NODES as u32,
        quota_blocks: 1024,
    };
    let mut cluster = Cluster::plan(nodes, devices, &options)?;
    cluster.create_volume("disk", ByteSize::mib(8).bytes(), &VolumeOptions::default())?;
    Ok(cluster)
}

fn format_device(uri: &str, node: Uuid) -> Result<Uuid> {
    let mut queue_pair = open(&uri.parse::<DeviceUri>()?, &OpenOptions::default())?;
    let pool = Pool::new(&PoolOptions { lock: false, ..PoolOptions::default() })?;
    for region in pool.regions() {
        queue_pair.register(region)?;
    }
    let options = FormatOptions {
        // In earnest a random name; here one that tells the devices apart.
        uuid: Uuid::from_u128(node.as_u128() << 64 | 1),
        now_ns: SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64,
        layout: LayoutOptions { chunk_blocks: CHUNK_BLOCKS, ..LayoutOptions::default() },
        force: true,
    };
    Ok(format(&mut queue_pair, &pool, &options)?.uuid)
}

/// A client in the same thread: it gets a turn after the nodes had theirs.
fn write_and_read(nodes: &mut [NodeReactor], cluster: Cluster) -> Result<()> {
    let pool = Pool::new(&PoolOptions { lock: false, ..PoolOptions::default() })?;
    let identity = Identity { node: Uuid::from_u128(99), kind: PeerKind::Client, endpoint: 0 };
    let transport = Transport::new(TransportOptions::new(identity, pool.clone()))?;
    let mut client = Client::new(cluster, transport, pool.clone(), ClientOptions::default())?;
    let volume = client.open_volume("disk")?;
    let clock = Clock::default();

    let mut page = pool.acquire(1).context("a free page")?;
    page.copy_from_slice(0, b"straight under the road");
    let write = Operation::Write { volume, offset_blocks: 7, pages: page.freeze() };
    client.submit(write, 1).map_err(|refused| refused.reason)?;
    let mut found = [0; 4096];
    let mut completed = 0;
    while completed < 2 {
        for node in nodes.iter_mut() {
            node.turn();
        }
        let mut failed = None;
        client.poll(clock.now_ns(), &mut |completion| {
            completed += 1;
            failed = completion.result.err();
            if completion.token == 2 && failed.is_none() {
                completion.data.copy_to_slice(&mut found);
            }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        if completed == 1 && client.in_flight() == 0 {
            println!("written, and durable on a majority of {NODES} nodes");
            let read = Operation::Read { volume, offset_blocks: 7, blocks: 1 };
            client.submit(read, 2).map_err(|refused| refused.reason)?;
        }
    }
    ensure!(found.starts_with(b"straight under the road"), "the block reads as something else");
    println!("read back: {:?}", std::str::from_utf8(&found[..23])?);
    Ok(())
}
