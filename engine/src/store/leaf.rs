//! Leaves: the entries of the chunk maps, 512 to a leaf, 14 bytes to a block.
//!
//! A leaf belongs to one chunk's map, and to every frozen image that was taken since the leaf was
//! last written: [`LeafPool::private`] copies a shared one before it is changed. Leaves lie in
//! groups that are allocated when needed and reused, never returned.

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Extent, LogIndex};
use crate::store::{BlockState, LOG_INDEX_MAX, MISSING, Place};

/// Blocks of a leaf.
pub(super) const LEAF_BLOCKS: u32 = 512;

/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 14;

/// Leaves that are allocated at once: 224 KiB, which the allocator hands out as untouched zeroes.
const GROUP_LEAVES: usize = 32;

/// A leaf of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeafId(u32);

impl LeafId {
    /// No leaf: no block of it was touched since the chunk's birth.
    pub(super) const NONE: LeafId = LeafId(u32::MAX);
}

/// One block of a map, in memory and in a chunk's image. All zeroes: never touched.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub(super) struct Entry {
    /// 0: a hole; `u32::MAX`: missing; else 1 + the block of the data space.
    place: U32,
    crc: U32,
    /// 48 bits of the log index.
    index: [u8; 6],
}

const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);

impl Entry {
    pub(super) fn new(state: BlockState) -> Entry {
        debug_assert!(state.index <= LOG_INDEX_MAX);
        let place = match state.place {
            Place::Hole => 0,
            Place::At(block) => block + 1,
            Place::Missing => MISSING,
        };
        let index = state.index.0.to_le_bytes();
        Entry {
            place: place.into(),
            crc: state.crc.into(),
            index: [index[0], index[1], index[2], index[3], index[4], index[5]],
        }
    }

    pub(super) fn place(&self) -> Place {
        match self.place.get() {
            0 => Place::Hole,
            MISSING => Place::Missing,
            place => Place::At(place - 1),
        }
    }

    pub(super) fn index(&self) -> LogIndex {
        let [a, b, c, d, e, f] = self.index;
        LogIndex(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    pub(super) fn state(&self) -> BlockState {
        BlockState { place: self.place(), crc: self.crc.get(), index: self.index() }
    }
}

/// What is kept of a leaf beside its entries.
#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    /// The highest index of its entries, or above: what lets a difference skip it.
    newest: LogIndex,
    /// The map and the frozen images that share it; zero: it is in no use.
    users: u16,
    mapped: u16,
    missing: u16,
}

/// The leaves of a shard.
#[derive(Debug, Default)]
pub(super) struct LeafPool {
    groups: Vec<Box<[[u8; ENTRY_BYTES]]>>,
    metas: Vec<Meta>,
    unused: Vec<LeafId>,
}

const GROUP_BLOCKS: usize = GROUP_LEAVES * LEAF_BLOCKS as usize;

fn entry_of(bytes: &[u8; ENTRY_BYTES]) -> &Entry {
    zerocopy::transmute_ref!(bytes)
}

impl LeafPool {
    /// A leaf of untouched blocks with one user.
    pub(super) fn acquire(&mut self) -> LeafId {
        let id = match self.unused.pop() {
            Some(id) => {
                self.bytes_mut(id).fill([0; ENTRY_BYTES]);
                id
            }
            None => self.grow(),
        };
        self.metas[id.0 as usize] = Meta { users: 1, ..Meta::default() };
        id
    }

    fn grow(&mut self) -> LeafId {
        let id = self.metas.len();
        if id == self.groups.len() * GROUP_LEAVES {
            self.groups.push(vec![[0; ENTRY_BYTES]; GROUP_BLOCKS].into_boxed_slice());
        }
        self.metas.push(Meta::default());
        LeafId(id as u32)
    }

    /// Takes one user off; returns whether it was the last, and then the leaf still has its
    /// entries until [`LeafPool::reuse`].
    pub(super) fn abandon(&mut self, id: LeafId) -> bool {
        let meta = &mut self.metas[id.0 as usize];
        assert!(meta.users > 0);
        meta.users -= 1;
        meta.users == 0
    }

    /// Makes an abandoned leaf available again.
    pub(super) fn reuse(&mut self, id: LeafId) {
        assert_eq!(self.metas[id.0 as usize].users, 0);
        self.unused.push(id);
    }

    /// Adds a user.
    pub(super) fn share(&mut self, id: LeafId) {
        self.metas[id.0 as usize].users += 1;
    }

    /// A leaf with the same entries and no user but the caller, whose share of `id` it replaces.
    pub(super) fn private(&mut self, id: LeafId) -> LeafId {
        let meta = self.metas[id.0 as usize];
        if meta.users == 1 {
            return id;
        }
        self.metas[id.0 as usize].users -= 1;
        let copy = self.unused.pop().unwrap_or_else(|| self.grow());
        self.metas[copy.0 as usize] = Meta { users: 1, ..meta };
        let mut entries = [[0; ENTRY_BYTES]; LEAF_BLOCKS as usize];
        entries.copy_from_slice(self.bytes(id));
        self.bytes_mut(copy).copy_from_slice(&entries);
        copy
    }

    fn bytes(&self, id: LeafId) -> &[[u8; ENTRY_BYTES]] {
        let (group, leaf) = (id.0 as usize / GROUP_LEAVES, id.0 as usize % GROUP_LEAVES);
        let first = leaf * LEAF_BLOCKS as usize;
        &self.groups[group][first..first + LEAF_BLOCKS as usize]
    }

    fn bytes_mut(&mut self, id: LeafId) -> &mut [[u8; ENTRY_BYTES]] {
        let (group, leaf) = (id.0 as usize / GROUP_LEAVES, id.0 as usize % GROUP_LEAVES);
        let first = leaf * LEAF_BLOCKS as usize;
        &mut self.groups[group][first..first + LEAF_BLOCKS as usize]
    }

    /// The entry of the leaf's block `at`; of no leaf: an untouched one.
    pub(super) fn entry(&self, id: LeafId, at: u32) -> Entry {
        if id == LeafId::NONE {
            return Entry::new(BlockState::default());
        }
        *entry_of(&self.bytes(id)[at as usize])
    }

    /// The entries of a leaf; of no leaf: none.
    pub(super) fn entries(&self, id: LeafId) -> impl Iterator<Item = &Entry> {
        let bytes = if id == LeafId::NONE { &[] } else { self.bytes(id) };
        bytes.iter().map(entry_of)
    }

    /// Calls `each` with what a leaf names in the data space, neighbours joined.
    pub(super) fn each_run(&self, id: LeafId, mut each: impl FnMut(Extent)) {
        let mut run = Extent::default();
        for entry in self.entries(id) {
            let Place::At(start) = entry.place() else { continue };
            if run.blocks > 0 && run.end() == start {
                run.blocks += 1;
                continue;
            }
            if run.blocks > 0 {
                each(run);
            }
            run = Extent { start, blocks: 1 };
        }
        if run.blocks > 0 {
            each(run);
        }
    }

    /// Replaces an entry and returns the old one.
    pub(super) fn replace(&mut self, id: LeafId, at: u32, state: BlockState) -> Entry {
        debug_assert_eq!(self.metas[id.0 as usize].users, 1);
        let bytes = &mut self.bytes_mut(id)[at as usize];
        let old = *entry_of(bytes);
        *bytes = zerocopy::transmute!(Entry::new(state));
        let meta = &mut self.metas[id.0 as usize];
        meta.newest = meta.newest.max(state.index);
        meta.mapped = meta.mapped + u16::from(state.place != Place::Hole)
            - u16::from(old.place() != Place::Hole);
        meta.missing = meta.missing + u16::from(state.place == Place::Missing)
            - u16::from(old.place() == Place::Missing);
        old
    }

    /// Mapped blocks of a leaf, missing ones included.
    pub(super) fn mapped(&self, id: LeafId) -> u32 {
        if id == LeafId::NONE { 0 } else { self.metas[id.0 as usize].mapped.into() }
    }

    /// Blocks of the data space that a leaf names.
    pub(super) fn placed(&self, id: LeafId) -> u32 {
        if id == LeafId::NONE {
            0
        } else {
            self.mapped(id) - u32::from(self.metas[id.0 as usize].missing)
        }
    }

    /// No entry of the leaf has an index above this.
    pub(super) fn newest(&self, id: LeafId) -> LogIndex {
        if id == LeafId::NONE { LogIndex(0) } else { self.metas[id.0 as usize].newest }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.groups.len() * GROUP_BLOCKS * ENTRY_BYTES
            + self.groups.capacity() * size_of::<Box<[[u8; ENTRY_BYTES]]>>()
            + self.metas.capacity() * size_of::<Meta>()
            + self.unused.capacity() * size_of::<LeafId>()
    }
}
