//! The blocks of an emulated namespace: a medium, and in front of it perhaps a volatile cache.
//!
//! Offsets and lengths were checked against the namespace by the controller. A write goes to the
//! cache where there is one and it does not force unit access; a flush moves to the medium what
//! was completed before it was submitted, and nothing else.

use super::host_memory::HostMemory;
use super::medium::Medium;
use super::segments::Segments;
use super::write_cache::WriteCache;
use crate::contract::{Lba, LbaRange};
use crate::identify::Geometry;

/// Size of the unit that a power failure does not tear, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// What a power failure does to one block that was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The block is as it was before.
    Lose,
    /// The block was destaged in time.
    Keep,
    /// Only some of its 512-byte sectors were: bit n stands for sector n. A block of 512 bytes has
    /// one, so it is lost or kept whole.
    Tear {
        /// The sectors that reached the medium.
        sectors: u8,
    },
}

/// Medium and cache.
#[derive(Debug)]
pub(super) struct Store {
    geometry: Geometry,
    block_shift: u32,
    medium: Medium,
    cache: Option<WriteCache>,
}

impl Store {
    /// `cache_blocks` of zero is no volatile cache.
    pub(super) fn new(geometry: Geometry, medium: Medium, cache_blocks: u32) -> Store {
        let cache = (cache_blocks > 0)
            .then(|| WriteCache::new(geometry.block_size, geometry.blocks, cache_blocks));
        let block_shift = geometry.block_size.trailing_zeros();
        Store { geometry, block_shift, medium, cache }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether a volatile cache is present.
    pub(super) fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Number of blocks that a power failure would put at risk.
    pub(super) fn unflushed(&self) -> usize {
        self.cache.as_ref().map_or(0, WriteCache::len)
    }

    /// Copies blocks from `start` on to the host bytes that `segments` name.
    #[inline]
    pub(super) fn read(&self, start: Lba, segments: &Segments, memory: &HostMemory) {
        let mut offset = start.0 << self.block_shift;
        match &self.cache {
            Some(cache) if !cache.is_empty() => self.read_through(cache, offset, segments, memory),
            _ => segments.for_each(memory, |target| {
                self.medium.read(offset, target);
                offset += target.len() as u64;
            }),
        }
    }

    /// Copies the host bytes that `segments` name to blocks from `range.start` on. `sequence` is
    /// the number of the command's completion.
    #[inline]
    pub(super) fn write(
        &mut self,
        range: LbaRange,
        fua: bool,
        sequence: u64,
        segments: &Segments,
        memory: &HostMemory,
    ) {
        if self.cache.is_some() {
            if !fua {
                return self.write_to_cache(range.start, sequence, segments, memory);
            }
            self.forget(range);
        }
        let mut offset = range.start.0 << self.block_shift;
        segments.for_each(memory, |source| {
            self.medium.write(offset, source);
            offset += source.len() as u64;
        });
    }

    /// Makes blocks zero: like a write of zeroes.
    pub(super) fn write_zeroes(&mut self, range: LbaRange, fua: bool, sequence: u64) {
        if self.cache.is_none() || fua {
            return self.deallocate(range);
        }
        for block in range.start.0..range.start.0 + u64::from(range.blocks) {
            self.make_room(block);
            if let Some(cache) = &mut self.cache {
                let slot = cache.claim(block, sequence);
                cache.bytes_mut(slot).fill(0);
            }
        }
    }

    /// Makes blocks zero on the medium, at once.
    pub(super) fn deallocate(&mut self, range: LbaRange) {
        self.forget(range);
        let bytes = u64::from(range.blocks) << self.block_shift;
        self.medium.zero(range.start.0 << self.block_shift, bytes);
    }

    /// Moves to the medium every block that a completion numbered below `before` made dirty.
    pub(super) fn flush(&mut self, before: u64) {
        let Store { cache: Some(cache), medium, block_shift, .. } = self else { return };
        while let Some((slot, block, dirty_since)) = cache.oldest() {
            if dirty_since >= before {
                break;
            }
            medium.write_slice(block << *block_shift, cache.bytes(slot));
            cache.release(slot);
        }
    }

    /// The power fails: `decide` says for each unflushed block, oldest first, what reached the
    /// medium.
    pub(super) fn drop_unflushed(&mut self, decide: &mut impl FnMut(Lba) -> Loss) {
        let Store { cache: Some(cache), medium, block_shift, .. } = self else { return };
        while let Some((slot, block, _)) = cache.oldest() {
            let sectors = match decide(Lba(block)) {
                Loss::Lose => 0,
                Loss::Keep => u8::MAX,
                Loss::Tear { sectors } => sectors,
            };
            let start = block << *block_shift;
            for (index, sector) in cache.bytes(slot).chunks_exact(SECTOR_BYTES).enumerate() {
                if sectors & (1 << index) != 0 {
                    medium.write_slice(start + (index * SECTOR_BYTES) as u64, sector);
                }
            }
            cache.release(slot);
        }
    }

    /// Flips bits of one byte of a block on the medium.
    pub(super) fn flip(&mut self, lba: Lba, byte: u32, mask: u8) {
        let known = lba.0 < self.geometry.blocks && byte < self.geometry.block_size;
        if !known {
            return;
        }
        let offset = (lba.0 << self.block_shift) + u64::from(byte);
        let mut value = [0];
        self.medium.read_slice(offset, &mut value);
        self.medium.write_slice(offset, &[value[0] ^ mask]);
    }

    /// Reads blocks of which some may be dirty.
    fn read_through(
        &self,
        cache: &WriteCache,
        mut offset: u64,
        segments: &Segments,
        memory: &HostMemory,
    ) {
        segments.for_each(memory, |target| {
            let mut done = 0;
            while done < target.len() {
                let (block, inside) = self.split(offset);
                let part = target.part(done, (self.block_size() - inside).min(target.len() - done));
                match cache.find(block) {
                    Some(slot) => part.copy_from(&cache.bytes(slot)[inside..inside + part.len()]),
                    None => self.medium.read(offset, part),
                }
                done += part.len();
                offset += part.len() as u64;
            }
        });
    }

    fn write_to_cache(
        &mut self,
        start: Lba,
        sequence: u64,
        segments: &Segments,
        memory: &HostMemory,
    ) {
        let mut offset = start.0 << self.block_shift;
        segments.for_each(memory, |source| {
            let mut done = 0;
            while done < source.len() {
                let (block, inside) = self.split(offset);
                let part = source.part(done, (self.block_size() - inside).min(source.len() - done));
                self.make_room(block);
                if let Some(cache) = &mut self.cache {
                    let slot = cache.claim(block, sequence);
                    part.copy_to(&mut cache.bytes_mut(slot)[inside..inside + part.len()]);
                }
                done += part.len();
                offset += part.len() as u64;
            }
        });
    }

    /// Destages the block that has been dirty longest when `block` needs a slot and there is none.
    fn make_room(&mut self, block: u64) {
        let Store { cache: Some(cache), medium, block_shift, .. } = self else { return };
        if !cache.is_full() || cache.find(block).is_some() {
            return;
        }
        if let Some((slot, oldest, _)) = cache.oldest() {
            medium.write_slice(oldest << *block_shift, cache.bytes(slot));
            cache.release(slot);
        }
    }

    /// Forgets dirty blocks that are about to be overwritten on the medium.
    fn forget(&mut self, range: LbaRange) {
        let Some(cache) = &mut self.cache else { return };
        if cache.is_empty() {
            return;
        }
        for block in range.start.0..range.start.0 + u64::from(range.blocks) {
            if let Some(slot) = cache.find(block) {
                cache.release(slot);
            }
        }
    }

    fn block_size(&self) -> usize {
        self.geometry.block_size as usize
    }

    /// Block of an offset, and the offset inside it.
    fn split(&self, offset: u64) -> (u64, usize) {
        (offset >> self.block_shift, offset as usize & (self.block_size() - 1))
    }
}
