//! Fuzzes `culvert_fuzz::envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::envelope::run(bytes));
