//! One node over devices that hang or refuse memory when they are told to.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use culvert::cluster::{Cluster, Device, Node, PlanOptions, Reactor};
use culvert::config::{ByteSize, DeviceConfig, NodeConfig};
use culvert::device::LayoutOptions;
use culvert::ids::BLOCK_SIZE;
use culvert::node::NodeReactor;
use culvert_memory::Region;
use culvert_nvme::{
    AnyQueuePair, Completion, Counters, Namespace, QueuePair, RegisterError, Submission, Wake,
};
use culvert_transport::Address;
use uuid::Uuid;

use super::plan::{VOLUME, format_device};

/// What a device is told.
#[derive(Clone, Default)]
pub struct Orders {
    /// Completes nothing.
    pub hangs: Rc<Cell<bool>>,
    /// Takes no further memory.
    pub refuses_memory: Rc<Cell<bool>>,
}

/// A queue pair that follows orders.
pub struct Odd {
    inner: AnyQueuePair,
    orders: Orders,
}

impl QueuePair for Odd {
    fn namespace(&self) -> &Namespace {
        self.inner.namespace()
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        if self.orders.refuses_memory.get() {
            return Err(RegisterError::LockedMemoryLimit { bytes: region.len() });
        }
        self.inner.register(region)
    }

    fn unregister(&mut self, region: &Region) {
        self.inner.unregister(region);
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        self.inner.submit(submission)
    }

    fn ring(&mut self) {
        self.inner.ring();
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        if self.orders.hangs.get() { 0 } else { self.inner.poll(budget, complete) }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn wake(&self) -> Wake<'_> {
        self.inner.wake()
    }

    fn arm(&mut self) -> bool {
        !self.orders.hangs.get() && self.inner.arm()
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}

/// One reactor with two devices, on which one-replica copysets lie in turn.
pub struct OddNode {
    /// The cluster file's content.
    pub cluster: Cluster,
    /// The node.
    pub node: NodeReactor<Odd>,
    /// Of each device.
    pub orders: [Orders; 2],
}

impl OddNode {
    /// Formats the devices and starts the node. It listens on shared memory, then on TCP.
    pub fn start(folder: &Path, adjust: fn(&mut NodeConfig)) -> OddNode {
        let name = Uuid::from_u128(0xc017_0000);
        let path = folder.join("cluster.toml");
        let mut config = NodeConfig::new(name, path, 0);
        config.reactors[0].pool_bytes = ByteSize::mib(32);
        config.transport.window_budget_pages = 4096;
        config.store.reserve_blocks = 1024;
        let mut devices = Vec::new();
        for number in 0..2 {
            let uri = format!("emulated:64MiB?file={}/device-{number}", folder.display());
            let uuid = Uuid::from_u128(0xd017_0000 + number);
            let chunk_blocks = (256 << 10) / BLOCK_SIZE as u32;
            let layout = LayoutOptions { shards: 1, chunk_blocks, ..LayoutOptions::default() };
            format_device(&uri, uuid, layout, true).expect("a device that can be formatted");
            devices.push(Device { uuid, node: name, shards: 1 });
            config.devices.push(DeviceConfig::new(uri));
        }
        adjust(&mut config);
        config.check().expect("a configuration that keeps the rules");
        // The port must be known before the node runs, because the cluster file names it.
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let addresses = vec![
            Address::Shm(folder.join("node.sock")),
            Address::Tcp(port.expect("a loopback interface")),
        ];
        let nodes = vec![Node { uuid: name, reactors: vec![Reactor { addresses }] }];
        let options =
            PlanOptions { chunk_size: 256 << 10, copysets: 2, replicas: 1, quota_blocks: 1024 };
        let mut cluster = Cluster::plan(nodes, devices, &options).expect("a possible plan");
        cluster.create_volume(VOLUME, 4 << 20, &Default::default()).expect("a possible volume");
        let orders = [Orders::default(), Orders::default()];
        let mut given = orders.iter().cloned();
        let node = NodeReactor::open_with(&config, &cluster, 0, true, |_, inner| Odd {
            inner,
            orders: given.next().expect("two devices"),
        });
        OddNode { cluster, node: node.expect("a node that starts"), orders }
    }
}
