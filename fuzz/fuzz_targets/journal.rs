//! Fuzzes `culvert_fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::journal::run(bytes));
