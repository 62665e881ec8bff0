#![allow(unsafe_code)]
//! Placement of memory on NUMA nodes.
//!
//! The policy is *preferred*, never *bound*: a bound hugepage that its node cannot supply is
//! `SIGBUS` at first touch, a preferred one comes from another node and is merely slower.

use std::sync::Once;

use crate::Mapping;

/// Nodes that fit the mask handed to the kernel.
const NODES_MAX: u32 = 1024;
/// Bits in a word of that mask.
const WORD_BITS: u32 = u64::BITS;

/// Prefers `node` for pages of `mapping` not yet allocated, or says once that it cannot.
pub(crate) fn prefer(mapping: &Mapping, node: u32) {
    if let Err(error) = set_preferred(mapping, node) {
        warn_of_placement(node, &error);
    }
}

fn set_preferred(mapping: &Mapping, node: u32) -> std::io::Result<()> {
    if node >= NODES_MAX {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut mask = [0u64; (NODES_MAX / WORD_BITS) as usize];
    mask[(node / WORD_BITS) as usize] |= 1 << (node % WORD_BITS);
    // SAFETY: the range is the mapping's and alive for the call, `mask` holds `NODES_MAX` bits,
    // and a placement policy changes no byte of the memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.as_ptr().as_ptr(),
            mapping.len(),
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            // The kernel reads one bit less than it is told.
            u64::from(NODES_MAX) + 1,
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Says, once per process, that memory lies wherever the kernel puts it.
fn warn_of_placement(node: u32, error: &std::io::Error) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(node, %error, "memory could not be placed on its NUMA node");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, MappingOptions};

    #[test]
    fn prefers_a_node_and_survives_an_absent_one() {
        let mut options = MappingOptions {
            bytes: 1 << 20,
            backing: Backing::Ordinary,
            ..MappingOptions::default()
        };
        options.numa_node = Some(NODES_MAX);
        let mapping = Mapping::create(&options).unwrap();
        match set_preferred(&mapping, 0) {
            Ok(()) => {}
            // A kernel without NUMA, or a sandbox that forbids the call.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))),
        }
        assert!(set_preferred(&mapping, NODES_MAX - 1).is_err());
    }
}
