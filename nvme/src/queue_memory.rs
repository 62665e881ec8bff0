#![allow(unsafe_code)]
//! The driver half's own memory that a controller reads and writes: of the controller as a whole
//! ([`AdminMemory`]), and of each queue pair ([`QueueMemory`]).
//!
//! Each is one region, mapped for the device as long as anybody uses it:
//!
//! ```text
//! AdminMemory                           QueueMemory
//! page 0   admin submission queue       page 0 ..   I/O submission queue, 64 bytes an entry
//! page 1   admin completion queue       behind it   I/O completion queue, 16 bytes an entry
//! page 2   answer of Identify           behind it   one page per command: its PRP list, or the
//!                                                   ranges of its deallocation
//! ```
//!
//! Example: depth 128 makes rings of 129 entries, so 3 + 1 + 128 pages are 132 (528 KiB).

use std::ptr::NonNull;

use culvert_memory::{Backing, Mapping, MappingError, MappingOptions, PAGE_SIZE, Region};

use crate::bus::Bus;
use crate::completion_entry::CompletionEntry;
use crate::compose::UnnamedMetadata;
use crate::config::METADATA_BYTES;
use crate::contract::{LbaRange, Namespace};
use crate::controller_error::ControllerError;
use crate::prp::{self, LIST_ENTRIES_MAX};
use crate::submission_entry::{CommandId, DatasetRange, SubmissionEntry};

const ADMIN_SUBMISSION_PAGE: usize = 0;
const ADMIN_COMPLETION_PAGE: usize = 1;
const IDENTIFY_PAGE: usize = 2;
const ADMIN_PAGES: usize = 3;

/// Pages that a controller can reach.
#[derive(Debug)]
struct DevicePages {
    region: Region,
    /// Where the device finds page 0.
    device_base: u64,
}

/// Memory of the driver half itself, filled with zeroes.
pub(crate) fn own_region(bytes: usize) -> Result<Region, MappingError> {
    own_mapping(bytes).map(Region::shared)
}

/// The same, for whoever shares it between threads.
pub(crate) fn own_mapping(bytes: usize) -> Result<Mapping, MappingError> {
    Mapping::create(&MappingOptions {
        name: String::from("culvert-nvme-queues"),
        bytes,
        backing: Backing::Ordinary,
        lock: true,
        ..MappingOptions::default()
    })
}

impl DevicePages {
    fn new(pages: usize) -> Result<DevicePages, MappingError> {
        let region = own_region(pages * PAGE_SIZE)?;
        debug_assert!(region.page_count() as usize >= pages, "the mapping holds what was asked");
        Ok(DevicePages { region, device_base: 0 })
    }

    fn map(&mut self, bus: &mut impl Bus) -> Result<(), ControllerError> {
        bus.map_own(&self.region).map_err(|_| {
            if bus.is_gone() { ControllerError::Gone } else { ControllerError::QueueMemory }
        })?;
        let base = bus.device_address(self.region.base(), self.region.len());
        self.device_base = base.ok_or(ControllerError::QueueMemory)?;
        debug_assert!(self.device_base.is_multiple_of(PAGE_SIZE as u64), "regions start at a page");
        Ok(())
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

/// Admin queues and the identify page of one controller, in memory that its buses keep
/// ([`Bus::admin_memory`]): to be used while one of them lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdminMemory {
    base: NonNull<u8>,
    device_base: u64,
}

// SAFETY: the pages belong to the controller and to no thread.
unsafe impl Send for AdminMemory {}

impl AdminMemory {
    /// Takes the memory of a bus.
    ///
    /// # Errors
    ///
    /// When there is none, or it could not be mapped for the device.
    pub(crate) fn of(bus: &mut impl Bus) -> Result<AdminMemory, ControllerError> {
        let (base, device_base) = bus.admin_memory(ADMIN_PAGES * PAGE_SIZE)?;
        Ok(AdminMemory { base, device_base })
    }

    /// The admin submission queue and where the device finds it.
    pub(crate) fn submission(&self) -> (NonNull<SubmissionEntry>, u64) {
        self.at(ADMIN_SUBMISSION_PAGE)
    }

    /// The admin completion queue and where the device finds it.
    pub(crate) fn completion(&self) -> (NonNull<CompletionEntry>, u64) {
        self.at(ADMIN_COMPLETION_PAGE)
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

    fn at<T>(&self, page: usize) -> (NonNull<T>, u64) {
        debug_assert!(page < ADMIN_PAGES);
        let offset = page * PAGE_SIZE;
        // SAFETY: the bus was asked for so many pages.
        let pointer = unsafe { self.base.add(offset) };
        (pointer.cast(), self.device_base + offset as u64)
    }
}

/// Rings and lists of one queue pair.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    pages: DevicePages,
    entries: u16,
    completion_page: usize,
    lists_page: usize,
    lists: u16,
    /// Where metadata of commands come from and go to, where the namespace has them: a page for those
    /// of each command that names some, behind them the unnamed.
    metadata: Option<DevicePages>,
}

impl QueueMemory {
    /// Memory for I/O rings of `depth + 1` entries, not mapped yet.
    ///
    /// # Errors
    ///
    /// When the memory cannot be allocated.
    pub(crate) fn new(depth: u16) -> Result<QueueMemory, MappingError> {
        let entries = depth + 1;
        let pages_of = |bytes: usize| bytes.div_ceil(PAGE_SIZE);
        let completion_page = pages_of(usize::from(entries) * size_of::<SubmissionEntry>());
        let completion_pages = pages_of(usize::from(entries) * size_of::<CompletionEntry>());
        let lists_page = completion_page + completion_pages;
        let pages = DevicePages::new(lists_page + usize::from(depth))?;
        Ok(QueueMemory {
            pages,
            entries,
            completion_page,
            lists_page,
            lists: depth,
            metadata: None,
        })
    }

    /// Makes it reachable for the device.
    pub(crate) fn map(&mut self, bus: &mut impl Bus) -> Result<(), ControllerError> {
        self.pages.map(bus)
    }

    /// Makes memory for metadata, those of the largest transfer among them, where there are any.
    pub(crate) fn map_metadata(
        &mut self,
        bus: &mut impl Bus,
        namespace: &Namespace,
    ) -> Result<UnnamedMetadata, ControllerError> {
        let blocks = namespace.transfer_bytes_max / namespace.block_size;
        let bytes = blocks as usize * namespace.metadata_bytes as usize;
        if bytes == 0 {
            return Ok(UnnamedMetadata::default());
        }
        let (named, unnamed) = (usize::from(self.lists), bytes.div_ceil(PAGE_SIZE));
        let pages = DevicePages::new(named + 2 * unnamed);
        let metadata = self.metadata.insert(pages.map_err(|_| ControllerError::QueueMemory)?);
        metadata.map(bus)?;
        Ok(UnnamedMetadata {
            read: metadata.at::<u8>(named).1,
            written: metadata.at::<u8>(named + unnamed).1,
        })
    }

    /// Writes the metadata of the block that a command writes, and returns their address. What the
    /// namespace has more of stays zero.
    pub(crate) fn write_metadata(&mut self, id: CommandId, bytes: &[u8; METADATA_BYTES]) -> u64 {
        assert!(id.0 < self.lists, "command identifiers are below the depth");
        let pages = self.metadata.as_ref().expect("the namespace has metadata");
        let (page, address) = pages.at::<[u8; METADATA_BYTES]>(usize::from(id.0));
        // SAFETY: the page belongs to this command alone, and the controller does not read it before
        // the doorbell says so.
        unsafe { page.write(*bytes) };
        address
    }

    /// Takes it away from the device.
    #[cfg(test)]
    pub(crate) fn unmap(&self, bus: &mut impl Bus) {
        bus.unmap(&self.pages.region);
    }

    /// Keeps it from being given back, for ever.
    pub(crate) fn forget(&self) {
        std::mem::forget(self.pages.region.clone());
        std::mem::forget(self.metadata.as_ref().map(|pages| pages.region.clone()));
    }

    /// Entries of each I/O ring.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// The I/O submission queue and where the device finds it.
    pub(crate) fn submission(&self) -> (NonNull<SubmissionEntry>, u64) {
        self.pages.at(0)
    }

    /// The I/O completion queue and where the device finds it.
    pub(crate) fn completion(&self) -> (NonNull<CompletionEntry>, u64) {
        self.pages.at(self.completion_page)
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
        self.pages.at(self.lists_page + usize::from(id.0))
    }
}
