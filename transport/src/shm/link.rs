//! An established connection over shared memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use arrayvec::ArrayVec;
use culvert_memory::{Mapping, PAGE_SIZE, Pages, SharedBytes, full_barrier};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::config::SEGMENTS_MAX;
use crate::counters::Counters;
use crate::envelope::{Header, WireRun};
use crate::error::mapping_reason;
use crate::shm::notice::{NOTICE_BYTES, Notice};
use crate::shm::ring::{Inbound, Lane, Outbound};
use crate::shm::socket::{self, Files, Received};
use crate::{Class, CloseReason, Placement, Violation};

/// A segment of the peer's window, mapped here.
#[derive(Debug)]
struct PeerSegment {
    first: u32,
    memory: SharedBytes,
}

/// The memory and the socket that two processes share.
#[derive(Debug)]
pub(crate) struct ShmLink {
    socket: OwnedFd,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    peer_window: ArrayVec<PeerSegment, SEGMENTS_MAX>,
    /// The peer is gone; what it left in the rings is still delivered.
    pub(crate) ended: bool,
    /// Whether frames were consumed since the head was last published.
    consumed: bool,
}

impl From<Class> for Lane {
    fn from(class: Class) -> Self {
        match class {
            Class::Data => Self::Data,
            Class::Control => Self::Control,
        }
    }
}

impl ShmLink {
    pub(crate) fn new(socket: OwnedFd, inbound: Inbound, outbound: Outbound) -> Self {
        Self {
            socket,
            inbound,
            outbound,
            peer_window: ArrayVec::new(),
            ended: false,
            consumed: false,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Adds a segment of the peer's window that begins at page `first`.
    pub(crate) fn add_segment(&mut self, first: u32, memory: SharedBytes) {
        self.peer_window.push(PeerSegment { first, memory });
    }

    /// Copies a payload to where the peer will look for it: the one-sided write.
    ///
    /// # Panics
    ///
    /// When the place is not in the window, which the caller has checked.
    pub(crate) fn write_payload(&self, placement: Placement, pages: &Pages) {
        let segment =
            self.peer_window.iter().rev().find(|segment| segment.first <= placement.page());
        let segment = segment.expect("a placement was checked against the window");
        let offset = (placement.page() - segment.first) as usize * PAGE_SIZE;
        segment.memory.copy_from_pages(offset, pages);
    }

    /// Appends a record for which there is room.
    pub(crate) fn push(
        &mut self,
        lane: Lane,
        header: Header,
        runs: impl Iterator<Item = WireRun>,
        body: &[u8],
    ) {
        self.outbound.push(lane, header, runs, body);
    }

    /// Takes the oldest record, control before data; false when there is none.
    pub(crate) fn pop(
        &mut self,
        bytes_max: usize,
        record: &mut Vec<u8>,
    ) -> Result<bool, Violation> {
        let popped = self.inbound.pop(Lane::Control, bytes_max, record)?
            || self.inbound.pop(Lane::Data, bytes_max, record)?;
        self.consumed |= popped;
        Ok(popped)
    }

    /// Tells the producer what has been consumed; whether it waits for just that.
    pub(crate) fn publish_consumed(&mut self) -> bool {
        if !self.consumed {
            return false;
        }
        self.consumed = false;
        self.inbound.publish();
        full_barrier();
        self.inbound.producer_waits()
    }

    /// Whether there is room now in a queue that refused something. A lying index counts as room:
    /// the next poll finds out.
    pub(crate) fn room_has_come(&mut self, data: bool, control: bool) -> bool {
        let mut freed = |lane| self.outbound.is_half_free(lane).unwrap_or(true);
        (data && freed(Lane::Data)) || (control && freed(Lane::Control))
    }

    /// Shows the peer what was sent, and wakes it when it sleeps. `nudge` when it waits for room in
    /// our ring.
    pub(crate) fn post(&mut self, nudge: bool, counters: &mut Counters) -> Result<(), CloseReason> {
        if !self.outbound.is_pushed() && !nudge {
            return Ok(());
        }
        self.outbound.publish();
        full_barrier();
        if self.outbound.take_sleeping() {
            counters.doorbells += 1;
            self.send_notice(Notice::Wake, None, counters)?;
        }
        Ok(())
    }

    /// Sends a notice. Only a peer that leaves them unread has a full socket.
    pub(crate) fn send_notice(
        &self,
        notice: Notice,
        file: Option<BorrowedFd<'_>>,
        counters: &mut Counters,
    ) -> Result<(), CloseReason> {
        counters.system_calls += 1;
        match socket::send(self.socket(), notice.emit().as_bytes(), file.as_slice()) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN) => Err(Violation::NoticesUnread.into()),
            // The end of the peer is noticed, in its order, when the socket is read.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(error) => Err(CloseReason::Io(error)),
        }
    }

    /// Reads one notice and the file that came with it.
    pub(crate) fn receive_notice(
        &mut self,
        counters: &mut Counters,
    ) -> Result<Option<(Notice, Files)>, CloseReason> {
        let mut bytes = [0; NOTICE_BYTES + 1];
        let mut files = Files::new();
        counters.system_calls += 1;
        match socket::receive(self.socket.as_fd(), &mut bytes, &mut files)
            .map_err(CloseReason::Io)?
        {
            Received::Nothing => Ok(None),
            Received::End => {
                self.ended = true;
                Ok(None)
            }
            Received::Message(length) => {
                let notice = Notice::parse(&bytes[..length])?;
                Ok(Some((notice, files)))
            }
        }
    }
}

/// Maps a segment of a peer's window. The grant itself has been checked.
pub(crate) fn map_segment(file: OwnedFd, pages: u32) -> Result<SharedBytes, CloseReason> {
    let bytes = pages as usize * PAGE_SIZE;
    let mapping = Mapping::from_fd(file, bytes).map_err(|error| mapping_reason(&error))?;
    Ok(SharedBytes::of_mapping(Rc::new(mapping)))
}
