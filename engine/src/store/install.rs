//! Install: how a receiver of a catch-up takes over chunks of a peer, each in one step.
//!
//! The sender freezes a chunk and names what changed above what the receiver holds; the receiver
//! writes the payload to extents of its own and then installs. From then on the chunk skips
//! entries up to its new applied index. A [`ChunkInstall`] comes from a peer or from the journal:
//! everything in it is checked before anything changes.

use crate::ids::{CopysetId, Extent, LogIndex};
use crate::store::chunk_map::{Chunk, ChunkMap};
use crate::store::releases::Releases;
use crate::store::{BlockState, Change, ChunkKey, LOG_INDEX_MAX, Place};

/// One block of a chunk that a receiver installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallBlock {
    /// The block, counted from the start of the chunk.
    pub block: u32,
    /// Its state; a place is one of the receiver's own.
    pub state: BlockState,
}

/// A chunk, or what changed of it, that a receiver installs in one step.
#[derive(Clone, Copy, Debug)]
pub struct ChunkInstall<'a> {
    /// The chunk.
    pub key: ChunkKey,
    /// Its birth on the sender.
    pub birth: LogIndex,
    /// Its applied index on the sender when it was frozen.
    pub applied: LogIndex,
    /// The copyset's applied index on the sender when the chunk was frozen.
    pub as_of: LogIndex,
    /// The blocks hold every change above this index; zero: all.
    pub since: LogIndex,
    /// What changed, blocks ascending.
    pub blocks: &'a [InstallBlock],
}

/// Why a chunk cannot be installed; nothing was changed, and the extents are still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// The difference begins above what the receiver holds.
    #[error("the difference starts above what is held here")]
    Gap,
    /// A field holds a value that no sender produces.
    #[error("install field {0} holds an impossible value")]
    Field(&'static str),
}

impl ChunkInstall<'_> {
    fn check(&self, chunk_blocks: u32, data_blocks: u32) -> Result<(), InstallError> {
        use InstallError::Field;
        if self.birth == LogIndex(0) || self.birth > self.applied {
            return Err(Field("birth"));
        }
        if self.applied > self.as_of || self.as_of > LOG_INDEX_MAX || self.since > self.applied {
            return Err(Field("applied"));
        }
        if !self.blocks.is_sorted_by(|one, next| one.block < next.block) {
            return Err(Field("order"));
        }
        let low = self.birth.max(self.since.next());
        for InstallBlock { block, state } in self.blocks {
            let placed = match state.place {
                Place::Hole => state.crc == 0,
                Place::At(place) => place < data_blocks,
                Place::Missing => false,
            };
            if !placed {
                return Err(Field("place"));
            }
            if *block >= chunk_blocks {
                return Err(Field("block"));
            }
            if !(low..=self.applied).contains(&state.index) {
                return Err(Field("index"));
            }
        }
        Ok(())
    }
}

/// What an install finds here.
enum Standing {
    /// This state, or a later one.
    Seen,
    /// An earlier state of the same life, which the difference is added to.
    Behind,
    /// An earlier life, or none.
    Other,
}

impl ChunkMap {
    pub(super) fn judge_install(
        &self,
        install: &ChunkInstall<'_>,
        data_blocks: u32,
    ) -> Result<bool, InstallError> {
        install.check(self.chunk_blocks, data_blocks)?;
        Ok(!matches!(self.standing(install)?, Standing::Seen))
    }

    pub(super) fn install(
        &mut self,
        install: &ChunkInstall<'_>,
        data_blocks: u32,
        releases: &mut Releases,
    ) -> Result<Change, InstallError> {
        install.check(self.chunk_blocks, data_blocks)?;
        let key = install.key;
        match self.standing(install)? {
            Standing::Seen => {
                self.release_install(install, releases);
                return Ok(Change::Skipped);
            }
            Standing::Behind => {}
            Standing::Other => {
                if self.chunks.contains_key(&key) {
                    self.drop_chunk(key, releases);
                }
                self.chunks.insert(key, Chunk::born(install.birth, self.chunk_blocks));
            }
        }
        self.chunks.get_mut(&key).expect("a chunk").applied = install.applied;
        let mut swing = self.reopen(key);
        for &InstallBlock { block, state } in install.blocks {
            if let Some(start) = swing.set(block, state) {
                releases.release(Extent { start, blocks: 1 });
            }
        }
        swing.finish();
        Ok(Change::Made)
    }

    fn standing(&self, install: &ChunkInstall<'_>) -> Result<Standing, InstallError> {
        let Some(chunk) = self.chunks.get(&install.key) else {
            if self.absences.covers(install.key, install.as_of) {
                return Ok(Standing::Seen);
            }
            return other(install);
        };
        if install.applied <= chunk.applied {
            return Ok(Standing::Seen);
        }
        if install.birth != chunk.birth {
            // A life that began before ours was last touched would have ended ours.
            if install.birth <= chunk.applied {
                return Err(InstallError::Field("birth"));
            }
            return other(install);
        }
        if install.since > chunk.applied {
            return Err(InstallError::Gap);
        }
        Ok(Standing::Behind)
    }

    fn release_install(&self, install: &ChunkInstall<'_>, releases: &mut Releases) {
        let chunk = self.chunks.get(&install.key);
        for &InstallBlock { block, state } in install.blocks {
            let Place::At(start) = state.place else { continue };
            let named = chunk.is_some_and(|chunk| self.state(chunk, block).place == state.place);
            if !named {
                releases.release(Extent { start, blocks: 1 });
            }
        }
    }

    pub(super) fn retain_chunks(
        &mut self,
        copyset: CopysetId,
        as_of: LogIndex,
        present: &[crate::ids::ChunkId],
        releases: &mut Releases,
    ) {
        assert!(as_of <= LOG_INDEX_MAX);
        debug_assert!(present.is_sorted());
        let mut after = None;
        while let Some(chunk) = self.chunk_after(copyset, after) {
            after = Some(chunk.key.chunk);
            if present.binary_search(&chunk.key.chunk).is_err() {
                self.delete(chunk.key, as_of, releases);
            }
        }
        self.absences.listed(copyset, as_of, present);
    }
}

/// A life that the receiver holds nothing of needs all its blocks.
fn other(install: &ChunkInstall<'_>) -> Result<Standing, InstallError> {
    if install.since >= install.birth { Err(InstallError::Gap) } else { Ok(Standing::Other) }
}
