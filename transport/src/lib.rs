//! Connections with one-sided writes.
//!
//! The contract is the useful part of verbs: a peer writes payload into pages that were granted to
//! it, and posts a small frame behind it; frames arrive in order and find their payload whole;
//! credits bound everything; completions are polled. Three backends fulfil it: shared memory between
//! processes of one machine (`shm://`), TCP (`tcp://`) and verbs (`rdma://`).
//!
//! | to read first | |
//! | --- | --- |
//! | [`Transport`] | the one object of a reactor: listeners, connections, polling |
//! | [`TransportOptions`] | every limit |
//! | [`Event`], [`CloseReason`] | what comes out of it |
//! | [`Placement`], [`WindowMode`] | where payload lands |
//!
//! What it is not: it does not reconnect, does not retry, does not encrypt, and does not look into
//! frames.
//!
//! **Fault model.** A peer may send anything, stop at any byte, and write its mapped memory at any
//! time. Whatever it does costs it its own connection, one log line, and never another's.
#![deny(unsafe_code)]

mod address;
mod config;
mod connection;
mod connection_id;
mod counters;
mod envelope;
mod error;
mod event;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod identity;
mod options;
mod placement;
mod rdma;
mod shm;
mod tcp;
mod transport;
mod window;

pub use address::{Address, AddressError};
pub use config::{
    FRAME_BYTES_LIMIT, PAYLOADS_MAX, PLACEMENT_PAGES_MAX, SEGMENT_PAGES_MIN, SEGMENTS_MAX,
    WINDOW_PAGES_LIMIT, window_segments_max,
};
pub use connection::info::ConnectionInfo;
pub use connection_id::ConnectionId;
pub use counters::Counters;
pub use error::{
    CloseReason, ConnectError, Fault, ListenError, OptionsError, Refusal, SendError, Violation,
    WorkStatus,
};
pub use event::{Class, Event, Payloads, RegionEvent, RegionRefused};
pub use identity::{Identity, PeerKind};
pub use options::{RdmaOptions, TransportOptions, WindowMode};
pub use placement::Placement;
pub use transport::Transport;
