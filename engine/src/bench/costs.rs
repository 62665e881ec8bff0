//! What the counters say that an operation cost.

use std::collections::BTreeMap;

use culvert::stages::{Stage, StageFigures};

use super::result::{WorkRequests, WorkRequestsBySide};
use super::totals::Totals;
use crate::cli::connect::CliClient;

/// What all servers together counted of each stage that anything passed.
pub fn stages(counted: &Totals) -> BTreeMap<String, StageFigures> {
    let of = |stage: &Stage| {
        let buckets = counted.by_number(&format!("stages.{}.buckets.", stage.name()));
        (stage.name().to_owned(), StageFigures::of(&buckets))
    };
    Stage::ALL.iter().map(of).filter(|(_, figures)| figures.count > 0).collect()
}

/// What the servers counted while a number of operations was measured.
pub struct Costs<'t> {
    /// Of all servers together.
    pub counted: &'t Totals,
    /// Operations that succeeded.
    pub operations: f64,
    /// Their payload.
    pub user_bytes: f64,
    /// Replicas of each copyset.
    pub replicas: f64,
    /// Of the client.
    pub client: ClientCounts,
}

impl Costs<'_> {
    fn sum(&self, paths: &[&str]) -> f64 {
        paths.iter().map(|path| self.counted.get(path).unwrap_or(0) as f64).sum()
    }

    /// The sum of counters, for one operation.
    pub fn per_operation(&self, paths: &[&str]) -> f64 {
        self.sum(paths) / self.operations
    }

    /// Bytes that one replica wrote for each of the user's.
    pub fn device_bytes_per_user_byte(&self) -> f64 {
        self.sum(&["drivers.bytes_written"]) / self.replicas / self.user_bytes
    }

    /// Records in a journal write, mean over replicas.
    pub fn batch_mean(&self) -> f64 {
        self.sum(&["shards.counters.entries"]) / self.sum(&["shards.counters.batches"]).max(1.0)
    }

    /// How often the payload was copied. `wire`, of all processes, and `device` stand for what
    /// hardware would do without a processor; `client` is what the client copied out of its landing
    /// window for want of room there; `other`, of the servers, must be zero.
    pub fn payload_copies(&self) -> BTreeMap<String, f64> {
        let wire = self.sum(&["drivers.wire_bytes_copied"]) + self.client.wire as f64;
        let device = self.sum(&["drivers.device_bytes_copied"]);
        let other = self.sum(&["drivers.payload_bytes_copied"]);
        let client = self.client.gathered as f64;
        let kinds = [("wire", wire), ("device", device), ("client", client), ("other", other)];
        kinds.map(|(kind, bytes)| (kind.to_owned(), bytes / self.user_bytes)).into()
    }

    /// Work requests of both sides.
    pub fn work_requests(&self) -> WorkRequestsBySide {
        let of_servers = |name: &str| self.per_operation(&[&format!("drivers.{name}")]);
        let of_client = |count: u64| count as f64 / self.operations;
        WorkRequestsBySide {
            client: WorkRequests {
                posted: of_client(self.client.work_requests),
                signalled: of_client(self.client.work_requests_signalled),
                doorbells: of_client(self.client.chains_posted),
            },
            servers: WorkRequests {
                posted: of_servers("work_requests"),
                signalled: of_servers("work_requests_signalled"),
                doorbells: of_servers("chains_posted"),
            },
        }
    }
}

/// What the client counted.
#[derive(Clone, Copy, Debug)]
pub struct ClientCounts {
    /// Payload bytes copied where a wire would carry them.
    wire: u64,
    /// Payload bytes copied out of their landing pages.
    gathered: u64,
    work_requests: u64,
    work_requests_signalled: u64,
    chains_posted: u64,
}

impl ClientCounts {
    /// So far.
    pub fn of(client: &CliClient) -> ClientCounts {
        let network = client.client().network().counters();
        ClientCounts {
            wire: network.wire_copy_bytes,
            gathered: client.client().statistics().copied_bytes,
            work_requests: network.work_requests,
            work_requests_signalled: network.work_requests_signalled,
            chains_posted: network.chains_posted,
        }
    }

    /// What was added since `before`.
    pub fn since(&self, before: &ClientCounts) -> ClientCounts {
        ClientCounts {
            wire: self.wire - before.wire,
            gathered: self.gathered - before.gathered,
            work_requests: self.work_requests - before.work_requests,
            work_requests_signalled: self.work_requests_signalled - before.work_requests_signalled,
            chains_posted: self.chains_posted - before.chains_posted,
        }
    }
}
