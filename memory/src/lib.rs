//! Memory for devices and peers.
//!
//! Everything that a device or a peer reads or writes lies in a [`Region`]: locked, hugepage
//! memory in a memfd, registered once. From it come the handles that the rest of Culvert moves
//! around:
//!
//! | handle | what | goes back to |
//! | --- | --- | --- |
//! | [`Pool`] | the pages one reactor allocates | |
//! | [`Window`] | the pages one peer allocates: its landing window | |
//! | [`Buffer`] | unique owner of a run of pages | its pool or window, when dropped |
//! | [`Pages`] | shared, read-only users of a run | the same, with the last one |
//! | [`SharedBytes`] | rings, doorbells and registers, volatile or atomic | |
//!
//! These belong to one thread, the reactor that made them: none is `Send`. Beside them stand
//! structures that know nothing of regions: [`RingCursor`], [`SlotTable`], the mailbox [`spsc`],
//! [`CountingAllocator`], and the pinning of threads.
//!
//! It is not an allocator for general use, and it knows neither devices nor transports.
//!
//! # The way of a page
//!
//! ```
//! use culvert_memory::{Backing, Pool, PoolOptions, Window, WindowOptions};
//!
//! # fn main() -> Result<(), culvert_memory::MappingError> {
//! let pool = Pool::new(&PoolOptions { bytes: 2 << 20, ..PoolOptions::default() })?;
//! let mut buffer = pool.acquire(1).expect("a fresh pool has free pages");
//! buffer.copy_from_slice(0, b"payload");
//! let device_write = buffer.freeze();
//! let transport_write = device_write.clone(); // counted, not allocated
//! drop(device_write);
//! assert_eq!(pool.free_pages(), 511);
//! drop(transport_write); // the last user
//! assert_eq!(pool.free_pages(), 512);
//!
//! let options = WindowOptions { name: "peer".into(), pages: 8, lock: false };
//! let window = Window::create(&options)?;
//! let landed = window.claim(2, 1).expect("the peer's word is in bounds");
//! drop(landed);
//! window.poll_released(|page, pages| assert_eq!((page, pages), (2, 1)));
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod affinity;
mod bitmap;
mod buffer;
mod checksum;
mod copied;
mod counting;
mod mapping;
mod numa;
mod observed;
mod owner;
mod pages;
mod pool;
mod raw;
mod region;
mod released;
mod ring;
mod slots;
mod spsc;
mod volatile;
mod window;

pub use affinity::{AffinityError, allowed_cores, numa_node_of, pin_current_thread};
pub use buffer::Buffer;
pub use copied::page_bytes_copied;
pub use counting::{CountingAllocator, allocated_bytes, allocations};
pub use mapping::{Backing, Mapping, MappingError, MappingOptions};
pub use observed::{ObservedAllocator, observe_allocations};
pub use pages::Pages;
pub use pool::{Pool, PoolOptions};
pub use region::{Region, RegionId};
pub use ring::{CursorError, RingCursor};
pub use slots::{SlotId, SlotTable};
pub use spsc::{Consumer, Producer, spsc};
pub use volatile::{SharedBytes, device_read_barrier, device_write_barrier, full_barrier};
pub use window::{ClaimError, Window, WindowOptions};

/// Size of a page, the unit of allocation and of transfers, in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Size of a hugepage, the unit in which pools are made, in bytes.
pub const HUGE_PAGE_SIZE: usize = 2 << 20;
