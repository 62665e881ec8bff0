//! The peer's landing window as its writer sees it.
//!
//! In a granted window a page goes round: free, reserved, sent, and free again with the peer's
//! credit. In a named window only the bounds are known.

use culvert::network::{Placement, SendError, WindowMode};

use super::runs::Runs;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Credits {
    mode: WindowMode,
    runs: Runs,
    /// Set from the send of a page to its credit.
    sent: Vec<bool>,
}

impl Credits {
    /// Of a window that has not been granted yet.
    pub(super) fn new(mode: WindowMode) -> Credits {
        Credits { mode, runs: Runs::default(), sent: Vec::new() }
    }

    pub(super) fn mode(&self) -> WindowMode {
        self.mode
    }

    /// Pages granted so far.
    pub(super) fn pages(&self) -> u32 {
        self.runs.pages()
    }

    /// The peer grants that many more pages.
    pub(super) fn grow(&mut self, pages: u32) {
        self.runs.grow(pages);
        self.sent.resize(self.runs.pages() as usize, false);
    }

    /// Takes credits for a run.
    pub(super) fn reserve(&mut self, pages: u32) -> Option<Placement> {
        // A length that no placement has is refused before pages are taken for it.
        Placement::named(0, pages)?;
        if self.mode == WindowMode::Named {
            return None;
        }
        Placement::named(self.runs.acquire(pages)?, pages)
    }

    /// Whether a run of `pages` could be reserved now.
    pub(super) fn fits(&self, pages: u32) -> bool {
        self.runs.fits(pages)
    }

    /// Gives back a reserved run.
    ///
    /// # Panics
    ///
    /// When it is not reserved, as the transport does: a bug of the caller.
    pub(super) fn cancel(&mut self, place: Placement) {
        assert!(self.is_reserved(place), "only what is reserved and not sent can be cancelled");
        self.runs.release(place.page(), place.pages());
    }

    /// Checks the place of a payload before it is sent.
    pub(super) fn check(&self, place: Placement) -> Result<(), SendError> {
        let possible = match self.mode {
            WindowMode::Named => self.runs.contains(place.page(), place.pages()),
            WindowMode::Granted => self.is_reserved(place),
        };
        if possible { Ok(()) } else { Err(SendError::OutsideWindow) }
    }

    /// A payload is on its way to this place.
    pub(super) fn mark_sent(&mut self, place: Placement) {
        if self.mode == WindowMode::Granted {
            self.sent_mut(place).fill(true);
        }
    }

    /// The peer gives credits back.
    pub(super) fn credit(&mut self, run: Placement) {
        let sent = self.sent_mut(run);
        assert!(sent.iter().all(|sent| *sent), "credits come back for what was sent");
        sent.fill(false);
        self.runs.release(run.page(), run.pages());
    }

    fn sent_mut(&mut self, place: Placement) -> &mut [bool] {
        &mut self.sent[place.page() as usize..(place.page() + place.pages()) as usize]
    }

    fn is_reserved(&self, place: Placement) -> bool {
        let (page, pages) = (place.page(), place.pages());
        self.runs.is_taken(page, pages)
            && self.sent[page as usize..(page + pages) as usize].iter().all(|sent| !sent)
    }
}
