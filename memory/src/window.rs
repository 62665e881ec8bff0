//! The pages that a peer allocates: a landing window.
//!
//! A window is granted to one connection. The peer decides which of its pages it writes and says
//! so in a frame; the owner then *claims* those pages, uses them as any other buffer, and when
//! the last handle is dropped the run waits in a ring until [`Window::poll_released`] gives its
//! credit back. A page therefore goes round: peer's -> claimed -> released -> peer's.
//!
//! **Fault model.** Everything the peer says is checked here: a run outside the window, an empty
//! one, or one with a page whose credit the peer does not hold is refused. What it cannot be kept
//! from is writing pages that are not its own just then; the bytes are undefined in that case,
//! the memory is still the window's. So windows are never seen as slices.

use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;

use thiserror::Error;

use crate::mapping::{Backing, Mapping, MappingError, MappingOptions};
use crate::owner::{Keeper, PageOwner};
use crate::region::{Region, Sharing};
use crate::released::ReleasedRing;
use crate::{Buffer, HUGE_PAGE_SIZE, PAGE_SIZE};

/// How to create a [`Window`] with a memfd of its own.
#[derive(Clone, Debug)]
pub struct WindowOptions {
    /// Name shown in `/proc/PID/maps`.
    pub name: String,
    /// Number of pages; not zero.
    pub pages: u32,
    /// Lock the pages into memory.
    pub lock: bool,
}

/// Why pages that a peer named were refused. Each is the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// A run of no pages.
    #[error("the peer named a run of no pages")]
    Empty,
    /// A run that does not lie in the window.
    #[error("the peer named {pages} pages from page {page} on in a window of {window}")]
    OutOfBounds {
        /// First page named, in the window.
        page: u32,
        /// Number of pages named.
        pages: u32,
        /// Number of pages of the window.
        window: u32,
    },
    /// A page whose credit has not been given back since its last use.
    #[error("the peer used page {page} again without holding its credit")]
    AlreadyClaimed {
        /// The page, in the window.
        page: u32,
    },
}

/// The owner's side of a landing window; cloning shares it.
#[derive(Clone, Debug)]
pub struct Window {
    owner: Rc<PageOwner>,
}

impl Window {
    /// Creates a window with a memfd of its own, sealed so that a peer can map it.
    ///
    /// It is made of ordinary pages below 2 MiB, since a hugepage can only be shared whole, and of
    /// hugepages from there on where there are any. So the file may be larger than the window: the
    /// size to tell the peer is that of [`Window::region`].
    ///
    /// # Errors
    ///
    /// As [`Mapping::create`].
    pub fn create(options: &WindowOptions) -> Result<Window, MappingError> {
        let bytes = options.pages as usize * PAGE_SIZE;
        let backing =
            if bytes < HUGE_PAGE_SIZE { Backing::Ordinary } else { Backing::HugeOrOrdinary };
        let mapping = Mapping::create(&MappingOptions {
            name: options.name.clone(),
            bytes,
            backing,
            numa_node: None,
            lock: options.lock,
            populate: true,
            seal: true,
        })?;
        let region = Region::new(mapping, Sharing::Peer);
        Ok(Window::over(region, 0, options.pages, false, None))
    }

    /// Makes a window of a run of pool pages, which the peer writes through a device (RDMA).
    ///
    /// The pages go back to the pool when the window and every buffer claimed from it are gone:
    /// drop the window only after the last device that could write it has been fenced off.
    pub fn carve(buffer: Buffer) -> Window {
        Window::carve_run(buffer, false)
    }

    /// Like [`Window::carve`], for a peer whose bytes this process itself copies into the pages
    /// (TCP): its buffers can be seen as slices, since nobody else writes them.
    pub fn carve_private(buffer: Buffer) -> Window {
        Window::carve_run(buffer, true)
    }

    /// Takes possession of the pages that the peer says it has written.
    ///
    /// `page` counts from the start of the window; the buffer's own page counts in its region.
    ///
    /// # Errors
    ///
    /// What is wrong with the peer's word; nothing is claimed then.
    pub fn claim(&self, page: u32, pages: u32) -> Result<Buffer, ClaimError> {
        self.landing().claim(page, pages, self.pages())?;
        Ok(Buffer::new(Rc::clone(&self.owner), self.owner.first() + page, pages))
    }

    /// Hands each run whose last user is gone to `f` as (first page in the window, pages): from
    /// here on the peer may be told that it owns them again.
    ///
    /// Runs that are released while `f` runs are left for the next poll. Allocates nothing.
    pub fn poll_released(&self, mut f: impl FnMut(u32, u32)) {
        let landing = self.landing();
        for _ in 0..landing.released.len() {
            let Some((page, pages)) = landing.take_released() else {
                return; // `f` itself has polled
            };
            f(page, pages);
        }
    }

    /// Whether [`Window::poll_released`] has anything to hand out.
    pub fn has_released(&self) -> bool {
        self.landing().released.len() > 0
    }

    /// Number of pages of the window.
    pub fn pages(&self) -> u32 {
        self.owner.page_count()
    }

    /// The region the window lies in: its own, or the pool's when it was carved.
    pub fn region(&self) -> &Region {
        self.owner.region()
    }

    /// First page of the window, as a page of its region.
    pub fn first_page(&self) -> u32 {
        self.owner.first()
    }

    /// Address of the first page of the window.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.owner.page_ptr(self.owner.first())
    }

    /// Number of pages whose credit the peer does not hold: claimed, or released and not polled.
    pub fn claimed_pages(&self) -> u32 {
        self.landing().claimed_pages.get()
    }

    fn carve_run(buffer: Buffer, private: bool) -> Window {
        let private = private && buffer.is_private();
        let region = buffer.region().clone();
        let first = buffer.page();
        let pages = buffer.pages();
        Window::over(region, first, pages, private, Some(buffer))
    }

    fn over(
        region: Region,
        first: u32,
        pages: u32,
        private: bool,
        origin: Option<Buffer>,
    ) -> Window {
        let keeper = Keeper::Window(Landing::new(pages, origin));
        let owner = Rc::new(PageOwner::new(region, first, pages, private, keeper));
        Window { owner }
    }

    fn landing(&self) -> &Landing {
        match self.owner.keeper() {
            Keeper::Window(landing) => landing,
            Keeper::Pool(_) => unreachable!("a window is kept by its landing"),
        }
    }
}

/// What a window knows of its pages. Pages count from the start of the window here.
#[derive(Debug)]
pub(crate) struct Landing {
    /// Pages whose credit the peer does not hold.
    claimed: Box<[Cell<bool>]>,
    claimed_pages: Cell<u32>,
    /// Runs to be polled. It cannot overflow: a page stays claimed until it has been polled, so
    /// there are never more runs than pages.
    released: ReleasedRing,
    /// The pool pages that the window was carved from; they follow it back.
    _origin: Option<Buffer>,
}

impl Landing {
    fn new(pages: u32, origin: Option<Buffer>) -> Landing {
        Landing {
            claimed: (0..pages).map(|_| Cell::new(false)).collect(),
            claimed_pages: Cell::new(0),
            released: ReleasedRing::new(pages),
            _origin: origin,
        }
    }

    /// Queues a run whose last handle was dropped.
    pub(crate) fn release(&self, page: u32, pages: u32) {
        self.released.push(page, pages);
    }

    /// Checks the peer's word and marks the pages.
    fn claim(&self, page: u32, pages: u32, window: u32) -> Result<(), ClaimError> {
        if pages == 0 {
            return Err(ClaimError::Empty);
        }
        let end = page.checked_add(pages).filter(|end| *end <= window);
        let Some(end) = end else {
            return Err(ClaimError::OutOfBounds { page, pages, window });
        };
        let run = &self.claimed[page as usize..end as usize];
        if let Some(index) = run.iter().position(Cell::get) {
            return Err(ClaimError::AlreadyClaimed { page: page + index as u32 });
        }
        run.iter().for_each(|claimed| claimed.set(true));
        self.claimed_pages.set(self.claimed_pages.get() + pages);
        Ok(())
    }

    /// Takes the oldest released run and unmarks its pages.
    fn take_released(&self) -> Option<(u32, u32)> {
        let (page, pages) = self.released.pop()?;
        let run = &self.claimed[page as usize..(page + pages) as usize];
        run.iter().for_each(|claimed| claimed.set(false));
        self.claimed_pages.set(self.claimed_pages.get() - pages);
        Some((page, pages))
    }
}

#[cfg(test)]
mod tests;
