//! A cluster on this machine, made for the occasion: devices over memory-backed files, one server
//! process for each node, everything in a scratch folder that goes with it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use culvert::cluster::{Cluster, Copyset, VolumeOptions};
use culvert::config::{ByteSize, DeviceConfig, NodeConfig};
use culvert::device::LayoutOptions;
use culvert::ids::BLOCK_SIZE;
use culvert::node::KeptPort;
use culvert_memory::PAGE_SIZE;
use culvert_nvme::{Device, DeviceUri, EmulatedOptions, MediumKind};
use culvert_transport::Address;
use rustix::process::Signal;

use super::case::TransportKind;
use super::cleanup::Scratch;
use super::server_process::ServerProcess;
use super::site::Site;
use crate::cli::cluster::{PlannedNode, Wishes, plan};
use crate::cli::connect::{CliClient, mint_uuid};
use crate::cli::exit::{Outcome, Refuse};
use crate::cli::format::format_device;
use crate::cli::status::{ClusterStatus, ReplicaView, fetch, render};
use crate::cli::terminal::Paint;

/// Name of the one volume.
pub const VOLUME: &str = "bench";

/// Chunks of a local cluster at most: small, so that a small volume is spread all the same.
const CHUNK_SIZE_MAX: ByteSize = ByteSize::mib(4);

/// ... and at least.
const CHUNK_SIZE_MIN: ByteSize = ByteSize::kib(256);

/// Raft's clock where processors are emulated: with the usual one, heartbeats that are late for want
/// of a processor would end every term.
const EMULATED_TICK_MS: u32 = 200;

/// Lines of a status that an error shows.
const STATUS_LINES: usize = 24;

/// What stands for the number of a node in the URI of its device.
const NUMBER: &str = "{node}";

/// What a local cluster is made of.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Nodes, each with one device; as many as replicas.
    pub nodes: u32,
    /// URI of the devices; `{node}` stands for the number of the node. An emulated device without a
    /// file gets one in the scratch folder.
    pub device: String,
    /// Copysets.
    pub copysets: u32,
    /// Bytes of the volume; `None`: as many as the devices take.
    pub volume_bytes: Option<ByteSize>,
    /// Addresses of the nodes, in the order in which they are tried.
    pub transports: Vec<TransportKind>,
    /// Whether devices that are formatted may be formatted again.
    pub force: bool,
    /// Where it stands.
    pub site: Site,
}

/// The cluster. Dropping it ends the servers and removes the files.
pub struct LocalCluster {
    servers: Vec<Option<ServerProcess>>,
    configs: Vec<PathBuf>,
    devices: Vec<String>,
    cluster_file: PathBuf,
    cluster: Cluster,
    addresses: Vec<Vec<(TransportKind, Address)>>,
    scratch: Scratch,
    /// Those of the TCP addresses, whether their server runs or not.
    _ports: Vec<KeptPort>,
}

impl LocalCluster {
    /// Formats the devices and writes the configurations and the cluster file. Nothing runs yet.
    pub fn create(options: &LocalOptions) -> Outcome<LocalCluster> {
        let scratch = Scratch::new().context("no place for the files of the cluster")?;
        let cluster_file = scratch.path("cluster.toml");
        let cores = culvert_memory::allowed_cores()?;
        let chunk_size = chunk_size(options);
        let mut configs = Vec::new();
        let mut devices = Vec::new();
        let mut nodes = Vec::new();
        let mut addresses = Vec::new();
        let mut ports = Vec::new();
        for number in 0..options.nodes as usize {
            let uri = device_uri(&options.device, number, &scratch).refuse()?;
            let layout = LayoutOptions {
                chunk_blocks: (chunk_size.bytes() / BLOCK_SIZE as u64) as u32,
                metadata: has_metadata(&uri),
                ..LayoutOptions::default()
            };
            let header = format_device(&uri, None, layout, options.force)?;
            let (kept, known) = node_addresses(options, number, &scratch)?;
            ports.push(kept);
            let core = cores[number % cores.len()];
            let mut config = NodeConfig::new(mint_uuid()?, cluster_file.clone(), core);
            config.reactors[0].listen =
                known.iter().map(|(_, address)| address.to_string()).collect();
            config.devices.push(DeviceConfig::new(uri.clone()));
            suit(&mut config, &options.site, number);
            devices.push(uri);
            config.check().context("the configuration of a local node")?;
            let path = scratch.path(&format!("node-{number}.toml"));
            std::fs::write(&path, config.to_toml())?;
            configs.push(path);
            addresses.push(known);
            nodes.push(PlannedNode { config, devices: vec![header] });
        }
        let wishes =
            Wishes { replicas: options.nodes, copysets: options.copysets, quota_blocks: None };
        let mut cluster = plan(&nodes, wishes)?;
        let whole = whole_volume(&cluster, chunk_size);
        let volume_bytes = options.volume_bytes.unwrap_or(whole).bytes();
        cluster.create_volume(VOLUME, volume_bytes, &VolumeOptions::default()).refuse()?;
        let servers = (0..nodes.len()).map(|_| None).collect();
        let mut local = LocalCluster {
            servers,
            configs,
            devices,
            cluster_file,
            cluster,
            addresses,
            scratch,
            _ports: ports,
        };
        local.use_transports(&options.transports)?;
        Ok(local)
    }

    /// Rewrites the cluster file, so that servers started from now on, and clients, use these
    /// transports in this order.
    pub fn use_transports(&mut self, transports: &[TransportKind]) -> anyhow::Result<()> {
        let mut document = self.cluster.document().clone();
        for (node, known) in document.nodes.iter_mut().zip(&self.addresses) {
            let of = |kind: &TransportKind| known.iter().find(|(known, _)| known == kind);
            node.reactors[0].addresses =
                transports.iter().filter_map(of).map(|(_, address)| address.clone()).collect();
        }
        self.cluster = Cluster::check(document)?;
        Ok(self.cluster.save(&self.cluster_file)?)
    }

    /// The cluster file's content.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Configurations of the nodes.
    pub fn configs(&self) -> &[PathBuf] {
        &self.configs
    }

    /// URIs of the devices, in the order of the nodes.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// A path in the cluster's scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Processes of the servers that run.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().flatten().map(ServerProcess::pid).collect()
    }

    /// Starts all servers; `create` for the first time.
    pub fn start_all(&mut self, create: bool) -> anyhow::Result<()> {
        (0..self.servers.len()).try_for_each(|number| self.start(number, create))
    }

    /// Starts one server.
    pub fn start(&mut self, number: usize, create: bool) -> anyhow::Result<()> {
        let log = self.log(number);
        let arguments: &[&str] = if create { &["--create-replicas"] } else { &[] };
        let server = ServerProcess::start(&self.configs[number], &log, arguments);
        self.servers[number] = Some(server.context("cannot start a server")?);
        Ok(())
    }

    fn log(&self, number: usize) -> PathBuf {
        self.scratch.path(&format!("node-{number}.log"))
    }

    /// Kills one server, as a crash would.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        if let Some(mut server) = self.servers[number].take() {
            server.kill()?;
        }
        Ok(())
    }

    /// Stops a server in its tracks, or lets it go on.
    pub fn signal(&mut self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let server = self.servers[number].as_mut().context("the server does not run")?;
        Ok(server.signal(signal)?)
    }

    /// Ends all servers in order.
    pub fn stop_all(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            if let Some(mut server) = server.take() {
                server.stop()?;
            }
        }
        Ok(())
    }

    /// Fails if a server has ended by itself, with the end of its log.
    pub fn check_servers(&mut self) -> anyhow::Result<()> {
        for (number, server) in self.servers.iter_mut().enumerate() {
            let Some(server) = server else { continue };
            if let Some(status) = server.ended()? {
                bail!(
                    "server {number} ended with {status}; its log ends:\n{}",
                    server.last_words()
                );
            }
        }
        Ok(())
    }

    /// Waits until every node serves, every copyset has a leader, and every replica has applied
    /// what its leader has committed.
    pub fn wait_ready(&mut self, client: &mut CliClient, limit: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            self.check_servers()?;
            let status = fetch(client);
            let missing = self.absent(&status).or_else(|| self.lagging(&status));
            match missing {
                None => return Ok(()),
                Some(what) if started.elapsed() > limit => {
                    let status = self.brief(&status);
                    bail!("after {limit:?} the cluster still waits for {what}\n{status}")
                }
                Some(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Waits until every copyset has a leader, whoever does not serve.
    pub fn wait_for_leaders(
        &mut self,
        client: &mut CliClient,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while let Some(what) = self.leaderless(&fetch(client)) {
            self.check_servers()?;
            if started.elapsed() > limit {
                bail!("after {limit:?} the cluster still waits for {what}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until every node serves and every copyset has a leader, and a little longer for
    /// replicas that lag. Returns one that still does `patience` after all serve.
    pub fn wait_serving(
        &mut self,
        client: &mut CliClient,
        limit: Duration,
        patience: Duration,
    ) -> anyhow::Result<Option<String>> {
        let started = Instant::now();
        let mut serving_since = None;
        loop {
            self.check_servers()?;
            let status = fetch(client);
            match (self.absent(&status), self.lagging(&status)) {
                (Some(what), _) if started.elapsed() > limit => {
                    let status = self.brief(&status);
                    bail!("after {limit:?} the cluster still waits for {what}\n{status}")
                }
                (Some(_), _) => serving_since = None,
                (None, Some(what)) => {
                    let since = *serving_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > patience {
                        return Ok(Some(what));
                    }
                }
                (None, None) => return Ok(None),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The first lines of a status: clusters may have hundreds of copysets.
    fn brief(&self, status: &ClusterStatus) -> String {
        let text = render(&self.cluster, status, Paint::plain());
        let lines: Vec<&str> = text.lines().take(STATUS_LINES).collect();
        lines.join("\n")
    }

    /// A node that does not serve, or a copyset without leader.
    fn absent(&self, status: &ClusterStatus) -> Option<String> {
        if let Some(node) = status.nodes.iter().position(|node| node.iter().any(Result::is_err)) {
            return Some(format!("node {node}"));
        }
        self.leaderless(status)
    }

    fn leaderless(&self, status: &ClusterStatus) -> Option<String> {
        let led = |copyset: &&Copyset| status.leader_of(copyset.id.0).is_some();
        let leaderless = self.cluster.copysets().iter().find(|copyset| !led(copyset))?;
        Some(format!("a leader of copyset {}", leaderless.id))
    }

    /// A replica that does not serve or has not applied everything.
    fn lagging(&self, status: &ClusterStatus) -> Option<String> {
        let copysets = status.copysets();
        for copyset in self.cluster.copysets() {
            let id = copyset.id.0;
            let replicas = copysets.get(&id).map_or(&[][..], Vec::as_slice);
            let commit = replicas.iter().map(|(_, replica)| replica.commit).max().unwrap_or(0);
            let behind = |(_, replica): &&(usize, _)| lags(replica, commit);
            if let Some((node, _)) = replicas.iter().find(behind) {
                return Some(format!("node {node} to catch up with copyset {id}"));
            }
            if replicas.len() < copyset.replicas.len() {
                return Some(format!("a replica of copyset {id}"));
            }
        }
        None
    }
}

/// Where a node listens, and its kept port. RDMA has ports of its own: the same number serves both.
fn node_addresses(
    options: &LocalOptions,
    number: usize,
    scratch: &Scratch,
) -> Outcome<(KeptPort, Vec<(TransportKind, Address)>)> {
    let ip = options.site.addresses.of_node(number);
    let kept = ip.map_or_else(KeptPort::of_loopback, KeptPort::of);
    let kept = kept.with_context(|| match ip {
        Some(ip) => format!("no port of {ip}: is it an address of this machine?"),
        None => "no free port on the loopback interface".to_owned(),
    });
    let kept = kept.refuse()?;
    let socket = Address::Shm(scratch.path(&format!("node-{number}.sock")));
    let port = kept.address();
    let mut known = vec![(TransportKind::Shm, socket), (TransportKind::Tcp, Address::Tcp(port))];
    if options.transports.contains(&TransportKind::Rdma) {
        known.push((TransportKind::Rdma, Address::Rdma(port)));
    }
    Ok((kept, known))
}

/// Makes a configuration fit where the node stands.
fn suit(config: &mut NodeConfig, site: &Site, number: usize) {
    let pool = site.room.pool;
    config.reactors[0].pool_bytes = pool;
    let half = (pool.bytes() / 2 / PAGE_SIZE as u64) as u32;
    let transport = &mut config.transport;
    transport.window_budget_pages = transport.window_budget_pages.min(half);
    transport.source = site.addresses.of_node(number);
    if site.hardware.emulated.is_some() {
        config.raft.tick_ms = EMULATED_TICK_MS;
    }
}

fn lags(replica: &ReplicaView, commit: u64) -> bool {
    replica.role == "out of service" || replica.applied < commit
}

/// Chunks of which every copyset gets one at least.
fn chunk_size(options: &LocalOptions) -> ByteSize {
    let bytes = options.volume_bytes.map_or(u64::MAX, ByteSize::bytes);
    let each = (bytes / u64::from(options.copysets.max(1))).max(1);
    ByteSize(1 << each.ilog2()).clamp(CHUNK_SIZE_MIN, CHUNK_SIZE_MAX)
}

/// A volume that uses every copyset up, in whole chunks.
fn whole_volume(cluster: &Cluster, chunk_size: ByteSize) -> ByteSize {
    let copysets = cluster.copysets();
    let quota = copysets.iter().map(|copyset| copyset.quota_blocks).min().unwrap_or(0);
    let chunks = quota * BLOCK_SIZE as u64 / chunk_size.bytes();
    ByteSize(chunks * chunk_size.bytes() * copysets.len() as u64)
}

/// The URIs of `--device`: commas are between them where another URI begins.
fn uris(list: &str) -> Vec<&str> {
    let begins =
        |at: &usize| ["emulated:", "uring:", "vfio:"].iter().any(|s| list[*at..].starts_with(s));
    let starts = list.match_indices(',').map(|(at, _)| at + 1).filter(begins);
    let mut starts: Vec<usize> = std::iter::once(0).chain(starts).collect();
    starts.push(list.len() + 1);
    starts.windows(2).map(|pair| &list[pair[0]..pair[1] - 1]).collect()
}

/// The URI of one node's device: its own of several, or its number put in, and a file in the scratch
/// folder where an emulated device has none.
fn device_uri(list: &str, number: usize, scratch: &Scratch) -> anyhow::Result<String> {
    let devices = uris(list);
    let several = devices.len() > 1;
    let own = if several { number } else { 0 };
    let template = *devices.get(own).with_context(|| {
        format!("--device {list}: {} devices, and there are more nodes", devices.len())
    })?;
    let text = template.replace(NUMBER, &number.to_string());
    let uri: DeviceUri = text.parse().with_context(|| format!("--device {template}"))?;
    match uri.device() {
        Device::Emulated(options) if options.medium == MediumKind::Memory => {
            let file = scratch.path(&format!("device-{number}"));
            let options = EmulatedOptions { medium: MediumKind::File(file), ..options.clone() };
            Ok(DeviceUri::new(Device::Emulated(options)).to_string())
        }
        _ if !several && !template.contains(NUMBER) => Err(anyhow!(
            "--device {template}: every node needs a device of its own; write {NUMBER} where the \
             number of the node goes, or a device for each, with commas"
        )),
        _ => Ok(text),
    }
}

/// Whether an emulated device has metadata: entries of the journal stand there then.
fn has_metadata(uri: &str) -> bool {
    let uri = uri.parse::<DeviceUri>();
    let emulated = uri.as_ref().map(DeviceUri::device);
    matches!(emulated, Ok(Device::Emulated(options)) if options.metadata_bytes > 0)
}

/// The size of an emulated device, from its URI; `None` for others.
///
/// # Errors
///
/// Where it names no device.
pub fn emulated_bytes(list: &str) -> anyhow::Result<Option<u64>> {
    let uri = uris(list)[0].replace(NUMBER, "0").parse::<DeviceUri>();
    let uri = uri.with_context(|| format!("--device {list}"))?;
    Ok(match uri.device() {
        Device::Emulated(options) => Some(options.bytes),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_devices_of_their_own() {
        let scratch = Scratch::new().expect("a folder");
        let uri =
            |list: &str, number| device_uri(list, number, &scratch).map_err(|e| e.to_string());
        assert_eq!(uri("uring:/dev/nvme{node}n1", 2).as_deref(), Ok("uring:/dev/nvme2n1"));
        let list = "vfio:0000:5e:00.0?ns=2,uring:/a,b,emulated:1MiB";
        assert_eq!(uri(list, 0).as_deref(), Ok("vfio:0000:5e:00.0?ns=2"));
        assert_eq!(uri(list, 1).as_deref(), Ok("uring:/a,b"));
        assert!(uri(list, 2).expect("one in memory").contains("file="), "other processes find it");
        assert!(uri(list, 3).expect_err("three devices").contains("more nodes"));
        assert!(uri("uring:/dev/nvme0n1", 0).expect_err("one for all").contains("{node}"));
        let bytes = |list| emulated_bytes(list).expect("devices");
        assert_eq!(bytes("emulated:2MiB,emulated:1MiB"), Some(2 << 20));
        assert_eq!(bytes("uring:/dev/nvme0n1"), None);
        let error = emulated_bytes("emulated:2MiB?blocks=512").expect_err("no such option");
        assert!(format!("{error:#}").contains("blocks"), "{error:#}");
    }
}
