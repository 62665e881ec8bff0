//! Fuzzes `culvert_fuzz::checkpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::checkpoint::run(bytes));
