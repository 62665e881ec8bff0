//! `culvert cluster`: the cluster file.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use culvert::cluster::{Cluster, Device, Node, PlanOptions, Reactor};
use culvert::config::{ByteSize, NodeConfig};
use culvert::device::{DeviceHeader, read_header};
use culvert::ids::BLOCK_SIZE;
use culvert::node::check_reserve;
use culvert_nvme::Access;
use culvert_transport::Address;

use super::connect::show;
use super::device::open_device;
use super::exit::{Outcome, Refuse, refuse};
use super::terminal::say;

const PLAN_EXAMPLES: &str = "\
Examples:
  culvert cluster plan node-1.toml node-2.toml node-3.toml --out cluster.toml
  culvert cluster plan node-*.toml --copysets 32 --out cluster.toml

Then, on each node: culvert serve --config node-1.toml --create-replicas";

/// Makes and shows the cluster file
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Spreads copysets over formatted devices and writes the cluster file
    ///
    /// Reads the configurations of all nodes and the headers of their devices, so the devices must
    /// be formatted, and in reach of this machine. Replicas get their names here, once: a plan is
    /// for a new cluster.
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
}

/// Arguments of `cluster plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Configurations of all nodes
    #[arg(required = true, value_name = "CONFIG")]
    nodes: Vec<PathBuf>,
    /// Where to write the cluster file
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Replicas of each copyset
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Copysets: more spread load and recovery, each costs some memory and heartbeats
    #[arg(long, default_value_t = 16)]
    copysets: u32,
    /// What each copyset may hold [default: an equal share of the smallest shard]
    #[arg(long, value_name = "SIZE")]
    quota: Option<ByteSize>,
    /// Write over an existing cluster file
    #[arg(long)]
    force: bool,
}

/// Runs a command of `culvert cluster`.
pub fn run(command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Plan(arguments) => run_plan(&arguments),
    }
}

fn run_plan(arguments: &PlanArgs) -> Outcome {
    if arguments.out.exists() && !arguments.force {
        return Err(refuse!(
            "{} exists; --force replaces it, and the names of all replicas with it",
            show(&arguments.out)
        ));
    }
    let mut nodes = Vec::new();
    for path in &arguments.nodes {
        let config = NodeConfig::load(path).refuse()?;
        let devices = config.devices.iter().map(|device| read_device(&device.uri));
        let devices = devices.collect::<Outcome<Vec<_>>>()?;
        nodes.push(PlannedNode { config, devices });
    }
    let wishes = Wishes {
        replicas: arguments.replicas,
        copysets: arguments.copysets,
        quota_blocks: arguments.quota.map(|quota| quota.bytes() / BLOCK_SIZE as u64),
    };
    let cluster = plan(&nodes, wishes)?;
    cluster.save(&arguments.out)?;
    say!(
        "{}: {} nodes, {} devices, {} copysets of {} replicas, {} each",
        show(&arguments.out),
        cluster.nodes().len(),
        cluster.devices().len(),
        cluster.copysets().len(),
        arguments.replicas,
        ByteSize(cluster.copysets()[0].quota_blocks * BLOCK_SIZE as u64).approximate()
    );
    Ok(())
}

/// The header of a formatted device.
fn read_device(uri: &str) -> Outcome<DeviceHeader> {
    let mut device = open_device(uri, Access::Shared, ByteSize::mib(2))?;
    let header = read_header(&mut device.queue, &device.pool);
    header.with_context(|| format!("device {uri}")).refuse()
}

/// A node to be: its configuration and its devices.
pub struct PlannedNode {
    /// Its configuration; each reactor must say where it listens.
    pub config: NodeConfig,
    /// Headers of its devices, in the order of the configuration.
    pub devices: Vec<DeviceHeader>,
}

/// What a plan should look like.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Replicas of each copyset.
    pub replicas: u32,
    /// Copysets.
    pub copysets: u32,
    /// Blocks that each may map; `None`: an equal share of the smallest shard.
    pub quota_blocks: Option<u64>,
}

/// Plans a cluster of `nodes`.
pub fn plan(nodes: &[PlannedNode], wishes: Wishes) -> Outcome<Cluster> {
    if wishes.copysets == 0 || wishes.replicas == 0 {
        return Err(refuse!("a cluster has at least one copyset of at least one replica"));
    }
    let mut listed = Vec::new();
    let mut devices = Vec::new();
    let mut chunk_blocks = None;
    for node in nodes {
        let uuid = node.config.node;
        listed.push(Node { uuid, reactors: reactors(&node.config)? });
        for header in &node.devices {
            let blocks = header.layout.chunk_blocks;
            if *chunk_blocks.get_or_insert(blocks) != blocks {
                return Err(refuse!("device {} has chunks of another size", header.uuid));
            }
            let shards = header.layout.shards.len() as u32;
            devices.push(Device { uuid: header.uuid, node: uuid, shards });
        }
    }
    let chunk_blocks = chunk_blocks.ok_or_else(|| refuse!("there is no device"))?;
    for PlannedNode { config, .. } in nodes {
        check_reserve(config, chunk_blocks)
            .with_context(|| format!("node {}", config.node))
            .refuse()?;
    }
    let options = PlanOptions {
        chunk_size: u64::from(chunk_blocks) * BLOCK_SIZE as u64,
        copysets: wishes.copysets,
        replicas: wishes.replicas,
        quota_blocks: wishes.quota_blocks.map_or_else(|| quota_blocks(nodes, wishes), Ok)?,
    };
    Cluster::plan(listed, devices, &options).refuse()
}

fn reactors(config: &NodeConfig) -> Outcome<Vec<Reactor>> {
    let mut reactors = Vec::new();
    for (number, reactor) in config.reactors.iter().enumerate() {
        let addresses: Result<Vec<Address>, _> =
            reactor.listen.iter().map(|address| address.parse()).collect();
        let addresses = addresses.refuse()?;
        let fixed = |address: &Address| match address {
            Address::Tcp(address) | Address::Rdma(address) => address.port() != 0,
            Address::Shm(_) => true,
        };
        if addresses.is_empty() || !addresses.iter().all(fixed) {
            return Err(refuse!(
                "node {} reactor {number}: `listen` must name addresses with ports, for others to \
                 find it by",
                config.node
            ));
        }
        reactors.push(Reactor { addresses });
    }
    Ok(reactors)
}

/// An equal share of the smallest shard, its reserve left out.
fn quota_blocks(nodes: &[PlannedNode], wishes: Wishes) -> Outcome<u64> {
    let shards = nodes.iter().flat_map(|node| {
        let reserve = u64::from(node.config.store.reserve_blocks);
        let layouts = node.devices.iter().map(|header| &header.layout);
        let shards = layouts.flat_map(|layout| layout.shards.iter().map(move |one| (layout, one)));
        shards.map(move |(layout, shard)| {
            let data_blocks = u64::from(shard.data_blocks()) - layout.kept_blocks(shard);
            data_blocks.saturating_sub(reserve)
        })
    });
    let sizes: Vec<u64> = shards.collect();
    let smallest = sizes.iter().copied().min().unwrap_or(0);
    let replicas = u64::from(wishes.copysets) * u64::from(wishes.replicas);
    let each = smallest / replicas.div_ceil(sizes.len() as u64).max(1);
    if each == 0 {
        return Err(refuse!("the smallest shard is too small for {} copysets", wishes.copysets));
    }
    Ok(each)
}
