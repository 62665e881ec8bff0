#![allow(unsafe_code)]
//! The send queue of one connection: work requests gathered, posted with one doorbell, and what they
//! read held until they have completed.

use std::collections::VecDeque;
use std::ptr::null_mut;
use std::rc::Rc;

use culvert_memory::{Buffer, Pages};
use rustix::io::Errno;

use super::cm::Id;
use super::device::{Device, Registration};
use super::ffi::{self, BindWindow, SendRequest, Sge};

/// What a posted work request reads; it must not be given back before.
enum Held {
    Payload {
        pages: Pages,
        _registration: Rc<Registration>,
    },
    Frame {
        _page: Buffer,
        _registration: Rc<Registration>,
    },
    /// Nothing, or the device took a copy.
    Inline,
}

/// Where a one-sided write goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) address: u64,
    pub(super) rkey: u32,
}

/// What a doorbell announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rung {
    pub(super) requests: u32,
    pub(super) signalled: u32,
}

/// See the module's documentation.
pub(super) struct QueuePair {
    id: Id,
    serial: u32,
    device: Rc<Device>,
    sends_max: u32,
    inline_bytes: u32,
    /// Gathered and not posted, with what they read.
    requests: Vec<SendRequest>,
    sges: Vec<Sge>,
    gathered: Vec<Held>,
    /// Posted and not known to be complete, the oldest first.
    posted: VecDeque<Held>,
    /// The number of the oldest of them.
    first: u64,
    payload_pages: u32,
}

impl std::fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueuePair").field("id", &self.id).finish_non_exhaustive()
    }
}

impl QueuePair {
    /// Makes the queue pair of an identifier, for at most `sends_max` work requests at once.
    pub(super) fn new(
        mut id: Id,
        device: &Rc<Device>,
        sends_max: u32,
        inline_bytes: u32,
    ) -> Result<Self, (Id, Errno)> {
        let sends_max = sends_max.min(device.work_requests_max());
        let made =
            id.create_queue_pair(device, sends_max, inline_bytes).or_else(|error| match error {
                // A device may refuse inline data altogether.
                Errno::INVAL => id.create_queue_pair(device, sends_max, 0),
                error => Err(error),
            });
        let (granted, serial) = match made {
            Ok(made) => made,
            Err(error) => return Err((id, error)),
        };
        let inline_bytes = granted.min(inline_bytes);
        let most = sends_max as usize;
        Ok(Self {
            id,
            serial,
            device: Rc::clone(device),
            sends_max,
            inline_bytes,
            requests: Vec::with_capacity(most),
            sges: Vec::with_capacity(most),
            gathered: Vec::with_capacity(most),
            posted: VecDeque::with_capacity(most),
            first: 0,
            payload_pages: 0,
        })
    }

    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    /// By what events call it; no other queue pair here ever has it.
    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    /// Its number, by which completions call it.
    pub(super) fn number(&self) -> u32 {
        // SAFETY: the queue pair lives as long as its identifier; the number is set once.
        unsafe { (*self.id.queue_pair()).qp_num }
    }

    /// Work requests for which there is room.
    pub(super) fn room(&self) -> usize {
        self.sends_max as usize - self.posted.len() - self.gathered.len()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.posted.is_empty()
    }

    /// Pages of payload that are held.
    pub(super) fn payload_pages(&self) -> u32 {
        self.payload_pages
    }

    /// Gathers a one-sided write of pages, for which there is room.
    pub(super) fn write(&mut self, pages: &Pages, registration: Rc<Registration>, target: Target) {
        let bytes = pages.len() as u32;
        self.gather(pages.as_ptr().as_ptr() as u64, bytes, registration.lkey());
        let request = self.requests.last_mut().expect("just gathered");
        request.opcode = ffi::OPCODE_WRITE;
        request.remote_addr = target.address;
        request.rkey = target.rkey;
        self.payload_pages += pages.pages();
        self.gathered.push(Held::Payload { pages: pages.clone(), _registration: registration });
    }

    /// Gathers a write of nothing to nowhere, for which there is room: only its completion matters.
    pub(super) fn touch(&mut self) {
        self.gather(0, 0, 0);
        self.gathered.push(Held::Inline);
    }

    /// Gathers what lets the peer write, for which there is room. Who posts it keeps what it names.
    pub(super) fn bind(&mut self, bind: BindWindow) {
        self.gather(0, 0, 0);
        let request = self.requests.last_mut().expect("just gathered");
        request.opcode = ffi::OPCODE_BIND_WINDOW;
        request.bind = bind;
        self.gathered.push(Held::Inline);
    }

    /// Gathers a message of the first `bytes` bytes of a page, for which there is room.
    pub(super) fn send(
        &mut self,
        page: Buffer,
        bytes: usize,
        registration: Rc<Registration>,
        immediate: u32,
    ) {
        let inline = bytes <= self.inline_bytes as usize;
        self.gather(page.as_ptr().as_ptr() as u64, bytes as u32, registration.lkey());
        let request = self.requests.last_mut().expect("just gathered");
        request.opcode = ffi::OPCODE_SEND_WITH_IMM;
        request.imm_data = immediate.to_be();
        if inline {
            request.send_flags = ffi::FLAG_INLINE;
        }
        self.gathered.push(Held::Frame { _page: page, _registration: registration });
    }

    fn gather(&mut self, addr: u64, length: u32, lkey: u32) {
        debug_assert!(self.room() > 0);
        self.sges.push(Sge { addr, length, lkey });
        self.requests.push(SendRequest {
            wr_id: self.first + (self.posted.len() + self.gathered.len()) as u64,
            next: null_mut(),
            sg_list: null_mut(),
            num_sge: i32::from(length > 0),
            opcode: 0,
            send_flags: 0,
            imm_data: 0,
            remote_addr: 0,
            rkey: 0,
            rest_of_union: [0; 2],
            remote_srqn: 0,
            bind: BindWindow::NONE,
        });
    }

    /// Posts what was gathered, with one doorbell; the last of it is signalled.
    pub(super) fn ring(&mut self) -> Result<Rung, Errno> {
        let Some(last) = self.requests.last_mut() else { return Ok(Rung::default()) };
        last.send_flags |= ffi::FLAG_SIGNALED;
        let count = self.requests.len();
        let (requests, sges) = (self.requests.as_mut_ptr(), self.sges.as_mut_ptr());
        for (index, request) in self.requests.iter_mut().enumerate() {
            let behind = index + 1;
            request.next = if behind < count { requests.wrapping_add(behind) } else { null_mut() };
            request.sg_list = sges.wrapping_add(index);
        }
        let (qp, requests) = (self.id.queue_pair(), self.requests.as_mut_ptr());
        // SAFETY: the requests are linked and live while they are copied; what they read is held
        // from here on until its completion is taken or the queue pair is destroyed.
        let posted = unsafe { self.device.post_send(qp, requests) };
        for (request, held) in self.requests.iter().zip(self.gathered.drain(..)) {
            let inline = request.send_flags & ffi::FLAG_INLINE != 0;
            self.posted.push_back(if inline { Held::Inline } else { held });
        }
        self.requests.clear();
        self.sges.clear();
        // Where that failed some of them may be under way: only the end of the queue pair tells.
        posted?;
        Ok(Rung { requests: count as u32, signalled: 1 })
    }

    /// Tells the peer that it is over; the device gives back what the queue pair holds.
    pub(super) fn disconnect(&self) {
        self.id.disconnect();
    }

    /// Ends the queue pair: what its work requests held is free.
    pub(super) fn end(mut self) -> Id {
        self.id.destroy_queue_pair();
        self.id
    }

    /// A work request has completed, and with it all before it.
    pub(super) fn complete(&mut self, number: u64) {
        while self.first <= number {
            let Some(held) = self.posted.pop_front() else { return };
            self.first += 1;
            if let Held::Payload { pages, .. } = held {
                self.payload_pages -= pages.pages();
            }
        }
    }
}
