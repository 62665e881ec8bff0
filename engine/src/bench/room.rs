//! How large devices and pools of a local cluster are where nobody says.
//!
//! Both lie in memory, and a machine that runs out of it kills what it likes.

use culvert::config::ByteSize;

/// A device where memory is plentiful.
const DEVICE_MAX: ByteSize = ByteSize::mib(2048);

/// ... and at least: journal, reserve and a small volume.
const DEVICE_MIN: ByteSize = ByteSize::mib(128);

/// The pool of a server where memory is plentiful.
const POOL_MAX: ByteSize = ByteSize::mib(128);

/// ... and at least.
const POOL_MIN: ByteSize = ByteSize::mib(32);

/// What everybody may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Each node's device, where nobody says how large.
    pub device: ByteSize,
    /// Each server's pool.
    pub pool: ByteSize,
}

impl Room {
    /// Half of the memory that is `available` for the devices of all nodes, a quarter for their
    /// pools, the rest for everything else; devices are files of a file system that has `free` bytes.
    /// All sizes are powers of two. For example 1.4 GiB for three nodes: devices of 128 MiB, pools of
    /// 64 MiB.
    #[must_use]
    pub fn of(nodes: u32, available: Option<u64>, free: Option<u64>) -> Room {
        let available = available.unwrap_or(u64::MAX);
        let nodes = u64::from(nodes.max(1));
        let devices = (available / 2).min(free.unwrap_or(u64::MAX));
        let size = |bytes: u64, min: ByteSize, max: ByteSize| {
            ByteSize(1 << (bytes / nodes).max(1).ilog2()).clamp(min, max)
        };
        Room {
            device: size(devices, DEVICE_MIN, DEVICE_MAX),
            pool: size(available / 4, POOL_MIN, POOL_MAX),
        }
    }
}

impl Default for Room {
    /// Plenty.
    fn default() -> Room {
        Room { device: DEVICE_MAX, pool: POOL_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(nodes: u32, available: u64, free: u64) -> (u64, u64) {
        let room = Room::of(nodes, Some(available), Some(free));
        (room.device.bytes() >> 20, room.pool.bytes() >> 20)
    }

    #[test]
    fn what_is_short_is_shared() {
        assert_eq!(room(3, 16 * GIB, 12 * GIB), (2048, 128), "plenty");
        assert_eq!(room(3, 11 * GIB, 12 * GIB), (1024, 128));
        assert_eq!(room(3, 16 * GIB, 2 * GIB), (512, 128), "little in the file system");
        assert_eq!(room(3, 1434 << 20, GIB), (128, 64), "a virtual machine of 2 GiB");
        assert_eq!(room(3, 1800 << 20, GIB), (256, 128));
        assert_eq!(
            room(3, 64 << 20, GIB),
            (128, 32),
            "it may not work, but nobody works with less"
        );
        assert_eq!(room(0, 16 * GIB, 12 * GIB), (2048, 128));
        assert_eq!(Room::of(3, None, None), Room::default());
    }
}
