//! Fuzzes `culvert_fuzz::chunk_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::chunk_image::run(bytes));
