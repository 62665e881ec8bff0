//! What a client has done, counted.

/// Monotonic counts since the client was made. Latencies are the caller's to record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Operations taken.
    pub submitted: u64,
    /// Operations reported, failed ones included.
    pub completed: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Requests sent, of every kind.
    pub requests: u64,
    /// Requests that repeat an earlier one.
    pub retries: u64,
    /// Attempts whose answer did not come in time.
    pub timeouts: u64,
    /// Answers "busy".
    pub busy: u64,
    /// Answers "not the leader".
    pub redirects: u64,
    /// Questions who leads, asked for requests that waited long.
    pub leaders_asked: u64,
    /// Attempts given up because another replica leads by now.
    pub deserted: u64,
    /// Answers to attempts that were given up before.
    pub late_replies: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Connections established.
    pub connects: u64,
    /// Established connections that closed.
    pub disconnects: u64,
    /// Connections that gave way to one over the preferred address.
    pub returns: u64,
    /// Attempts to connect that failed.
    pub connects_failed: u64,
    /// Reads whose bytes did not match their checksums.
    pub corrupt_reads: u64,
    /// Bytes read that were copied out of their landing pages, for want of those.
    pub copied_bytes: u64,
    /// Frames that were no reply of this protocol; each closed its connection.
    pub bad_frames: u64,
}
