//! The transport of one reactor: its listeners and its connections.
//!
//! A turn is [`poll`](Transport::poll), then whatever the caller makes of it, then
//! [`post`](Transport::post): what was sent in between leaves together. Nothing here blocks and
//! nothing yields; to sleep, see [`prepare_sleep`](Transport::prepare_sleep).

mod closing;
mod failing;
mod listener;
mod poll;
mod readiness;
mod sending;
pub(crate) mod shared;
mod sleep;
mod verbs;
mod windows;

use std::collections::VecDeque;

use culvert_memory::{SlotId, SlotTable};

use crate::connection::established::Established;
use crate::connection::info::ConnectionInfo;
use crate::connection::opening::{Opening, Way};
use crate::connection::{Connection, id, slot};
use crate::envelope::RECORD_BYTES_LIMIT;
use crate::handshake::proof::Role;
use crate::rdma::Verbs;
use crate::shm::socket as unix;
use crate::tcp::socket as stream;
use crate::transport::failing::FailingAddresses;
use crate::transport::listener::Listener;
use crate::transport::readiness::Readiness;
use crate::transport::shared::{Backend, Shared};
use crate::{
    Address, CloseReason, ConnectError, ConnectionId, Counters, OptionsError, TransportOptions,
    WindowMode,
};

/// All connections of one reactor. Belongs to its thread.
///
/// ```
/// use culvert_memory::{Backing, Pool, PoolOptions};
/// use culvert_transport::{
///     Address, Class, Event, Identity, PeerKind, Transport, TransportOptions, WindowMode,
/// };
/// use uuid::Uuid;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let transport = |number: u128| -> Result<Transport, Box<dyn std::error::Error>> {
///     let backing = Backing::Ordinary;
///     let pool = Pool::new(&PoolOptions { backing, ..PoolOptions::default() })?;
///     let node = Uuid::from_u128(number);
///     let identity = Identity { node, kind: PeerKind::Node, endpoint: 0 };
///     Ok(Transport::new(TransportOptions::new(identity, pool))?)
/// };
/// let mut server = transport(1)?;
/// let mut client = transport(2)?;
/// let address = server.listen(&"tcp://127.0.0.1:0".parse::<Address>()?)?;
/// let connection = client.connect(&address, WindowMode::Granted)?;
///
/// let (mut now, mut received) = (0, None);
/// while received.is_none() {
///     now += 1000;
///     client.poll(now, 64, &mut |client, event| {
///         if let Event::Connected { .. } = event {
///             client.send(connection, Class::Data, b"hello", &[]).expect("the queue is empty");
///         }
///     });
///     client.post(now);
///     server.poll(now, 64, &mut |_, event| {
///         if let Event::Frame { bytes, .. } = event {
///             received = Some(bytes.to_vec());
///         }
///     });
///     server.post(now);
/// }
/// assert_eq!(received.as_deref(), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Transport {
    shared: Shared,
    connections: SlotTable<Connection>,
    listeners: Vec<Listener>,
    readiness: Readiness,
    /// Handshakes under way.
    openings: VecDeque<SlotId>,
    /// Addresses at which they fail.
    failing: FailingAddresses,
    /// Open connections over shared memory, which are looked at in every poll.
    shm: Vec<SlotId>,
    /// With which of them the next poll begins.
    shm_next: usize,
    /// Open connections over TCP.
    tcp_open: usize,
    /// Those of them that have something to be read.
    tcp_ready: VecDeque<SlotId>,
    /// What `rdma://` needs, once it is asked for.
    verbs: Option<Box<Verbs>>,
    /// Open connections over RDMA that have something to be read.
    rdma_ready: VecDeque<SlotId>,
    /// Where a record is copied before it is looked at.
    record: Vec<u8>,
    /// Whether shared-memory peers have been told that we sleep.
    asleep: bool,
}

impl Transport {
    /// Makes a transport without connections.
    ///
    /// # Errors
    ///
    /// Options out of their range, or no epoll instance.
    pub fn new(options: TransportOptions) -> Result<Self, OptionsError> {
        options.check()?;
        let connections_max = options.connections_max;
        Ok(Self {
            readiness: Readiness::new().map_err(OptionsError::Epoll)?,
            shared: Shared::new(options),
            connections: SlotTable::new(connections_max),
            listeners: Vec::new(),
            openings: VecDeque::new(),
            failing: FailingAddresses::default(),
            shm: Vec::with_capacity(connections_max as usize),
            shm_next: 0,
            tcp_open: 0,
            tcp_ready: VecDeque::with_capacity(connections_max as usize),
            verbs: None,
            rdma_ready: VecDeque::with_capacity(connections_max as usize),
            record: Vec::with_capacity(RECORD_BYTES_LIMIT),
            asleep: false,
        })
    }

    /// Begins to connect. `window` says who will allocate in the window of *this* side.
    ///
    /// The outcome arrives as [`Event::Connected`](crate::Event::Connected) or
    /// [`Event::Closed`](crate::Event::Closed).
    ///
    /// # Errors
    ///
    /// What is clear at once: a full table, or an address at which nobody can be.
    pub fn connect(
        &mut self,
        address: &Address,
        window: WindowMode,
    ) -> Result<ConnectionId, ConnectError> {
        let slot = self.connections.next_id().ok_or(ConnectError::TableFull)?;
        let failure = |(step, source)| ConnectError::Io { step, source };
        let source = self.shared.options.source;
        let (way, backend) = match address {
            Address::Shm(path) => {
                let socket = unix::connect(path).map_err(|error| failure(("connect", error)))?;
                (Way::Socket(socket), Backend::Shm)
            }
            Address::Tcp(address) => {
                let socket = stream::connect(*address, source).map_err(failure)?;
                (Way::Socket(socket), Backend::Tcp)
            }
            Address::Rdma(address) => (self.resolve(slot, *address)?, Backend::Rdma),
        };
        let side = (backend, Role::Connector, window);
        let mut opening = Opening::new(slot, address.clone(), way, side, &self.shared);
        if backend == Backend::Shm
            && let Err(CloseReason::Io(source)) = opening.send_hello(&mut self.shared.counters)
        {
            return Err(ConnectError::Io { step: "sendmsg", source });
        }
        self.begin(opening).map_err(|source| ConnectError::Io { step: "epoll_ctl", source })?;
        Ok(id(slot))
    }

    /// What there is to be said of a connection; `None` when it is closed.
    pub fn connection_info(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        let of = self.connections.get(slot(connection))?;
        ConnectionInfo::new(connection, of)
    }

    /// All connections, half-open ones included.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.connections.iter().map(|(slot, _)| id(slot))
    }

    /// The options it was made with.
    pub fn options(&self) -> &TransportOptions {
        &self.shared.options
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Puts a handshake into the table and watches its socket.
    fn begin(&mut self, opening: Opening) -> Result<(), rustix::io::Errno> {
        let slot = opening.slot;
        if let Some(socket) = opening.socket() {
            self.readiness.add(socket, slot, opening.connecting)?;
        }
        self.openings.push_back(slot);
        let inserted = self.connections.insert(Connection::Opening(Box::new(opening)));
        debug_assert_eq!(inserted.ok(), Some(slot), "the slot was free a moment ago");
        Ok(())
    }

    /// Puts an established connection where its handshake was.
    fn adopt(&mut self, slot: SlotId, connection: Connection) {
        let backend = connection.open().map(Established::backend);
        if let Some(place) = self.connections.get_mut(slot) {
            *place = connection;
        }
        match backend {
            Some(Backend::Shm) => self.shm.push(slot),
            Some(Backend::Tcp) => {
                self.tcp_open += 1;
                self.list_ready(slot);
            }
            Some(Backend::Rdma) => self.list_received(slot),
            None => {}
        }
    }
}
