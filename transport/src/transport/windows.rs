//! Landing windows as the caller sees them.

use std::ptr::NonNull;

use culvert_memory::{Buffer, SlotId};

use crate::connection::{Connection, slot};
use crate::transport::Transport;
use crate::{CloseReason, ConnectionId, Placement, RegionEvent, RegionRefused};

impl Transport {
    /// Takes `pages` pages of our own window, when this side allocates in it
    /// ([`WindowMode::Named`](crate::WindowMode::Named)): for a request in whose answer the peer is
    /// to write there.
    ///
    /// `None` when there are none now; the window grows if it may, and
    /// [`Event::Writable`](crate::Event::Writable) follows then. Keep the buffer until the answer
    /// is there, or the connection is closed.
    pub fn acquire_named(&mut self, connection: ConnectionId, pages: u32) -> Option<Buffer> {
        let open = self.connections.get_mut(slot(connection)).and_then(Connection::open_mut)?;
        open.acquire_named(&mut self.shared, pages)
    }

    /// What to write into the request for a buffer of [`acquire_named`](Transport::acquire_named):
    /// where its pages are in the window. `None` for a buffer of other memory.
    pub fn named_page(&self, connection: ConnectionId, buffer: &Buffer) -> Option<Placement> {
        let open = self.connections.get(slot(connection)).and_then(Connection::open)?;
        Placement::named(open.landing.page_of(buffer)?, buffer.pages())
    }

    /// Pages of the peer's window that are known here: a request takes at most half of them.
    pub fn window_pages_granted(&self, connection: ConnectionId) -> u32 {
        self.connections
            .get(slot(connection))
            .and_then(Connection::open)
            .map_or(0, |open| open.remote.pages())
    }

    /// The longest run that [`reserve`](Transport::reserve) can give on a connection once all
    /// credits are back: a run lies in one segment of the window.
    pub fn run_pages_max(&self, connection: ConnectionId) -> u32 {
        self.connections
            .get(slot(connection))
            .and_then(Connection::open)
            .map_or(0, |open| open.remote.run_pages_max())
    }

    /// Credits held: pages of the peer's window that are free to be reserved.
    pub fn credits(&self, connection: ConnectionId) -> u32 {
        self.connections
            .get(slot(connection))
            .and_then(Connection::open)
            .map_or(0, |open| open.remote.free_pages())
    }

    /// Pages of our own window: with a named one, a request asks for at most half of them.
    pub fn window_pages(&self, connection: ConnectionId) -> u32 {
        self.connections
            .get(slot(connection))
            .and_then(Connection::open)
            .map_or(0, |open| open.landing.pages())
    }

    /// Whether a byte of memory lies in a landing window, where some peer's writes land. Searches all
    /// connections: for those who want to prove where payloads are.
    pub fn is_landing_memory(&self, address: NonNull<u8>) -> bool {
        let mut open = self.connections.iter().filter_map(|(_, connection)| connection.open());
        open.any(|open| open.landing.holds(address))
    }

    /// Pages that windows may still take.
    pub fn window_budget_left(&self) -> u32 {
        self.shared.budget_pages
    }

    /// Reports regions that are new or gone since the last call, to be registered with devices.
    /// With [`report_regions`](crate::TransportOptions::report_regions) peers are told of new ones
    /// only now, so it has to be called every turn, between [`poll`](Transport::poll) and
    /// [`post`](Transport::post).
    ///
    /// A new region that `f` refuses is named by nobody: its connection is closed, or turned away
    /// while it opens. It is reported as retired all the same.
    pub fn regions(&mut self, mut f: impl FnMut(RegionEvent) -> Result<(), RegionRefused>) {
        if self.shared.region_events.is_empty() && self.shared.unreported.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        for event in self.shared.region_events.drain(..) {
            let added = match &event {
                RegionEvent::Added(region) => Some(region.id()),
                RegionEvent::Retired(_) => None,
            };
            if f(event).is_err() {
                refused.extend(added);
            }
        }
        for slot in std::mem::take(&mut self.shared.unreported) {
            let region = self.connections.get(slot).and_then(Connection::newest_region);
            if region.is_some_and(|region| refused.contains(&region)) {
                self.refuse_region(slot);
                continue;
            }
            match self.connections.get_mut(slot) {
                None | Some(Connection::Between) => {}
                Some(Connection::Open(open)) => open.reported(&mut self.shared),
                Some(Connection::Opening(opening)) => {
                    let progress = opening.confirm(&mut self.shared);
                    self.follow_opening(slot, progress);
                }
            }
        }
    }

    /// The newest region of a connection is not to be named.
    fn refuse_region(&mut self, slot: SlotId) {
        if let Some(Connection::Opening(opening)) = self.connections.get_mut(slot) {
            opening.turn_away_unregistered(&mut self.shared.counters);
        }
        self.end(slot, CloseReason::RegionRefused);
    }
}
