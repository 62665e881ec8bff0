//! A connection over verbs that is being made.
//!
//! The two Hellos travel in the connection manager's private data, the connector's in a shorter form
//! since its request has room for 56 bytes only; a refusal is the private data of a reject. The
//! Confirms are the first messages.

use arrayvec::ArrayVec;
use rustix::io::Errno;

use super::cm::{Id, PrivateData};
use super::link::RdmaLink;
use crate::counters::Counters;

/// How far it is.
#[derive(Debug)]
enum Step {
    /// The way to the peer is looked for.
    Resolving(Id),
    /// There is a queue pair.
    Linked(Box<RdmaLink>),
    /// Between the two.
    Nothing,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Joining {
    step: Step,
    /// A peer that came in has been answered.
    answered: bool,
    /// What the peer said in private data and nobody has read.
    said: PrivateData,
}

impl Joining {
    /// A connector that looks for the way.
    pub(crate) fn resolving(id: Id) -> Self {
        Self { step: Step::Resolving(id), answered: true, said: ArrayVec::new() }
    }

    /// A peer that came in, with its Hello.
    pub(crate) fn incoming(link: RdmaLink, hello: &[u8]) -> Self {
        let said = hello.iter().copied().collect();
        Self { step: Step::Linked(Box::new(link)), answered: false, said }
    }

    /// The identifier, before there is a link.
    pub(crate) fn id(&self) -> Option<&Id> {
        match &self.step {
            Step::Resolving(id) => Some(id),
            Step::Linked(_) | Step::Nothing => None,
        }
    }

    /// Takes the identifier for a link to be made of it.
    pub(crate) fn take_id(&mut self) -> Option<Id> {
        match std::mem::replace(&mut self.step, Step::Nothing) {
            Step::Resolving(id) => Some(id),
            other => {
                self.step = other;
                None
            }
        }
    }

    /// The link has been made: asks the peer.
    pub(crate) fn connect(
        &mut self,
        link: RdmaLink,
        hello: &[u8],
        retries: u8,
    ) -> Result<(), Errno> {
        let asked = link.id().connect(hello, retries);
        self.step = Step::Linked(Box::new(link));
        asked
    }

    /// The connection manager brought the peer's Hello, or a refusal.
    pub(crate) fn hear(&mut self, said: PrivateData) {
        self.said = said;
    }

    /// Reads what the peer said; how many bytes.
    pub(crate) fn read(&mut self, target: &mut [u8]) -> usize {
        if !self.said.is_empty() {
            let bytes = target.len().min(self.said.len());
            target[..bytes].copy_from_slice(&self.said[..bytes]);
            // Private data is filled up with zeroes.
            self.said.clear();
            return bytes;
        }
        match &mut self.step {
            Step::Linked(link) => link.take_raw(target),
            Step::Resolving(_) | Step::Nothing => 0,
        }
    }

    /// Says the next message of the handshake. A peer that came in is answered by it.
    pub(crate) fn say(
        &mut self,
        bytes: &[u8],
        retries: u8,
        counters: &mut Counters,
    ) -> Result<(), Errno> {
        let Step::Linked(link) = &mut self.step else { return Err(Errno::NOTCONN) };
        if std::mem::replace(&mut self.answered, true) {
            return link.send_raw(bytes, counters);
        }
        link.id().accept(bytes, retries)
    }

    /// Says no, as the last message of the handshake.
    pub(crate) fn refuse(&mut self, bytes: &[u8], counters: &mut Counters) -> Result<(), Errno> {
        let Step::Linked(link) = &mut self.step else { return Err(Errno::NOTCONN) };
        if std::mem::replace(&mut self.answered, true) {
            return link.send_raw(bytes, counters);
        }
        link.id().reject(bytes)
    }

    pub(crate) fn link_mut(&mut self) -> Option<&mut RdmaLink> {
        match &mut self.step {
            Step::Linked(link) => Some(link),
            Step::Resolving(_) | Step::Nothing => None,
        }
    }

    /// The link, of an established connection or to let it end.
    pub(crate) fn into_link(self) -> Option<RdmaLink> {
        match self.step {
            Step::Linked(link) => Some(*link),
            Step::Resolving(_) | Step::Nothing => None,
        }
    }
}
