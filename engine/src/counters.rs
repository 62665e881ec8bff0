//! What a reactor counted since it started. Plain numbers of one thread; readers take differences.

/// Monotonic counts of one chunkserver. Those of transports and devices stand beside them.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns in which nothing happened.
    pub empty_turns: u64,
    /// Times the reactor went to sleep.
    pub sleeps: u64,
    /// Write requests taken.
    pub writes: u64,
    /// Read requests taken.
    pub reads: u64,
    /// Other requests taken.
    pub other_requests: u64,
    /// Requests refused at admission, whatever the reason.
    pub refused: u64,
    /// Answers sent.
    pub replies_sent: u64,
    /// Entries given to the journal.
    pub entries_stored: u64,
    /// Entries applied.
    pub entries_applied: u64,
    /// Append frames sent to followers.
    pub append_frames_sent: u64,
    /// Entries in them.
    pub entries_sent: u64,
    /// Entries whose payload was read back from the device for a follower that lags.
    pub entries_fed_from_device: u64,
    /// Bytes of blocks sent to replicas that lack more than the log holds.
    pub catch_up_bytes_sent: u64,
    /// Frames with messages of raft groups.
    pub message_frames_sent: u64,
    /// User bytes written: payload of entries applied here as leader or follower.
    pub user_bytes_written: u64,
    /// User bytes read.
    pub user_bytes_read: u64,
    /// Blocks read whose checksum did not match.
    pub bad_blocks: u64,
    /// Payload blocks that did not match the checksums they came with.
    pub bad_payloads: u64,
    /// Raft messages refused by the guard.
    pub messages_refused: u64,
    /// Payload bytes copied by the CPU, other than what stands for wire or device. Stays zero.
    pub payload_bytes_copied: u64,
}
