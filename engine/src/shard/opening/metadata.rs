//! Reading the metadata of open segments, where entries of single blocks stand.
//!
//! In any order: an entry says itself where it belongs. A read that fails is repeated block by block;
//! a block that cannot be read is passed over: if its entry counts, its position is missing.

use culvert_memory::{Buffer, Pool};
use culvert_nvme::{METADATA_BYTES, Operation, Status};

use crate::device::{Salt, ShardLayout};
use crate::ids::{BLOCK_SIZE, Extent};
use crate::journal::{MetadataEntry, Scan};
use crate::shard::DeviceMeasures;

/// Blocks of one read. Where blocks have 64 bytes beside them, QEMU's controller hands over no more
/// metadata at once than those of so many.
const READ_BLOCKS: u32 = 8;

/// See the module's documentation.
pub(super) struct MetadataReader {
    /// What was not asked for yet; the last is next.
    left: Vec<Extent>,
    /// Bytes of metadata beside each block.
    each: usize,
    in_flight: usize,
    unreadable: u64,
}

impl MetadataReader {
    /// `each`: bytes of metadata beside a block.
    pub(super) fn new(segments: &[Extent], each: u32) -> MetadataReader {
        let left = segments.iter().rev().copied().filter(|segment| segment.blocks > 0).collect();
        MetadataReader { left, each: each as usize, in_flight: 0, unreadable: 0 }
    }

    /// The next read for the device and what it reads. `Err`: the pool has no page for it, and nothing
    /// is in flight that could give one back.
    pub(super) fn next_read(
        &mut self,
        device: &DeviceMeasures,
        layout: &ShardLayout,
        pool: &Pool,
    ) -> Result<Option<(Extent, Operation)>, ()> {
        let Some(&Extent { start, blocks }) = self.left.last() else { return Ok(None) };
        let in_a_page = (BLOCK_SIZE / self.each) as u32;
        let now = blocks.min(READ_BLOCKS).min(in_a_page).min(device.transfer_pages_max);
        let Some(buffer) = pool.acquire(now + 1) else {
            return if self.in_flight > 0 { Ok(None) } else { Err(()) };
        };
        self.left.pop();
        if blocks > now {
            self.left.push(Extent { start: start + now, blocks: blocks - now });
        }
        self.in_flight += 1;
        let lba = device.lba(layout.data() + u64::from(start) * BLOCK_SIZE as u64);
        Ok(Some((Extent { start, blocks: now }, Operation::ReadWithMetadata { lba, buffer })))
    }

    /// A read came back; its entries go to the scan.
    pub(super) fn complete(
        &mut self,
        read: Extent,
        (status, buffer): (Status, &Buffer),
        salt: Salt,
        scan: &mut Scan,
    ) {
        self.in_flight -= 1;
        if !status.is_success() {
            match read.blocks {
                1 => self.unreadable += 1,
                _ => self
                    .left
                    .extend((read.start..read.end()).map(|start| Extent { start, blocks: 1 })),
            }
            return;
        }
        let metadata = &buffer.as_slice()[read.blocks as usize * BLOCK_SIZE..];
        for (place, bytes) in (read.start..read.end()).zip(metadata.chunks_exact(self.each)) {
            let bytes = bytes[..METADATA_BYTES].try_into().expect("as long as asked for");
            if let Some(entry) = MetadataEntry::parse(bytes, place, salt) {
                scan.metadata(&entry);
            }
        }
    }

    /// Whether all was read.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty() && self.in_flight == 0
    }

    /// Blocks that cannot be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }
}
