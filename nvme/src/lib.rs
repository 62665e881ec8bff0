//! Queue pairs on NVMe namespaces, from user space.
//!
//! | to find | look in |
//! | --- | --- |
//! | what every backend offers | `contract`, `status`, `counters` |
//! | which device, which backend, and who may use it | `uri`, `open`, `claim` |
//! | capacities | `config` |
//! | wire formats, each with its section of the specification | `submission_entry`, `completion_entry`, `prp`, `registers`, `identify` |
//! | the driver half of the protocol, for any controller | `driver`, `controller`, `bring_up`, `admin_queue`, `submission_queue`, `completion_queue`, `queue_memory`, `command_table`, `compose`, `limits`, and its seam to a controller: `bus` |
//! | a controller in software | `emulated` |
//! | files, block devices and namespaces through the kernel | `uring` |
//! | a controller behind VFIO | `vfio` |
//! | a controller that SPDK drives | `spdk` |
//!
//! A queue pair belongs to one thread. [`QueuePair::submit`], [`QueuePair::ring`] and
//! [`QueuePair::poll`] allocate nothing, lock nothing and, but for io_uring and for waking a
//! sleeping controller thread, make no system calls.
//!
//! ```
//! use culvert_memory::{Pool, PoolOptions};
//! use culvert_nvme::{Lba, OpenOptions, Operation, QueuePair, Submission, Tag, open};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new(&PoolOptions::default())?;
//! let mut pair = open(&"emulated:1MiB".parse()?, &OpenOptions::default())?;
//! for region in pool.regions() {
//!     pair.register(region)?;
//! }
//! let mut page = pool.acquire(1).expect("a fresh pool has pages");
//! page.copy_from_slice(0, b"hello");
//! let write = Operation::Write { lba: Lba(3), pages: page.freeze(), fua: false };
//! pair.submit(Submission { tag: Tag(1), operation: write }).expect("the queue is empty");
//! pair.ring();
//! while pair.in_flight() > 0 {
//!     pair.poll(16, &mut |completion| {
//!         assert_eq!(completion.tag, Tag(1));
//!         assert!(completion.status.is_success(), "{}", completion.status);
//!     });
//! }
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]
#![allow(clippy::result_large_err, reason = "a refused submission goes back unboxed")]

mod admin_queue;
mod bring_up;
mod bus;
mod claim;
mod command_table;
mod completion_entry;
mod completion_queue;
mod compose;
mod config;
mod contract;
mod controller;
mod controller_error;
mod counters;
mod driver;
mod emulated;
mod events;
mod identify;
mod limits;
mod open;
mod prp;
mod queue_memory;
mod registers;
#[cfg(feature = "spdk")]
mod spdk;
mod status;
mod submission_entry;
mod submission_queue;
mod uri;
mod uring;
mod vfio;

pub use claim::{Access, DeviceClaim, Holder};
pub use config::{
    CACHE_BLOCKS_DEFAULT, CACHE_BLOCKS_MAX, COMMAND_TIMEOUT_DEFAULT, DEALLOCATE_RANGES_MAX,
    DEPTH_DEFAULT, DEPTH_MAX, METADATA_BYTES, REGIONS_DEFAULT, REGIONS_MAX, TRANSFER_BYTES_MAX,
    TRANSFER_PAGES_MAX, WRITE_ZEROES_BLOCKS_MAX,
};
pub use contract::{
    Completion, Lba, LbaRange, Namespace, Operation, QueuePair, RegisterError, Submission, Tag,
    Wake,
};
pub use controller_error::{ControllerError, Step};
pub use counters::Counters;
pub use emulated::{
    ANYWHERE, CommandOrder, Emulated, EmulatedOptions, FaultTarget, Faults, Loss, MediumError,
    MediumKind, Times,
};
pub use identify::{AsciiField, GeometryError};
pub use open::{AnyQueuePair, OpenError, OpenOptions, open, open_claimed};
#[cfg(feature = "spdk")]
pub use spdk::{Spdk, SpdkError, SpdkOptions};
pub use status::{CodeType, Status};
pub use uri::{Device, DeviceUri, UriError};
pub use uring::{Passthrough, Uring, UringError, UringOptions};
pub use vfio::{NoPciAddress, PciAddress, Vfio, VfioError, VfioOptions};
