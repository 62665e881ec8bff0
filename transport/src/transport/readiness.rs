//! Which sockets have something to say: one epoll instance for all of them.
//!
//! Level-triggered: what is not read is reported again, and the instance itself stays readable
//! until then, so that the reactor can sleep on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use culvert_memory::SlotId;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::config::READINESS_MAX;

/// Tokens from here on are listeners; no slot has such a generation in its upper half.
const LISTENERS: u64 = 0xffff_ffff_0000_0000;
/// ... and from here on devices, two for each: completions, and events wherever they come from. The last is the connection
/// manager.
const DEVICES: u64 = 0xffff_ffff_8000_0000;
const MANAGER: u64 = u64::MAX;

/// Who is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Connection(SlotId),
    Listener(usize),
    /// The RDMA connection manager.
    Manager,
    /// Completions of an RDMA device have come.
    Completions(usize),
    /// An RDMA device has something to report.
    Device(usize),
}

/// One report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) source: Source,
    pub(crate) writable: bool,
    /// Something to be read, an end or an error included.
    pub(crate) readable: bool,
}

/// The epoll instance.
pub(crate) struct Readiness {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// When it was last asked.
    pub(crate) asked: u64,
    /// Whether the next poll asks in any case.
    pub(crate) due: bool,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness")
            .field("asked", &self.asked)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

impl Readiness {
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(READINESS_MAX), asked: 0, due: true })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Watches a connection's socket for reading, and for writing where asked.
    pub(crate) fn add(
        &self,
        socket: BorrowedFd<'_>,
        slot: SlotId,
        writable: bool,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, EventData::new_u64(slot.to_u64()), flags(writable))
    }

    /// Changes whether a connection's socket is watched for writing.
    pub(crate) fn watch(
        &self,
        socket: BorrowedFd<'_>,
        slot: SlotId,
        writable: bool,
    ) -> Result<(), Errno> {
        epoll::modify(&self.epoll, socket, EventData::new_u64(slot.to_u64()), flags(writable))
    }

    /// Watches a listener.
    pub(crate) fn add_listener(&self, socket: BorrowedFd<'_>, index: usize) -> Result<(), Errno> {
        epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(LISTENERS + index as u64),
            EventFlags::IN,
        )
    }

    /// Watches the RDMA connection manager.
    pub(crate) fn add_manager(&self, channel: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, channel, EventData::new_u64(MANAGER), EventFlags::IN)
    }

    /// Watches an RDMA device.
    pub(crate) fn add_device(
        &self,
        device: usize,
        [completions, events, inbox]: [BorrowedFd<'_>; 3],
    ) -> Result<(), Errno> {
        let token = DEVICES + 2 * device as u64;
        epoll::add(&self.epoll, completions, EventData::new_u64(token), EventFlags::IN)?;
        epoll::add(&self.epoll, events, EventData::new_u64(token + 1), EventFlags::IN)?;
        epoll::add(&self.epoll, inbox, EventData::new_u64(token + 1), EventFlags::IN)
    }

    /// Stops watching an RDMA device.
    pub(crate) fn remove_device(&self, descriptors: [BorrowedFd<'_>; 3]) {
        for descriptor in descriptors {
            // It may have been taken off before.
            let _ = epoll::delete(&self.epoll, descriptor);
        }
    }

    /// Stops watching a listener.
    pub(crate) fn remove_listener(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::delete(&self.epoll, socket)
    }

    /// Asks who is ready, without waiting; how many reports there are.
    pub(crate) fn ask(&mut self) -> usize {
        self.events.clear();
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted call reports nothing; the next poll asks again.
        let asked =
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&now));
        debug_assert!(asked.is_ok() || asked == Err(Errno::INTR), "epoll_wait: {asked:?}");
        self.events.len()
    }

    /// A report of the last call of [`Readiness::ask`].
    pub(crate) fn report(&self, index: usize) -> Report {
        let Event { flags, data } = self.events[index];
        let token = data.u64();
        let source = match token {
            MANAGER => Source::Manager,
            DEVICES.. => {
                let (number, events) = ((token - DEVICES) >> 1, token & 1 != 0);
                let device = number as usize;
                if events { Source::Device(device) } else { Source::Completions(device) }
            }
            LISTENERS.. => Source::Listener((token - LISTENERS) as usize),
            _ => Source::Connection(SlotId::from_u64(token)),
        };
        let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        Report {
            source,
            writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
            readable: flags.intersects(EventFlags::IN | end),
        }
    }
}

fn flags(writable: bool) -> EventFlags {
    let flags = EventFlags::IN | EventFlags::RDHUP;
    if writable { flags | EventFlags::OUT } else { flags }
}
