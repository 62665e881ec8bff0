//! A mapping seen as numbered pages.
//!
//! A [`Region`] is what is registered with devices and transports: one address range, one file,
//! one number. It is a cheap handle; the memory stays mapped until the last handle, buffer or
//! view of it is gone.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Mapping, PAGE_SIZE};

/// Number of a region, unique in the process and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub u32);

/// Who can write a region besides this process's own handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Only this process, and devices while they hold a buffer.
    Private,
    /// Another process or machine, at any time: its bytes are never seen as a slice.
    Peer,
}

/// A mapping cut into pages of [`PAGE_SIZE`]; cloning shares it.
#[derive(Clone, Debug)]
pub struct Region(Rc<RegionInner>);

#[derive(Debug)]
struct RegionInner {
    id: RegionId,
    mapping: Mapping,
    page_count: u32,
    sharing: Sharing,
}

impl Region {
    /// Makes a region of a mapping: all of its whole pages.
    ///
    /// Such a region counts as shared with a peer. A private one, whose buffers can be seen as
    /// slices, comes only from [`Pool::new`](crate::Pool::new), which knows every user of the
    /// mapping that it made.
    ///
    /// # Panics
    ///
    /// When the mapping has more than 2^32 - 1 pages or not even one.
    pub fn shared(mapping: Mapping) -> Region {
        Region::new(mapping, Sharing::Peer)
    }

    /// Makes a region; [`Sharing::Private`] only for a mapping nobody else has seen.
    pub(crate) fn new(mapping: Mapping, sharing: Sharing) -> Region {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let page_count = u32::try_from(mapping.len() / PAGE_SIZE).expect("at most 2^32 - 1 pages");
        assert!(page_count > 0, "a region has at least one page");
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        assert!(id < u32::MAX, "region numbers are used up");
        Region(Rc::new(RegionInner { id: RegionId(id), mapping, page_count, sharing }))
    }

    /// Number of the region.
    pub fn id(&self) -> RegionId {
        self.0.id
    }

    /// Number of pages of [`PAGE_SIZE`] bytes.
    pub fn page_count(&self) -> u32 {
        self.0.page_count
    }

    /// Address of page 0.
    pub fn base(&self) -> NonNull<u8> {
        self.0.mapping.as_ptr()
    }

    /// Size in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.0.page_count as usize * PAGE_SIZE
    }

    /// Whether its pages are hugepages.
    pub fn is_huge(&self) -> bool {
        self.0.mapping.is_huge()
    }

    /// The file behind it, to hand to a peer or a device.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.mapping.fd()
    }

    /// Whether somebody outside this process may write the region at any time.
    pub fn shared_with_peer(&self) -> bool {
        self.0.sharing == Sharing::Peer
    }

    /// Something that keeps the memory mapped, whatever it is.
    pub(crate) fn keeper(&self) -> Rc<dyn Any> {
        self.0.clone()
    }

    /// Whether both handles name the same region.
    pub fn same_as(&self, other: &Region) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}
