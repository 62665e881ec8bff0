//! The `culvert` binary: see `culvert --help`.
#![forbid(unsafe_code)]

fn main() {}
