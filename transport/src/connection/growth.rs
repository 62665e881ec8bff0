//! How windows grow.
//!
//! *Granted*: the peer runs out of credits, says `Want`, and the owner answers with a `Grant` of a
//! new segment, or of no pages. *Named*: the owner runs out of pages, sends a `Grant` unasked, and
//! uses the pages once the peer says `Taken`. Over shared memory the grant travels with its file on
//! the socket; everything else is a record on the link.

use std::os::fd::OwnedFd;

use culvert_memory::Buffer;

use crate::config::WANT_INTERVAL_NS;
use crate::connection::established::{Established, Link};
use crate::connection::id;
use crate::rdma::link::Place;
use crate::shm::link::map_segment;
use crate::transport::shared::{Pending, Shared};
use crate::{CloseReason, Violation, WindowMode};

/// Our wish for a larger window of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// None.
    None,
    /// To be said at the next post: so many pages are needed at once.
    Due(u32),
    /// Said; the answer is awaited.
    Said,
    /// Refused; not to be said again before this time.
    Refused(u64),
}

/// A segment of our window on its way to the peer. One at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// None.
    None,
    /// Its region has yet to be reported to whoever registers memory.
    Unreported { page: u32, pages: u32 },
    /// To be told to the peer at the next post; no pages when there were none to be had.
    Due { page: u32, pages: u32 },
    /// Told, in a named window: its pages are ours to use when the peer has taken it.
    Told { page: u32, pages: u32 },
}

impl Established {
    /// Remembers that a run of `pages` pages was refused, and that the peer should be asked for
    /// more.
    pub(crate) fn note_refused_pages(&mut self, shared: &mut Shared, pages: u32) {
        self.refused.pages = Some(self.refused.pages.map_or(pages, |least| least.min(pages)));
        self.wish_for(shared, pages);
    }

    fn wish_for(&mut self, shared: &mut Shared, pages: u32) {
        let may_ask = match self.wish {
            Wish::None => true,
            Wish::Due(due) => due < pages,
            Wish::Said => false,
            Wish::Refused(until) => shared.now >= until,
        };
        if may_ask && self.remote.may_grow() {
            self.wish = Wish::Due(pages);
        }
        // Also to say it once it may be said again.
        self.mark_busy(shared);
    }

    /// Wishes again for what was refused and is still not there. The caller, who waits for it, does not
    /// call meanwhile, and the peer does not say when it has pages again.
    pub(crate) fn renew_wish(&mut self, shared: &mut Shared) {
        if let Some(pages) = self.refused.pages {
            self.wish_for(shared, pages);
        }
    }

    /// When a wish that was refused is to be said again, if somebody waits for the pages.
    pub(crate) fn wish_deadline(&self) -> Option<u64> {
        match self.wish {
            Wish::Refused(until) if self.remote.may_grow() => self.refused.pages.map(|_| until),
            Wish::None | Wish::Due(_) | Wish::Said | Wish::Refused(_) => None,
        }
    }

    /// The peer wishes for a larger window.
    pub(crate) fn take_want(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        if self.landing.mode() == WindowMode::Named {
            return Err(Violation::NoticeOutOfPlace);
        }
        if self.grant == Grant::None && !self.grow(shared) {
            self.grant = Grant::Due { page: 0, pages: 0 };
        }
        self.mark_busy(shared);
        Ok(())
    }

    /// The peer grants pages of its window, or says that there are none.
    pub(crate) fn take_grant(
        &mut self,
        shared: &mut Shared,
        page: u32,
        pages: u32,
    ) -> Result<(), Violation> {
        if self.remote.mode() == WindowMode::Granted {
            if self.wish != Wish::Said {
                return Err(Violation::NoticeOutOfPlace);
            }
            shared.wishing -= 1;
            if pages == 0 {
                self.wish = Wish::Refused(shared.now + WANT_INTERVAL_NS);
                self.renew_wish(shared);
                return Ok(());
            }
            self.wish = Wish::None;
        }
        self.remote.grow(page, pages)?;
        if self.remote.mode() == WindowMode::Named {
            self.taken = Some((page, pages));
            self.mark_busy(shared);
        }
        self.tell_of_pages(shared);
        // A grant may be less than what is waited for.
        self.renew_wish(shared);
        Ok(())
    }

    /// The peer grants pages whose memory comes in a file.
    pub(crate) fn take_grant_file(
        &mut self,
        shared: &mut Shared,
        (page, pages): (u32, u32),
        file: Option<OwnedFd>,
    ) -> Result<(), CloseReason> {
        if self.taken.is_some() {
            return Err(Violation::NoticeOutOfPlace.into());
        }
        // The window is checked first: what does not continue it is never mapped.
        self.take_grant(shared, page, pages)?;
        match (&mut self.link, file) {
            (Link::Shm(link), Some(file)) if pages > 0 => {
                link.add_segment(page, map_segment(file, pages)?);
                Ok(())
            }
            (Link::Shm(_), None) if pages == 0 => Ok(()),
            _ => Err(Violation::SharedMemory.into()),
        }
    }

    /// The peer grants pages, and says where they are.
    pub(crate) fn take_placed_grant(
        &mut self,
        shared: &mut Shared,
        (page, pages): (u32, u32),
        place: Place,
    ) -> Result<(), Violation> {
        self.take_grant(shared, page, pages)?;
        if let Link::Rdma(link) = &mut self.link
            && pages > 0
        {
            link.add_segment(page, place);
        }
        Ok(())
    }

    /// The peer has taken a segment of our named window.
    pub(crate) fn take_taken(
        &mut self,
        shared: &mut Shared,
        page: u32,
        pages: u32,
    ) -> Result<(), Violation> {
        if self.grant != (Grant::Told { page, pages }) {
            return Err(Violation::NoticeOutOfPlace);
        }
        self.grant = Grant::None;
        self.landing.acknowledge();
        shared.events.push_back(Pending::Writable { connection: id(self.slot) });
        Ok(())
    }

    /// Takes pages of our named window, and sees to it that there are more of them when they run
    /// out.
    pub(crate) fn acquire_named(&mut self, shared: &mut Shared, pages: u32) -> Option<Buffer> {
        let acquired = self.landing.acquire_named(pages);
        let may_grow = self.landing.mode() == WindowMode::Named && self.grant == Grant::None;
        if acquired.is_some() || (may_grow && self.grow(shared)) {
            self.mark_busy(shared);
        }
        acquired
    }

    /// The grant's region has been reported: the peer may be told.
    pub(crate) fn reported(&mut self, shared: &mut Shared) {
        if let Grant::Unreported { page, pages } = self.grant {
            self.grant = Grant::Due { page, pages };
            self.mark_busy(shared);
        }
    }

    /// Adds a segment to our window, to be granted; false when there is no budget or memory for
    /// one.
    fn grow(&mut self, shared: &mut Shared) -> bool {
        let backend = self.backend();
        let pages = self.landing.next_segment_pages(shared.budget_pages);
        if pages == 0 {
            return false;
        }
        let Some(window) = shared.make_window(backend, self.landing.mode(), pages) else {
            return false;
        };
        if let Link::Rdma(link) = &mut self.link
            && let Err(error) = link.open_window(&window)
        {
            tracing::warn!(%error, "a landing window could not be registered");
            shared.unmake_window(window);
            return false;
        }
        let pages = window.pages();
        let page = shared.attach(&mut self.landing, window, backend);
        self.grant = if shared.must_report(backend) {
            shared.unreported.push(self.slot);
            Grant::Unreported { page, pages }
        } else {
            Grant::Due { page, pages }
        };
        true
    }

    /// The state of a grant that has been told.
    pub(crate) fn grant_told(&mut self, page: u32, pages: u32) {
        self.grant = match self.landing.mode() {
            WindowMode::Named => Grant::Told { page, pages },
            WindowMode::Granted => {
                self.landing.acknowledge();
                Grant::None
            }
        };
    }
}
