//! Fuzzes `culvert_fuzz::copyset_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_fuzz::copyset_image::run(bytes));
