//! Where a payload lands: a run of pages in the receiver's window.

use crate::config::PLACEMENT_PAGES_MAX;

/// A run of pages in the *receiver's* landing window, counted from the window's first page.
///
/// A window grows by segments; page numbers run on over them, and a placement never crosses from
/// one into the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    page: u32,
    pages: u16,
}

impl Placement {
    /// A place that the receiver has named itself
    /// ([`WindowMode::Named`](crate::WindowMode::Named)), usually out of its request frame. Whether
    /// it lies in the window is checked by [`send`](crate::Transport::send).
    ///
    /// `None` when `pages` is 0 or above [`PLACEMENT_PAGES_MAX`].
    pub const fn named(page: u32, pages: u32) -> Option<Self> {
        if pages == 0 || pages > PLACEMENT_PAGES_MAX {
            return None;
        }
        Some(Self { page, pages: pages as u16 })
    }

    /// The first page, counted from the window's first.
    pub const fn page(self) -> u32 {
        self.page
    }

    /// How many pages: 1 to [`PLACEMENT_PAGES_MAX`].
    pub const fn pages(self) -> u32 {
        self.pages as u32
    }
}
