//! Sending, and the end of a turn.

use culvert_memory::{Pages, SlotId};

use crate::connection::established::Link;
use crate::connection::send::Refusal;
use crate::connection::{Connection, slot};
use crate::transport::Transport;
use crate::{Class, CloseReason, ConnectionId, Placement, SendError};

impl Transport {
    /// Takes credits for a run of `pages` pages in the peer's window. `None` when there are none
    /// now: the peer is asked for a larger window if it may have one, ten times a second until there is
    /// what was refused, and [`Event::Writable`](crate::Event::Writable) follows then. More than
    /// [`run_pages_max`](Transport::run_pages_max) pages there are only if the window grows.
    pub fn reserve(&mut self, connection: ConnectionId, pages: u32) -> Option<Placement> {
        let open = self.connections.get_mut(slot(connection)).and_then(Connection::open_mut)?;
        open.reserve(&mut self.shared, pages)
    }

    /// Gives back what was reserved and not sent.
    ///
    /// # Panics
    ///
    /// When it is not reserved on an open connection: a bug of the caller.
    pub fn cancel(&mut self, connection: ConnectionId, placement: Placement) {
        if let Some(open) =
            self.connections.get_mut(slot(connection)).and_then(Connection::open_mut)
        {
            open.remote.cancel(placement);
            open.tell_of_pages(&mut self.shared);
        }
    }

    /// Sends a frame, and the payloads that belong to it, each to its place in the peer's window.
    /// All or nothing.
    ///
    /// The peer handles the frame when all its payloads are whole. A clone of each payload is held
    /// until it has been written. Nothing leaves before [`post`](Transport::post).
    ///
    /// # Errors
    ///
    /// Nothing was taken then, and the placements are still reserved; after [`SendError::Closed`]
    /// nothing is.
    ///
    /// # Panics
    ///
    /// When a payload has not the length of its placement: a bug of the caller.
    pub fn send(
        &mut self,
        connection: ConnectionId,
        class: Class,
        frame: &[u8],
        payloads: &[(Placement, Pages)],
    ) -> Result<(), SendError> {
        let slot = slot(connection);
        let open = self
            .connections
            .get_mut(slot)
            .and_then(Connection::open_mut)
            .ok_or(SendError::Closed)?;
        match open.send(&mut self.shared, class, frame, payloads) {
            Ok(()) => Ok(()),
            Err(Refusal::Error(error)) => Err(error),
            Err(Refusal::Close(reason)) => {
                self.end(slot, reason);
                Err(SendError::Closed)
            }
        }
    }

    /// Payload pages accepted by [`send`](Self::send) and still held for the wire: 0 over shared
    /// memory, where a send copies at once, and for a connection that is not open.
    pub fn unsent_pages(&self, connection: ConnectionId) -> u32 {
        match self.connections.get(slot(connection)).and_then(Connection::open) {
            Some(open) => open.unsent_pages(),
            None => 0,
        }
    }

    /// The longest frame of a class that both sides take; `None` when the connection is not open.
    pub fn frame_bytes_max(&self, connection: ConnectionId, class: Class) -> Option<usize> {
        let open = self.connections.get(slot(connection)).and_then(Connection::open)?;
        Some(open.limits.frame_bytes_max(class))
    }

    /// The end of a turn: everything that was sent leaves, and credits that are due with it.
    pub fn post(&mut self, now: u64) {
        self.shared.now = now;
        self.post_busy(false);
    }

    /// Visits the connections that have something to do; `force` what may wait otherwise.
    pub(super) fn post_busy(&mut self, force: bool) {
        if self.shared.retiring() > 0 {
            self.shared.poll_retiring();
        }
        let mut index = 0;
        while let Some(slot) = self.shared.busy.get(index).copied() {
            if self.post_one(slot, force) {
                index += 1;
            } else {
                self.shared.busy.swap_remove(index);
            }
        }
    }

    /// Visits one connection; whether it stays on the list.
    fn post_one(&mut self, slot: SlotId, force: bool) -> bool {
        let Some(open) = self.connections.get_mut(slot).and_then(Connection::open_mut) else {
            return false;
        };
        let stays = match open.post(&mut self.shared, force) {
            Ok(stays) => stays,
            Err(reason) => {
                self.end(slot, reason);
                return false;
            }
        };
        open.busy = stays;
        if let Link::Tcp(link) = &mut open.link
            && link.watched != link.is_blocked()
        {
            link.watched = link.is_blocked();
            self.shared.counters.system_calls += 1;
            if let Err(error) = self.readiness.watch(link.socket(), slot, link.watched) {
                self.end(slot, CloseReason::Io(error));
                return false;
            }
        }
        stays
    }
}
