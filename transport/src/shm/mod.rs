//! The backend for processes of one machine: memory that both map.
//!
//! Each side owns what is written *to* it: its landing window and a file with two rings of frames,
//! both sealed memfds that the peer maps. Payload is copied once, by the sender, into the
//! receiver's window: the copy that stands for the wire. While both sides are awake a frame costs
//! no system call. A Unix socket carries the handshake, the files of later window segments, the
//! wake-up of a sleeping peer, and tells of its death.

pub(crate) mod link;
pub(crate) mod notice;
pub(crate) mod ring;
pub(crate) mod socket;
