//! The journal: how records become blocks of a ring, and how a ring is read back.
//!
//! [`Item`] is what is journalled, [`BatchWriter`] puts items into the blocks of one write,
//! [`Ring`] says where blocks lie and how much room is left, and [`Scan`] takes all blocks of a ring and
//! says what counts. It is not a driver: it sees bytes and positions, never a device, a clock or
//! the meaning of an item.
//!
//! Fault model: writes may be torn, lost, misdirected or damaged, and the ring may hold blocks of
//! earlier laps, earlier incarnations and earlier formats. A block counts only if its salted
//! checksum, its position and its incarnation are right. Byte maps: `docs/format/journal.md`.

mod batch;
mod block;
mod chunk_installed;
mod entry;
mod item;
mod lists;
mod local;
mod metadata;
mod ring;
mod scan;
mod scanned;

pub use batch::BatchWriter;
pub use block::{BLOCK_HEADER_BYTES, BlockError, BlockView, Stamp};
pub use chunk_installed::{ChunkInstalled, HOLE, InstalledBlock, InstalledHead};
pub use entry::{ENTRY_BYTES_MAX, Entry, NOWHERE};
pub use item::{HardState, ITEM_HEADER_BYTES, Item, ItemError, ReplicaIdentity, Sink, StatePart};
pub use lists::{ChunkList, GroupVerdict, Verdict};
pub use local::{BlockRepaired, ScrubNote};
pub use metadata::{MetadataEntry, encode_metadata};
pub use ring::{Ring, RingRun, Space};
pub use scan::Scan;
pub use scanned::{Located, MalformedItem, Scanned, Step};

#[cfg(test)]
mod tests;
