//! A round at its receiver: what each of its frames does.
//!
//! Every function takes one frame and answers `false` where the shard has no room for it now:
//! nothing was done then that cannot be done again, and the frame waits.

use super::super::{JOURNAL_HEADROOM_BYTES, mark};
use super::Inbound;
use super::arrival::{Arrival, StateParts};
use super::fault::Fault;
use super::staging::Staging;
use crate::chunkserver::Copyset;
use crate::ids::{BatchNumber, ChunkId, LogIndex, Term};
use crate::journal::{ChunkInstalled, ChunkList, Item, Space};
use crate::raft_group::{ExpectedSnapshot, can_restore, parse_conf_state};
use crate::shard::Shard;
use crate::store::{ChunkInstall, InstallError, LOG_INDEX_MAX};
use crate::wire::{ChunkBlock, ChunkName, catch_up_items};

/// What is borrowed of the copyset and its shard for one step.
pub(super) struct Desk<'a> {
    pub copyset: &'a mut Copyset,
    pub shard: &'a mut Shard,
    /// A frame waits for space.
    pub short_of_space: bool,
}

impl Desk<'_> {
    /// Whether an item may be appended now.
    fn has_room(&self, bytes: usize) -> Result<bool, Fault> {
        let needed = bytes + JOURNAL_HEADROOM_BYTES;
        if needed > self.shard.item_bytes_max() {
            return Err(Fault::TooLong { bytes });
        }
        Ok(self.shard.space() == Space::Normal && self.shard.room() >= needed)
    }

    /// Chunks may be ahead up to `index` from now on.
    fn raise_ahead(&mut self, index: LogIndex) {
        self.copyset.ahead = self.copyset.ahead.max(index);
    }
}

/// See the module's documentation.
pub(super) struct Round {
    /// What it leads to: this replica with the state as of `index`, and chunks not behind it.
    expected: ExpectedSnapshot,
    list: Vec<ChunkId>,
    staging: Option<Staging>,
    parts: StateParts,
    /// The batch of the last item that was appended.
    last_batch: BatchNumber,
}

impl Round {
    /// Begins a round. `None`: not now.
    pub fn begin(inbound: &Inbound, desk: &mut Desk<'_>) -> Result<Option<Round>, Fault> {
        let head = &inbound.head;
        // What a replica installs is what its leader has committed: nobody else may send it.
        if desk.copyset.group.leader().is_some_and(|leader| leader != head.from) {
            return Err(Fault::NotLeader);
        }
        if head.index == LogIndex(0) || head.index > LOG_INDEX_MAX {
            return Err(Fault::Order);
        }
        let conf_state = parse_conf_state(&inbound.body).map_err(|_| Fault::Membership)?;
        if !can_restore(&conf_state, desk.copyset.group.replica()) {
            return Err(Fault::Membership);
        }
        let mark = mark::emit(head.index);
        let item = Item::CatchUp(desk.copyset.id, &mark);
        if !desk.has_room(item.length())? {
            return Ok(None);
        }
        // Whatever was expected before is void.
        desk.copyset.group.expect_snapshot(None);
        desk.copyset.arrival = None;
        let last_batch = desk.shard.append_item(&item);
        desk.raise_ahead(head.index);
        let expected = ExpectedSnapshot { index: head.index, term: head.index_term, conf_state };
        Ok(Some(Round {
            expected,
            list: Vec::new(),
            staging: None,
            parts: StateParts::default(),
            last_batch,
        }))
    }

    /// Whether a chunk is on its way.
    pub fn is_amid_chunk(&self) -> bool {
        self.staging.is_some()
    }

    /// The bytes of the state that are journalled, and how many the whole state has.
    pub fn journalled_state(&self) -> Option<(u32, &[u8])> {
        self.parts.journalled()
    }

    /// Whether everything that was appended is durable.
    pub fn is_durable(&self, shard: &Shard) -> bool {
        shard.durable() >= self.last_batch
    }

    /// It is over: the raft snapshot that it led to.
    pub fn into_expected(self) -> ExpectedSnapshot {
        assert!(self.staging.is_none(), "a round ends with every chunk installed");
        self.expected
    }

    /// Gives back what is not installed.
    pub fn give_up(self, shard: &mut Shard) {
        if let Some(staging) = self.staging {
            staging.release(shard);
        }
    }

    /// A part of the list of chunks; with the last, all others go.
    pub fn retain(&mut self, inbound: &mut Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let head = inbound.head;
        if !std::mem::replace(&mut inbound.staged, true) {
            self.extend_list(inbound, desk.shard)?;
        }
        if !head.last {
            return Ok(true);
        }
        let ascending = self.list.is_sorted_by(|one, next| one < next);
        let whole = self.list.len() == head.total as usize;
        if !ascending || !whole || head.index != self.expected.index {
            return Err(Fault::List);
        }
        let mut bytes = Vec::new();
        ChunkList::encode(self.list.iter().copied(), &mut bytes);
        let list = ChunkList::parse(&bytes).map_err(|_| Fault::List)?;
        let item = Item::ChunksRetained(desk.copyset.id, head.index, list);
        if !desk.has_room(item.length())? {
            return Ok(false);
        }
        self.last_batch = desk.shard.append_item(&item);
        desk.shard.store_mut().retain_chunks(desk.copyset.id, head.index, &self.list);
        desk.raise_ahead(head.index);
        Ok(true)
    }

    fn extend_list(&mut self, inbound: &Inbound, shard: &Shard) -> Result<(), Fault> {
        let names: &[ChunkName] = catch_up_items(inbound.count, &inbound.body)?;
        if inbound.head.first != self.list.is_empty() && !names.is_empty() {
            return Err(Fault::Order);
        }
        self.list.extend(names.iter().map(|name| ChunkId(name.get())));
        let bytes = self.list.len() * size_of::<ChunkName>();
        if bytes > shard.item_bytes_max() {
            return Err(Fault::TooLong { bytes });
        }
        Ok(())
    }

    /// Blocks of a chunk; with the last, the chunk is installed.
    pub fn chunk(&mut self, inbound: &mut Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let head = inbound.head;
        if head.index > LOG_INDEX_MAX {
            return Err(Fault::Order);
        }
        if !inbound.staged && !self.stage(inbound, desk)? {
            return Ok(false);
        }
        if head.last { self.install(desk) } else { Ok(true) }
    }

    /// Takes blocks of a chunk in and starts writing their payload.
    fn stage(&mut self, inbound: &mut Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let (head, id) = (inbound.head, desk.copyset.id);
        let staging = match &mut self.staging {
            Some(staging) if !head.first && staging.continues(id, &head) => staging,
            none @ None if head.first && head.applied <= head.index => {
                none.insert(Staging::new(id, &head))
            }
            _ => return Err(Fault::Order),
        };
        let items: &[ChunkBlock] = catch_up_items(inbound.count, &inbound.body)?;
        if !staging.add(items, &inbound.runs, desk)? {
            // Begun anew with the same frame.
            if head.first {
                self.staging = None;
            }
            return Ok(false);
        }
        inbound.staged = true;
        inbound.runs.clear();
        Ok(true)
    }

    fn install(&mut self, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let staging = self.staging.take().ok_or(Fault::Order)?;
        let install = staging.install();
        let fresh = match check(&install, desk.shard) {
            Ok(fresh) => fresh,
            Err(error) => {
                staging.release(desk.shard);
                return Err(error.into());
            }
        };
        if !fresh {
            staging.release(desk.shard);
            return Ok(true);
        }
        let mut bytes = Vec::new();
        staging.encode(&mut bytes);
        let record = ChunkInstalled::parse(&bytes).expect("just encoded");
        let item = Item::ChunkInstalled(record);
        let room = desk.has_room(item.length());
        if room != Ok(true) {
            self.staging = Some(staging);
            return room;
        }
        self.last_batch = desk.shard.append_item(&item);
        // Behind the append: what it releases counts with the record's batch.
        desk.shard.store_mut().install(&install).expect("judged before");
        desk.raise_ahead(staging.as_of());
        staging.installed(desk.shard);
        Ok(true)
    }

    /// A part of the state, which is journalled as it comes.
    pub fn state_part(&mut self, inbound: &Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        assert!(!inbound.head.last);
        self.check_state(inbound)?;
        let part = self.parts.part(&inbound.head, &inbound.body);
        let item = Item::StatePart(desk.copyset.id, part);
        if !desk.has_room(item.length())? {
            return Ok(false);
        }
        self.last_batch = desk.shard.append_item(&item);
        self.parts.add(&inbound.head, &inbound.body);
        Ok(true)
    }

    /// The last part of the state, which the raft snapshot will bring to the journal.
    pub fn state_end(&mut self, inbound: &Inbound, desk: &Desk<'_>) -> Result<Arrival, Fault> {
        assert!(inbound.head.last);
        self.check_state(inbound)?;
        let arrival = Arrival::new(&mut self.parts, &inbound.body)?;
        let (id, as_of) = (arrival.state.id(), (arrival.index, arrival.state.applied_term()));
        if id != desk.copyset.id || as_of != (self.expected.index, self.expected.term) {
            return Err(Fault::StateOf);
        }
        Ok(arrival)
    }

    fn check_state(&self, inbound: &Inbound) -> Result<(), Fault> {
        let head = &inbound.head;
        let as_of: (LogIndex, Term) = (self.expected.index, self.expected.term);
        let of_round = (head.index, head.index_term) == as_of;
        if self.staging.is_some() || !of_round || inbound.body.is_empty() {
            return Err(Fault::Order);
        }
        self.parts.check(head, inbound.body.len())
    }
}

/// Whether an install changes anything here. One that brings a difference needs the life that it
/// is a difference to.
fn check(install: &ChunkInstall<'_>, shard: &Shard) -> Result<bool, InstallError> {
    let fresh = shard.store().judge_install(install)?;
    let held = shard.store().chunk(install.key);
    let same_life = held.is_some_and(|held| held.birth == install.birth);
    if fresh && install.since > LogIndex(0) && !same_life {
        return Err(InstallError::Gap);
    }
    Ok(fresh)
}
