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

/// Journal, checkpoints, recovery and catch-up of every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Commands of one shard queued or in flight.
    pub commands_max: u32,
    /// Bytes of one journal write at most.
    pub batch_bytes: ByteSize,
    /// Journal buffers of a shard: one in flight, one open, the others for batches that wait.
    pub batch_buffers: usize,
    /// How long a shard may be quiet before an empty journal block carries the mark on.
    pub mark_delay_ms: u32,
    /// Whether the device is told of what discards and deletes have freed.
    pub deallocates: bool,
    /// Blocks of a shard's data space that no quota may promise: room for a chunk that a catch-up
    /// brings, and for what is being written while what it replaces is not free yet. At least those
    /// of two chunks. More of them let more writes be under way where quotas are used up.
    pub reserve_blocks: u32,
    /// A checkpoint starts when the bytes written since the last exceed this many times its size.
    pub checkpoint_factor: u64,
    /// ... but not before this many bytes. A ring half full of entries asks for one earlier, and so do
    /// entries in metadata that find no segment.
    pub checkpoint_min_bytes: ByteSize,
    /// Pages of a checkpoint made in one turn: operations of the same turn wait for it.
    pub checkpoint_pages_per_turn: u32,
    /// Pages of one checkpoint command.
    pub checkpoint_command_pages: u32,
    /// Reads in flight while a shard is opened.
    pub recovery_depth: usize,
    /// Bytes of one read while a shard is opened.
    pub recovery_read_bytes: ByteSize,
    /// Applied entries that the copysets of a reactor keep in their logs, all together, so that a
    /// follower that was away for a moment needs no more than them.
    pub retained_entries: u32,
    /// Bytes of blocks sent in a second, over all copysets of a reactor, to replicas that lack more
    /// than the log holds.
    pub catch_up_bytes_per_second: ByteSize,
    /// Bytes read in a second on each shard to verify what is stored, while a pass over all of it is
    /// under way; 0: nothing is verified but what is read.
    pub scrub_bytes_per_second: ByteSize,
    /// A pass begins so long after the one before it began, or when that ends.
    pub scrub_period_s: u32,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            commands_max: 8192,
            batch_bytes: ByteSize::mib(1),
            batch_buffers: 3,
            mark_delay_ms: 10,
            deallocates: true,
            reserve_blocks: 8192,
            checkpoint_factor: 64,
            checkpoint_min_bytes: ByteSize::mib(16),
            checkpoint_pages_per_turn: 4,
            checkpoint_command_pages: 16,
            recovery_depth: 8,
            recovery_read_bytes: ByteSize::kib(256),
            retained_entries: 65_536,
            catch_up_bytes_per_second: ByteSize::mib(256),
            scrub_bytes_per_second: ByteSize::mib(16),
            scrub_period_s: 24 * 3600,
        }
    }
}
