//! `culvert bench`: one transport against another, on the same engine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use culvert::cluster::{Cluster, Node};
use culvert::config::{ByteSize, read_key};
use culvert::doctor::{Machine, rdma_devices};
use culvert_transport::Address;

use super::connect::show;
use super::exit::{Outcome, Refuse, refuse};
use super::terminal::{Progress, print, say, warn};
use crate::bench::addresses::{Addresses, AddressesError};
use crate::bench::case::{Pattern, TransportKind, rows};
use crate::bench::hardware::Hardware;
use crate::bench::local_cluster::{LocalCluster, LocalOptions, VOLUME, emulated_bytes};
use crate::bench::matrix::{self, MatrixOptions};
use crate::bench::result::{CaseResult, Conditions, Nodes};
use crate::bench::room::Room;
use crate::bench::scenario::{self, Scenario, ScenarioOptions};
use crate::bench::servers::{OneThread, Servers};
use crate::bench::site::Site;
use crate::bench::{cleanup, html, table};

/// Volume of a local cluster where nobody says how large: half of the device, at most this.
const VOLUME_MAX: ByteSize = ByteSize::mib(1024);

/// ... and at most this on an emulated processor, which takes its time to fill it.
const VOLUME_MAX_EMULATED: ByteSize = ByteSize::mib(32);

const EXAMPLES: &str = "\
Examples:
  culvert bench
  culvert bench --transport shm --pattern randwrite --block-size 4KiB --depth 128 --rounds 5
  culvert bench --depth 1,8,32,128 --report report.html
  culvert bench --transport rdma,tcp
  culvert bench --transport rdma,tcp --address 192.0.2.1,192.0.2.2 --rounds 3
  culvert bench --device 'uring:/data/disk-{node}?size=4GiB' --volume-size 1GiB --json
  culvert bench --scenario restart,failover --device emulated:1GiB --rounds 5
  culvert bench --cluster cluster.toml --volume scratch --transport rdma,tcp  # overwrites the volume

Without --cluster it starts servers of its own, three processes on this machine, and ends them. The
CPU, the device bytes and the copies of each operation come from the servers' own counters; so do
the latencies by stage, which --json shows. Where RDMA is among the transports, TCP takes the same
addresses. On an emulated processor the table, the JSON and the report say so: only counters mean
anything there. docs/PERFORMANCE.md: how to compare on real cards, and what to expect.";

/// Compares transports on the same engine in one command
///
/// Runs every combination of pattern, block size and depth on every transport and prints one table
/// with the ratio between transports. Rounds in which the hypervisor stole more than 2% of the time
/// are left out; figures are medians of the others.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Transports; the first is what the others are compared with
    #[arg(long, value_enum, value_delimiter = ',', default_value = "shm,tcp")]
    transport: Vec<TransportKind>,
    /// Patterns
    #[arg(long, value_enum, value_delimiter = ',', default_value = "randwrite,write,randread")]
    pattern: Vec<Pattern>,
    /// Bytes of a request
    #[arg(long, value_delimiter = ',', default_value = "4KiB,16KiB", value_name = "SIZE,...")]
    block_size: Vec<ByteSize>,
    /// Requests in flight
    #[arg(long, value_delimiter = ',', default_value = "1,128", value_name = "N,...")]
    depth: Vec<u32>,
    /// Replicas of each copyset, and as many nodes
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Devices of the nodes: one URI, in which {node} stands for the number of the node, or one for
    /// each [default: emulated:2GiB, less where memory is short]
    #[arg(long, value_name = "URI,...")]
    device: Option<String>,
    /// Where the servers listen, in their order, and last from where the client connects; fewer are
    /// used in turn [default: loopback; with rdma: RDMA devices]
    ///
    /// With rdma among the transports, the default is one device for each server and one for the
    /// client, where the machine has so many that are active, and otherwise the first for all.
    /// Servers connect to each other from their own addresses, and TCP uses the same ones.
    #[arg(long, value_delimiter = ',', value_name = "IP,...", conflicts_with = "cluster")]
    address: Vec<IpAddr>,
    /// Format the devices even if they are formatted: what they hold is LOST
    #[arg(long, conflicts_with = "cluster")]
    force: bool,
    /// How the servers run
    #[arg(long, value_enum, default_value_t = Nodes::Processes)]
    nodes: Nodes,
    /// How long each case is measured in each round
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds: more give steadier medians
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Copysets that the volume is spread over
    #[arg(long, default_value_t = 4)]
    copysets: u32,
    /// Size of the volume [default: half of an emulated device, at most 1GiB]
    #[arg(long, value_name = "SIZE")]
    volume_size: Option<ByteSize>,
    /// Use this cluster instead of starting one
    #[arg(long, value_name = "FILE", requires = "volume")]
    cluster: Option<PathBuf>,
    /// Volume of that cluster; it is OVERWRITTEN
    #[arg(long, value_name = "NAME", requires = "cluster")]
    volume: Option<String>,
    /// Connect to that cluster from this address of the machine
    #[arg(long, value_name = "IP", requires = "cluster")]
    source: Option<IpAddr>,
    /// File with the key that the servers of that cluster ask for
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pre_shared_key_file: Option<PathBuf>,
    /// Instead of the matrix: what no single load shows
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAME,...",
        conflicts_with_all = ["cluster", "pattern", "block_size", "depth", "copysets",
            "volume_size", "nodes", "report"]
    )]
    scenario: Vec<Scenario>,
    /// Print JSON: one array of cases, or of the figures of scenarios
    #[arg(long)]
    json: bool,
    /// Write a report with charts, one self-contained HTML file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What is measured on: servers of our own, or a cluster that is there.
struct Target {
    servers: Servers,
    cluster: Cluster,
    source: Option<IpAddr>,
    conditions: Conditions,
}

/// Runs the command.
pub fn run(arguments: &BenchArgs) -> Outcome {
    cleanup::on_signals()?;
    if !arguments.scenario.is_empty() {
        return run_scenarios(arguments);
    }
    let transports = transports(arguments)?;
    let duration = duration(arguments)?;
    let rows = rows(&arguments.pattern, &arguments.block_size, &arguments.depth).refuse()?;
    let key = arguments.pre_shared_key_file.as_deref().map(read_key).transpose().refuse()?;
    let Target { mut servers, cluster, source, conditions } = match &arguments.cluster {
        Some(path) => foreign_target(arguments, path, &transports)?,
        None => local_target(arguments, &transports)?,
    };
    let options = MatrixOptions {
        transports,
        rows,
        duration,
        rounds: arguments.rounds,
        volume: arguments.volume.clone().unwrap_or_else(|| VOLUME.to_owned()),
        pre_shared_key: key,
        source,
        conditions,
    };
    let cases = options.rounds as usize * options.transports.len() * options.rows.len();
    let mut bar = Progress::steps("cases", cases as u64);
    let results = matrix::run(&options, &cluster, &mut servers, &mut || bar.advance(1));
    bar.finish();
    let results = results?;
    if let Some(path) = &arguments.report {
        let written = std::fs::write(path, html::render(&results));
        written.with_context(|| format!("cannot write {}", show(path)))?;
    }
    print_results(&results, arguments.json)
}

fn run_scenarios(arguments: &BenchArgs) -> Outcome {
    let transports = transports(arguments)?;
    let duration = duration(arguments)?;
    let (site, device) = site(arguments, &transports)?;
    let options = ScenarioOptions {
        scenarios: arguments.scenario.clone(),
        transports,
        device,
        replicas: arguments.replicas,
        duration,
        rounds: arguments.rounds,
        force: arguments.force,
        site,
    };
    let rounds = options.rounds as usize * options.transports.len() * options.scenarios.len();
    let mut bar = Progress::steps("rounds", rounds as u64);
    let figures = scenario::run(&options, &mut || bar.advance(1));
    bar.finish();
    let figures = figures?;
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(format_args!("{}", scenario::render(&figures)))?;
    }
    Ok(())
}

fn print_results(results: &[CaseResult], json: bool) -> Outcome {
    if json {
        say!("{}", serde_json::to_string_pretty(results)?);
    } else {
        say!("{}\n{}", table::render(results), table::render_costs(results));
        print(format_args!("{}", table::render_work_requests(results)))?;
    }
    match results.iter().map(|result| result.errors).sum::<u64>() {
        0 => Ok(()),
        errors => Err(anyhow::anyhow!("{errors} operations failed"))?,
    }
}

fn duration(arguments: &BenchArgs) -> Outcome<Duration> {
    let duration = Duration::try_from_secs_f64(arguments.seconds).context("--seconds").refuse()?;
    if duration.is_zero() || arguments.rounds == 0 {
        return Err(refuse!("--seconds and --rounds are more than zero"));
    }
    Ok(duration)
}

fn transports(arguments: &BenchArgs) -> Outcome<Vec<TransportKind>> {
    let mut transports = arguments.transport.clone();
    transports.sort_unstable();
    transports.dedup();
    if transports.len() < arguments.transport.len() {
        return Err(refuse!("--transport names one twice"));
    }
    Ok(arguments.transport.clone())
}

/// Where clusters of our own stand, and the URI of their devices.
fn site(arguments: &BenchArgs, transports: &[TransportKind]) -> Outcome<(Site, String)> {
    let site = Site::here(arguments.replicas, transports, &arguments.address)?;
    let Room { device, pool } = site.room;
    let plenty = Room::default();
    let mut small = Vec::new();
    if arguments.device.is_none() && device < plenty.device {
        small.push(format!("devices of {device}"));
    }
    if pool < plenty.pool {
        small.push(format!("pools of {pool}"));
    }
    if !small.is_empty() {
        warn(format_args!("culvert: memory is short: {} for each node", small.join(" and ")));
    }
    let device = arguments.device.clone().unwrap_or_else(|| format!("emulated:{device}"));
    Ok((site, device))
}

fn local_target(arguments: &BenchArgs, transports: &[TransportKind]) -> Outcome<Target> {
    let (site, device) = site(arguments, transports)?;
    let conditions = Conditions::of_local(&device, arguments.nodes, &site);
    let local = LocalCluster::create(&LocalOptions {
        nodes: arguments.replicas,
        volume_bytes: Some(volume_bytes(arguments, &device, &site)?),
        device,
        copysets: arguments.copysets,
        force: arguments.force,
        transports: transports.to_vec(),
        site: site.clone(),
    })?;
    let cluster = local.cluster().clone();
    let servers = match arguments.nodes {
        Nodes::Processes => Servers::Processes(local),
        Nodes::OneThread => Servers::OneThread(local, OneThread::default()),
    };
    let source = site.addresses.of_client(arguments.replicas as usize);
    Ok(Target { servers, cluster, source, conditions })
}

fn volume_bytes(arguments: &BenchArgs, device: &str, site: &Site) -> Outcome<ByteSize> {
    let max = match site.hardware.emulated {
        Some(_) => VOLUME_MAX_EMULATED,
        None => VOLUME_MAX,
    };
    let half = emulated_bytes(device).refuse()?.map(|bytes| ByteSize(bytes / 2).min(max));
    let asked = arguments.volume_size.or(half);
    asked.ok_or_else(|| refuse!("--volume-size is needed with --device {device}"))
}

fn foreign_target(
    arguments: &BenchArgs,
    path: &Path,
    transports: &[TransportKind],
) -> Outcome<Target> {
    let cluster = Cluster::load(path).refuse()?;
    for &transport in transports {
        let offers = |address: &Address| transport.transports().allow(address);
        let reactors = |node: &Node| node.reactors.iter().all(|r| r.addresses.iter().any(offers));
        if let Some(node) = cluster.nodes().iter().find(|node| !reactors(node)) {
            let file = show(path);
            return Err(refuse!("{file}: node {} has no {transport}:// address", node.uuid));
        }
    }
    let machine = Machine::here();
    let addresses = Addresses::from_iter(arguments.source);
    let hardware = Hardware::of(&machine, transports, &addresses);
    if transports.contains(&TransportKind::Rdma) {
        if rdma_devices(&machine).is_empty() {
            return Err(AddressesError::NoDevice).refuse();
        }
        addresses.check_rdma().refuse()?;
    }
    let conditions = Conditions {
        device: arguments.device.clone().unwrap_or_else(|| "those of the cluster".to_owned()),
        nodes: Nodes::Processes,
        pool_bytes: None,
        addresses,
        machine: hardware,
    };
    Ok(Target { servers: Servers::Foreign, cluster, source: arguments.source, conditions })
}
