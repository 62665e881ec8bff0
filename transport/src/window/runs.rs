//! Runs of pages in a window that somebody allocates: the sender in the peer's, or the owner in his
//! own.
//!
//! One bit per page and state. A window is made of segments that are adjacent in page numbers and
//! not in memory, so a run never crosses from one segment into the next.

use arrayvec::ArrayVec;

use crate::config::SEGMENTS_MAX;

/// Pages in a word.
const WORD: u32 = u64::BITS;

/// The free pages of a window.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// Set while the page is free.
    free: Vec<u64>,
    /// The end of each segment.
    ends: ArrayVec<u32, SEGMENTS_MAX>,
    free_pages: u32,
    /// Where the next run is looked for.
    hint: u32,
}

impl Runs {
    /// Pages, free or not.
    pub(crate) fn pages(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Free pages.
    pub(crate) fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// Number of segments.
    pub(crate) fn segments(&self) -> usize {
        self.ends.len()
    }

    /// The pages of the largest segment.
    pub(crate) fn segment_pages_max(&self) -> u32 {
        let firsts = std::iter::once(0).chain(self.ends.iter().copied());
        self.ends.iter().zip(firsts).map(|(end, first)| end - first).max().unwrap_or(0)
    }

    /// Appends a segment of `pages` pages, all free. The caller has checked that there is room for
    /// one.
    pub(crate) fn grow(&mut self, pages: u32) {
        let first = self.pages();
        let end = first + pages;
        self.ends.push(end);
        self.free.resize(end.div_ceil(WORD) as usize, 0);
        self.mark_free(first, pages);
        self.hint = first;
    }

    /// Takes a run of `pages` free pages that lies in one segment.
    pub(crate) fn acquire(&mut self, pages: u32) -> Option<u32> {
        if pages == 0 || pages > self.free_pages {
            return None;
        }
        let page = self.find(self.hint, pages).or_else(|| self.find(0, pages))?;
        self.for_each_mask(page, pages, |word, mask| *word &= !mask);
        self.free_pages -= pages;
        self.hint = page + pages;
        Some(page)
    }

    /// Whether a run of `pages` pages could be taken now.
    pub(crate) fn fits(&self, pages: u32) -> bool {
        pages <= self.free_pages && self.find(0, pages.max(1)).is_some()
    }

    /// Gives a run back. The caller has checked that it was taken.
    pub(crate) fn release(&mut self, page: u32, pages: u32) {
        debug_assert!(self.is_taken(page, pages));
        self.mark_free(page, pages);
    }

    /// Whether the run lies in one segment.
    pub(crate) fn contains(&self, page: u32, pages: u32) -> bool {
        let Some(end) = page.checked_add(pages) else { return false };
        end <= self.pages() && end <= self.segment_end(page)
    }

    /// Whether the run lies in the window and none of its pages is free.
    pub(crate) fn is_taken(&self, page: u32, pages: u32) -> bool {
        self.contains(page, pages)
            && masks(page, pages).all(|(word, mask)| self.free[word] & mask == 0)
    }

    fn mark_free(&mut self, page: u32, pages: u32) {
        self.for_each_mask(page, pages, |word, mask| *word |= mask);
        self.free_pages += pages;
    }

    /// The end of the segment that holds `page`; its own number beyond the window.
    fn segment_end(&self, page: u32) -> u32 {
        self.ends.iter().copied().find(|end| page < *end).unwrap_or(page)
    }

    /// The first run of `pages` free pages at or after `from`.
    fn find(&self, from: u32, pages: u32) -> Option<u32> {
        let mut page = self.next(from, true)?;
        loop {
            let limit = (page + pages).min(self.segment_end(page));
            let end = if pages == 1 {
                page + 1
            } else {
                self.next(page, false).unwrap_or(limit).min(limit)
            };
            if end - page == pages {
                return Some(page);
            }
            page = self.next(end, true)?;
        }
    }

    /// The first page at or after `from` that is free, or that is not.
    fn next(&self, from: u32, free: bool) -> Option<u32> {
        let flip = if free { 0 } else { u64::MAX };
        let mut index = (from / WORD) as usize;
        let mut bits = (self.free.get(index)? ^ flip) & (u64::MAX << (from % WORD));
        while bits == 0 {
            index += 1;
            bits = self.free.get(index)? ^ flip;
        }
        Some(index as u32 * WORD + bits.trailing_zeros())
    }

    fn for_each_mask(&mut self, page: u32, pages: u32, mut change: impl FnMut(&mut u64, u64)) {
        for (word, mask) in masks(page, pages) {
            change(&mut self.free[word], mask);
        }
    }
}

/// The words that a run touches, each with the bits of the run in it.
pub(crate) fn masks(page: u32, pages: u32) -> impl Iterator<Item = (usize, u64)> {
    let mut page = page;
    let mut left = pages;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let offset = page % WORD;
        let here = left.min(WORD - offset);
        let mask = (u64::MAX >> (WORD - here)) << offset;
        let word = (page / WORD) as usize;
        page += here;
        left -= here;
        Some((word, mask))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stay_in_their_segment() {
        let mut runs = Runs::default();
        runs.grow(8);
        runs.grow(512);
        assert_eq!(runs.pages(), 520);
        assert_eq!(runs.segment_pages_max(), 512);
        assert!(runs.contains(0, 8) && runs.contains(8, 512));
        assert!(!runs.contains(7, 2) && !runs.contains(519, 2) && !runs.contains(520, 1));
        assert!(!runs.contains(u32::MAX, 2));
        let big = runs.acquire(256).expect("fits the second segment");
        assert!(big >= 8);
        assert_eq!((runs.acquire(256), runs.acquire(256)), (Some(264), None));
        assert!(runs.fits(8) && !runs.fits(9));
        assert_eq!(runs.acquire(8), Some(0));
        assert_eq!(runs.free_pages(), 0);
        runs.release(big, 256);
        assert!(!runs.is_taken(big, 1) && runs.is_taken(264, 256));
    }

    #[test]
    fn an_empty_window_gives_nothing() {
        let mut runs = Runs::default();
        assert_eq!(runs.acquire(1), None);
        assert!(!runs.contains(0, 1) && !runs.fits(1));
    }

    proptest::proptest! {
        /// Against a plain list of booleans: every run handed out was free, and a refusal means
        /// that there was none.
        #[test]
        fn agrees_with_a_list(
            segments in proptest::collection::vec(1u32..200, 1..5),
            steps in proptest::collection::vec((0u32..70, 0usize..64), 1..200),
        ) {
            let mut runs = Runs::default();
            let mut free: Vec<(usize, bool)> = Vec::new();
            for (index, pages) in segments.iter().enumerate() {
                runs.grow(*pages);
                free.extend((0..*pages).map(|_| (index, true)));
            }
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (pages, pick) in steps {
                if pages == 0 {
                    if !held.is_empty() {
                        let (page, pages) = held.swap_remove(pick % held.len());
                        runs.release(page, pages);
                        let run = &mut free[page as usize..(page + pages) as usize];
                        run.iter_mut().for_each(|slot| slot.1 = true);
                    }
                    continue;
                }
                let possible = free.windows(pages as usize)
                    .any(|run| run.iter().all(|(segment, free)| *free && *segment == run[0].0));
                proptest::prop_assert_eq!(runs.fits(pages), possible);
                match runs.acquire(pages) {
                    None => proptest::prop_assert!(!possible),
                    Some(page) => {
                        let run = &mut free[page as usize..(page + pages) as usize];
                        let segment = run[0].0;
                        for slot in run {
                            proptest::prop_assert!(slot.1 && slot.0 == segment);
                            slot.1 = false;
                        }
                        held.push((page, pages));
                    }
                }
            }
            let count = free.iter().filter(|slot| slot.1).count() as u32;
            proptest::prop_assert_eq!(runs.free_pages(), count);
        }
    }
}
