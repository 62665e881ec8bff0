//! Making a new cluster: which replica goes where.

use uuid::Uuid;

use super::document::{Copyset, Device, Document, Node, Replica};
use super::{Cluster, PlanError};
use crate::ids::{CopysetId, ReplicaId};

/// What a new cluster shall look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Bytes of a chunk.
    pub chunk_size: u64,
    /// How many copysets.
    pub copysets: u32,
    /// Replicas of each.
    pub replicas: u32,
    /// Logical blocks that each may map.
    pub quota_blocks: u64,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions { chunk_size: 16 << 20, copysets: 12, replicas: 3, quota_blocks: 1 << 18 }
    }
}

impl Cluster {
    /// Plans a cluster of `copysets` replicated groups over the devices, and mints its names.
    ///
    /// Replicas go to the device that has the fewest, on different nodes as far as there are
    /// enough; within a device to the emptiest shard. The preferred leader of a copyset is the
    /// replica whose reactor has the fewest so far.
    ///
    /// # Errors
    ///
    /// [`PlanError`] where there are too few devices or the result breaks a rule of the file.
    pub fn plan(
        nodes: Vec<Node>,
        devices: Vec<Device>,
        options: &PlanOptions,
    ) -> Result<Cluster, PlanError> {
        if options.replicas as usize > devices.len() {
            let replicas = options.replicas;
            return Err(PlanError::DevicesTooFew { replicas, devices: devices.len() });
        }
        // Checks nodes and devices before anything is spread over them.
        let bare = Cluster::check(Document {
            uuid: mint_uuid()?,
            chunk_size: options.chunk_size,
            next_volume: 1,
            nodes,
            devices,
            copysets: Vec::new(),
            volumes: Vec::new(),
        })?;
        let mut document = bare.document().clone();
        let mut load = Load::new(&bare);
        for number in 1..=options.copysets {
            let mut replicas = Vec::new();
            for _ in 0..options.replicas {
                let replica = load.place(&bare, &replicas)?;
                replicas.push(replica);
            }
            load.choose_leader(&bare, &mut replicas);
            let quota_blocks = options.quota_blocks;
            document.copysets.push(Copyset { id: CopysetId(number), quota_blocks, replicas });
        }
        Ok(Cluster::check(document)?)
    }
}

/// What has been placed so far.
struct Load {
    /// Replicas of each shard of each device.
    shards: Vec<Vec<u32>>,
    /// Preferred leaders of each reactor of each node.
    leaders: Vec<Vec<u32>>,
}

impl Load {
    fn new(cluster: &Cluster) -> Load {
        let shards = cluster.devices().iter().map(|device| vec![0; device.shards as usize]);
        let leaders = cluster.nodes().iter().map(|node| vec![0; node.reactors.len()]);
        Load { shards: shards.collect(), leaders: leaders.collect() }
    }

    /// The place of one more replica of a copyset.
    fn place(&mut self, cluster: &Cluster, others: &[Replica]) -> Result<Replica, PlanError> {
        let node_of = |device: Uuid| cluster.device(device).map(|device| device.node);
        let free = cluster
            .devices()
            .iter()
            .enumerate()
            .filter(|(_, device)| !others.iter().any(|other| other.device == device.uuid));
        let (index, device) = free
            .min_by_key(|(index, device)| {
                let neighbours =
                    others.iter().filter(|other| node_of(other.device) == Some(device.node));
                (neighbours.count(), self.shards[*index].iter().sum::<u32>(), *index)
            })
            .expect("there are more devices than replicas so far");
        let shards = &mut self.shards[index];
        let shard = (0..shards.len()).min_by_key(|shard| shards[*shard]).expect("it has shards");
        shards[shard] += 1;
        Ok(Replica {
            uuid: mint_uuid()?,
            id: mint_replica_id()?,
            device: device.uuid,
            shard: shard as u32,
        })
    }

    /// Moves the replica whose reactor leads the fewest copysets to the front.
    fn choose_leader(&mut self, cluster: &Cluster, replicas: &mut [Replica]) {
        let endpoint = |replica: &Replica| cluster.endpoint_of(replica);
        let leads = |replica: &Replica| {
            let endpoint = endpoint(replica);
            let of_node = &self.leaders[endpoint.node];
            (of_node[endpoint.reactor], of_node.iter().sum::<u32>())
        };
        let Some(leader) = (0..replicas.len()).min_by_key(|index| leads(&replicas[*index])) else {
            return;
        };
        replicas[..=leader].rotate_right(1);
        let endpoint = endpoint(&replicas[0]);
        self.leaders[endpoint.node][endpoint.reactor] += 1;
    }
}

fn mint_uuid() -> Result<Uuid, PlanError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(PlanError::Random)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// A number from 1 to 2^63 - 1, so that it is a TOML integer. Two replicas with the same number
/// are about as likely as 1 in 2^43 with a thousand replicas, and refused by the checks.
fn mint_replica_id() -> Result<ReplicaId, PlanError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(PlanError::Random)?;
    Ok(ReplicaId((u64::from_le_bytes(bytes) >> 1).max(1)))
}
