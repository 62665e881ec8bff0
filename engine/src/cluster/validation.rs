//! The rules of the cluster file.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::document::{Copyset, Device, Document, Volume};
use super::error::{Invalid, Place, Problem, VolumeError};
use super::layout::{STRIPE_BLOCKS_MIN, VolumeLayout};
use crate::ids::{BLOCK_SIZE, CopysetId};

/// Replicas of a copyset at most.
pub const REPLICAS_MAX: usize = 7;

/// Bytes of a volume's name at most.
const NAME_BYTES_MAX: usize = 128;

const CHUNK_SIZE_MIN: u64 = (STRIPE_BLOCKS_MIN as usize * BLOCK_SIZE) as u64;
const CHUNK_SIZE_MAX: u64 = 1 << 40;

/// Checks every rule; reports the first that is broken.
pub(super) fn check(document: &Document) -> Result<(), Invalid> {
    check_cluster(document).map_err(at(Place::Cluster))?;
    check_nodes(document)?;
    check_devices(document)?;
    check_copysets(document)?;
    for (index, volume) in document.volumes.iter().enumerate() {
        check_volume(document, volume, &document.volumes[..index])
            .map_err(|error| Invalid { place: Place::Volume(index), problem: error.into() })?;
    }
    check_quotas(document)
}

/// Checks a volume against the cluster and the volumes before it. Quotas are checked apart.
pub(super) fn check_volume(
    document: &Document,
    volume: &Volume,
    others: &[Volume],
) -> Result<(), VolumeError> {
    if !name_is_good(&volume.name) {
        return Err(VolumeError::Name(volume.name.clone()));
    }
    if others.iter().any(|other| other.name == volume.name) {
        return Err(VolumeError::NameTwice(volume.name.clone()));
    }
    if others.iter().any(|other| other.id == volume.id) {
        return Err(VolumeError::IdTwice(volume.id));
    }
    if volume.id == 0 || volume.id >= document.next_volume {
        return Err(VolumeError::IdNotGiven { id: volume.id, next: document.next_volume });
    }
    if volume.size == 0 || !volume.size.is_multiple_of(BLOCK_SIZE as u64) {
        return Err(VolumeError::Size(volume.size));
    }
    let (stripe, chunk) = (volume.stripe_blocks, chunk_blocks(document));
    if stripe < STRIPE_BLOCKS_MIN || chunk % stripe != 0 {
        return Err(VolumeError::Stripe { stripe, min: STRIPE_BLOCKS_MIN, chunk });
    }
    check_volume_copysets(document, volume)
}

fn check_volume_copysets(document: &Document, volume: &Volume) -> Result<(), VolumeError> {
    if volume.copysets.is_empty() {
        return Err(VolumeError::NoCopysets);
    }
    let mut seen = HashSet::new();
    for &id in &volume.copysets {
        if !document.copysets.iter().any(|copyset| copyset.id == id) {
            return Err(VolumeError::CopysetUnknown(id));
        }
        if !seen.insert(id) {
            return Err(VolumeError::CopysetTwice(id));
        }
    }
    let chunks = volume.size / document.chunk_size + u64::from(super::layout::STRIPE_CHUNKS_MAX);
    if chunks > 1 << 32 {
        return Err(VolumeError::TooManyChunks);
    }
    Ok(())
}

/// Checks that the volumes fit the quotas of their copysets.
pub(super) fn check_quotas(document: &Document) -> Result<(), Invalid> {
    let mut needed: HashMap<CopysetId, u64> = HashMap::new();
    for (index, volume) in document.volumes.iter().enumerate() {
        for (&copyset, blocks) in
            volume.copysets.iter().zip(layout(document, volume).copyset_blocks())
        {
            let sum = needed.entry(copyset).or_default();
            *sum = sum.saturating_add(blocks);
            let quota = quota_blocks(document, copyset);
            if *sum > quota {
                let error = VolumeError::Quota { copyset, needed: *sum, quota };
                return Err(Invalid { place: Place::Volume(index), problem: error.into() });
            }
        }
    }
    Ok(())
}

/// The layout of a volume that passed its checks.
pub(super) fn layout(document: &Document, volume: &Volume) -> VolumeLayout {
    VolumeLayout::new(
        volume.id,
        volume.size / BLOCK_SIZE as u64,
        chunk_blocks(document),
        volume.stripe_blocks,
        volume.copysets.len() as u32,
    )
}

/// Blocks of a chunk.
pub(super) fn chunk_blocks(document: &Document) -> u32 {
    (document.chunk_size / BLOCK_SIZE as u64) as u32
}

fn quota_blocks(document: &Document, id: CopysetId) -> u64 {
    let copyset = document.copysets.iter().find(|copyset| copyset.id == id);
    copyset.map_or(0, |copyset| copyset.quota_blocks)
}

fn name_is_good(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(good)
}

fn at<P: Into<Problem>>(place: Place) -> impl Fn(P) -> Invalid {
    move |problem| Invalid { place, problem: problem.into() }
}

fn check_cluster(document: &Document) -> Result<(), Problem> {
    check_uuid(document.uuid, &mut HashSet::new())?;
    let size = document.chunk_size;
    if !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&size) || !size.is_multiple_of(BLOCK_SIZE as u64)
    {
        return Err(Problem::ChunkSize(size));
    }
    Ok(())
}

fn check_nodes(document: &Document) -> Result<(), Invalid> {
    let mut uuids = HashSet::new();
    let mut addresses = HashSet::new();
    for (index, node) in document.nodes.iter().enumerate() {
        check_uuid(node.uuid, &mut uuids).map_err(at(Place::Node(index)))?;
        if node.reactors.is_empty() {
            return Err(at(Place::Node(index))(Problem::NoReactors));
        }
        for (number, reactor) in node.reactors.iter().enumerate() {
            let invalid = at(Place::Reactor(index, number));
            if reactor.addresses.is_empty() {
                return Err(invalid(Problem::NoAddresses));
            }
            if let Some(twice) = reactor.addresses.iter().find(|a| !addresses.insert(*a)) {
                return Err(invalid(Problem::AddressTwice(twice.clone())));
            }
        }
    }
    Ok(())
}

fn check_devices(document: &Document) -> Result<(), Invalid> {
    let mut uuids = HashSet::new();
    for (index, device) in document.devices.iter().enumerate() {
        let invalid = at(Place::Device(index));
        check_uuid(device.uuid, &mut uuids).map_err(&invalid)?;
        if !document.nodes.iter().any(|node| node.uuid == device.node) {
            return Err(invalid(Problem::NodeUnknown(device.node)));
        }
        if device.shards == 0 {
            return Err(invalid(Problem::NoShards));
        }
    }
    Ok(())
}

fn check_copysets(document: &Document) -> Result<(), Invalid> {
    let devices: HashMap<Uuid, &Device> =
        document.devices.iter().map(|device| (device.uuid, device)).collect();
    let mut copysets = HashSet::new();
    let mut uuids = HashSet::new();
    let mut ids = HashSet::new();
    for (index, copyset) in document.copysets.iter().enumerate() {
        check_copyset(copyset).map_err(at(Place::Copyset(index)))?;
        if !copysets.insert(copyset.id) {
            return Err(at(Place::Copyset(index))(Problem::CopysetTwice(copyset.id)));
        }
        let mut used = HashSet::new();
        for (number, replica) in copyset.replicas.iter().enumerate() {
            let invalid = at(Place::Replica(index, number));
            check_uuid(replica.uuid, &mut uuids).map_err(&invalid)?;
            if replica.id.0 == 0 || replica.id.0 > i64::MAX as u64 {
                return Err(invalid(Problem::ReplicaId(replica.id)));
            }
            if !ids.insert(replica.id) {
                return Err(invalid(Problem::ReplicaIdTwice(replica.id)));
            }
            let device = devices.get(&replica.device);
            let device = device.ok_or_else(|| invalid(Problem::DeviceUnknown(replica.device)))?;
            if replica.shard >= device.shards {
                let (shard, shards) = (replica.shard, device.shards);
                return Err(invalid(Problem::ShardUnknown { shard, shards }));
            }
            if !used.insert(replica.device) {
                return Err(invalid(Problem::DeviceTwice(replica.device)));
            }
        }
    }
    Ok(())
}

fn check_copyset(copyset: &Copyset) -> Result<(), Problem> {
    if copyset.id.0 == 0 {
        return Err(Problem::IdZero);
    }
    if copyset.quota_blocks == 0 {
        return Err(Problem::QuotaZero);
    }
    let replicas = copyset.replicas.len();
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(Problem::ReplicaCount { replicas, max: REPLICAS_MAX });
    }
    Ok(())
}

fn check_uuid(uuid: Uuid, seen: &mut HashSet<Uuid>) -> Result<(), Problem> {
    if uuid.is_nil() {
        return Err(Problem::UuidNil);
    }
    if !seen.insert(uuid) {
        return Err(Problem::UuidTwice(uuid));
    }
    Ok(())
}
