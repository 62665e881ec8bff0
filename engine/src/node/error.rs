//! Why a node does not start.
//!
//! A message does not repeat its cause, which is its `source`: whoever shows an error shows the
//! chain, as `anyhow` does with `{:#}`.

use culvert_memory::MappingError;
use culvert_nvme::{OpenError, RegisterError, UriError};
use culvert_transport::{Address, AddressError, ListenError, OptionsError};
use uuid::Uuid;

use crate::chunkserver::StartError;
use crate::config::{ByteSize, ConfigError};
use crate::device::OpenDeviceError;
use crate::shard::OpenError as OpenShardError;

/// See the module's documentation. Each message names the thing at fault and, where it is not
/// plain, what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster file does not know this node.
    #[error("node {node} is not in the cluster file")]
    NotInCluster {
        /// The node of the configuration.
        node: Uuid,
    },
    /// No memory for a reactor's pool.
    #[error("reactor {reactor}: no memory for its pool")]
    Pool {
        /// Which reactor.
        reactor: usize,
        /// Why.
        source: MappingError,
    },
    /// A device URI is none.
    #[error("device {uri}")]
    Uri {
        /// As configured.
        uri: String,
        /// Why.
        source: UriError,
    },
    /// A device cannot be opened.
    #[error("device {uri}")]
    Open {
        /// Which.
        uri: String,
        /// Why.
        source: Box<OpenError>,
    },
    /// A device cannot use the pool's memory.
    #[error("device {uri}: pool not registered")]
    Register {
        /// Which.
        uri: String,
        /// Why.
        source: RegisterError,
    },
    /// A device carries no valid header.
    #[error("device {uri}")]
    Header {
        /// Which.
        uri: String,
        /// Why.
        source: OpenDeviceError,
    },
    /// The cluster file does not list the device for this node.
    #[error(
        "device {uri}: the cluster file lists no device {uuid} for this node; a device serves only \
         under the name that `culvert format` gave it"
    )]
    NotListed {
        /// Which.
        uri: String,
        /// Its name.
        uuid: Uuid,
    },
    /// The device was formatted for chunks of another size.
    #[error(
        "device {uri}: formatted for chunks of {device_blocks} blocks, the cluster has \
         {cluster_blocks}; format it with the cluster's chunk size"
    )]
    ChunkSize {
        /// Which.
        uri: String,
        /// Blocks of a chunk on the device.
        device_blocks: u32,
        /// Blocks of a chunk in the cluster.
        cluster_blocks: u32,
    },
    /// A shard cannot be opened.
    #[error("device {uri} shard {shard}")]
    Shard {
        /// Which device.
        uri: String,
        /// Which shard of it.
        shard: u32,
        /// Why.
        source: OpenShardError,
    },
    /// The quotas promise more than the shard holds.
    #[error(
        "device {uri} shard {shard}: the quotas of its copysets are {quota_blocks} blocks and a \
         reserve of {reserve_blocks}, its data space has {data_blocks}{}; lower the quotas",
        kept(*kept_blocks)
    )]
    Quota {
        /// Which device.
        uri: String,
        /// Which shard of it.
        shard: u32,
        /// Sum of quotas.
        quota_blocks: u64,
        /// Reserve.
        reserve_blocks: u64,
        /// Blocks there are for them.
        data_blocks: u64,
        /// Blocks that entries in metadata may keep besides.
        kept_blocks: u64,
    },
    /// The reserve is too small for the cluster's chunks.
    #[error(
        "store.reserve_blocks is {reserve_blocks}, but the reserve must hold a chunk of \
         {chunk_bytes} that a catch-up brings, and as much again for what is being written; raise \
         store.reserve_blocks to at least {least}"
    )]
    Reserve {
        /// What the configuration says.
        reserve_blocks: u32,
        /// What it has to say.
        least: u64,
        /// Bytes of a chunk.
        chunk_bytes: ByteSize,
    },
    /// Journal writes are too short for the cluster's chunks.
    #[error(
        "store.batch_bytes is {batch_bytes}, but a catch-up of the cluster's chunks of \
         {chunk_bytes} takes journal writes of {least}; raise store.batch_bytes to at least that, \
         or where it cannot be so large use smaller chunks (chunk_size in the cluster file)"
    )]
    BatchBytes {
        /// What the configuration says.
        batch_bytes: ByteSize,
        /// What it has to say.
        least: ByteSize,
        /// Bytes of a chunk.
        chunk_bytes: ByteSize,
    },
    /// A device allows only journal writes that are too short for the cluster's chunks.
    #[error(
        "device {uri} shard {shard}: with a journal of {ring} and transfers of {transfer} a journal \
         write holds {room} bytes there, but a catch-up of chunks of {chunk} needs {needed}; format \
         the device with a larger journal (culvert format --ring-size), or use smaller chunks"
    )]
    JournalWrites {
        /// Which device.
        uri: String,
        /// Which shard of it.
        shard: u32,
        /// Bytes of items that a write holds.
        room: u64,
        /// Bytes of items that it must hold.
        needed: u64,
        /// Bytes of the shard's ring.
        ring: ByteSize,
        /// Bytes of one transfer at most.
        transfer: ByteSize,
        /// Bytes of a chunk.
        chunk: ByteSize,
    },
    /// The replicas contradict the devices.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Transport options.
    #[error("transport")]
    Transport(#[from] OptionsError),
    /// An address is none.
    #[error("listen address {text}")]
    Address {
        /// As configured.
        text: String,
        /// Why.
        source: AddressError,
    },
    /// An address is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: Address,
        /// Why.
        source: ListenError,
    },
    /// A reactor's thread could not be made or pinned.
    #[error("reactor {reactor}: its thread could not be started")]
    Thread {
        /// Which reactor.
        reactor: usize,
        /// Why.
        source: std::io::Error,
    },
}

fn kept(blocks: u64) -> String {
    match blocks {
        0 => String::new(),
        _ => format!(" besides {blocks} that entries in metadata may keep"),
    }
}
