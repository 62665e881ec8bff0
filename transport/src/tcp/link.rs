//! An established connection over a stream.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::CloseReason;
use crate::config::CALLS_PER_TURN;
use crate::counters::Counters;
use crate::event::Payloads;
use crate::tcp::receiver::{Filled, Receiver};
use crate::tcp::sender::{Flushed, Sender};
use crate::window::landing::Landing;

/// A stream with both of its sides.
#[derive(Debug)]
pub(crate) struct TcpLink {
    socket: OwnedFd,
    pub(crate) sender: Sender,
    receiver: Receiver,
    /// The socket may hold something to be read.
    readable: bool,
    /// The socket takes nothing until it is reported writable.
    blocked: bool,
    /// Whether the readiness of the socket for writing is being watched.
    pub(crate) watched: bool,
    /// The stream has ended in an orderly place.
    pub(crate) ended: bool,
    /// Whether the connection stands in the list of those to be read.
    pub(crate) listed: bool,
    calls_left: usize,
}

impl TcpLink {
    pub(crate) fn new(socket: OwnedFd, sender: Sender, receiver: Receiver) -> Self {
        Self {
            socket,
            sender,
            receiver,
            readable: false,
            blocked: false,
            watched: false,
            ended: false,
            listed: false,
            calls_left: 0,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket was reported readable.
    pub(crate) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// The socket was reported writable.
    pub(crate) fn set_writable(&mut self) {
        self.blocked = false;
    }

    /// Whether writing has to wait for the socket.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Begins a turn, in which only so many system calls are made.
    pub(crate) fn begin_turn(&mut self) {
        self.calls_left = CALLS_PER_TURN;
    }

    /// Whether a further turn is needed that no report of the socket will cause.
    pub(crate) fn wants_turn(&self) -> bool {
        self.readable
    }

    /// Takes the next record whose payload has landed; false when there is none now.
    pub(crate) fn pop(
        &mut self,
        landing: &mut Landing,
        record: &mut Vec<u8>,
        payloads: &mut Payloads,
        counters: &mut Counters,
    ) -> Result<bool, CloseReason> {
        loop {
            if self.receiver.pop(landing, record, payloads, counters)? {
                return Ok(true);
            }
            if !self.readable || self.calls_left == 0 {
                return Ok(false);
            }
            self.calls_left -= 1;
            counters.system_calls += 1;
            match self.receiver.fill(self.socket.as_fd())? {
                Filled::Whole => {}
                Filled::Short => self.readable = false,
                Filled::End => {
                    self.readable = false;
                    self.ended = true;
                }
            }
            // Only the socket knows whether another batch has begun; it is asked together with all
            // others.
            if self.receiver.is_between_batches() {
                self.readable = false;
            }
        }
    }

    /// Writes what is queued, unless the socket is known to take nothing.
    pub(crate) fn flush(&mut self, counters: &mut Counters) -> Result<Flushed, CloseReason> {
        if self.blocked {
            return Ok(Flushed::Blocked);
        }
        let flushed = self.sender.flush(self.socket.as_fd(), counters)?;
        self.blocked = flushed == Flushed::Blocked;
        Ok(flushed)
    }
}
