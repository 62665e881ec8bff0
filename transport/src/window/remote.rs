//! The peer's landing window as the sender sees it: which pages it may write.
//!
//! In a granted window the sender holds credits. A page goes round: free -> reserved -> sent ->
//! free again with the peer's credit. In a window whose owner names the pages only the bounds are
//! known here.

use crate::config::{PLACEMENT_PAGES_MAX, SEGMENTS_MAX};
use crate::window::runs::{Runs, masks};
use crate::{Placement, SendError, Violation, WindowMode};

/// The window of one peer.
#[derive(Debug)]
pub(crate) struct Remote {
    mode: WindowMode,
    runs: Runs,
    /// Set from the send of a page to its credit.
    sent: Vec<u64>,
    /// What the peer said its window may grow to.
    pages_max: u32,
}

impl Remote {
    pub(crate) fn new(mode: WindowMode, pages_max: u32) -> Self {
        Self { mode, runs: Runs::default(), sent: Vec::new(), pages_max }
    }

    pub(crate) fn mode(&self) -> WindowMode {
        self.mode
    }

    /// Pages granted so far.
    pub(crate) fn pages(&self) -> u32 {
        self.runs.pages()
    }

    /// Credits held: pages free to be reserved.
    pub(crate) fn free_pages(&self) -> u32 {
        self.runs.free_pages()
    }

    /// The longest run that can be reserved when all credits are here.
    pub(crate) fn run_pages_max(&self) -> u32 {
        self.runs.segment_pages_max().min(PLACEMENT_PAGES_MAX)
    }

    /// Whether the window may still grow.
    pub(crate) fn may_grow(&self) -> bool {
        self.runs.pages() < self.pages_max && self.runs.segments() < SEGMENTS_MAX
    }

    /// Takes a grant of `pages` pages that begins at `page`.
    pub(crate) fn grow(&mut self, page: u32, pages: u32) -> Result<(), Violation> {
        let refused = Violation::Grant { page, pages };
        let end = page.checked_add(pages).filter(|end| *end <= self.pages_max).ok_or(refused)?;
        if page != self.runs.pages() || pages == 0 || self.runs.segments() == SEGMENTS_MAX {
            return Err(refused);
        }
        self.runs.grow(pages);
        self.sent.resize(end.div_ceil(u64::BITS) as usize, 0);
        Ok(())
    }

    /// Takes credits for a run.
    pub(crate) fn reserve(&mut self, pages: u32) -> Option<Placement> {
        if self.mode == WindowMode::Named {
            return None;
        }
        let page = self.runs.acquire(pages)?;
        Placement::named(page, pages)
    }

    /// Whether a run of `pages` could be reserved now.
    pub(crate) fn fits(&self, pages: u32) -> bool {
        self.runs.fits(pages)
    }

    /// Gives back a reserved run that was not sent.
    ///
    /// # Panics
    ///
    /// When it is not reserved: a bug of the caller.
    pub(crate) fn cancel(&mut self, placement: Placement) {
        assert!(self.is_reserved(placement), "only what is reserved and not sent can be cancelled");
        self.runs.release(placement.page(), placement.pages());
    }

    /// Checks the place of a payload before it is sent: inside a named window, reserved in a granted
    /// one. Either way it may be the peer's word, which must not end this process.
    pub(crate) fn check(&self, placement: Placement) -> Result<(), SendError> {
        let possible = match self.mode {
            WindowMode::Named => self.runs.contains(placement.page(), placement.pages()),
            WindowMode::Granted => self.is_reserved(placement),
        };
        if possible { Ok(()) } else { Err(SendError::OutsideWindow) }
    }

    /// Notes that the peer will see this placement.
    pub(crate) fn mark_sent(&mut self, placement: Placement) {
        if self.mode == WindowMode::Granted {
            for (word, mask) in masks(placement.page(), placement.pages()) {
                self.sent[word] |= mask;
            }
        }
    }

    /// Takes back credits from the peer.
    pub(crate) fn credit(&mut self, run: Placement) -> Result<(), Violation> {
        let (page, pages) = (run.page(), run.pages());
        let known = self.mode == WindowMode::Granted && self.runs.contains(page, pages);
        if !known || !masks(page, pages).all(|(word, mask)| self.sent[word] & mask == mask) {
            return Err(Violation::CreditOverrun { page, pages });
        }
        for (word, mask) in masks(page, pages) {
            self.sent[word] &= !mask;
        }
        self.runs.release(page, pages);
        Ok(())
    }

    fn is_reserved(&self, placement: Placement) -> bool {
        let (page, pages) = (placement.page(), placement.pages());
        self.runs.is_taken(page, pages)
            && masks(page, pages).all(|(word, mask)| self.sent[word] & mask == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(page: u32, pages: u32) -> Placement {
        Placement::named(page, pages).expect("a length of a placement")
    }

    fn granted() -> Remote {
        let mut remote = Remote::new(WindowMode::Granted, 16);
        remote.grow(0, 8).expect("within the limit");
        remote
    }

    #[test]
    fn credits_go_round() {
        let mut remote = granted();
        let place = remote.reserve(8).expect("all of it");
        assert_eq!(remote.reserve(1), None);
        remote.check(place).expect("reserved");
        remote.mark_sent(place);
        assert_eq!(remote.credit(run(0, 9)), Err(Violation::CreditOverrun { page: 0, pages: 9 }));
        remote.credit(run(4, 4)).expect("half of it");
        assert_eq!(remote.credit(run(4, 1)), Err(Violation::CreditOverrun { page: 4, pages: 1 }));
        assert_eq!(remote.free_pages(), 4);
        let again = remote.reserve(4).expect("the half");
        remote.cancel(again);
        assert_eq!(remote.free_pages(), 4);
    }

    #[test]
    fn what_was_not_sent_gets_no_credit() {
        let mut remote = granted();
        let place = remote.reserve(2).expect("free");
        assert_eq!(remote.credit(place), Err(Violation::CreditOverrun { page: 0, pages: 2 }));
    }

    #[test]
    fn a_place_is_sent_to_once() {
        let mut remote = granted();
        let place = remote.reserve(1).expect("free");
        assert_eq!(remote.check(place), Ok(()));
        remote.mark_sent(place);
        assert_eq!(remote.check(place), Err(SendError::OutsideWindow));
    }

    #[test]
    fn grants_continue_the_window_up_to_its_limit() {
        let mut remote = granted();
        for (page, pages) in [(0, 4), (9, 4), (8, 0), (8, 9), (u32::MAX, 2), (8, u32::MAX)] {
            assert!(remote.grow(page, pages).is_err(), "{pages} at {page}");
        }
        remote.grow(8, 8).expect("up to the limit");
        assert!(!remote.may_grow());
    }

    #[test]
    fn named_places_are_only_bounded() {
        let mut remote = Remote::new(WindowMode::Named, 16);
        remote.grow(0, 8).expect("within the limit");
        assert_eq!(remote.reserve(1), None);
        assert_eq!(remote.check(run(0, 8)), Ok(()));
        assert_eq!(remote.check(run(1, 8)), Err(SendError::OutsideWindow));
        assert_eq!(remote.check(run(u32::MAX, 8)), Err(SendError::OutsideWindow));
        assert!(remote.credit(run(0, 1)).is_err(), "nothing is owed here");
    }
}
