//! Fuzzes `culvert_fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::record::run(bytes));
