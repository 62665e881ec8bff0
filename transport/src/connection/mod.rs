//! One connection, from its first byte on.

pub(crate) mod established;
pub(crate) mod growth;
pub(crate) mod info;
pub(crate) mod limits;
pub(crate) mod opening;
pub(crate) mod queue;
pub(crate) mod send;

use culvert_memory::{RegionId, SlotId};

use crate::ConnectionId;
use crate::connection::established::Established;
use crate::connection::opening::Opening;

/// A connection in the table of a transport.
#[derive(Debug)]
pub(crate) enum Connection {
    /// The handshake is under way.
    Opening(Box<Opening>),
    /// The handshake is done and the connection is being made of it: seen by nobody.
    Between,
    /// Frames flow.
    Open(Box<Established>),
}

impl Connection {
    pub(crate) fn open_mut(&mut self) -> Option<&mut Established> {
        match self {
            Self::Open(connection) => Some(connection),
            Self::Opening(_) | Self::Between => None,
        }
    }

    /// The region of the newest segment of our window.
    pub(crate) fn newest_region(&self) -> Option<RegionId> {
        match self {
            Self::Open(connection) => Some(connection.landing.last_region()?.id()),
            Self::Opening(opening) => opening.newest_region(),
            Self::Between => None,
        }
    }

    pub(crate) fn open(&self) -> Option<&Established> {
        match self {
            Self::Open(connection) => Some(connection),
            Self::Opening(_) | Self::Between => None,
        }
    }
}

/// The slot of a connection's id.
pub(crate) const fn slot(id: ConnectionId) -> SlotId {
    SlotId { index: id.slot(), generation: id.generation() }
}

/// The id of a connection's slot.
pub(crate) const fn id(slot: SlotId) -> ConnectionId {
    ConnectionId::new(slot.index, slot.generation)
}
