//! A leader that is killed.

use std::time::Instant;

use anyhow::Context;

use super::Values;
use super::bed::Ground;
use crate::cli::exit::Outcome;
use crate::cli::status::fetch;

const COPYSETS: u32 = 4;

/// From SIGKILL to the acknowledgement of a new write in every copyset that the victim led: as its
/// slowest sees it.
pub fn run(ground: &Ground<'_>) -> Outcome<Values> {
    let mut bed = ground.filled(COPYSETS)?;
    let blocks = bed.one_block_each();
    let first = bed.local().cluster().copysets()[0].id.0;
    let victim = fetch(&mut bed.client).leader_of(first).context("no leader")?;
    bed.touch(&blocks, true)?;
    let started = Instant::now();
    bed.local().kill(victim)?;
    bed.touch(&blocks, true)?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    Ok(vec![("leader killed to writes acknowledged", took, "ms")])
}
