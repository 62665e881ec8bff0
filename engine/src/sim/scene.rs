//! The cluster that is simulated: nodes with a device each, some copysets, one volume.
//!
//! Small, so that everything happens often: chunks of 64 blocks, a log that forgets after a few
//! hundred entries, checkpoints after every megabyte. All names come from their numbers.

use std::path::PathBuf;

use culvert::cluster::{Cluster, Device, Node, PlanOptions, Reactor};
use culvert::config::{ByteSize, DeviceConfig, NodeConfig};
use culvert::device::{LayoutOptions, SEGMENT_DATA_SHARE};
use culvert::ids::{ReplicaId, SEGMENTS_MAX};
use culvert::network::Address;
use uuid::Uuid;

use super::temper::Temper;

/// Nodes, and replicas of each copyset.
pub const NODES: usize = 3;

/// Name of the volume.
pub const VOLUME: &str = "disk";

/// Blocks of a chunk.
pub const CHUNK_BLOCKS: u32 = 64;

/// Blocks of 4 KiB of a device that hold no data: headers, ring, checkpoints.
const OTHER_BLOCKS: u64 = 256 + 1024 + 2 * 256;

/// Memory of a node's pool.
pub const POOL_BYTES: usize = 16 << 20;

/// Copysets, numbered from 1.
pub const COPYSETS: u32 = 3;
const BLOCK_SIZE: u64 = 4096;

/// The name of a node's device.
pub fn device_uuid(node: usize) -> Uuid {
    Uuid::from_u128(0xd015_0000 + node as u128)
}

/// The name of a node.
pub fn node_uuid(node: usize) -> Uuid {
    Uuid::from_u128(0xc015_0000 + node as u128)
}

/// How a device is laid out.
pub fn layout(metadata: bool) -> LayoutOptions {
    LayoutOptions {
        shards: 1,
        ring_bytes: Some(4 << 20),
        checkpoint_bytes: Some(1 << 20),
        chunk_blocks: CHUNK_BLOCKS,
        metadata,
    }
}

/// Blocks of 4 KiB of a node's device: hardly more than quotas and reserve, so that what was let go
/// is soon written again. `metadata`: and what segments may keep.
pub fn device_blocks(temper: &Temper, metadata: bool) -> u64 {
    let blocks = temper.volume_blocks + temper.reserve_blocks + temper.slack_blocks;
    let kept = |data: u64| SEGMENTS_MAX as u64 * (data / SEGMENT_DATA_SHARE);
    let enough = |data: &u64| data - kept(*data) >= blocks;
    let data = if metadata { (blocks..).find(enough).expect("most is not kept") } else { blocks };
    OTHER_BLOCKS + data
}

/// The cluster, its nodes listening at `addresses`, with a volume of so many blocks.
pub fn cluster(addresses: impl Fn(usize) -> Address, volume_blocks: u64) -> Cluster {
    let node = |node| Node {
        uuid: node_uuid(node),
        reactors: vec![Reactor { addresses: vec![addresses(node)] }],
    };
    let device = |node| Device { uuid: device_uuid(node), node: node_uuid(node), shards: 1 };
    let options = PlanOptions {
        chunk_size: u64::from(CHUNK_BLOCKS) * BLOCK_SIZE,
        copysets: COPYSETS,
        replicas: NODES as u32,
        quota_blocks: volume_blocks / u64::from(COPYSETS),
    };
    let nodes = (0..NODES).map(node).collect();
    let planned = Cluster::plan(nodes, (0..NODES).map(device).collect(), &options);
    // What was minted by chance is named anew: election timeouts depend on it.
    let mut document = planned.expect("a plan of three devices").document().clone();
    document.uuid = Uuid::from_u128(0xc105_7e12);
    for copyset in &mut document.copysets {
        for (at, replica) in copyset.replicas.iter_mut().enumerate() {
            let number = u64::from(copyset.id.0) * 16 + at as u64 + 1;
            replica.id = ReplicaId(number);
            replica.uuid = Uuid::from_u128(0xeb11_0000 + u128::from(number));
        }
    }
    let mut cluster = Cluster::check(document).expect("a cluster with other names");
    let size = volume_blocks * BLOCK_SIZE;
    cluster.create_volume(VOLUME, size, &Default::default()).expect("a volume that fits");
    cluster
}

/// The configuration of a node.
pub fn config(node: usize, temper: &Temper) -> NodeConfig {
    let mut config = NodeConfig::new(node_uuid(node), PathBuf::from("cluster.toml"), 0);
    config.reactors[0].pool_bytes = ByteSize(POOL_BYTES as u64);
    // Never opened: the simulation puts its own queue pair in this place.
    config
        .devices
        .push(DeviceConfig::new(format!("emulated:{}MiB", device_blocks(temper, false) >> 8)));
    config.devices[0].depth_max = 128;
    config.store.batch_bytes = ByteSize::kib(256);
    config.store.checkpoint_min_bytes = ByteSize(temper.checkpoint_bytes);
    config.store.checkpoint_factor = 1;
    config.store.reserve_blocks = temper.reserve_blocks as u32;
    config.store.retained_entries = 1;
    config.store.scrub_bytes_per_second = ByteSize(temper.scrub_bytes);
    config.store.scrub_period_s = temper.scrub_period_s;
    config.turn.operations_max = 64;
    config
}
