#![allow(unsafe_code)]
//! The driver half's own memory that a controller reads and writes.
//!
//! One region, mapped for the device as long as the driver lives:
//!
//! ```text
//! page 0            admin submission queue
//! page 1            admin completion queue
//! page 2            answer of Identify
//! page 3 ..         I/O submission queue, 64 bytes an entry
//! behind it         I/O completion queue, 16 bytes an entry
//! behind it         one page per command: its PRP list, or the ranges of its deallocation
//! ```
//!
//! Example: depth 128 makes rings of 129 entries, so 3 + 3 + 1 + 128 pages are 135 (540 KiB).

use std::ptr::NonNull;

use culvert_memory::{Backing, Mapping, MappingError, MappingOptions, PAGE_SIZE, Region};

use crate::completion_entry::CompletionEntry;
use crate::contract::LbaRange;
use crate::prp::{self, LIST_ENTRIES_MAX};
use crate::submission_entry::{CommandId, DatasetRange, SubmissionEntry};

const ADMIN_SUBMISSION_PAGE: usize = 0;
const ADMIN_COMPLETION_PAGE: usize = 1;
const IDENTIFY_PAGE: usize = 2;
const SUBMISSION_PAGE: usize = 3;

/// Queues, lists and the identify page of one driver.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    region: Region,
    entries: u16,
    completion_page: usize,
    lists_page: usize,
    lists: u16,
    /// Where the device finds page 0.
    device_base: u64,
}

impl QueueMemory {
    /// Memory for I/O rings of `depth + 1` entries. Its device address is set once it is mapped.
    ///
    /// # Errors
    ///
    /// When the memory cannot be allocated.
    pub(crate) fn new(depth: u16) -> Result<QueueMemory, MappingError> {
        let entries = depth + 1;
        let pages_of = |bytes: usize| bytes.div_ceil(PAGE_SIZE);
        let submission_pages = pages_of(usize::from(entries) * size_of::<SubmissionEntry>());
        let completion_pages = pages_of(usize::from(entries) * size_of::<CompletionEntry>());
        let completion_page = SUBMISSION_PAGE + submission_pages;
        let lists_page = completion_page + completion_pages;
        let pages = lists_page + usize::from(depth);
        let mapping = Mapping::create(&MappingOptions {
            name: String::from("culvert-nvme-queues"),
            bytes: pages * PAGE_SIZE,
            backing: Backing::Ordinary,
            lock: true,
            ..MappingOptions::default()
        })?;
        let region = Region::shared(mapping);
        debug_assert!(region.page_count() as usize >= pages, "the mapping holds what was asked");
        let device_base = 0;
        Ok(QueueMemory { region, entries, completion_page, lists_page, lists: depth, device_base })
    }

    /// The region, to be mapped for the device.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Says where the device finds the region.
    pub(crate) fn set_device_base(&mut self, device_base: u64) {
        debug_assert!(device_base.is_multiple_of(PAGE_SIZE as u64), "regions start at a page");
        self.device_base = device_base;
    }

    /// Entries of each I/O ring.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// The admin submission queue and where the device finds it.
    pub(crate) fn admin_submission(&self) -> (NonNull<SubmissionEntry>, u64) {
        self.at(ADMIN_SUBMISSION_PAGE)
    }

    /// The admin completion queue and where the device finds it.
    pub(crate) fn admin_completion(&self) -> (NonNull<CompletionEntry>, u64) {
        self.at(ADMIN_COMPLETION_PAGE)
    }

    /// The I/O submission queue and where the device finds it.
    pub(crate) fn submission(&self) -> (NonNull<SubmissionEntry>, u64) {
        self.at(SUBMISSION_PAGE)
    }

    /// The I/O completion queue and where the device finds it.
    pub(crate) fn completion(&self) -> (NonNull<CompletionEntry>, u64) {
        self.at(self.completion_page)
    }

    /// Where the device finds the identify page.
    pub(crate) fn identify_address(&self) -> u64 {
        self.at::<u8>(IDENTIFY_PAGE).1
    }

    /// Reads the identify page, which no command in flight may point at.
    pub(crate) fn read_identify<T: zerocopy::FromBytes>(&self) -> T {
        assert!(size_of::<T>() <= PAGE_SIZE, "identify data are one page");
        let (page, _) = self.at::<T>(IDENTIFY_PAGE);
        // SAFETY: the page is mapped and any bytes are a `T`; the controller has completed the
        // command that wrote it, so nobody writes it now.
        unsafe { page.read_unaligned() }
    }

    /// Writes the PRP list of a command, `entries` pages from `first` on, and returns its address.
    #[inline]
    pub(crate) fn write_list(&mut self, id: CommandId, first: u64, entries: usize) -> u64 {
        assert!(entries <= LIST_ENTRIES_MAX, "a list fits its page");
        let (list, address) = self.list::<u64>(id);
        for index in 0..entries {
            // SAFETY: `index` is inside the page by the check above.
            let entry = unsafe { list.add(index) };
            // SAFETY: the page belongs to this command alone, and the controller does not read it
            // before the doorbell says so.
            unsafe { entry.write(prp::list_entry(first, index)) };
        }
        address
    }

    /// Writes the ranges of a deallocation and returns their address.
    pub(crate) fn write_ranges(&mut self, id: CommandId, ranges: &[LbaRange]) -> u64 {
        assert!(size_of_val(ranges) <= PAGE_SIZE, "the ranges fit their page");
        let (list, address) = self.list::<DatasetRange>(id);
        for (index, range) in ranges.iter().enumerate() {
            // SAFETY: `index` is inside the page by the check above.
            let entry = unsafe { list.add(index) };
            // SAFETY: the page belongs to this command alone, and the controller does not read it
            // before the doorbell says so.
            unsafe { entry.write(DatasetRange::from(*range)) };
        }
        address
    }

    /// The list page of a command and where the device finds it.
    #[inline]
    fn list<T>(&self, id: CommandId) -> (NonNull<T>, u64) {
        assert!(id.0 < self.lists, "command identifiers are below the depth");
        self.at(self.lists_page + usize::from(id.0))
    }

    /// A page, in this process and for the device.
    #[inline]
    fn at<T>(&self, page: usize) -> (NonNull<T>, u64) {
        debug_assert!(page < self.region.page_count() as usize, "a page of the region");
        let offset = page * PAGE_SIZE;
        // SAFETY: every page number here was counted when the region was made.
        let pointer = unsafe { self.region.base().add(offset) };
        (pointer.cast(), self.device_base + offset as u64)
    }
}
