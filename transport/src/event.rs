//! What a transport tells its caller.

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, Region, RegionId};

use crate::config::PAYLOADS_MAX;
use crate::{CloseReason, ConnectionId, Identity};

/// The payloads of one frame, in the order in which the sender named them.
pub type Payloads = ArrayVec<Buffer, PAYLOADS_MAX>;

/// Two kinds of traffic on one connection. Order holds within a class, not between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Everything that carries user data, and its answers.
    Data = 1,
    /// Heartbeats, votes, credits: has a queue of its own and never waits behind data.
    Control = 2,
}

/// One thing that happened, given to the handler of [`Transport::poll`](crate::Transport::poll).
///
/// Per connection: `Connected` first, `Closed` last and exactly once (also after a
/// [`connect`](crate::Transport::connect) that came to nothing, and after
/// [`close`](crate::Transport::close)); frames of one class in the order sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// The handshake is done; frames may be sent.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Who the other side is.
        peer: Identity,
        /// Whether this side connected (otherwise it accepted).
        initiated: bool,
        /// Over what it goes: what stands before the `://` of its address.
        scheme: &'static str,
    },
    /// A frame has come in, and its payload is whole.
    Frame {
        /// The connection.
        connection: ConnectionId,
        /// The class in which it was sent.
        class: Class,
        /// The frame: a private copy that the peer cannot change any more.
        bytes: &'a [u8],
        /// The landing pages of the payloads, claimed: the handler takes what it wants to keep.
        /// Dropping a buffer gives its credit back to the peer. Empty where this side named the
        /// pages itself: it has them already.
        payloads: &'a mut Payloads,
    },
    /// Something that [`reserve`](crate::Transport::reserve) or [`send`](crate::Transport::send)
    /// refused may go now.
    Writable {
        /// The connection.
        connection: ConnectionId,
    },
    /// The connection is gone; its id answers "closed" from here on.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
}

/// Memory of a region that was reported is not to be named by any peer: a device does not take it.
/// The connection that it was made for is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionRefused;

/// A change in the memory that peers can write, for whoever registers memory with devices.
#[derive(Clone, Debug)]
pub enum RegionEvent {
    /// A new region; the peer is told of it only after this event was taken.
    Added(Region),
    /// The region's connection is closed and nobody holds a page of it any more.
    Retired(RegionId),
}
