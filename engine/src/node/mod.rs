//! The composition root: from a configuration and a cluster file to running reactors.
//!
//! Here, and nowhere else in the engine, a transport and queue pairs are made. Each reactor is
//! opened on the thread that runs it, because its memory belongs to that thread; opening reads
//! devices and blocks. A node has no global state: a program may hold several.

mod clock;
mod device;
mod error;
mod local;
mod port;
mod serve;

use culvert_memory::{Backing, Pool, PoolOptions};
use culvert_nvme::{AnyQueuePair, QueuePair};
use culvert_transport::{Identity, PeerKind, Transport, TransportOptions};

pub use clock::SystemClock;
pub use device::{ClaimedDevices, check_reserve};
pub use error::NodeError;
pub use local::{LocalCluster, LocalError, LocalOptions};
pub use port::KeptPort;
pub use serve::{Stop, serve};

use crate::chunkserver::{
    AbsentReplicas, Chunkserver, ChunkserverOptions, Endpoint, PeerOptions, ReplicaPlace,
    ReplicaPlan, ScrubOptions,
};
use crate::cluster::{Cluster, EndpointIndex};
use crate::config::{DeviceConfig, NodeConfig, TransportConfig};
use crate::network::{Address, Network};
use crate::raft_group::GroupOptions;
use crate::reactor::{Clock, Idle, IdleOptions, Reactor, TurnBudget};

// A sleep waits for the network and for each device.
const _: () = assert!(crate::config::DEVICES_MAX < crate::reactor::DESCRIPTORS_MAX);

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;

/// One reactor over the production drivers, or over queue pairs that its owner puts around them.
pub struct NodeReactor<D = AnyQueuePair> {
    reactor: Reactor<D, Transport>,
    idle: Idle,
    listening: Vec<Address>,
    clock: SystemClock,
}

impl NodeReactor {
    /// Opens the devices' shards that this reactor runs, starts their replicas and listens.
    /// `absent`: what becomes of listed replicas that a device does not hold; `true` creates them.
    ///
    /// The devices are claimed for this reactor alone, so this is for nodes of one reactor; where
    /// there are more, claim once and use [`NodeReactor::open_claimed`].
    ///
    /// # Errors
    ///
    /// [`NodeError`] says which device, address or capacity is at fault and how to mend it.
    pub fn open(
        config: &NodeConfig,
        cluster: &Cluster,
        number: usize,
        absent: impl Into<AbsentReplicas>,
    ) -> Result<NodeReactor, NodeError> {
        let claims = ClaimedDevices::take(config)?;
        Self::open_claimed(&claims, config, cluster, number, absent)
    }

    /// As [`NodeReactor::open`], on devices that were claimed for all reactors of the node.
    ///
    /// # Errors
    ///
    /// [`NodeError`], likewise.
    ///
    /// # Panics
    ///
    /// When the claims are those of another configuration.
    pub fn open_claimed(
        claims: &ClaimedDevices,
        config: &NodeConfig,
        cluster: &Cluster,
        number: usize,
        absent: impl Into<AbsentReplicas>,
    ) -> Result<NodeReactor, NodeError> {
        let place = (config, cluster, number);
        Self::open_wrapped(claims, place, absent, |_, queue_pair| queue_pair)
    }
}

impl<D: QueuePair> NodeReactor<D> {
    /// As [`NodeReactor::open`], over what `wrap` makes of each device's queue pair: a counting, a
    /// tracing or a failing one.
    ///
    /// # Errors
    ///
    /// [`NodeError`], likewise.
    pub fn open_with(
        config: &NodeConfig,
        cluster: &Cluster,
        number: usize,
        absent: impl Into<AbsentReplicas>,
        wrap: impl FnMut(&DeviceConfig, AnyQueuePair) -> D,
    ) -> Result<NodeReactor<D>, NodeError> {
        let claims = ClaimedDevices::take(config)?;
        Self::open_wrapped(&claims, (config, cluster, number), absent, wrap)
    }

    fn open_wrapped(
        claims: &ClaimedDevices,
        (config, cluster, number): (&NodeConfig, &Cluster, usize),
        absent: impl Into<AbsentReplicas>,
        mut wrap: impl FnMut(&DeviceConfig, AnyQueuePair) -> D,
    ) -> Result<NodeReactor<D>, NodeError> {
        let mut clock = SystemClock;
        let own = place_of(config, cluster, number)?;
        device::check_batch_bytes(config, cluster)?;
        check_reserve(config, cluster.chunk_blocks())?;
        let pool = open_pool(config, number)?;
        // An address that is taken is found before recovery writes; connections are refused until
        // there is somebody to serve them.
        let (transport, listening) = open_transport(config, cluster, own, pool.clone())?;
        let queue_pairs = device::open_queue_pairs(claims, config, number, &pool)?;
        let queue_pairs = config.devices.iter().zip(queue_pairs);
        let queue_pairs = queue_pairs.map(|(device, pair)| wrap(device, pair)).collect();
        let now_ns = clock.now_ns();
        let place = (config, cluster, number);
        let mut reactor = assemble(place, pool, transport, queue_pairs, absent, now_ns)?;
        for address in &listening {
            reactor
                .network_mut()
                .listen(address)
                .map_err(|source| NodeError::Listen { address: address.clone(), source })?;
        }
        let idle = IdleOptions {
            poll_ns: u64::from(config.idle.polling_us) * NS_PER_US,
            yields: config.idle.yields,
        };
        Ok(NodeReactor { reactor, idle: Idle::new(idle), listening, clock })
    }

    /// Where it listens, TCP ports of 0 resolved.
    #[must_use]
    pub fn listening(&self) -> &[Address] {
        &self.listening
    }

    /// One turn, without idling: for programs that run several reactors on a thread. Returns
    /// whether anything happened.
    pub fn turn(&mut self) -> bool {
        self.reactor.turn(&mut self.clock)
    }

    /// One turn, and a yield or a sleep where there is nothing to do.
    pub fn turn_or_idle(&mut self) {
        let busy = self.reactor.turn(&mut self.clock);
        self.idle.after_turn(busy, &mut self.reactor, &mut self.clock);
    }

    /// What is inside.
    pub fn reactor(&mut self) -> &mut Reactor<D, Transport> {
        &mut self.reactor
    }
}

/// Puts a reactor together over drivers that are open: recovers its shards, through a queue pair on
/// each of the configuration's devices, and starts its replicas. It does not listen yet.
///
/// This is what all nodes are made by, over whatever drivers. Nothing in it reads a clock: `now_ns`
/// is when it starts.
///
/// # Errors
///
/// [`NodeError`] says which device or capacity is at fault and how to mend it.
pub fn assemble<D: QueuePair, N: Network>(
    (config, cluster, number): (&NodeConfig, &Cluster, usize),
    pool: Pool,
    network: N,
    queue_pairs: Vec<D>,
    absent: impl Into<AbsentReplicas>,
    now_ns: u64,
) -> Result<Reactor<D, N>, NodeError> {
    let own = place_of(config, cluster, number)?;
    let endpoints = peers_of(cluster, own);
    let place = (config, cluster, number);
    let (devices, mut plans) = device::recover_all(place, queue_pairs, &pool, absent.into())?;
    for plan in &mut plans {
        place_replicas(&mut plan.replicas, cluster, own, &endpoints);
    }
    let chunkserver = Chunkserver::start(
        chunkserver_options(config, cluster),
        pool,
        (config.node, number as u32),
        endpoints,
        plans,
        now_ns,
    )?;
    let budget =
        TurnBudget { events: config.turn.events_max, completions: config.turn.completions_max };
    Ok(Reactor::new(chunkserver, network, devices, budget))
}

/// The endpoint that reactor `number` of a configuration is.
fn place_of(
    config: &NodeConfig,
    cluster: &Cluster,
    number: usize,
) -> Result<EndpointIndex, NodeError> {
    let node = cluster.nodes().iter().position(|node| node.uuid == config.node);
    let node = node.ok_or(NodeError::NotInCluster { node: config.node })?;
    Ok(EndpointIndex { node, reactor: number })
}

fn open_pool(config: &NodeConfig, number: usize) -> Result<Pool, NodeError> {
    let reactor = &config.reactors[number];
    Pool::new(&PoolOptions {
        name: "culvert-pool".to_owned(),
        bytes: reactor.pool_bytes.0 as usize,
        backing: Backing::HugeOrOrdinary,
        numa_node: culvert_memory::numa_node_of(reactor.core),
        lock: true,
    })
    .map_err(|source| NodeError::Pool { reactor: number, source })
}

/// The reactors of other nodes that hold a replica of a copyset of this reactor's.
fn peers_of(cluster: &Cluster, own: EndpointIndex) -> Vec<Endpoint> {
    let mut found: Vec<EndpointIndex> = Vec::new();
    for copyset in cluster.copysets() {
        let places: Vec<_> = copyset.replicas.iter().map(|r| cluster.endpoint_of(r)).collect();
        if places.contains(&own) {
            found.extend(places.into_iter().filter(|place| *place != own));
        }
    }
    found.sort_unstable_by_key(|place| (place.node, place.reactor));
    found.dedup();
    found
        .into_iter()
        .map(|place| Endpoint {
            node: cluster.nodes()[place.node].uuid,
            reactor: place.reactor as u32,
            addresses: cluster.addresses(place).to_vec(),
        })
        .collect()
}

/// Says for each replica of each copyset behind which peer it is.
fn place_replicas(
    plans: &mut [ReplicaPlan],
    cluster: &Cluster,
    own: EndpointIndex,
    endpoints: &[Endpoint],
) {
    for plan in plans {
        let copyset = cluster.copyset(plan.copyset).expect("a plan of this cluster's");
        plan.places = copyset
            .replicas
            .iter()
            .map(|replica| {
                let place = cluster.endpoint_of(replica);
                let node = cluster.nodes()[place.node].uuid;
                let peer = (place != own).then(|| {
                    endpoints
                        .iter()
                        .position(|at| at.node == node && at.reactor == place.reactor as u32)
                        .expect("peers_of lists every endpoint of this reactor's copysets")
                });
                ReplicaPlace { replica: replica.id, peer }
            })
            .collect();
    }
}

fn chunkserver_options(config: &NodeConfig, cluster: &Cluster) -> ChunkserverOptions {
    let raft = &config.raft;
    ChunkserverOptions {
        group: GroupOptions {
            tick_ns: u64::from(raft.tick_ms) * NS_PER_MS,
            election_ticks: raft.election_ticks,
            heartbeat_ticks: raft.heartbeat_ticks,
            lease_margin_ns: u64::from(raft.lease_drift_margin_ms) * NS_PER_MS,
            inflight_messages_max: raft.append_frames_in_flight_max as usize,
            message_entries_max: raft.append_entries_max,
        },
        reads_max: config.turn.operations_max,
        feed_unsent_pages_max: config.transport.feed_unsent_max_pages,
        requests_max: config.transport.requests_max,
        log_entries_retained: u64::from(config.store.retained_entries),
        session_idle_ns: u64::from(config.raft.session_idle_s) * 1000 * NS_PER_MS,
        // A chunk's room is for catch-ups. Of the rest the other half is for what is overwritten
        // and not free yet: quotas may be used up to the last block, and overwriting goes on.
        reserve_blocks: config.store.reserve_blocks.saturating_sub(cluster.chunk_blocks()) / 2,
        catch_up_bytes_per_second: config.store.catch_up_bytes_per_second.0,
        scrub: ScrubOptions {
            bytes_per_second: config.store.scrub_bytes_per_second.0,
            period_ns: u64::from(config.store.scrub_period_s) * 1000 * NS_PER_MS,
        },
        chunk_blocks: cluster.chunk_blocks(),
        peers: PeerOptions { redial_ns: u64::from(config.transport.reconnect_ms) * NS_PER_MS },
    }
}

/// To how many pages the window of a connection may grow, so that at least half of the budget is left to
/// clients when those of all other nodes are at their largest.
fn window_pages_max(limits: &TransportConfig, cluster: &Cluster, own: EndpointIndex) -> u32 {
    let others = cluster.nodes().iter().enumerate().filter(|(node, _)| *node != own.node);
    let peers: usize = others.map(|(_, node)| node.reactors.len()).sum();
    let share = limits.window_budget_pages / (2 * peers.max(1) as u32);
    limits.window_max_pages.min(share).max(limits.window_initial_pages)
}

/// A transport bound to its addresses, where it does not listen yet.
fn open_transport(
    config: &NodeConfig,
    cluster: &Cluster,
    own: EndpointIndex,
    pool: Pool,
) -> Result<(Transport, Vec<Address>), NodeError> {
    let identity =
        Identity { node: config.node, kind: PeerKind::Node, endpoint: own.reactor as u32 };
    let limits = &config.transport;
    let options = TransportOptions {
        pre_shared_key: config.pre_shared_key()?,
        window_pages_initial: limits.window_initial_pages,
        window_pages_max: window_pages_max(limits, cluster, own),
        window_budget_pages: limits.window_budget_pages,
        connections_max: limits.connections_max,
        frame_bytes_max: crate::wire::FRAME_BYTES_MAX,
        data_queue_bytes: limits.data_queue_bytes,
        control_queue_bytes: limits.control_queue_bytes,
        unsent_pages_max: limits.unsent_max_pages,
        handshake_timeout: std::time::Duration::from_millis(limits.handshake_timeout_ms.into()),
        report_regions: true,
        source: limits.source,
        rdma: limits.rdma(),
        ..TransportOptions::new(identity, pool)
    };
    let mut transport = Transport::new(options)?;
    let mut listening = Vec::new();
    let configured = &config.reactors[own.reactor].listen;
    let addresses: Vec<Address> = if configured.is_empty() {
        cluster.addresses(own).to_vec()
    } else {
        configured
            .iter()
            .map(|text| {
                text.parse().map_err(|source| NodeError::Address { text: text.clone(), source })
            })
            .collect::<Result<_, _>>()?
    };
    for address in addresses {
        let bound = transport
            .bind(&address)
            .map_err(|source| NodeError::Listen { address: address.clone(), source })?;
        listening.push(bound);
    }
    Ok((transport, listening))
}
