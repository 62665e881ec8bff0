//! The head of a batch. Byte map: `docs/format/transport.md`.
//!
//! ```text
//! | prefix 16 | first 240 bytes of the frames | rest of the frames | payload pages ... |
//! ```
//!
//! The head has a fixed size, so that it is read together with the payload of the batch before it,
//! and small batches are whole with one read.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Violation;
use crate::config::{BATCH_FRAMES_BYTES_MAX, BATCH_HEAD_BYTES};

/// `CVB1` on the wire.
const MAGIC: u32 = u32::from_le_bytes(*b"CVB1");

/// Bytes of the prefix.
pub(crate) const PREFIX_BYTES: usize = size_of::<Prefix>();

/// Bytes of frames that travel in the head.
pub(crate) const INLINE_BYTES: usize = BATCH_HEAD_BYTES - PREFIX_BYTES;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Prefix {
    magic: U32,
    frames_bytes: U32,
    payload_pages: U32,
    /// CRC-32C over the twelve bytes before it and all frames.
    crc: U32,
}

const _: () = assert!(PREFIX_BYTES == 16);

/// The sizes of a batch, read from its prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchSize {
    /// Bytes of all frames, a multiple of 8.
    pub(crate) frames: usize,
    pub(crate) payload_pages: u32,
}

/// Completes a batch: `bytes` has room for the prefix and then all frames. The checksum is
/// computed, and the frames are padded to the size of the head.
pub(crate) fn seal(bytes: &mut Vec<u8>, payload_pages: u32) {
    let frames = bytes.len() - PREFIX_BYTES;
    debug_assert!(frames <= BATCH_FRAMES_BYTES_MAX);
    let mut prefix = Prefix {
        magic: U32::new(MAGIC),
        frames_bytes: U32::new(frames as u32),
        payload_pages: U32::new(payload_pages),
        crc: U32::ZERO,
    };
    prefix.crc = U32::new(checksum(&prefix, &bytes[PREFIX_BYTES..]));
    bytes[..PREFIX_BYTES].copy_from_slice(prefix.as_bytes());
    if bytes.len() < BATCH_HEAD_BYTES {
        bytes.resize(BATCH_HEAD_BYTES, 0);
    }
}

/// Reads the sizes from a head.
pub(crate) fn open(head: &[u8; BATCH_HEAD_BYTES]) -> Result<BatchSize, Violation> {
    let prefix = prefix_of(head);
    if prefix.magic.get() != MAGIC {
        return Err(Violation::BatchMagic);
    }
    let frames = prefix.frames_bytes.get();
    if frames as usize > BATCH_FRAMES_BYTES_MAX || frames == 0 || !frames.is_multiple_of(8) {
        return Err(Violation::BatchTooLong { bytes: frames });
    }
    Ok(BatchSize { frames: frames as usize, payload_pages: prefix.payload_pages.get() })
}

/// Checks the checksum of a batch whose frames have all come in.
pub(crate) fn verify(head: &[u8; BATCH_HEAD_BYTES], frames: &[u8]) -> Result<(), Violation> {
    let prefix = prefix_of(head);
    if checksum(&prefix, frames) == prefix.crc.get() {
        Ok(())
    } else {
        Err(Violation::BatchChecksum)
    }
}

fn prefix_of(head: &[u8; BATCH_HEAD_BYTES]) -> Prefix {
    let bytes: [u8; PREFIX_BYTES] = *head.first_chunk().expect("a head is longer than its prefix");
    zerocopy::transmute!(bytes)
}

fn checksum(prefix: &Prefix, frames: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&prefix.as_bytes()[..12]), frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(frames: &[u8], pages: u32) -> Vec<u8> {
        let mut bytes = vec![0; PREFIX_BYTES];
        bytes.extend_from_slice(frames);
        seal(&mut bytes, pages);
        bytes
    }

    #[test]
    fn bytes_are_fixed() {
        let bytes = sealed(&[7; 8], 3);
        assert_eq!(bytes.len(), BATCH_HEAD_BYTES);
        assert_eq!(&bytes[..12], b"CVB1\x08\0\0\0\x03\0\0\0");
        assert_eq!(bytes[12..16], [154, 109, 228, 150]);
        assert_eq!(&bytes[16..24], &[7; 8]);
        assert!(bytes[24..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn opens_what_it_sealed() {
        for frames in [8, 240, 248, 4096] {
            let content: Vec<u8> = (0..frames).map(|index| index as u8).collect();
            let bytes = sealed(&content, 2);
            let head = bytes.first_chunk().expect("a head");
            assert_eq!(open(head), Ok(BatchSize { frames, payload_pages: 2 }));
            assert_eq!(verify(head, &content), Ok(()));
            assert_eq!(verify(head, &content[8..]), Err(Violation::BatchChecksum));
        }
    }

    #[test]
    fn refuses_lies() {
        let good = sealed(&[7; 8], 3);
        for (at, value, expected) in [
            (0, 0, Violation::BatchMagic),
            (4, 9, Violation::BatchTooLong { bytes: 9 }),
            (4, 0, Violation::BatchTooLong { bytes: 0 }),
            (7, 1, Violation::BatchTooLong { bytes: 0x0100_0008 }),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(open(bytes.first_chunk().expect("a head")), Err(expected), "byte {at}");
        }
        let mut bytes = good.clone();
        bytes[8] = 4;
        assert_eq!(
            verify(bytes.first_chunk().expect("a head"), &[7; 8]),
            Err(Violation::BatchChecksum)
        );
    }
}
