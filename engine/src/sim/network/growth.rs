//! How windows grow.
//!
//! A *granted* one because its writer ran out of credits and says so, a *named* one because its
//! owner ran out of pages. Either way the owner's process takes the region of the new segment
//! first, then the peer is told, and the owner of a named window uses the pages once the peer has
//! said that it knows them.

use culvert::network::{ConnectionId, WindowMode};
use culvert_memory::Buffer;

use super::agenda::What;
use super::link::{LinkId, Side, Stage};
use super::process::ProcessId;
use super::state::State;

/// How long a writer rests whose wish for a larger window was refused.
const WISH_REST_NS: u64 = 100_000_000;

impl State {
    /// Remembers that a run was refused at an end, and asks the peer for a larger window.
    pub(super) fn wish(&mut self, at: (LinkId, Side), pages: u32) {
        let (now_ns, pages_max) = (self.now_ns, self.options.window_pages_max);
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let end = link.end_mut(at.1);
        end.wish.pages = Some(end.wish.pages.map_or(pages, |least| least.min(pages)));
        let may_ask = !end.wish.said && now_ns >= end.wish.rests_until_ns;
        if may_ask && end.credits.pages() < pages_max {
            end.wish.said = true;
            self.send_word((at.0, at.1.other()), What::Want);
        }
    }

    /// The peer of the end `at` wishes for a larger window of this end.
    pub(super) fn take_want(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get(&at.0) else { return };
        let end = link.end(at.1);
        if end.is_live() && !end.landing.granting && !self.grow(at) {
            self.send_word((at.0, at.1.other()), What::Grant { pages: 0 });
        }
    }

    /// Adds a segment to the window of an end; `false` where it may not grow.
    fn grow(&mut self, at: (LinkId, Side)) -> bool {
        let (pages, pages_max) = (self.options.segment_pages, self.options.window_pages_max);
        let Some(link) = self.links.get_mut(&at.0) else { return false };
        let end = link.end_mut(at.1);
        let Some(region) = end.landing.grow(pages, pages_max) else { return false };
        end.landing.granting = true;
        self.report(at, region);
        true
    }

    /// The newest region of an end has been taken: the peer may be told of it.
    pub(super) fn tell_grant(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let landing = &mut link.end_mut(at.1).landing;
        let pages = landing.last_pages();
        if landing.mode() == WindowMode::Granted {
            landing.acknowledge();
        }
        self.send_word((at.0, at.1.other()), What::Grant { pages });
    }

    /// The peer grants the end `at` pages of its window, or says that there are none.
    pub(super) fn take_grant(&mut self, at: (LinkId, Side), pages: u32) {
        let now_ns = self.now_ns;
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let end = link.end_mut(at.1);
        end.wish.said = false;
        if pages == 0 {
            end.wish.rests_until_ns = now_ns + WISH_REST_NS;
            return;
        }
        end.credits.grow(pages);
        if end.credits.mode() == WindowMode::Named {
            self.send_word((at.0, at.1.other()), What::Taken);
        }
        self.tell_of_pages(at);
    }

    /// The peer knows the newest segment of this end's named window.
    pub(super) fn take_taken(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        if link.end(at.1).stage == Stage::Open {
            link.end_mut(at.1).landing.acknowledge();
            self.tell_writable(at);
        }
    }

    /// Takes pages of a named window, and sees to it that there are more when they run out.
    pub(super) fn acquire_named(
        &mut self,
        id: ProcessId,
        connection: ConnectionId,
        pages: u32,
    ) -> Option<Buffer> {
        let at = self.find_open(id, connection)?;
        let landing = &mut self.links.get_mut(&at.0)?.end_mut(at.1).landing;
        let acquired = landing.acquire_named(pages);
        if acquired.is_none() && landing.mode() == WindowMode::Named && !landing.granting {
            self.grow(at);
        }
        acquired
    }
}
