//! The same load over few copysets and over many.

use super::super::load::End;
use super::Values;
use super::bed::Ground;
use crate::cli::exit::Outcome;

const FEW: u32 = 4;
const MANY: u32 = 256;

/// Processor time of a write, all processes together.
pub fn run(ground: &Ground<'_>) -> Outcome<Values> {
    let mut cpu_us = [0.0; 2];
    let mut iops = [0.0; 2];
    for (at, copysets) in [FEW, MANY].into_iter().enumerate() {
        let mut bed = ground.filled(copysets)?;
        let end = End::At { duration: ground.options.duration };
        let case = bed.measure(end)?;
        cpu_us[at] = case.cpu_us_per_operation.unwrap_or(f64::NAN);
        iops[at] = case.iops / 1000.0;
    }
    Ok(vec![
        ("processor per write, 4 copysets", cpu_us[0], "us"),
        ("processor per write, 256 copysets", cpu_us[1], "us"),
        ("processor per write, 256 more than 4", cpu_us[1] - cpu_us[0], "us"),
        ("writes in a second, 4 copysets", iops[0], "k"),
        ("writes in a second, 256 copysets", iops[1], "k"),
    ])
}
