//! Volumes that a client has opened.

use super::config::DISCARD_SETS_MAX;
use super::route::RouteIndex;
use crate::cluster::VolumeLayout;
use crate::ids::BLOCK_SIZE;

/// An open volume of one client. It stays open as long as that client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeHandle {
    pub(super) index: u32,
    blocks: u64,
    set_blocks: u64,
    copysets: u32,
}

impl VolumeHandle {
    /// Size in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK_SIZE as u64
    }

    /// Blocks of a chunk set: the row of chunks over which stripes go round.
    #[must_use]
    pub fn set_blocks(&self) -> u64 {
        self.set_blocks
    }

    /// Copysets that it lies on.
    #[must_use]
    pub fn copysets(&self) -> u32 {
        self.copysets
    }

    /// Blocks that one discard or delete may have.
    #[must_use]
    pub fn discard_blocks_max(&self) -> u64 {
        self.set_blocks * DISCARD_SETS_MAX
    }
}

/// What the client knows of an open volume.
#[derive(Debug)]
pub(super) struct OpenVolume {
    pub(super) id: u32,
    pub(super) layout: VolumeLayout,
    /// The route to each of its copysets, in the volume's order.
    pub(super) routes: Box<[RouteIndex]>,
}

impl OpenVolume {
    pub(super) fn handle(&self, index: usize) -> VolumeHandle {
        VolumeHandle {
            index: index as u32,
            blocks: self.layout.blocks(),
            set_blocks: self.layout.set_blocks(),
            copysets: self.routes.len() as u32,
        }
    }
}
