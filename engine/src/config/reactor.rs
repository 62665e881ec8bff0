//! Reactors: where they run, what they listen on, and how they spend a turn.

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// One reactor: one thread, one pool of memory, one transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReactorConfig {
    /// The core that its thread is pinned to.
    pub core: usize,
    /// Memory of its own: landing windows of TCP connections, reads, journal and checkpoint
    /// buffers. A multiple of 2 MiB, taken from hugepages where there are enough.
    #[serde(default = "ReactorConfig::pool_bytes_default")]
    pub pool_bytes: ByteSize,
    /// Where it accepts connections: `shm:///PATH`, `tcp://IP:PORT` and `rdma://IP:PORT`, any number
    /// of each. None: where the cluster file says.
    #[serde(default)]
    pub listen: Vec<String>,
}

impl ReactorConfig {
    /// A reactor on `core` that listens where the cluster file says.
    #[must_use]
    pub fn new(core: usize) -> ReactorConfig {
        ReactorConfig { core, pool_bytes: Self::pool_bytes_default(), listen: Vec::new() }
    }

    /// Places that its pool takes in a device's table of regions: one for each GiB.
    #[must_use]
    pub fn pool_regions_max(&self) -> u64 {
        self.pool_bytes.0.div_ceil(1 << 30)
    }

    fn pool_bytes_default() -> ByteSize {
        ByteSize::mib(256)
    }
}

/// How a reactor waits when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdleConfig {
    /// How long it goes on polling after the last event before it sleeps. Waking a core costs
    /// some 50 us, so that less than that is never worth it; much more burns the core.
    pub polling_us: u32,
    /// Whether it offers the core to others at every empty turn while it polls: `true` where more
    /// threads poll than there are cores, `false` where every reactor has a core to itself.
    pub yields: bool,
}

impl Default for IdleConfig {
    fn default() -> IdleConfig {
        IdleConfig { polling_us: 75, yields: true }
    }
}

/// Budgets of one turn of a reactor: no source of events starves another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnConfig {
    /// Transport events handled in one turn.
    pub events_max: usize,
    /// Device completions handled in one turn, for each queue pair.
    pub completions_max: usize,
    /// Requests of clients in work, over all shards of the reactor. One more is answered "busy".
    pub operations_max: u32,
}

impl Default for TurnConfig {
    fn default() -> TurnConfig {
        TurnConfig { events_max: 256, completions_max: 256, operations_max: 2048 }
    }
}
