//! A connection over verbs: one-sided writes for payload, messages for frames.
//!
//! A message is at most a page of one class's records, and says in its immediate data which class
//! that is and how many of our messages the peer has taken since the last one. A message fills one
//! of the receives that the peer's connections share, and only so many may be under way as it has
//! promised to this one: its *slots*. The last two are kept for control, the last one for giving
//! slots back, so that neither side waits for the other for ever. [`Lane`] says how a peer that
//! sends more than its side takes is held back.
//!
//! Payload is written before the message that ends its record is posted, in the same chain, and the
//! device keeps that order: who gets the frame finds the payload whole.

use std::rc::Rc;

use arrayvec::ArrayVec;
use culvert_memory::{PAGE_SIZE, Pages, Window};
use rustix::io::Errno;

use super::access::Access;
use super::cm::Id;
use super::device::Device;
use super::lane::Lane;
use super::queue_pair::{QueuePair, Target};
use crate::config::{RDMA_SLOTS, SEGMENTS_MAX};
use crate::connection::queue::Queue;
use crate::counters::Counters;
use crate::envelope::{Header, RECORD_BYTES_LIMIT, Record, WireRun};
use crate::{Class, CloseReason, Violation};

/// Slots that data leaves for control, and control for giving slots back.
const CONTROL_SLOTS: u32 = 2;
const RETURN_SLOTS: u32 = 1;

/// Bytes of one class that may wait here before its sender is held back: more than a record, which is
/// delivered when it is whole.
const fn waiting_bytes_max(record_bytes_max: usize) -> usize {
    record_bytes_max + PAGE_SIZE
}

/// The bit of the immediate data that says control; those below it count slots.
const CONTROL: u32 = 1 << 16;

/// Where a segment of a window is for its writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: u64,
    pub(crate) rkey: u32,
}

/// A segment of the peer's window.
#[derive(Clone, Copy, Debug)]
struct PeerSegment {
    first: u32,
    place: Place,
}

/// The records of one class on their way out.
#[derive(Debug)]
struct Outgoing {
    queue: Queue,
    /// Bytes of the oldest record that have left.
    left: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct RdmaLink {
    /// What the peer may write: taken back before the queue pair goes, both before the pages.
    window: ArrayVec<Access, SEGMENTS_MAX>,
    qp: QueuePair,
    device: Rc<Device>,
    _promise: Promise,
    control: Outgoing,
    data: Outgoing,
    control_in: Lane,
    data_in: Lane,
    peer_window: ArrayVec<PeerSegment, SEGMENTS_MAX>,
    /// Segments of our window that were bound.
    bound: usize,
    /// Messages of ours that the peer has not taken.
    outstanding: u32,
    /// Messages of the peer whose slots it has not been told of.
    untold: u32,
    /// Those of them that may be told.
    owed: u32,
    /// Pages of payload in the queues.
    queued_pages: u32,
    record_bytes_max: usize,
    /// Whether anything was posted since [`RdmaLink::keep_alive`] looked last.
    active: bool,
    /// Why it is over; what came before is still delivered.
    pub(crate) ended: Option<CloseReason>,
    /// Whether the connection stands in the list of those to be read.
    pub(crate) listed: bool,
}

/// What a link needs to know of the transport's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkOptions {
    pub(crate) data_queue_bytes: usize,
    pub(crate) control_queue_bytes: usize,
    pub(crate) sends_max: u32,
    pub(crate) inline_bytes: u32,
}

impl RdmaLink {
    /// Makes the queue pair of an identifier, and promises receives to its peer.
    pub(super) fn new(
        id: Id,
        device: &Rc<Device>,
        options: &LinkOptions,
    ) -> Result<Self, (Id, Errno)> {
        if let Err(error) = device.promise(RDMA_SLOTS) {
            return Err((id, error));
        }
        let promise = Promise(Rc::clone(device));
        let qp = QueuePair::new(id, device, options.sends_max, options.inline_bytes)?;
        let outgoing = |bytes| Outgoing { queue: Queue::new(bytes), left: 0 };
        Ok(Self {
            qp,
            window: ArrayVec::new(),
            device: Rc::clone(device),
            _promise: promise,
            control: outgoing(options.control_queue_bytes),
            data: outgoing(options.data_queue_bytes),
            control_in: Lane::new(2 * PAGE_SIZE),
            data_in: Lane::new(4 * PAGE_SIZE),
            peer_window: ArrayVec::new(),
            bound: 0,
            outstanding: 0,
            untold: 0,
            owed: 0,
            queued_pages: 0,
            record_bytes_max: RECORD_BYTES_LIMIT,
            active: true,
            ended: None,
            listed: false,
        })
    }

    pub(super) fn id(&self) -> &Id {
        self.qp.id()
    }

    pub(super) fn number(&self) -> u32 {
        self.qp.number()
    }

    pub(super) fn serial(&self) -> u32 {
        self.qp.serial()
    }

    pub(super) fn is_on(&self, device: &Rc<Device>) -> bool {
        Rc::ptr_eq(&self.device, device)
    }

    /// Sets the longest record that the peer may send, once it is known.
    pub(crate) fn limit_records(&mut self, bytes_max: usize) {
        self.record_bytes_max = bytes_max;
    }

    /// Lets the peer write a segment of our window; what it has to know for that.
    pub(crate) fn open_window(&mut self, window: &Window) -> Result<(), Errno> {
        self.window.push(Access::new(&self.device, window)?);
        Ok(())
    }

    /// Where the newest segment of our window is for the peer.
    pub(crate) fn newest_place(&self) -> Place {
        self.window.last().map(Access::place).unwrap_or_default()
    }

    /// Where the first segment of our window is for the peer.
    #[cfg(test)]
    pub(crate) fn window_place(&self) -> Option<Place> {
        self.window.first().map(Access::place)
    }

    /// Adds a segment of the peer's window that begins at page `first`.
    pub(crate) fn add_segment(&mut self, first: u32, place: Place) {
        self.peer_window.push(PeerSegment { first, place });
    }

    /// The queue of a class.
    pub(crate) fn queue(&self, class: Class) -> &Queue {
        match class {
            Class::Data => &self.data.queue,
            Class::Control => &self.control.queue,
        }
    }

    /// Pages of payload that are held for the wire.
    pub(crate) fn unsent_pages(&self) -> u32 {
        self.queued_pages + self.qp.payload_pages()
    }

    /// Whether nothing waits to be posted.
    pub(crate) fn is_empty(&self) -> bool {
        self.control.queue.is_empty() && self.data.queue.is_empty()
    }

    /// Whether everything posted has completed.
    pub(super) fn is_idle(&self) -> bool {
        self.qp.is_idle()
    }

    /// Queues a record for which there is room.
    pub(crate) fn push<'a>(
        &mut self,
        class: Class,
        header: Header,
        runs: impl Iterator<Item = WireRun>,
        body: &[u8],
        payloads: impl Iterator<Item = &'a Pages> + Clone,
    ) {
        self.queued_pages += payloads.clone().map(Pages::pages).sum::<u32>();
        let outgoing = match class {
            Class::Data => &mut self.data,
            Class::Control => &mut self.control,
        };
        outgoing.queue.push(header, runs, body, payloads);
    }

    /// Sends bytes that are no record, of the handshake, ahead of all records.
    pub(super) fn send_raw(&mut self, bytes: &[u8], counters: &mut Counters) -> Result<(), Errno> {
        self.bind();
        let (mut page, registration) = self.device.frame_page()?;
        page.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        let told = self.tell();
        self.qp.send(page, bytes.len(), registration, CONTROL | told);
        self.outstanding += 1;
        self.ring(counters)
    }

    /// Takes bytes of the handshake; how many.
    pub(super) fn take_raw(&mut self, target: &mut [u8]) -> usize {
        self.control_in.take(target)
    }

    /// How many slots may be told now; they count as told.
    fn tell(&mut self) -> u32 {
        self.untold -= self.owed;
        std::mem::take(&mut self.owed)
    }

    /// Whether a flush would post something.
    pub(crate) fn can_flush(&self) -> bool {
        let free = RDMA_SLOTS - self.outstanding;
        self.qp.room() > 0
            && ((!self.control.queue.is_empty() && free > RETURN_SLOTS)
                || (!self.data.queue.is_empty() && free > CONTROL_SLOTS)
                || self.owes_slots())
    }

    /// Whether the peer is to be told of slots even without a message that takes them along.
    pub(crate) fn owes_slots(&self) -> bool {
        self.owed >= RDMA_SLOTS / 2 && self.outstanding < RDMA_SLOTS
    }

    /// Posts what is queued, as far as slots and the send queue go, with one doorbell.
    pub(crate) fn flush(&mut self, counters: &mut Counters) -> Result<(), CloseReason> {
        if !self.bind() {
            return Ok(());
        }
        let mut posted = 0;
        for class in [Class::Control, Class::Data] {
            while self.compose(class).map_err(CloseReason::Io)? {
                posted += 1;
            }
        }
        if posted == 0 && self.owes_slots() && self.qp.room() > 0 {
            let (page, registration) = self.device.frame_page().map_err(CloseReason::Io)?;
            let told = self.tell();
            self.qp.send(page, 0, registration, CONTROL | told);
            self.outstanding += 1;
        }
        self.ring(counters).map_err(CloseReason::Io)
    }

    /// Gathers what lets the peer write new segments of our window, before it can hear of them;
    /// false when there is no room for that.
    fn bind(&mut self) -> bool {
        while let Some(access) = self.window.get(self.bound) {
            if self.qp.room() == 0 {
                return false;
            }
            if let Some(binding) = access.binding() {
                self.qp.bind(binding);
            }
            self.bound += 1;
        }
        true
    }

    fn ring(&mut self, counters: &mut Counters) -> Result<(), Errno> {
        let rung = self.qp.ring()?;
        if rung.requests > 0 {
            self.active = true;
            counters.chains_posted += 1;
            counters.work_requests += u64::from(rung.requests);
            counters.work_requests_signalled += u64::from(rung.signalled);
        }
        Ok(())
    }

    /// Asks the peer's device for an acknowledgement where nothing else has since the last call.
    pub(crate) fn keep_alive(&mut self, counters: &mut Counters) -> Result<(), CloseReason> {
        if !self.active && self.qp.is_idle() {
            self.qp.touch();
            self.ring(counters).map_err(CloseReason::Io)?;
        }
        self.active = false;
        Ok(())
    }

    /// Gathers one message of a class, and the payloads of the records that begin in it; false when
    /// there is nothing, or no slot or room for it.
    fn compose(&mut self, class: Class) -> Result<bool, Errno> {
        let (outgoing, reserve, lane) = match class {
            Class::Data => (&mut self.data, CONTROL_SLOTS, 0),
            Class::Control => (&mut self.control, RETURN_SLOTS, CONTROL),
        };
        if outgoing.queue.is_empty() || self.outstanding + reserve >= RDMA_SLOTS {
            return Ok(false);
        }
        if self.qp.room() == 0 {
            return Ok(false);
        }
        let (mut page, registration) = self.device.frame_page()?;
        let message = page.as_mut_slice();
        let mut bytes = 0;
        while bytes < PAGE_SIZE
            && let Some(oldest) = outgoing.queue.oldest()
        {
            let (length, payloads) = (oldest.record.len(), oldest.payloads);
            if outgoing.left == 0 && payloads > 0 {
                // One request is left for the message.
                if self.qp.room() <= payloads {
                    break;
                }
                let record = Record::parse(oldest.record, RECORD_BYTES_LIMIT)
                    .expect("the queue holds what this side wrote");
                for (placement, pages) in record.placements().zip(outgoing.queue.oldest_payloads())
                {
                    let placement = placement.expect("it was checked when it was sent");
                    let segments = &self.peer_window;
                    let segment =
                        segments.iter().rev().find(|segment| segment.first <= placement.page());
                    let PeerSegment { first, place } =
                        *segment.expect("a placement was checked against the window");
                    let offset = u64::from(placement.page() - first) * PAGE_SIZE as u64;
                    // The address is the peer's word: nonsense fails at its own device.
                    let address = place.address.wrapping_add(offset);
                    let target = Target { address, rkey: place.rkey };
                    self.qp.write(pages, self.device.source(pages)?, target);
                    self.queued_pages -= pages.pages();
                }
            }
            let here = (length - outgoing.left).min(PAGE_SIZE - bytes);
            message[bytes..bytes + here]
                .copy_from_slice(&oldest.record[outgoing.left..outgoing.left + here]);
            bytes += here;
            outgoing.left += here;
            if outgoing.left == length {
                outgoing.left = 0;
                outgoing.queue.discard(length, payloads);
            }
        }
        if bytes == 0 {
            return Ok(false);
        }
        let told = self.tell();
        self.qp.send(page, bytes, registration, lane | told);
        self.outstanding += 1;
        Ok(true)
    }

    /// A send has completed, and with it all before it.
    pub(crate) fn sent(&mut self, number: u64) {
        self.qp.complete(number);
    }

    /// Takes a message in.
    pub(crate) fn receive(&mut self, message: &[u8], immediate: u32) -> Result<(), Violation> {
        self.untold += 1;
        let (told, control) = (immediate & (CONTROL - 1), immediate & CONTROL != 0);
        if immediate >= CONTROL << 1 || told > self.outstanding || self.untold > RDMA_SLOTS {
            return Err(Violation::Slots { told, outstanding: self.outstanding });
        }
        self.outstanding -= told;
        let lane = if control { &mut self.control_in } else { &mut self.data_in };
        self.owed += lane.push(message, waiting_bytes_max(self.record_bytes_max));
        Ok(())
    }

    /// Takes the oldest record, control before data; false when there is none.
    pub(crate) fn pop(&mut self, record: &mut Vec<u8>) -> Result<bool, Violation> {
        let bytes_max = self.record_bytes_max;
        for lane in [&mut self.control_in, &mut self.data_in] {
            if let Some(slots) = lane.pop(bytes_max, waiting_bytes_max(bytes_max), record)? {
                self.owed += slots;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the peer broke off in the middle of something.
    pub(crate) fn is_amid_record(&self) -> bool {
        !self.control_in.is_empty() || !self.data_in.is_empty()
    }

    /// Tells the peer that it is over. The device gives sends and receives back; [`RdmaLink::end`]
    /// follows when it has.
    pub(super) fn disconnect(&self) {
        self.qp.disconnect();
    }

    /// The end: nothing is under way any more, and nobody writes our window. The identifier is to be
    /// kept until the peer has heard it.
    pub(super) fn end(mut self) -> Id {
        self.window.clear();
        self.qp.end()
    }
}

/// The receives that were promised to a peer.
#[derive(Debug)]
struct Promise(Rc<Device>);

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.release(RDMA_SLOTS);
    }
}
