//! The store: which block of the shard's data space holds which block of which chunk, and which
//! blocks are free.
//!
//! A pure core. Payload goes to free extents ([`Store::allocate`]) before its entry is committed;
//! applying the entry swings the chunk's map to them and releases what they replace. A released
//! extent is free again when what released it is durable, nothing that might read it is in flight,
//! no frozen image names it, and the device was told if it has to be.
//!
//! | part | what |
//! | --- | --- |
//! | [`allocator`] | free blocks: a bitmap tree, next-fit |
//! | `segments` | blocks whose journal entries stand in their metadata |
//! | `releases`, [`tickets`] | the way from released to free |
//! | `leaf`, `chunk_map`, `change` | the maps: 14 bytes a block, and what entries do to them |
//! | [`frozen`] | images of chunks that share leaves with the map |
//! | `absence` | what is known of chunks that do not exist |
//! | [`image`] | chunks as bytes of a checkpoint |
//! | [`install`] | chunks of a peer |
//! | [`repaired`] | blocks of a peer |
//! | [`recovery`] | deriving and checking the free space |
//!
//! # What the caller owes
//!
//! - *Order.* The entries of a copyset are applied in order. Every extent is released once.
//! - *Ownership.* Payload extents belong to their record until its entry is applied, then to the
//!   map; a record that was truncated, refused or skipped has its extents released once.
//! - *Tickets.* Every device command, send or copy that touches an extent holds a ticket from
//!   before the extent was looked up (or allocated) until it has completed, or else its extents
//!   are not released before.
//! - *Checkpoints.* A copyset's state (with its applied index, the base of replay) is captured
//!   first, then its chunks one by one in order of [`Store::chunk_after`], each whole
//!   ([`Store::freeze`], [`Store::encode_chunk`] until the last piece, [`Store::thaw`]), then its
//!   absences. The checkpoint names a commit index for the copyset that is not below its applied
//!   index when the absences were captured, and recovery replays at least that far. So no chunk is
//!   behind the base, one that is ahead skips what it has seen, and one that was born, deleted or
//!   reborn meanwhile is brought to the same end by the replay.
//! - *Changes that no entry says.* An install or a list ([`Store::retain_chunks`]) is journaled in
//!   the batch of the next seal or before it, with the index that it is as of: the sender's, which
//!   proves that entries up to it are committed, and not that they were applied here. Those since
//!   the checkpoint began are done again in the order of the journal. Where among the entries is
//!   not recorded and needs not be, within bounds: a difference comes after the entries up to the
//!   index above which it says what changed, and a change before the entries above its own index.
//!   Exactly when as much is applied as when it was journaled would be sufficient; nobody does
//!   that. An install that is already done, whole or in what came later, is skipped.
//! - *Recovery.* Images are loaded and entries applied without free space; releases are ignored.
//!   A record that its chunk covers ([`Store::covers`]) holds no extents from then on: the map
//!   names them, or nobody does and they may hold anything; their payload is neither verified nor
//!   released nor sent. What the remaining unapplied records hold is given to
//!   [`Store::finish_recovery`].
//!
//! Fault model: images and installs come from devices and peers and are checked. All else comes
//! from the engine itself, and a contradiction there is a bug that asserts.

mod absence;
pub mod allocator;
mod bitmap;
mod block;
mod change;
mod chunk_map;
pub mod frozen;
pub mod image;
pub mod install;
mod leaf;
pub mod recovery;
mod releases;
pub mod repaired;
mod segments;
mod statistics;
#[cfg(test)]
mod tests;
pub mod tickets;

pub use block::{
    BlockState, BlockStates, Change, ChunkKey, ChunkSummary, DATA_BLOCKS_MAX, Geometry,
    LOG_INDEX_MAX, MISSING, Place,
};
pub use frozen::{FreezeError, FrozenId};
pub use image::{Encoded, ImageError, Loaded, PIECE_BYTES_MIN};
pub use install::{ChunkInstall, InstallBlock, InstallError};
pub use recovery::{LivePayload, SpaceError, User};
pub use repaired::RepairError;
pub use statistics::StoreStatistics;
pub use tickets::ReadTicket;

use crate::ids::{
    BLOCK_SIZE, BatchNumber, BlockRange, ChunkId, CopysetId, Extent, Extents, LogIndex,
    SEGMENTS_NAMED,
};
use crate::store::absence::Absences;
use crate::store::allocator::Allocator;
use crate::store::chunk_map::ChunkMap;
use crate::store::image::Loader;
use crate::store::releases::Releases;

/// The maps, the releases and the free space of one shard.
#[derive(Debug)]
pub struct Store {
    geometry: Geometry,
    map: ChunkMap,
    releases: Releases,
    /// None while the shard recovers.
    space: Option<Allocator>,
    /// Blocks taken for chunks of a peer that are not installed yet.
    arriving_blocks: u32,
    loader: Loader,
    /// So many single blocks more are taken from the active segment.
    in_segment: u32,
}

impl Store {
    /// The store of a newly formatted shard: no chunk, all space free.
    #[must_use]
    pub fn new(geometry: Geometry) -> Store {
        let mut store = Store::recovering(geometry);
        store.finish_recovery([], &[]).expect("nothing is used");
        store
    }

    /// A store to be filled by [`Store::load`] and by applying entries; it has no free space and
    /// ignores releases until [`Store::finish_recovery`].
    ///
    /// # Panics
    ///
    /// If the geometry is impossible.
    #[must_use]
    pub fn recovering(geometry: Geometry) -> Store {
        assert!(geometry.data_blocks <= DATA_BLOCKS_MAX);
        Store {
            geometry,
            map: ChunkMap::new(geometry.chunk_blocks),
            releases: Releases::new(geometry.deallocate, true),
            space: None,
            arriving_blocks: 0,
            loader: Loader::default(),
            in_segment: 0,
        }
    }

    /// The measures it was made with.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}

/// Recovery.
impl Store {
    /// Takes in one piece of an image, in the order of the checkpoint.
    ///
    /// # Errors
    ///
    /// If the bytes are no piece that fits what was loaded before; the store is of no use then.
    ///
    /// # Panics
    ///
    /// If the shard does not recover.
    pub fn load(&mut self, piece: &[u8]) -> Result<Loaded, ImageError> {
        assert!(self.space.is_none(), "recovery is over");
        self.map.load(piece, self.geometry.data_blocks, &mut self.loader)
    }

    /// Everything of the checkpoint, or of an increment to it, was loaded: chunks that it did not
    /// have are no more.
    ///
    /// # Errors
    ///
    /// If an image was cut short; the store is of no use then.
    ///
    /// # Panics
    ///
    /// If the shard does not recover.
    pub fn loaded(&mut self) -> Result<(), ImageError> {
        assert!(self.space.is_none(), "recovery is over");
        self.map.loaded(&mut self.loader)
    }

    /// An increment follows what was loaded.
    ///
    /// # Panics
    ///
    /// If the shard does not recover.
    pub fn load_increment(&mut self) {
        assert!(self.space.is_none(), "recovery is over");
        self.map.absences = Absences::default();
    }

    /// Whether the chunk, or what is known of its absence, is at or beyond `index`: an entry of
    /// that index is skipped, and its record holds no extents after recovery.
    #[must_use]
    pub fn covers(&self, key: ChunkKey, index: LogIndex) -> bool {
        self.map.covers(key, index)
    }

    /// Ends recovery: free is what neither a map nor an unapplied record names. `damaged`: groups
    /// that lost records. They give way to all others (see [`recovery`]); returned is how many
    /// blocks each of them has lost in this way. Their chunks must not change while the shard runs.
    ///
    /// # Errors
    ///
    /// If groups that are not damaged name a block twice or one outside, or an image was cut short.
    /// Then the device lies, or recovery did not keep to the rules above; the store is of no use.
    ///
    /// # Panics
    ///
    /// If the shard does not recover, or `live` has a record that its chunk covers.
    pub fn finish_recovery<'a>(
        &mut self,
        live: impl IntoIterator<Item = LivePayload<'a>>,
        damaged: &[CopysetId],
    ) -> Result<Vec<(CopysetId, u64)>, SpaceError> {
        assert!(self.space.is_none(), "recovery is over");
        if let Some(key) = self.loader.unfinished() {
            return Err(SpaceError::Unfinished(key));
        }
        let (space, lost) = recovery::derive(&self.map, self.geometry.data_blocks, live, damaged)?;
        for &(key, block) in &lost {
            self.map.lose(key, block);
        }
        self.space = Some(space);
        self.releases.start();
        let count = |copyset| lost.iter().filter(|(key, _)| key.copyset == copyset).count() as u64;
        let counts = damaged.iter().map(|&copyset| (copyset, count(copyset)));
        Ok(counts.filter(|&(_, blocks)| blocks > 0).collect())
    }

    /// The offline check; returns how many blocks are neither free nor named by anybody (a leak).
    /// `damaged` as at the end of recovery.
    ///
    /// # Errors
    ///
    /// The first contradiction found.
    ///
    /// # Panics
    ///
    /// If the shard recovers, or `live` has a record that its chunk covers.
    pub fn verify<'a>(
        &self,
        live: impl IntoIterator<Item = LivePayload<'a>>,
        damaged: &[CopysetId],
    ) -> Result<u64, SpaceError> {
        let space = self.space.as_ref().expect("recovery is over");
        recovery::verify(&self.map, &self.releases, space, live, damaged)
    }
}

/// Space.
impl Store {
    /// Takes free blocks for a payload: contiguous where possible, at most
    /// [`OPERATION_EXTENTS_MAX`](crate::ids::OPERATION_EXTENTS_MAX) extents otherwise. `None`: not
    /// enough is free (yet), or it is too scattered.
    ///
    /// # Panics
    ///
    /// If the shard recovers, or `blocks` is zero or above
    /// [`OPERATION_BLOCKS_MAX`](crate::ids::OPERATION_BLOCKS_MAX).
    pub fn allocate(&mut self, blocks: u32) -> Option<Extents> {
        let space = self.space.as_mut().expect("recovery is over");
        if blocks == 1
            && self.in_segment > 0
            && let Some(extents) = space.allocate_in_segment()
        {
            self.in_segment -= 1;
            return Some(extents);
        }
        loop {
            if let Some(extents) = space.allocate(blocks) {
                return Some(extents);
            }
            let before = space.free_blocks();
            self.releases.reclaim(space, &mut self.map.leaves);
            if space.free_blocks() == before && !self.releases.skip_deallocations(space) {
                return None;
            }
        }
    }

    /// Free blocks that payload of entries may take. The room of one chunk is left: a catch-up
    /// needs it, and entries that nothing but a catch-up brings further must not have it.
    #[must_use]
    pub fn spare_blocks(&self) -> u64 {
        let left = self.geometry.chunk_blocks.saturating_sub(self.arriving_blocks);
        self.free_blocks().saturating_sub(left.into())
    }

    /// Blocks allocated for chunks of a peer that are neither installed nor given up yet.
    #[must_use]
    pub fn arriving_blocks(&self) -> u32 {
        self.arriving_blocks
    }

    /// So many of the blocks that were allocated are for a chunk of a peer, until it is installed
    /// or given up ([`Store::arrived`]).
    pub fn arrive(&mut self, blocks: u32) {
        self.arriving_blocks += blocks;
    }

    /// So many blocks of a chunk that was on its way are the map's now, or released.
    ///
    /// # Panics
    ///
    /// If so many are not on their way.
    pub fn arrived(&mut self, blocks: u32) {
        let rest = self.arriving_blocks.checked_sub(blocks);
        self.arriving_blocks = rest.expect("only what arrives has arrived");
    }

    /// Begins with segments of so many blocks each: first those that the superblock in force names,
    /// where `places` hold what recovery may need again.
    ///
    /// # Panics
    ///
    /// If the shard recovers.
    pub fn restore_segments(&mut self, blocks: u32, named: &[Extent], places: &[u32]) {
        let space = self.space.as_mut().expect("recovery is over");
        space.restore_segments(blocks, named, places);
    }

    /// Opens the segment that the next superblock is the first to name; returns all that it names.
    pub fn open_segment(&mut self) -> [Extent; SEGMENTS_NAMED] {
        self.space.as_mut().map_or_else(Default::default, Allocator::open_segment)
    }

    /// That superblock counts.
    pub fn advance_segments(&mut self) {
        if let Some(space) = &mut self.space {
            space.advance_segments();
        }
    }

    /// Whether the segment that is active now has blocks to hand out.
    #[must_use]
    pub fn has_segment(&self) -> bool {
        self.space.as_ref().is_some_and(Allocator::has_segment)
    }

    /// Bytes of the blocks that the newest segment is to hand out.
    #[must_use]
    pub fn next_segment_bytes(&self) -> u64 {
        let blocks = self.space.as_ref().map_or(0, Allocator::next_segment_blocks);
        u64::from(blocks) * BLOCK_SIZE as u64
    }

    /// So many single blocks are to be taken from the active segment, as far as it goes, before others.
    pub fn prefer_segment(&mut self, blocks: u32) {
        self.in_segment = blocks;
    }

    /// Whether a block was taken from the segment that is active now.
    #[must_use]
    pub fn is_in_active_segment(&self, block: u32) -> bool {
        self.space.as_ref().is_some_and(|space| space.is_active(block))
    }

    /// Releases an extent that a record held: truncated, refused, or never recorded. One that
    /// stands for missing payload is nothing to release.
    pub fn release(&mut self, extent: Extent) {
        if extent.start != MISSING {
            self.releases.release(extent);
        }
    }

    /// Ties everything released since the last seal to a journal batch, which holds what released
    /// it. Batches ascend.
    pub fn seal(&mut self, batch: BatchNumber) {
        self.releases.seal(batch);
    }

    /// Notes that a batch and all before it are durable, and frees what that allows, within bounds.
    pub fn durable(&mut self, batch: BatchNumber) {
        self.releases.durable(batch);
        self.reclaim();
    }

    /// Frees what may be freed, within bounds; once a turn. Returns whether to call again soon.
    pub fn reclaim(&mut self) -> bool {
        let Some(space) = &mut self.space else { return false };
        self.releases.reclaim(space, &mut self.map.leaves)
    }

    /// Begins a read, send or copy of extents; see [`ReadTicket`].
    pub fn read_begin(&mut self) -> ReadTicket {
        self.releases.read_begin()
    }

    /// Ends it.
    pub fn read_end(&mut self, ticket: ReadTicket) {
        self.releases.read_end(ticket);
    }

    /// Moves up to `max` extents to `out`, for the device to be told that they hold nothing.
    pub fn take_deallocations(&mut self, max: usize, out: &mut Vec<Extent>) {
        self.releases.take_deallocations(max, out);
    }

    /// Frees an extent for which the device has answered, whatever it said.
    ///
    /// # Panics
    ///
    /// If the extent was not handed out.
    pub fn deallocated(&mut self, extent: Extent) {
        let space = self.space.as_mut().expect("recovery is over");
        self.releases.deallocated(extent, space);
    }
}

/// Maps. Ranges lie within a chunk: a bug of the caller if they do not.
impl Store {
    /// Appends the states of a range's blocks to `out`. False, and nothing appended: no such chunk.
    ///
    /// # Panics
    ///
    /// If `out` has no room for the range.
    pub fn lookup(&self, key: ChunkKey, range: BlockRange, out: &mut BlockStates) -> bool {
        self.map.lookup(key, range, out)
    }

    /// Applies a write: the blocks of the range lie in `extents` from now on, and what they
    /// replace is released. The chunk is born if it does not exist. A skipped write has those of
    /// its extents released that the map does not name. Extents that start at [`MISSING`] stand
    /// for payload that is not here.
    ///
    /// # Panics
    ///
    /// If extents and checksums are not as many as blocks, or an extent lies behind the end of the
    /// data space.
    pub fn write(
        &mut self,
        key: ChunkKey,
        index: LogIndex,
        range: BlockRange,
        extents: &[Extent],
        crcs: impl ExactSizeIterator<Item = u32>,
    ) -> Change {
        assert!(extents.iter().all(|&extent| self.geometry.holds(extent)));
        self.map.write(key, index, range, extents, crcs, &mut self.releases)
    }

    /// Applies a discard: the blocks read as zeroes. Nothing happens to a chunk that does not exist.
    pub fn discard(&mut self, key: ChunkKey, index: LogIndex, range: BlockRange) -> Change {
        self.map.discard(key, index, range, &mut self.releases)
    }

    /// Applies a delete. It is remembered until [`Store::forget_deletions`].
    pub fn delete(&mut self, key: ChunkKey, index: LogIndex) -> Change {
        self.map.delete(key, index, &mut self.releases)
    }

    /// Moves a block to another place of the data space (a repair) whose bytes match the block's
    /// checksum. False, and `to` released: its state is no longer `expected`.
    ///
    /// No entry says so: it has to be journaled, see [`repaired`].
    pub fn relocate(&mut self, key: ChunkKey, block: u32, expected: BlockState, to: u32) -> bool {
        assert!(to < self.geometry.data_blocks);
        self.map.relocate(key, block, expected, to, &mut self.releases)
    }

    /// What is said of a chunk; `None`: it does not exist.
    #[must_use]
    pub fn chunk(&self, key: ChunkKey) -> Option<ChunkSummary> {
        self.map.chunk(key)
    }

    /// The copyset's chunk behind `after` in order of id: a cursor that survives changes.
    #[must_use]
    pub fn chunk_after(&self, copyset: CopysetId, after: Option<ChunkId>) -> Option<ChunkSummary> {
        self.map.chunk_after(copyset, after)
    }

    /// Logical blocks that the copyset has mapped.
    #[must_use]
    pub fn mapped_blocks(&self, copyset: CopysetId) -> u64 {
        self.map.mapped_blocks(copyset)
    }

    /// Blocks of a range that are not mapped.
    #[must_use]
    pub fn unmapped_in(&self, key: ChunkKey, range: BlockRange) -> u32 {
        self.map.unmapped_in(key, range)
    }

    /// Drops all chunks of a copyset and what is known of it: the replica was removed.
    pub fn remove_copyset(&mut self, copyset: CopysetId) {
        self.map.remove_copyset(copyset, &mut self.releases);
    }
}

/// Frozen images and checkpoints.
impl Store {
    /// Captures a chunk at its applied index, without copying.
    ///
    /// # Errors
    ///
    /// If there is no such chunk, or too many images are out.
    pub fn freeze(&mut self, key: ChunkKey) -> Result<FrozenId, FreezeError> {
        assert!(self.space.is_some(), "nothing is frozen while a shard recovers");
        self.map.freeze(key)
    }

    /// Captures a chunk for a checkpoint; with it comes the index above which its image differs from
    /// the one that the call before this was for: zero, if all of it may differ.
    ///
    /// # Errors
    ///
    /// As [`Store::freeze`].
    pub fn freeze_changes(&mut self, key: ChunkKey) -> Result<(FrozenId, LogIndex), FreezeError> {
        assert!(self.space.is_some(), "nothing is frozen while a shard recovers");
        self.map.freeze_changes(key)
    }

    /// Drops an image and releases what only it named.
    pub fn thaw(&mut self, frozen: FrozenId) {
        self.map.thaw(frozen, &mut self.releases);
    }

    /// What the image says of its chunk.
    #[must_use]
    pub fn frozen_summary(&self, frozen: FrozenId) -> ChunkSummary {
        self.map.frozen.get(frozen).summary
    }

    /// The image's blocks from `from` on whose index is above `above`, holes included: what a
    /// receiver lacks that holds the same life of the chunk at `above`, or nothing at zero.
    pub fn frozen_blocks(
        &self,
        frozen: FrozenId,
        above: LogIndex,
        from: u32,
    ) -> impl Iterator<Item = (u32, BlockState)> + '_ {
        self.map.frozen_blocks(frozen, above, from)
    }

    /// Encodes as much of the image as fits into `out`, from block `from` on: zero, or what the
    /// last call returned. Blocks whose index is not above `since` are left out: the image before
    /// has them.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than [`PIECE_BYTES_MIN`].
    pub fn encode_chunk(
        &self,
        frozen: FrozenId,
        since: LogIndex,
        from: u32,
        out: &mut [u8],
    ) -> Encoded<u32> {
        self.map.encode_chunk(frozen, since, from, out)
    }

    /// Encodes as much as fits of what is known of the copyset's absent chunks behind `after`. It
    /// must not change before the last piece: encode all in one turn, or begin again.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than [`PIECE_BYTES_MIN`].
    pub fn encode_absences(
        &self,
        copyset: CopysetId,
        after: Option<ChunkId>,
        out: &mut [u8],
    ) -> Encoded<ChunkId> {
        self.map.encode_absences(copyset, after, out)
    }

    /// Forgets deletions up to `through`: a checkpoint is valid from which no entry of the copyset
    /// at or below it is replayed any more.
    pub fn forget_deletions(&mut self, copyset: CopysetId, through: LogIndex) {
        self.map.absences.forget(copyset, through);
    }
}

/// Catch-up's receiver.
impl Store {
    /// Installs a chunk, or what changed of it, and releases what it replaces.
    ///
    /// # Errors
    ///
    /// If it does not fit what is here, or is no chunk of any sender; nothing was changed then.
    pub fn install(&mut self, install: &ChunkInstall<'_>) -> Result<Change, InstallError> {
        self.map.install(install, self.geometry.data_blocks, &mut self.releases)
    }

    /// Whether [`Store::install`] would change anything: false where this state or a later one is
    /// here already. Whoever journals an install asks before: a record of one that changed nothing
    /// would name extents that are somebody else's by the time it is replayed.
    ///
    /// # Errors
    ///
    /// As [`Store::install`].
    pub fn judge_install(&self, install: &ChunkInstall<'_>) -> Result<bool, InstallError> {
        self.map.judge_install(install, self.geometry.data_blocks)
    }

    /// Takes in the sender's list of the copyset's chunks (ascending) at its applied index
    /// `as_of`: others, unless they are newer, are deleted and stay so.
    pub fn retain_chunks(&mut self, copyset: CopysetId, as_of: LogIndex, present: &[ChunkId]) {
        self.map.retain_chunks(copyset, as_of, present, &mut self.releases);
    }
}
