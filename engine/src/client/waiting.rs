//! Waiting for completions: polling at first, asleep after a while.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock::Clock;
use super::{CLOSE_PATIENCE, Client, Completion, StatusError};
use crate::cluster::EndpointIndex;
use crate::network::Network;

/// The longest sleep, for networks that need a turn now and then: 100 ms.
const SLEEP_NS_MAX: u64 = 100_000_000;

impl<N: Network> Client<N> {
    /// Polls until an operation is reported, and returns how many were. Returns 0 when none is in
    /// flight.
    ///
    /// It polls at first, giving the core away after every turn in which nothing happened; after
    /// [`ClientOptions::spin`](super::ClientOptions::spin) of those it sleeps until the network
    /// wakes it or a timer is due.
    pub fn wait(&mut self, clock: &Clock, handler: &mut dyn FnMut(Completion<'_>)) -> u32 {
        let mut active_ns = clock.now_ns();
        while self.in_flight() > 0 {
            let turn = self.poll(clock.now_ns(), handler);
            if turn.completed > 0 {
                return turn.completed;
            }
            self.rest(clock, turn.active, &mut active_ns);
        }
        0
    }

    /// Closes the client: waits for what is in flight, and then until the sessions are closed at the
    /// servers, both together no longer than [`CLOSE_PATIENCE`]. Sessions that cannot be closed in
    /// that time expire. Dropping a client tells the servers too, but does not look whether
    /// they have heard it.
    pub fn close(mut self, clock: &Clock) {
        let begun_ns = clock.now_ns();
        let mut active_ns = begun_ns;
        loop {
            let now_ns = clock.now_ns();
            let left = CLOSE_PATIENCE.saturating_sub(Duration::from_nanos(now_ns - begun_ns));
            self.begin_close(now_ns, left);
            if left.is_zero() || self.is_closed() {
                return;
            }
            let turn = self.poll(now_ns, &mut |_| {});
            self.rest(clock, turn.active, &mut active_ns);
        }
    }

    /// Fetches a node's status from one of its reactors, as JSON. Operations in flight go on and
    /// are reported to `handler`.
    ///
    /// # Errors
    ///
    /// [`StatusError`] where the endpoint is unknown, not reached in time, or answers nonsense.
    pub fn fetch_status(
        &mut self,
        endpoint: EndpointIndex,
        clock: &Clock,
        handler: &mut dyn FnMut(Completion<'_>),
    ) -> Result<String, StatusError> {
        self.request_status(endpoint)?;
        let mut active_ns = clock.now_ns();
        loop {
            let turn = self.poll(clock.now_ns(), handler);
            if let Some(result) = self.take_status() {
                return result;
            }
            self.rest(clock, turn.active, &mut active_ns);
        }
    }

    /// What to do between two turns. `active_ns` is when something happened last.
    fn rest(&mut self, clock: &Clock, active: bool, active_ns: &mut u64) {
        let now_ns = clock.now_ns();
        if active {
            *active_ns = now_ns;
        } else if now_ns - *active_ns < self.spin.as_nanos() as u64 {
            std::thread::yield_now();
        } else {
            self.sleep(now_ns);
        }
    }

    /// Sleeps until there is something to poll, or a timer is due.
    fn sleep(&mut self, now_ns: u64) {
        let timer_ns = self.next_timer_ns().unwrap_or(u64::MAX);
        let sleep_ns = timer_ns.saturating_sub(now_ns).min(SLEEP_NS_MAX);
        if sleep_ns == 0 || !self.network.prepare_sleep() {
            return;
        }
        if let Some(fd) = self.network.wake_fd() {
            let timeout = Timespec { tv_sec: 0, tv_nsec: sleep_ns as i64 };
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            // An interrupted or refused sleep is a short one: the next turn finds out.
            let _ = poll(&mut fds, Some(&timeout));
        } else {
            std::thread::yield_now();
        }
        self.network.finish_sleep();
    }
}

const _: () = assert!(SLEEP_NS_MAX < 1_000_000_000);
