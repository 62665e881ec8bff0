//! What a shard has done so far.

/// Totals since the shard was opened. Nothing is reset; whoever wants a rate subtracts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardCounters {
    /// Bytes of payload written.
    pub payload_bytes: u64,
    /// Payload write commands.
    pub payload_commands: u64,
    /// Bytes of journal blocks written, headers and filling included, and of entries in metadata.
    pub journal_bytes: u64,
    /// Bytes of items in them.
    pub item_bytes: u64,
    /// Journal writes.
    pub batches: u64,
    /// Items in them, notes included.
    pub items: u64,
    /// Entries among the items.
    pub entries: u64,
    /// Most items in one batch.
    pub batch_items_max: u32,
    /// Those of them that stand in the metadata of the block that they write.
    pub metadata_batches: u64,
    /// Batches written only to carry a note, a release or the mark.
    pub idle_batches: u64,
    /// Flushes.
    pub flushes: u64,
    /// Reads.
    pub reads: u64,
    /// Checkpoints that came to count.
    pub checkpoints: u64,
    /// Those of them that had everything, and not only what changed.
    pub whole_checkpoints: u64,
    /// Bytes of checkpoints and superblocks written.
    pub checkpoint_bytes: u64,
    /// Extents told to the device as free.
    pub deallocated_extents: u64,
}
