//! Where the pages of a buffer come from and go back to.
//!
//! A [`Buffer`](crate::Buffer) holds one reference-counted pointer to its [`PageOwner`]: either
//! a pool, which marks freed pages in its bitmap, or a landing window, which queues them until
//! their owner gives their credits back to the peer. The owner also keeps, per page, the run that
//! starts there while it is shared as [`Pages`](crate::Pages): so freezing and cloning allocate
//! nothing.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::bitmap::PageBitmap;
use crate::region::Region;
use crate::window::Landing;
use crate::{PAGE_SIZE, Pages};

/// A run of pages shared as [`Pages`], stored at its first page.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Handles alive; zero when the run is not shared.
    pub(crate) users: Cell<u32>,
    /// Length of the run in pages.
    pub(crate) pages: Cell<u32>,
}

/// What becomes of pages whose last handle is dropped.
#[derive(Debug)]
pub(crate) enum Keeper {
    /// They are free again.
    Pool(PageBitmap),
    /// They wait for their credits to be given back.
    Window(Landing),
}

/// The part of a region from which one pool or one window hands out pages.
#[derive(Debug)]
pub(crate) struct PageOwner {
    region: Region,
    /// First page of the part, as a page of the region.
    first: u32,
    /// Address of page 0 of the region, kept here to save one indirection.
    base: NonNull<u8>,
    /// Whether nobody but this process's handles and their devices writes these pages.
    private: bool,
    runs: Box<[Run]>,
    keeper: Keeper,
}

impl PageOwner {
    /// An owner of `pages` pages of `region` from page `first` on.
    pub(crate) fn new(
        region: Region,
        first: u32,
        pages: u32,
        private: bool,
        keeper: Keeper,
    ) -> Self {
        let end = first.checked_add(pages).expect("pages of a region fit 32 bits");
        assert!(end <= region.page_count(), "an owner's pages lie in its region");
        assert!(!(private && region.shared_with_peer()), "a shared region is never private");
        let base = region.base();
        PageOwner {
            region,
            first,
            base,
            private,
            runs: (0..pages).map(|_| Run::default()).collect(),
            keeper,
        }
    }

    /// The region the pages lie in.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// First page of the part, as a page of the region.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// Number of pages of the part.
    pub(crate) fn page_count(&self) -> u32 {
        self.runs.len() as u32
    }

    /// Whether the pages may be seen as slices.
    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    /// What becomes of released pages.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The run record of a page of the region.
    pub(crate) fn run(&self, page: u32) -> &Run {
        &self.runs[(page - self.first) as usize]
    }

    /// Address of a page of the region.
    #[inline]
    pub(crate) fn page_ptr(&self, page: u32) -> NonNull<u8> {
        let offset = page as usize * PAGE_SIZE;
        let address = self.base.as_ptr().wrapping_add(offset);
        NonNull::new(address).expect("a mapped page is not at address zero")
    }

    /// Takes back a run of pages of the region. Called once per run, by its last handle.
    #[inline]
    pub(crate) fn release(&self, page: u32, pages: u32) {
        match &self.keeper {
            Keeper::Pool(bitmap) => bitmap.release(page - self.first, pages),
            Keeper::Window(landing) => landing.release(page - self.first, pages),
        }
    }
}

/// Handles stay small, because every operation in flight carries some.
const _: () = {
    assert!(size_of::<crate::Buffer>() <= 24);
    assert!(size_of::<Pages>() <= 24);
};
