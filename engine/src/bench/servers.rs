//! What a matrix runs against: processes, nodes in the client's thread, or somebody's cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use culvert::client::{Client, Clock, Completion};
use culvert::cluster::Cluster;
use culvert::config::NodeConfig;
use culvert::network::Network;
use culvert::node::NodeReactor;
use serde::Deserialize;
use serde_json::Value;

use super::case::TransportKind;
use super::local_cluster::LocalCluster;
use super::machine::process_time_ns;
use super::turns::Turns;
use crate::cli::connect::CliClient;
use crate::cli::status::{ReactorView, fetch};

/// How long servers may take to elect leaders, or to recover.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// How long a replica may take to catch up before it is measured without.
const LAG_PATIENCE: Duration = Duration::from_secs(5);

/// The servers of one matrix.
pub enum Servers {
    /// A process for each node.
    Processes(LocalCluster),
    /// All nodes, in the thread of the client. The files are the cluster's.
    OneThread(LocalCluster, OneThread),
    /// A cluster that was there before.
    Foreign,
}

impl Servers {
    /// Starts the servers; `create` for the first time.
    pub fn start(&mut self, create: bool) -> anyhow::Result<()> {
        match self {
            Servers::Processes(local) => local.start_all(create),
            Servers::OneThread(local, nodes) => {
                let cluster = local.cluster().clone();
                nodes.open(local.configs(), &cluster, create)
            }
            Servers::Foreign => Ok(()),
        }
    }

    /// Ends the servers; a foreign cluster goes on.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        match self {
            Servers::Processes(local) => local.stop_all(),
            Servers::OneThread(_, nodes) => {
                nodes.reactors.clear();
                Ok(())
            }
            Servers::Foreign => Ok(()),
        }
    }

    /// The files of a cluster of our own.
    pub fn local(&mut self) -> Option<&mut LocalCluster> {
        match self {
            Servers::Processes(local) | Servers::OneThread(local, _) => Some(local),
            Servers::Foreign => None,
        }
    }

    /// Waits until everything serves. Replicas that lag are named on standard error.
    pub fn wait_ready(&mut self, client: &mut CliClient) -> anyhow::Result<()> {
        match self {
            Servers::Processes(local) => {
                if let Some(what) = local.wait_serving(client, READY_PATIENCE, LAG_PATIENCE)? {
                    eprintln!("culvert: measuring all the same: the cluster waits for {what}");
                }
                Ok(())
            }
            Servers::OneThread(_, nodes) => nodes.wait_for_leaders(&client.clock()),
            Servers::Foreign => Ok(()),
        }
    }

    /// Says where the nodes of somebody's cluster speak over another transport than the client: that
    /// is half a comparison. Those of our own use what they are told.
    pub fn warn_of_mixture(&self, client: &mut CliClient, transport: TransportKind) {
        if !matches!(self, Servers::Foreign) {
            return;
        }
        let statuses = fetch(client).values();
        let views = statuses.iter().filter_map(|status| ReactorView::deserialize(status).ok());
        let mut over = views.flat_map(|view| view.peers).filter_map(|peer| peer.over);
        if let Some(other) = over.find(|over| *over != transport.scheme()) {
            eprintln!(
                "culvert: the client uses {transport}, but nodes are connected over {other}: give \
                 them a cluster file with {transport}:// first, and restart them"
            );
        }
    }

    /// What every reactor says of itself.
    pub fn statuses(&mut self, client: &mut CliClient) -> anyhow::Result<Vec<Value>> {
        match self {
            Servers::Processes(local) => local.check_servers()?,
            Servers::OneThread(_, nodes) => return nodes.statuses(),
            Servers::Foreign => {}
        }
        let status = fetch(client);
        let mut errors = status.nodes.iter().flatten().filter_map(|reactor| reactor.as_ref().err());
        if let Some(error) = errors.next() {
            bail!("no status from a server: {error}");
        }
        Ok(status.values())
    }

    /// Processor time of all servers; `None` where their processes are not known.
    pub fn time_ns(&self) -> Option<u64> {
        match self {
            Servers::Processes(local) => Some(local.pids().into_iter().map(process_time_ns).sum()),
            Servers::OneThread(..) => Some(0),
            Servers::Foreign => None,
        }
    }
}

impl<N: Network> Turns<N> for Servers {
    fn turn(
        &mut self,
        client: &mut Client<N>,
        clock: &Clock,
        handler: &mut dyn FnMut(Completion<'_>),
    ) {
        match self {
            Servers::OneThread(_, nodes) => {
                nodes.turn();
                client.poll(clock.now_ns(), handler);
            }
            // The client has its thread for itself: it polls, and sleeps when nothing comes.
            Servers::Processes(_) | Servers::Foreign => {
                client.wait(clock, handler);
            }
        }
    }
}

/// Nodes that share the client's thread, one reactor each.
#[derive(Default)]
pub struct OneThread {
    reactors: Vec<NodeReactor>,
    /// What they allocated in their turns: the thread's own count is the harness's as well.
    allocations: u64,
}

impl OneThread {
    fn open(
        &mut self,
        configs: &[impl AsRef<Path>],
        cluster: &Cluster,
        create: bool,
    ) -> anyhow::Result<()> {
        for path in configs {
            let config = NodeConfig::load(path.as_ref())?;
            let reactor = NodeReactor::open(&config, cluster, 0, create);
            self.reactors.push(reactor.context("cannot open a node")?);
        }
        Ok(())
    }

    fn turn(&mut self) {
        let before = culvert_memory::allocations();
        for reactor in &mut self.reactors {
            reactor.turn();
        }
        self.allocations += culvert_memory::allocations() - before;
    }

    fn wait_for_leaders(&mut self, clock: &Clock) -> anyhow::Result<()> {
        let end_ns = clock.now_ns() + READY_PATIENCE.as_nanos() as u64;
        loop {
            for _ in 0..1000 {
                self.turn();
            }
            let mut led = 0;
            let mut replicas = 0;
            for reactor in &mut self.reactors {
                let status = reactor.reactor().chunkserver().status();
                led += status.copysets.iter().filter(|copyset| copyset.role == "leader").count();
                replicas = replicas.max(status.copysets.len());
            }
            if led > 0 && led == replicas {
                return Ok(());
            }
            if clock.now_ns() > end_ns {
                bail!("after {READY_PATIENCE:?} {led} of {replicas} copysets have a leader");
            }
        }
    }

    fn statuses(&mut self) -> anyhow::Result<Vec<Value>> {
        let mut statuses = Vec::new();
        for reactor in &mut self.reactors {
            let mut status = serde_json::to_value(reactor.reactor().chunkserver().status())?;
            // They share a thread, and with it its allocations: those are told once.
            let allocations = if statuses.is_empty() { self.allocations } else { 0 };
            status["drivers"]["allocations"] = Value::from(allocations);
            statuses.push(status);
        }
        Ok(statuses)
    }
}
