//! The receiving side of a stream: from bytes to records whose payload has landed.
//!
//! The receiver always knows what comes next and how long it is: a head, the rest of a batch's
//! frames, or its payload. Before any payload is read every placement of the batch has been checked
//! and its pages claimed, so that a read puts each byte where it stays.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use culvert_memory::{Buffer, PAGE_SIZE};
use rustix::io::Errno;

use crate::config::{BATCH_HEAD_BYTES, BATCH_PLACEMENTS_MAX};
use crate::counters::Counters;
use crate::envelope::Record;
use crate::event::Payloads;
use crate::tcp::batch::{self, BatchSize, INLINE_BYTES, PREFIX_BYTES};
use crate::tcp::vectors::Target;
use crate::window::landing::{Landing, NamedPages};
use crate::{CloseReason, Violation, WindowMode};

/// Pages that a payload of the current batch goes to.
#[derive(Debug)]
enum Place {
    Claimed(Buffer),
    Named(NamedPages),
}

impl Place {
    fn bytes(&self) -> usize {
        let pages = match self {
            Self::Claimed(buffer) => buffer.pages(),
            Self::Named(named) => named.pages(),
        };
        pages as usize * PAGE_SIZE
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between batches, or in a head.
    Head,
    /// In the frames behind the head.
    Frames,
    /// The frames are known; their payloads land and they are delivered.
    Delivery,
}

/// What a read did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// All that was asked for.
    Whole,
    /// Less: the socket is empty.
    Short,
    /// The stream has ended between two batches.
    End,
}

/// A stream being taken apart.
#[derive(Debug)]
pub(crate) struct Receiver {
    phase: Phase,
    /// The head of the batch after the current one.
    head: [u8; BATCH_HEAD_BYTES],
    head_bytes: usize,
    /// The head of the current batch.
    current: [u8; BATCH_HEAD_BYTES],
    size: BatchSize,
    /// The frames of the current batch.
    frames: Vec<u8>,
    frames_bytes: usize,
    /// Where the next record to be delivered begins.
    cursor: usize,
    /// Where the payloads of the records from `cursor` on go.
    places: VecDeque<Place>,
    /// Bytes that have landed in them.
    landed: usize,
    /// Bytes that have yet to land.
    missing: usize,
    /// The longest record that the peer may send.
    record_bytes_max: usize,
}

impl Receiver {
    pub(crate) fn new(record_bytes_max: usize) -> Self {
        Self {
            phase: Phase::Head,
            head: [0; BATCH_HEAD_BYTES],
            head_bytes: 0,
            current: [0; BATCH_HEAD_BYTES],
            size: BatchSize::default(),
            frames: Vec::new(),
            frames_bytes: 0,
            cursor: 0,
            places: VecDeque::new(),
            landed: 0,
            missing: 0,
            record_bytes_max,
        }
    }

    /// Whether nothing of the next batch is known yet: whether more has come in only the socket can
    /// say.
    pub(crate) fn is_between_batches(&self) -> bool {
        self.phase == Phase::Head && self.head_bytes == 0
    }

    /// Copies the next record whose payload has landed to `record`, and moves its landing pages to
    /// `payloads`; false when more has to be read first.
    pub(crate) fn pop(
        &mut self,
        landing: &mut Landing,
        record: &mut Vec<u8>,
        payloads: &mut Payloads,
        counters: &mut Counters,
    ) -> Result<bool, Violation> {
        if self.phase == Phase::Head && self.head_bytes == BATCH_HEAD_BYTES {
            self.begin()?;
        }
        if self.phase == Phase::Frames && self.frames_bytes == self.size.frames {
            self.accept(landing)?;
            counters.batches_received += 1;
        }
        if self.phase != Phase::Delivery {
            return Ok(false);
        }
        let next = Record::parse(&self.frames[self.cursor..], self.record_bytes_max)?;
        let (count, padded) = (next.payloads(), next.padded);
        let bytes: usize = self.places.iter().take(count).map(Place::bytes).sum();
        if bytes > self.landed {
            return Ok(false);
        }
        record.clear();
        record.extend_from_slice(&self.frames[self.cursor..self.cursor + padded]);
        self.landed -= bytes;
        self.cursor += padded;
        for place in self.places.drain(..count) {
            if let Place::Claimed(buffer) = place {
                payloads.push(buffer);
            }
        }
        counters.payload_bytes_received += bytes as u64;
        if self.cursor == self.size.frames {
            self.phase = Phase::Head;
        }
        Ok(true)
    }

    /// Reads what comes next, with one system call.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<Filled, CloseReason> {
        let between = self.is_between_batches();
        let mut target = Target::new();
        match self.phase {
            Phase::Head => target.push_slice(&mut self.head[self.head_bytes..]),
            Phase::Frames => {
                target.push_slice(&mut self.frames[self.frames_bytes..]);
                if self.size.payload_pages == 0 {
                    target.push_slice(&mut self.head[self.head_bytes..]);
                }
            }
            Phase::Delivery => {
                let mut skip = self.landed;
                for place in &mut self.places {
                    if skip >= place.bytes() {
                        skip -= place.bytes();
                        continue;
                    }
                    debug_assert!(
                        !target.is_full(),
                        "a batch has at most {BATCH_PLACEMENTS_MAX} placements"
                    );
                    match place {
                        Place::Claimed(buffer) => target.push_buffer(buffer, skip),
                        Place::Named(named) => target.push_named(named, skip),
                    }
                    skip = 0;
                }
                target.push_slice(&mut self.head[self.head_bytes..]);
            }
        }
        let asked = target.bytes();
        let received = match target.receive(socket) {
            Ok(0) if between => return Ok(Filled::End),
            Ok(0) | Err(Errno::CONNRESET) if !between => return Err(CloseReason::PeerVanished),
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Filled::Short),
            Err(error) => return Err(CloseReason::Io(error)),
        };
        self.advance(received);
        Ok(if received == asked { Filled::Whole } else { Filled::Short })
    }

    /// Notes where `received` bytes went.
    fn advance(&mut self, received: usize) {
        let mut left = received;
        match self.phase {
            Phase::Head => {}
            Phase::Frames => {
                let here = left.min(self.size.frames - self.frames_bytes);
                self.frames_bytes += here;
                left -= here;
            }
            Phase::Delivery => {
                let here = left.min(self.missing);
                self.landed += here;
                self.missing -= here;
                left -= here;
            }
        }
        self.head_bytes += left;
        debug_assert!(self.head_bytes <= BATCH_HEAD_BYTES);
    }

    /// Begins the batch whose head has come in.
    fn begin(&mut self) -> Result<(), Violation> {
        self.current = self.head;
        self.head_bytes = 0;
        self.size = batch::open(&self.current)?;
        let here = self.size.frames.min(INLINE_BYTES);
        self.frames.clear();
        self.frames.extend_from_slice(&self.current[PREFIX_BYTES..PREFIX_BYTES + here]);
        self.frames.resize(self.size.frames, 0);
        self.frames_bytes = here;
        self.phase = Phase::Frames;
        Ok(())
    }

    /// Checks the frames of a batch and claims the pages of their payloads.
    fn accept(&mut self, landing: &mut Landing) -> Result<(), Violation> {
        batch::verify(&self.current, &self.frames)?;
        debug_assert!(self.places.is_empty() && self.landed == 0 && self.missing == 0);
        let mut offset = 0;
        let mut pages = 0;
        while offset < self.frames.len() {
            let record = Record::parse(&self.frames[offset..], self.record_bytes_max)?;
            for placement in record.placements() {
                let placement = placement?;
                if self.places.len() == BATCH_PLACEMENTS_MAX {
                    return Err(Violation::FrameMalformed);
                }
                pages += placement.pages();
                self.places.push_back(match landing.mode() {
                    WindowMode::Granted => Place::Claimed(landing.claim(placement)?),
                    WindowMode::Named => Place::Named(landing.named_pages(placement)?),
                });
            }
            offset += record.padded;
        }
        let announced = self.size.payload_pages;
        if announced != pages {
            return Err(Violation::BatchPayload { announced, counted: pages });
        }
        self.missing = pages as usize * PAGE_SIZE;
        self.cursor = 0;
        self.phase = Phase::Delivery;
        Ok(())
    }
}
