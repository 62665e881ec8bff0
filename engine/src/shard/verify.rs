//! Checking the payloads above the mark: which of them reached the device.

use culvert_memory::{Buffer, Pool};
use culvert_nvme::{Operation, Status};

use super::DeviceMeasures;
use super::verdict::Voids;
use crate::device::ShardLayout;
use crate::ids::{BLOCK_SIZE, CopysetId};
use crate::journal::{Item, Located, MalformedItem, NOWHERE, Scanned, Step};

/// A run of payload blocks.
#[derive(Clone, Copy, Debug)]
struct Payload {
    copyset: CopysetId,
    batch: u64,
    start: u32,
    blocks: u32,
    /// Where its checksums are.
    crcs: usize,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Verify {
    payloads: Vec<Payload>,
    crcs: Vec<u32>,
    /// The payload to be read next.
    next: usize,
    in_flight: usize,
    /// Batches in which a payload of a group is bad.
    bad: Vec<(CopysetId, u64)>,
}

impl Verify {
    /// Collects what is to be checked: the payload of every item from the mark on that is not
    /// void already.
    pub(super) fn collect(
        scanned: &Scanned,
        voids: &Voids,
        layout: &ShardLayout,
        blocks_max: u32,
    ) -> Result<Verify, MalformedItem> {
        let mut verify = Verify::default();
        let mark = scanned.mark;
        for step in scanned.steps() {
            let Step::Item(Located { batch, item }) = step? else { continue };
            let void = item.copyset().is_none_or(|copyset| voids.covers(copyset, batch));
            if batch < mark || void {
                continue;
            }
            match item {
                Item::Entry(entry) => {
                    let copyset = entry.record.copyset();
                    let mut crcs = entry.record.crcs();
                    for extent in &*entry.extents {
                        let crcs = crcs.by_ref().take(extent.blocks as usize);
                        verify.add(copyset, batch, extent.start, crcs, layout, blocks_max);
                    }
                }
                Item::ChunkInstalled(installed) => {
                    let copyset = installed.head().copyset;
                    for block in installed.blocks().filter(|block| block.is_stored()) {
                        let crc = std::iter::once(block.crc);
                        verify.add(copyset, batch, block.granule, crc, layout, blocks_max);
                    }
                }
                _ => {}
            }
        }
        Ok(verify)
    }

    fn add(
        &mut self,
        copyset: CopysetId,
        batch: u64,
        start: u32,
        crcs: impl Iterator<Item = u32>,
        layout: &ShardLayout,
        blocks_max: u32,
    ) {
        let first = self.crcs.len();
        self.crcs.extend(crcs);
        if start == NOWHERE {
            self.crcs.truncate(first);
            return;
        }
        let blocks = (self.crcs.len() - first) as u32;
        if start.checked_add(blocks).is_none_or(|end| end > layout.data_blocks()) {
            self.bad.push((copyset, batch));
            return;
        }
        let mut done = 0;
        while done < blocks {
            let now = (blocks - done).min(blocks_max);
            let crcs = first + done as usize;
            self.payloads.push(Payload { copyset, batch, start: start + done, blocks: now, crcs });
            done += now;
        }
    }

    /// Blocks that are checked.
    pub(super) fn blocks(&self) -> u64 {
        self.payloads.iter().map(|payload| u64::from(payload.blocks)).sum()
    }

    /// The next read for the device and its number. `Err`: the pool has no page for it, and
    /// nothing is in flight that could give one back.
    pub(super) fn next_read(
        &mut self,
        device: &DeviceMeasures,
        layout: &ShardLayout,
        pool: &Pool,
    ) -> Result<Option<(usize, Operation)>, ()> {
        let Some(payload) = self.payloads.get(self.next) else { return Ok(None) };
        let Some(buffer) = pool.acquire(payload.blocks) else {
            return if self.in_flight > 0 { Ok(None) } else { Err(()) };
        };
        let byte = layout.data() + u64::from(payload.start) * BLOCK_SIZE as u64;
        let number = self.next;
        self.next += 1;
        self.in_flight += 1;
        Ok(Some((number, Operation::Read { lba: device.lba(byte), buffer })))
    }

    /// A read came back.
    pub(super) fn complete(&mut self, number: usize, status: Status, buffer: &Buffer) {
        self.in_flight -= 1;
        let payload = self.payloads[number];
        let crcs = &self.crcs[payload.crcs..payload.crcs + payload.blocks as usize];
        let good = status.is_success()
            && crcs
                .iter()
                .enumerate()
                .all(|(at, &crc)| buffer.crc32c(at * BLOCK_SIZE, BLOCK_SIZE) == crc);
        if !good {
            self.bad.push((payload.copyset, payload.batch));
        }
    }

    /// Whether every payload was checked.
    pub(super) fn is_done(&self) -> bool {
        self.in_flight == 0 && self.next == self.payloads.len()
    }

    /// The first batch with a bad payload of each group that has one; in order of copyset.
    pub(super) fn bad(mut self) -> Vec<(CopysetId, u64)> {
        self.bad.sort_unstable();
        self.bad.dedup_by_key(|&mut (copyset, _)| copyset);
        self.bad
    }
}
