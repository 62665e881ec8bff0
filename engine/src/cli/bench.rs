//! `culvert bench`: one transport against another, on the same engine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use culvert::cluster::Cluster;
use culvert::config::{ByteSize, read_key};

use super::connect::show;
use super::exit::{Outcome, Refuse, refuse};
use super::terminal::{Progress, print, say};
use crate::bench::case::{Pattern, TransportKind, rows};
use crate::bench::local_cluster::{LocalCluster, LocalOptions, VOLUME, emulated_bytes};
use crate::bench::matrix::{self, MatrixOptions};
use crate::bench::result::{CaseResult, Nodes};
use crate::bench::scenario::{self, Scenario, ScenarioOptions};
use crate::bench::servers::{OneThread, Servers};
use crate::bench::{cleanup, html, table};

/// Volume of a local cluster where nobody says how large: half of the device, at most this.
const VOLUME_MAX: ByteSize = ByteSize::mib(1024);

const EXAMPLES: &str = "\
Examples:
  culvert bench
  culvert bench --transport shm --pattern randwrite --block-size 4KiB --depth 128 --rounds 5
  culvert bench --depth 1,8,32,128 --report report.html
  culvert bench --device 'uring:/data/disk-{n}?size=4GiB' --volume-size 1GiB --json
  culvert bench --scenario restart,failover --device emulated:1GiB --rounds 5
  culvert bench --cluster cluster.toml --volume scratch --transport tcp    # overwrites the volume

Without --cluster it starts servers of its own, three processes on this machine, and ends them. The
CPU, the device bytes and the copies of each operation come from the servers' own counters; so do
the latencies by stage, which --json shows.";

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
    /// Devices of the nodes; {n} stands for the number of the node
    #[arg(long, default_value = "emulated:2GiB", value_name = "URI")]
    device: String,
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

/// Runs the command.
pub fn run(arguments: &BenchArgs) -> Outcome {
    cleanup::on_signals()?;
    if !arguments.scenario.is_empty() {
        return run_scenarios(arguments);
    }
    let options = matrix_options(arguments)?;
    let (mut servers, cluster) = servers(arguments)?;
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
    let options = ScenarioOptions {
        scenarios: arguments.scenario.clone(),
        transports: transports(arguments)?,
        device: arguments.device.clone(),
        replicas: arguments.replicas,
        duration: duration(arguments)?,
        rounds: arguments.rounds,
        force: arguments.force,
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

fn matrix_options(arguments: &BenchArgs) -> Outcome<MatrixOptions> {
    let rows = rows(&arguments.pattern, &arguments.block_size, &arguments.depth).refuse()?;
    let key = arguments.pre_shared_key_file.as_deref().map(read_key).transpose().refuse()?;
    Ok(MatrixOptions {
        transports: transports(arguments)?,
        rows,
        duration: duration(arguments)?,
        rounds: arguments.rounds,
        volume: arguments.volume.clone().unwrap_or_else(|| VOLUME.to_owned()),
        pre_shared_key: key,
        device: arguments.device.clone(),
        nodes: arguments.nodes,
    })
}

fn servers(arguments: &BenchArgs) -> Outcome<(Servers, Cluster)> {
    if let Some(path) = &arguments.cluster {
        return Ok((Servers::Foreign, Cluster::load(path).refuse()?));
    }
    let half = emulated_bytes(&arguments.device).map(|bytes| ByteSize(bytes / 2).min(VOLUME_MAX));
    let volume_bytes = arguments
        .volume_size
        .or(half)
        .ok_or_else(|| refuse!("--volume-size is needed with --device {}", arguments.device))?;
    let local = LocalCluster::create(&LocalOptions {
        nodes: arguments.replicas,
        device: arguments.device.clone(),
        copysets: arguments.copysets,
        volume_bytes: Some(volume_bytes),
        force: arguments.force,
        transports: arguments.transport.clone(),
    })?;
    let cluster = local.cluster().clone();
    let servers = match arguments.nodes {
        Nodes::Processes => Servers::Processes(local),
        Nodes::OneThread => Servers::OneThread(local, OneThread::default()),
    };
    Ok((servers, cluster))
}
