//! A node's process: the production reactor over modelled drivers, and when it runs next.

use culvert::chunkserver::AbsentReplicas;
use culvert::cluster::Cluster;
use culvert::config::NodeConfig;
use culvert::network::{Identity, Network, PeerKind};
use culvert::node::{NodeError, assemble};
use culvert::reactor::{Clock, Reactor};
use culvert_memory::Pool;

use super::clock::LocalClock;
use super::device::{Disk, SimDevice};
use super::network::{Fabric, SimNetwork, address_of};

/// See the module's documentation.
pub struct Process {
    pub reactor: Reactor<SimDevice, SimNetwork>,
    /// True time at which it has to run although nothing comes in.
    pub wake_ns: u64,
    /// It is busy until then.
    pub free_ns: u64,
    /// It has recovered its device then.
    pub ready_ns: u64,
}

impl Process {
    /// Starts the process of `node`: recovers its device and listens.
    ///
    /// # Errors
    ///
    /// Those of a production node.
    pub fn start(
        node: usize,
        (config, cluster): (&NodeConfig, &Cluster),
        pool: &Pool,
        (disk, fabric): (&Disk, &Fabric),
        (clock, absent): (&mut LocalClock, AbsentReplicas),
    ) -> Result<Process, NodeError> {
        let identity = Identity { node: config.node, kind: PeerKind::Node, endpoint: 0 };
        let network = fabric.host(node, identity);
        let mut device = disk.open();
        // Nobody else moves time on while it recovers.
        device.set_driven(true);
        let place = (config, cluster, 0);
        let started_ns = clock.now_ns();
        let mut reactor = assemble(place, pool.clone(), network, vec![device], absent, started_ns)?;
        reactor.devices_mut()[0].queue_pair.set_driven(false);
        let address = address_of(node);
        reactor
            .network_mut()
            .listen(&address)
            .map_err(|source| NodeError::Listen { address, source })?;
        let ready_ns = disk.now_ns();
        Ok(Process { reactor, wake_ns: 0, free_ns: ready_ns, ready_ns })
    }

    /// One turn, at the true time that the clock was set to. `cost_ns`: how long a turn takes.
    pub fn turn(&mut self, clock: &mut LocalClock, now_ns: u64, cost_ns: u64) {
        let busy = self.reactor.turn(clock);
        self.free_ns = now_ns + cost_ns;
        let timers = [
            self.reactor.chunkserver().deadline_ns(),
            self.reactor.network_mut().next_deadline_ns().unwrap_or(u64::MAX),
        ];
        let timer = timers.into_iter().min().map_or(u64::MAX, |at| clock.true_time_of(at));
        self.wake_ns = if busy { self.free_ns } else { timer.max(self.free_ns) };
    }
}
