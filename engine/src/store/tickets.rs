//! Tickets: which reads, sends and copies of extents are in flight.
//!
//! Time is cut into epochs; one ends at every seal of the releases. A ticket counts into the epoch
//! it began in, and what was released in an epoch may go once that epoch and all before it have no
//! ticket out: everything that began before the release has ended then. A slow read therefore
//! holds back what is released behind it, and only that, however many reads begin meanwhile.
//!
//! The counts lie in a ring. When it is full (one read outlived `EPOCHS_MAX` seals) the epoch is
//! not cut but lasts on, which holds back more than it must, and never less.

/// Epochs that may have tickets out.
const EPOCHS_MAX: usize = 1024;

/// Proof that a device command, send or copy that touches extents is in flight: a read, and just
/// as well the first write of a payload. What the map, a frozen image or a live record named when
/// it began stays unused by others until it goes back.
#[must_use = "extents released after this ticket began are never free until it is ended"]
#[derive(Debug)]
pub struct ReadTicket {
    epoch: u64,
}

/// The tickets out, by epoch.
#[derive(Debug)]
pub(super) struct Tickets {
    /// Count of tickets of epoch `e` at `e % EPOCHS_MAX`.
    counts: Vec<u32>,
    /// All epochs before it have no ticket out.
    oldest: u64,
    /// The epoch that new tickets belong to.
    current: u64,
    outstanding: u64,
}

impl Tickets {
    pub(super) fn new() -> Tickets {
        Tickets { counts: vec![0; EPOCHS_MAX], oldest: 1, current: 1, outstanding: 0 }
    }

    pub(super) fn begin(&mut self) -> ReadTicket {
        self.counts[self.current as usize % EPOCHS_MAX] += 1;
        self.outstanding += 1;
        ReadTicket { epoch: self.current }
    }

    pub(super) fn end(&mut self, ticket: ReadTicket) {
        let count = &mut self.counts[ticket.epoch as usize % EPOCHS_MAX];
        assert!(*count > 0, "a ticket of another store");
        *count -= 1;
        self.outstanding -= 1;
        self.advance();
    }

    /// Ends the current epoch, if the ring has room, and returns the one that must be over before
    /// what was released until now may go.
    pub(super) fn cut(&mut self) -> u64 {
        let stamp = self.current;
        if self.current - self.oldest + 1 < EPOCHS_MAX as u64 {
            self.current += 1;
            self.advance();
        }
        stamp
    }

    fn advance(&mut self) {
        while self.oldest < self.current && self.counts[self.oldest as usize % EPOCHS_MAX] == 0 {
            self.oldest += 1;
        }
    }

    /// Whether no ticket of `epoch` or an earlier one is out, and none can begin.
    pub(super) fn is_over(&self, epoch: u64) -> bool {
        epoch < self.oldest
    }

    /// Tickets out.
    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_over_when_its_readers_and_all_older_ones_are() {
        let mut tickets = Tickets::new();
        let old = tickets.begin();
        let first = tickets.cut();
        let young = tickets.begin();
        let second = tickets.cut();
        tickets.end(young);
        assert!(!tickets.is_over(first));
        assert!(!tickets.is_over(second));
        tickets.end(old);
        assert!(tickets.is_over(first));
        assert!(tickets.is_over(second));
    }

    #[test]
    fn a_full_ring_holds_back_more_and_recovers() {
        let mut tickets = Tickets::new();
        let stuck = tickets.begin();
        let mut last = 0;
        for _ in 0..3 * EPOCHS_MAX {
            last = tickets.cut();
            let ticket = tickets.begin();
            assert!(!tickets.is_over(last));
            tickets.end(ticket);
        }
        let merged = tickets.begin();
        tickets.end(stuck);
        assert!(!tickets.is_over(last), "`merged` may have begun before the release");
        let next = tickets.cut();
        tickets.end(merged);
        assert!(tickets.is_over(last));
        assert!(tickets.is_over(next));
        assert_eq!(tickets.outstanding(), 0);
    }
}
