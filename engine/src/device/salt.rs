//! What makes a checksum belong to one shard of one format of one device.

use crc32c::{crc32c, crc32c_append};

/// Start value of every checksum in a shard.
///
/// Two different salts give different checksums for the same bytes, always: CRC-32C maps start
/// values one to one for any given bytes. So blocks of an earlier format, of another shard or of
/// another device never pass, and formatting need not erase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(u32);

impl Salt {
    /// The salt of a shard.
    #[must_use]
    pub fn new(device: &uuid::Uuid, shard: u32) -> Salt {
        Salt(crc32c_append(crc32c(device.as_bytes()), &shard.to_le_bytes()))
    }

    /// Salted CRC-32C of `bytes`.
    #[inline]
    #[must_use]
    pub fn crc(self, bytes: &[u8]) -> u32 {
        crc32c_append(self.0, bytes)
    }
}
