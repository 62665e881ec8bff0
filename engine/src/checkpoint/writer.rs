//! Writing: a stream of bytes into pages.

use super::page::{PAGE_BODY_BYTES, PAGE_HEADER_BYTES, seal_page};
use crate::device::{CheckpointPlace, Salt};
use crate::ids::BLOCK_SIZE;

/// The state of a checkpoint that is being written, apart from its memory.
///
/// The caller brings a run of pages, puts bytes until [`StreamWriter::put`] takes no more, takes
/// [`StreamWriter::pages`] for the device and brings the next run.
#[derive(Clone, Copy, Debug)]
pub struct StreamWriter {
    salt: Salt,
    number: u64,
    /// Pages in runs that were taken.
    taken: u32,
    /// Full pages in the run at hand.
    full: u32,
    /// Bytes of the stream in the page being filled.
    filled: usize,
    pages_crc: u32,
}

impl StreamWriter {
    /// A stream that begins with page 0.
    #[must_use]
    pub fn new(number: u64, salt: Salt) -> StreamWriter {
        StreamWriter { salt, number, taken: 0, full: 0, filled: 0, pages_crc: 0 }
    }

    /// Goes on behind a stream that was ended.
    #[must_use]
    pub fn resume(place: &CheckpointPlace, salt: Salt) -> StreamWriter {
        let CheckpointPlace { number, pages, pages_crc, .. } = *place;
        StreamWriter { taken: pages, pages_crc, ..StreamWriter::new(number, salt) }
    }

    /// Puts bytes into the run at hand; returns how many fitted.
    pub fn put(&mut self, run: &mut [u8], bytes: &[u8]) -> usize {
        let run_pages = (run.len() / BLOCK_SIZE) as u32;
        let mut rest = bytes;
        while !rest.is_empty() && self.full < run_pages {
            let page = self.full as usize * BLOCK_SIZE;
            let (now, later) = rest.split_at(rest.len().min(PAGE_BODY_BYTES - self.filled));
            let at = page + PAGE_HEADER_BYTES + self.filled;
            run[at..at + now.len()].copy_from_slice(now);
            self.filled += now.len();
            rest = later;
            if self.filled == PAGE_BODY_BYTES {
                self.seal_page(run);
            }
        }
        bytes.len() - rest.len()
    }

    /// Ends the stream: seals its last page.
    pub fn finish(&mut self, run: &mut [u8]) {
        if self.filled > 0 {
            self.seal_page(run);
        }
    }

    fn seal_page(&mut self, run: &mut [u8]) {
        let page = self.full as usize * BLOCK_SIZE;
        let number = self.taken + self.full;
        let page = &mut run[page..page + BLOCK_SIZE];
        let crc = seal_page(page, self.number, number, self.filled, self.salt);
        self.pages_crc = crc32c::crc32c_append(self.pages_crc, &crc.to_le_bytes());
        self.full += 1;
        self.filled = 0;
    }

    /// Full pages in the run at hand.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.full
    }

    /// Number of the first page of the run at hand.
    #[must_use]
    pub fn first_page(&self) -> u32 {
        self.taken
    }

    /// Takes the full pages; the next run is another one.
    ///
    /// # Panics
    ///
    /// If a page is only partly filled: its bytes would be lost.
    pub fn take(&mut self) {
        assert_eq!(self.filled, 0, "pages are taken when they are full");
        self.taken += self.full;
        self.full = 0;
    }

    /// Where the finished stream lies and how to know it.
    #[must_use]
    pub fn place(&self, area: u32) -> CheckpointPlace {
        CheckpointPlace { area, number: self.number, pages: self.taken, pages_crc: self.pages_crc }
    }
}
