//! The frames of one class as they come in: messages are pieces of a stream of records.

use crate::Violation;
use crate::envelope::{HEADER_BYTES, Header};

/// Bytes that came and were not taken.
#[derive(Debug, Default)]
pub(super) struct Lane {
    bytes: Vec<u8>,
    start: usize,
    /// Messages whose slots are kept back because too much waits.
    kept: u32,
}

impl Lane {
    /// A lane with room for `bytes` bytes without growing.
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), start: 0, kept: 0 }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Takes a message in. Returns how many slots may be given back: none while more than
    /// `bytes_max` bytes wait, which is more than a record has.
    pub(super) fn push(&mut self, message: &[u8], bytes_max: usize) -> u32 {
        if self.start > 0 && self.bytes.capacity() - self.bytes.len() < message.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(message);
        self.kept += 1;
        self.free_slots(bytes_max)
    }

    fn free_slots(&mut self, bytes_max: usize) -> u32 {
        if self.waiting() <= bytes_max { std::mem::take(&mut self.kept) } else { 0 }
    }

    /// Copies the oldest record to `record`. `None` when it is not whole; else how many slots may
    /// be given back now.
    pub(super) fn pop(
        &mut self,
        record_bytes_max: usize,
        bytes_max: usize,
        record: &mut Vec<u8>,
    ) -> Result<Option<u32>, Violation> {
        let rest = &self.bytes[self.start..];
        let Some(head) = rest.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let bytes = Header::parse(*head, record_bytes_max)?.padded();
        if rest.len() < bytes {
            return Ok(None);
        }
        record.clear();
        record.extend_from_slice(&rest[..bytes]);
        self.advance(bytes);
        Ok(Some(self.free_slots(bytes_max)))
    }

    /// Copies bytes that are no records; how many.
    pub(super) fn take(&mut self, target: &mut [u8]) -> usize {
        let bytes = target.len().min(self.waiting());
        target[..bytes].copy_from_slice(&self.bytes[self.start..self.start + bytes]);
        self.advance(bytes);
        bytes
    }

    fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::envelope::Kind;

    fn record(body: &[u8]) -> Vec<u8> {
        let header = Header::new(Kind::Data, 0, body.len());
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(header.padded(), 0);
        bytes
    }

    #[test]
    fn records_come_out_of_pieces() {
        let mut lane = Lane::new(64);
        let stream: Vec<u8> = [record(b"first"), record(&[7; 100]), record(b"")].concat();
        let mut out = Vec::new();
        let mut seen = Vec::new();
        for piece in stream.chunks(9) {
            assert_eq!(lane.push(piece, 1 << 10), 1);
            while lane.pop(256, 1 << 10, &mut out).expect("good records").is_some() {
                seen.push(out.clone());
            }
        }
        assert_eq!(seen, [record(b"first"), record(&[7; 100]), record(b"")]);
        assert!(lane.is_empty());
    }

    #[test]
    fn slots_are_kept_back_while_too_much_waits() {
        let mut lane = Lane::new(64);
        let one = record(&[1; 56]);
        assert_eq!(lane.push(&one, 100), 1);
        assert_eq!(lane.push(&one, 100), 0, "128 bytes wait");
        assert_eq!(lane.push(&one, 100), 0);
        let mut out = Vec::new();
        assert_eq!(lane.pop(256, 100, &mut out), Ok(Some(0)));
        assert_eq!(lane.pop(256, 100, &mut out), Ok(Some(2)));
        assert_eq!(lane.pop(256, 100, &mut out), Ok(Some(0)));
        assert_eq!(lane.pop(256, 100, &mut out), Ok(None));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_there() {
        let mut lane = Lane::new(64);
        lane.push(&record(&[0; 200])[..16], 1 << 10);
        assert!(lane.pop(128, 1 << 10, &mut Vec::new()).is_err());
    }
}
