//! The cluster file's content as it stands there, unchecked.
//!
//! [`Cluster::check`](super::Cluster::check) makes a [`Cluster`](super::Cluster) of a
//! [`Document`]. Fields and their meaning: `docs/format/cluster-file.md`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::number;
use crate::ids::{CopysetId, ReplicaId};
use crate::network::Address;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Name of the cluster, minted with it.
    pub uuid: Uuid,
    /// Bytes of a chunk: whole blocks.
    pub chunk_size: u64,
    /// Number that the next volume gets; above all that were ever given.
    pub next_volume: u32,
    /// Machines, or processes where several share one.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// Formatted devices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Replicated groups.
    #[serde(default)]
    pub copysets: Vec<Copyset>,
    /// What clients open.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// A node: one serving process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name, never reused.
    pub uuid: Uuid,
    /// Its reactors: the first is endpoint 0.
    pub reactors: Vec<Reactor>,
}

/// A reactor of a node and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reactor {
    /// Where it listens, in order of preference.
    #[serde(with = "number::addresses")]
    pub addresses: Vec<Address>,
}

/// A formatted device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Minted when it was formatted.
    pub uuid: Uuid,
    /// The node that serves it.
    pub node: Uuid,
    /// Shards that it was formatted with; shard `s` is run by reactor `s % reactors` of the node.
    pub shards: u32,
}

/// A replicated group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copyset {
    /// Its number; not zero.
    #[serde(with = "number::copyset_id")]
    pub id: CopysetId,
    /// Logical blocks that it may map.
    pub quota_blocks: u64,
    /// Its replicas; the first is the preferred leader.
    pub replicas: Vec<Replica>,
}

/// One replica of a copyset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// Its name, minted with it, never reused.
    pub uuid: Uuid,
    /// What raft calls it: minted with it, not zero, below 2^63, never reused.
    #[serde(with = "number::replica_id")]
    pub id: ReplicaId,
    /// The device that holds it.
    pub device: Uuid,
    /// The shard of the device.
    pub shard: u32,
}

/// A volume: a range of blocks for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// What clients call it: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Its number; not zero, never reused.
    pub id: u32,
    /// Its size in bytes: whole blocks.
    pub size: u64,
    /// Blocks of a stripe; a divisor of the chunk's.
    pub stripe_blocks: u32,
    /// The copysets it lies on. Their order is part of its layout.
    #[serde(with = "number::copyset_ids")]
    pub copysets: Vec<CopysetId>,
}
