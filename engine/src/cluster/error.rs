//! What can be wrong with a cluster file, and where.

use std::fmt;
use std::path::PathBuf;

use uuid::Uuid;

use crate::ids::{CopysetId, ReplicaId};
use crate::network::Address;

/// An entry of the file, by position; printed as `copysets[3].replicas[0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file's own fields.
    Cluster,
    /// A node.
    Node(usize),
    /// A reactor of a node.
    Reactor(usize, usize),
    /// A device.
    Device(usize),
    /// A copyset.
    Copyset(usize),
    /// A replica of a copyset.
    Replica(usize, usize),
    /// A volume.
    Volume(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Cluster => write!(f, "cluster"),
            Place::Node(node) => write!(f, "nodes[{node}]"),
            Place::Reactor(node, reactor) => write!(f, "nodes[{node}].reactors[{reactor}]"),
            Place::Device(device) => write!(f, "devices[{device}]"),
            Place::Copyset(copyset) => write!(f, "copysets[{copyset}]"),
            Place::Replica(copyset, replica) => {
                write!(f, "copysets[{copyset}].replicas[{replica}]")
            }
            Place::Volume(volume) => write!(f, "volumes[{volume}]"),
        }
    }
}

/// A rule of the file that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A name that is all zeroes.
    #[error("the uuid is all zeroes")]
    UuidNil,
    /// The chunk size is not a usable number of blocks.
    #[error("chunk_size is {0}: it must be a multiple of 4096 from 16384 to 2^40")]
    ChunkSize(u64),
    /// Two nodes, devices or replicas have the same name.
    #[error("uuid {0} is used twice")]
    UuidTwice(Uuid),
    /// A node without reactors.
    #[error("the node has no reactors")]
    NoReactors,
    /// A reactor without addresses.
    #[error("the reactor has no addresses")]
    NoAddresses,
    /// Two reactors listen at the same place.
    #[error("address {0} is used twice")]
    AddressTwice(Address),
    /// A device's node is not in the file.
    #[error("node {0} is not in this file")]
    NodeUnknown(Uuid),
    /// A device without shards.
    #[error("the device has no shards")]
    NoShards,
    /// A copyset or a volume has the number zero.
    #[error("the id is zero")]
    IdZero,
    /// Two copysets have the same number.
    #[error("copyset {0} is listed twice")]
    CopysetTwice(CopysetId),
    /// A copyset without replicas, or with more than are supported.
    #[error("a copyset has 1 to {max} replicas, this one has {replicas}")]
    ReplicaCount {
        /// How many it has.
        replicas: usize,
        /// How many it may have.
        max: usize,
    },
    /// A copyset that may map nothing.
    #[error("quota_blocks is zero")]
    QuotaZero,
    /// A replica id that is zero or above 2^63 - 1.
    #[error("replica id {0} is not between 1 and 2^63 - 1")]
    ReplicaId(ReplicaId),
    /// Two replicas have the same id.
    #[error("replica id {0} is used twice")]
    ReplicaIdTwice(ReplicaId),
    /// A replica's device is not in the file.
    #[error("device {0} is not in this file")]
    DeviceUnknown(Uuid),
    /// Two replicas of a copyset on one device.
    #[error("two replicas of the copyset are on device {0}")]
    DeviceTwice(Uuid),
    /// A shard that the device does not have.
    #[error("shard {shard} of a device with {shards} shards")]
    ShardUnknown {
        /// The shard named.
        shard: u32,
        /// Shards of the device.
        shards: u32,
    },
    /// Something is wrong with a volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// What is wrong with a volume, in the file or to be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The name is empty, too long or has other characters.
    #[error("volume name {0:?} is not made of 1 to 128 letters, digits, '.', '_' and '-'")]
    Name(String),
    /// There is a volume of that name.
    #[error("there is a volume named {0:?} already")]
    NameTwice(String),
    /// The number is in use.
    #[error("volume id {0} is used twice")]
    IdTwice(u32),
    /// The number was never given out.
    #[error("volume id {id} is not below next_volume, which is {next}")]
    IdNotGiven {
        /// The volume's number.
        id: u32,
        /// The file's `next_volume`.
        next: u32,
    },
    /// All 2^32 - 1 numbers were used.
    #[error("volume numbers are used up")]
    IdsUsedUp,
    /// The size is zero or not whole blocks.
    #[error("size is {0} bytes: it must be a multiple of 4096 and not zero")]
    Size(u64),
    /// The stripe does not divide the chunk or is too short.
    #[error(
        "stripe_blocks is {stripe}: it must be at least {min} and divide the chunk's {chunk} blocks"
    )]
    Stripe {
        /// Blocks of the stripe.
        stripe: u32,
        /// The least.
        min: u32,
        /// Blocks of a chunk.
        chunk: u32,
    },
    /// No copyset is listed.
    #[error("the volume lies on no copyset")]
    NoCopysets,
    /// A copyset is listed that the file does not have.
    #[error("copyset {0} is not in this file")]
    CopysetUnknown(CopysetId),
    /// A copyset is listed twice.
    #[error("copyset {0} is listed twice in the volume")]
    CopysetTwice(CopysetId),
    /// More chunks than chunk numbers.
    #[error("the volume has more than 2^32 chunks")]
    TooManyChunks,
    /// The volumes on a copyset need more than its quota.
    #[error("the volumes on copyset {copyset} need {needed} blocks and its quota is {quota}")]
    Quota {
        /// The copyset.
        copyset: CopysetId,
        /// Blocks of all volumes there.
        needed: u64,
        /// What it may map.
        quota: u64,
    },
}

/// A rule that is broken, and the entry that breaks it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Invalid {
    /// The entry.
    pub place: Place,
    /// The rule.
    pub problem: Problem,
}

/// Why a cluster file was not loaded. The user's to mend, except [`LoadError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The machine's answer.
        source: std::io::Error,
    },
    /// It is not TOML, or a field is missing, unknown or of another type. The source shows the
    /// line.
    #[error("{} is not a cluster file", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// It breaks a rule.
    #[error("{}:{line}: {invalid}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line where the entry begins, counted from 1.
        line: usize,
        /// What and where.
        invalid: Invalid,
    },
}

/// Why a cluster file was not saved. The old one is whole.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The machine refused.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file or directory it was tried with.
        path: PathBuf,
        /// The machine's answer.
        source: std::io::Error,
    },
    /// The content cannot be written as TOML.
    #[error("cannot write the cluster file as TOML")]
    Encoding(#[from] toml::ser::Error),
}

/// Why no cluster could be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// More replicas than devices to put them on.
    #[error("{replicas} replicas need as many devices, there are {devices}")]
    DevicesTooFew {
        /// Replicas wanted per copyset.
        replicas: u32,
        /// Devices given.
        devices: usize,
    },
    /// The wishes or the nodes and devices given break a rule of the file.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The machine gives no random numbers to mint names from.
    #[error("no random numbers to mint names from: {0}")]
    Random(getrandom::Error),
}
