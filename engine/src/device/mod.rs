//! The device: where everything lies, and the structures that say so.
//!
//! [`Layout`] plans a device and is stored in its [`DeviceHeader`]; a [`Superblock`] names the
//! newest checkpoint of one shard. `format` and `read_header` move them over a queue pair. Nothing
//! here knows what a journal or a checkpoint holds.
//!
//! Fault model: the device may hold anything. Bytes become a header or a superblock only through
//! their `parse`, which checks magic, version, checksum and every field. Byte maps:
//! `docs/format/device.md`.

mod blocking;
mod format;
mod header;
mod layout;
mod salt;
mod superblock;

pub use blocking::{Blocking, DeviceIoError};
pub(crate) use format::read_copies;
pub use format::{
    FormatError, FormatOptions, OpenDeviceError, format, read_and_mend_header, read_header,
};
pub use header::{DEVICE_VERSION, DEVICE_VERSION_METADATA, DeviceHeader, HeaderError};
pub use layout::{
    CHECKPOINT_BYTES_MIN, Layout, LayoutError, LayoutOptions, RING_BYTES_MIN, SEGMENT_DATA_SHARE,
    SHARDS_MAX, ShardLayout,
};
pub use salt::Salt;
pub use superblock::{CheckpointPlace, Superblock, SuperblockError};

/// Bytes of a device header or a superblock slot.
pub const STRUCTURE_BYTES: usize = crate::ids::BLOCK_SIZE;

#[cfg(test)]
mod tests;
