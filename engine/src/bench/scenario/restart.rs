//! Full devices, and servers that start over them.

use std::time::Instant;

use culvert::client::Operation;

use super::super::case::{Pattern, Row};
use super::super::load::End;
use super::super::totals::Totals;
use super::Values;
use super::bed::{Ground, LOAD};
use crate::cli::exit::Outcome;

const COPYSETS: u32 = 4;

/// From the start of all servers, after SIGKILL under load, to an acknowledged write and read in
/// every copyset: as the slowest sees it.
pub fn run(ground: &Ground<'_>) -> Outcome<Values> {
    ground.device_bytes()?;
    let mut local = ground.create(COPYSETS, None)?;
    local.start_all(true)?;
    let mut bed = ground.bed(local)?;
    // Every block by a write of its own, then again in any order: maps as long as they get.
    let all = End::After { operations: bed.volume.blocks() };
    bed.load(Row { pattern: Pattern::Write, ..LOAD }, all, &mut |_, _| {})?;
    bed.load(LOAD, all, &mut |_, _| {})?;
    let mapped = Totals::of(&bed.statuses()?).get("shards.mapped_blocks").unwrap_or(0);
    kill_under_load(&mut bed)?;
    let blocks = bed.one_block_each();
    let started = Instant::now();
    bed.local().start_all(false)?;
    bed.touch(&blocks, true)?;
    bed.touch(&blocks, false)?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    let each = mapped as f64 / f64::from(ground.options.replicas) / 1e3;
    Ok(vec![
        ("start to a write and a read acknowledged", took, "ms"),
        ("blocks mapped on each device", each, "k"),
    ])
}

/// Kills every server while writes are in flight. They stay so, and come to their end when servers
/// are there again.
fn kill_under_load(bed: &mut super::bed::Bed) -> Outcome {
    let volume = bed.volume;
    let clock = bed.client.clock();
    let client = bed.client.client_mut();
    for offset_blocks in 0..u64::from(LOAD.depth) {
        let pages = client.pool().acquire(1).ok_or_else(|| anyhow::anyhow!("no page"))?.freeze();
        let operation = Operation::Write { volume, offset_blocks, pages };
        let submitted = client.submit(operation, offset_blocks);
        submitted.map_err(|refused| anyhow::anyhow!("{}", refused.reason))?;
    }
    client.wait(&clock, &mut |_| {});
    let nodes = bed.local().configs().len();
    (0..nodes).try_for_each(|node| bed.local().kill(node))?;
    Ok(())
}
