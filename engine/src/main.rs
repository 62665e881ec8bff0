//! The `culvert` binary: see `culvert --help`.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod sim;

use std::process::ExitCode;

use culvert_memory::CountingAllocator;

/// Allocations are counted: `culvert status` and `culvert bench` show that a server in steady state
/// makes none of its own.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

fn main() -> ExitCode {
    cli::run()
}
