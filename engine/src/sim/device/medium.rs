//! What a disk holds: the durable bytes of each sector, and the versions written since.
//!
//! A write does not replace what was there, it adds a *version* to each of its sectors. The newest
//! version is what a read finds. A version becomes the durable content when its write was forced,
//! when a flush covers it, or when the power fails and it happened to be kept; older versions go
//! with it. So a disk without a volatile cache has versions only while their writes are in flight.
//!
//! Example: sector 9 is durably A. Write 1 stores B and ends; a flush is rung; write 2 stores C and
//! ends; the flush ends. The sector is now durably B with version C: a read finds C, and after a
//! loss of power it holds B or C, never A.
//!
//! It knows nothing of commands and time, and does nothing by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{BLOCK_BYTES, METADATA_SECTORS, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::sim::random::Random;

/// Versions of a sector after which those that only a loss of power could bring back are dropped.
const VERSIONS_MAX: usize = 8;

const ZEROES: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// The bytes of a sector; `None` is zeroes.
pub(super) type Content = Option<Box<[u8; SECTOR_BYTES]>>;

/// A sector that cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable;

/// What one write stored in one sector.
#[derive(Clone, Debug)]
struct Version {
    content: Content,
    writer: u64,
    /// How many commands had ended when this one had; `None` while it has not.
    ended: Option<u64>,
}

/// The sectors of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Medium {
    /// Durable bytes by block; blocks that are missing are zero.
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
    /// Versions that are not durable, by sector, in the order in which they were stored.
    versions: BTreeMap<u64, Vec<Version>>,
    /// Sectors whose durable bytes cannot be read.
    bad: BTreeSet<u64>,
    /// What the oldest flush in flight covers.
    pub(super) flush_horizon: Option<u64>,
}

impl Medium {
    /// Reads what was stored last in a sector.
    pub(super) fn read(&self, sector: u64) -> Result<&[u8; SECTOR_BYTES], Unreadable> {
        if self.bad.contains(&sector) && !self.versions.contains_key(&sector) {
            return Err(Unreadable);
        }
        Ok(self.newest(sector))
    }

    /// Stores a version.
    pub(super) fn write(&mut self, sector: u64, content: Content, writer: u64) {
        let versions = self.versions.entry(sector).or_default();
        versions.push(Version { content, writer, ended: None });
        // The oldest goes only if every flush, in flight or to come, would skip it for the next.
        let skipped = match (versions[1..].first().and_then(|next| next.ended), self.flush_horizon)
        {
            (Some(ended), Some(horizon)) => ended <= horizon,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if versions.len() > VERSIONS_MAX && skipped {
            versions.remove(0);
        }
    }

    /// The write has ended, as number `ended` of all commands.
    pub(super) fn end(&mut self, sector: u64, writer: u64, ended: u64) {
        let versions = self.versions.get_mut(&sector).into_iter().flatten();
        for version in versions.filter(|version| version.writer == writer) {
            version.ended = Some(ended);
        }
    }

    /// Makes what a write stored durable, unless something newer is.
    pub(super) fn settle(&mut self, sector: u64, writer: u64) {
        let Some(versions) = self.versions.get_mut(&sector) else { return };
        let stored = versions.iter().rposition(|version| version.writer == writer);
        let Some(at) = stored else { return };
        let settled = versions.drain(..=at).next_back().expect("at least the one found");
        if versions.is_empty() {
            self.versions.remove(&sector);
        }
        self.store(sector, &settled.content);
    }

    /// Makes durable what was written by the first `covers` commands that ended.
    pub(super) fn flush(&mut self, covers: u64) {
        for (sector, version) in self.take_covered(covers) {
            self.store(sector, &version.content);
        }
    }

    /// A flush fails: each sector that it was for becomes durable, stays, or loses its versions.
    pub(super) fn flush_in_part(&mut self, covers: u64, random: &mut Random) {
        for (sector, version) in self.take_covered(covers) {
            match random.below(3) {
                0 => self.store(sector, &version.content),
                1 => self.versions.entry(sector).or_default().insert(0, version),
                _ => {}
            }
        }
    }

    /// Takes out, for each sector, the newest version that a flush covers, and drops older ones.
    fn take_covered(&mut self, covers: u64) -> Vec<(u64, Version)> {
        let mut covered = Vec::new();
        self.versions.retain(|sector, versions| {
            let is_covered = |version: &Version| version.ended.is_some_and(|at| at <= covers);
            if let Some(at) = versions.iter().rposition(is_covered) {
                let version = versions.drain(..=at).next_back().expect("at least the one found");
                covered.push((*sector, version));
            }
            !versions.is_empty()
        });
        covered
    }

    /// Every command has ended, so a flush may cover all there is.
    pub(super) fn end_all(&mut self, ended: u64) {
        self.flush_horizon = None;
        for version in self.versions.values_mut().flatten() {
            version.ended.get_or_insert(ended);
        }
    }

    /// Makes everything durable as it is read.
    pub(super) fn settle_all(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.versions) {
            let newest = versions.last().expect("a sector is listed with its versions");
            self.store(sector, &newest.content);
        }
    }

    /// The power fails: each sector keeps its durable bytes or one of its versions. Returns how
    /// many were lost and how many kept.
    pub(super) fn lose_power(&mut self, random: &mut Random) -> (u64, u64) {
        // Some failures lose nearly everything, some nearly nothing.
        let kept_in_eight = random.below(9);
        let mut lost = 0;
        let mut kept = 0;
        for (sector, versions) in std::mem::take(&mut self.versions) {
            if random.below(8) >= kept_in_eight {
                lost += 1;
                continue;
            }
            let newest = versions.len() - 1;
            let older = random.below(versions.len() as u64) as usize;
            let at = if random.below(2) == 0 { newest } else { older };
            self.store(sector, &versions[at].content);
            kept += 1;
        }
        self.flush_horizon = None;
        (lost, kept)
    }

    /// The durable bytes alone, as far as they can be read.
    pub(super) fn durable_copy(&self) -> Medium {
        Medium { blocks: self.blocks.clone(), bad: self.bad.clone(), ..Medium::default() }
    }

    /// Makes the durable bytes of a block unreadable until they are replaced.
    pub(super) fn spoil(&mut self, block: u64) {
        let first = block * SECTORS_PER_BLOCK;
        self.bad.extend(first..first + SECTORS_PER_BLOCK);
        self.bad.insert(METADATA_SECTORS + block);
    }

    /// Flips a bit among the first bytes of a sector, wherever it is stored; `bit` is taken modulo
    /// their bits.
    pub(super) fn flip(&mut self, sector: u64, used: usize, bit: u64) {
        let mut bytes = *self.durable(sector);
        flip_bit(&mut bytes[..used], bit);
        self.place(sector, &bytes);
        for version in self.versions.get_mut(&sector).into_iter().flatten() {
            let bytes = version.content.get_or_insert_with(|| Box::new([0; SECTOR_BYTES]));
            flip_bit(&mut bytes[..used], bit);
        }
    }

    /// What a read of a sector would find if it could be read.
    pub(super) fn newest(&self, sector: u64) -> &[u8; SECTOR_BYTES] {
        match self.versions.get(&sector).and_then(|versions| versions.last()) {
            Some(Version { content: Some(bytes), .. }) => bytes,
            Some(Version { content: None, .. }) => &ZEROES,
            None => self.durable(sector),
        }
    }

    /// What certainly survives a loss of power.
    pub(super) fn durable(&self, sector: u64) -> &[u8; SECTOR_BYTES] {
        match self.blocks.get(&(sector / SECTORS_PER_BLOCK)) {
            Some(block) => block[inside_block(sector)].try_into().expect("as long as a sector"),
            None => &ZEROES,
        }
    }

    /// FNV-1a of all live blocks that are not zero, with their numbers.
    pub(super) fn hash(&self) -> u64 {
        let written = self.versions.keys().map(|sector| sector / SECTORS_PER_BLOCK);
        let blocks: BTreeSet<u64> = self.blocks.keys().copied().chain(written).collect();
        let mut hash = 0xcbf2_9ce4_8422_2325;
        for block in blocks {
            let bytes = block_of(block, |sector| self.newest(sector));
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            hash = mix(hash, block);
            for word in bytes.as_chunks::<8>().0 {
                hash = mix(hash, u64::from_le_bytes(*word));
            }
        }
        hash
    }

    /// Replaces the durable bytes of a sector, which can be read from now on.
    fn store(&mut self, sector: u64, content: &Content) {
        self.bad.remove(&sector);
        match content {
            Some(bytes) => self.place(sector, bytes),
            None => self.place(sector, &[0; SECTOR_BYTES]),
        }
    }

    fn place(&mut self, sector: u64, bytes: &[u8; SECTOR_BYTES]) {
        let block = self.blocks.entry(sector / SECTORS_PER_BLOCK);
        let block = block.or_insert_with(|| Box::new([0; BLOCK_BYTES]));
        block[inside_block(sector)].copy_from_slice(bytes);
    }
}

/// Puts the sectors of a block together.
pub(super) fn block_of<'a>(
    block: u64,
    sector: impl Fn(u64) -> &'a [u8; SECTOR_BYTES],
) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    for (part, number) in bytes.chunks_exact_mut(SECTOR_BYTES).zip(block * SECTORS_PER_BLOCK..) {
        part.copy_from_slice(sector(number));
    }
    bytes
}

/// Flips one of the bits of a sector, or of what is used of it.
pub(super) fn flip_bit(bytes: &mut [u8], bit: u64) {
    let bit = (bit % (8 * bytes.len() as u64)) as usize;
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn inside_block(sector: u64) -> std::ops::Range<usize> {
    let start = (sector % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
    start..start + SECTOR_BYTES
}

fn mix(hash: u64, word: u64) -> u64 {
    // The shift lets high bits act on low ones: words are longer than FNV's bytes.
    let hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
    hash ^ (hash >> 29)
}
