//! What a command may ask for, checked before it is sent.
//!
//! Only what cannot be expressed in an entry, or would be cut to fit it, is refused here; whether
//! blocks exist is the device's to say (and io_uring's, which has no device to ask, through
//! [`LbaRange::is_inside`]).

use crate::config::WRITE_ZEROES_BLOCKS_MAX;
use crate::contract::{Lba, LbaRange, Namespace};
use crate::status::Status;

/// Limits of one namespace, in a form that costs no division.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    block_shift: u32,
    transfer_bytes_max: u32,
}

impl Limits {
    /// The limits of `namespace`.
    pub(crate) fn new(namespace: &Namespace) -> Limits {
        assert!(namespace.block_size.is_power_of_two(), "blocks of 2^n bytes");
        Limits {
            block_shift: namespace.block_size.trailing_zeros(),
            transfer_bytes_max: namespace.transfer_bytes_max,
        }
    }

    /// Bytes of `blocks` blocks.
    pub(crate) fn bytes_of(self, blocks: u64) -> u64 {
        blocks << self.block_shift
    }

    /// The blocks of a transfer of `bytes` bytes.
    #[inline]
    pub(crate) fn transfer(self, lba: Lba, bytes: usize) -> Result<LbaRange, Status> {
        let whole_blocks = bytes & ((1 << self.block_shift) - 1) == 0;
        if bytes == 0 || bytes > self.transfer_bytes_max as usize || !whole_blocks {
            return Err(Status::INVALID_FIELD);
        }
        let blocks = (bytes >> self.block_shift) as u32;
        Ok(LbaRange { start: lba, blocks })
    }

    /// Bytes of `blocks` blocks out of a buffer of `available` bytes.
    #[inline]
    pub(crate) fn part(self, blocks: u32, available: usize) -> Result<usize, Status> {
        let bytes = self.bytes_of(u64::from(blocks));
        if blocks == 0 || bytes > available as u64 {
            return Err(Status::INVALID_FIELD);
        }
        Ok(bytes as usize)
    }

    /// The blocks of a write zeroes.
    pub(crate) fn write_zeroes(self, lba: Lba, blocks: u32) -> Result<LbaRange, Status> {
        if blocks == 0 || blocks > WRITE_ZEROES_BLOCKS_MAX {
            return Err(Status::INVALID_FIELD);
        }
        Ok(LbaRange { start: lba, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::AsciiField;

    fn limits(block_size: u32) -> Limits {
        Limits::new(&Namespace {
            block_size,
            blocks: 100,
            volatile_write_cache: false,
            transfer_bytes_max: 8192,
            metadata_bytes: 0,
            model: AsciiField::new(""),
            serial: AsciiField::new(""),
            backend: "test",
        })
    }

    #[test]
    fn transfers_are_whole_blocks_within_the_limit() {
        let range = limits(512).transfer(Lba(3), 8192);
        assert_eq!(range, Ok(LbaRange { start: Lba(3), blocks: 16 }));
        assert_eq!(limits(4096).transfer(Lba(0), 512), Err(Status::INVALID_FIELD));
        assert_eq!(limits(512).transfer(Lba(0), 0), Err(Status::INVALID_FIELD));
        assert_eq!(limits(512).transfer(Lba(0), 8704), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn parts_fit_their_buffer() {
        assert_eq!(limits(512).part(3, 4096), Ok(1536));
        assert_eq!(limits(512).part(9, 4096), Err(Status::INVALID_FIELD));
        assert_eq!(limits(4096).part(u32::MAX, 4096), Err(Status::INVALID_FIELD));
        assert_eq!(limits(512).part(0, 4096), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn write_zeroes_has_sixteen_bits() {
        assert!(limits(512).write_zeroes(Lba(0), 1 << 16).is_ok());
        assert!(limits(512).write_zeroes(Lba(0), (1 << 16) + 1).is_err());
        assert!(limits(512).write_zeroes(Lba(0), 0).is_err());
    }
}
