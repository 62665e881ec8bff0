//! Memory that the raft library's interface takes ownership of.
//!
//! The library wants its entries in vectors of its own, one for each list that it is handed, and
//! drops them itself. Nothing else in a server in steady state asks the allocator for anything
//! (`engine/tests/allocations.rs` knows this module by its name).

use raft::eraftpb::Entry;

/// An empty list with room for `count` entries.
pub(super) fn entries(count: usize) -> Vec<Entry> {
    Vec::with_capacity(count)
}
