//! The matrix: every row on every transport, round after round.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use culvert::cluster::Cluster;

use super::case::{Row, TransportKind};
use super::load::End;
use super::machine::memcpy_gb_s;
use super::measure::{Bench, connect_for, fill};
use super::result::{CaseResult, Conditions};
use super::servers::Servers;

/// What to measure.
#[derive(Clone, Debug)]
pub struct MatrixOptions {
    /// Transports; the first is what the others are compared with.
    pub transports: Vec<TransportKind>,
    /// Rows of the table.
    pub rows: Vec<Row>,
    /// How long each case is measured in each round.
    pub duration: Duration,
    /// Rounds.
    pub rounds: u32,
    /// Name of the volume.
    pub volume: String,
    /// Key of a foreign cluster.
    pub pre_shared_key: Option<Vec<u8>>,
    /// Where the client connects from.
    pub source: Option<IpAddr>,
    /// What the figures are measured on.
    pub conditions: Conditions,
}

/// Runs the matrix and returns one result for each case, in the order of the table. `progress` is
/// called after each case of each round.
pub fn run(
    options: &MatrixOptions,
    cluster: &Cluster,
    servers: &mut Servers,
    progress: &mut dyn FnMut(),
) -> anyhow::Result<Vec<CaseResult>> {
    let memcpy_gb_s = memcpy_gb_s();
    let end = End::At { duration: options.duration };
    let mut filled = false;
    let mut rounds: BTreeMap<(usize, usize), Vec<CaseResult>> = BTreeMap::new();
    for round in 0..options.rounds {
        for (column, &transport) in options.transports.iter().enumerate() {
            let first = round == 0 && column == 0;
            let cluster = start(cluster, servers, transport, first)?;
            let key_and_source = (options.pre_shared_key.clone(), options.source);
            let mut client = connect_for(&options.rows, cluster, transport, key_and_source)?;
            servers.wait_ready(&mut client)?;
            servers.warn_of_mixture(&mut client, transport);
            if !filled {
                let volume = client.client_mut().open_volume(&options.volume)?;
                fill(&mut client, volume, servers)?;
                filled = true;
            }
            let bench = Bench {
                transport,
                volume: options.volume.clone(),
                conditions: options.conditions.clone(),
                memcpy_gb_s,
            };
            for (line, &row) in options.rows.iter().enumerate() {
                let result = bench.measure(&mut client, servers, row, end);
                let result = result.with_context(|| {
                    format!("{transport} {} {} x{}", row.pattern, row.block_size, row.depth)
                })?;
                rounds.entry((line, column)).or_default().push(result);
                progress();
            }
            // Followers may lag; nobody should start the next case by catching up.
            servers.wait_ready(&mut client)?;
            drop(client);
            servers.stop()?;
        }
    }
    Ok(rounds.values().map(|rounds| CaseResult::median(rounds)).collect())
}

/// Starts servers that use `transport` among each other, and returns their cluster; `first` for
/// the first time.
fn start(
    cluster: &Cluster,
    servers: &mut Servers,
    transport: TransportKind,
    first: bool,
) -> anyhow::Result<Cluster> {
    let Some(local) = servers.local() else { return Ok(cluster.clone()) };
    local.use_transports(&[transport])?;
    let cluster = local.cluster().clone();
    servers.start(first)?;
    Ok(cluster)
}
