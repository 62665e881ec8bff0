//! What there is to be said of a connection.

use crate::connection::Connection;
use crate::{Address, ConnectionId, Identity, WindowMode};

/// A snapshot of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its id.
    pub connection: ConnectionId,
    /// Where it was made to, or came from (over shared memory: where it was accepted).
    pub address: Address,
    /// Who the peer is, once the handshake is done.
    pub peer: Option<Identity>,
    /// Whether this side connected.
    pub initiated: bool,
    /// Who allocates in our window.
    pub window_mode: WindowMode,
    /// Pages of our window.
    pub window_pages: u32,
    /// Who allocates in the peer's window.
    pub peer_window_mode: WindowMode,
    /// Pages of the peer's window that are known here.
    pub peer_window_pages: u32,
    /// Pages of the peer's window that may be reserved now.
    pub credits: u32,
    /// Payload pages accepted and not yet taken by the kernel.
    pub unsent_pages: u32,
    /// Bytes of frames and payloads sent.
    pub bytes_sent: u64,
    /// Bytes of frames and payloads received.
    pub bytes_received: u64,
}

impl ConnectionInfo {
    pub(crate) fn new(connection: ConnectionId, of: &Connection) -> Option<Self> {
        Some(match of {
            Connection::Between => return None,
            Connection::Opening(opening) => Self {
                connection,
                address: opening.address.clone(),
                peer: None,
                initiated: opening.initiated,
                window_mode: opening.window_mode,
                window_pages: 0,
                peer_window_mode: WindowMode::Granted,
                peer_window_pages: 0,
                credits: 0,
                unsent_pages: 0,
                bytes_sent: 0,
                bytes_received: 0,
            },
            Connection::Open(open) => Self {
                connection,
                address: open.address.clone(),
                peer: Some(open.peer),
                initiated: open.initiated,
                window_mode: open.landing.mode(),
                window_pages: open.landing.pages(),
                peer_window_mode: open.remote.mode(),
                peer_window_pages: open.remote.pages(),
                credits: open.remote.free_pages(),
                unsent_pages: open.unsent_pages(),
                bytes_sent: open.bytes_sent,
                bytes_received: open.bytes_received,
            },
        })
    }
}
