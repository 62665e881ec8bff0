//! Reading: pages into sections.

use super::page::{PAGE_BODY_BYTES, PageError, parse_page};
use super::section::{SECTION_HEAD_BYTES, Section, SectionError};
use crate::device::{CheckpointPlace, Salt};

/// Why a checkpoint cannot be used. It is the device's fault, except for [`CheckpointError::Section`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// A page is not what the superblock promised.
    #[error("checkpoint page {page}")]
    Page {
        /// Number of the page.
        page: u32,
        /// What is wrong with it.
        source: PageError,
    },
    /// A page could not be read.
    #[error("checkpoint page {page} cannot be read")]
    Unreadable {
        /// Number of the page.
        page: u32,
    },
    /// All pages are whole, but not the ones that the superblock names.
    #[error("the pages are not those that the superblock names")]
    Pages,
    /// The stream or an increment breaks off before its end section, or goes on behind it in the same
    /// page.
    #[error("the checkpoint does not end where it says")]
    End,
    /// A section of another version, or a bug.
    #[error("checkpoint section at page {page}")]
    Section {
        /// The page in which the section ends.
        page: u32,
        /// What is wrong with it.
        source: SectionError,
    },
}

/// Puts sections together from pages that are passed in order.
#[derive(Debug)]
pub struct StreamReader {
    salt: Salt,
    place: CheckpointPlace,
    page: u32,
    pages_crc: u32,
    /// Bytes of sections that are not complete yet.
    pending: Vec<u8>,
    /// Of the part at hand: the checkpoint, or an increment.
    copysets: u32,
    chunks: u32,
    /// Nothing follows the last end section yet.
    ended: bool,
}

impl StreamReader {
    /// A reader for the checkpoint that a superblock names.
    #[must_use]
    pub fn new(place: CheckpointPlace, salt: Salt) -> StreamReader {
        StreamReader {
            salt,
            place,
            page: 0,
            pages_crc: 0,
            pending: Vec::new(),
            copysets: 0,
            chunks: 0,
            ended: false,
        }
    }

    /// Passes the next page; `each` sees the sections that it completes.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]; nothing of the checkpoint may be used then.
    pub fn page(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Section<'_>),
    ) -> Result<(), CheckpointError> {
        let page = self.page;
        let (body, crc) = parse_page(bytes, self.place.number, page, self.salt)
            .map_err(|source| CheckpointError::Page { page, source })?;
        self.page += 1;
        let full = body.len() == PAGE_BODY_BYTES;
        self.pages_crc = crc32c::crc32c_append(self.pages_crc, &crc.to_le_bytes());
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(body);
        // An increment begins with a page.
        if std::mem::take(&mut self.ended) {
            (self.copysets, self.chunks) = (0, 0);
        }
        let mut at = 0;
        while let Some((section, end)) = self.section(&pending, at)? {
            if self.ended {
                return Err(CheckpointError::End);
            }
            match section {
                Section::Copyset(..) => self.copysets += 1,
                Section::Chunk(_) => self.chunks += 1,
                Section::End(copysets, chunks) => {
                    if (copysets, chunks) != (self.copysets, self.chunks) {
                        return Err(CheckpointError::End);
                    }
                    self.ended = true;
                }
            }
            each(section);
            at = end;
        }
        // Only behind an end section a page has room left, and nothing is there.
        if (self.ended && at < pending.len()) || !(self.ended || full) {
            return Err(CheckpointError::End);
        }
        pending.drain(..at);
        self.pending = pending;
        Ok(())
    }

    /// The complete section at `at` among the pending bytes, and where it ends.
    fn section<'p>(
        &self,
        pending: &'p [u8],
        at: usize,
    ) -> Result<Option<(Section<'p>, usize)>, CheckpointError> {
        let Some(head) = pending.get(at..at + SECTION_HEAD_BYTES) else { return Ok(None) };
        let word = |from: usize| {
            u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
        };
        let begin = at + SECTION_HEAD_BYTES;
        let end = begin + word(4) as usize;
        let Some(body) = pending.get(begin..end) else { return Ok(None) };
        let section = Section::parse(word(0), body)
            .map_err(|source| CheckpointError::Section { page: self.page - 1, source })?;
        Ok(Some((section, end)))
    }

    /// Says whether everything that the superblock promised was passed.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if not.
    pub fn finish(&self) -> Result<(), CheckpointError> {
        if self.page != self.place.pages || self.pages_crc != self.place.pages_crc {
            return Err(CheckpointError::Pages);
        }
        if !self.ended || !self.pending.is_empty() {
            return Err(CheckpointError::End);
        }
        Ok(())
    }
}
