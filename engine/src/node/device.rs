//! Devices at start: claim, open, identify, recover the shards that a reactor runs.

use culvert_memory::Pool;
use culvert_nvme::{
    Access, AnyQueuePair, DeviceClaim, Namespace, OpenOptions, QueuePair, open_claimed,
};

use super::NodeError;
use crate::chunkserver::{
    AbsentReplicas, DeviceStatus, ReplicaPlan, ShardPlan, journal_write_bytes_min,
};
use crate::cluster::Cluster;
use crate::config::{ByteSize, DeviceConfig, NodeConfig};
use crate::device::{self, DeviceHeader, RING_BYTES_MIN, ShardLayout};
use crate::ids::{BLOCK_SIZE, OPERATION_BLOCKS_MAX};
use crate::journal::{BLOCK_HEADER_BYTES, ReplicaIdentity};
use crate::reactor::Device;
use crate::shard::{OpenError, Opened, Opening, OpeningMode, Recovered, ShardConfig};

/// Completions taken at a time while a shard opens.
const OPEN_BUDGET: usize = 64;

/// Batches of full size that a journal ring holds at least.
const RING_BATCHES_MIN: u64 = 16;

// The smallest ring still has batches that hold the longest item.
const _: () = assert!(RING_BYTES_MIN / RING_BATCHES_MIN >= 16 * BLOCK_SIZE as u64);

/// The devices of a node, claimed for it: nobody else opens them while this or a reactor that was
/// opened with it lives. Clones share the claim, and may go to other threads.
#[derive(Clone, Debug)]
pub struct ClaimedDevices(Vec<DeviceClaim>);

impl ClaimedDevices {
    /// Claims all devices of a configuration, before anything is read or written.
    ///
    /// # Errors
    ///
    /// [`NodeError::Open`] names the device that is in use, by whom if that is known, or is not
    /// there.
    pub fn take(config: &NodeConfig) -> Result<ClaimedDevices, NodeError> {
        let claims = config.devices.iter().map(|device| {
            let uri = device.uri.parse();
            let uri = uri.map_err(|source| NodeError::Uri { uri: device.uri.clone(), source })?;
            DeviceClaim::take(&uri, Access::Exclusive).map_err(|source| NodeError::Open {
                uri: device.uri.clone(),
                source: source.into(),
            })
        });
        Ok(ClaimedDevices(claims.collect::<Result<_, _>>()?))
    }
}

/// Opens the queue pairs of reactor `number` on all devices.
pub(super) fn open_queue_pairs(
    claims: &ClaimedDevices,
    config: &NodeConfig,
    number: usize,
    pool: &Pool,
) -> Result<Vec<AnyQueuePair>, NodeError> {
    // The check of the configuration has seen that a device takes so many.
    let pool_regions = config.reactors[number].pool_regions_max().max(pool.regions().len() as u64);
    let regions_max = (config.transport.regions_max() + pool_regions) as u32;
    assert_eq!(claims.0.len(), config.devices.len(), "the claims are of this configuration");
    let devices = claims.0.iter().zip(&config.devices);
    let pairs = devices.map(|(claim, device)| {
        let depth = device.depth_max;
        let options = OpenOptions { depth, regions_max, ..OpenOptions::default() };
        open_claimed(claim, &options)
            .map_err(|source| NodeError::Open { uri: device.uri.clone(), source: source.into() })
    });
    pairs.collect()
}

/// Recovers, over a queue pair on each device, the shards that reactor `number` runs.
pub(super) fn recover_all<D: QueuePair>(
    (config, cluster, number): (&NodeConfig, &Cluster, usize),
    queue_pairs: Vec<D>,
    pool: &Pool,
    absent: AbsentReplicas,
) -> Result<(Vec<Device<D>>, Vec<ShardPlan>), NodeError> {
    let mut devices = Vec::new();
    let mut plans = Vec::new();
    assert_eq!(queue_pairs.len(), config.devices.len(), "a queue pair on each device");
    for (mut queue_pair, device) in queue_pairs.into_iter().zip(&config.devices) {
        for region in pool.regions() {
            queue_pair
                .register(region)
                .map_err(|source| NodeError::Register { uri: device.uri.clone(), source })?;
        }
        let header = device::read_and_mend_header(&mut queue_pair, pool)
            .map_err(|source| NodeError::Header { uri: device.uri.clone(), source })?;
        check_listed(device, config, cluster, &header)?;
        let first = plans.len();
        for shard in &header.layout.shards {
            if shard.shard as usize % config.reactors.len() != number {
                continue;
            }
            let position = plans.len();
            let shard_config = shard_config(config, device, shard, position);
            check_quota(config, device, cluster, &header, shard)?;
            check_journal_writes(device, &shard_config, &queue_pair, &header, shard)?;
            let recovered = open_shard(&mut queue_pair, &header, shard.shard, shard_config, pool)
                .map_err(|source| NodeError::Shard {
                uri: device.uri.clone(),
                shard: shard.shard,
                source,
            })?;
            let replicas = replicas_on(cluster, &header, shard.shard);
            let device = status_of(device, queue_pair.namespace(), &header);
            plans.push(ShardPlan { device, recovered, replicas, absent });
        }
        devices.push(Device { queue_pair, shards: first..plans.len() });
    }
    Ok((devices, plans))
}

/// A device serves only under the name by which the cluster file lists it, for this node.
fn check_listed(
    device: &DeviceConfig,
    config: &NodeConfig,
    cluster: &Cluster,
    header: &DeviceHeader,
) -> Result<(), NodeError> {
    match cluster.device(header.uuid) {
        Some(listed) if listed.node == config.node => {}
        _ => {
            return Err(NodeError::NotListed { uri: device.uri.clone(), uuid: header.uuid });
        }
    }
    if header.layout.chunk_blocks != cluster.chunk_blocks() {
        return Err(NodeError::ChunkSize {
            uri: device.uri.clone(),
            device_blocks: header.layout.chunk_blocks,
            cluster_blocks: cluster.chunk_blocks(),
        });
    }
    Ok(())
}

fn check_quota(
    config: &NodeConfig,
    device: &DeviceConfig,
    cluster: &Cluster,
    header: &DeviceHeader,
    layout: &ShardLayout,
) -> Result<(), NodeError> {
    let shard = layout.shard;
    let quota_blocks = cluster.shard_quota_blocks(header.uuid, shard);
    let reserve_blocks = u64::from(config.store.reserve_blocks);
    let kept_blocks = header.layout.kept_blocks(layout);
    let data_blocks = u64::from(layout.data_blocks()) - kept_blocks;
    if quota_blocks + reserve_blocks > data_blocks {
        return Err(NodeError::Quota {
            uri: device.uri.clone(),
            shard,
            quota_blocks,
            reserve_blocks,
            data_blocks,
            kept_blocks,
        });
    }
    Ok(())
}

/// What the configuration alone can say of [`check_journal_writes`], for any device.
pub(super) fn check_batch_bytes(config: &NodeConfig, cluster: &Cluster) -> Result<(), NodeError> {
    let chunk_blocks = cluster.chunk_blocks();
    let batch_bytes = config.store.batch_bytes;
    // With blocks of 512 bytes their headers take most.
    let block = 512 - BLOCK_HEADER_BYTES as u64;
    let least = journal_write_bytes_min(chunk_blocks).div_ceil(block) * 512;
    let least = ByteSize(least.next_multiple_of(BLOCK_SIZE as u64));
    if batch_bytes < least {
        let chunk_bytes = ByteSize(u64::from(chunk_blocks) * BLOCK_SIZE as u64);
        return Err(NodeError::BatchBytes { batch_bytes, least, chunk_bytes });
    }
    Ok(())
}

/// A chunk that a catch-up brings lies beside the one that it replaces. Of the rest of the reserve
/// a leader may fill half with its own entries, and the longest must fit.
///
/// # Errors
///
/// [`NodeError::Reserve`]: it is smaller than two chunks of so many blocks, or too small for that.
pub fn check_reserve(config: &NodeConfig, chunk_blocks: u32) -> Result<(), NodeError> {
    let reserve_blocks = config.store.reserve_blocks;
    let least = u64::from(chunk_blocks) + u64::from(chunk_blocks.max(2 * OPERATION_BLOCKS_MAX));
    if u64::from(reserve_blocks) < least {
        let chunk_bytes = ByteSize(u64::from(chunk_blocks) * BLOCK_SIZE as u64);
        return Err(NodeError::Reserve { reserve_blocks, least, chunk_bytes });
    }
    Ok(())
}

/// A catch-up must be able to install every chunk that can be, in one journal write.
fn check_journal_writes(
    device: &DeviceConfig,
    config: &ShardConfig,
    queue_pair: &impl QueuePair,
    header: &DeviceHeader,
    layout: &ShardLayout,
) -> Result<(), NodeError> {
    let namespace = queue_pair.namespace();
    let room = config.journal_write_room(namespace, layout);
    let needed = journal_write_bytes_min(header.layout.chunk_blocks);
    if room < needed {
        return Err(NodeError::JournalWrites {
            uri: device.uri.clone(),
            shard: layout.shard,
            room,
            needed,
            ring: ByteSize(layout.ring_bytes),
            transfer: ByteSize(namespace.transfer_bytes_max.into()),
            chunk: ByteSize(u64::from(header.layout.chunk_blocks) * BLOCK_SIZE as u64),
        });
    }
    Ok(())
}

fn shard_config(
    config: &NodeConfig,
    device: &DeviceConfig,
    layout: &ShardLayout,
    position: usize,
) -> ShardConfig {
    let store = &config.store;
    // A small ring with large batches would refuse proposals when it is hardly used.
    let batch_bytes = store.batch_bytes.bytes().min(layout.ring_bytes / RING_BATCHES_MIN);
    ShardConfig {
        tag_prefix: u16::try_from(position).expect("a reactor runs few shards"),
        commands_max: store.commands_max.max(4 * device.depth_max),
        batch_bytes: (batch_bytes - batch_bytes % BLOCK_SIZE as u64) as usize,
        batch_buffers: store.batch_buffers,
        idle_ns: u64::from(store.mark_delay_ms) * super::NS_PER_MS,
        deallocate: store.deallocates,
        checkpoint_pages_per_turn: store.checkpoint_pages_per_turn,
        checkpoint_buffer_pages: store.checkpoint_command_pages,
        checkpoint_bytes_factor: store.checkpoint_factor,
        checkpoint_bytes_min: store.checkpoint_min_bytes.bytes(),
        open_depth: store.recovery_depth,
        open_read_bytes: store.recovery_read_bytes.bytes() as usize,
    }
}

/// What `status` says of a device.
fn status_of(device: &DeviceConfig, namespace: &Namespace, header: &DeviceHeader) -> DeviceStatus {
    DeviceStatus {
        uri: device.uri.clone(),
        uuid: header.uuid.to_string(),
        backend: namespace.backend,
        block_size: namespace.block_size,
        metadata: header.layout.metadata,
        volatile_write_cache: namespace.volatile_write_cache,
    }
}

/// The replicas that the cluster file puts on a shard.
fn replicas_on(cluster: &Cluster, header: &DeviceHeader, shard: u32) -> Vec<ReplicaPlan> {
    cluster
        .replicas_on(header.uuid)
        .filter(|(_, replica)| replica.shard == shard)
        .map(|(copyset, replica)| ReplicaPlan {
            copyset: copyset.id,
            quota_blocks: copyset.quota_blocks,
            identity: ReplicaIdentity { id: replica.id, uuid: replica.uuid },
            places: Vec::new(),
        })
        .collect()
}

/// Runs an opening to its end.
pub fn open_shard<Q: QueuePair>(
    queue_pair: &mut Q,
    header: &DeviceHeader,
    shard: u32,
    config: ShardConfig,
    pool: &Pool,
) -> Result<Recovered, OpenError> {
    let namespace = queue_pair.namespace().clone();
    let mut opening = Opening::new(config, &namespace, header, shard, OpeningMode::Run, pool)?;
    loop {
        let mut submitted = false;
        while let Some(submission) = opening.poll_submission() {
            if let Err(refused) = queue_pair.submit(submission) {
                opening.give_back(refused);
                break;
            }
            submitted = true;
        }
        if submitted {
            queue_pair.ring();
        }
        match opening.poll() {
            None => {}
            Some(Ok(Opened::Running(recovered))) => return Ok(*recovered),
            Some(Ok(Opened::Inspected(_))) => unreachable!("it was asked to run"),
            Some(Err(error)) => return Err(error),
        }
        queue_pair.poll(OPEN_BUDGET, &mut |completion| opening.complete(completion));
    }
}
