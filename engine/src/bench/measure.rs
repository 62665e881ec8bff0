//! One case: a client's load on servers, and what clocks and counters say of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use culvert::client::{BlockingClient, ClientOptions, VolumeHandle};
use culvert::cluster::Cluster;
use culvert::config::ByteSize;
use serde::Deserialize;
use serde_json::Value;

use super::case::{Pattern, Row, TransportKind};
use super::costs::{ClientCounts, Costs, stages};
use super::load::{End, Load};
use super::machine::{CoreTimes, process_time_ns};
use super::result::{CaseResult, Conditions};
use super::servers::Servers;
use super::totals::Totals;
use crate::cli::connect::{CliClient, connect};
use crate::cli::status::ReactorView;

/// How long a load runs before it is measured, at most: connections open, windows grow, caches
/// fill.
const WARM_UP_MAX: Duration = Duration::from_millis(500);

/// What fills the volume before anything is measured.
const FILL: Row = Row { pattern: Pattern::Write, block_size: ByteSize::kib(128), depth: 16 };

/// Memory of the client beside its payload.
const CLIENT_POOL: ByteSize = ByteSize::mib(16);

/// A client that can carry every one of `rows`, over `transport` alone, with a key and from an
/// address.
pub fn connect_for(
    rows: &[Row],
    cluster: Cluster,
    transport: TransportKind,
    key_and_source: (Option<Vec<u8>>, Option<IpAddr>),
) -> anyhow::Result<CliClient> {
    let bytes = |row: &Row| row.block_size.bytes() * u64::from(row.depth);
    let payload = rows.iter().chain([&FILL]).map(bytes).max().unwrap_or(0);
    let depth = rows.iter().map(|row| row.depth).max().unwrap_or(1);
    let defaults = ClientOptions::default();
    let options = ClientOptions {
        in_flight_max: defaults.in_flight_max.max(depth),
        transports: transport.transports(),
        ..defaults
    };
    let pool = ByteSize(payload + CLIENT_POOL.bytes());
    Ok(BlockingClient::new(connect(cluster, pool, key_and_source, options)?))
}

/// Writes the whole volume once, so that nothing is touched or mapped for the first time while it
/// is measured, and reads find data.
pub fn fill(
    client: &mut CliClient,
    volume: VolumeHandle,
    servers: &mut Servers,
) -> anyhow::Result<()> {
    let row = Row { block_size: ByteSize(FILL.block_size.bytes().min(volume.bytes())), ..FILL };
    let operations = volume.bytes().div_ceil(row.block_size.bytes());
    let clock = client.clock();
    let mut load = Load::new(client.client(), volume, row, 1)?;
    let end = End::After { operations };
    let filled = load.run(client.client_mut(), &clock, end, servers)?;
    anyhow::ensure!(filled.errors == 0, "{} writes failed filling the volume", filled.errors);
    Ok(())
}

/// What the cases of one cluster have in common.
#[derive(Clone, Debug)]
pub struct Bench {
    /// How everybody is connected.
    pub transport: TransportKind,
    /// Name of the volume.
    pub volume: String,
    /// What they were measured on.
    pub conditions: Conditions,
    /// Memory copy bandwidth of one core.
    pub memcpy_gb_s: f64,
}

impl Bench {
    /// Warms up, then measures a load of `row` until `end`.
    pub fn measure(
        &self,
        client: &mut CliClient,
        servers: &mut Servers,
        row: Row,
        end: End,
    ) -> anyhow::Result<CaseResult> {
        let volume = client.client_mut().open_volume(&self.volume)?;
        let clock = client.clock();
        let mut load = Load::new(client.client(), volume, row, u64::from(row.depth) + 1)?;
        let longest = match end {
            End::At { duration } => duration,
            End::After { .. } => WARM_UP_MAX,
        };
        let warm_up = End::At { duration: WARM_UP_MAX.min(longest) };
        load.run(client.client_mut(), &clock, warm_up, servers)?;
        let own = std::process::id();
        let before = Totals::of(&servers.statuses(client)?);
        let client_before = ClientCounts::of(client);
        let time_before = servers.time_ns().map(|time| time + process_time_ns(own));
        let cores_before = CoreTimes::now();
        let measured = load.run(client.client_mut(), &clock, end, servers)?;
        let steal_percent = CoreTimes::now().steal_percent_since(cores_before);
        let time_after = servers.time_ns().map(|time| time + process_time_ns(own));
        // Before the client asks for the status: that takes work requests as well.
        let client_counted = ClientCounts::of(client).since(&client_before);
        let statuses = servers.statuses(client)?;
        let counted = Totals::of(&statuses).since(&before);
        anyhow::ensure!(measured.operations > 0, "no operation succeeded");
        let operations = measured.operations as f64;
        let replicas = client.client().cluster().copysets()[0].replicas.len() as u32;
        let volume = client.client().cluster().volume(&self.volume);
        let costs = Costs {
            counted: &counted,
            operations,
            user_bytes: operations * row.block_size.bytes() as f64,
            replicas: f64::from(replicas),
            client: client_counted,
        };
        let time_ns = time_before.zip(time_after).map(|(before, after)| after - before);
        let is_write = row.pattern.is_write();
        let is_rdma = self.transport == TransportKind::Rdma;
        Ok(CaseResult {
            transport: self.transport,
            pattern: row.pattern,
            block_size: row.block_size.bytes(),
            depth: row.depth,
            replicas,
            conditions: self.conditions.clone(),
            copysets: volume.map_or(0, |volume| volume.copysets.len() as u32),
            iops: measured.iops(),
            latency_us: measured.latency_us(),
            cpu_us_per_operation: time_ns.map(|time_ns| time_ns as f64 / 1e3 / operations),
            device_bytes_per_user_byte: is_write.then(|| costs.device_bytes_per_user_byte()),
            payload_copies_per_operation: costs.payload_copies(),
            allocations_per_operation: costs.per_operation(&["drivers.allocations"]),
            syscalls_per_operation: costs.per_operation(&["drivers.system_calls"]),
            work_requests_per_operation: is_rdma.then(|| costs.work_requests()),
            batch_mean: is_write.then(|| costs.batch_mean()),
            stages: stages(&counted),
            operations: measured.operations,
            errors: measured.errors,
            entries_behind_max: entries_behind(&statuses),
            rounds: 1,
            rounds_dropped: 0,
            steal_percent,
            memcpy_gb_s: self.memcpy_gb_s,
        })
    }
}

/// By how many entries the replica that is furthest behind is behind its leader.
fn entries_behind(statuses: &[Value]) -> u64 {
    let views: Vec<ReactorView> =
        statuses.iter().filter_map(|status| ReactorView::deserialize(status).ok()).collect();
    let mut copysets: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for replica in views.iter().flat_map(|view| &view.copysets) {
        let (commit, applied) = copysets.entry(replica.id).or_insert((0, u64::MAX));
        *commit = (*commit).max(replica.commit);
        *applied = (*applied).min(replica.applied);
    }
    copysets.values().map(|(commit, applied)| commit.saturating_sub(*applied)).max().unwrap_or(0)
}
