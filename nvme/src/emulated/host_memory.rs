#![allow(unsafe_code)]
//! What an emulated controller can reach of the host: its IOMMU.
//!
//! Device addresses of the emulation are addresses of this process. Every access is checked
//! against the registered ranges first, so a wrong address in a command is an error status and
//! never a fault.

use std::marker::PhantomData;
use std::ptr::NonNull;

/// One registered range.
#[derive(Clone, Copy, Debug)]
struct Range {
    base: NonNull<u8>,
    bytes: usize,
}

impl Range {
    fn start(&self) -> u64 {
        self.base.as_ptr() as u64
    }
}

/// The registered ranges, by address.
#[derive(Debug, Default)]
pub(super) struct HostMemory {
    ranges: Vec<Range>,
    /// The range that was hit last.
    recent: std::cell::Cell<usize>,
    /// Counts removals, after which pointers that were kept have to be looked up again.
    generation: u64,
}

// SAFETY: the ranges are addresses that stay mapped until they are removed (see `insert`), from
// whichever thread they are used.
unsafe impl Send for HostMemory {}

/// Bytes of the host that stay mapped while this is borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostBytes<'a> {
    pointer: NonNull<u8>,
    bytes: usize,
    memory: PhantomData<&'a HostMemory>,
}

impl HostBytes<'_> {
    /// Address of the first byte.
    #[inline]
    pub(super) fn pointer(self) -> NonNull<u8> {
        self.pointer
    }

    /// Number of bytes.
    #[inline]
    pub(super) fn len(self) -> usize {
        self.bytes
    }

    /// Copies all bytes to `target`, which has as many.
    pub(super) fn copy_to(self, target: &mut [u8]) {
        assert_eq!(target.len(), self.bytes, "both sides of a copy are equally long");
        // SAFETY: the bytes are mapped (see `HostMemory::insert`) and as many as `target` has; an
        // exclusive slice is no registered memory.
        unsafe { self.pointer.as_ptr().copy_to_nonoverlapping(target.as_mut_ptr(), self.bytes) };
    }

    /// Copies all of `source`, which has as many bytes, here.
    pub(super) fn copy_from(self, source: &[u8]) {
        assert_eq!(source.len(), self.bytes, "both sides of a copy are equally long");
        // SAFETY: as in `copy_to`; whoever owns the bytes lent them to the command under way.
        unsafe { self.pointer.as_ptr().copy_from_nonoverlapping(source.as_ptr(), self.bytes) };
    }

    /// The bytes `offset..offset + bytes`.
    ///
    /// # Panics
    ///
    /// When they are not inside.
    #[inline]
    pub(super) fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(offset <= self.bytes, "a part starts inside");
        assert!(bytes <= self.bytes - offset, "a part ends inside");
        // SAFETY: `offset` is inside the bytes by the check above.
        let pointer = unsafe { self.pointer.add(offset) };
        HostBytes { pointer, bytes, memory: PhantomData }
    }
}

impl HostMemory {
    /// Makes a range reachable.
    ///
    /// # Safety
    ///
    /// The range stays mapped, readable and writable until it is removed or the whole is dropped,
    /// and meets no range that is registered already.
    pub(super) unsafe fn insert(&mut self, base: NonNull<u8>, bytes: usize) {
        let range = Range { base, bytes };
        let at = self.ranges.partition_point(|other| other.start() < range.start());
        self.ranges.insert(at, range);
    }

    /// Ends that for the range that starts at `base`.
    pub(super) fn remove(&mut self, base: NonNull<u8>) {
        self.ranges.retain(|range| range.base != base);
        self.generation += 1;
    }

    /// Changes whenever a range is removed.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The bytes that a device address names; `None` unless all of them are registered, in one
    /// range.
    #[inline]
    pub(super) fn translate(&self, address: u64, bytes: usize) -> Option<HostBytes<'_>> {
        let recent = self.recent.get();
        let range = match self.ranges.get(recent) {
            Some(range) if contains(range, address, bytes) => range,
            _ => self.search(address, bytes)?,
        };
        let offset = (address - range.start()) as usize;
        // SAFETY: `offset` is inside the range by the check in `contains`.
        let pointer = unsafe { range.base.add(offset) };
        Some(HostBytes { pointer, bytes, memory: PhantomData })
    }

    fn search(&self, address: u64, bytes: usize) -> Option<&Range> {
        let behind = self.ranges.partition_point(|range| range.start() <= address);
        let index = behind.checked_sub(1)?;
        let range = &self.ranges[index];
        if !contains(range, address, bytes) {
            return None;
        }
        self.recent.set(index);
        Some(range)
    }
}

#[inline]
fn contains(range: &Range, address: u64, bytes: usize) -> bool {
    match address.checked_sub(range.start()) {
        Some(offset) => offset <= range.bytes as u64 && bytes as u64 <= range.bytes as u64 - offset,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(bytes: &mut [u8]) -> NonNull<u8> {
        NonNull::new(bytes.as_mut_ptr()).expect("a slice is not at zero")
    }

    #[test]
    fn only_registered_bytes_are_reachable() {
        let mut bytes = vec![0u8; 16384];
        let (first, second) = bytes.split_at_mut(8192);
        let first = pointer(first);
        let second = pointer(&mut second[4096..]);
        let mut memory = HostMemory::default();
        // SAFETY: both ranges are parts of `bytes`, which outlives `memory`, and do not meet.
        unsafe { memory.insert(second, 4096) };
        // SAFETY: as above.
        unsafe { memory.insert(first, 8192) };
        let at = |offset: u64| first.as_ptr() as u64 + offset;

        let hit = memory.translate(at(4096), 4096).expect("inside the first");
        assert_eq!(hit.pointer().as_ptr() as u64, at(4096));
        assert_eq!(hit.part(8, 4).pointer().as_ptr() as u64, at(4104));
        assert!(memory.translate(at(4096), 4097).is_none());
        assert!(memory.translate(at(8192), 1).is_none());
        assert!(memory.translate(at(12288), 4096).is_some());
        assert!(memory.translate(at(12288), 4097).is_none());
        assert!(memory.translate(at(0).wrapping_sub(1), 1).is_none());
        assert!(memory.translate(0, 1).is_none());
        assert!(memory.translate(u64::MAX, 4096).is_none());

        let generation = memory.generation();
        memory.remove(first);
        assert_ne!(memory.generation(), generation);
        assert!(memory.translate(at(0), 1).is_none());
        assert!(memory.translate(at(12288), 4096).is_some());
    }
}
