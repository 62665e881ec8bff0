//! What a transport is made with.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use culvert_memory::Pool;

use crate::config::{
    CONNECTIONS_LIMIT, FRAME_BYTES_LIMIT, QUEUE_BYTES_LIMIT, QUEUE_BYTES_MIN, WINDOW_PAGES_LIMIT,
};
use crate::{Identity, OptionsError};

/// Who allocates the pages of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WindowMode {
    /// The peer: it holds credits for the pages, writes where it likes among them, and gets each
    /// credit back when the page is free again. The accepting side's window is always of this kind.
    Granted = 1,
    /// The owner: it acquires pages itself, names them in its request, and the peer writes there.
    /// For clients' reads.
    Named = 2,
}

/// How to make a [`Transport`](crate::Transport).
#[derive(Clone)]
pub struct TransportOptions {
    /// Who this side is.
    pub identity: Identity,
    /// With a key, both sides prove that they hold it; without one, everybody is let in.
    pub pre_shared_key: Option<Vec<u8>>,
    /// Pages of a window at first.
    pub window_pages_initial: u32,
    /// Pages to which one connection's window may grow.
    pub window_pages_max: u32,
    /// Pages of the windows of all connections together.
    pub window_budget_pages: u32,
    /// Connections, half-open ones included.
    pub connections_max: u32,
    /// Bytes of one frame. What counts is the smaller of both sides' limits.
    pub frame_bytes_max: usize,
    /// Bytes of frames queued per connection and class, envelopes included; a power of two.
    pub data_queue_bytes: usize,
    /// See `data_queue_bytes`.
    pub control_queue_bytes: usize,
    /// Payload pages accepted by `send` and not yet written, per connection; past it the connection
    /// is reset.
    pub unsent_pages_max: u32,
    /// How long a handshake may take, connecting included.
    pub handshake_timeout: Duration,
    /// Where windows of TCP connections are carved from.
    pub pool: Pool,
    /// Lock the windows that are not carved from the pool into memory.
    pub lock_memory: bool,
    /// Whether somebody registers regions with devices. Then the peer is told of a window only
    /// after [`Transport::regions`](crate::Transport::regions) has reported its region, and that
    /// must be called every turn.
    pub report_regions: bool,
    /// The address that connections to others come from; `None`: what the kernel chooses. On a
    /// machine with several networks it decides which device is used.
    pub source: Option<IpAddr>,
    /// What concerns `rdma://` alone.
    pub rdma: RdmaOptions,
}

/// How RDMA connections behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaOptions {
    /// Bytes of a message that a work request may carry itself, at most: what the device grants
    /// counts.
    pub inline_bytes_max: u32,
    /// A packet that is not acknowledged after 4.096 us * 2^n is sent again; devices that cannot be
    /// told have their own n.
    pub ack_timeout: u8,
    /// ... so many times, at most 6, since some devices take 7 for "without end"; then the connection
    /// is given up.
    pub retries: u8,
    /// How long a handshake that this side begins may take, if that is less than
    /// [`handshake_timeout`](TransportOptions::handshake_timeout): whoever has another address does
    /// not want to wait for one whose network is dead.
    pub connect_timeout: Duration,
    /// A connection over which nothing was sent for so long sends nothing with a request for an
    /// acknowledgement: so a peer, or a way to it, that is gone is noticed by both sides.
    pub keepalive: Duration,
}

impl Default for RdmaOptions {
    /// 17 ms, and the connection is given up after some 120 ms without an answer.
    fn default() -> Self {
        Self {
            inline_bytes_max: 220,
            ack_timeout: 12,
            retries: 6,
            connect_timeout: Duration::from_millis(700),
            keepalive: Duration::from_millis(500),
        }
    }
}

impl TransportOptions {
    /// The usual sizes.
    pub fn new(identity: Identity, pool: Pool) -> Self {
        Self {
            identity,
            pre_shared_key: None,
            window_pages_initial: 8,
            window_pages_max: 1024,
            window_budget_pages: 16 * 1024,
            connections_max: 1024,
            frame_bytes_max: 8 << 10,
            data_queue_bytes: 64 << 10,
            control_queue_bytes: 8 << 10,
            unsent_pages_max: 2048,
            handshake_timeout: Duration::from_secs(5),
            pool,
            lock_memory: true,
            report_regions: false,
            source: None,
            rdma: RdmaOptions::default(),
        }
    }

    /// Checks every number against its range.
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let window_max = u64::from(self.window_pages_max);
        range("window_pages_max", window_max, 1, u64::from(WINDOW_PAGES_LIMIT))?;
        range("window_pages_initial", u64::from(self.window_pages_initial), 0, window_max)?;
        range("connections_max", u64::from(self.connections_max), 1, u64::from(CONNECTIONS_LIMIT))?;
        range("frame_bytes_max", self.frame_bytes_max as u64, 64, FRAME_BYTES_LIMIT as u64)?;
        queue("control_queue_bytes", self.control_queue_bytes)?;
        queue("data_queue_bytes", self.data_queue_bytes)?;
        if self.pre_shared_key.as_ref().is_some_and(Vec::is_empty) {
            return Err(OptionsError::EmptyKey);
        }
        Ok(())
    }
}

impl fmt::Debug for TransportOptions {
    /// The key stays out of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportOptions")
            .field("identity", &self.identity)
            .field("keyed", &self.pre_shared_key.is_some())
            .field("window_pages_initial", &self.window_pages_initial)
            .field("window_pages_max", &self.window_pages_max)
            .field("window_budget_pages", &self.window_budget_pages)
            .field("connections_max", &self.connections_max)
            .field("unsent_pages_max", &self.unsent_pages_max)
            .finish_non_exhaustive()
    }
}

fn queue(name: &'static str, bytes: usize) -> Result<(), OptionsError> {
    range(name, bytes as u64, QUEUE_BYTES_MIN as u64, QUEUE_BYTES_LIMIT as u64)?;
    if !bytes.is_power_of_two() {
        return Err(OptionsError::NotAPowerOfTwo { name, value: bytes as u64 });
    }
    Ok(())
}

fn range(name: &'static str, value: u64, min: u64, max: u64) -> Result<(), OptionsError> {
    if value < min || value > max {
        return Err(OptionsError::OutOfRange { name, value, min, max });
    }
    Ok(())
}
