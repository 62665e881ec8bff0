//! Beginning an incarnation: the verdict, and the block whose mark covers it.

use culvert_memory::Pages;
use culvert_nvme::{Lba, Operation};

use super::{OpenError, Opened, Opening, Purpose, Stage};
use crate::ids::{BLOCK_SIZE, CopysetId, LogIndex};
use crate::journal::{BLOCK_HEADER_BYTES, BatchWriter, Item, Ring, Scanned, Stamp, Verdict};
use crate::shard::groups::{Group, Groups};
use crate::shard::recovered::{Recovered, RecoveredGroup};
use crate::shard::{Parts, Shard};

impl Opening {
    /// Writes the verdict: the first batch of the new incarnation. Its mark is the old one: until
    /// all of it is durable, the payloads above that have to be looked at again.
    pub(super) fn begin_verdict(&mut self, scanned: &Scanned) -> Result<(), OpenError> {
        let blocks = self.layout.ring_bytes / self.device.block_size;
        self.ring = Some(Ring::new(blocks, scanned.from, scanned.end));
        let groups = &self.groups;
        let kept = |copyset| {
            let group = groups.iter().find(|group| group.copyset == copyset);
            group.map_or(LogIndex(0), RecoveredGroup::last_index)
        };
        let mut list = Vec::new();
        Verdict::encode(&self.voids.to_write(kept), &mut list);
        let commands =
            self.write_batch(scanned.mark.max(scanned.from), scanned.end, Some(&list))?;
        self.stage = Stage::Verdict(commands);
        Ok(())
    }

    /// Writes a batch of this opening; returns its number of commands.
    fn write_batch(
        &mut self,
        mark: u64,
        start: u64,
        verdict: Option<&[u8]>,
    ) -> Result<usize, OpenError> {
        let ring = self.ring.as_mut().expect("known since the verdict");
        let block_size = self.device.block_size as usize;
        let bytes = verdict.map_or(0, <[u8]>::len) + 2 * BLOCK_SIZE;
        let pages = (bytes + bytes / 8).div_ceil(BLOCK_SIZE) as u32;
        let mut buffer = self.pool.acquire(pages).ok_or(OpenError::Memory)?;
        let mut writer = BatchWriter::new(block_size, buffer.len());
        if let Some(list) = verdict {
            let verdict = Verdict::parse(list).expect("just encoded");
            writer.add(buffer.as_mut_slice(), &Item::Verdict(verdict));
        }
        // Behind the last batch of an opening a checkpoint must be able to end.
        let notes = self.groups.len() * Item::AppliedNote(CopysetId(0), LogIndex(0)).length();
        let notes = notes.div_ceil(block_size - BLOCK_HEADER_BYTES) as u64 + 1;
        if writer.blocks().max(1) as u64 + notes > ring.unused() {
            return Err(OpenError::RingFull);
        }
        let incarnation = self.report.incarnation;
        let stamp = Stamp { position: ring.head(), mark, start, incarnation };
        let blocks = writer.seal(buffer.as_mut_slice(), &stamp, self.salt);
        let position = ring.advance(blocks);
        let runs = ring.runs(position, blocks);
        let memory = buffer.freeze();
        let mut commands = 0;
        let mut at = 0;
        for run in runs {
            for slot in run.slot..run.slot + u64::from(run.blocks) {
                let lba = Lba(self.device.lba(self.layout.ring()).0 + slot);
                let pages = self.block_page(&memory, at)?;
                let fua = self.device.volatile;
                let write = Operation::WriteBlocks { lba, pages, blocks: 1, fua };
                self.commands.push(Purpose::Write, write);
                commands += 1;
                at += 1;
            }
        }
        Ok(commands)
    }

    /// A page that begins with block number `at` of a batch: commands begin on pages.
    fn block_page(&self, memory: &Pages, at: usize) -> Result<Pages, OpenError> {
        let block_size = self.device.block_size as usize;
        let offset = at * block_size;
        if offset.is_multiple_of(BLOCK_SIZE) {
            return Ok(memory.slice((offset / BLOCK_SIZE) as u32, 1));
        }
        let mut page = self.pool.acquire(1).ok_or(OpenError::Memory)?;
        page.copy_range_from(0, memory, offset..offset + block_size);
        Ok(page.freeze())
    }

    pub(super) fn written(&mut self) -> Result<(), OpenError> {
        match &mut self.stage {
            Stage::Verdict(commands) if *commands > 1 => *commands -= 1,
            Stage::Verdict(_) => {
                let mark = self.ring.as_ref().expect("known since the verdict").head();
                self.write_batch(mark, self.report.end, None)?;
                self.stage = Stage::Mark;
            }
            Stage::Mark => self.run()?,
            _ => {}
        }
        Ok(())
    }

    /// The shard runs.
    fn run(&mut self) -> Result<(), OpenError> {
        self.stage = Stage::Done;
        let ring = self.ring.take().expect("known since the verdict");
        let mut groups = Groups::default();
        for group in &self.groups {
            let known = Group {
                identity: group.identity.unwrap_or_default(),
                applied: group.applied_note,
                in_doubt: group.in_doubt,
                ..Group::default()
            };
            groups.insert(group.copyset, known);
        }
        let mark = ring.head() - 1;
        let parts = Parts {
            config: self.config,
            device: self.device,
            layout: self.layout,
            salt: self.salt,
            superblock: self.superblock,
            incarnation: self.report.incarnation,
            start: self.report.end,
            ring,
            mark,
            groups,
            store: self.store.take().expect("made with the checkpoint"),
            entry_places: std::mem::take(&mut self.entry_places),
        };
        let shard = Shard::new(parts, &self.pool).ok_or(OpenError::Memory)?;
        let recovered = Recovered {
            shard,
            groups: std::mem::take(&mut self.groups),
            report: self.report.clone(),
        };
        self.result = Some(Ok(Opened::Running(Box::new(recovered))));
        Ok(())
    }
}
