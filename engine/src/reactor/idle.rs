//! What a reactor does when there is nothing to do: poll for a while, then sleep on descriptors.
//!
//! Polling for 50 to 100 us served best: waking an idle core costs about 50 us, most of it on the
//! waker's side of the clock. Where reactors outnumber cores every empty turn yields, because a
//! peer that the reactor waits for may need this very core. The sleep ends at the next timer, at a
//! frame, or at a completion, whichever is first; a device without a descriptor is polled.

use std::time::Duration;

use culvert_nvme::{QueuePair, Wake};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Clock, Reactor};
use crate::network::Network;

/// How a reactor idles.
#[derive(Clone, Copy, Debug)]
pub struct IdleOptions {
    /// Empty turns go on for so long before a sleep. `u64::MAX`: never sleeps.
    pub poll_ns: u64,
    /// Yields the core at every empty turn.
    pub yields: bool,
}

/// The idle state of one reactor.
#[derive(Debug)]
pub struct Idle {
    options: IdleOptions,
    since_ns: Option<u64>,
}

impl Idle {
    /// A reactor that has just worked.
    #[must_use]
    pub fn new(options: IdleOptions) -> Idle {
        Idle { options, since_ns: None }
    }

    /// To be called after each turn: `busy` is what it returned.
    pub fn after_turn<D: QueuePair, N: Network>(
        &mut self,
        busy: bool,
        reactor: &mut Reactor<D, N>,
        clock: &mut impl Clock,
    ) {
        if busy {
            self.since_ns = None;
            return;
        }
        let now_ns = clock.now_ns();
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        if now_ns - since_ns < self.options.poll_ns {
            if self.options.yields {
                std::thread::yield_now();
            }
            return;
        }
        let deadline_ns = reactor.deadline_ns();
        if deadline_ns > now_ns {
            reactor.sleep(deadline_ns - now_ns);
        }
    }
}

/// Descriptors that one sleep waits on at most: the network's and one per device.
pub const DESCRIPTORS_MAX: usize = 65;

impl<D: QueuePair, N: Network> Reactor<D, N> {
    /// When the next turn must run at the latest.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        let network = self.network.next_deadline_ns().unwrap_or(u64::MAX);
        self.chunkserver.deadline_ns().min(network)
    }

    /// Sleeps for at most `timeout_ns`, unless something is there already.
    fn sleep(&mut self, timeout_ns: u64) {
        if self.chunkserver.has_work() {
            return;
        }
        let must_poll = self.devices.iter_mut().any(|device| {
            let in_flight = device.queue_pair.in_flight() > 0;
            in_flight
                && (matches!(device.queue_pair.wake(), Wake::Poll) || !device.queue_pair.arm())
        });
        if must_poll || !self.network.prepare_sleep() {
            self.network.finish_sleep();
            return;
        }
        self.chunkserver.count_sleep();
        let mut descriptors: arrayvec::ArrayVec<PollFd<'_>, DESCRIPTORS_MAX> =
            arrayvec::ArrayVec::new();
        descriptors
            .extend(self.network.wake_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        for device in &self.devices {
            if let Wake::Fd(fd) = device.queue_pair.wake() {
                descriptors.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        let timeout = Duration::from_nanos(timeout_ns).try_into().ok();
        // Interrupted or not, the next turn looks at everything.
        let _woken = poll(&mut descriptors, timeout.as_ref());
        drop(descriptors);
        self.network.finish_sleep();
    }
}
