//! Timings and limits of a group.

/// Ticks that a reactor which slept or was stopped catches up with at most, and by how many the
/// ticks of any stretch of time exceed the whole tick lengths in it. More would only say again that
/// the leader was not heard of for a long time.
pub const TICKS_CAUGHT_UP_MAX: u64 = 2;

/// Timings and limits of a group. Ticks are the unit of elections, as in the library.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// Length of a tick.
    pub tick_ns: u64,
    /// Ticks without word from a leader before an election, at least; at most one less than twice.
    pub election_ticks: u32,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// How much shorter than what a follower's ticks promise a lease is, for clocks that drift.
    pub lease_margin_ns: u64,
    /// Append messages in flight to one follower.
    pub inflight_messages_max: usize,
    /// Entries in one append message.
    pub message_entries_max: u32,
}

impl GroupOptions {
    /// How long a lease lasts from the send of what a majority answered.
    ///
    /// A follower refuses its vote to others for [`GroupOptions::promise_ns`]. It stands for election
    /// itself after `election_ticks` ticks, and a late reactor runs up to [`TICKS_CAUGHT_UP_MAX`] of
    /// them at once, all of which may stand for time before the message.
    #[must_use]
    pub fn lease_ns(&self) -> u64 {
        let ticks = u64::from(self.election_ticks) - TICKS_CAUGHT_UP_MAX;
        (ticks * self.tick_ns).saturating_sub(self.lease_margin_ns)
    }

    /// For how long a follower that has heard of its leader votes for nobody else, by its own clock.
    #[must_use]
    pub fn promise_ns(&self) -> u64 {
        self.lease_ns() + self.lease_margin_ns
    }
}
