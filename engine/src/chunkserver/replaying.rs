//! From the records of a journal to maps and state, at start.
//!
//! A replica's log is replayed from its state's applied index. Beside it stands what catch-up did
//! to the chunks, in the order of the journal, but without its place among the entries. It needs
//! none: an installed chunk skips the entries that it has seen, whether they are applied before or
//! after, and overwrites whatever they wrote. Only two things bind the order.
//!
//! - An install that brings what changed above an index needs the chunk to be there: the entries up
//!   to that index were applied before the install was journalled, and are applied before it here.
//! - Entries above an installed chunk's index come after the install, or it would be skipped as
//!   old. So of one log all changes come first, apart from what the rule above calls for; and of
//!   logs that raft snapshots cut apart the earlier comes first, as a whole. An old log matters: its
//!   last entries may have reached chunks that no later checkpoint and no catch-up touched.
//!
//! Repairs come last, those of all logs together; `store/repaired.rs` says why that is right.
//!
//! Fault model: the bytes were checked for damage, not for sense. What makes no sense keeps the
//! replica out of service.

use raft::eraftpb::{ConfState, HardState};

use super::catch_up::mark;
use super::start::first_base;
use crate::copyset::{self, CopysetState};
use crate::ids::{CopysetId, Extent, LogIndex};
use crate::journal::{BlockRepaired, ChunkInstalled, HOLE, NOWHERE};
use crate::raft_group::{Log, LogEntry, parse_conf_state};
use crate::shard::check::{HeldPayload, Rebuilt};
use crate::shard::{Change, ChangeList, EntryList, PastLog, RecoveredGroup};
use crate::store::{
    BlockState, ChunkInstall, ChunkKey, InstallBlock, InstallError, LOG_INDEX_MAX, Place,
    RepairError, Store,
};

/// Why a journal cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplayError {
    /// An entry is missing.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// No log has two entries so.
    #[error("the term of its entry {0} is below that of the one before")]
    Term(LogIndex),
    /// A catch-up's record does not fit the chunk.
    #[error("a chunk that a catch-up installed: {0}")]
    Install(#[from] InstallError),
    /// A catch-up's list of chunks makes no sense.
    #[error("a list of chunks that a catch-up left is out of order")]
    List,
    /// A repair's record is not one.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// The state of a log that is over.
    #[error("its former state cannot be read: {0}")]
    State(#[from] copyset::ImageError),
}

/// An entry is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its log has a gap before index {0}")]
pub(super) struct Gap(pub LogIndex);

/// Payload of an entry that is not applied.
pub(super) type Live = (ChunkKey, LogIndex, Vec<Extent>);

/// Replays a log that a raft snapshot ended. Returns how far ahead of it chunks may be.
pub(super) fn past(
    past: &PastLog,
    id: CopysetId,
    quota: u64,
    store: &mut Store,
) -> Result<LogIndex, ReplayError> {
    let mut state = match &past.image {
        Some(bytes) => CopysetState::parse(bytes)?,
        None => CopysetState::new(id, quota),
    };
    let base = past.log_start.unwrap_or(first_base());
    let mut log = Log::new(HardState::default(), ConfState::default(), base);
    fill(&mut log, &past.entries)?;
    let ahead = changes(&past.changes, &log, &mut state, store)?;
    let through = past.applied_note.min(log.last());
    apply(&log, &mut state, through, store)?;
    Ok(ahead)
}

/// Puts the entries kept behind the log's base.
pub(super) fn fill(log: &mut Log, entries: &EntryList) -> Result<(), ReplayError> {
    let base = log.base().0;
    for entry in entries.iter().skip_while(|entry| entry.record.index() <= base) {
        let index = entry.record.index();
        if index != log.last().next() {
            return Err(Gap(index).into());
        }
        if log.term_at(log.last()).is_some_and(|last| entry.record.term() < last) {
            return Err(ReplayError::Term(index));
        }
        log.append(&entry.record, &entry.extents, entry.superseded_by, None);
    }
    Ok(())
}

/// Applies entries through an index.
pub(super) fn apply(
    log: &Log,
    state: &mut CopysetState,
    through: LogIndex,
    store: &mut Store,
) -> Result<(), Gap> {
    let mut index = state.applied().next();
    while index <= through {
        let entry = log.get(index).ok_or(Gap(index))?;
        state.apply(entry.record, &entry.extents(), store);
        index = index.next();
    }
    Ok(())
}

/// Does again what catch-up did. Returns the index up to which chunks may be ahead of the state.
pub(super) fn changes(
    list: &ChangeList,
    log: &Log,
    state: &mut CopysetState,
    store: &mut Store,
) -> Result<LogIndex, ReplayError> {
    let mut ahead = LogIndex(0);
    for change in list.iter() {
        match change {
            Change::Installed(installed) => {
                let head = installed.head();
                ahead = ahead.max(head.as_of);
                install(installed, log, state, store)?;
            }
            Change::Retained(as_of, chunks) => {
                let chunks: Vec<_> = chunks.chunks().collect();
                if as_of > LOG_INDEX_MAX || !chunks.is_sorted() {
                    return Err(ReplayError::List);
                }
                ahead = ahead.max(as_of);
                store.retain_chunks(state.id(), as_of, &chunks);
            }
        }
    }
    Ok(ahead)
}

fn install(
    installed: ChunkInstalled<'_>,
    log: &Log,
    state: &mut CopysetState,
    store: &mut Store,
) -> Result<(), ReplayError> {
    let head = installed.head();
    let key = ChunkKey { copyset: head.copyset, chunk: head.chunk };
    let held = store.chunk(key);
    if head.since > LogIndex(0) && held.is_none_or(|held| held.applied < head.since) {
        apply(log, state, head.since.min(log.last()), store)?;
    }
    let blocks: Vec<_> = installed
        .blocks()
        .map(|block| {
            let place = match block.granule {
                HOLE => Place::Hole,
                NOWHERE => Place::Missing,
                granule => Place::At(granule),
            };
            let state = BlockState { place, crc: block.crc, index: block.index };
            InstallBlock { block: block.block, state }
        })
        .collect();
    store.install(&ChunkInstall {
        key,
        birth: head.birth,
        applied: head.applied,
        as_of: head.as_of,
        since: head.since,
        blocks: &blocks,
    })?;
    Ok(())
}

/// Does again what repairs did, when all else was done.
pub(super) fn repairs(list: &[BlockRepaired], store: &mut Store) -> Result<(), RepairError> {
    for repair in list {
        let key = ChunkKey { copyset: repair.copyset, chunk: repair.chunk };
        store.repaired(key, repair.block, (repair.index, repair.crc), repair.granule)?;
    }
    Ok(())
}

/// Entries whose chunk is already past them, because a catch-up installed it, have lost their
/// payload to it.
pub(super) fn drop_covered(log: &mut Log, state: &CopysetState, ahead: LogIndex, store: &Store) {
    let through = state.applied().max(log.base().0);
    for index in (through.0 + 1..=log.last().0).map(LogIndex) {
        let entry = log.get(index).expect("an index within the log");
        let key = ChunkKey { copyset: entry.record.copyset(), chunk: entry.record.chunk() };
        if entry.record.payload_blocks() > 0 && store.covers(key, index) {
            log.drop_extents(index, ahead.max(index.next()));
        }
    }
}

/// Payload of entries that are not applied yet.
pub(super) fn live_payload(log: &Log, state: &CopysetState) -> Vec<Live> {
    let first = state.applied().0 + 1;
    let entries = (first..=log.last().0).filter_map(|index| log.get(LogIndex(index)));
    entries
        .filter(LogEntry::has_extents)
        .map(|entry| {
            let record = entry.record;
            let key = ChunkKey { copyset: record.copyset(), chunk: record.chunk() };
            (key, record.index(), entry.extents().to_vec())
        })
        .collect()
}

/// What recovery found of a replica that does not serve, as far as it hangs together.
pub(super) struct Salvaged {
    pub log: Log,
    pub state: CopysetState,
    /// Up to which index chunks may be ahead of the state.
    pub ahead: LogIndex,
    /// Whether everything was there. If not, its chunks may be older than what the device knows to
    /// be committed, and name blocks that others use by now.
    pub whole: bool,
}

/// Replays what was found of a replica, up to where it does not hang together any more.
pub(super) fn salvage(store: &mut Store, found: &RecoveredGroup) -> Salvaged {
    let id = found.copyset;
    let mut whole = !found.cut_off;
    for past in &found.past {
        whole &= self::past(past, id, 0, store).is_ok();
    }
    let stored = found.image.as_deref().map(CopysetState::parse);
    whole &= !matches!(stored, Some(Err(_)));
    let mut state = stored.and_then(Result::ok).unwrap_or_else(|| CopysetState::new(id, 0));
    let members = found.conf_state.as_deref().map(parse_conf_state);
    whole &= !matches!(members, Some(Err(_)));
    let members = members.and_then(Result::ok).unwrap_or_default();
    let base = found.log_start.unwrap_or(first_base());
    let mut log = Log::new(HardState::default(), members, base);
    // What lies behind a gap is of no use without what is missing.
    whole &= fill(&mut log, &found.entries).is_ok();
    let changed = changes(&found.changes, &log, &mut state, store);
    whole &= changed.is_ok();
    let through = found.applied_note.min(log.last());
    whole &= apply(&log, &mut state, through, store).is_ok();
    whole &= repairs(&found.repairs, store).is_ok();
    let mut ahead = changed.unwrap_or_default().max(mark::parse(found.catch_up.as_deref()));
    if found.cut_off {
        ahead = ahead.max(cut_off(&mut log, &state, store));
    }
    drop_covered(&mut log, &state, ahead, store);
    Salvaged { log, state, ahead, whole }
}

/// Takes a log back to what was applied: what its later entries name may belong to others by now,
/// and its leader sends them again. Returns how far ahead of the state its chunks are, because the
/// checkpoint took them later.
pub(super) fn cut_off(log: &mut Log, state: &CopysetState, store: &Store) -> LogIndex {
    log.truncate(state.applied().next(), |_nobody_names_them| ());
    let mut chunk = store.chunk_after(state.id(), None);
    let mut ahead = LogIndex(0);
    while let Some(summary) = chunk {
        ahead = ahead.max(summary.applied);
        chunk = store.chunk_after(state.id(), Some(summary.key.chunk));
    }
    ahead
}

/// Brings the maps of one group up to what its device knows to be committed, for the offline
/// check, and says what the entries behind hold.
pub fn rebuild(store: &mut Store, found: &RecoveredGroup) -> Rebuilt {
    let Salvaged { log, state, whole, .. } = salvage(store, found);
    let first = state.applied().0 + 1;
    let entries = (first..=log.last().0).filter_map(|index| log.get(LogIndex(index)));
    let held = entries.filter(LogEntry::has_extents).map(|entry| HeldPayload {
        key: ChunkKey { copyset: found.copyset, chunk: entry.record.chunk() },
        index: entry.record.index(),
        extents: entry.extents().to_vec(),
        crcs: entry.record.crcs().collect(),
    });
    Rebuilt { held: held.collect(), whole, applied: state.applied() }
}
