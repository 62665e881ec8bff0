//! Servers that nobody asks anything.

use std::time::Instant;

use super::super::machine::process_time_ns;
use super::Values;
use super::bed::Ground;
use crate::cli::exit::Outcome;

const COPYSETS: u32 = 16;

/// Processor time of the server that used the most, while no client is connected.
pub fn run(ground: &Ground<'_>) -> Outcome<Values> {
    let bed = ground.filled(COPYSETS)?;
    let super::bed::Bed { mut servers, client, .. } = bed;
    drop(client);
    let local = servers.local().expect("it is a local one");
    let times = |pids: &[u32]| pids.iter().map(|pid| process_time_ns(*pid)).collect::<Vec<u64>>();
    let pids = local.pids();
    let before = times(&pids);
    let started = Instant::now();
    std::thread::sleep(ground.options.duration);
    let elapsed = started.elapsed().as_nanos() as f64;
    let after = times(&pids);
    local.check_servers()?;
    let shares = before.iter().zip(&after).map(|(b, a)| (a - b) as f64 * 100.0 / elapsed);
    Ok(vec![("processor of an idle server, of one core", shares.fold(0.0, f64::max), "%")])
}
