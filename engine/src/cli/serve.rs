//! `culvert serve`: one node.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use culvert::chunkserver::AbsentReplicas;
use culvert::cluster::Cluster;
use culvert::config::{LogLevel, NodeConfig};
use culvert::node::{Stop, serve};
use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use super::exit::{Outcome, Refuse};
use super::terminal::print;

const EXAMPLES: &str = "\
Examples:
  culvert serve --config node.toml --create-replicas    # the first time
  culvert serve --config node.toml                      # every other time
  culvert serve --config node.toml --rejoin-replicas    # once, after a device was replaced
  culvert serve --config node.toml --print-config       # what is in effect, defaults included

The log goes to standard error; RUST_LOG overrides the level of the configuration. SIGTERM and
SIGINT end the node in order.";

/// Runs one node of a cluster
///
/// Opens the devices of the configuration, recovers their shards, starts the replicas that the
/// cluster file places on them, and serves until a signal ends it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Create replicas that the cluster file lists and the devices do not hold
    ///
    /// Once only, when the cluster is new: a replica that has lost its content must not vote as if
    /// it had not. That is what --rejoin-replicas is for.
    #[arg(long, conflicts_with = "rejoin_replicas")]
    create_replicas: bool,
    /// Create them on a device that takes the place of one that was lost
    ///
    /// They take everything from their leaders, and vote only then. The new device was formatted
    /// with the name of the old one (`culvert format --uuid`).
    #[arg(long)]
    rejoin_replicas: bool,
    /// Print the configuration with all defaults, and exit
    #[arg(long)]
    print_config: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

/// Runs the command.
pub fn run(arguments: &ServeArgs) -> Outcome {
    let config = NodeConfig::load(&arguments.config).refuse()?;
    if arguments.print_config {
        return print(format_args!("{}", config.to_toml()));
    }
    if arguments.end_with_parent {
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    start_log(config.log_level);
    let cluster = Cluster::load(&config.cluster_file).refuse()?;
    let stop = stop_on_signals()?;
    let absent = match arguments.rejoin_replicas {
        true => AbsentReplicas::Rejoin,
        false => arguments.create_replicas.into(),
    };
    serve(&config, &cluster, absent, &stop, |addresses| {
        for address in addresses {
            tracing::info!(node = %config.node, %address, "serving");
        }
    })
    .refuse()?;
    tracing::info!(node = %config.node, "stopped");
    Ok(())
}

fn start_log(level: LogLevel) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.as_str()));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
}

/// Asks the node to stop at the first signal; the second ends the process.
fn stop_on_signals() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot take over signals")?;
    let asked = stop.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if asked.is_asked() {
                std::process::exit(128 + signal);
            }
            asked.stop();
        }
    })?;
    Ok(stop)
}
