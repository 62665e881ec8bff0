//! The client of the native protocol: volumes over any transport, polled by its owner.
//!
//! A [`Client`] has no threads and no clock. Its owner submits operations and calls
//! [`Client::poll`] with the time; completions come back through a handler, each operation exactly
//! once. In between the client splits operations along the volume's layout, finds and follows the
//! leader of each copyset, opens sessions, and repeats what was lost without executing it twice.
//! [`BlockingClient`] wraps it for callers who would rather wait.
//!
//! Fault model: connections, nodes and leaders come and go; servers may answer late, twice or not
//! at all, and what they answer is checked. What was read is compared with the checksums that were
//! stored with it when it was written, end to end. A server that lies on purpose is not detected
//! beyond that.
//!
//! ```no_run
//! use culvert::client::{Client, ClientOptions, Operation};
//! # use culvert::cluster::Cluster;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = std::path::Path::new("cluster.toml");
//! # let (network, pool, clock): (culvert_transport::Transport, culvert_memory::Pool, fn() -> u64)
//! #     = unimplemented!();
//! let cluster = Cluster::load(path)?;
//! let mut client = Client::new(cluster, network, pool.clone(), ClientOptions::default())?;
//! let volume = client.open_volume("disk")?;
//! let pages = pool.acquire(1).expect("a free page").freeze();
//! client.submit(Operation::Write { volume, offset_blocks: 7, pages }, 1)?;
//! while client.in_flight() > 0 {
//!     client.poll(clock(), &mut |completion| println!("{:?}", completion.result));
//! }
//! # Ok(())
//! # }
//! ```

mod blocking;
mod clock;
mod config;
mod connection;
mod core;
mod dispatch;
mod ending;
mod endpoint;
mod error;
mod expiry;
mod landing;
mod leading;
mod numbers;
mod operation;
mod options;
mod outcome;
mod pause;
mod piece;
mod quarantine;
mod receipt;
mod returning;
mod route;
mod scouting;
mod statistics;
mod status;
mod submission;
mod transfer;
mod volume;
mod waiting;

pub use blocking::{BlockingClient, BlockingError};
pub use clock::Clock;
pub use config::{CLOSE_PATIENCE, IN_FLIGHT_LIMIT, OPERATION_PIECES_MAX, SUBMISSION_BLOCKS_MAX};
pub use error::{ClientError, Obstacle, OpenError};
pub use operation::{Completion, Operation, OperationKind, ReadData, ReadPart, Refusal, Refused};
pub use options::{ClientOptions, OptionsError, Transports};
pub use statistics::Statistics;
pub use status::StatusError;
pub use transfer::{TransferError, TransferOptions, TransferReport, export, import};
pub use volume::VolumeHandle;

use std::time::Duration;

use culvert_memory::Pool;

use self::core::Core;
use crate::cluster::{Cluster, EndpointIndex};
use crate::network::Network;
use endpoint::EndpointId;
use route::RouteIndex;
use volume::OpenVolume;

/// A client of one cluster, used by one thread.
pub struct Client<N: Network> {
    cluster: Cluster,
    network: N,
    core: Core,
    /// How long waiting calls poll before they sleep.
    spin: Duration,
}

/// What a turn has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Operations reported.
    pub completed: u32,
    /// Whether anything came in, went out or was reported. A turn without says that polling again
    /// at once is of little use.
    pub active: bool,
}

impl<N: Network> Client<N> {
    /// A client of `cluster`. Connections are made on first use, with `network`; `pool` is where
    /// reads are put together that do not land in one piece.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] where the options make no sense.
    pub fn new(
        cluster: Cluster,
        network: N,
        pool: Pool,
        options: ClientOptions,
    ) -> Result<Client<N>, OptionsError> {
        options.check()?;
        let core = Core::new(&cluster, pool, &options);
        Ok(Client { cluster, network, core, spin: options.spin })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The network.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// The network. Using the client's connections disturbs the client.
    pub fn network_mut(&mut self) -> &mut N {
        &mut self.network
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.core.pool
    }

    /// What was done so far.
    pub fn statistics(&self) -> &Statistics {
        &self.core.statistics
    }

    /// Operations taken and not yet reported.
    pub fn in_flight(&self) -> u32 {
        self.core.operations.len()
    }

    /// Reads that were given up and whose landing pages may still be written.
    pub fn reads_in_quarantine(&self) -> usize {
        self.core.quarantine.len()
    }

    /// Opens a volume; opening it again gives the same handle.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where it does not exist or cannot be reached by any allowed transport.
    pub fn open_volume(&mut self, name: &str) -> Result<VolumeHandle, OpenError> {
        let unknown = || OpenError::Unknown(name.to_owned());
        let volume = self.cluster.volume(name).ok_or_else(unknown)?;
        let opened = self.core.volumes.iter().position(|open| open.id == volume.id);
        if let Some(index) = opened {
            return Ok(self.core.volumes[index].handle(index));
        }
        let copysets = self.cluster.copysets();
        let route = |id| copysets.iter().position(|copyset| copyset.id == id);
        let routes: Box<[RouteIndex]> = volume
            .copysets
            .iter()
            .map(|id| RouteIndex(route(*id).expect("a checked file knows them") as u32))
            .collect();
        let reachable = |route: &RouteIndex| {
            let mut endpoints = self.core.routes[route.0 as usize].endpoints();
            endpoints.any(|id| !self.core.endpoints[id.0 as usize].addresses.is_empty())
        };
        if !routes.iter().all(reachable) {
            return Err(OpenError::NoAddress);
        }
        let open = OpenVolume { id: volume.id, layout: self.cluster.layout(volume), routes };
        self.core.volumes.push(open);
        let index = self.core.volumes.len() - 1;
        Ok(self.core.volumes[index].handle(index))
    }

    /// Takes an operation, to be reported under `token`. It is started by the next
    /// [`Client::poll`], from which its time counts.
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the operation back: when as much is in flight as there are slots for,
    /// or when it is not possible at all.
    pub fn submit(&mut self, operation: Operation, token: u64) -> Result<(), Refused> {
        self.core.submit(operation, token)
    }

    /// One turn: starts what is new, takes in what has come, sends what can be sent, and reports
    /// what is over.
    /// `now_ns` is any clock that does not go back.
    pub fn poll(&mut self, now_ns: u64, handler: &mut dyn FnMut(Completion<'_>)) -> Turn {
        let core = &mut self.core;
        core.now_ns = now_ns.max(core.now_ns);
        core.start_status_timer();
        core.end_when_idle();
        // What is new goes first: it need not wait for what has come in.
        let mut sent = core.start_fresh() && core.dispatch(&mut self.network);
        if sent {
            self.network.post(core.now_ns);
        }
        let events = self.network.poll(core.now_ns, config::EVENTS_PER_TURN, &mut |event| {
            core.on_event(event);
        });
        core.expire();
        core.close_connections(&mut self.network);
        sent |= core.dispatch(&mut self.network);
        core.close_connections(&mut self.network);
        self.network.post(core.now_ns);
        let completed = core.deliver(handler);
        Turn { completed, active: events > 0 || sent || completed > 0 }
    }

    /// Begins to close the client: no operation is taken any more, those in flight come to their
    /// end, and the sessions are closed at the servers. Those that are not closed when `patience`
    /// has passed expire.
    pub fn begin_close(&mut self, now_ns: u64, patience: Duration) {
        self.core.now_ns = now_ns.max(self.core.now_ns);
        let patience_ns = patience.as_nanos() as u64;
        self.core.end(self.core.now_ns.saturating_add(patience_ns));
    }

    /// Whether the client was closed, and nothing is left to be done for that.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.has_ended()
    }

    /// The time at which [`Client::poll`] must be called although nothing has come in.
    pub fn next_timer_ns(&self) -> Option<u64> {
        let timer = self.core.timer.0;
        (timer != u64::MAX).then_some(timer)
    }

    /// Starts to fetch a node's status from one of its reactors; [`Client::take_status`] has the
    /// result after some turns.
    ///
    /// # Errors
    ///
    /// [`StatusError`] for an unknown endpoint, or while another fetch is under way.
    pub fn request_status(&mut self, endpoint: EndpointIndex) -> Result<(), StatusError> {
        let reactors = self.cluster.nodes().get(endpoint.node).map(|node| node.reactors.len());
        if reactors.is_none_or(|reactors| endpoint.reactor >= reactors) {
            return Err(StatusError::UnknownEndpoint);
        }
        self.core.start_status(EndpointId::of(&self.cluster, endpoint))
    }

    /// The status asked for last, as JSON, once it is there.
    pub fn take_status(&mut self) -> Option<Result<String, StatusError>> {
        self.core.take_status()
    }
}

/// The servers are told, without waiting for an answer, that the sessions are over.
impl<N: Network> Drop for Client<N> {
    fn drop(&mut self) {
        let core = &mut self.core;
        if core.ends || !core.operations.is_empty() || std::thread::panicking() {
            return;
        }
        core.end(u64::MAX);
        if core.dispatch(&mut self.network) {
            self.network.post(core.now_ns);
        }
    }
}

#[cfg(test)]
mod tests;
