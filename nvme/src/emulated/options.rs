//! What an emulated device is to be like.

use std::path::PathBuf;

/// Where the blocks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediumKind {
    /// In memory; gone with the queue pair.
    Memory,
    /// In a file, which is created or extended to the size of the device.
    File(PathBuf),
    /// Nowhere: for measuring everything else.
    Null,
}

/// In which order pending commands are executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommandOrder {
    /// As they were fetched.
    #[default]
    Fetched,
    /// As the seed says.
    Shuffled,
}

/// An emulated device; see [`DeviceUri`](crate::DeviceUri) for its text form and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatedOptions {
    /// Size of the namespace in bytes: a multiple of 4096, not zero.
    pub bytes: u64,
    /// Where the blocks are kept.
    pub medium: MediumKind,
    /// Size of a logical block in bytes: 512 or 4096.
    pub block_size: u32,
    /// Bytes of metadata that the namespace keeps beside each block: 0 or 64.
    pub metadata_bytes: u32,
    /// Blocks that the volatile write cache holds; zero is no such cache.
    pub cache_blocks: u32,
    /// Whether the controller works on a thread of its own.
    pub thread: bool,
    /// In which order pending commands are executed.
    pub order: CommandOrder,
    /// Where random numbers come from: the order of commands, and power failures.
    pub seed: u64,
}

impl EmulatedOptions {
    /// A device in memory, of `bytes` bytes, with blocks of 4096 bytes and no cache.
    pub fn new(bytes: u64) -> EmulatedOptions {
        EmulatedOptions {
            bytes,
            medium: MediumKind::Memory,
            block_size: 4096,
            metadata_bytes: 0,
            cache_blocks: 0,
            thread: false,
            order: CommandOrder::default(),
            seed: 0,
        }
    }
}
