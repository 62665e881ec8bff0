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
    /// Status texts made; all who ask in one turn get the same.
    pub status_texts: u64,
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
    /// User bytes written: payload of entries applied here, as leader or as follower.
    pub user_bytes_written: u64,
    /// User bytes read: payload of successful answers.
    pub user_bytes_read: u64,
    /// Blocks read from a device whose bytes did not match their checksum; it may have been the read.
    pub mismatched_blocks: u64,
    /// Stored blocks found bad or missing, each once until it was repaired.
    pub bad_blocks: u64,
    /// Those of them that were missing: lost with a part of the journal, or about to be overwritten by
    /// an entry that this replica has not applied yet.
    pub missing_blocks: u64,
    /// Those of them that were repaired from a peer.
    pub blocks_repaired: u64,
    /// Times that no replica had a bad block whole.
    pub blocks_not_repairable: u64,
    /// Blocks given to peers for their repairs.
    pub repair_answers: u64,
    /// Blocks that the scrub has read.
    pub blocks_scrubbed: u64,
    /// Payload blocks that did not match the checksums they came with.
    pub bad_payloads: u64,
    /// Raft messages refused by the guard.
    pub messages_refused: u64,
}

/// Monotonic counts of what one reactor runs over: its transport, its queue pairs, its thread.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct DriverCounters {
    /// System calls of transport and devices.
    pub system_calls: u64,
    /// Heap allocations of the reactor's thread; zero where no counting allocator is installed.
    pub allocations: u64,
    /// Payload bytes that the CPU copied where a wire would carry them: shared memory.
    pub wire_bytes_copied: u64,
    /// Bytes that the CPU copied where a device's DMA would: emulated controllers.
    pub device_bytes_copied: u64,
    /// Bytes of pages that the CPU copied in turns of the reactor for any other reason:
    /// [`culvert_memory::page_bytes_copied`] less `wire_bytes_copied`.
    pub payload_bytes_copied: u64,
    /// Frames sent to nodes and clients.
    pub frames_sent: u64,
    /// Frames received from them.
    pub frames_received: u64,
    /// Payload bytes sent.
    pub payload_bytes_sent: u64,
    /// Payload bytes received.
    pub payload_bytes_received: u64,
    /// Wake-ups sent to sleeping peers.
    pub wakeups: u64,
    /// Chains of work requests posted to RDMA devices, each with one doorbell.
    pub chains_posted: u64,
    /// Work requests in them.
    pub work_requests: u64,
    /// Those of them that asked for a completion.
    pub work_requests_signalled: u64,
    /// Doorbells of submission queues rung.
    pub doorbells: u64,
    /// Commands completed by devices.
    pub commands: u64,
    /// Bytes read from devices.
    pub bytes_read: u64,
    /// Bytes written to devices: payload, journal, checkpoints, superblocks.
    pub bytes_written: u64,
    /// Completions that say that a command failed.
    pub device_errors: u64,
}

impl DriverCounters {
    /// What a network counted; nothing of devices yet.
    #[must_use]
    pub fn of_network(network: &culvert_transport::Counters) -> DriverCounters {
        DriverCounters {
            system_calls: network.system_calls,
            allocations: culvert_memory::allocations(),
            wire_bytes_copied: network.wire_copy_bytes,
            frames_sent: network.frames_sent,
            frames_received: network.frames_received,
            payload_bytes_sent: network.payload_bytes_sent,
            payload_bytes_received: network.payload_bytes_received,
            wakeups: network.doorbells,
            chains_posted: network.chains_posted,
            work_requests: network.work_requests,
            work_requests_signalled: network.work_requests_signalled,
            ..DriverCounters::default()
        }
    }

    /// Adds what the queue pair on one device counted.
    pub fn add_device(&mut self, device: &culvert_nvme::Counters) {
        self.system_calls += device.system_calls;
        self.device_bytes_copied += device.bytes_copied_for_dma;
        self.doorbells += device.doorbells;
        self.commands += device.commands();
        self.bytes_read += device.bytes_read;
        self.bytes_written += device.bytes_written;
        self.device_errors += device.errors;
    }
}
