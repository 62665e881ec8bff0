//! What is fuzzed: every parser of bytes that come from a peer, a device or a user.
//!
//! One module for each target: `run` takes any bytes, `seeds` gives some that are right. Checksums
//! would keep a fuzzer from everything behind them, so each target parses its bytes as they are,
//! and once more with magic numbers, lengths and checksums put right. What was parsed is looked at
//! in every way that its reader does, and emitted again where there is a way: a parser must not
//! panic, and must not take for right what no writer writes.
//!
//! `scripts/fuzz` runs the targets; `corpus/` holds inputs from which they start.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod chunk_image;
pub mod cluster_file;
pub mod copyset_image;
pub mod device;
pub mod envelope;
pub mod frames;
pub mod handshake;
pub mod journal;
pub mod node_config;
pub mod record;

/// Puts bytes at a place, where there is room for all of them.
pub(crate) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The little-endian number of two bytes at a place; zero behind the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])))
}
