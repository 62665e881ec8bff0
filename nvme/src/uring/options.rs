//! Which file or block device to open, and how.

use std::path::PathBuf;

/// A file or block device; see [`DeviceUri`](crate::DeviceUri) for its text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UringOptions {
    /// The file or device.
    pub path: PathBuf,
    /// Size of a logical block in bytes: 512 or 4096.
    pub block_size: u32,
    /// Create or extend the file to this size, a multiple of 4096.
    pub bytes: Option<u64>,
}

impl UringOptions {
    /// An existing file or device, with blocks of 4096 bytes.
    pub fn new(path: PathBuf) -> UringOptions {
        UringOptions { path, block_size: 4096, bytes: None }
    }
}
