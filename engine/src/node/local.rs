//! A whole cluster in one process and one thread: for tests, examples and measurements without
//! the machine's scheduler in between.
//!
//! It is the production code over production drivers; only that the caller's thread runs all
//! reactors in turn. Devices are emulated or whatever their URIs say, addresses are Unix sockets
//! in a folder of the caller's, or loopback TCP.

use std::path::PathBuf;

use culvert_memory::{Backing, Pool, PoolOptions};
use culvert_nvme::{METADATA_BYTES, OpenOptions, QueuePair, open};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};
use uuid::Uuid;

use super::{KeptPort, NodeError, NodeReactor, SystemClock};
use crate::chunkserver::AbsentReplicas;
use crate::client::{Client, ClientOptions};
use crate::cluster::{Cluster, Device, Node, PlanError, PlanOptions, Reactor, VolumeError};
use crate::config::{ByteSize, DeviceConfig, NodeConfig};
use crate::device::{FormatError, FormatOptions, LayoutOptions, format};
use crate::network::Address;
use crate::reactor::Clock;

/// What a local cluster looks like.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Folder for sockets; it must exist and outlive the cluster.
    pub folder: PathBuf,
    /// URI of each node's device; as many nodes as there are devices.
    pub devices: Vec<String>,
    /// Copysets and their replicas.
    pub plan: PlanOptions,
    /// Name and size of the volume to create.
    pub volume: (String, u64),
    /// Listens on loopback TCP as well as on sockets.
    pub tcp: bool,
    /// Memory of each reactor's pool.
    pub pool_bytes: u64,
    /// Changes every node's configuration before it is used.
    pub adjust: fn(&mut NodeConfig),
}

/// Why a local cluster does not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A device cannot be formatted.
    #[error("formatting {uri}")]
    Format {
        /// Which.
        uri: String,
        /// Why.
        source: FormatError,
    },
    /// No TCP port.
    #[error("no free port on the loopback interface")]
    Port(#[from] std::io::Error),
    /// The plan is impossible.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The volume is impossible.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Nodes of one cluster, run by the thread that owns them.
pub struct LocalCluster {
    cluster: Cluster,
    configs: Vec<NodeConfig>,
    nodes: Vec<Option<NodeReactor>>,
    /// Those of TCP addresses, whether their node runs or not.
    _ports: Vec<KeptPort>,
}

impl LocalCluster {
    /// Formats the devices, plans the cluster and starts all nodes.
    ///
    /// Emulated devices keep their content for as long as their file exists; give them one.
    ///
    /// # Errors
    ///
    /// [`LocalError`].
    pub fn start(options: &LocalOptions) -> Result<LocalCluster, LocalError> {
        let mut nodes = Vec::new();
        let mut devices = Vec::new();
        let mut configs = Vec::new();
        let mut ports = Vec::new();
        for (number, uri) in options.devices.iter().enumerate() {
            let node = Uuid::from_u128(0xc017_0000 + number as u128);
            let device = Uuid::from_u128(0xd017_0000 + number as u128);
            format_device(uri, device, options)?;
            let addresses = addresses_of(options, number, &mut ports)?;
            nodes.push(Node { uuid: node, reactors: vec![Reactor { addresses }] });
            devices.push(Device { uuid: device, node, shards: 1 });
            let mut config = NodeConfig::new(node, options.folder.join("cluster.toml"), 0);
            config.reactors[0].pool_bytes = ByteSize(options.pool_bytes);
            config.devices.push(DeviceConfig::new(uri.clone()));
            (options.adjust)(&mut config);
            configs.push(config);
        }
        let mut cluster = Cluster::plan(nodes, devices, &options.plan)?;
        cluster.create_volume(&options.volume.0, options.volume.1, &Default::default())?;
        let nodes = configs.iter().map(|_| None).collect();
        let mut local = LocalCluster { cluster, configs, nodes, _ports: ports };
        for number in 0..local.nodes.len() {
            local.open(number, true)?;
        }
        Ok(local)
    }

    /// The cluster file's content.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Starts a node that is down, as after a crash.
    ///
    /// # Errors
    ///
    /// [`LocalError`].
    pub fn open(
        &mut self,
        number: usize,
        absent: impl Into<AbsentReplicas>,
    ) -> Result<(), LocalError> {
        assert!(self.nodes[number].is_none(), "the node is running");
        let node = NodeReactor::open(&self.configs[number], &self.cluster, 0, absent)?;
        self.nodes[number] = Some(node);
        Ok(())
    }

    /// Drops a node where it stands: nothing is flushed, nobody is told.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number] = None;
    }

    /// A running node.
    pub fn node(&mut self, number: usize) -> Option<&mut NodeReactor> {
        self.nodes[number].as_mut()
    }

    /// One turn of every running node but those `except` names. Returns whether anything happened.
    pub fn turn_except(&mut self, except: &[usize]) -> bool {
        let mut busy = false;
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(node) = node.as_mut().filter(|_| !except.contains(&number)) {
                busy |= node.turn();
            }
        }
        busy
    }

    /// One turn of every running node. Returns whether anything happened.
    pub fn turn(&mut self) -> bool {
        self.turn_except(&[])
    }

    /// A client on the same thread, with memory of its own.
    ///
    /// # Panics
    ///
    /// If there is no memory for it, or the options make no sense.
    #[must_use]
    pub fn client(&self, pool_bytes: usize, options: ClientOptions) -> Client<Transport> {
        let pool = Pool::new(&PoolOptions {
            name: "culvert-client".to_owned(),
            bytes: pool_bytes,
            backing: Backing::HugeOrOrdinary,
            numa_node: None,
            lock: false,
        })
        .expect("memory for a client");
        let seed = SystemClock.now_ns();
        let uuid = Uuid::from_u128(0xc11e_0000_0000_0000 | u128::from(seed) << 64);
        let identity = Identity { node: uuid, kind: PeerKind::Client, endpoint: 0 };
        let transport = Transport::new(TransportOptions {
            frame_bytes_max: crate::wire::FRAME_BYTES_MAX,
            ..TransportOptions::new(identity, pool.clone())
        })
        .expect("the usual options");
        Client::new(self.cluster.clone(), transport, pool, options).expect("valid options")
    }
}

fn addresses_of(
    options: &LocalOptions,
    number: usize,
    ports: &mut Vec<KeptPort>,
) -> Result<Vec<Address>, LocalError> {
    let mut addresses = vec![Address::Shm(options.folder.join(format!("node-{number}.sock")))];
    if options.tcp {
        // The port must be known before the node runs, because the cluster file names it.
        let port = KeptPort::of_loopback()?;
        addresses.push(Address::Tcp(port.address()));
        ports.push(port);
    }
    Ok(addresses)
}

fn format_device(uri: &str, uuid: Uuid, options: &LocalOptions) -> Result<(), LocalError> {
    let parsed = uri.parse().map_err(|source| NodeError::Uri { uri: uri.to_owned(), source })?;
    let mut queue_pair = open(&parsed, &OpenOptions::default())
        .map_err(|source| NodeError::Open { uri: uri.to_owned(), source: source.into() })?;
    let pool = Pool::new(&PoolOptions {
        name: "culvert-format".to_owned(),
        bytes: 2 << 20,
        backing: Backing::Ordinary,
        numa_node: None,
        lock: false,
    })
    .map_err(|source| NodeError::Pool { reactor: 0, source })?;
    for region in pool.regions() {
        queue_pair
            .register(region)
            .map_err(|source| NodeError::Register { uri: uri.to_owned(), source })?;
    }
    let chunk_blocks = (options.plan.chunk_size / crate::ids::BLOCK_SIZE as u64) as u32;
    // Entries go to metadata where there are any.
    let namespace = queue_pair.namespace();
    let metadata = namespace.metadata_bytes as usize >= METADATA_BYTES
        && namespace.block_size as usize == crate::ids::BLOCK_SIZE;
    let layout = LayoutOptions { chunk_blocks, metadata, ..LayoutOptions::default() };
    let format_options = FormatOptions { uuid, now_ns: 0, layout, force: true };
    format(&mut queue_pair, &pool, &format_options)
        .map_err(|source| LocalError::Format { uri: uri.to_owned(), source })?;
    Ok(())
}
