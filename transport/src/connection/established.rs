//! A connection over which frames flow: both windows, the link, and what each side still owes the
//! other.

use std::ops::Range;

use culvert_memory::SlotId;

use crate::connection::growth::{Grant, Wish};
use crate::connection::id;
use crate::connection::limits::Limits;
use crate::envelope::{HEADER_BYTES, Kind, PLACEMENT_BYTES, Record, WireGrant, WirePlacedGrant};
use crate::event::Payloads;
use crate::rdma::link::RdmaLink;
use crate::shm::link::ShmLink;
use crate::tcp::link::TcpLink;
use crate::transport::shared::{Backend, Pending, Shared};
use crate::window::landing::Landing;
use crate::window::remote::Remote;
use crate::{Address, Class, CloseReason, Identity, Placement, Violation, WindowMode};

/// The way to the peer.
#[derive(Debug)]
pub(crate) enum Link {
    Shm(ShmLink),
    Tcp(TcpLink),
    Rdma(Box<RdmaLink>),
}

/// What the last calls refused, so that the caller is told when they would not any more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refused {
    /// The shortest run that could not be reserved.
    pub(crate) pages: Option<u32>,
    /// Whether a queue was full.
    pub(crate) data: bool,
    pub(crate) control: bool,
}

/// An established connection.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) slot: SlotId,
    pub(crate) address: Address,
    pub(crate) initiated: bool,
    pub(crate) peer: Identity,
    /// Dropped before our window, which the peer may write over it.
    pub(crate) link: Link,
    /// Our window.
    pub(crate) landing: Landing,
    /// The peer's window.
    pub(crate) remote: Remote,
    pub(crate) limits: Limits,
    pub(crate) refused: Refused,
    pub(crate) wish: Wish,
    pub(crate) grant: Grant,
    /// A grant taken, to be said to the owner of a named window.
    pub(crate) taken: Option<(u32, u32)>,
    /// Since when credits wait for company.
    pub(crate) credits_since: Option<u64>,
    /// Whether the connection stands in the list of the next post.
    pub(crate) busy: bool,
    /// Whether the last post had something for a control queue that had no room.
    pub(crate) stuck: bool,
    /// Whether the peer waits for room that we have made.
    pub(crate) nudge: bool,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// What [`Established::next`] found.
#[derive(Debug)]
pub(crate) enum Next {
    /// A frame of the caller's; where it lies in the record.
    Frame(Class, Range<usize>),
    /// Something between the two transports.
    Internal,
    /// Nothing now.
    Nothing,
}

impl Established {
    pub(crate) fn new(
        slot: SlotId,
        address: Address,
        initiated: bool,
        (peer, limits): (Identity, Limits),
        (landing, remote): (Landing, Remote),
        link: Link,
    ) -> Self {
        Self {
            slot,
            address,
            initiated,
            peer,
            landing,
            remote,
            link,
            limits,
            refused: Refused::default(),
            wish: Wish::None,
            grant: Grant::None,
            taken: None,
            credits_since: None,
            busy: false,
            stuck: false,
            nudge: false,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Payload pages accepted and not yet taken by the kernel.
    pub(crate) fn unsent_pages(&self) -> u32 {
        match &self.link {
            Link::Shm(_) => 0,
            Link::Tcp(link) => link.sender.unsent_pages(),
            Link::Rdma(link) => link.unsent_pages(),
        }
    }

    pub(crate) fn backend(&self) -> Backend {
        match self.link {
            Link::Shm(_) => Backend::Shm,
            Link::Tcp(_) => Backend::Tcp,
            Link::Rdma(_) => Backend::Rdma,
        }
    }

    /// Puts the connection on the list of the next post.
    #[inline]
    pub(crate) fn mark_busy(&mut self, shared: &mut Shared) {
        if !self.busy {
            self.busy = true;
            shared.busy.push(self.slot);
        }
    }

    /// Takes the next record off the link. A frame of the caller's is left in `record`, its pages
    /// in `payloads`.
    pub(crate) fn next(
        &mut self,
        shared: &mut Shared,
        record: &mut Vec<u8>,
        payloads: &mut Payloads,
    ) -> Result<Next, CloseReason> {
        debug_assert!(payloads.is_empty());
        let popped = match &mut self.link {
            Link::Shm(link) => link.pop(self.limits.record_bytes_max, record)?,
            Link::Tcp(link) => {
                link.pop(&mut self.landing, record, payloads, &mut shared.counters)?
            }
            Link::Rdma(link) => {
                let popped = link.pop(record)?;
                if link.owes_slots() {
                    self.mark_busy(shared);
                }
                popped
            }
        };
        if !popped {
            return Ok(Next::Nothing);
        }
        let parsed = Record::parse(record, self.limits.record_bytes_max)?;
        let class = match parsed.kind {
            Kind::Data => Class::Data,
            Kind::Control => Class::Control,
            _ => {
                self.take_internal(shared, &parsed)?;
                return Ok(Next::Internal);
            }
        };
        if parsed.body.len() > self.limits.frame_bytes_max(class) {
            return Err(Violation::FrameLength { bytes: parsed.body.len() as u32 }.into());
        }
        let mut pages = 0;
        for placement in parsed.placements() {
            let placement = placement?;
            pages += placement.pages();
            if self.backend() != Backend::Tcp {
                self.land(placement, payloads)?;
            }
        }
        if !payloads.is_empty() {
            self.mark_busy(shared);
        }
        let payload_bytes = u64::from(pages) * culvert_memory::PAGE_SIZE as u64;
        if self.backend() != Backend::Tcp {
            shared.counters.payload_bytes_received += payload_bytes;
        }
        shared.counters.frames_received += 1;
        shared.counters.frame_bytes_received += parsed.body.len() as u64;
        self.bytes_received += payload_bytes + parsed.body.len() as u64;
        let start = record_body_start(&parsed);
        Ok(Next::Frame(class, start..start + parsed.body.len()))
    }

    /// Takes possession of a payload that the peer has written into our memory.
    fn land(&mut self, placement: Placement, payloads: &mut Payloads) -> Result<(), Violation> {
        match self.landing.mode() {
            WindowMode::Granted => payloads.push(self.landing.claim(placement)?),
            WindowMode::Named => drop(self.landing.named_pages(placement)?),
        }
        Ok(())
    }

    fn take_internal(&mut self, shared: &mut Shared, record: &Record<'_>) -> Result<(), Violation> {
        match record.kind {
            Kind::Credits => self.take_credits(shared, record),
            Kind::Want => {
                // How much the peer wants is of interest to people only: a segment is what it gets.
                WireGrant::parse(record.body)?;
                self.take_want(shared)
            }
            Kind::Grant => {
                if let Link::Rdma(_) = &self.link {
                    let (grant, place) = WirePlacedGrant::parse(record.body)?;
                    return self.take_placed_grant(shared, grant, place);
                }
                let (page, pages) = WireGrant::parse(record.body)?;
                if self.backend() == Backend::Shm {
                    return Err(Violation::NoticeOutOfPlace);
                }
                self.take_grant(shared, page, pages)
            }
            Kind::Taken => {
                let (page, pages) = WireGrant::parse(record.body)?;
                self.take_taken(shared, page, pages)
            }
            Kind::Data | Kind::Control => Ok(()),
        }
    }

    fn take_credits(&mut self, shared: &mut Shared, record: &Record<'_>) -> Result<(), Violation> {
        shared.counters.credit_frames_received += 1;
        for run in record.credits()? {
            self.remote.credit(run?)?;
        }
        self.tell_of_pages(shared);
        Ok(())
    }

    /// Tells the caller when a run can be reserved that was refused before.
    pub(crate) fn tell_of_pages(&mut self, shared: &mut Shared) {
        if let Some(pages) = self.refused.pages
            && self.remote.fits(pages)
        {
            self.refused.pages = None;
            shared.events.push_back(Pending::Writable { connection: id(self.slot) });
        }
    }

    /// Tells the caller when there is room again in a queue that was full before.
    pub(crate) fn tell_of_room(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        for class in [Class::Data, Class::Control] {
            let refused = match class {
                Class::Data => &mut self.refused.data,
                Class::Control => &mut self.refused.control,
            };
            if !*refused {
                continue;
            }
            let free = match &mut self.link {
                Link::Shm(link) => link.outbound.is_half_free(class.into())?,
                Link::Tcp(link) => link.sender.queue(class).is_half_free(),
                Link::Rdma(link) => link.queue(class).is_half_free(),
            };
            if free {
                *refused = false;
                shared.events.push_back(Pending::Writable { connection: id(self.slot) });
            }
        }
        Ok(())
    }
}

/// Where the frame begins in a record.
fn record_body_start(record: &Record<'_>) -> usize {
    HEADER_BYTES + record.payloads() * PLACEMENT_BYTES
}
