//! Sending on an established connection.

use arrayvec::ArrayVec;
use culvert_memory::Pages;
use zerocopy::IntoBytes;

use crate::config::{CREDIT_DELAY_NS, CREDIT_RUNS_MAX, PAYLOADS_MAX};
use crate::connection::established::{Established, Link};
use crate::connection::growth::{Grant, Wish};
use crate::envelope::{
    CreditRuns, Header, Kind, WireGrant, WirePlacedGrant, WireRun, record_bytes,
};
use crate::rdma::link::Place;
use crate::shm::notice::Notice;
use crate::tcp::sender::Flushed;
use crate::transport::shared::{Backend, Shared};
use crate::{Class, CloseReason, Placement, SendError, WindowMode};

/// Why [`Established::send`] took nothing.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// An answer to the caller.
    Error(SendError),
    /// The end of the connection.
    Close(CloseReason),
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        Self::Error(error)
    }
}

impl Established {
    /// Takes credits for a run in the peer's window.
    pub(crate) fn reserve(&mut self, shared: &mut Shared, pages: u32) -> Option<Placement> {
        let placement = self.remote.reserve(pages);
        if placement.is_none() && self.remote.mode() == WindowMode::Granted {
            self.note_refused_pages(shared, pages);
        }
        placement
    }

    /// Takes a frame and its payloads, all or nothing.
    pub(crate) fn send(
        &mut self,
        shared: &mut Shared,
        class: Class,
        frame: &[u8],
        payloads: &[(Placement, Pages)],
    ) -> Result<(), Refusal> {
        if frame.len() > self.limits.frame_bytes_max(class) || payloads.len() > PAYLOADS_MAX {
            return Err(SendError::TooLarge.into());
        }
        let mut pages = 0;
        for (placement, content) in payloads {
            assert_eq!(placement.pages(), content.pages(), "a payload fills its placement");
            self.remote.check(*placement)?;
            pages += content.pages();
        }
        if !self.has_room(class, record_bytes(payloads.len(), frame.len()))? {
            match class {
                Class::Data => self.refused.data = true,
                Class::Control => self.refused.control = true,
            }
            return Err(SendError::Full.into());
        }
        if self.backend() != Backend::Shm
            && self.unsent_pages() + pages > shared.options.unsent_pages_max
        {
            return Err(Refusal::Close(CloseReason::UnsentBound));
        }
        payloads.iter().for_each(|(placement, _)| self.remote.mark_sent(*placement));
        let header = Header::new(class.into(), payloads.len(), frame.len());
        let runs =
            payloads.iter().map(|(placement, _)| WireRun::new(placement.page(), placement.pages()));
        let payload_bytes = u64::from(pages) * culvert_memory::PAGE_SIZE as u64;
        match &mut self.link {
            Link::Shm(link) => {
                payloads
                    .iter()
                    .for_each(|(placement, content)| link.write_payload(*placement, content));
                link.push(class.into(), header, runs, frame);
                shared.counters.wire_copy_bytes += payload_bytes;
            }
            Link::Tcp(link) => {
                link.sender.push(
                    class,
                    header,
                    runs,
                    frame,
                    payloads.iter().map(|(_, content)| content),
                );
            }
            Link::Rdma(link) => {
                let contents = payloads.iter().map(|(_, content)| content);
                link.push(class, header, runs, frame, contents);
            }
        }
        self.mark_busy(shared);
        shared.counters.frames_sent += 1;
        shared.counters.frame_bytes_sent += frame.len() as u64;
        shared.counters.payload_bytes_sent += payload_bytes;
        self.bytes_sent += payload_bytes + frame.len() as u64;
        Ok(())
    }

    /// Sends everything that is due. Whether the connection has to be visited by the next post
    /// again.
    pub(crate) fn post(&mut self, shared: &mut Shared, force: bool) -> Result<bool, CloseReason> {
        self.landing.poll_released();
        self.stuck = false;
        if self.wish_deadline().is_some_and(|until| shared.now >= until) {
            self.renew_wish(shared);
        }
        self.post_notices(shared)?;
        self.post_credits(shared, force)?;
        let paused = match &mut self.link {
            Link::Shm(link) => {
                let nudge = std::mem::take(&mut self.nudge);
                link.post(nudge, &mut shared.counters)?;
                false
            }
            Link::Tcp(link) => link.flush(&mut shared.counters)? == Flushed::Paused,
            Link::Rdma(link) => {
                link.flush(&mut shared.counters)?;
                false
            }
        };
        self.tell_of_room(shared)?;
        Ok(paused || self.landing.in_use() || self.owes() || self.wish_deadline().is_some())
    }

    /// Whether something waits for a later post.
    pub(crate) fn owes(&self) -> bool {
        !self.landing.returns().is_empty()
            || self.taken.is_some()
            || matches!(self.wish, Wish::Due(_))
            || matches!(self.grant, Grant::Due { .. })
    }

    /// Whether a post would do something now: nothing that has to wait for the peer to take
    /// something first.
    pub(crate) fn needs_post(&self) -> bool {
        match &self.link {
            Link::Shm(_) => self.owes() && !self.stuck,
            Link::Tcp(link) => !link.is_blocked() && (self.owes() || !link.sender.is_empty()),
            Link::Rdma(link) => (self.owes() && !self.stuck) || link.can_flush(),
        }
    }

    /// Which queues something waits for.
    pub(crate) fn awaits_room(&self) -> (bool, bool) {
        (self.refused.data, self.refused.control || self.stuck)
    }

    /// What concerns the windows themselves.
    fn post_notices(&mut self, shared: &mut Shared) -> Result<(), CloseReason> {
        if let Some((page, pages)) = self.taken
            && self.push_internal(Kind::Taken, WireGrant::new(page, pages).as_bytes())?
        {
            self.taken = None;
        }
        if let Wish::Due(pages) = self.wish
            && self.push_internal(Kind::Want, WireGrant::new(0, pages).as_bytes())?
        {
            self.wish = Wish::Said;
            shared.wishing += 1;
        }
        if let Grant::Due { page, pages } = self.grant
            && self.tell_grant(shared, page, pages)?
        {
            self.grant_told(page, pages);
        }
        Ok(())
    }

    fn tell_grant(
        &mut self,
        shared: &mut Shared,
        page: u32,
        pages: u32,
    ) -> Result<bool, CloseReason> {
        let link = match &self.link {
            Link::Shm(link) => link,
            Link::Tcp(_) => {
                return self.push_internal(Kind::Grant, WireGrant::new(page, pages).as_bytes());
            }
            Link::Rdma(link) => {
                let place = if pages > 0 { link.newest_place() } else { Place::default() };
                let grant = WirePlacedGrant::new(page, pages, place);
                return self.push_internal(Kind::Grant, grant.as_bytes());
            }
        };
        let file = self.landing.last_region().filter(|_| pages > 0).map(culvert_memory::Region::fd);
        link.send_notice(Notice::Grant { page, pages }, file, &mut shared.counters)?;
        Ok(true)
    }

    /// Gives credits back: over shared memory at once, on a stream in company or after a short
    /// while.
    fn post_credits(&mut self, shared: &mut Shared, force: bool) -> Result<(), CloseReason> {
        if self.landing.returns().is_empty() {
            return Ok(());
        }
        let (blocked, company) = match &self.link {
            Link::Shm(_) => (false, true),
            Link::Tcp(link) => (link.is_blocked(), !link.sender.is_empty()),
            Link::Rdma(link) => (false, !link.is_empty()),
        };
        let since = *self.credits_since.get_or_insert(shared.now);
        let many = self.landing.return_pages() * 4 >= self.landing.pages();
        let late = shared.now.saturating_sub(since) >= CREDIT_DELAY_NS;
        if blocked || !(company || many || late || force) {
            return Ok(());
        }
        self.credits_since = None;
        while !self.landing.returns().is_empty() {
            let returns = self.landing.returns().iter().take(CREDIT_RUNS_MAX);
            let runs: CreditRuns =
                returns.map(|run| WireRun::new(run.page(), run.pages())).collect();
            if !self.push_internal(Kind::Credits, runs.as_bytes())? {
                break;
            }
            self.landing.returned(runs.len());
            shared.counters.credit_frames_sent += 1;
        }
        Ok(())
    }

    /// Queues a record between the two transports; false when there is no room for it now.
    fn push_internal(&mut self, kind: Kind, body: &[u8]) -> Result<bool, CloseReason> {
        let header = Header::new(kind, 0, body.len());
        let none = ArrayVec::<WireRun, 0>::new();
        match self.has_room(Class::Control, header.padded()) {
            Ok(true) => {}
            Err(Refusal::Close(reason)) => return Err(reason),
            Ok(false) | Err(Refusal::Error(_)) => {
                self.stuck = true;
                return Ok(false);
            }
        }
        match &mut self.link {
            Link::Shm(link) => link.push(Class::Control.into(), header, none.into_iter(), body),
            Link::Tcp(link) => {
                link.sender.push(
                    Class::Control,
                    header,
                    none.into_iter(),
                    body,
                    std::iter::empty::<&Pages>(),
                );
            }
            Link::Rdma(link) => {
                let no_pages = std::iter::empty::<&Pages>();
                link.push(Class::Control, header, none.into_iter(), body, no_pages);
            }
        }
        Ok(true)
    }

    /// Whether a record of `bytes` bytes fits the queue of a class.
    fn has_room(&mut self, class: Class, bytes: usize) -> Result<bool, Refusal> {
        match &mut self.link {
            Link::Shm(link) => {
                let room = link.outbound.has_room(class.into(), bytes);
                room.map_err(|violation| Refusal::Close(violation.into()))
            }
            Link::Tcp(link) => Ok(link.sender.queue(class).has_room(bytes)),
            Link::Rdma(link) => Ok(link.queue(class).has_room(bytes)),
        }
    }
}
