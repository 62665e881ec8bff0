//! Recovery and check: free space is what nobody names, and nobody names a block twice.
//!
//! A group that lost records to damage is an exception. What it still names may have been released
//! by a record that is lost, and given to another group since. So the whole groups are counted
//! first, and they must not contradict each other; a damaged group keeps what it names beside them,
//! and what a whole group names is *missing* in its maps from then on. So is what two damaged groups
//! name, or one of them twice: nobody may release what another may own.

use std::collections::BTreeSet;

use crate::ids::{BlockRange, CopysetId, Extent, LogIndex};
use crate::store::allocator::Allocator;
use crate::store::chunk_map::ChunkMap;
use crate::store::leaf::LEAF_BLOCKS;
use crate::store::releases::Releases;
use crate::store::{ChunkKey, MISSING, Place};

/// Payload that an unapplied record of the journal holds.
#[derive(Clone, Copy, Debug)]
pub struct LivePayload<'a> {
    /// The chunk the record writes to.
    pub key: ChunkKey,
    /// The record's index.
    pub index: LogIndex,
    /// Where its bytes lie.
    pub extents: &'a [Extent],
}

/// Who names a block of the data space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The map of a chunk.
    Chunk {
        /// The chunk.
        key: ChunkKey,
        /// Its block.
        block: u32,
    },
    /// A frozen image of a chunk, and not its map.
    Frozen {
        /// The chunk.
        key: ChunkKey,
        /// Its block.
        block: u32,
    },
    /// A record of the journal.
    Record {
        /// The chunk it writes to.
        key: ChunkKey,
        /// Its index.
        index: LogIndex,
    },
    /// A release that is not free yet.
    Release,
    /// The free space.
    Nobody,
}

/// Maps, records and free space contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// Two users name one block of the data space.
    #[error("block {block} of the data space is used twice: by {first:?} and {second:?}")]
    DoubleUse {
        /// The block.
        block: u32,
        /// The user found first.
        first: User,
        /// The user found second.
        second: User,
    },
    /// A user names a block behind the end of the data space.
    #[error("{user:?} names block {block} behind the end of the data space")]
    Outside {
        /// The block.
        block: u32,
        /// Its user.
        user: User,
    },
    /// The last piece of a chunk's image was never loaded.
    #[error("the image of chunk {0:?} ends early")]
    Unfinished(ChunkKey),
    /// A count of mapped blocks differs from the maps.
    #[error("the count of mapped blocks of {0:?} is wrong")]
    Count(ChunkKey),
}

/// Users and what they name, collected into an allocator.
struct Census<'a> {
    map: &'a ChunkMap,
    /// Groups whose claims count behind those of all others.
    damaged: &'a [CopysetId],
    space: Allocator,
    /// What was named by others than the maps, to tell who it was.
    others: Vec<(Extent, User)>,
}

/// The free space that maps and live records leave, and the blocks of damaged groups that whole
/// ones name, or that lie outside.
pub(super) fn derive<'a>(
    map: &ChunkMap,
    data_blocks: u32,
    live: impl IntoIterator<Item = LivePayload<'a>>,
    damaged: &[CopysetId],
) -> Result<(Allocator, Vec<(ChunkKey, u32)>), SpaceError> {
    let mut census = Census::of_maps(map, data_blocks, damaged)?;
    let live_damaged = census.add_live(live)?;
    let lost = census.lost_to_others();
    census.add_damaged(&live_damaged);
    Ok((census.space, lost))
}

/// Compares what everybody names with the free space; returns the blocks that are neither free nor
/// named by anybody.
pub(super) fn verify<'a>(
    map: &ChunkMap,
    releases: &Releases,
    space: &Allocator,
    live: impl IntoIterator<Item = LivePayload<'a>>,
    damaged: &[CopysetId],
) -> Result<u64, SpaceError> {
    let mut census = Census::of_maps(map, space.blocks(), damaged)?;
    let live_damaged = census.add_live(live)?;
    census.add_frozen()?;
    let mut waiting = Vec::new();
    releases.extents(&map.leaves, |extent| waiting.push(extent));
    for extent in waiting {
        census.add(extent, User::Release)?;
    }
    census.add_damaged(&live_damaged);
    let mut leaked = 0_u64;
    for block in 0..space.blocks() {
        match (space.is_unused(block), census.space.is_free(block)) {
            (true, false) => return Err(census.double_use(block, User::Nobody)),
            (false, true) => leaked += 1,
            _ => {}
        }
    }
    Ok(leaked.saturating_sub(releases.handed_out_blocks()))
}

impl<'a> Census<'a> {
    /// Counts the maps of the whole groups.
    fn of_maps(
        map: &'a ChunkMap,
        data_blocks: u32,
        damaged: &'a [CopysetId],
    ) -> Result<Census<'a>, SpaceError> {
        let space = Allocator::new(data_blocks);
        let mut census = Census { map, damaged, space, others: Vec::new() };
        for (&key, chunk) in &map.chunks {
            let mut mapped = 0;
            for (number, &leaf) in (0..).zip(&*chunk.leaves) {
                mapped += map.leaves.mapped(leaf);
                if damaged.contains(&key.copyset) {
                    continue;
                }
                let mut result = Ok(());
                map.leaves.each_run(leaf, |run| {
                    if result.is_ok() {
                        result = census.space.mark_used(run);
                    }
                });
                result.map_err(|at| census.map_error(key, number * LEAF_BLOCKS, at))?;
            }
            if mapped != chunk.mapped {
                return Err(SpaceError::Count(key));
            }
        }
        Ok(census)
    }

    /// Counts the records of the whole groups; returns those of the others.
    fn add_live<'l>(
        &mut self,
        live: impl IntoIterator<Item = LivePayload<'l>>,
    ) -> Result<Vec<LivePayload<'l>>, SpaceError> {
        let mut left = Vec::new();
        for payload in live {
            let LivePayload { key, index, extents } = payload;
            assert!(
                !self.map.covers(key, index),
                "{key:?} has seen entry {index}: its record holds nothing"
            );
            if self.damaged.contains(&key.copyset) {
                left.push(payload);
                continue;
            }
            for &extent in extents.iter().filter(|extent| extent.start != MISSING) {
                self.add(extent, User::Record { key, index })?;
            }
        }
        Ok(left)
    }

    /// Blocks of damaged groups that cannot be where their maps say, because a whole group is
    /// there or nothing can be, or that two of them name.
    fn lost_to_others(&self) -> Vec<(ChunkKey, u32)> {
        let mut named = Vec::new();
        self.each_damaged_block(|key, block, start| named.push((start, key, block)));
        named.sort_unstable();
        let alone = |at: usize| {
            let start = named[at].0;
            let before = at.checked_sub(1).is_some_and(|before| named[before].0 == start);
            !before && named.get(at + 1).is_none_or(|next| next.0 != start)
        };
        let lost = (0..named.len()).filter(|&at| {
            let start = named[at].0;
            start >= self.space.blocks() || !self.space.is_free(start) || !alone(at)
        });
        lost.map(|at| (named[at].1, named[at].2)).collect()
    }

    /// Counts what damaged groups name and no whole group does.
    fn add_damaged(&mut self, live: &[LivePayload<'_>]) {
        let mut named = Vec::new();
        self.each_damaged_block(|_, _, start| named.push(start));
        for extent in live.iter().flat_map(|payload| payload.extents) {
            named.extend(extent.start..extent.start.saturating_add(extent.blocks));
        }
        for start in named {
            // Taken by a whole group, or named by another damaged one: both are missing soon. One
            // that stands for missing payload lies behind the end.
            let _taken = self.space.mark_used(Extent { start, blocks: 1 });
        }
    }

    fn each_damaged_block(&self, mut each: impl FnMut(ChunkKey, u32, u32)) {
        let damaged = |key: &ChunkKey| self.damaged.contains(&key.copyset);
        for (&key, chunk) in self.map.chunks.iter().filter(|(key, _)| damaged(key)) {
            for (number, &leaf) in (0..).zip(&*chunk.leaves) {
                for (at, entry) in (0..).zip(self.map.leaves.entries(leaf)) {
                    if let Place::At(start) = entry.place() {
                        each(key, number * LEAF_BLOCKS + at, start);
                    }
                }
            }
        }
    }

    /// What images name that neither the map nor an earlier image of the chunk does.
    fn add_frozen(&mut self) -> Result<(), SpaceError> {
        let mut seen = BTreeSet::new();
        for image in self.map.frozen.images() {
            let key = image.summary.key;
            for (number, &leaf) in (0..).zip(&*image.leaves) {
                for (at, entry) in (0..).zip(self.map.leaves.entries(leaf)) {
                    let Place::At(start) = entry.place() else { continue };
                    let block = number * LEAF_BLOCKS + at;
                    let live = self.map.chunks.get(&key).map(|chunk| self.map.state(chunk, block));
                    let dropped = live.is_none_or(|live| live.place != entry.place());
                    if dropped && seen.insert((key, block, start)) {
                        self.add(Extent { start, blocks: 1 }, User::Frozen { key, block })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, extent: Extent, user: User) -> Result<(), SpaceError> {
        match self.space.mark_used(extent) {
            Ok(()) => {
                self.others.push((extent, user));
                Ok(())
            }
            Err(block) if block >= self.space.blocks() => Err(SpaceError::Outside { block, user }),
            Err(block) => Err(self.double_use(block, user)),
        }
    }

    fn double_use(&self, block: u32, second: User) -> SpaceError {
        let other = self.others.iter().find(|(extent, _)| {
            extent.start <= block
                && u64::from(block) < u64::from(extent.start) + u64::from(extent.blocks)
        });
        let in_maps = || self.users_in_maps(block).next();
        let first = other.map(|&(_, user)| user).or_else(in_maps).unwrap_or(User::Nobody);
        SpaceError::DoubleUse { block, first, second }
    }

    /// The error for a block that the maps name twice, or that lies outside.
    fn map_error(&self, key: ChunkKey, block: u32, at: u32) -> SpaceError {
        let mut users = self.users_in_maps(at);
        let first = users.next().unwrap_or(User::Chunk { key, block });
        if at >= self.space.blocks() {
            return SpaceError::Outside { block: at, user: first };
        }
        let second = users.next().unwrap_or(User::Chunk { key, block });
        SpaceError::DoubleUse { block: at, first, second }
    }

    /// Every block of a chunk that names a block of the data space: a search of all maps.
    fn users_in_maps(&self, place: u32) -> impl Iterator<Item = User> + '_ {
        self.map.chunks.iter().flat_map(move |(&key, chunk)| {
            let range = BlockRange { first: 0, blocks: self.map.chunk_blocks };
            (range.first..range.blocks)
                .filter(move |&block| self.map.state(chunk, block).place == Place::At(place))
                .map(move |block| User::Chunk { key, block })
        })
    }
}
