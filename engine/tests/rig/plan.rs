//! A cluster for a test: formatted devices, configurations, the cluster file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert::client::{Client, ClientOptions, Transports};
use culvert::cluster::{Cluster, Device, Node, PlanOptions, Reactor};
use culvert::config::{ByteSize, DeviceConfig, NodeConfig, ReactorConfig};
use culvert::device::{DeviceHeader, FormatError, FormatOptions, LayoutOptions, format};
use culvert::ids::BLOCK_SIZE;
use culvert::node::{KeptPort, SystemClock};
use culvert::reactor::Clock;
use culvert::wire::FRAME_BYTES_MAX;
use culvert_memory::{Backing, Pool, PoolOptions};
use culvert_nvme::{AnyQueuePair, OpenOptions, QueuePair, open};
use culvert_transport::{Address, Identity, PeerKind, Transport, TransportOptions};
use uuid::Uuid;

/// The volume that every cluster has.
pub const VOLUME: &str = "disk";

/// What a cluster shall be like.
pub struct Wishes {
    /// Where sockets, the cluster file and configurations go.
    pub folder: PathBuf,
    /// URI of each node's device.
    pub devices: Vec<String>,
    /// Reactors of each node, and shards of each device.
    pub reactors: u32,
    /// Copysets, with three replicas each.
    pub copysets: u32,
    /// Blocks that each copyset may map.
    pub quota_blocks: u64,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// Loopback TCP instead of shared memory.
    pub tcp: bool,
    /// RDMA on a device with this address.
    pub rdma: Option<IpAddr>,
    /// Changes every node's configuration.
    pub adjust: fn(&mut NodeConfig),
}

impl Wishes {
    /// Three nodes with one reactor each over shared memory, 4 MiB of volume on three copysets.
    pub fn new(folder: &Path, devices: Vec<String>) -> Wishes {
        Wishes {
            folder: folder.to_owned(),
            devices,
            reactors: 1,
            copysets: 3,
            quota_blocks: 1024,
            chunk_bytes: 256 << 10,
            volume_bytes: 4 << 20,
            tcp: false,
            rdma: None,
            adjust: |_| {},
        }
    }
}

/// A cluster that was formatted and planned, and does not run yet.
pub struct Plan {
    /// The cluster file's content; also saved in the folder.
    pub cluster: Cluster,
    /// The configuration of each node.
    pub configs: Vec<NodeConfig>,
    /// Those of TCP addresses, whether their node runs or not.
    _ports: Vec<KeptPort>,
}

impl Plan {
    /// Formats the devices and plans the cluster.
    pub fn new(wishes: &Wishes) -> Plan {
        let mut nodes = Vec::new();
        let mut devices = Vec::new();
        let mut configs = Vec::new();
        let mut ports = Vec::new();
        let path = wishes.folder.join("cluster.toml");
        for (number, uri) in wishes.devices.iter().enumerate() {
            let node = Uuid::from_u128(0xc017_0000 + number as u128);
            let uuid = Uuid::from_u128(0xd017_0000 + number as u128);
            let layout = LayoutOptions {
                shards: wishes.reactors,
                chunk_blocks: (wishes.chunk_bytes / BLOCK_SIZE as u64) as u32,
                metadata: uri.contains("metadata=64"),
                ..LayoutOptions::default()
            };
            format_device(uri, uuid, layout, true).expect("a device that can be formatted");
            let reactors = (0..wishes.reactors).map(|reactor| {
                let addresses = vec![address(wishes, number, reactor, &mut ports)];
                Reactor { addresses }
            });
            nodes.push(Node { uuid: node, reactors: reactors.collect() });
            devices.push(Device { uuid, node, shards: wishes.reactors });
            let mut config = NodeConfig::new(node, path.clone(), 0);
            config.reactors =
                (0..wishes.reactors).map(|reactor| reactor_config(number, reactor)).collect();
            config.devices.push(DeviceConfig::new(uri.clone()));
            config.store.reserve_blocks = 1024;
            config.transport.window_budget_pages = 4096;
            config.transport.source = wishes.rdma;
            (wishes.adjust)(&mut config);
            config.check().expect("a configuration that keeps the rules");
            configs.push(config);
        }
        let options = PlanOptions {
            chunk_size: wishes.chunk_bytes,
            copysets: wishes.copysets,
            replicas: 3,
            quota_blocks: wishes.quota_blocks,
        };
        let mut cluster = Cluster::plan(nodes, devices, &options).expect("a possible plan");
        cluster
            .create_volume(VOLUME, wishes.volume_bytes, &Default::default())
            .expect("a possible volume");
        cluster.save(&path).expect("a place for the cluster file");
        Plan { cluster, configs, _ports: ports }
    }
}

fn reactor_config(node: usize, reactor: u32) -> ReactorConfig {
    let cores = culvert_memory::allowed_cores().expect("the kernel says which");
    // The reactors of a node must have cores of their own, whether this machine has them or not.
    let core = (node + reactor as usize) % cores.len().max(reactor as usize + 1);
    let mut reactor = ReactorConfig::new(cores.get(core).copied().unwrap_or(core));
    reactor.pool_bytes = ByteSize::mib(32);
    reactor
}

fn address(wishes: &Wishes, node: usize, reactor: u32, ports: &mut Vec<KeptPort>) -> Address {
    if let Some(device) = wishes.rdma {
        let port = 7400 + 16 * node as u16 + reactor as u16;
        return Address::Rdma((device, port).into());
    }
    if !wishes.tcp {
        return Address::Shm(wishes.folder.join(format!("node-{node}-{reactor}.sock")));
    }
    // The port must be known before the node runs, because the cluster file names it.
    let port = KeptPort::of_loopback().expect("a loopback interface");
    let address = Address::Tcp(port.address());
    ports.push(port);
    address
}

/// Three emulated devices in files of a folder, so that they outlive their nodes. `options` are
/// those of the URI, each with a `&` before it.
pub fn emulated(folder: &Path, size: &str, options: &str) -> Vec<String> {
    let uri = |n| format!("emulated:{size}?file={}/device-{n}{options}", folder.display());
    (0..3).map(uri).collect()
}

/// Formats a device.
pub fn format_device(
    uri: &str,
    uuid: Uuid,
    layout: LayoutOptions,
    force: bool,
) -> Result<DeviceHeader, FormatError> {
    let pool = pool("format", 2 << 20);
    let mut queue_pair = open_device(uri, &pool);
    let now_ns = SystemClock.now_ns();
    format(&mut queue_pair, &pool, &FormatOptions { uuid, now_ns, layout, force })
}

/// Opens a device that knows the pool's memory.
pub fn open_device(uri: &str, pool: &Pool) -> AnyQueuePair {
    let parsed = uri.parse().expect("a device URI");
    let mut queue_pair = open(&parsed, &OpenOptions::default()).expect("a device");
    for region in pool.regions() {
        queue_pair.register(region).expect("room for the pool");
    }
    queue_pair
}

/// Ordinary memory.
pub fn pool(name: &str, bytes: usize) -> Pool {
    let name = format!("culvert-{name}");
    let backing = Backing::Ordinary;
    Pool::new(&PoolOptions { name, bytes, backing, numa_node: None, lock: false })
        .expect("memory for a test")
}

/// A transport that says it is `identity`.
pub fn transport(identity: Identity, pool: Pool) -> Transport {
    transport_from(identity, pool, None)
}

fn transport_from(identity: Identity, pool: Pool, source: Option<IpAddr>) -> Transport {
    let options = TransportOptions::new(identity, pool);
    Transport::new(TransportOptions { frame_bytes_max: FRAME_BYTES_MAX, source, ..options })
        .expect("the usual options")
}

/// Client number `number` of a cluster.
pub fn client(cluster: &Cluster, number: u64, options: ClientOptions) -> Client<Transport> {
    client_from(cluster, number, options, None)
}

/// One that connects from an address.
pub fn client_from(
    cluster: &Cluster,
    number: u64,
    options: ClientOptions,
    source: Option<IpAddr>,
) -> Client<Transport> {
    let pool = pool("client", 16 << 20);
    let node = Uuid::from_u128(0xc11e_0000 + u128::from(number));
    let identity = Identity { node, kind: PeerKind::Client, endpoint: 0 };
    let transport = transport_from(identity, pool.clone(), source);
    let options = ClientOptions { transports: Transports::Any, seed: number, ..options };
    Client::new(cluster.clone(), transport, pool, options).expect("valid options")
}
