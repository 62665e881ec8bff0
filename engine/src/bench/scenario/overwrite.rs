//! Half of the device, overwritten four times at random.

use serde_json::Value;

use super::super::load::End;
use super::super::totals::Totals;
use super::Values;
use super::bed::Ground;
use crate::cli::exit::Outcome;

const COPYSETS: u32 = 4;

/// How often each block is written, on average.
const TIMES: u64 = 4;

/// Bytes on the device, and memory, that a block of the user costs.
pub fn run(ground: &Ground<'_>) -> Outcome<Values> {
    let mut bed = ground.filled(COPYSETS)?;
    let end = End::After { operations: bed.volume.blocks() * TIMES };
    let before = Totals::of(&bed.statuses()?);
    let case = bed.measure(end)?;
    let statuses = bed.statuses()?;
    let counted = Totals::of(&statuses).since(&before);
    let replicas = f64::from(ground.options.replicas);
    let checkpoints = counted.get("shards.counters.checkpoints").unwrap_or(0) as f64 / replicas;
    Ok(vec![
        ("device bytes per user byte", case.device_bytes_per_user_byte.unwrap_or(f64::NAN), ""),
        ("checkpoints of each replica meanwhile", checkpoints, ""),
        ("memory per block stored", memory_per_block(&statuses), "B"),
    ])
}

/// Map, allocator and checksums.
fn memory_per_block(statuses: &[Value]) -> f64 {
    let now = Totals::of(statuses);
    let sum = |path| now.get(path).unwrap_or(0) as f64;
    sum("shards.memory_bytes") / sum("shards.mapped_blocks")
}
