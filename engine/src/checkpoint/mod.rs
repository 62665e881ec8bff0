//! The checkpoint: the state of a shard as a stream of pages, and behind it increments, each with
//! what changed since.
//!
//! [`StreamWriter`] cuts sections into pages, [`StreamReader`] puts them together again, and
//! [`CopysetImage`] collects what is kept of one copyset. Nothing here knows when a checkpoint is
//! written or counts (that is `shard`'s), or what a chunk's image means (that is `store`'s).
//!
//! Fault model: pages may be damaged, torn, lost, or left over from an earlier checkpoint in the
//! same area. A page counts only if its salted checksum, checkpoint number and page number are
//! right. Byte maps: `docs/format/checkpoint.md`.

mod image;
mod page;
mod reader;
mod section;
mod writer;

pub use image::CopysetImage;
pub use page::{PAGE_BODY_BYTES, PAGE_HEADER_BYTES, PageError};
pub use reader::{CheckpointError, StreamReader};
pub use section::{CopysetHead, Section, SectionError, SectionKind, section_head};
pub use writer::StreamWriter;

#[cfg(test)]
mod tests;
