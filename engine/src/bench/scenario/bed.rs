//! A local cluster for one round of a scenario, with a client on it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use culvert::client::{Operation, VolumeHandle};
use culvert::config::ByteSize;
use serde_json::Value;

use super::super::case::{Pattern, Row, TransportKind};
use super::super::load::{End, Load, Measured};
use super::super::local_cluster::{LocalCluster, LocalOptions, VOLUME, emulated_bytes};
use super::super::measure::{Bench, connect_for, fill};
use super::super::result::{CaseResult, Conditions, Nodes};
use super::super::servers::Servers;
use super::ScenarioOptions;
use crate::cli::connect::CliClient;
use crate::cli::exit::{Outcome, Refuse, refuse};

/// The load of every scenario: 4 KiB random writes, 128 of them in flight.
pub const LOAD: Row = Row { pattern: Pattern::Randwrite, block_size: ByteSize::kib(4), depth: 128 };

/// How long a cluster may take to recover and to catch up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What every round of a scenario stands on.
pub struct Ground<'o> {
    /// What was asked for.
    pub options: &'o ScenarioOptions,
    /// How everybody is connected.
    pub transport: TransportKind,
    /// Memory copy bandwidth of one core.
    pub memcpy_gb_s: f64,
}

impl Ground<'_> {
    /// Bytes of the devices.
    pub fn device_bytes(&self) -> Outcome<u64> {
        let device = &self.options.device;
        emulated_bytes(device)
            .refuse()?
            .ok_or_else(|| refuse!("scenarios need an emulated device, not --device {device}"))
    }

    /// A cluster that does not run yet; without `volume_bytes` its volume takes all there is.
    pub fn create(&self, copysets: u32, volume_bytes: Option<ByteSize>) -> Outcome<LocalCluster> {
        LocalCluster::create(&LocalOptions {
            nodes: self.options.replicas,
            device: self.options.device.clone(),
            copysets,
            volume_bytes,
            transports: vec![self.transport],
            force: self.options.force,
            site: self.options.site.clone(),
        })
    }

    /// From where clients connect.
    pub fn source(&self) -> Option<IpAddr> {
        self.options.site.addresses.of_client(self.options.replicas as usize)
    }

    /// A client of a cluster whose servers run.
    pub fn bed(&self, local: LocalCluster) -> Outcome<Bed> {
        let cluster = local.cluster().clone();
        let mut client = connect_for(&[LOAD], cluster, self.transport, (None, self.source()))?;
        let volume = client.client_mut().open_volume(VOLUME).context("the volume")?;
        let mut bed = Bed {
            servers: Servers::Processes(local),
            client,
            volume,
            bench: Bench {
                transport: self.transport,
                volume: VOLUME.to_owned(),
                conditions: Conditions::of_local(
                    &self.options.device,
                    Nodes::Processes,
                    &self.options.site,
                ),
                memcpy_gb_s: self.memcpy_gb_s,
            },
        };
        bed.wait_ready()?;
        Ok(bed)
    }

    /// A cluster that runs, its volume written once; half of the device if nobody says.
    pub fn filled(&self, copysets: u32) -> Outcome<Bed> {
        let half = ByteSize(self.device_bytes()? / 2);
        let mut local = self.create(copysets, Some(half))?;
        local.start_all(true)?;
        let mut bed = self.bed(local)?;
        fill(&mut bed.client, bed.volume, &mut bed.servers)?;
        Ok(bed)
    }
}

/// A cluster that runs, and a client. Dropping it ends everything.
pub struct Bed {
    /// The servers.
    pub servers: Servers,
    /// The client.
    pub client: CliClient,
    /// The volume.
    pub volume: VolumeHandle,
    /// For cases measured on it.
    pub bench: Bench,
}

impl Bed {
    /// The cluster.
    pub fn local(&mut self) -> &mut LocalCluster {
        self.servers.local().expect("it is a local one")
    }

    /// Waits until everybody serves and has caught up.
    pub fn wait_ready(&mut self) -> Outcome {
        let local = self.servers.local().expect("it is a local one");
        Ok(local.wait_ready(&mut self.client, PATIENCE)?)
    }

    /// What every reactor says.
    pub fn statuses(&mut self) -> Outcome<Vec<Value>> {
        Ok(self.servers.statuses(&mut self.client)?)
    }

    /// Measures the load until `end`, all costs included.
    pub fn measure(&mut self, end: End) -> Outcome<CaseResult> {
        let case = self.bench.measure(&mut self.client, &mut self.servers, LOAD, end)?;
        none_failed(case.errors)?;
        Ok(case)
    }

    /// Runs the load until `end`; `observe` as [`Load::run_observed`] says.
    pub fn load(
        &mut self,
        row: Row,
        end: End,
        observe: &mut dyn FnMut(u64, u64),
    ) -> Outcome<Measured> {
        let mut load = Load::new(self.client.client(), self.volume, row, 77)?;
        let clock = self.client.clock();
        let client = self.client.client_mut();
        let measured = load.run_observed(client, &clock, end, &mut self.servers, observe)?;
        none_failed(measured.errors)?;
        Ok(measured)
    }

    /// One block in each copyset of the volume.
    pub fn one_block_each(&self) -> Vec<u64> {
        let cluster = self.client.client().cluster();
        let volume = cluster.volume(VOLUME).expect("it was made");
        let layout = cluster.layout(volume);
        let mut found = vec![None; volume.copysets.len()];
        let mut offset = 0;
        while offset < layout.blocks() && found.contains(&None) {
            let part = layout.part(offset, u64::MAX);
            found[part.copyset as usize].get_or_insert(offset);
            offset += u64::from(part.range.blocks);
        }
        found.into_iter().flatten().collect()
    }

    /// Makes one request for each of `blocks` and waits until these, and what was in flight before,
    /// have succeeded. Returns how long that took.
    pub fn touch(&mut self, blocks: &[u64], write: bool) -> Outcome<Duration> {
        let volume = self.volume;
        let clock = self.client.clock();
        let started = Instant::now();
        let client = self.client.client_mut();
        for &offset_blocks in blocks {
            let operation = if write {
                let pages = client.pool().acquire(1).context("no page for a write")?.freeze();
                Operation::Write { volume, offset_blocks, pages }
            } else {
                Operation::Read { volume, offset_blocks, blocks: 1 }
            };
            let submitted = client.submit(operation, offset_blocks);
            submitted.map_err(|refused| anyhow::anyhow!("{}", refused.reason))?;
        }
        let mut failed = 0;
        while client.in_flight() > 0 {
            client.wait(&clock, &mut |completion| failed += u64::from(completion.result.is_err()));
        }
        none_failed(failed)?;
        Ok(started.elapsed())
    }
}

fn none_failed(operations: u64) -> anyhow::Result<()> {
    ensure!(operations == 0, "{operations} operations failed");
    Ok(())
}
