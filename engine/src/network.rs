//! What the engine needs of a transport.
//!
//! [`Network`] is exactly the part of [`culvert_transport`] that the reactor, the chunkserver and
//! the client use, as a trait: the production transport implements it, and so does the modelled
//! network of the simulation. It adds nothing; the rules of each call are those of the transport.
//!
//! Fault model: a connection may close at any moment and with it everything posted on it; frames
//! of one class on one connection arrive in order, at most once; payload is whole when its frame
//! is delivered. The content of frames is the peer's word.

use std::os::fd::BorrowedFd;

pub use culvert_transport::Counters as NetworkCounters;
pub use culvert_transport::{
    Address, Class, CloseReason, ConnectError, ConnectionId, Event, Identity, ListenError,
    PAYLOADS_MAX, Payloads, PeerKind, Placement, RegionEvent, RegionRefused, SendError, WindowMode,
};

use culvert_memory::{Buffer, Pages};
use culvert_transport::Transport;

/// What takes the regions of [`Network::regions`].
pub type RegionHandler<'a> = dyn FnMut(RegionEvent) -> Result<(), RegionRefused> + 'a;

/// Connections with one-sided writes, polled by one thread.
///
/// A sender of payload first takes a place in the peer's window ([`Network::reserve`]), then sends
/// the frame together with its payloads. A full window or queue is a normal answer; the caller
/// keeps what it wanted to send and tries again after [`Event::Writable`].
pub trait Network {
    /// Accepts connections at `address`; returns the address in effect (a TCP port of 0 filled
    /// in).
    ///
    /// # Errors
    ///
    /// [`ListenError`] where the address is taken or the kernel refuses.
    fn listen(&mut self, address: &Address) -> Result<Address, ListenError>;

    /// Starts to connect; [`Event::Connected`] or [`Event::Closed`] tells the outcome. `window`
    /// says who allocates the pages of *this side's* landing window.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] where it failed at once; no event follows then.
    fn connect(
        &mut self,
        address: &Address,
        window: WindowMode,
    ) -> Result<ConnectionId, ConnectError>;

    /// Hands at most about `budget` events to `handler` and returns how many. Time never goes
    /// back.
    fn poll(&mut self, now_ns: u64, budget: usize, handler: &mut dyn FnMut(Event<'_>)) -> usize;

    /// Takes `pages` adjacent pages of the peer's granted window; `None` where there are none just
    /// now or the connection is closed.
    fn reserve(&mut self, connection: ConnectionId, pages: u32) -> Option<Placement>;

    /// Gives back a place that was reserved and not sent to.
    fn cancel(&mut self, connection: ConnectionId, placement: Placement);

    /// Queues a frame and its payloads. They leave at the next [`Network::post`] at the latest.
    ///
    /// # Errors
    ///
    /// [`SendError`]: nothing was taken; the placements are still the caller's.
    fn send(
        &mut self,
        connection: ConnectionId,
        class: Class,
        frame: &[u8],
        payloads: &[(Placement, Pages)],
    ) -> Result<(), SendError>;

    /// Payload pages that sends on this connection still hold: accepted, and not yet on the wire.
    fn unsent_pages(&self, connection: ConnectionId) -> u32;

    /// Sends what was queued in this turn.
    fn post(&mut self, now_ns: u64);

    /// Closes a connection, with [`Event::Closed`] to follow. Closing one that is closed does
    /// nothing.
    fn close(&mut self, connection: ConnectionId, reason: &'static str);

    /// Takes `pages` adjacent pages of this side's *named* window, to be named in a request.
    /// `None` where there are none just now or the connection is closed. The peer may write the
    /// pages until it has answered that request or the connection is closed; until then the
    /// buffer must not be dropped.
    fn acquire_named(&mut self, connection: ConnectionId, pages: u32) -> Option<Buffer>;

    /// The page number by which the peer knows a buffer of [`Network::acquire_named`].
    fn named_page(&self, connection: ConnectionId, buffer: &Buffer) -> Option<u32>;

    /// Pages of the window that the peer has granted so far, in use or not.
    fn window_pages_granted(&self, connection: ConnectionId) -> u32;

    /// Landing windows that came and went since the last call; a peer is told of a window only
    /// after its region was taken here, so that devices know it first. A window that is refused
    /// here costs its connection.
    fn regions(&mut self, handler: &mut RegionHandler<'_>);

    /// What it counted.
    fn counters(&self) -> NetworkCounters;

    /// Announces that this thread is about to sleep on [`Network::wake_fd`]. `false`: something
    /// came in meanwhile, poll again instead.
    fn prepare_sleep(&mut self) -> bool;

    /// When [`Network::poll`] has something to do by the clock; `None`: never. A sleep ends then.
    fn next_deadline_ns(&self) -> Option<u64>;

    /// The counterpart of [`Network::prepare_sleep`], after a sleep or instead of one.
    fn finish_sleep(&mut self);

    /// Becomes readable when there is something to poll. `None`: it never does, as with a
    /// modelled network; the caller must not sleep on it.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;
}

impl Network for Transport {
    fn listen(&mut self, address: &Address) -> Result<Address, ListenError> {
        Transport::listen(self, address)
    }

    fn connect(
        &mut self,
        address: &Address,
        window: WindowMode,
    ) -> Result<ConnectionId, ConnectError> {
        Transport::connect(self, address, window)
    }

    fn poll(&mut self, now_ns: u64, budget: usize, handler: &mut dyn FnMut(Event<'_>)) -> usize {
        Transport::poll(self, now_ns, budget, &mut |_, event| handler(event))
    }

    fn reserve(&mut self, connection: ConnectionId, pages: u32) -> Option<Placement> {
        Transport::reserve(self, connection, pages)
    }

    fn cancel(&mut self, connection: ConnectionId, placement: Placement) {
        Transport::cancel(self, connection, placement);
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        class: Class,
        frame: &[u8],
        payloads: &[(Placement, Pages)],
    ) -> Result<(), SendError> {
        Transport::send(self, connection, class, frame, payloads)
    }

    fn unsent_pages(&self, connection: ConnectionId) -> u32 {
        Transport::unsent_pages(self, connection)
    }

    fn post(&mut self, now_ns: u64) {
        Transport::post(self, now_ns);
    }

    fn close(&mut self, connection: ConnectionId, reason: &'static str) {
        Transport::close(self, connection, reason);
    }

    fn acquire_named(&mut self, connection: ConnectionId, pages: u32) -> Option<Buffer> {
        Transport::acquire_named(self, connection, pages)
    }

    fn named_page(&self, connection: ConnectionId, buffer: &Buffer) -> Option<u32> {
        Transport::named_page(self, connection, buffer).map(Placement::page)
    }

    fn window_pages_granted(&self, connection: ConnectionId) -> u32 {
        Transport::window_pages_granted(self, connection)
    }

    fn regions(&mut self, handler: &mut RegionHandler<'_>) {
        Transport::regions(self, handler);
    }

    fn counters(&self) -> NetworkCounters {
        *Transport::counters(self)
    }

    fn prepare_sleep(&mut self) -> bool {
        Transport::prepare_sleep(self)
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        Transport::next_deadline(self)
    }

    fn finish_sleep(&mut self) {
        Transport::finish_sleep(self);
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(Transport::wake_fd(self))
    }
}
