//! Elections, heartbeats and leases.

use serde::{Deserialize, Serialize};

/// Timings of every copyset's raft group. They must be equal on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// Length of a tick.
    pub tick_ms: u32,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks without word from a leader before a follower asks for votes, at least; each waits up
    /// to one tick less than twice as long.
    pub election_ticks: u32,
    /// By how much a lease ends before the earliest election could: the drift of two monotonic
    /// clocks over one election timeout, and then some.
    pub lease_drift_margin_ms: u32,
    /// Entries in one append frame.
    pub append_entries_max: u32,
    /// Append frames in flight to one follower of one copyset.
    pub append_frames_in_flight_max: u32,
    /// How long a client's session may be idle before the leader lets it expire.
    pub session_idle_s: u32,
}

impl Default for RaftConfig {
    fn default() -> RaftConfig {
        RaftConfig {
            tick_ms: 25,
            heartbeat_ticks: 2,
            election_ticks: 10,
            lease_drift_margin_ms: 25,
            append_entries_max: 64,
            append_frames_in_flight_max: 256,
            session_idle_s: 900,
        }
    }
}

impl RaftConfig {
    /// The shortest election timeout in milliseconds.
    #[must_use]
    pub fn election_ms(&self) -> u64 {
        u64::from(self.tick_ms) * u64::from(self.election_ticks)
    }
}
