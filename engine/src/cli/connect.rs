//! How commands reach a cluster.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use culvert::client::{BlockingClient, Client, ClientOptions, Transports};
use culvert::cluster::Cluster;
use culvert::config::{ByteSize, read_key};
use culvert::ids::Epoch;
use culvert_memory::{Pool, PoolOptions};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};
use uuid::Uuid;

use super::exit::{Outcome, Refuse};

/// A client over the production transports.
pub type CliClient = BlockingClient<Transport>;

/// Memory of a command's client.
const POOL_BYTES: ByteSize = ByteSize::mib(32);

/// Which cluster, and how to reach it.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// The cluster file
    #[arg(long, short, value_name = "FILE")]
    pub cluster: PathBuf,
}

impl ClusterArgs {
    /// Reads the cluster file.
    pub fn load(&self) -> Outcome<Cluster> {
        Cluster::load(&self.cluster).refuse()
    }
}

/// How to connect.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Which addresses of the cluster file to use
    #[arg(long, value_enum, default_value_t = TransportChoice::Any)]
    pub transport: TransportChoice,
    /// Connect from this address of the machine [default: what the kernel chooses]
    ///
    /// Where the machine has several networks it decides which of them, and over RDMA which device,
    /// is used.
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// File with the key that the servers ask for
    #[arg(long, value_name = "FILE")]
    pub pre_shared_key_file: Option<PathBuf>,
    /// Fencing epoch to hold [default: 0]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub epoch: u64,
    /// Give up an operation after so many seconds, retries included [default: 30; status: 3]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
}

/// Which transports a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportChoice {
    /// The first that works, in the order of the cluster file
    Any,
    /// Shared memory only
    Shm,
    /// TCP only
    Tcp,
    /// RDMA only
    Rdma,
}

impl TransportChoice {
    fn transports(self) -> Transports {
        match self {
            TransportChoice::Any => Transports::Any,
            TransportChoice::Shm => Transports::Shm,
            TransportChoice::Tcp => Transports::Tcp,
            TransportChoice::Rdma => Transports::Rdma,
        }
    }
}

impl ConnectArgs {
    /// A client of `cluster` that gives up after `timeout` where the caller does not say;
    /// connections are made on first use.
    pub fn connect(&self, cluster: Cluster, timeout: Duration) -> Outcome<CliClient> {
        let key = self.pre_shared_key_file.as_deref().map(read_key).transpose().refuse()?;
        let asked = self.timeout.map(Duration::try_from_secs_f64).transpose();
        let timeout = asked.context("--timeout").refuse()?.unwrap_or(timeout);
        let defaults = ClientOptions::default();
        let options = ClientOptions {
            request_timeout: timeout,
            attempt_timeout: defaults.attempt_timeout.min(timeout),
            transports: self.transport.transports(),
            epoch: Epoch(self.epoch),
            ..defaults
        };
        let client = connect(cluster, POOL_BYTES, (key, self.source), options)?;
        Ok(BlockingClient::new(client))
    }
}

/// A client with a name and a pool of its own, that connects with a key and from an address.
pub fn connect(
    cluster: Cluster,
    pool_bytes: ByteSize,
    (pre_shared_key, source): (Option<Vec<u8>>, Option<IpAddr>),
    options: ClientOptions,
) -> anyhow::Result<Client<Transport>> {
    let pool = Pool::new(&PoolOptions {
        name: "culvert-client".into(),
        bytes: pool_bytes.bytes() as usize,
        lock: false,
        ..PoolOptions::default()
    })
    .context("no memory for the client")?;
    let name = mint_uuid()?;
    let identity = Identity { node: name, kind: PeerKind::Client, endpoint: 0 };
    let transport = Transport::new(TransportOptions {
        pre_shared_key,
        source,
        lock_memory: false,
        ..TransportOptions::new(identity, pool.clone())
    })?;
    let seed = name.as_u64_pair().0;
    Ok(Client::new(cluster, transport, pool, ClientOptions { seed, ..options })?)
}

/// A random name.
pub fn mint_uuid() -> anyhow::Result<Uuid> {
    let mut bytes = [0; 16];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| anyhow!("no random numbers to mint a name from: {error}"))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// A path as it stands in messages.
pub fn show(path: &Path) -> String {
    path.display().to_string()
}
