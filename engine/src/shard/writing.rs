//! The way in: items, payload and notes into batches, batches into commands.

use culvert_memory::{Buffer, Pages};
use culvert_nvme::{LbaRange, Operation};

use super::groups::Group;
use super::{DEALLOCATE_EXTENTS_MAX, Purpose, Shard, UNNOTED_MAX};
use crate::ids::{BLOCK_SIZE, BatchNumber, CopysetId, Extent, LogIndex, Term};
use crate::journal::{BlockRepaired, Entry, HardState, Item, NOWHERE, Space, encode_metadata};
use crate::record::RecordView;

impl Shard {
    /// Adds a raft entry to the open batch and returns the batch.
    ///
    /// `extents`: where the payload lies; blocks whose payload a later entry superseded are in an
    /// extent that starts at [`NOWHERE`]. The entry voids earlier entries of its group from its
    /// index on.
    ///
    /// # Panics
    ///
    /// If `record` is not a record's bytes, or there was no [`Shard::room`].
    pub fn append(
        &mut self,
        record: &[u8],
        extents: &[Extent],
        superseded_by: Option<LogIndex>,
    ) -> BatchNumber {
        let record = RecordView::trusted(record);
        self.counters.entries += 1;
        self.append_item(&Item::Entry(Entry { record, extents: extents.into(), superseded_by }))
    }

    /// Adds a group's hard state to the open batch and returns the batch. Where entries stand in
    /// metadata, a state that brings no more than a commit index is left out: followers get one with
    /// each entry, which would have to go to the ring with it, and applied notes say as much.
    pub fn append_hard_state(&mut self, copyset: CopysetId, state: HardState) -> BatchNumber {
        if self.device.metadata
            && let Some(group) = self.groups.get_mut(copyset)
        {
            let voted = group.voted.replace((state.term, state.vote));
            if voted == Some((state.term, state.vote)) {
                return self.batches.open();
            }
        }
        self.append_item(&Item::HardState(copyset, state))
    }

    /// Adds any item to the open batch and returns the batch.
    ///
    /// # Panics
    ///
    /// If there was no [`Shard::room`], or for a verdict, an applied note or a repair, which are
    /// the shard's.
    pub fn append_item(&mut self, item: &Item<'_>) -> BatchNumber {
        match item {
            Item::Verdict(_) | Item::AppliedNote(..) | Item::BlockRepaired(_) => {
                panic!("the shard's own items")
            }
            Item::ReplicaCreated(copyset, identity, _) => {
                self.groups.insert(*copyset, Group { identity: *identity, ..Group::default() });
            }
            Item::ReplicaRemoved(copyset) => self.groups.remove(*copyset),
            Item::Doubt(copyset, in_doubt) => {
                if let Some(group) = self.groups.get_mut(*copyset) {
                    group.in_doubt = *in_doubt;
                }
            }
            _ => {}
        }
        if self.failure.is_some() {
            return self.batches.open();
        }
        self.add(item, true);
        self.batches.open()
    }

    /// Begins a group's log anew behind a raft snapshot: everything in one batch, so that a
    /// recovery finds all of it or nothing. First what the old log had applied, because its
    /// entries are replayed no further; then the new start; then `items`: the last part of the
    /// state at `index`, and the configuration.
    ///
    /// # Panics
    ///
    /// If there was no [`Shard::room`] for all of it, or the shard holds no such group.
    pub fn restart_log(
        &mut self,
        copyset: CopysetId,
        (index, term): (LogIndex, Term),
        items: &[Item<'_>],
    ) -> BatchNumber {
        let applied = self.groups.get(copyset).expect("a group of this shard").applied;
        let front = [Item::AppliedNote(copyset, applied), Item::LogStart(copyset, index, term)];
        self.append_together(&front, items)
    }

    /// Says that a repaired block lies elsewhere from now on; the caller swings the map behind it,
    /// in the same step. In the same batch stands what the group has applied, so that a recovery
    /// that finds the repair knows the block: otherwise it would be dropped there, its place given
    /// away, and done again by the recovery after the next.
    ///
    /// # Panics
    ///
    /// If there was no [`Shard::room`], or the shard holds no such group.
    pub fn append_repaired(&mut self, repaired: BlockRepaired) -> BatchNumber {
        let copyset = repaired.copyset;
        let applied = self.groups.get(copyset).expect("a group of this shard").applied;
        let items = [Item::AppliedNote(copyset, applied), Item::BlockRepaired(repaired)];
        self.append_together(&items, &[])
    }

    /// Adds items that stand in one batch.
    fn append_together(&mut self, front: &[Item<'_>], items: &[Item<'_>]) -> BatchNumber {
        if self.failure.is_some() {
            return self.batches.open();
        }
        let length: usize = front.iter().chain(items).map(Item::length).sum();
        if length > self.appender.open_room() {
            assert!(length <= self.batch_room(), "room was looked for");
            self.close();
        }
        for item in front.iter().chain(items) {
            self.add(item, true);
        }
        self.batches.open()
    }

    /// Bytes of the longest item, or run of items, that a batch can take.
    #[must_use]
    pub fn item_bytes_max(&self) -> usize {
        self.appender.batch_room()
    }

    /// Adds an item; rolls over to the next batch where it does not fit.
    fn add(&mut self, item: &Item<'_>, weighty: bool) {
        if item.length() > self.appender.open_room() {
            assert!(item.length() <= self.batch_room(), "room was looked for");
            self.close();
        }
        self.counters.items += 1;
        self.counters.item_bytes += item.length() as u64;
        self.appender.add(item, weighty);
    }

    /// Bytes of items that can be appended before the next [`Shard::seal`]: one item of this size,
    /// or several. An entry takes [`ENTRY_BYTES_MAX`](crate::journal::ENTRY_BYTES_MAX) at most.
    /// None at all while the ring is [full](crate::journal::Space::Full).
    #[must_use]
    pub fn room(&self) -> usize {
        if self.space() == Space::Full { 0 } else { self.batch_room() }
    }

    fn batch_room(&self) -> usize {
        if self.batches.has_room() { self.appender.room() } else { self.appender.open_room() }
    }

    /// Writes payload to its extents, in order, counted to the open batch: it is durable no
    /// earlier than this. To be called right before or right after the append of its record.
    ///
    /// `pages` holds the blocks of all extents but those that start at [`NOWHERE`].
    ///
    /// # Panics
    ///
    /// If `pages` has another length, or there are not enough [`Shard::commands_free`].
    pub fn write_payload(&mut self, extents: &[Extent], pages: &Pages) {
        if self.failure.is_some() {
            return;
        }
        let data = self.layout.data();
        let mut page = 0;
        for extent in extents.iter().filter(|extent| extent.start != NOWHERE) {
            assert!(extent.end() <= self.layout.data_blocks(), "an extent of this shard");
            let mut block = extent.start;
            while block < extent.end() {
                let blocks = (extent.end() - block).min(self.device.transfer_pages_max);
                let batch = self.batches.add_payload();
                let lba = self.device.lba(data + u64::from(block) * BLOCK_SIZE as u64);
                let pages = pages.slice(page, blocks);
                let write = Operation::Write { lba, pages, fua: false };
                self.last_payload = self.commands.push(Purpose::Payload(batch), write);
                self.counters.payload_commands += 1;
                block += blocks;
                page += blocks;
            }
        }
        assert_eq!(page, pages.pages(), "payload for every block");
        let bytes = u64::from(page) * BLOCK_SIZE as u64;
        self.counters.payload_bytes += bytes;
        self.bytes_since_checkpoint += bytes;
    }

    /// Everything up to `index` is committed and applied. Journalled with the next write, or by
    /// itself within [`ShardConfig::idle_ns`](super::ShardConfig::idle_ns).
    ///
    /// # Panics
    ///
    /// If the shard holds no such group.
    pub fn note_applied(&mut self, copyset: CopysetId, index: LogIndex) {
        self.touched = true;
        self.groups.note_applied(copyset, index);
    }

    /// Reads an extent into a buffer of its size; answered by
    /// [`Event::ReadDone`](super::Event::ReadDone). The extent must be held by a ticket of the
    /// store until then.
    ///
    /// # Panics
    ///
    /// If the sizes differ, the extent is longer than [`Shard::read_blocks_max`], or there are no
    /// [`Shard::commands_free`].
    pub fn read(&mut self, token: u64, extent: Extent, buffer: Buffer) {
        assert_eq!(extent.blocks, buffer.pages(), "a page for every block");
        assert!(extent.blocks <= self.read_blocks_max(), "one command reads it");
        assert!(extent.end() <= self.layout.data_blocks(), "an extent of this shard");
        let byte = self.layout.data() + u64::from(extent.start) * BLOCK_SIZE as u64;
        let read = Operation::Read { lba: self.device.lba(byte), buffer };
        self.commands.push(Purpose::Read { token }, read);
        self.counters.reads += 1;
    }

    /// Ends a turn: closes the open batch into a journal write if none is in flight, goes on with
    /// a checkpoint, and begins a flush if one is due. `now`: nanoseconds of a clock that only
    /// goes forward.
    pub fn seal(&mut self, now: u64) {
        if self.failure.is_some() {
            return;
        }
        self.store.reclaim();
        self.step_checkpoint();
        self.close_if_due(now);
        self.submit_journal();
        self.begin_flush();
        self.begin_deallocate();
    }

    /// The time at which [`Shard::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.idle_at
    }

    /// Looks at the time, between turns that seal.
    pub fn tick(&mut self, now: u64) {
        if self.idle_at.is_some_and(|at| at <= now) {
            self.seal(now);
        }
    }

    fn close_if_due(&mut self, now: u64) {
        let busy = self.appender.is_writing() || self.appender.has_waiting();
        if busy || !self.appender.can_close() || !self.batches.has_room() {
            return;
        }
        let filled = self.appender.items() > 0 || self.batches.open_has_payload();
        if filled || self.close_now {
            if !self.close_into_metadata() {
                self.close();
            }
        } else if !self.idle_due() {
            self.idle_at = None;
        } else if *self.idle_at.get_or_insert(now + self.config.idle_ns) <= now {
            self.counters.idle_batches += 1;
            self.close();
        }
    }

    /// Whether a note, a release or the mark has to be written even if nothing else is.
    fn idle_due(&self) -> bool {
        let durable_end = self.batches.durable_end();
        let mark = self.weighty_end > self.last_mark && durable_end >= self.weighty_end;
        mark || self.groups.is_dirty() || self.has_releases()
    }

    /// Whether something was released since the last seal of the store.
    fn has_releases(&self) -> bool {
        self.touched && self.store.has_waiting()
    }

    /// Closes the open batch into the metadata of the block that it writes, if one entry of one block
    /// is all it has, and the device has not seen that yet. Notes and releases wait for another batch.
    fn close_into_metadata(&mut self) -> bool {
        let may = self.device.metadata && !self.close_now && self.batches_unnoted < UNNOTED_MAX;
        if !may || self.batches.open_payloads() != 1 {
            return false;
        }
        let mark = self.batches.durable_end();
        let Some((record, place, stamp)) = self.appender.only_block(mark) else { return false };
        // The superblock that names its segment must not be the last to do so.
        if !self.store.is_in_active_segment(place) {
            if !self.store.has_segment() {
                self.bytes_without_segment += BLOCK_SIZE as u64;
            }
            return false;
        }
        let Some(metadata) = encode_metadata(&stamp, &record, place, self.salt) else {
            return false;
        };
        let byte = self.layout.data() + u64::from(place) * BLOCK_SIZE as u64;
        let lba = self.device.lba(byte);
        let Some((purpose, operation)) = self.commands.queued_mut(self.last_payload) else {
            return false;
        };
        let Operation::Write { lba: at, pages, .. } = operation else { return false };
        if *at != lba || pages.pages() != 1 {
            return false;
        }
        let (pages, fua) = (pages.clone(), self.device.volatile);
        *operation = Operation::WriteWithMetadata { lba, pages, fua, metadata };
        let batch = self.batches.close();
        *purpose = Purpose::PayloadWithEntry(batch);
        let end = self.appender.written_in_metadata();
        self.batches.submitted_in_metadata(batch, end, mark);
        (self.last_mark, self.weighty_end) = (mark, end);
        self.store.prefer_segment(u32::MAX);
        self.batches_unnoted += 1;
        self.idle_at = None;
        self.counters.batches += 1;
        self.counters.metadata_batches += 1;
        self.counters.journal_bytes += metadata.len() as u64;
        self.counters.batch_items_max = self.counters.batch_items_max.max(1);
        true
    }

    /// Closes the open batch: with all notes that are due, and with them what was released.
    fn close(&mut self) {
        if self.device.metadata {
            // What comes alone now may come alone again. Of many in a batch one may: no more blocks than
            // batches, for which segments are measured.
            self.store.prefer_segment(if self.appender.items() > 1 { 1 } else { u32::MAX });
        }
        while let Some((copyset, index)) = self.groups.next_note() {
            let note = Item::AppliedNote(copyset, index);
            if note.length() > self.appender.open_room() {
                break;
            }
            self.groups.note_taken();
            self.counters.items += 1;
            self.counters.item_bytes += note.length() as u64;
            self.appender.add(&note, false);
        }
        let noted = !self.groups.is_dirty();
        let releases = noted && self.has_releases();
        let batch = self.batches.close();
        if noted {
            self.all_noted = batch;
            self.batches_unnoted = 0;
        }
        if releases {
            self.store.seal(batch);
            self.touched = false;
        }
        self.appender.close(batch, releases);
        self.close_now = false;
        self.idle_at = None;
    }

    fn submit_journal(&mut self) {
        let Some(batch) = self.appender.next(self.urgent_batch()) else { return };
        let mark = self.batches.durable_end();
        let forced = self.batches.may_force(batch);
        let commands = &mut self.commands;
        let written = self.appender.write(mark, forced, |operation| {
            commands.push(Purpose::Journal(batch), operation);
        });
        self.batches.submitted(batch, written.commands, written.end, mark);
        self.last_mark = mark;
        if written.weighty {
            self.weighty_end = written.end;
        }
        self.counters.batches += 1;
        self.counters.journal_bytes += written.bytes;
        self.counters.batch_items_max = self.counters.batch_items_max.max(written.items);
    }

    pub(super) fn begin_flush(&mut self) {
        if self.batches.begin_flush().is_some() {
            self.commands.push(Purpose::Flush, Operation::Flush);
            self.counters.flushes += 1;
        }
    }

    /// Tells the device of extents that discards and deletes have freed, one command at a time.
    fn begin_deallocate(&mut self) {
        if !self.deallocating.is_empty() {
            return;
        }
        self.store.take_deallocations(DEALLOCATE_EXTENTS_MAX, &mut self.deallocate_scratch);
        if self.deallocate_scratch.is_empty() {
            return;
        }
        let blocks_per_page = BLOCK_SIZE as u64 / self.device.block_size;
        let data = self.device.lba(self.layout.data()).0;
        let ranges = self.deallocate_scratch.iter().map(|extent| LbaRange {
            start: culvert_nvme::Lba(data + u64::from(extent.start) * blocks_per_page),
            blocks: extent.blocks * blocks_per_page as u32,
        });
        let deallocate = Operation::Deallocate { ranges: ranges.collect() };
        self.counters.deallocated_extents += self.deallocate_scratch.len() as u64;
        self.deallocating.extend(self.deallocate_scratch.drain(..));
        self.commands.push(Purpose::Deallocate, deallocate);
    }
}
