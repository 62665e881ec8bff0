//! Fuzzes `culvert_fuzz::cluster_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::cluster_file::run(bytes));
