//! What a queue pair has done so far.
//!
//! Plain numbers, written by the queue pair's own thread: they are the proof, per operation kind,
//! of what the data path costs. Nothing is reset; whoever wants a rate subtracts.

/// Totals since the queue pair was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Submission queue doorbells rung: one for each [`ring`](crate::QueuePair::ring) that had
    /// something to hand over. Zero for backends without doorbells.
    pub doorbells: u64,
    /// Completion queue doorbells rung: one for each poll that visited something.
    pub completion_doorbells: u64,
    /// System calls made.
    pub system_calls: u64,
    /// Reads completed, with whatever status.
    pub reads: u64,
    /// Writes completed.
    pub writes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Write zeroes completed.
    pub write_zeroes: u64,
    /// Deallocations completed.
    pub deallocates: u64,
    /// Bytes read from the device by successful reads.
    pub bytes_read: u64,
    /// Bytes written to the device by successful writes, metadata included.
    pub bytes_written: u64,
    /// Bytes copied by the CPU that stand for a device's DMA: the emulated controller's one copy
    /// between page and medium.
    pub bytes_copied_for_dma: u64,
    /// Asynchronous events of the device that were looked at.
    pub events: u64,
    /// Completions whose status is an error, whoever said so.
    pub errors: u64,
}

impl Counters {
    /// Commands completed, of any kind.
    pub const fn commands(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.write_zeroes + self.deallocates
    }
}
