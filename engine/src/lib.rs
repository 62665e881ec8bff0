//! Culvert: a replicated storage engine that carries writes from the network to the disk.
//!
//! `docs/ARCHITECTURE.md` is the map of this crate.
#![forbid(unsafe_code)]

pub mod binding;
pub mod by_copyset;
pub mod checkpoint;
pub mod chunkserver;
pub mod client;
pub mod cluster;
pub mod config;
pub mod copyset;
pub mod counters;
pub mod device;
pub mod doctor;
pub mod ids;
pub mod journal;
pub mod network;
pub mod node;
pub mod raft_group;
pub mod reactor;
pub mod record;
pub mod shard;
pub mod stages;
pub mod store;
pub mod wire;
