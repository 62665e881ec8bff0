//! The handshake: who both sides are, what they can take, and whether they hold the same key.
//!
//! Four messages, the same on every backend; `C` connects, `A` accepts:
//!
//! ```text
//! C -> A  Hello     version, identity, limits, nonce
//! A -> C  Hello     the same of A, or a refusal
//! C -> A  Confirm   proof of the key over both Hellos, first pages of C's window
//! A -> C  Confirm   the same of A, or a refusal
//! ```
//!
//! [`Handshake`](state::Handshake) is a pure state machine: messages in, messages out. Sockets and
//! clocks are its driver's. A acquires no memory for the connection before C has proved the key,
//! and proves it itself only then. What this is not: encryption. Frames travel in the clear and
//! unauthenticated behind it.

pub(crate) mod message;
pub(crate) mod proof;
pub(crate) mod state;
