//! A chunk on its way: its blocks are on the device, and no map names them yet.

use culvert_memory::Pages;

use super::super::{COMMANDS_HEADROOM, FRAME_BLOCKS_MAX};
use super::fault::Fault;
use super::round::Desk;
use crate::ids::{BLOCK_SIZE, CopysetId, Extent, Extents, LogIndex, OPERATION_BLOCKS_MAX};
use crate::journal::{ChunkInstalled, HOLE, InstalledBlock, InstalledHead, NOWHERE};
use crate::shard::Shard;
use crate::store::{BlockState, ChunkInstall, ChunkKey, InstallBlock, Place};
use crate::wire::{CatchUpHead, ChunkBlock};

/// See the module's documentation.
pub(super) struct Staging {
    head: InstalledHead,
    blocks: Vec<InstallBlock>,
}

/// Payload of one frame on its way to the device: where each part of each run goes.
type Parts = Vec<(Extents, Pages)>;

impl Staging {
    /// Begins a chunk.
    pub fn new(copyset: CopysetId, head: &CatchUpHead) -> Staging {
        Staging { head: head_of(copyset, head), blocks: Vec::new() }
    }

    /// Whether a frame goes on with this chunk.
    pub fn continues(&self, copyset: CopysetId, head: &CatchUpHead) -> bool {
        self.head == head_of(copyset, head)
    }

    /// Takes the blocks of one frame in and writes their payload. `false`: the shard has no space
    /// or no commands for it now, and nothing was done.
    pub fn add(
        &mut self,
        items: &[ChunkBlock],
        runs: &[Pages],
        desk: &mut Desk<'_>,
    ) -> Result<bool, Fault> {
        let shard = &mut *desk.shard;
        self.check(items, runs, shard)?;
        let blocks: u32 = runs.iter().map(Pages::pages).sum();
        let commands = shard.commands_free();
        // Down to the last block: a chunk's room is there for no one else, and what the chunk
        // replaces is free again soon.
        if u64::from(blocks) > shard.store().free_blocks() {
            desk.short_of_space = true;
            return Ok(false);
        }
        if commands < blocks + COMMANDS_HEADROOM {
            return Ok(false);
        }
        let Some(parts) = allocate(runs, shard) else { return Ok(false) };
        for (extents, pages) in &parts {
            shard.write_payload(extents, pages);
        }
        shard.store_mut().arrive(blocks);
        let extents = parts.iter().flat_map(|(extents, _)| extents);
        let mut places = extents.flat_map(|extent| extent.start..extent.end());
        self.blocks.extend(items.iter().map(|item| {
            let place = match item.mapped.get() {
                0 => Place::Hole,
                _ => Place::At(places.next().expect("as many places as blocks")),
            };
            let index = LogIndex(item.index.get());
            let state = BlockState { place, crc: item.crc.get(), index };
            InstallBlock { block: item.block.get(), state }
        }));
        Ok(true)
    }

    fn check(&self, items: &[ChunkBlock], runs: &[Pages], shard: &Shard) -> Result<(), Fault> {
        let chunk_blocks = shard.store().geometry().chunk_blocks;
        let mut last = self.blocks.last().map(|block| block.block);
        for item in items {
            let block = item.block.get();
            if block >= chunk_blocks || last.is_some_and(|last| block <= last) {
                return Err(Fault::Block(block));
            }
            if item.mapped.get() > 1 {
                return Err(Fault::Block(block));
            }
            last = Some(block);
        }
        let mapped = items.iter().filter(|item| item.mapped.get() == 1);
        let mut pages = runs
            .iter()
            .flat_map(|run| (0..run.pages() as usize).map(move |page| (run, page * BLOCK_SIZE)));
        let mut count = 0;
        for item in mapped {
            let (run, at) = pages.next().ok_or(Fault::Payload)?;
            if run.crc32c(at, BLOCK_SIZE) != item.crc.get() {
                return Err(Fault::Checksum(item.block.get()));
            }
            count += 1;
        }
        if pages.next().is_some() || count > FRAME_BLOCKS_MAX {
            return Err(Fault::Payload);
        }
        Ok(())
    }

    /// What the store is to install.
    pub fn install(&self) -> ChunkInstall<'_> {
        ChunkInstall {
            key: ChunkKey { copyset: self.head.copyset, chunk: self.head.chunk },
            birth: self.head.birth,
            applied: self.head.applied,
            as_of: self.head.as_of,
            since: self.head.since,
            blocks: &self.blocks,
        }
    }

    fn stored_blocks(&self) -> u32 {
        let stored = self.blocks.iter().filter(|block| matches!(block.state.place, Place::At(_)));
        stored.count() as u32
    }

    /// The sender's applied index when it froze the chunk.
    pub fn as_of(&self) -> LogIndex {
        self.head.as_of
    }

    /// Encodes the record that installs it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let blocks = self.blocks.iter().map(|block| InstalledBlock {
            block: block.block,
            granule: match block.state.place {
                Place::Hole => HOLE,
                Place::Missing => NOWHERE,
                Place::At(granule) => granule,
            },
            crc: block.state.crc,
            index: block.state.index,
        });
        ChunkInstalled::encode(&self.head, blocks, out);
    }

    /// It is installed: its extents are the map's.
    pub fn installed(self, shard: &mut Shard) {
        shard.store_mut().arrived(self.stored_blocks());
    }

    /// Gives its extents back: it is not installed.
    pub fn release(self, shard: &mut Shard) {
        shard.store_mut().arrived(self.stored_blocks());
        for block in &self.blocks {
            if let Place::At(start) = block.state.place {
                shard.store_mut().release(Extent { start, blocks: 1 });
            }
        }
    }
}

fn head_of(copyset: CopysetId, head: &CatchUpHead) -> InstalledHead {
    InstalledHead {
        copyset,
        chunk: head.chunk,
        birth: head.birth,
        applied: head.applied,
        as_of: head.index,
        since: head.since,
    }
}

/// Takes space for all runs, or for none.
fn allocate(runs: &[Pages], shard: &mut Shard) -> Option<Parts> {
    let mut parts = Parts::new();
    for run in runs {
        let mut first = 0;
        while first < run.pages() {
            let mut blocks = (run.pages() - first).min(OPERATION_BLOCKS_MAX);
            let extents = loop {
                match shard.store_mut().allocate(blocks) {
                    Some(extents) => break extents,
                    // Too scattered for an operation's extents: in smaller parts.
                    None if blocks > 1 => blocks = blocks.div_ceil(2),
                    None => {
                        let taken = parts.iter().flat_map(|(extents, _)| extents.iter());
                        taken.for_each(|extent| shard.store_mut().release(*extent));
                        return None;
                    }
                }
            };
            parts.push((extents, run.slice(first, blocks)));
            first += blocks;
        }
    }
    Some(parts)
}
