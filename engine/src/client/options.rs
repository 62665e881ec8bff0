//! What a client is made with.

use std::time::Duration;

use super::config::IN_FLIGHT_LIMIT;
use crate::ids::Epoch;
use crate::network::Address;

/// Which of a node's addresses a client uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transports {
    /// All, in the order of the cluster file.
    #[default]
    Any,
    /// Shared memory only.
    Shm,
    /// TCP only.
    Tcp,
    /// RDMA only.
    Rdma,
}

impl Transports {
    /// Whether the address may be used.
    #[must_use]
    pub fn allow(self, address: &Address) -> bool {
        match self {
            Transports::Any => true,
            Transports::Shm => matches!(address, Address::Shm(_)),
            Transports::Tcp => matches!(address, Address::Tcp(_)),
            Transports::Rdma => matches!(address, Address::Rdma(_)),
        }
    }
}

/// How to make a [`Client`](super::Client).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Operations of the caller in flight; the next one is refused.
    pub in_flight_max: u32,
    /// How long an operation may take, all its retries included.
    pub request_timeout: Duration,
    /// How long one attempt waits for its answer before another is made.
    pub attempt_timeout: Duration,
    /// How often a piece of an operation is sent at most.
    pub attempts_max: u32,
    /// The first pause between attempts; each further one is twice as long, less up to a quarter
    /// at random.
    pub backoff_initial: Duration,
    /// The longest pause between attempts, also between attempts to connect.
    pub backoff_max: Duration,
    /// Which addresses to use.
    pub transports: Transports,
    /// The fencing epoch that the client holds.
    pub epoch: Epoch,
    /// How long waiting calls poll before they sleep.
    pub spin: Duration,
    /// Seeds the random part of pauses. Clients should differ in it.
    pub seed: u64,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            in_flight_max: 256,
            request_timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(2),
            attempts_max: 256,
            backoff_initial: Duration::from_millis(1),
            backoff_max: Duration::from_millis(200),
            transports: Transports::Any,
            epoch: Epoch(0),
            spin: Duration::from_micros(100),
            seed: 0,
        }
    }
}

/// Why [`Client::new`](super::Client::new) refused its options. The caller's to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Nothing could be in flight, or too much.
    #[error("in_flight_max is {0}, allowed is 1 to {IN_FLIGHT_LIMIT}")]
    InFlight(u32),
    /// No attempt could be made.
    #[error("attempts_max is zero")]
    NoAttempts,
    /// A time that must not be zero.
    #[error("{0} is zero")]
    ZeroTime(&'static str),
}

impl ClientOptions {
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if !(1..=IN_FLIGHT_LIMIT).contains(&self.in_flight_max) {
            return Err(OptionsError::InFlight(self.in_flight_max));
        }
        if self.attempts_max == 0 {
            return Err(OptionsError::NoAttempts);
        }
        for (name, time) in [
            ("request_timeout", self.request_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("backoff_initial", self.backoff_initial),
            ("backoff_max", self.backoff_max),
        ] {
            if time.is_zero() {
                return Err(OptionsError::ZeroTime(name));
            }
        }
        Ok(())
    }
}
