//! Which pages of a pool are free.
//!
//! One bit per page, set while the page is free, and one summary bit per word of 64 pages, set
//! while the word has a free page. A single page is taken from the word that was last released
//! to, which is the page most likely still in the cache: a handful of instructions. When that
//! word is empty the summary names the next word that is not; 1 GiB of pages has 64 summary
//! words. A run of several pages is found first-fit from a rotating hint by walking the words.

use std::cell::Cell;

/// Pages in a word.
const WORD_PAGES: u32 = u64::BITS;

/// The free pages of a pool.
#[derive(Debug)]
pub(crate) struct PageBitmap {
    words: Box<[Cell<u64>]>,
    summary: Box<[Cell<u64>]>,
    free: Cell<u32>,
    pages: u32,
    /// Word where the next single page is looked for.
    single_hint: Cell<u32>,
    /// Word where the next run is looked for.
    run_hint: Cell<u32>,
}

impl PageBitmap {
    /// A bitmap of `pages` pages, all free.
    pub(crate) fn new(pages: u32) -> Self {
        let word_count = pages.div_ceil(WORD_PAGES);
        let words: Box<[Cell<u64>]> = (0..word_count)
            .map(|word| Cell::new(low_bits((pages - word * WORD_PAGES).min(WORD_PAGES))))
            .collect();
        let summary = (0..word_count.div_ceil(WORD_PAGES))
            .map(|word| Cell::new(low_bits((word_count - word * WORD_PAGES).min(WORD_PAGES))))
            .collect();
        PageBitmap {
            words,
            summary,
            free: Cell::new(pages),
            pages,
            single_hint: Cell::new(0),
            run_hint: Cell::new(0),
        }
    }

    /// Number of free pages.
    pub(crate) fn free(&self) -> u32 {
        self.free.get()
    }

    /// Takes a run of `pages` adjacent free pages; `None` when there is none.
    #[inline]
    pub(crate) fn acquire(&self, pages: u32) -> Option<u32> {
        if pages == 1 {
            return self.acquire_single();
        }
        self.acquire_run(pages)
    }

    /// Gives a run back.
    #[inline]
    pub(crate) fn release(&self, page: u32, pages: u32) {
        if pages == 1 {
            let word = page / WORD_PAGES;
            self.set(word, 1 << (page % WORD_PAGES));
            self.single_hint.set(word);
        } else {
            debug_assert!(page as u64 + pages as u64 <= self.pages as u64);
            self.for_each_mask(page, pages, |word, mask| self.set(word, mask));
        }
        self.free.set(self.free.get() + pages);
    }

    /// Takes the lowest free page of the hinted word, or of the next one that has any.
    #[inline]
    fn acquire_single(&self) -> Option<u32> {
        let mut word = self.single_hint.get();
        let mut bits = self.words.get(word as usize).map_or(0, Cell::get);
        if bits == 0 {
            word = self.next_word_with_free(word)?;
            bits = self.words[word as usize].get();
            self.single_hint.set(word);
        }
        let bit = bits.trailing_zeros();
        self.clear(word, 1 << bit);
        self.free.set(self.free.get() - 1);
        Some(word * WORD_PAGES + bit)
    }

    /// The first word at or after `word`, going round once, that has a free page.
    #[cold]
    fn next_word_with_free(&self, word: u32) -> Option<u32> {
        let start = word / WORD_PAGES;
        let count = self.summary.len() as u32;
        let from_here = self.summary.get(start as usize)?.get() & !low_bits(word % WORD_PAGES);
        if from_here != 0 {
            return Some(start * WORD_PAGES + from_here.trailing_zeros());
        }
        (1..=count).find_map(|step| {
            let index = (start + step) % count;
            let bits = self.summary[index as usize].get();
            (bits != 0).then(|| index * WORD_PAGES + bits.trailing_zeros())
        })
    }

    /// Finds a run from the hint on, then from the start.
    fn acquire_run(&self, pages: u32) -> Option<u32> {
        if pages == 0 || pages > self.free.get() {
            return None;
        }
        let hint = self.run_hint.get();
        let page = self.find_run(hint, pages).or_else(|| self.find_run(0, pages))?;
        self.for_each_mask(page, pages, |word, mask| self.clear(word, mask));
        self.free.set(self.free.get() - pages);
        self.run_hint.set((page + pages) / WORD_PAGES);
        Some(page)
    }

    /// The first run of `pages` free pages that starts in word `from` or later.
    fn find_run(&self, from: u32, pages: u32) -> Option<u32> {
        let mut start = from * WORD_PAGES;
        let mut length = 0;
        for word in from..self.words.len() as u32 {
            let mut bits = self.words[word as usize].get();
            let mut offset = 0;
            while offset < WORD_PAGES {
                let ones = bits.trailing_ones().min(WORD_PAGES - offset);
                length += ones;
                if length >= pages {
                    return Some(start);
                }
                offset += ones;
                if offset == WORD_PAGES {
                    break;
                }
                bits >>= ones;
                let zeros = bits.trailing_zeros().min(WORD_PAGES - offset);
                offset += zeros;
                bits = bits.checked_shr(zeros).unwrap_or(0);
                start = word * WORD_PAGES + offset;
                length = 0;
            }
        }
        None
    }

    /// Calls `visit` with each word of a run and the run's bits in it.
    fn for_each_mask(&self, page: u32, pages: u32, mut visit: impl FnMut(u32, u64)) {
        let mut page = page;
        let mut left = pages;
        while left > 0 {
            let offset = page % WORD_PAGES;
            let here = left.min(WORD_PAGES - offset);
            visit(page / WORD_PAGES, low_bits(here) << offset);
            page += here;
            left -= here;
        }
    }

    /// Marks the pages of `mask` free.
    #[inline]
    fn set(&self, word: u32, mask: u64) {
        let bits = self.words[word as usize].get();
        debug_assert_eq!(bits & mask, 0, "a page is released once");
        self.words[word as usize].set(bits | mask);
        if bits == 0 {
            let summary = &self.summary[(word / WORD_PAGES) as usize];
            summary.set(summary.get() | 1 << (word % WORD_PAGES));
        }
    }

    /// Marks the pages of `mask` taken.
    #[inline]
    fn clear(&self, word: u32, mask: u64) {
        let bits = self.words[word as usize].get();
        debug_assert_eq!(bits & mask, mask, "only free pages are taken");
        let left = bits & !mask;
        self.words[word as usize].set(left);
        if left == 0 {
            let summary = &self.summary[(word / WORD_PAGES) as usize];
            summary.set(summary.get() & !(1 << (word % WORD_PAGES)));
        }
    }
}

/// The lowest `count` bits, `count` at most 64.
const fn low_bits(count: u32) -> u64 {
    if count >= u64::BITS { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests;
