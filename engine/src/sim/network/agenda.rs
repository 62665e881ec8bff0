//! What will happen, in the order of time.

use std::collections::BTreeMap;

use culvert::network::{Class, CloseReason, Placement};

use super::link::{LinkId, Side};

/// Something that happens at one end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) link: LinkId,
    /// The end at which it happens.
    pub(super) to: Side,
    pub(super) what: What,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A wish to connect arrives.
    Dial,
    /// The handshake is done.
    Establish,
    /// The handshake should have been done.
    HandshakeTimeout,
    /// A frame arrives; it is delivered once its sectors are there and it is the next.
    Arrival { flight: u64 },
    /// A group of sectors of a payload is read from the sender's pages and written here.
    Sectors { flight: u64, group: usize },
    /// Credits come back.
    Credit { run: Placement },
    /// The peer has taken so many bytes out of a queue.
    Room { class: Class, bytes: usize },
    /// The peer wishes for a larger window.
    Want,
    /// The peer grants pages of its window, or none.
    Grant { pages: u32 },
    /// The peer has taken the grant.
    Taken,
    /// The peer has closed; what it sent before comes first.
    Fin,
    /// Word that the peer is dead or has refused, which overtakes what is under way.
    Reset { reason: CloseReason },
    /// This end finds out by itself that the connection is broken.
    Notice { reason: CloseReason },
}

impl What {
    /// Whether it comes from the peer, so that a partition holds it up.
    pub(super) fn travels(self) -> bool {
        !matches!(self, What::HandshakeTimeout | What::Notice { .. })
    }

    /// Whether it is lost when it was under way as the connection broke. Frames know that
    /// themselves.
    pub(super) fn is_lost_when_severed(self) -> bool {
        matches!(
            self,
            What::Dial
                | What::Establish
                | What::Credit { .. }
                | What::Room { .. }
                | What::Want
                | What::Grant { .. }
                | What::Taken
                | What::Fin
        )
    }
}

/// A one-way partition that may have lasted too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Which of the partitions of this way.
    pub(super) episode: u64,
}

/// An entry of the agenda.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Due(Due),
    Bound(Bound),
}

/// See the module's documentation. What is due at the same time happens in the order in which it
/// was scheduled.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: BTreeMap<(u64, u64), Entry>,
    scheduled: u64,
}

impl Agenda {
    pub(super) fn schedule(&mut self, at_ns: u64, entry: Entry) {
        self.entries.insert((at_ns, self.scheduled), entry);
        self.scheduled += 1;
    }

    /// When the first entry is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.entries.first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    /// Takes the first entry that is due by `now_ns`.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<(u64, Entry)> {
        let first = self.entries.first_entry().filter(|first| first.key().0 <= now_ns)?;
        let ((at_ns, _), entry) = first.remove_entry();
        Some((at_ns, entry))
    }
}
