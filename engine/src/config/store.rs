//! Devices and what is kept on them.

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Where it is: `uring:/dev/nvme0n1`, `uring:/path/to/file`, `emulated:2GiB?file=/path`.
    pub uri: String,
    /// Commands in flight on each reactor's queue pair.
    #[serde(default = "DeviceConfig::depth_max_default")]
    pub depth_max: u32,
}

impl DeviceConfig {
    /// A device with the default depth.
    #[must_use]
    pub fn new(uri: String) -> DeviceConfig {
        DeviceConfig { uri, depth_max: Self::depth_max_default() }
    }

    fn depth_max_default() -> u32 {
        512
    }
}

/// Journal, checkpoint, catch-up and scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long a shard may be quiet before an empty journal block carries the mark on.
    pub mark_delay_ms: u32,
    /// Bytes of checkpoint that a shard writes in a second at most, so that it does not get in
    /// the way. A ring that runs full overrides it.
    pub checkpoint_bytes_per_second: ByteSize,
    /// Applied entries that each copyset keeps in its log, so that a follower that was away for a
    /// moment needs no more than them.
    pub retained_entries: u32,
    /// Bytes of blocks sent in a second, over all copysets of a reactor, to replicas that lack more
    /// than the log holds.
    pub catch_up_bytes_per_second: ByteSize,
    /// Bytes read in a second, over all shards of a reactor, to check what is stored.
    pub scrub_bytes_per_second: ByteSize,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            mark_delay_ms: 10,
            checkpoint_bytes_per_second: ByteSize::mib(64),
            retained_entries: 4096,
            catch_up_bytes_per_second: ByteSize::mib(256),
            scrub_bytes_per_second: ByteSize::mib(8),
        }
    }
}
