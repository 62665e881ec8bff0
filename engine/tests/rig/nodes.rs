//! The nodes of a cluster, run in turn by the thread of the test.

use std::time::{Duration, Instant};

use culvert::chunkserver::ChunkserverStatus;
use culvert::client::{Client, ClientOptions};
use culvert::node::NodeReactor;
use culvert_nvme::Emulated;
use culvert_transport::Transport;

use super::plan::{Plan, Wishes, client};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes with one reactor each.
pub struct Nodes {
    /// What they are.
    pub plan: Plan,
    running: Vec<Option<NodeReactor>>,
    /// Nodes that get no turn.
    pub paused: Vec<usize>,
}

impl Nodes {
    /// Formats, plans and starts all nodes.
    pub fn start(wishes: &Wishes) -> Nodes {
        Nodes::start_planned(Plan::new(wishes))
    }

    /// Starts all nodes of a plan.
    pub fn start_planned(plan: Plan) -> Nodes {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _set_before =
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let running = plan.configs.iter().map(|_| None).collect();
        let mut nodes = Nodes { plan, running, paused: Vec::new() };
        for number in 0..nodes.running.len() {
            nodes.open(number, true);
        }
        nodes
    }

    /// Starts a node that is down.
    pub fn open(&mut self, number: usize, create: bool) {
        assert!(self.running[number].is_none(), "it is down");
        let config = &self.plan.configs[number];
        let node = NodeReactor::open(config, &self.plan.cluster, 0, create);
        self.running[number] = Some(node.unwrap_or_else(|error| panic!("node {number}: {error}")));
    }

    /// Drops a node where it stands.
    pub fn kill(&mut self, number: usize) {
        self.running[number] = None;
    }

    /// A node that runs.
    pub fn node(&mut self, number: usize) -> &mut NodeReactor {
        self.running[number].as_mut().expect("it runs")
    }

    /// The emulated device of a node that runs.
    pub fn device(&mut self, number: usize) -> &mut Emulated {
        let devices = self.node(number).reactor().devices_mut();
        devices[0].queue_pair.as_emulated_mut().expect("an emulated device")
    }

    /// The status of a node that runs.
    pub fn status(&mut self, number: usize) -> ChunkserverStatus {
        self.node(number).reactor().chunkserver().status()
    }

    /// One turn of every node that runs and is not paused.
    pub fn turn(&mut self) -> bool {
        let mut busy = false;
        for (number, node) in self.running.iter_mut().enumerate() {
            if let Some(node) = node.as_mut().filter(|_| !self.paused.contains(&number)) {
                busy |= node.turn();
            }
        }
        busy
    }

    /// Lets the nodes and `others` work until `done`.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Nodes) -> bool) {
        let since = Instant::now();
        while !done(self) {
            assert!(since.elapsed() < PATIENCE, "in vain: {what}");
            if !self.turn() {
                std::thread::yield_now();
            }
        }
    }

    /// The node that leads a copyset, if one that runs does.
    pub fn leader_of(&mut self, copyset: u32) -> Option<usize> {
        (0..self.running.len()).find(|number| {
            let Some(node) = self.running[*number].as_mut() else { return false };
            let status = node.reactor().chunkserver().status();
            status.copysets.iter().any(|c| c.id == copyset && c.role == "leader")
        })
    }

    /// Client number `number`.
    pub fn client(&self, number: u64) -> Client<Transport> {
        client(&self.plan.cluster, number, ClientOptions::default())
    }
}
