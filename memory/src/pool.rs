//! The pages that one reactor allocates for itself.
//!
//! A [`Pool`] is one locked region, allocated and registered up front, from which single pages
//! and runs of adjacent pages are taken in a few nanoseconds. An empty pool is a normal answer.
//! It is not a general allocator: a run is never moved, so a pool that is nearly full of single
//! pages may refuse a long run although enough pages are free.

use std::rc::Rc;

use crate::bitmap::PageBitmap;
use crate::mapping::{Backing, Mapping, MappingError, MappingOptions};
use crate::owner::{Keeper, PageOwner};
use crate::region::{Region, Sharing};
use crate::{Buffer, HUGE_PAGE_SIZE};

/// How to create a [`Pool`].
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Name shown in `/proc/PID/maps`.
    pub name: String,
    /// Size in bytes, rounded up to 2 MiB.
    pub bytes: usize,
    /// Kind of pages.
    pub backing: Backing,
    /// NUMA node preferred: the one of the core that owns the pool.
    pub numa_node: Option<u32>,
    /// Lock the pages into memory.
    pub lock: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            name: String::from("culvert-pool"),
            bytes: HUGE_PAGE_SIZE,
            backing: Backing::HugeOrOrdinary,
            numa_node: None,
            lock: true,
        }
    }
}

/// A pool of pages; cloning shares it.
#[derive(Clone, Debug)]
pub struct Pool {
    owner: Rc<PageOwner>,
}

impl Pool {
    /// Allocates the memory of a pool.
    ///
    /// # Errors
    ///
    /// As [`Mapping::create`]; more than 2^32 - 1 pages are [`MappingError::InvalidSize`].
    pub fn new(options: &PoolOptions) -> Result<Pool, MappingError> {
        let bytes = options.bytes;
        let rounded = bytes
            .checked_next_multiple_of(HUGE_PAGE_SIZE)
            .filter(|rounded| rounded / crate::PAGE_SIZE < u32::MAX as usize)
            .ok_or(MappingError::InvalidSize { bytes })?;
        let mapping = Mapping::create(&MappingOptions {
            name: options.name.clone(),
            bytes: rounded,
            backing: options.backing,
            numa_node: options.numa_node,
            lock: options.lock,
            populate: true,
            seal: true,
        })?;
        let region = Region::new(mapping, Sharing::Private);
        let pages = region.page_count();
        let keeper = Keeper::Pool(PageBitmap::new(pages));
        let owner = Rc::new(PageOwner::new(region, 0, pages, true, keeper));
        Ok(Pool { owner })
    }

    /// Takes a run of `pages` adjacent pages; `None` when there is none, or for zero pages.
    ///
    /// The bytes are what their last user left there.
    #[inline]
    pub fn acquire(&self, pages: u32) -> Option<Buffer> {
        let page = self.bitmap().acquire(pages)?;
        Some(Buffer::new(Rc::clone(&self.owner), page, pages))
    }

    /// Number of free pages.
    pub fn free_pages(&self) -> u32 {
        self.bitmap().free()
    }

    /// Number of pages, free or not.
    pub fn total_pages(&self) -> u32 {
        self.owner.page_count()
    }

    /// The regions of the pool, to be registered with devices and transports. There is one.
    pub fn regions(&self) -> &[Region] {
        std::slice::from_ref(self.owner.region())
    }

    fn bitmap(&self) -> &PageBitmap {
        match self.owner.keeper() {
            Keeper::Pool(bitmap) => bitmap,
            Keeper::Window(_) => unreachable!("a pool is kept by its bitmap"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
