//! Our side of a landing window: segments of memory into which one peer writes.
//!
//! Pages are numbered over all segments. In a *granted* window the peer allocates, and says in each
//! frame which pages it has written: they are claimed, and their credit goes back when the last
//! user drops them. In a *named* window we allocate and the peer is told where to write.

use std::ptr::NonNull;

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, PAGE_SIZE, Region, Window};

use crate::config::{PLACEMENT_PAGES_MAX, SEGMENT_PAGES, SEGMENT_PAGES_MIN, SEGMENTS_MAX};
use crate::error::claim_violation;
use crate::window::runs::Runs;
use crate::{Placement, Violation, WindowMode};

#[derive(Debug)]
struct Segment {
    /// Page number of the segment's first page in the window.
    first: u32,
    window: Window,
}

/// Pages of a named window that a peer's payload is to be received into.
///
/// Made only here and only for named windows, whose buffers are never seen as slices (they are not
/// carved private).
#[derive(Debug)]
pub(crate) struct NamedPages {
    window: Window,
    first: u32,
    pages: u32,
}

impl NamedPages {
    /// Number of pages.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Address of the first byte.
    pub(crate) fn address(&self) -> NonNull<u8> {
        let address = self.window.as_ptr().as_ptr().wrapping_add(self.first as usize * PAGE_SIZE);
        NonNull::new(address).expect("a mapped page is not at address zero")
    }
}

/// The window of one connection.
#[derive(Debug)]
pub(crate) struct Landing {
    mode: WindowMode,
    segments: ArrayVec<Segment, SEGMENTS_MAX>,
    pages: u32,
    /// Pages that the peer of a granted window has been told of. It may write no others: those
    /// may not be registered yet with the devices that its payload goes to.
    told_pages: u32,
    pages_max: u32,
    /// The free pages of a named window.
    named: Runs,
    /// Whether buffers of the window may be out, so that there is something to poll for.
    active: bool,
    /// Runs whose credit has yet to be told to the peer.
    returns: Vec<Placement>,
    return_pages: u32,
}

impl Landing {
    /// A window without pages.
    pub(crate) fn new(mode: WindowMode, pages_max: u32) -> Self {
        Self {
            mode,
            segments: ArrayVec::new(),
            pages: 0,
            told_pages: 0,
            pages_max,
            named: Runs::default(),
            active: false,
            returns: Vec::new(),
            return_pages: 0,
        }
    }

    pub(crate) fn mode(&self) -> WindowMode {
        self.mode
    }

    /// Pages of all segments.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// The pages of the next segment, when `budget` pages may be had; 0 when the window stays as it
    /// is.
    ///
    /// 8 pages grow by 512, 520 by what is left to the limit; the steps are larger where a limit
    /// beyond 16 times 512 pages would need more than [`SEGMENTS_MAX`] of them.
    pub(crate) fn next_segment_pages(&self, budget: u32) -> u32 {
        let left = self.pages_max - self.pages;
        let segments_left = self.segments.remaining_capacity() as u32;
        if segments_left == 0 {
            return 0;
        }
        let step = left.div_ceil(segments_left).next_multiple_of(SEGMENT_PAGES);
        let pages = whole_hugepages(step.min(left).min(budget));
        if pages < SEGMENT_PAGES_MIN.min(left) { 0 } else { pages }
    }

    /// Appends a segment; returns the number of its first page.
    pub(crate) fn grow(&mut self, window: Window) -> u32 {
        let first = self.pages;
        self.pages += window.pages();
        debug_assert!(self.pages <= self.pages_max);
        if self.mode == WindowMode::Granted {
            self.returns.reserve(self.pages as usize);
        }
        self.segments.push(Segment { first, window });
        first
    }

    /// The peer knows the last segment: pages of a named window may be acquired from it, those of
    /// a granted one may come.
    pub(crate) fn acknowledge(&mut self) {
        self.told_pages = self.pages;
        if self.mode == WindowMode::Named
            && let Some(last) = self.segments.get(self.named.segments())
        {
            self.named.grow(last.window.pages());
        }
    }

    /// The region of the last segment.
    pub(crate) fn last_region(&self) -> Option<&Region> {
        self.segments.last().map(|segment| segment.window.region())
    }

    /// The region of each segment.
    pub(crate) fn regions(&self) -> impl Iterator<Item = &Region> {
        self.segments.iter().map(|segment| segment.window.region())
    }

    /// Takes possession of pages that the peer has written, or is about to on a stream.
    pub(crate) fn claim(&mut self, placement: Placement) -> Result<Buffer, Violation> {
        debug_assert_eq!(self.mode, WindowMode::Granted);
        let (page, pages) = (placement.page(), placement.pages());
        if page >= self.told_pages {
            return Err(Violation::Placement { page, pages });
        }
        let segment = self.segment(page).ok_or(Violation::Placement { page, pages })?;
        let claimed = segment.window.claim(page - segment.first, pages);
        let buffer = claimed.map_err(|error| claim_violation(error, page, pages))?;
        self.active = true;
        Ok(buffer)
    }

    /// Takes a run of a named window for a request of ours.
    pub(crate) fn acquire_named(&mut self, pages: u32) -> Option<Buffer> {
        if self.mode != WindowMode::Named || pages > PLACEMENT_PAGES_MAX {
            return None;
        }
        let page = match self.named.acquire(pages) {
            Some(page) => page,
            None => {
                self.poll_released();
                self.named.acquire(pages)?
            }
        };
        self.active = true;
        let segment = self.segment(page).expect("a page of the allocator lies in the window");
        let claimed = segment.window.claim(page - segment.first, pages);
        Some(claimed.expect("a free page of a named window is not claimed"))
    }

    /// The number of a buffer's first page in the window; `None` for a buffer of other memory.
    pub(crate) fn page_of(&self, buffer: &Buffer) -> Option<u32> {
        let segment = self.segments.iter().find(|segment| {
            let first = segment.window.first_page();
            buffer.region().same_as(segment.window.region())
                && (first..first + segment.window.pages()).contains(&buffer.page())
        })?;
        Some(segment.first + buffer.page() - segment.window.first_page())
    }

    /// Whether a byte of memory lies in the window.
    pub(crate) fn holds(&self, address: NonNull<u8>) -> bool {
        self.segments.iter().any(|Segment { window, .. }| {
            let offset = (address.as_ptr() as usize).checked_sub(window.as_ptr().as_ptr() as usize);
            offset.is_some_and(|offset| offset < window.pages() as usize * PAGE_SIZE)
        })
    }

    /// The pages of a placement that we named to the peer ourselves, when it lies in the window.
    pub(crate) fn named_pages(&self, placement: Placement) -> Result<NamedPages, Violation> {
        debug_assert_eq!(self.mode, WindowMode::Named);
        let (page, pages) = (placement.page(), placement.pages());
        let outside = Violation::Placement { page, pages };
        let segment = self.segment(page).ok_or(outside)?;
        let first = page - segment.first;
        if first.checked_add(pages).is_none_or(|end| end > segment.window.pages()) {
            return Err(outside);
        }
        Ok(NamedPages { window: segment.window.clone(), first, pages })
    }

    /// Collects the pages whose last user is gone: free again in a named window, credits to return
    /// in a granted one.
    pub(crate) fn poll_released(&mut self) {
        if !self.active {
            return;
        }
        let Self { mode, segments, named, returns, return_pages, .. } = self;
        for segment in segments.iter().filter(|segment| segment.window.has_released()) {
            segment.window.poll_released(|page, pages| match *mode {
                WindowMode::Named => named.release(segment.first + page, pages),
                WindowMode::Granted => {
                    push_return(returns, segment.first, segment.first + page, pages);
                    *return_pages += pages;
                }
            });
        }
        self.active = self.segments.iter().any(|segment| segment.window.claimed_pages() > 0);
    }

    /// Runs whose credit the peer has yet to be told of.
    pub(crate) fn returns(&self) -> &[Placement] {
        &self.returns
    }

    /// Pages of [`Landing::returns`].
    pub(crate) fn return_pages(&self) -> u32 {
        self.return_pages
    }

    /// The first `runs` returns have been told.
    pub(crate) fn returned(&mut self, runs: usize) {
        let told: u32 = self.returns.drain(..runs).map(Placement::pages).sum();
        self.return_pages -= told;
    }

    /// Whether somebody holds pages of the window. Only [`Landing::poll_released`] notices that the
    /// last is gone.
    pub(crate) fn in_use(&self) -> bool {
        self.active
    }

    fn segment(&self, page: u32) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.first <= page)
    }
}

/// From one hugepage on a segment has only whole ones, so that its file has exactly its size with
/// either kind of page.
pub(crate) fn whole_hugepages(pages: u32) -> u32 {
    if pages < SEGMENT_PAGES { pages } else { pages - pages % SEGMENT_PAGES }
}

/// Appends a run, or lengthens the last one when it is adjacent in the same segment.
fn push_return(returns: &mut Vec<Placement>, segment_first: u32, page: u32, pages: u32) {
    if let Some(last) = returns.last_mut()
        && last.page() + last.pages() == page
        && last.page() >= segment_first
        && let Some(longer) = Placement::named(last.page(), last.pages() + pages)
    {
        *last = longer;
        return;
    }
    returns
        .push(Placement::named(page, pages).expect("a claimed run has the length of a placement"));
}

#[cfg(test)]
mod tests {
    use culvert_memory::WindowOptions;

    use super::*;

    fn window(pages: u32) -> Window {
        let name = String::from("culvert-test");
        Window::create(&WindowOptions { name, pages, lock: false }).expect("a little memory")
    }

    #[test]
    fn no_page_comes_before_the_peer_was_told_of_it() {
        let mut landing = Landing::new(WindowMode::Granted, 64);
        landing.grow(window(8));
        let first = Placement::named(0, 8).expect("a run");
        let refused = Violation::Placement { page: 0, pages: 8 };
        assert_eq!(landing.claim(first).err(), Some(refused));
        landing.acknowledge();
        assert!(landing.claim(first).is_ok());
        landing.grow(window(8));
        let second = Placement::named(8, 4).expect("a run");
        let refused = Violation::Placement { page: 8, pages: 4 };
        assert_eq!(landing.claim(second).err(), Some(refused));
        landing.acknowledge();
        assert!(landing.claim(second).is_ok());
    }
}
