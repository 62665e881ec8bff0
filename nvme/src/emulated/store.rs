//! The blocks of an emulated namespace: a medium, and in front of it perhaps a volatile cache.
//!
//! Offsets and lengths were checked against the namespace by the controller. A write goes to the
//! cache where there is one and it does not force unit access; a flush moves to the medium what
//! was completed before it was submitted, and nothing else.

use super::host_memory::{HostBytes, HostMemory};
use super::medium::Medium;
use super::segments::Segments;
use super::write_cache::{CacheSlot, WriteCache};
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
        let kept = geometry.block_size + geometry.metadata_bytes;
        let cache =
            (cache_blocks > 0).then(|| WriteCache::new(kept, geometry.blocks, cache_blocks));
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

    /// Copies blocks to the host bytes that `segments` name, and what is kept beside them to
    /// `metadata`.
    #[inline]
    pub(super) fn read(
        &self,
        range: LbaRange,
        segments: &Segments,
        metadata: Option<HostBytes<'_>>,
        memory: &HostMemory,
    ) {
        if let Some(metadata) = metadata {
            self.read_metadata(range, metadata);
        }
        let mut offset = range.start.0 << self.block_shift;
        match &self.cache {
            Some(cache) if !cache.is_empty() => self.read_through(cache, offset, segments, memory),
            _ => segments.for_each(memory, |target| {
                self.medium.read(offset, target);
                offset += target.len() as u64;
            }),
        }
    }

    /// Copies the host bytes that `segments` name to blocks, and the others to what is kept beside
    /// them. `sequence` is the number of the command's completion.
    #[inline]
    pub(super) fn write(
        &mut self,
        range: LbaRange,
        fua: bool,
        sequence: u64,
        (segments, metadata): (&Segments, Option<HostBytes<'_>>),
        memory: &HostMemory,
    ) {
        if self.cache.is_some() {
            if !fua {
                return self.write_to_cache(range.start, sequence, (segments, metadata), memory);
            }
            self.forget(range);
        }
        if let Some(metadata) = metadata {
            self.medium.write(self.beside(range.start.0), metadata);
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
        if self.geometry.metadata_bytes > 0 {
            let bytes = u64::from(range.blocks) * u64::from(self.geometry.metadata_bytes);
            self.medium.zero(self.beside(range.start.0), bytes);
        }
    }

    /// Moves to the medium every block that a completion numbered below `before` made dirty.
    pub(super) fn flush(&mut self, before: u64) {
        while let Some((slot, block, dirty_since)) =
            self.cache.as_ref().and_then(WriteCache::oldest)
        {
            if dirty_since >= before {
                break;
            }
            self.destage(slot, block, u8::MAX);
        }
    }

    /// The power fails: `decide` says for each unflushed block, oldest first, what reached the
    /// medium. Metadata share the fate of the last sector.
    pub(super) fn drop_unflushed(&mut self, decide: &mut impl FnMut(Lba) -> Loss) {
        while let Some((slot, block, _)) = self.cache.as_ref().and_then(WriteCache::oldest) {
            let sectors = match decide(Lba(block)) {
                Loss::Lose => 0,
                Loss::Keep => u8::MAX,
                Loss::Tear { sectors } => sectors,
            };
            self.destage(slot, block, sectors);
        }
    }

    /// Moves sectors of a dirty block to the medium, and forgets it.
    fn destage(&mut self, slot: CacheSlot, block: u64, sectors: u8) {
        let (start, beside) = (block << self.block_shift, self.beside(block));
        let last = self.block_size() / SECTOR_BYTES - 1;
        let Store { cache: Some(cache), medium, geometry, .. } = self else { return };
        let (data, metadata) = cache.bytes(slot).split_at(geometry.block_size as usize);
        for (index, sector) in data.chunks_exact(SECTOR_BYTES).enumerate() {
            if sectors & (1 << index) != 0 {
                medium.write_slice(start + (index * SECTOR_BYTES) as u64, sector);
            }
        }
        if !metadata.is_empty() && sectors & (1 << last) != 0 {
            medium.write_slice(beside, metadata);
        }
        cache.release(slot);
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

    /// Copies what is kept beside blocks of which some may be dirty.
    fn read_metadata(&self, range: LbaRange, target: HostBytes<'_>) {
        let each = self.geometry.metadata_bytes as usize;
        for (number, block) in (range.start.0..).take(range.blocks as usize).enumerate() {
            let part = target.part(number * each, each);
            match self.cache.as_ref().and_then(|cache| Some((cache, cache.find(block)?))) {
                Some((cache, slot)) => part.copy_from(&cache.bytes(slot)[self.block_size()..]),
                None => self.medium.read(self.beside(block), part),
            }
        }
    }

    fn write_to_cache(
        &mut self,
        start: Lba,
        sequence: u64,
        (segments, metadata): (&Segments, Option<HostBytes<'_>>),
        memory: &HostMemory,
    ) {
        let (block_size, each) = (self.block_size(), self.geometry.metadata_bytes as usize);
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
                    if let Some(metadata) = metadata {
                        let part = metadata.part((block - start.0) as usize * each, each);
                        part.copy_to(&mut cache.bytes_mut(slot)[block_size..]);
                    }
                }
                done += part.len();
                offset += part.len() as u64;
            }
        });
    }

    /// Destages the block that has been dirty longest when `block` needs a slot and there is none.
    fn make_room(&mut self, block: u64) {
        let Some(cache) = &self.cache else { return };
        if !cache.is_full() || cache.find(block).is_some() {
            return;
        }
        if let Some((slot, oldest, _)) = cache.oldest() {
            self.destage(slot, oldest, u8::MAX);
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

    /// Where on the medium the metadata of a block are: behind all blocks.
    fn beside(&self, block: u64) -> u64 {
        (self.geometry.blocks << self.block_shift) + block * u64::from(self.geometry.metadata_bytes)
    }

    fn block_size(&self) -> usize {
        self.geometry.block_size as usize
    }

    /// Block of an offset, and the offset inside it.
    fn split(&self, offset: u64) -> (u64, usize) {
        (offset >> self.block_shift, offset as usize & (self.block_size() - 1))
    }
}
