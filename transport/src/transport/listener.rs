//! Where peers come in.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::config::{ACCEPT_REST_NS, ACCEPTS_PER_TURN, EAR_REST_NS, RDMA_BACKLOG};
use crate::connection::opening::{Opening, Way};
use crate::handshake::proof::Role;
use crate::rdma::Id;
use crate::shm::socket as unix;
use crate::tcp::socket as stream;
use crate::transport::Transport;
use crate::transport::shared::Backend;
use crate::{Address, CloseReason, ListenError, WindowMode};

/// What it listens with.
#[derive(Debug)]
enum Ear {
    Socket(OwnedFd),
    Verbs(Id),
    /// The device went away; another one may come.
    Lost,
}

impl Ear {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Ear::Socket(socket) => Some(socket.as_fd()),
            Ear::Verbs(_) | Ear::Lost => None,
        }
    }
}

/// A listening socket, or an identifier that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    ear: Ear,
    address: Address,
    /// Not watched before this time: the process was out of descriptors.
    resting: Option<u64>,
    /// Bound only: the kernel refuses connections.
    deaf: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Shm(path) = &self.address {
            // Nobody is there any more; that the file may already be gone is no matter.
            let _ = rustix::fs::unlink(path);
        }
    }
}

fn failure((step, source): (&'static str, Errno)) -> ListenError {
    match source {
        Errno::ADDRINUSE => ListenError::InUse,
        _ => ListenError::Io { step, source },
    }
}

impl Transport {
    /// Takes an address, until the transport is dropped, without listening there: connections are
    /// refused until [`Transport::listen`] is called with what this returns, which is the address
    /// with its port resolved. So a server finds out early that its address is taken.
    ///
    /// A socket file left behind by a process that is gone is replaced.
    ///
    /// # Errors
    ///
    /// [`ListenError::InUse`] when somebody listens there, or what the kernel refused.
    pub fn bind(&mut self, address: &Address) -> Result<Address, ListenError> {
        let (ear, address) = match address {
            Address::Shm(path) => {
                let socket = unix::bind(path).map_err(|error| failure(("bind", error)))?;
                (Ear::Socket(socket), address.clone())
            }
            Address::Tcp(wanted) => {
                let (socket, bound) = stream::bind(*wanted).map_err(failure)?;
                (Ear::Socket(socket), Address::Tcp(bound))
            }
            Address::Rdma(wanted) => {
                let id = self.bind_verbs(*wanted)?;
                let bound = SocketAddr::new(wanted.ip(), id.port());
                (Ear::Verbs(id), Address::Rdma(bound))
            }
        };
        let address_bound = address.clone();
        self.listeners.push(Listener { ear, address, resting: None, deaf: true });
        Ok(address_bound)
    }

    /// Listens at an address, until the transport is dropped, and binds to it first where
    /// [`Transport::bind`] has not. Returns it with its port resolved.
    ///
    /// # Errors
    ///
    /// As [`Transport::bind`].
    pub fn listen(&mut self, address: &Address) -> Result<Address, ListenError> {
        let bound = |listener: &Listener| listener.deaf && listener.address == *address;
        let (index, address) = match self.listeners.iter().position(bound) {
            Some(index) => (index, address.clone()),
            None => {
                let address = self.bind(address)?;
                (self.listeners.len() - 1, address)
            }
        };
        let listener = &mut self.listeners[index];
        match &listener.ear {
            Ear::Lost => {}
            Ear::Verbs(id) => {
                id.listen(RDMA_BACKLOG).map_err(|errno| failure(("rdma_listen", errno)))?;
            }
            Ear::Socket(socket) => {
                let shm = matches!(listener.address, Address::Shm(_));
                let backlog = if shm { unix::BACKLOG } else { stream::BACKLOG };
                rustix::net::listen(socket, backlog).map_err(|errno| failure(("listen", errno)))?;
                let watched = self.readiness.add_listener(socket.as_fd(), index);
                watched.map_err(|errno| failure(("epoll_ctl", errno)))?;
            }
        }
        listener.deaf = false;
        Ok(address)
    }

    /// The device that an identifier listens on is gone.
    pub(super) fn lose_ear(&mut self, key: usize) {
        for listener in &mut self.listeners {
            if matches!(&listener.ear, Ear::Verbs(id) if id.key() == key) {
                let address = &listener.address;
                tracing::warn!(%address, "the device of a listener is gone");
                listener.ear = Ear::Lost;
                listener.resting = Some(self.shared.now + EAR_REST_NS);
            }
        }
    }

    /// Listens again where a device was lost, if it has come back.
    fn mend_ear(&mut self, index: usize) {
        let Address::Rdma(address) = self.listeners[index].address else { return };
        let bound = self.bind_verbs(address);
        let listener = &mut self.listeners[index];
        let listening = bound.ok().filter(|id| listener.deaf || id.listen(RDMA_BACKLOG).is_ok());
        match listening {
            None => listener.resting = Some(self.shared.now + EAR_REST_NS),
            Some(id) => {
                let address = &listener.address;
                tracing::info!(%address, "listening again");
                listener.ear = Ear::Verbs(id);
            }
        }
    }

    /// Takes the connections that wait at a listener.
    pub(super) fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get_mut(index) else { return };
            let Some(socket) = listener.ear.socket() else { return };
            self.shared.counters.system_calls += 1;
            let accepted = match &listener.address {
                Address::Shm(_) => unix::accept(socket)
                    .map(|socket| (socket, listener.address.clone(), Backend::Shm)),
                Address::Tcp(_) | Address::Rdma(_) => {
                    stream::accept(socket).map(|(socket, peer)| {
                        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                        (socket, Address::Tcp(peer.unwrap_or(unknown)), Backend::Tcp)
                    })
                }
            };
            match accepted {
                Ok((socket, address, backend)) => self.admit(socket, address, backend),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    let address = &listener.address;
                    tracing::warn!(%address, "no descriptor or memory to accept a connection");
                    listener.resting = Some(self.shared.now + ACCEPT_REST_NS);
                    let _ = self.readiness.remove_listener(socket);
                    return;
                }
                // Nothing more, or a peer that went away in the queue.
                Err(Errno::AGAIN) => return,
                Err(_) => {}
            }
        }
    }

    /// Begins the handshake with a peer that has come in, or turns it away.
    fn admit(&mut self, socket: OwnedFd, address: Address, backend: Backend) {
        self.drop_oldest_half_open();
        let side = (backend, Role::Acceptor, WindowMode::Granted);
        let Some(slot) = self.connections.next_id() else {
            let nobody = culvert_memory::SlotId::from_u64(0);
            let way = Way::Socket(socket);
            let mut opening = Opening::new(nobody, address, way, side, &self.shared);
            let reason = opening.turn_away(&mut self.shared.counters);
            self.shared.counters.handshakes_failed += 1;
            let address = &opening.address;
            tracing::warn!(%address, %reason, "a peer was turned away: no free connection");
            return;
        };
        let opening = Opening::new(slot, address, Way::Socket(socket), side, &self.shared);
        if let Err(error) = self.begin(opening) {
            tracing::warn!(%error, "a connection could not be watched");
        }
    }

    /// Keeps peers that never finish their handshake from taking all connections: beyond a quarter
    /// of them the oldest goes.
    pub(super) fn drop_oldest_half_open(&mut self) {
        let half_open_max = (self.connections.capacity() as usize / 4).max(4);
        if self.openings.len() < half_open_max {
            return;
        }
        let oldest = self.openings.iter().copied().find(|slot| !self.is_initiated(*slot));
        if let Some(slot) = oldest {
            self.end(slot, CloseReason::HandshakeTimeout);
        }
    }

    /// Watches again the listeners that have rested.
    pub(super) fn wake_listeners(&mut self) {
        let now = self.shared.now;
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.resting.is_some_and(|until| now >= until) {
                listener.resting = None;
                if matches!(listener.ear, Ear::Lost) {
                    self.mend_ear(index);
                    continue;
                }
                let Some(socket) = listener.ear.socket() else { continue };
                if let Err(error) = self.readiness.add_listener(socket, index) {
                    let address = &listener.address;
                    tracing::warn!(%error, %address, "a listener could not be watched");
                }
            }
        }
    }

    /// When the first resting listener is to be watched again.
    pub(super) fn listener_deadline(&self) -> Option<u64> {
        self.listeners.iter().filter_map(|listener| listener.resting).min()
    }
}
