//! Device addresses: which are free, which are in use.
//!
//! Low addresses first: an IOMMU may have fewer address bits than a device (39 on QEMU's).

use std::ops::Range;

/// The first addresses are left alone, so that a device address of 0 is always a mistake.
const FIRST: u64 = 1 << 20;

/// Where the kernel names no ranges: below the window of message signalled interrupts on x86.
const LEGACY: Range<u64> = FIRST..0xfee0_0000;

/// Device addresses of one container.
#[derive(Debug)]
pub(super) struct IovaSpace {
    /// Free ranges, ascending and apart.
    free: Vec<Range<u64>>,
}

impl IovaSpace {
    /// All of these ranges are free, or those that every machine has if there are none.
    pub(super) fn new(mut ranges: Vec<Range<u64>>) -> IovaSpace {
        if ranges.is_empty() {
            ranges.push(LEGACY);
        }
        ranges.iter_mut().for_each(|range| range.start = range.start.max(FIRST));
        ranges.retain(|range| range.start < range.end);
        ranges.sort_by_key(|range| range.start);
        IovaSpace { free: ranges }
    }

    /// Takes `bytes` addresses from a multiple of `alignment`, a power of two, on.
    pub(super) fn take(&mut self, bytes: u64, alignment: u64) -> Option<u64> {
        assert!(alignment.is_power_of_two() && bytes > 0);
        let (index, start) = self.free.iter().enumerate().find_map(|(index, range)| {
            let start = range.start.checked_next_multiple_of(alignment)?;
            (start.checked_add(bytes)? <= range.end).then_some((index, start))
        })?;
        let Range { start: low, end: high } = self.free[index].clone();
        let rest = [low..start, start + bytes..high];
        let rest = rest.into_iter().filter(|range| range.start < range.end);
        self.free.splice(index..=index, rest);
        Some(start)
    }

    /// Gives addresses back.
    ///
    /// # Panics
    ///
    /// When some of them are free.
    pub(super) fn give_back(&mut self, start: u64, bytes: u64) {
        let end = start + bytes;
        let next = self.free.partition_point(|range| range.start < start);
        let before = next.checked_sub(1).map(|before| self.free[before].end);
        let after = self.free.get(next).map(|range| range.start);
        assert!(before.is_none_or(|free| free <= start), "addresses that are in use");
        assert!(after.is_none_or(|free| free >= end), "addresses that are in use");
        let (joins_before, joins_after) = (before == Some(start), after == Some(end));
        match (joins_before, joins_after) {
            (true, true) => {
                self.free[next - 1].end = self.free[next].end;
                self.free.remove(next);
            }
            (true, false) => self.free[next - 1].end = end,
            (false, true) => self.free[next].start = start,
            (false, false) => self.free.insert(next, start..end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_low_aligned_and_never_in_a_hole() {
        let mut space = IovaSpace::new(vec![0..0xfee0_0000, 0xfef0_0000..1 << 39]);
        assert_eq!(space.take(4096, 4096), Some(FIRST));
        assert_eq!(space.take(2 << 20, 2 << 20), Some(2 << 20));
        assert_eq!(space.take(4096, 4096), Some(FIRST + 4096));
        // What does not fit below the hole lies behind it.
        assert_eq!(space.take(4 << 30, 1 << 30), Some(4 << 30));
        assert_eq!(space.take(1 << 40, 4096), None);
        assert_eq!(IovaSpace::new(Vec::new()).take(4096, 4096), Some(FIRST));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_nobody_elses_and_all_comes_back(
            steps in proptest::collection::vec((any::<bool>(), 1u64..40, 0u32..6), 1..100)
        ) {
            let mut space = IovaSpace::new(vec![0..FIRST + (64 << 12), FIRST + (80 << 12)..FIRST + (200 << 12)]);
            let whole = space.free.clone();
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (take, pages, power) in steps {
                if take || taken.is_empty() {
                    let (bytes, alignment) = (pages << 12, 1 << (12 + power));
                    let Some(start) = space.take(bytes, alignment) else { continue };
                    prop_assert!(start.is_multiple_of(alignment));
                    prop_assert!(whole.iter().any(|range| range.start <= start && start + bytes <= range.end));
                    prop_assert!(taken.iter().all(|(other, length)| start + bytes <= *other || other + length <= start));
                    taken.push((start, bytes));
                } else {
                    let (start, bytes) = taken.swap_remove(pages as usize % taken.len());
                    space.give_back(start, bytes);
                }
            }
            taken.into_iter().for_each(|(start, bytes)| space.give_back(start, bytes));
            prop_assert_eq!(space.free, whole);
        }
    }
}
