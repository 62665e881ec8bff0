//! Free pages of a window, as its allocator sees them: the sender in a granted window, the owner
//! in a named one.
//!
//! The first run that fits is taken, so that a page given back too early is used again at once.

/// Pages numbered over the segments of a window; a run lies in one segment.
#[derive(Debug, Default)]
pub(super) struct Runs {
    free: Vec<bool>,
    /// The end of each segment.
    ends: Vec<u32>,
}

impl Runs {
    /// Pages, free or not.
    pub(super) fn pages(&self) -> u32 {
        self.free.len() as u32
    }

    /// Appends a segment of `pages` free pages.
    pub(super) fn grow(&mut self, pages: u32) {
        if pages == 0 {
            // The window of an end that is gone already.
            return;
        }
        self.free.resize(self.free.len() + pages as usize, true);
        self.ends.push(self.pages());
    }

    /// Takes a run of free pages.
    pub(super) fn acquire(&mut self, pages: u32) -> Option<u32> {
        let page = self.find(pages)?;
        self.run_mut(page, pages).fill(false);
        Some(page)
    }

    /// Whether a run of `pages` could be taken now.
    pub(super) fn fits(&self, pages: u32) -> bool {
        self.find(pages).is_some()
    }

    /// Gives a run back that was taken.
    pub(super) fn release(&mut self, page: u32, pages: u32) {
        assert!(self.is_taken(page, pages), "only what was taken is given back");
        self.run_mut(page, pages).fill(true);
    }

    /// Whether the run lies in one segment.
    pub(super) fn contains(&self, page: u32, pages: u32) -> bool {
        let end = self.ends.iter().copied().find(|end| page < *end);
        end.is_some_and(|end| page.checked_add(pages).is_some_and(|last| last <= end))
    }

    /// Whether the run lies in the window and none of its pages is free.
    pub(super) fn is_taken(&self, page: u32, pages: u32) -> bool {
        self.contains(page, pages)
            && self.free[page as usize..(page + pages) as usize].iter().all(|free| !free)
    }

    fn run_mut(&mut self, page: u32, pages: u32) -> &mut [bool] {
        &mut self.free[page as usize..(page + pages) as usize]
    }

    fn find(&self, pages: u32) -> Option<u32> {
        if pages == 0 {
            return None;
        }
        let mut length = 0;
        let mut ends = self.ends.iter().copied().peekable();
        for (page, free) in (0..).zip(&self.free) {
            if ends.next_if_eq(&page).is_some() {
                length = 0;
            }
            length = if *free { length + 1 } else { 0 };
            if length == pages {
                return Some(page + 1 - pages);
            }
        }
        None
    }
}
