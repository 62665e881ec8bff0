//! What one case measured, and the median of several rounds.

use std::collections::BTreeMap;

use culvert::stages::StageFigures;
use serde::Serialize;

use super::addresses::Addresses;
use super::case::{Pattern, Row, TransportKind};
use super::hardware::Hardware;
use super::site::Site;

/// Rounds in which the hypervisor stole more than this do not count.
pub const STEAL_PERCENT_MAX: f64 = 2.0;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyUs {
    /// Half of the operations took no longer.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
}

/// How the servers run; figures of one thread leave out everything between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Nodes {
    /// A process each, and the client in another.
    Processes,
    /// Servers and client take turns in one thread.
    OneThread,
}

/// What all cases of a run were measured on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conditions {
    /// URI of the devices, as asked for or chosen.
    pub device: String,
    /// How the servers run.
    pub nodes: Nodes,
    /// Each server's pool. Absent where the servers are not ours.
    pub pool_bytes: Option<u64>,
    /// Where servers listen and, last, the client connects from, used in turn; empty for the
    /// loopback interface.
    pub addresses: Addresses,
    /// What of the machine is only pretended: of the client's, where servers run elsewhere.
    pub machine: Hardware,
}

impl Conditions {
    /// Those of a cluster of our own.
    #[must_use]
    pub fn of_local(device: &str, nodes: Nodes, site: &Site) -> Conditions {
        Conditions {
            device: device.to_owned(),
            nodes,
            pool_bytes: Some(site.room.pool.bytes()),
            addresses: site.addresses.clone(),
            machine: site.hardware.clone(),
        }
    }
}

/// What one side posted to its RDMA devices for an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WorkRequests {
    /// Work requests.
    pub posted: f64,
    /// Those of them that asked for a completion.
    pub signalled: f64,
    /// Chains of them, each with one doorbell.
    pub doorbells: f64,
}

/// ... and both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WorkRequestsBySide {
    /// The client.
    pub client: WorkRequests,
    /// All servers together.
    pub servers: WorkRequests,
}

impl WorkRequestsBySide {
    /// Figure by figure; `None` where there is none of any round.
    fn median(rounds: &[&CaseResult]) -> Option<WorkRequestsBySide> {
        let of = |figure: &dyn Fn(&WorkRequestsBySide) -> f64| {
            let present = rounds.iter().filter_map(|round| round.work_requests_per_operation);
            let present: Vec<f64> = present.map(|requests| figure(&requests)).collect();
            (!present.is_empty()).then(|| median(present))
        };
        Some(WorkRequestsBySide {
            client: WorkRequests {
                posted: of(&|requests| requests.client.posted)?,
                signalled: of(&|requests| requests.client.signalled)?,
                doorbells: of(&|requests| requests.client.doorbells)?,
            },
            servers: WorkRequests {
                posted: of(&|requests| requests.servers.posted)?,
                signalled: of(&|requests| requests.servers.signalled)?,
                doorbells: of(&|requests| requests.servers.doorbells)?,
            },
        })
    }
}

/// One case: one round of it, or the median of its rounds. The names are those of the JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseResult {
    /// How everybody is connected.
    pub transport: TransportKind,
    /// Which requests.
    pub pattern: Pattern,
    /// Bytes of each request.
    pub block_size: u64,
    /// Requests in flight.
    pub depth: u32,
    /// Replicas of each copyset.
    pub replicas: u32,
    /// What it was measured on.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// Copysets of the volume.
    pub copysets: u32,
    /// Operations in a second.
    pub iops: f64,
    /// From submission to completion, as the client sees it.
    pub latency_us: LatencyUs,
    /// Processor time of all processes, client included. Absent where the servers' processes are
    /// not ours.
    pub cpu_us_per_operation: Option<f64>,
    /// Bytes that one replica wrote to its device for each byte of the user, journal, checkpoints
    /// and superblocks included; mean over replicas. Absent for reads.
    pub device_bytes_per_user_byte: Option<f64>,
    /// Times that a processor copied the payload, over all processes, by kind of copy.
    pub payload_copies_per_operation: BTreeMap<String, f64>,
    /// Heap allocations of all servers.
    pub allocations_per_operation: f64,
    /// System calls of the data plane of all servers.
    pub syscalls_per_operation: f64,
    /// Work requests posted to RDMA devices; absent for other transports.
    pub work_requests_per_operation: Option<WorkRequestsBySide>,
    /// Records in a journal write. Absent for reads.
    pub batch_mean: Option<f64>,
    /// Latencies within the servers, by stage: of all servers together, in the last round that
    /// counts.
    pub stages: BTreeMap<String, StageFigures>,
    /// Operations measured.
    pub operations: u64,
    /// Operations that failed after the client's retries.
    pub errors: u64,
    /// Log entries by which the slowest replica was behind its leader at the end, in the worst
    /// round. A replica that is far behind took no part: the figures are then those of fewer
    /// replicas.
    pub entries_behind_max: u64,
    /// Rounds that the figures are the median of.
    pub rounds: u32,
    /// Rounds that were left out because more than 2% of the time was stolen.
    pub rounds_dropped: u32,
    /// Time that the hypervisor gave to somebody else.
    pub steal_percent: f64,
    /// Memory copy bandwidth of one core, measured before the matrix.
    pub memcpy_gb_s: f64,
}

impl CaseResult {
    /// The row of the table that it stands in.
    #[must_use]
    pub fn row(&self) -> Row {
        let block_size = culvert::config::ByteSize(self.block_size);
        Row { pattern: self.pattern, block_size, depth: self.depth }
    }

    /// The median of rounds of one case, figure by figure. Rounds with too much steal are left
    /// out, unless all have it.
    ///
    /// # Panics
    ///
    /// If there is no round.
    #[must_use]
    pub fn median(rounds: &[CaseResult]) -> CaseResult {
        let quiet: Vec<&CaseResult> =
            rounds.iter().filter(|round| round.steal_percent <= STEAL_PERCENT_MAX).collect();
        let kept = if quiet.is_empty() { rounds.iter().collect() } else { quiet };
        let of = |figure: &dyn Fn(&CaseResult) -> f64| {
            median(kept.iter().map(|round| figure(round)).collect())
        };
        let of_some = |figure: &dyn Fn(&CaseResult) -> Option<f64>| {
            let present: Vec<f64> = kept.iter().filter_map(|round| figure(round)).collect();
            (!present.is_empty()).then(|| median(present))
        };
        let first = kept.first().expect("at least one round");
        let copies = first.payload_copies_per_operation.keys().map(|kind| {
            let figure = |round: &CaseResult| {
                round.payload_copies_per_operation.get(kind).copied().unwrap_or_default()
            };
            (kind.clone(), of(&figure))
        });
        CaseResult {
            iops: of(&|round| round.iops),
            latency_us: LatencyUs {
                p50: of(&|round| round.latency_us.p50),
                p99: of(&|round| round.latency_us.p99),
                p999: of(&|round| round.latency_us.p999),
            },
            cpu_us_per_operation: of_some(&|round| round.cpu_us_per_operation),
            device_bytes_per_user_byte: of_some(&|round| round.device_bytes_per_user_byte),
            payload_copies_per_operation: copies.collect(),
            allocations_per_operation: of(&|round| round.allocations_per_operation),
            syscalls_per_operation: of(&|round| round.syscalls_per_operation),
            work_requests_per_operation: WorkRequestsBySide::median(&kept),
            batch_mean: of_some(&|round| round.batch_mean),
            stages: kept.last().map(|round| round.stages.clone()).unwrap_or_default(),
            operations: kept.iter().map(|round| round.operations).sum(),
            errors: rounds.iter().map(|round| round.errors).sum(),
            entries_behind_max: kept
                .iter()
                .map(|round| round.entries_behind_max)
                .max()
                .unwrap_or(0),
            rounds: kept.len() as u32,
            rounds_dropped: (rounds.len() - kept.len()) as u32,
            steal_percent: of(&|round| round.steal_percent),
            ..(*first).clone()
        }
    }
}

/// The median.
///
/// # Panics
///
/// If there is no value.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        (values[middle - 1] + values[middle]) / 2.0
    } else {
        values[middle]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A case with round figures, for tests of what is done with cases.
    pub fn sample(transport: TransportKind, pattern: Pattern, depth: u32, iops: f64) -> CaseResult {
        CaseResult {
            transport,
            pattern,
            block_size: 4096,
            depth,
            replicas: 3,
            conditions: Conditions::of_local("emulated:2GiB", Nodes::Processes, &Site::default()),
            copysets: 4,
            iops,
            latency_us: LatencyUs { p50: 1e6 / iops, p99: 3e6 / iops, p999: 9e6 / iops },
            cpu_us_per_operation: Some(10.0),
            device_bytes_per_user_byte: pattern.is_write().then_some(1.05),
            payload_copies_per_operation: [("wire".to_owned(), 3.0)].into(),
            allocations_per_operation: 0.0,
            syscalls_per_operation: 0.25,
            work_requests_per_operation: (transport == TransportKind::Rdma).then(|| {
                let client = WorkRequests { posted: 2.0, signalled: 0.5, doorbells: 1.0 };
                let servers = WorkRequests { posted: 7.0, signalled: 1.5, doorbells: 5.0 };
                WorkRequestsBySide { client, servers }
            }),
            batch_mean: pattern.is_write().then_some(31.5),
            stages: BTreeMap::new(),
            operations: iops as u64,
            errors: 0,
            entries_behind_max: 12,
            rounds: 1,
            rounds_dropped: 0,
            steal_percent: 0.1,
            memcpy_gb_s: 8.0,
        }
    }

    #[test]
    fn the_median_leaves_stolen_rounds_out() {
        let mut rounds: Vec<CaseResult> = [100.0, 300.0, 200.0, 9.0]
            .map(|iops| sample(TransportKind::Shm, Pattern::Randwrite, 1, iops))
            .into();
        rounds[3].steal_percent = 30.0;
        let median = CaseResult::median(&rounds);
        assert_eq!(median.iops, 200.0);
        assert_eq!((median.rounds, median.rounds_dropped), (3, 1));
        assert_eq!(median.operations, 600);
        let all_stolen = CaseResult::median(&rounds[3..]);
        assert_eq!((all_stolen.iops, all_stolen.rounds_dropped), (9.0, 0));
        assert!(all_stolen.steal_percent > STEAL_PERCENT_MAX, "and the figure says so");
    }

    #[test]
    fn the_json_has_the_promised_names() {
        let case = sample(TransportKind::Tcp, Pattern::Randread, 128, 1000.0);
        let json = serde_json::to_value(&case).expect("plain data");
        for name in [
            "transport",
            "pattern",
            "block_size",
            "depth",
            "replicas",
            "device",
            "iops",
            "latency_us",
            "cpu_us_per_operation",
            "device_bytes_per_user_byte",
            "payload_copies_per_operation",
            "allocations_per_operation",
            "syscalls_per_operation",
            "work_requests_per_operation",
            "batch_mean",
            "stages",
            "nodes",
            "pool_bytes",
            "addresses",
            "machine",
            "steal_percent",
            "memcpy_gb_s",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["transport"], "tcp");
        assert_eq!(json["nodes"], "processes");
        assert_eq!(json["machine"], serde_json::json!({ "emulated": null, "rdma": [] }));
        assert!(json["work_requests_per_operation"].is_null());
        assert!(json["latency_us"]["p999"].is_f64());
    }
    #[test]
    fn work_requests_are_of_rdma_alone_and_have_medians() {
        let mut rounds =
            [1.0, 2.0, 3.0].map(|iops| sample(TransportKind::Rdma, Pattern::Randwrite, 1, iops));
        for (round, posted) in rounds.iter_mut().zip([2.0, 9.0, 3.0]) {
            let requests = round.work_requests_per_operation.as_mut().expect("over RDMA");
            requests.client.posted = posted;
        }
        let json = serde_json::to_value(CaseResult::median(&rounds)).expect("plain data");
        let expected = serde_json::json!({
            "client": { "posted": 3.0, "signalled": 0.5, "doorbells": 1.0 },
            "servers": { "posted": 7.0, "signalled": 1.5, "doorbells": 5.0 },
        });
        assert_eq!(json["work_requests_per_operation"], expected);
    }
}
