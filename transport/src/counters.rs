//! What a transport has done, counted.

/// Monotonic counts since the transport was made. Reading them costs nothing; the reactor takes
/// differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// System calls made by [`poll`](crate::Transport::poll), [`post`](crate::Transport::post) and
    /// the sleep calls.
    pub system_calls: u64,
    /// Wake-ups sent to a sleeping peer (shared memory only); each is one of the system calls.
    pub doorbells: u64,
    /// Chains of work requests posted, each with one doorbell of the device (RDMA only).
    pub chains_posted: u64,
    /// Work requests in them.
    pub work_requests: u64,
    /// Those of them that asked for a completion.
    pub work_requests_signalled: u64,
    /// Frames of the caller handed to the link.
    pub frames_sent: u64,
    /// Frames given to the handler.
    pub frames_received: u64,
    /// Bytes of those frames, without envelope.
    pub frame_bytes_sent: u64,
    /// Bytes of received frames, without envelope.
    pub frame_bytes_received: u64,
    /// Payload bytes sent.
    pub payload_bytes_sent: u64,
    /// Payload bytes received.
    pub payload_bytes_received: u64,
    /// Payload bytes copied by the processor where a wire would carry them: shared memory, once
    /// each.
    pub wire_copy_bytes: u64,
    /// Credit frames sent.
    pub credit_frames_sent: u64,
    /// Credit frames received.
    pub credit_frames_received: u64,
    /// TCP batches sent.
    pub batches_sent: u64,
    /// TCP batches received.
    pub batches_received: u64,
    /// Connections established.
    pub connections_opened: u64,
    /// Connections closed after they had been established.
    pub connections_closed: u64,
    /// Handshakes that came to nothing.
    pub handshakes_failed: u64,
    /// Connections closed because the peer broke the protocol.
    pub violations: u64,
}
