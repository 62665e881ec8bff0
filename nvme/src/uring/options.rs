//! Which file or device to open, and how.

use std::path::PathBuf;

/// A file, block device, or NVMe namespace as a character device; see
/// [`DeviceUri`](crate::DeviceUri) for its text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UringOptions {
    /// The file or device.
    pub path: PathBuf,
    /// Size of a logical block in bytes: 512 or 4096. Not given: 4096, and what an NVMe namespace is
    /// formatted with.
    pub block_size: Option<u32>,
    /// Create or extend the file to this size, a multiple of 4096.
    pub bytes: Option<u64>,
    /// NVMe namespaces only: the device is asked for completions, and does not interrupt.
    pub polled: bool,
}

impl UringOptions {
    /// An existing file or device.
    pub fn new(path: PathBuf) -> UringOptions {
        UringOptions { path, block_size: None, bytes: None, polled: false }
    }
}
