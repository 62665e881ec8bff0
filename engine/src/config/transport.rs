//! Connections: how many, how wide, how patient.

use std::net::IpAddr;
use std::time::Duration;

use culvert_transport::{RdmaOptions, SEGMENT_PAGES_MIN, window_segments_max};
use serde::{Deserialize, Serialize};

/// Capacities of each reactor's transport. A page has 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportConfig {
    /// Connections, half-open ones included.
    pub connections_max: u32,
    /// Pages of a landing window at first: what an idle connection costs.
    pub window_initial_pages: u32,
    /// Pages to which the window of one connection may grow.
    pub window_max_pages: u32,
    /// Pages of the windows of all connections together.
    pub window_budget_pages: u32,
    /// Pages accepted for sending to one peer and not yet sent. A peer that lets them pile up
    /// further, because it is stopped or slow, loses its connection and catches up afterwards. New
    /// entries alone never get so far; answers to reads and catch-up may.
    pub unsent_max_pages: u32,
    /// As `unsent_max_pages`, but what new entries for one follower may hold: they wait for what
    /// was sent before, and later come from the leader's device.
    pub feed_unsent_max_pages: u32,
    /// Requests of one client's connection that may be without an answer. A client that sends
    /// more, because it does not read what it is answered, loses its connection.
    pub requests_max: u32,
    /// Queue of data frames for each connection; a power of two.
    pub data_queue_bytes: usize,
    /// Queue of control frames (heartbeats, votes) for each connection; a power of two.
    pub control_queue_bytes: usize,
    /// How long a handshake may take.
    pub handshake_timeout_ms: u32,
    /// How long after a failed connection to a peer the next attempt starts, at least.
    pub reconnect_ms: u32,
    /// The IP address that connections to other nodes come from; not set: what the kernel chooses.
    /// Where a machine has several networks it decides which of them, and over RDMA which device, is
    /// used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// RDMA: bytes of a message that a work request may carry itself, at most.
    pub rdma_inline_bytes: u32,
    /// RDMA: a packet that is not acknowledged after 4.096 us * 2^n is sent again.
    pub rdma_ack_timeout: u8,
    /// RDMA: so often, before the connection is given up; at most 6.
    pub rdma_retries: u8,
    /// RDMA: how long connecting may take before the next address is tried.
    pub rdma_connect_ms: u32,
    /// RDMA: after so long without anything sent, a peer's device is asked whether it is there.
    pub rdma_keepalive_ms: u32,
}

impl TransportConfig {
    /// How RDMA connections behave.
    #[must_use]
    pub fn rdma(&self) -> RdmaOptions {
        RdmaOptions {
            inline_bytes_max: self.rdma_inline_bytes,
            ack_timeout: self.rdma_ack_timeout,
            retries: self.rdma_retries,
            connect_timeout: Duration::from_millis(self.rdma_connect_ms.into()),
            keepalive: Duration::from_millis(self.rdma_keepalive_ms.into()),
        }
    }

    /// Regions of memory that the windows of all connections may consist of. Windows over shared
    /// memory have a region for each of their segments; the budget bounds them as well, and with
    /// them those of closed connections whose pages are still in use.
    #[must_use]
    pub fn regions_max(&self) -> u64 {
        let segments = window_segments_max(self.window_initial_pages, self.window_max_pages);
        let all = u64::from(self.connections_max) * segments as u64;
        let least = self.window_initial_pages.min(SEGMENT_PAGES_MIN);
        all.min(u64::from(self.window_budget_pages / least.max(1)) + 1)
    }
}

impl Default for TransportConfig {
    fn default() -> TransportConfig {
        let rdma = RdmaOptions::default();
        TransportConfig {
            connections_max: 1024,
            window_initial_pages: 8,
            window_max_pages: 1024,
            window_budget_pages: 16 * 1024,
            unsent_max_pages: 2048,
            feed_unsent_max_pages: 256,
            requests_max: 4096,
            data_queue_bytes: 64 << 10,
            control_queue_bytes: 8 << 10,
            handshake_timeout_ms: 5000,
            reconnect_ms: 50,
            source: None,
            rdma_inline_bytes: rdma.inline_bytes_max,
            rdma_ack_timeout: rdma.ack_timeout,
            rdma_retries: rdma.retries,
            rdma_connect_ms: rdma.connect_timeout.as_millis() as u32,
            rdma_keepalive_ms: rdma.keepalive.as_millis() as u32,
        }
    }
}
