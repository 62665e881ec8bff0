#![allow(unsafe_code)]
//! The data of one command, looked up from its PRPs.
//!
//! NVM Express Base Specification 2.0, section 4.1.1, from the controller's side: entry 1, then
//! entry 2 or the list it points at. A list that reaches the end of its page goes on in the page
//! its last entry names. Everything is looked up before any byte moves, so a command with a bad
//! address transfers nothing.

use std::ptr::NonNull;

use culvert_memory::PAGE_SIZE;

use super::host_memory::{HostBytes, HostMemory};
use crate::config::TRANSFER_PAGES_MAX;
use crate::prp::PrpPair;
use crate::status::Status;

const PAGE: u64 = PAGE_SIZE as u64;

/// A run of adjacent host bytes, kept apart from the borrow that proved it mapped.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    bytes: usize,
}

/// Room for the segments of one command; used again for each.
#[derive(Debug)]
pub(super) struct Segments {
    segments: Vec<Segment>,
}

impl Segments {
    pub(super) fn new() -> Segments {
        // A transfer that starts inside a page touches one page more.
        Segments { segments: Vec::with_capacity(TRANSFER_PAGES_MAX as usize + 1) }
    }

    /// Looks up the `bytes` bytes, not zero, that `prps` describe. Adjacent pages are joined.
    pub(super) fn resolve(
        &mut self,
        prps: PrpPair,
        bytes: usize,
        memory: &HostMemory,
    ) -> Result<(), Status> {
        self.segments.clear();
        // Entry 1 may point inside a page, at a dword.
        if !prps.prp1.is_multiple_of(4) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        let first = bytes.min((PAGE - prps.prp1 % PAGE) as usize);
        self.push(prps.prp1, first, memory)?;
        let rest = bytes - first;
        match rest.div_ceil(PAGE_SIZE) {
            0 => Ok(()),
            1 => self.push_page(prps.prp2, rest, memory),
            pages => self.resolve_list(prps.prp2, pages, rest, memory),
        }
    }

    /// Visits the segments in order.
    #[inline]
    pub(super) fn for_each(&self, memory: &HostMemory, mut visit: impl FnMut(HostBytes<'_>)) {
        for segment in &self.segments {
            let bytes = memory.translate(segment.address, segment.bytes);
            visit(bytes.expect("looked up under the same borrow of the command's memory"));
        }
    }

    fn resolve_list(
        &mut self,
        list: u64,
        pages: usize,
        mut rest: usize,
        memory: &HostMemory,
    ) -> Result<(), Status> {
        if !list.is_multiple_of(8) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        let mut at = list;
        for index in 0..pages {
            let last_of_list_page = at % PAGE == PAGE - 8;
            if last_of_list_page && index + 1 < pages {
                at = read_entry(at, memory)?;
                if !at.is_multiple_of(PAGE) {
                    return Err(Status::INVALID_PRP_OFFSET);
                }
            }
            let page = read_entry(at, memory)?;
            let bytes = rest.min(PAGE_SIZE);
            self.push_page(page, bytes, memory)?;
            rest -= bytes;
            at += 8;
        }
        Ok(())
    }

    fn push_page(&mut self, page: u64, bytes: usize, memory: &HostMemory) -> Result<(), Status> {
        if !page.is_multiple_of(PAGE) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        self.push(page, bytes, memory)
    }

    #[inline]
    fn push(&mut self, address: u64, bytes: usize, memory: &HostMemory) -> Result<(), Status> {
        memory.translate(address, bytes).ok_or(Status::DATA_TRANSFER_ERROR)?;
        if let Some(previous) = self.segments.last_mut() {
            let adjacent = previous.address + previous.bytes as u64 == address;
            // Two regions may be adjacent by chance; a segment stays inside one.
            if adjacent && memory.translate(previous.address, previous.bytes + bytes).is_some() {
                previous.bytes += bytes;
                return Ok(());
            }
        }
        if self.segments.len() == self.segments.capacity() {
            return Err(Status::INVALID_FIELD);
        }
        self.segments.push(Segment { address, bytes });
        Ok(())
    }
}

/// Reads one list entry.
fn read_entry(address: u64, memory: &HostMemory) -> Result<u64, Status> {
    let entry = memory.translate(address, 8).ok_or(Status::DATA_TRANSFER_ERROR)?;
    let entry: NonNull<u64> = entry.pointer().cast();
    // SAFETY: the eight bytes are mapped (see `HostBytes`) and aligned by the checks of `list` and
    // `at`; the driver half does not write them while the command is in flight. Volatile, since
    // they are another's memory.
    let value = unsafe { entry.read_volatile() };
    Ok(u64::from_le(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of host memory, aligned.
    struct Host {
        words: Vec<u64>,
        memory: HostMemory,
    }

    impl Host {
        fn new(pages: usize) -> Host {
            let mut words = vec![0u64; (pages + 1) * PAGE_SIZE / 8];
            let mut memory = HostMemory::default();
            let base = NonNull::new(words.as_mut_ptr().cast::<u8>()).expect("not at zero");
            let skip = base.as_ptr().align_offset(PAGE_SIZE);
            // SAFETY: one page more than needed was allocated for the alignment.
            let base = unsafe { base.add(skip) };
            // SAFETY: the words live as long as the memory that refers to them.
            unsafe { memory.insert(base, pages * PAGE_SIZE) };
            Host { words, memory }
        }

        fn page(&self, page: usize) -> u64 {
            let base = self.words.as_ptr() as u64;
            base.next_multiple_of(PAGE) + page as u64 * PAGE
        }

        fn write(&mut self, address: u64, value: u64) {
            let index = (address - self.words.as_ptr() as u64) / 8;
            self.words[index as usize] = value.to_le();
        }

        fn resolve(&self, prp1: u64, prp2: u64, bytes: usize) -> Result<Vec<(u64, usize)>, Status> {
            let mut segments = Segments::new();
            segments.resolve(PrpPair { prp1, prp2 }, bytes, &self.memory)?;
            let mut found = Vec::new();
            segments.for_each(&self.memory, |bytes| {
                found.push((bytes.pointer().as_ptr() as u64, bytes.len()));
            });
            Ok(found)
        }
    }

    #[test]
    fn one_and_two_pages_need_no_list() {
        let host = Host::new(8);
        let (a, b) = (host.page(1), host.page(4));
        assert_eq!(host.resolve(a, 0, 4096), Ok(vec![(a, 4096)]));
        assert_eq!(host.resolve(a + 512, 0, 512), Ok(vec![(a + 512, 512)]));
        assert_eq!(host.resolve(a, b, 8192), Ok(vec![(a, 4096), (b, 4096)]));
        assert_eq!(host.resolve(a, host.page(2), 8192), Ok(vec![(a, 8192)]));
        assert_eq!(host.resolve(a + 2, 0, 512), Err(Status::INVALID_PRP_OFFSET));
        assert_eq!(host.resolve(a, b + 8, 8192), Err(Status::INVALID_PRP_OFFSET));
        assert_eq!(host.resolve(a, host.page(8), 8192), Err(Status::DATA_TRANSFER_ERROR));
        assert_eq!(host.resolve(0, 0, 512), Err(Status::DATA_TRANSFER_ERROR));
    }

    #[test]
    fn a_list_names_further_pages() {
        let mut host = Host::new(8);
        let list = host.page(7) + 64;
        let (a, b, c) = (host.page(1), host.page(5), host.page(3));
        host.write(list, b);
        host.write(list + 8, c);
        let found = host.resolve(a + 4092, list, 4 + 4096 + 100);
        assert_eq!(found, Ok(vec![(a + 4092, 4), (b, 4096), (c, 100)]));
        host.write(list + 8, 0);
        assert_eq!(host.resolve(a, list, 3 * 4096), Err(Status::DATA_TRANSFER_ERROR));
        assert_eq!(host.resolve(a, list + 4, 3 * 4096), Err(Status::INVALID_PRP_OFFSET));
    }

    #[test]
    fn a_list_goes_on_in_the_page_its_last_entry_names() {
        let mut host = Host::new(8);
        let (first, second) = (host.page(7) + 4096 - 16, host.page(6));
        host.write(first, host.page(5));
        host.write(first + 8, second);
        host.write(second, host.page(3));
        host.write(second + 8, host.page(1));
        let a = host.page(0);
        let expected =
            vec![(a, 4096), (host.page(5), 4096), (host.page(3), 4096), (host.page(1), 4096)];
        assert_eq!(host.resolve(a, first, 4 * 4096), Ok(expected));
        // When the page ends with the list, its last entry is a data page.
        host.write(first + 8, host.page(3));
        let expected = vec![(a, 4096), (host.page(5), 4096), (host.page(3), 4096)];
        assert_eq!(host.resolve(a, first, 3 * 4096), Ok(expected));
    }
}
