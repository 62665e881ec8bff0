//! What a modelled disk is like.

use std::ops::Range;

use super::{BLOCK_BYTES, SECTOR_BYTES};

/// Size, habits and limits of a disk.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Number of logical blocks; together a multiple of 4 KiB.
    pub blocks: u64,
    /// Size of a logical block in bytes: 512 or 4096.
    pub block_size: u32,
    /// Whether blocks, of 4 KiB then, have metadata.
    pub metadata: bool,
    /// Whether a completed write may still be lost with the power until it is flushed.
    pub volatile_write_cache: bool,
    /// Time that a read takes.
    pub read_ns: Range<u64>,
    /// Time that a write, a write of zeroes or a deallocation takes.
    pub write_ns: Range<u64>,
    /// Time that a flush takes.
    pub flush_ns: Range<u64>,
    /// Most operations in flight on one queue pair.
    pub depth: usize,
    /// Largest read or write in bytes.
    pub transfer_bytes_max: u32,
    /// Most regions registered with one queue pair.
    pub regions_max: usize,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            blocks: 16 << 10,
            block_size: BLOCK_BYTES as u32,
            metadata: false,
            volatile_write_cache: true,
            read_ns: 50_000..150_000,
            write_ns: 10_000..100_000,
            flush_ns: 100_000..1_000_000,
            depth: 128,
            transfer_bytes_max: 1 << 20,
            regions_max: 1024,
        }
    }
}

impl DiskOptions {
    /// Number of sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.blocks * self.sectors_per_logical_block()
    }

    /// Sectors of a logical block: 1 or 8.
    pub(super) fn sectors_per_logical_block(&self) -> u64 {
        u64::from(self.block_size) / SECTOR_BYTES as u64
    }

    /// Checks what a world asks for.
    ///
    /// # Panics
    ///
    /// When there is no such disk.
    pub(super) fn check(&self) {
        assert!(matches!(self.block_size, 512 | 4096), "blocks of {} bytes", self.block_size);
        assert!(!self.metadata || self.block_size == 4096, "metadata belong to a block of 4 KiB");
        let bytes = self.blocks * u64::from(self.block_size);
        assert!(bytes > 0, "a disk has blocks");
        assert!(bytes.is_multiple_of(BLOCK_BYTES as u64), "a disk ends with a page");
        assert!(self.depth > 0, "a queue pair has a depth");
        for latency in [&self.read_ns, &self.write_ns, &self.flush_ns] {
            assert!(!latency.is_empty(), "a command takes some time");
        }
    }
}
