//! Capacities of a shard, and the relations between them.

use culvert_nvme::Namespace;

use super::DeviceMeasures;
use crate::device::ShardLayout;
use crate::ids::BLOCK_SIZE;
use crate::journal::{BLOCK_HEADER_BYTES, Ring};

/// Batches between the oldest one that is not durable and the open one, at most.
pub const BATCHES_MAX: usize = 64;

/// Commands kept back for the shard's own use when payload and reads take all others.
pub const COMMANDS_RESERVED: u32 = 64;

/// Commands of one batch's journal write, at most: two runs, each cut by the transfer limit. A batch
/// is no longer than half as many transfers.
pub const JOURNAL_COMMANDS_MAX: usize = 32;

/// Batches in metadata that one batch with notes is for: what is released waits for it.
pub(super) const UNNOTED_MAX: u32 = 256;

/// Extents told to the device in one deallocate.
pub const DEALLOCATE_EXTENTS_MAX: usize = culvert_nvme::DEALLOCATE_RANGES_MAX;

/// Bytes of one piece of a chunk's image.
pub const CHUNK_PIECE_BYTES: usize = 16 << 10;

const _: () = assert!(JOURNAL_COMMANDS_MAX < COMMANDS_RESERVED as usize);

/// How a shard is run. Nothing here is stored on the device.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Upper 16 bits of the tags of all the shard's commands, so that shards can share a queue
    /// pair.
    pub tag_prefix: u16,
    /// Commands queued or in flight, at most; 65,535 at most.
    pub commands_max: u32,
    /// Bytes of one journal write, at most; less where the device's transfer limit is small.
    pub batch_bytes: usize,
    /// Journal buffers: one in flight, one open, the others for batches that wait.
    pub batch_buffers: usize,
    /// After this time without a journal write an applied note, a release or a mark that is due is
    /// written by itself.
    pub idle_ns: u64,
    /// Whether the device is told of extents freed by discards and deletes.
    pub deallocate: bool,
    /// Pages of a checkpoint made per turn, to a piece.
    pub checkpoint_pages_per_turn: u32,
    /// Pages of one checkpoint command.
    pub checkpoint_buffer_pages: u32,
    /// A checkpoint starts when the bytes written by users since the last exceed this many times
    /// its size.
    pub checkpoint_bytes_factor: u64,
    /// ... but not before this many bytes.
    pub checkpoint_bytes_min: u64,
    /// Read commands in flight while the shard opens.
    pub open_depth: usize,
    /// Bytes of one read while the shard opens.
    pub open_read_bytes: usize,
}

impl Default for ShardConfig {
    fn default() -> ShardConfig {
        ShardConfig {
            tag_prefix: 0,
            commands_max: 1024,
            batch_bytes: 256 << 10,
            batch_buffers: 3,
            idle_ns: 10_000_000,
            deallocate: true,
            checkpoint_pages_per_turn: 4,
            checkpoint_buffer_pages: 16,
            checkpoint_bytes_factor: 16,
            checkpoint_bytes_min: 16 << 20,
            open_depth: 8,
            open_read_bytes: 256 << 10,
        }
    }
}

impl ShardConfig {
    /// Bytes of items that one journal write of a shard on this device holds.
    #[must_use]
    pub fn journal_write_room(&self, namespace: &Namespace, layout: &ShardLayout) -> u64 {
        let device = DeviceMeasures::new(namespace);
        let ring = Ring::new(layout.ring_bytes / device.block_size, 0, 0);
        let blocks = self.batch_bytes_on(&device, &ring) as u64 / device.block_size;
        blocks * (device.block_size - BLOCK_HEADER_BYTES as u64)
    }

    /// Bytes of one journal write at most, as the device's transfers allow.
    pub(super) fn batch_bytes_of_transfers(&self, device: &DeviceMeasures) -> usize {
        let transfer_bytes_max = device.transfer_pages_max as usize * BLOCK_SIZE;
        self.batch_bytes.min(JOURNAL_COMMANDS_MAX / 2 * transfer_bytes_max)
    }

    /// Bytes of one journal write at most, as transfers and ring allow.
    pub(super) fn batch_bytes_on(&self, device: &DeviceMeasures, ring: &Ring) -> usize {
        let of_ring = ring.batch_blocks_max() as usize * device.block_size as usize;
        self.batch_bytes_of_transfers(device).min(of_ring - of_ring % BLOCK_SIZE)
    }

    /// Checks what the capacities have to do with each other.
    ///
    /// # Panics
    ///
    /// If they contradict: a bug of the caller, which took them from a configuration it checked.
    pub fn assert_valid(&self) {
        assert!(self.commands_max > 2 * COMMANDS_RESERVED, "commands_max is too small");
        assert!(self.commands_max <= u32::from(u16::MAX), "a slot has 16 bits in a tag");
        assert!(self.batch_bytes.is_multiple_of(BLOCK_SIZE), "batch_bytes in steps of 4096");
        assert!(self.batch_bytes >= 16 * BLOCK_SIZE, "a batch holds the longest item");
        assert!(self.batch_buffers >= 2, "one buffer in flight, one open");
        assert!(self.checkpoint_buffer_pages > 0, "a checkpoint command has a page");
        assert!(self.checkpoint_pages_per_turn > 0, "a checkpoint makes progress");
        assert!(self.open_depth > 0, "opening reads");
        assert!(self.open_read_bytes.is_multiple_of(BLOCK_SIZE), "open_read_bytes in pages");
        assert!(self.open_read_bytes > 0, "opening reads");
    }
}
