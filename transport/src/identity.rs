//! Who speaks at each end of a connection.

use std::fmt;
use uuid::Uuid;

/// What a peer is; a server may treat the two differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PeerKind {
    /// A storage node.
    Node = 1,
    /// A client of the native protocol.
    Client = 2,
}

/// One end of a connection, as it says itself in the handshake.
///
/// Without a pre-shared key this is a claim; with one it is covered by the proof of possession of
/// the key, so it is what somebody who holds the key says about himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The node's or the client's UUID.
    pub node: Uuid,
    /// Node or client.
    pub kind: PeerKind,
    /// The index of the reactor within the node (of the connection's thread within a client).
    pub endpoint: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PeerKind::Node => "node",
            PeerKind::Client => "client",
        };
        write!(f, "{kind} {} endpoint {}", self.node, self.endpoint)
    }
}
