//! The static cluster file: nodes, devices, copysets and volumes.
//!
//! Where there is no cluster-wide metadata store, one TOML file says who is who. Nodes find in it
//! which replicas they hold, clients where a volume's blocks lie and whom to ask. It is read at
//! start and changed by commands only; it knows nothing of what runs.
//!
//! Fault model: the file is written by people. A [`Document`] is what stands there; a [`Cluster`]
//! is a document that keeps every rule, and the only thing that the rest of the engine sees.
//! Format: `docs/format/cluster-file.md`.

mod document;
mod error;
mod file;
mod layout;
mod number;
mod plan;
mod validation;

pub use document::{Copyset, Device, Document, Node, Reactor, Replica, Volume};
pub use error::{Invalid, LoadError, Place, PlanError, Problem, SaveError, VolumeError};
pub use layout::{Part, STRIPE_BLOCKS_MIN, STRIPE_CHUNKS_MAX, VolumeLayout};
pub use plan::PlanOptions;
pub use validation::REPLICAS_MAX;

use uuid::Uuid;

use crate::ids::{CopysetId, ReplicaId};
use crate::network::Address;

/// The stripe of a volume whose creator does not care, in blocks: 128 KiB.
pub const STRIPE_BLOCKS_DEFAULT: u32 = 32;

/// A cluster file that keeps every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    document: Document,
}

/// A reactor of a node: what clients and nodes connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIndex {
    /// Index of the node in the file.
    pub node: usize,
    /// Index of the reactor in the node.
    pub reactor: usize,
}

/// Wishes for a new volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeOptions {
    /// Blocks of a stripe; [`STRIPE_BLOCKS_DEFAULT`] or the chunk's blocks where that is less.
    pub stripe_blocks: Option<u32>,
    /// The copysets to lie on; all that exist now.
    pub copysets: Option<Vec<CopysetId>>,
}

impl Cluster {
    /// Checks a document.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, and where.
    pub fn check(document: Document) -> Result<Cluster, Invalid> {
        validation::check(&document)?;
        Ok(Cluster { document })
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The cluster's name.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.document.uuid
    }

    /// Blocks of a chunk.
    #[must_use]
    pub fn chunk_blocks(&self) -> u32 {
        validation::chunk_blocks(&self.document)
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.document.nodes
    }

    /// All devices.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.document.devices
    }

    /// All copysets.
    #[must_use]
    pub fn copysets(&self) -> &[Copyset] {
        &self.document.copysets
    }

    /// All volumes.
    #[must_use]
    pub fn volumes(&self) -> &[Volume] {
        &self.document.volumes
    }

    /// The node of that name.
    #[must_use]
    pub fn node(&self, uuid: Uuid) -> Option<&Node> {
        self.nodes().iter().find(|node| node.uuid == uuid)
    }

    /// The device of that name.
    #[must_use]
    pub fn device(&self, uuid: Uuid) -> Option<&Device> {
        self.devices().iter().find(|device| device.uuid == uuid)
    }

    /// The copyset of that number.
    #[must_use]
    pub fn copyset(&self, id: CopysetId) -> Option<&Copyset> {
        self.copysets().iter().find(|copyset| copyset.id == id)
    }

    /// The replica that raft calls `id`, with its copyset.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<(&Copyset, &Replica)> {
        let mut all = self
            .copysets()
            .iter()
            .flat_map(|copyset| copyset.replicas.iter().map(move |replica| (copyset, replica)));
        all.find(|(_, replica)| replica.id == id)
    }

    /// The volume of that name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes().iter().find(|volume| volume.name == name)
    }

    /// The replicas that a device holds, with their copysets.
    pub fn replicas_on(&self, device: Uuid) -> impl Iterator<Item = (&Copyset, &Replica)> {
        self.copysets().iter().filter_map(move |copyset| {
            let mut replicas = copyset.replicas.iter();
            Some((copyset, replicas.find(|replica| replica.device == device)?))
        })
    }

    /// Sum of the quotas of a shard's copysets, in blocks: what its data space must hold.
    #[must_use]
    pub fn shard_quota_blocks(&self, device: Uuid, shard: u32) -> u64 {
        let replicas = self.replicas_on(device).filter(|(_, replica)| replica.shard == shard);
        replicas.fold(0, |sum, (copyset, _)| sum.saturating_add(copyset.quota_blocks))
    }

    /// The reactor that runs shard `shard` of a device of this cluster; `None` for an unknown one.
    #[must_use]
    pub fn endpoint_of_shard(&self, device: Uuid, shard: u32) -> Option<EndpointIndex> {
        let uuid = self.device(device)?.node;
        let node = self.nodes().iter().position(|node| node.uuid == uuid)?;
        Some(EndpointIndex { node, reactor: shard as usize % self.nodes()[node].reactors.len() })
    }

    /// The reactor that runs a replica.
    ///
    /// # Panics
    ///
    /// If the replica's device is not of this cluster.
    #[must_use]
    pub fn endpoint_of(&self, replica: &Replica) -> EndpointIndex {
        self.endpoint_of_shard(replica.device, replica.shard).expect("a replica of this cluster")
    }

    /// Where a reactor listens, in order of preference; nothing for one that does not exist.
    #[must_use]
    pub fn addresses(&self, endpoint: EndpointIndex) -> &[Address] {
        let node = self.nodes().get(endpoint.node);
        let reactor = node.and_then(|node| node.reactors.get(endpoint.reactor));
        reactor.map_or(&[], |reactor| &reactor.addresses)
    }

    /// The layout of one of this cluster's volumes.
    #[must_use]
    pub fn layout(&self, volume: &Volume) -> VolumeLayout {
        validation::layout(&self.document, volume)
    }

    /// Adds a volume of `size` bytes. The file is not saved.
    ///
    /// # Errors
    ///
    /// [`VolumeError`] says which wish cannot be met; nothing is changed then.
    pub fn create_volume(
        &mut self,
        name: &str,
        size: u64,
        options: &VolumeOptions,
    ) -> Result<&Volume, VolumeError> {
        let id = self.document.next_volume;
        let next_volume = id.checked_add(1).ok_or(VolumeError::IdsUsedUp)?;
        let stripe = options.stripe_blocks.unwrap_or_else(|| self.stripe_blocks_default());
        let all = || self.copysets().iter().map(|copyset| copyset.id).collect();
        let volume = Volume {
            name: name.to_owned(),
            id,
            size,
            stripe_blocks: stripe,
            copysets: options.copysets.clone().unwrap_or_else(all),
        };
        let mut document = Document { next_volume, ..self.document.clone() };
        validation::check_volume(&document, &volume, &document.volumes)?;
        document.volumes.push(volume);
        if let Err(invalid) = validation::check_quotas(&document) {
            match invalid.problem {
                Problem::Volume(error) => return Err(error),
                other => unreachable!("a quota is a volume's problem, not {other}"),
            }
        }
        self.document = document;
        Ok(self.document.volumes.last().expect("just added"))
    }

    /// The largest usual stripe that divides the chunk.
    fn stripe_blocks_default(&self) -> u32 {
        let chunk = self.chunk_blocks();
        let stripes = (STRIPE_BLOCKS_MIN..=STRIPE_BLOCKS_DEFAULT).rev();
        stripes.into_iter().find(|stripe| chunk.is_multiple_of(*stripe)).unwrap_or(chunk)
    }
}

#[cfg(test)]
mod tests;
