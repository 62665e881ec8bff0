//! How connections end.

use culvert_memory::SlotId;

use crate::connection::established::Link;
use crate::connection::growth::Wish;
use crate::connection::{Connection, id, slot};
use crate::transport::Transport;
use crate::transport::shared::Pending;
use crate::{CloseReason, ConnectionId};

impl Transport {
    /// Closes a connection, for the caller's own reason. What was sent is handed to the link if
    /// that takes it at once; what has come in and was not delivered is dropped.
    /// [`Event::Closed`](crate::Event::Closed) follows.
    pub fn close(&mut self, connection: ConnectionId, reason: &'static str) {
        let slot = slot(connection);
        if let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) {
            // Best effort: the connection is closed either way.
            let _ = open.post(&mut self.shared, true);
        }
        self.end(slot, CloseReason::Caller(reason));
    }

    /// Whether this side began the connection.
    pub(super) fn is_initiated(&self, slot: SlotId) -> bool {
        match self.connections.get(slot) {
            Some(Connection::Opening(opening)) => opening.initiated,
            Some(Connection::Open(open)) => open.initiated,
            None | Some(Connection::Between) => false,
        }
    }

    /// Ends a connection. Does nothing when it has ended already.
    pub(super) fn end(&mut self, slot: SlotId, reason: CloseReason) {
        let Some(connection) = self.connections.remove(slot) else { return };
        match connection {
            Connection::Between => {}
            Connection::Opening(opening) => {
                self.openings.retain(|other| *other != slot);
                self.shared.counters.handshakes_failed += 1;
                let (address, initiated) = (&opening.address, opening.initiated);
                let expected = matches!(reason, CloseReason::Caller(_) | CloseReason::Io(_));
                if expected || initiated && !self.failing.failed(address) {
                    tracing::debug!(%address, initiated, %reason, "handshake ended");
                } else {
                    tracing::warn!(%address, initiated, %reason, "handshake failed");
                }
                let backend = opening.backend();
                let (landing, joining) = opening.into_verbs();
                match joining {
                    Some(joining) => self.linger_joining(joining, landing),
                    None => landing.into_iter().for_each(|one| self.shared.retire(one, backend)),
                }
                if initiated {
                    self.shared.events.push_back(Pending::Closed { connection: id(slot), reason });
                }
            }
            Connection::Open(open) => {
                self.forget(slot, &open.link);
                self.shared.counters.connections_closed += 1;
                let (peer, address) = (&open.peer, &open.address);
                match reason {
                    CloseReason::Violation(_) => {
                        self.shared.counters.violations += 1;
                        tracing::warn!(%peer, %address, %reason, "connection closed");
                    }
                    CloseReason::UnsentBound
                    | CloseReason::NoMemory
                    | CloseReason::WorkRequest(_)
                    | CloseReason::QueuePairFatal
                    | CloseReason::RegionRefused => {
                        tracing::warn!(%peer, %address, %reason, "connection closed");
                    }
                    CloseReason::PeerVanished | CloseReason::Io(_) => {
                        tracing::info!(%peer, %address, %reason, "connection closed");
                    }
                    _ => tracing::debug!(%peer, %address, %reason, "connection closed"),
                }
                if open.wish == Wish::Said {
                    self.shared.wishing -= 1;
                }
                let backend = open.backend();
                match open.link {
                    Link::Rdma(mut link) => {
                        if let CloseReason::Violation(_) = reason {
                            // Who breaks the rules is not waited for.
                            link.ended = Some(reason);
                        }
                        self.linger(*link, Some(open.landing));
                    }
                    Link::Shm(_) | Link::Tcp(_) => self.shared.retire(open.landing, backend),
                }
                self.shared.events.push_back(Pending::Closed { connection: id(slot), reason });
            }
        }
    }

    /// Takes a connection off the lists of its backend.
    fn forget(&mut self, slot: SlotId, link: &Link) {
        match link {
            Link::Shm(_) => self.shm.retain(|other| *other != slot),
            Link::Tcp(_) => self.tcp_open -= 1,
            Link::Rdma(_) => {}
        }
    }

    /// Windows of closed connections of which somebody still holds pages.
    pub fn retiring_windows(&self) -> usize {
        self.shared.retiring() + self.verbs.as_ref().map_or(0, |verbs| verbs.lingering())
    }
}
