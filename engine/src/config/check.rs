//! Which values go, and which go together.

use std::collections::BTreeSet;

use super::{
    ByteSize, DEVICES_MAX, IdleConfig, NodeConfig, REACTORS_MAX, RaftConfig, ReactorConfig,
    StoreConfig, TransportConfig, TurnConfig,
};
use crate::ids::OPERATION_BLOCKS_MAX;
use crate::raft_group::TICKS_CAUGHT_UP_MAX;
use crate::wire::{APPEND_FRAMES_IN_FLIGHT_MAX, FRAME_BYTES_MAX};
use culvert_transport::{Address, AddressError};

const PAGE_BYTES: u64 = 4096;
const HUGEPAGE_BYTES: u64 = 2 << 20;

// The rule about it names the number.
const _: () = assert!(OPERATION_BLOCKS_MAX == 32);

/// What is wrong with a configuration that could be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// A number is too small or too large.
    #[error("{key} is {value}; it must be from {min} to {max}")]
    OutOfRange {
        /// The key, with its table.
        key: &'static str,
        /// What it says.
        value: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A size is no multiple of the unit that it is made of.
    #[error("{key} is {value}; it must be a multiple of {unit}")]
    NotAMultiple {
        /// The key.
        key: &'static str,
        /// What it says.
        value: ByteSize,
        /// The unit.
        unit: ByteSize,
    },
    /// A queue is no power of two.
    #[error("{key} is {value}; it must be a power of two")]
    NotAPowerOfTwo {
        /// The key.
        key: &'static str,
        /// What it says.
        value: u64,
    },
    /// Two values do not go together.
    #[error("{key} is {value}, but {rule} ({other} is {other_value})")]
    Relation {
        /// The key.
        key: &'static str,
        /// What it says.
        value: u64,
        /// The key it depends on.
        other: &'static str,
        /// What that says.
        other_value: u64,
        /// How they must relate.
        rule: &'static str,
    },
    /// A list needs at least one item.
    #[error("there must be at least one [[{0}]]")]
    Empty(&'static str),
    /// A list has too many items.
    #[error("there are {count} [[{key}]]; at most {max} are possible")]
    TooMany {
        /// The list.
        key: &'static str,
        /// Its items.
        count: usize,
        /// How many may be there.
        max: usize,
    },
    /// The same thing is named twice.
    #[error("{key} names {value} twice")]
    Twice {
        /// The key.
        key: &'static str,
        /// What it names.
        value: String,
    },
    /// An address has none of the forms that exist.
    #[error("reactors.listen names {value}: {error}")]
    Address {
        /// The address.
        value: String,
        /// What is wrong with it.
        error: AddressError,
    },
    /// The node has no name.
    #[error("node is the nil UUID; generate one, for instance with `uuidgen`")]
    NoName,
}

impl NodeConfig {
    /// Checks every value and the relations between them.
    ///
    /// # Errors
    ///
    /// The first [`ConfigFault`] found, in the order of the file.
    pub fn check(&self) -> Result<(), ConfigFault> {
        if self.node.is_nil() {
            return Err(ConfigFault::NoName);
        }
        count("reactors", self.reactors.len(), REACTORS_MAX)?;
        self.reactors.iter().try_for_each(ReactorConfig::check)?;
        self.check_reactors()?;
        count("devices", self.devices.len(), DEVICES_MAX)?;
        unique("devices.uri", self.devices.iter().map(|device| device.uri.clone()))?;
        for device in &self.devices {
            range("devices.depth_max", device.depth_max, 8, 4096)?;
        }
        self.idle.check()?;
        self.turn.check()?;
        self.transport.check()?;
        self.raft.check()?;
        self.store.check()?;
        self.check_pools()
    }

    fn check_reactors(&self) -> Result<(), ConfigFault> {
        let cores = self.reactors.iter().map(|reactor| reactor.core.to_string());
        unique("reactors.core", cores)?;
        let addresses = self.reactors.iter().flat_map(|reactor| reactor.listen.iter().cloned());
        unique("reactors.listen", addresses.filter(|address| !address.ends_with(":0")))
    }

    /// Windows of TCP connections are carved from the pool: half of it is left for everything else.
    fn check_pools(&self) -> Result<(), ConfigFault> {
        let pages = self.transport.window_budget_pages;
        let regions = self.transport.regions_max();
        for reactor in &self.reactors {
            let places = u64::from(culvert_nvme::REGIONS_MAX) - reactor.pool_regions_max();
            if regions > places {
                return Err(ConfigFault::Relation {
                    key: "transport.connections_max",
                    value: self.transport.connections_max.into(),
                    other: "regions of memory that a device takes beside the pool",
                    other_value: places,
                    rule: "all segments of the windows of so many connections are more than that: \
                           lower it, window_max_pages or window_budget_pages",
                });
            }
            let pool_pages = reactor.pool_bytes.0 / PAGE_BYTES;
            if u64::from(pages) > pool_pages / 2 {
                return Err(ConfigFault::Relation {
                    key: "transport.window_budget_pages",
                    value: pages.into(),
                    other: "reactors.pool_bytes in pages of 4 KiB",
                    other_value: pool_pages,
                    rule: "half of the pool is the most that windows may take",
                });
            }
        }
        Ok(())
    }
}

impl ReactorConfig {
    fn check(&self) -> Result<(), ConfigFault> {
        range("reactors.pool_bytes", self.pool_bytes.0, HUGEPAGE_BYTES, 1 << 40)?;
        multiple("reactors.pool_bytes", self.pool_bytes, HUGEPAGE_BYTES)?;
        let wrong =
            |text: &String| text.parse::<Address>().err().map(|error| (text.clone(), error));
        match self.listen.iter().find_map(wrong) {
            Some((value, error)) => Err(ConfigFault::Address { value, error }),
            None => Ok(()),
        }
    }
}

impl IdleConfig {
    fn check(&self) -> Result<(), ConfigFault> {
        range("idle.polling_us", self.polling_us, 0, 1_000_000)
    }
}

impl TurnConfig {
    fn check(&self) -> Result<(), ConfigFault> {
        range("turn.events_max", self.events_max as u64, 1, 65_536)?;
        range("turn.completions_max", self.completions_max as u64, 1, 65_536)?;
        range("turn.operations_max", self.operations_max, 1, 65_536)
    }
}

impl TransportConfig {
    fn check(&self) -> Result<(), ConfigFault> {
        range("transport.connections_max", self.connections_max, 1, 1 << 16)?;
        range("transport.window_max_pages", self.window_max_pages, 1, 1 << 16)?;
        range("transport.window_initial_pages", self.window_initial_pages, 1, 1 << 16)?;
        range("transport.window_budget_pages", self.window_budget_pages, 1, 1 << 28)?;
        range(
            "transport.unsent_max_pages",
            self.unsent_max_pages,
            OPERATION_BLOCKS_MAX.into(),
            1 << 20,
        )?;
        self.check_unsent()?;
        range("transport.requests_max", self.requests_max, 1, 1 << 20)?;
        range("transport.handshake_timeout_ms", self.handshake_timeout_ms, 10, 600_000)?;
        range("transport.reconnect_ms", self.reconnect_ms, 1, 600_000)?;
        range("transport.rdma_inline_bytes", self.rdma_inline_bytes, 0, 4096)?;
        range("transport.rdma_ack_timeout", self.rdma_ack_timeout, 1, 31)?;
        range("transport.rdma_retries", self.rdma_retries, 0, 6)?;
        range("transport.rdma_connect_ms", self.rdma_connect_ms, 10, 600_000)?;
        range("transport.rdma_keepalive_ms", self.rdma_keepalive_ms, 10, 600_000)?;
        // Half of a queue holds the longest frame and what the transport puts around it.
        queue("transport.data_queue_bytes", self.data_queue_bytes, 4 * FRAME_BYTES_MAX as u64)?;
        queue("transport.control_queue_bytes", self.control_queue_bytes, 4096)?;
        self.check_windows()
    }

    /// A feed ends with the operation that goes past its bound.
    fn check_unsent(&self) -> Result<(), ConfigFault> {
        let (feed, all) = (self.feed_unsent_max_pages, self.unsent_max_pages);
        range("transport.feed_unsent_max_pages", feed, 1, 1 << 20)?;
        if feed + OPERATION_BLOCKS_MAX > all {
            return Err(ConfigFault::Relation {
                key: "transport.feed_unsent_max_pages",
                value: feed.into(),
                other: "transport.unsent_max_pages",
                other_value: all.into(),
                rule: "with the longest operation, 32 pages, on top of it entries alone would \
                       cost a follower its connection",
            });
        }
        Ok(())
    }

    fn check_windows(&self) -> Result<(), ConfigFault> {
        let relation = |other, other_value: u32, rule| ConfigFault::Relation {
            key: "transport.window_max_pages",
            value: self.window_max_pages.into(),
            other,
            other_value: other_value.into(),
            rule,
        };
        if self.window_max_pages < 2 * OPERATION_BLOCKS_MAX {
            let rule = "a request takes at most half of a window and has up to this many pages";
            return Err(relation("the longest operation", OPERATION_BLOCKS_MAX, rule));
        }
        if self.window_max_pages < self.window_initial_pages {
            let key = "transport.window_initial_pages";
            return Err(relation(key, self.window_initial_pages, "a window does not shrink"));
        }
        if self.window_max_pages > self.window_budget_pages {
            let key = "transport.window_budget_pages";
            let rule = "one window must fit the budget of all";
            return Err(relation(key, self.window_budget_pages, rule));
        }
        if self.window_max_pages > self.requests_max / 2 {
            let rule = "a client may write each page of one window and read into each of another, \
                        so that requests must be twice as many";
            return Err(relation("transport.requests_max", self.requests_max, rule));
        }
        Ok(())
    }
}

impl RaftConfig {
    fn check(&self) -> Result<(), ConfigFault> {
        range("raft.tick_ms", self.tick_ms, 1, 10_000)?;
        range("raft.heartbeat_ticks", self.heartbeat_ticks, 1, 1000)?;
        range("raft.election_ticks", self.election_ticks, 3, 10_000)?;
        range("raft.append_entries_max", self.append_entries_max, 1, 1024)?;
        range("raft.session_idle_s", self.session_idle_s, 10, 7 * 24 * 3600)?;
        let frames = self.append_frames_in_flight_max;
        range("raft.append_frames_in_flight_max", frames, 1, APPEND_FRAMES_IN_FLIGHT_MAX.into())?;
        if self.election_ticks < 3 * self.heartbeat_ticks {
            return Err(ConfigFault::Relation {
                key: "raft.election_ticks",
                value: self.election_ticks.into(),
                other: "raft.heartbeat_ticks",
                other_value: self.heartbeat_ticks.into(),
                rule: "a follower must miss three heartbeats before it asks for votes",
            });
        }
        // Clocks may differ by 1% while a lease lasts.
        let drift = self.election_ms().div_ceil(100);
        if u64::from(self.lease_drift_margin_ms) < drift {
            return Err(ConfigFault::Relation {
                key: "raft.lease_drift_margin_ms",
                value: self.lease_drift_margin_ms.into(),
                other: "1% of the election timeout in ms",
                other_value: drift,
                rule: "clocks that drift need a margin, or two leaders serve reads",
            });
        }
        // A lease lasts for the shortest election timeout, less what may be ticked at once, less
        // the margin.
        let longest = (self.election_ticks - TICKS_CAUGHT_UP_MAX as u32) * self.tick_ms;
        if u64::from(self.lease_drift_margin_ms) * 2 > u64::from(longest) {
            return Err(ConfigFault::Relation {
                key: "raft.lease_drift_margin_ms",
                value: self.lease_drift_margin_ms.into(),
                other: "the longest lease in ms",
                other_value: longest.into(),
                rule: "at most half of the lease may be margin",
            });
        }
        Ok(())
    }
}

impl StoreConfig {
    fn check(&self) -> Result<(), ConfigFault> {
        // A shard keeps 64 commands for itself, and must have as many again for payload.
        range("store.commands_max", self.commands_max, 129, u16::MAX.into())?;
        blocks("store.batch_bytes", self.batch_bytes, 64 << 10, 2 << 20)?;
        range("store.batch_buffers", self.batch_buffers as u64, 2, 64)?;
        range("store.mark_delay_ms", self.mark_delay_ms, 1, 10_000)?;
        range("store.reserve_blocks", self.reserve_blocks, 64, u32::MAX.into())?;
        range("store.checkpoint_factor", self.checkpoint_factor, 1, 1 << 20)?;
        range("store.checkpoint_min_bytes", self.checkpoint_min_bytes.0, 1 << 20, 1 << 50)?;
        range("store.checkpoint_pages_per_turn", self.checkpoint_pages_per_turn, 1, 65_536)?;
        range("store.checkpoint_command_pages", self.checkpoint_command_pages, 1, 256)?;
        range("store.recovery_depth", self.recovery_depth as u64, 1, 1024)?;
        blocks("store.recovery_read_bytes", self.recovery_read_bytes, 4096, 1 << 20)?;
        range("store.retained_entries", self.retained_entries, 1, 1 << 20)?;
        let rate = self.catch_up_bytes_per_second.0;
        range("store.catch_up_bytes_per_second", rate, 1 << 20, 1 << 40)?;
        // Zero switches it off.
        let rate = self.scrub_bytes_per_second.0;
        let least = if rate == 0 { 0 } else { 64 << 10 };
        range("store.scrub_bytes_per_second", rate, least, 1 << 40)?;
        range("store.scrub_period_s", self.scrub_period_s, 1, 365 * 24 * 3600)
    }
}

fn blocks(key: &'static str, value: ByteSize, min: u64, max: u64) -> Result<(), ConfigFault> {
    range(key, value.0, min, max)?;
    multiple(key, value, PAGE_BYTES)
}

fn multiple(key: &'static str, value: ByteSize, unit: u64) -> Result<(), ConfigFault> {
    if !value.0.is_multiple_of(unit) {
        return Err(ConfigFault::NotAMultiple { key, value, unit: ByteSize(unit) });
    }
    Ok(())
}

fn range(key: &'static str, value: impl Into<u64>, min: u64, max: u64) -> Result<(), ConfigFault> {
    let value = value.into();
    if value < min || value > max {
        return Err(ConfigFault::OutOfRange { key, value, min, max });
    }
    Ok(())
}

fn queue(key: &'static str, bytes: usize, min: u64) -> Result<(), ConfigFault> {
    range(key, bytes as u64, min, 4 << 20)?;
    if !bytes.is_power_of_two() {
        return Err(ConfigFault::NotAPowerOfTwo { key, value: bytes as u64 });
    }
    Ok(())
}

fn count(key: &'static str, count: usize, max: usize) -> Result<(), ConfigFault> {
    match count {
        0 => Err(ConfigFault::Empty(key)),
        _ if count > max => Err(ConfigFault::TooMany { key, count, max }),
        _ => Ok(()),
    }
}

fn unique(key: &'static str, values: impl Iterator<Item = String>) -> Result<(), ConfigFault> {
    let mut seen = BTreeSet::new();
    for value in values {
        if !seen.insert(value.clone()) {
            return Err(ConfigFault::Twice { key, value });
        }
    }
    Ok(())
}
