//! One side's landing window: memory that the peer writes.
//!
//! The fabric keeps a view of each segment, through which it writes sectors; the process has the
//! pages that were claimed for it. What the process gives back returns to the peer as credits, or
//! to the process itself where the window is a named one.

use culvert::network::{Placement, WindowMode};
use culvert_memory::{Buffer, PAGE_SIZE, Region, RegionId, SharedBytes, Window, WindowOptions};

use super::runs::Runs;

/// The segments of one window at most.
const SEGMENTS_MAX: usize = culvert_transport::SEGMENTS_MAX;

#[derive(Debug)]
struct Segment {
    /// Page number of the segment's first page in the window.
    first: u32,
    window: Window,
    view: SharedBytes,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Landing {
    mode: WindowMode,
    segments: Vec<Segment>,
    pages: u32,
    /// Free pages of a named window that the peer knows of.
    named: Runs,
    /// A segment is on its way to the peer.
    pub(super) granting: bool,
}

impl Landing {
    /// A window without pages.
    pub(super) fn new(mode: WindowMode) -> Landing {
        Landing { mode, segments: Vec::new(), pages: 0, named: Runs::default(), granting: false }
    }

    pub(super) fn mode(&self) -> WindowMode {
        self.mode
    }

    /// Pages of all segments.
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// Appends a segment of at most `pages` pages; `None` where the window may not grow.
    pub(super) fn grow(&mut self, pages: u32, pages_max: u32) -> Option<Region> {
        let pages = pages.min(pages_max - self.pages);
        if pages == 0 || self.segments.len() == SEGMENTS_MAX {
            return None;
        }
        let name = String::from("culvert-modelled-window");
        let window = Window::create(&WindowOptions { name, pages, lock: false })
            .expect("the machine has memory for a modelled window");
        let region = window.region().clone();
        let view = SharedBytes::of_region(&region);
        self.segments.push(Segment { first: self.pages, window, view });
        self.pages += pages;
        Some(region)
    }

    /// The pages of the last segment.
    pub(super) fn last_pages(&self) -> u32 {
        self.segments.last().map_or(0, |last| last.window.pages())
    }

    /// The region of the last segment.
    pub(super) fn last_region(&self) -> Option<RegionId> {
        self.segments.last().map(|last| last.window.region().id())
    }

    /// The region of each segment.
    pub(super) fn regions(&self) -> impl Iterator<Item = RegionId> {
        self.segments.iter().map(|segment| segment.window.region().id())
    }

    /// The peer knows the last segment: pages of a named window may be acquired from it.
    pub(super) fn acknowledge(&mut self) {
        self.granting = false;
        if self.mode == WindowMode::Named {
            self.named.grow(self.last_pages());
        }
    }

    /// Takes possession of pages that the peer has written.
    pub(super) fn claim(&mut self, place: Placement) -> Buffer {
        let segment = self.segment(place.page());
        let claimed = segment.window.claim(place.page() - segment.first, place.pages());
        claimed.expect("the sender's credits are kept by the fabric itself")
    }

    /// Takes a run of a named window.
    pub(super) fn acquire_named(&mut self, pages: u32) -> Option<Buffer> {
        Placement::named(0, pages)?;
        if self.mode != WindowMode::Named {
            return None;
        }
        self.poll_released();
        let page = self.named.acquire(pages)?;
        Some(self.claim(Placement::named(page, pages)?))
    }

    /// The number of a buffer's first page in the window; `None` for a buffer of other memory.
    pub(super) fn page_of(&self, buffer: &Buffer) -> Option<u32> {
        let segment =
            self.segments.iter().find(|one| one.window.region().same_as(buffer.region()))?;
        Some(segment.first + buffer.page() - segment.window.first_page())
    }

    /// Collects the pages whose last user is gone. In a named window they are free again; in a
    /// granted one they are answered, for the peer to be told.
    pub(super) fn poll_released(&mut self) -> Vec<Placement> {
        let Landing { mode, segments, named, .. } = self;
        let mut returns = Vec::new();
        for segment in segments {
            segment.window.poll_released(|page, pages| match mode {
                WindowMode::Named => named.release(segment.first + page, pages),
                WindowMode::Granted => {
                    returns.extend(Placement::named(segment.first + page, pages));
                }
            });
        }
        returns
    }

    /// Whether somebody holds pages of the window. Only [`Landing::poll_released`] notices that
    /// the last is gone.
    pub(super) fn in_use(&self) -> bool {
        self.segments.iter().any(|segment| segment.window.claimed_pages() > 0)
    }

    /// Where the bytes of a page lie: the view of its segment, and the offset there.
    pub(super) fn locate(&self, page: u32) -> (&SharedBytes, usize) {
        let segment = self.segment(page);
        let at = segment.window.first_page() + page - segment.first;
        (&segment.view, at as usize * PAGE_SIZE)
    }

    fn segment(&self, page: u32) -> &Segment {
        assert!(page < self.pages, "a placement was checked when it was sent");
        self.segments.iter().rev().find(|segment| segment.first <= page).expect("page 0 is there")
    }
}
