//! Nodes with two reactors each, on threads of their own.

mod rig;

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use culvert::client::ClientOptions;
use culvert::cluster::EndpointIndex;
use culvert::node::{Stop, serve};
use tempfile::TempDir;

use rig::load::Load;
use rig::plan::{Plan, VOLUME, Wishes, client, emulated};

const OPERATIONS: u64 = 3000;

/// Nodes that run until they are dropped.
struct Servers {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    fn start(plan: &Plan, create: bool) -> Servers {
        let stop = Stop::default();
        let (sender, ready) = mpsc::channel();
        let serve_node = |config: &culvert::config::NodeConfig| {
            let (config, cluster) = (config.clone(), plan.cluster.clone());
            let (stop, sender) = (stop.clone(), sender.clone());
            thread::spawn(move || {
                let tell = |addresses: &[_]| sender.send(addresses.len()).expect("it waits");
                serve(&config, &cluster, create, &stop, tell).expect("it serves");
            })
        };
        let threads: Vec<_> = plan.configs.iter().map(serve_node).collect();
        for _ in &threads {
            assert_eq!(ready.recv(), Ok(2), "each reactor listens");
        }
        Servers { stop, threads }
    }

    fn stop(self) {
        self.stop.stop();
        for thread in self.threads {
            thread.join().expect("a reactor that ends in peace");
        }
    }
}

fn run(load: &mut Load, operations: u64) {
    let goal = load.operations() + operations;
    while load.operations() < goal {
        if !load.turn() {
            thread::yield_now();
        }
    }
    load.settle(|| false);
    load.read_all(|| false);
}

fn two_reactors_share_a_device(tcp: bool) {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        reactors: 2,
        copysets: 6,
        tcp,
        ..Wishes::new(folder.path(), emulated(folder.path(), "96MiB", ""))
    };
    let plan = Plan::new(&wishes);
    let servers = Servers::start(&plan, true);
    let mut load = Load::new(client(&plan.cluster, 1, ClientOptions::default()), VOLUME, 24, 1);
    run(&mut load, OPERATIONS);
    for node in 0..3 {
        for reactor in 0..2 {
            let status = load.status(EndpointIndex { node, reactor });
            let word = format!("\"shards\":[{{\"shard\":{reactor},");
            assert!(status.contains(&word), "reactor {reactor} runs shard {reactor}: {status}");
            assert_eq!(status.matches("\"role\":").count(), 3, "half of the copysets: {status}");
        }
    }
    servers.stop();
    let servers = Servers::start(&plan, false);
    load.read_all(|| false);
    run(&mut load, OPERATIONS);
    servers.stop();
}

#[test]
fn two_reactors_share_a_device_over_shared_memory() {
    two_reactors_share_a_device(false);
}

#[test]
fn two_reactors_share_a_device_over_tcp() {
    two_reactors_share_a_device(true);
}
