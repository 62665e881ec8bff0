//! Fuzzes `culvert_fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::device::run(bytes));
