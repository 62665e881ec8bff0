//! Fuzzes `culvert_fuzz::node_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::node_config::run(bytes));
