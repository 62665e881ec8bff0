//! The client's state, apart from the network.
//!
//! The parts that act on it are in files of their own: `submission` splits operations, `dispatch`
//! sends, `receipt` takes answers, `outcome` decides what follows from them, `expiry` runs the
//! timers, `connection` makes and loses connections, `returning`
//! goes back to preferred ones, `scouting` and `leading` find leaders, `ending` closes the sessions.

use culvert_memory::{Pool, SlotId, SlotTable};

use super::config::{OPERATION_PIECES_MAX, PIECES_PER_OPERATION};
use super::endpoint::{Endpoint, EndpointId};
use super::error::ClientError;
use super::operation::{Completion, OperationKind, ReadData, ReadPart};
use super::options::ClientOptions;
use super::pause::Pauses;
use super::piece::{PieceIndex, PieceKind, PieceTable};
use super::quarantine::Quarantine;
use super::route::{Lane, Route, RouteIndex};
use super::statistics::Statistics;
use super::status::StatusFetch;
use super::volume::OpenVolume;
use crate::cluster::Cluster;
use crate::ids::Epoch;
use crate::network::ConnectionId;
use crate::wire::FRAME_BYTES_MAX;

/// An operation of the caller.
#[derive(Debug)]
pub(super) struct OperationSlot {
    pub(super) token: u64,
    pub(super) kind: OperationKind,
    /// Its pieces, in the order of their blocks.
    pub(super) first: Option<PieceIndex>,
    /// Pieces that are not over.
    pub(super) open: u32,
    /// Whether part of a change was executed.
    pub(super) executed: bool,
    pub(super) error: Option<ClientError>,
}

/// The options in the form in which they are used.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) request_timeout_ns: u64,
    pub(super) attempt_timeout_ns: u64,
    pub(super) attempts_max: u32,
    pub(super) epoch: Epoch,
}

/// The earliest of all timers, or an earlier time.
#[derive(Debug)]
pub(super) struct Earliest(pub(super) u64);

impl Earliest {
    pub(super) fn note(&mut self, time_ns: u64) {
        self.0 = self.0.min(time_ns);
    }
}

/// Everything but the network.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) pool: Pool,
    pub(super) volumes: Vec<OpenVolume>,
    pub(super) routes: Box<[Route]>,
    pub(super) endpoints: Box<[Endpoint]>,
    /// The endpoint of each connection, by the connection's slot.
    pub(super) connections: Vec<Option<(ConnectionId, EndpointId)>>,
    /// Those whose end has not been told yet although another has their slot; hardly ever any.
    pub(super) replaced: Vec<(ConnectionId, EndpointId)>,
    /// Connections to be closed in this turn, and why.
    pub(super) closing: Vec<(ConnectionId, &'static str)>,
    pub(super) operations: SlotTable<OperationSlot>,
    pub(super) pieces: PieceTable,
    /// Operations taken since the last turn.
    pub(super) fresh: Vec<SlotId>,
    /// Operations to be reported.
    pub(super) finished: Vec<SlotId>,
    pub(super) quarantine: Quarantine,
    pub(super) status: Option<StatusFetch>,
    pub(super) timer: Earliest,
    pub(super) pauses: Pauses,
    /// Whether the client is being closed.
    pub(super) ends: bool,
    /// Until when to close the sessions, once nothing is in flight.
    pub(super) end_by_ns: Option<u64>,
    pub(super) nonce: u32,
    pub(super) now_ns: u64,
    pub(super) statistics: Statistics,
    /// The frame that is being written.
    pub(super) frame: Box<[u8; FRAME_BYTES_MAX]>,
    /// What the completion that is being reported has read.
    data: ReadData,
}

impl Core {
    pub(super) fn new(cluster: &Cluster, pool: Pool, options: &ClientOptions) -> Core {
        let routes: Box<[Route]> =
            cluster.copysets().iter().map(|copyset| Route::new(cluster, copyset)).collect();
        let in_flight = options.in_flight_max;
        let pieces = in_flight * PIECES_PER_OPERATION + OPERATION_PIECES_MAX as u32;
        Core {
            settings: Settings {
                request_timeout_ns: options.request_timeout.as_nanos() as u64,
                attempt_timeout_ns: options.attempt_timeout.as_nanos() as u64,
                attempts_max: options.attempts_max,
                epoch: options.epoch,
            },
            pool,
            volumes: Vec::new(),
            pieces: PieceTable::new(pieces, routes.len() as u32),
            routes,
            endpoints: Endpoint::all(cluster, options.transports),
            connections: Vec::new(),
            replaced: Vec::new(),
            closing: Vec::new(),
            operations: SlotTable::new(in_flight),
            fresh: Vec::with_capacity(in_flight as usize),
            finished: Vec::with_capacity(in_flight as usize),
            quarantine: Quarantine::new(pieces as usize),
            status: None,
            timer: Earliest(u64::MAX),
            pauses: Pauses::new(options),
            ends: false,
            end_by_ns: None,
            nonce: 0,
            now_ns: 0,
            statistics: Statistics::default(),
            frame: Box::new([0; FRAME_BYTES_MAX]),
            data: ReadData::default(),
        }
    }

    pub(super) fn route(&mut self, index: RouteIndex) -> &mut Route {
        &mut self.routes[index.0 as usize]
    }

    pub(super) fn endpoint(&mut self, id: EndpointId) -> &mut Endpoint {
        &mut self.endpoints[id.0 as usize]
    }

    /// Puts a lane of a route in its endpoint's list, if something waits in it.
    pub(super) fn list(&mut self, index: RouteIndex, lane: Lane) {
        let route = &mut self.routes[index.0 as usize];
        let listed = &mut route.listed[lane as usize];
        if !*listed && !route.queues[lane as usize].is_empty() {
            *listed = true;
            let endpoint = route.endpoint();
            self.endpoint(endpoint).ready[lane as usize].push_back(index);
        }
    }

    /// Asks another replica of a copyset from now on.
    pub(super) fn turn(&mut self, index: RouteIndex, replica: u8) {
        let before = self.route(index).endpoint();
        self.route(index).turn_to(replica);
        for lane in super::route::LANES {
            if std::mem::take(&mut self.route(index).listed[lane as usize]) {
                self.endpoint(before).ready[lane as usize].retain(|listed| *listed != index);
            }
            self.list(index, lane);
        }
    }

    /// A number for the next attempt that is unlike those of all recent ones.
    pub(super) fn next_nonce(&mut self) -> u32 {
        self.nonce = self.nonce.wrapping_add(1);
        self.nonce
    }

    /// Reports the operations that are over.
    pub(super) fn deliver(&mut self, handler: &mut dyn FnMut(Completion<'_>)) -> u32 {
        let mut finished = std::mem::take(&mut self.finished);
        let count = finished.len() as u32;
        for id in finished.drain(..) {
            let slot = self.operations.remove(id).expect("reported once");
            let result = self.close_pieces(&slot);
            self.statistics.completed += 1;
            self.statistics.failed += u64::from(result.is_err());
            let (token, kind) = (slot.token, slot.kind);
            handler(Completion { token, kind, result, data: &mut self.data });
            self.data.clear();
        }
        self.finished = finished;
        count
    }

    /// Collects what an operation has read and gives its pieces back.
    fn close_pieces(&mut self, slot: &OperationSlot) -> Result<(), ClientError> {
        let result = match slot.error {
            None => Ok(()),
            // A part was executed, so that "not executed" would be wrong.
            Some(ClientError::TimedOut(_)) if slot.executed => Err(ClientError::OutcomeUnknown),
            Some(error) => Err(error),
        };
        let mut next = slot.first;
        while let Some(index) = next {
            let piece = &mut self.pieces[index];
            next = piece.sibling;
            if result.is_ok() && piece.kind == PieceKind::Read {
                let buffer = piece.gathered.take().or_else(|| piece.landing.take());
                let buffer = buffer.expect("a read that is over has its blocks");
                self.data.push(ReadPart { block: piece.offset, buffer });
            }
            piece.clear();
            self.pieces.release(index);
        }
        result
    }
}
