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
    /// The salt of a shard of a device that was formatted at `created_ns`.
    #[must_use]
    pub fn new(device: &uuid::Uuid, created_ns: u64, shard: u32) -> Salt {
        let format = crc32c_append(crc32c(device.as_bytes()), &created_ns.to_le_bytes());
        Salt(crc32c_append(format, &shard.to_le_bytes()))
    }

    /// Salted CRC-32C of `bytes`.
    #[inline]
    #[must_use]
    pub fn crc(self, bytes: &[u8]) -> u32 {
        crc32c_append(self.0, bytes)
    }
}
