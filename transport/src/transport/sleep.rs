//! Sleeping, and being woken.

use std::os::fd::BorrowedFd;

use culvert_memory::full_barrier;

use crate::connection::Connection;
use crate::connection::established::Link;
use crate::transport::Transport;

impl Transport {
    /// A descriptor that becomes readable when there is something to do, for a reactor that sleeps
    /// on several.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.readiness.fd()
    }

    /// Makes ready to sleep: everything due is posted, and shared-memory peers are told that they
    /// have to wake us. False when there is something to do already; then nothing has been told.
    ///
    /// Follow it with a wait on [`wake_fd`](Transport::wake_fd), at most until
    /// [`next_deadline`](Transport::next_deadline), and then with
    /// [`finish_sleep`](Transport::finish_sleep).
    pub fn prepare_sleep(&mut self) -> bool {
        self.post_busy(true);
        if self.has_work() {
            return false;
        }
        self.asleep = true;
        self.set_sleeping(true);
        self.ask_to_be_woken();
        full_barrier();
        // What completed before the devices were asked wakes nobody.
        self.take_completions();
        self.advance_ending();
        if self.has_work() || self.has_shared_work() {
            self.finish_sleep();
            return false;
        }
        true
    }

    /// Ends a sleep, or the attempt at one.
    pub fn finish_sleep(&mut self) {
        if std::mem::take(&mut self.asleep) {
            self.set_sleeping(false);
        }
        self.readiness.due = true;
    }

    /// The time, in the nanoseconds of [`poll`](Transport::poll), at which it has to be polled
    /// again at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        let handshakes =
            self.openings.iter().filter_map(|slot| match self.connections.get(*slot) {
                Some(Connection::Opening(opening)) => opening.deadline,
                _ => None,
            });
        let lingering = self.verbs.as_ref().and_then(|verbs| verbs.deadline());
        let wishes = self.shared.busy.iter().filter_map(|slot| {
            self.connections.get(*slot).and_then(Connection::open)?.wish_deadline()
        });
        handshakes.chain(self.listener_deadline()).chain(lingering).chain(wishes).min()
    }

    fn set_sleeping(&mut self, sleeping: bool) {
        for slot in &self.shm {
            let Some(open) = self.connections.get_mut(*slot).and_then(Connection::open_mut) else {
                continue;
            };
            let (data, control) = open.awaits_room();
            if let Link::Shm(link) = &mut open.link {
                link.inbound.set_sleeping(sleeping);
                link.outbound.set_waiting(sleeping && (data || control));
            }
        }
    }

    /// Whether there is something to do that no socket would tell of.
    fn has_work(&self) -> bool {
        !self.shared.events.is_empty()
            || !self.tcp_ready.is_empty()
            || self.has_rdma_work()
            || !self.shared.region_events.is_empty()
            || !self.shared.unreported.is_empty()
            || self.openings.iter().any(|slot| match self.connections.get(*slot) {
                Some(Connection::Opening(opening)) => opening.deadline.is_none(),
                _ => false,
            })
            || self.shared.busy.iter().any(|slot| {
                let open = self.connections.get(*slot).and_then(Connection::open);
                open.is_some_and(|open| open.needs_post())
            })
    }

    /// Whether a peer has written into the rings, or made room in them.
    fn has_shared_work(&mut self) -> bool {
        self.shm.iter().any(|slot| {
            let Some(open) = self.connections.get_mut(*slot).and_then(Connection::open_mut) else {
                return false;
            };
            let (data, control) = open.awaits_room();
            let Link::Shm(link) = &mut open.link else { return false };
            // A lying index is work too: the next poll finds out.
            link.inbound.is_ready() || link.ended || link.room_has_come(data, control)
        })
    }
}
