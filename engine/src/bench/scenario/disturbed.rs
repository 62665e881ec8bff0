//! Latencies while something goes on beside the load, against those while nothing does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use culvert::client::{BlockingClient, ClientOptions};
use culvert::cluster::Cluster;
use culvert::config::ByteSize;
use culvert::node::SystemClock;
use culvert::reactor::Clock;
use hdrhistogram::Histogram;
use rustix::process::Signal;

use super::super::load::End;
use super::super::measure::connect_for;
use super::Values;
use super::bed::{Bed, Ground, LOAD, PATIENCE};
use crate::cli::connect::connect;
use crate::cli::exit::Outcome;
use crate::cli::status::fetch;

const COPYSETS: u32 = 4;

/// How often the servers are asked about their checkpoints: they are further apart than this.
const LOOK: Duration = Duration::from_millis(10);

/// How long a node that does not run is waited for.
const MISSING_PATIENCE: Duration = Duration::from_millis(200);

/// Operations for which there is room in advance, so that noting them moves nothing.
const NOTED_MAX: usize = 1 << 24;

/// From and to, by the nodes' clock.
type Interval = (u64, u64);

/// Operations that were submitted while any replica wrote a checkpoint, against the others of the
/// same load. (All that were in flight would be the slow ones: those are in flight for longer.)
pub fn while_checkpointing(ground: &Ground<'_>) -> Outcome<Values> {
    let mut bed = ground.filled(COPYSETS)?;
    let cluster = bed.local().cluster().clone();
    let over = AtomicBool::new(false);
    let mut operations: Vec<Interval> = Vec::with_capacity(NOTED_MAX);
    let offset_ns = SystemClock.now_ns() - bed.client.clock().now_ns();
    let (measured, checkpoints) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch_checkpoints(cluster, ground, &over));
        let end = End::At { duration: ground.options.duration };
        let measured = bed.load(LOAD, end, &mut |from, to| {
            if operations.len() < NOTED_MAX {
                operations.push((from + offset_ns, to + offset_ns));
            }
        });
        over.store(true, Ordering::Relaxed);
        (measured, watch.join())
    });
    let elapsed = measured?.elapsed.as_nanos() as f64;
    let checkpoints = checkpoints.map_err(|_| anyhow!("the watch over checkpoints failed"))??;
    let checkpoints = union(checkpoints);
    let mut latencies = [histogram(), histogram()];
    for (from, to) in operations {
        let at = checkpoints.partition_point(|(_, end)| *end < from);
        let during = checkpoints.get(at).is_some_and(|(begin, _)| *begin <= from);
        latencies[usize::from(during)].saturating_record(to - from);
    }
    if latencies.iter().any(Histogram::is_empty) {
        return Err(anyhow!(
            "{} operations beside checkpoints and {} without: nothing to compare",
            latencies[1].len(),
            latencies[0].len()
        )
        .into());
    }
    let [quiet, during] = latencies.map(|latencies| latencies.value_at_quantile(0.99) as f64 / 1e3);
    let covered: u64 = checkpoints.iter().map(|(from, to)| to - from).sum();
    Ok(vec![
        ("p99, no checkpoint", quiet, "us"),
        ("p99, while a checkpoint is written", during, "us"),
        ("p99, while a checkpoint is written, ratio", during / quiet, "x"),
        ("time in which checkpoints are written", covered as f64 * 100.0 / elapsed, "%"),
    ])
}

/// Collects when checkpoints were written, of all shards, until `over`.
fn watch_checkpoints(
    cluster: Cluster,
    ground: &Ground<'_>,
    over: &AtomicBool,
) -> anyhow::Result<Vec<Interval>> {
    let mut client = connect_for(&[], cluster, ground.transport, (None, ground.source()))?;
    let mut seen = Vec::new();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(LOOK);
        let now_ns = SystemClock.now_ns();
        for status in fetch(&mut client).values() {
            let shards = status["shards"].as_array().context("a status lists its shards")?;
            for shard in shards {
                let time = |name: &str| shard[name].as_u64();
                let began = time("checkpoint_began_ns").context("a shard says when")?;
                let ended = time("checkpoint_ended_ns").context("a shard says when")?;
                if began > 0 {
                    seen.push((began, if ended < began { now_ns } else { ended }));
                }
            }
        }
    }
    Ok(seen)
}

/// Intervals in order, those that overlap made one.
fn union(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::new();
    for (from, to) in intervals {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// The load before and after SIGSTOP of a node that follows everywhere.
pub fn with_a_follower_stopped(ground: &Ground<'_>) -> Outcome<Values> {
    let nodes = ground.options.replicas as usize;
    if nodes < 3 {
        return Err(anyhow!("without one of {nodes} replicas nothing is written").into());
    }
    let volume = ByteSize(ground.device_bytes()? / 2);
    let mut local = ground.create(COPYSETS, Some(volume))?;
    // The last node comes when the others have leaders: it leads nothing.
    let last = nodes - 1;
    (0..last).try_for_each(|node| local.start(node, true))?;
    let cluster = local.cluster().clone();
    let short = ClientOptions {
        request_timeout: MISSING_PATIENCE,
        attempt_timeout: MISSING_PATIENCE,
        ..ClientOptions::default()
    };
    let client = connect(cluster, ByteSize::mib(2), (None, ground.source()), short)?;
    local.wait_for_leaders(&mut BlockingClient::new(client), PATIENCE)?;
    local.start(last, true)?;
    let mut bed = ground.bed(local)?;
    super::super::measure::fill(&mut bed.client, bed.volume, &mut bed.servers)?;
    bed.wait_ready()?;
    leads_nothing(&mut bed, last)?;
    let end = End::At { duration: ground.options.duration };
    bed.load(LOAD, End::At { duration: Duration::from_millis(500) }, &mut |_, _| {})?;
    let quiet = bed.load(LOAD, end, &mut |_, _| {})?;
    leads_nothing(&mut bed, last)?;
    bed.local().signal(last, Signal::STOP)?;
    let stopped = bed.load(LOAD, end, &mut |_, _| {})?;
    bed.local().signal(last, Signal::CONT)?;
    bed.wait_ready()?;
    let [before, during] = [&quiet, &stopped].map(|measured| measured.latency_us().p99);
    Ok(vec![
        ("p99, all followers", before, "us"),
        ("p99, one follower stopped", during, "us"),
        ("p99, one follower stopped, ratio", during / before, "x"),
        ("writes in a second, all followers", quiet.iops() / 1e3, "k"),
        ("writes in a second, one follower stopped", stopped.iops() / 1e3, "k"),
    ])
}

fn leads_nothing(bed: &mut Bed, node: usize) -> Outcome {
    let status = fetch(&mut bed.client);
    let copysets = bed.local().cluster().copysets().to_vec();
    match copysets.iter().find(|copyset| status.leader_of(copyset.id.0) == Some(node)) {
        Some(copyset) => Err(anyhow!("node {node} leads copyset {}: not a follower", copyset.id))?,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_overlap_are_one() {
        let seen = vec![(30, 40), (1, 5), (4, 9), (1, 7), (9, 10), (50, 50)];
        assert_eq!(union(seen), [(1, 10), (30, 40), (50, 50)]);
        assert_eq!(union(vec![]), []);
    }
}
