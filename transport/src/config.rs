//! Every capacity of the transport, and how they relate.

/// The payloads of one frame.
pub const PAYLOADS_MAX: usize = 64;

/// The pages of one placement: 1 MiB.
pub const PLACEMENT_PAGES_MAX: u32 = 256;

/// The bytes of one frame, whatever the options say.
pub const FRAME_BYTES_LIMIT: usize = 32 << 10;

/// The largest window, whatever the options say: 256 MiB.
pub const WINDOW_PAGES_LIMIT: u32 = 1 << 16;

/// The segments of one window: the initial one and what it grew by.
pub const SEGMENTS_MAX: usize = 16;

/// The pages by which a window grows: 2 MiB, one hugepage.
pub const SEGMENT_PAGES: u32 = 512;

/// The smallest segment worth granting when memory or budget is short.
pub const SEGMENT_PAGES_MIN: u32 = 8;

/// The segments that a window of at most `pages_max` pages may have, which begins with
/// `pages_initial`: what it grows by has 512 pages, or what is left of the limit, or more where
/// [`SEGMENTS_MAX`] would not suffice.
///
/// A window of 8 pages that grows to 1,024 has 3: 8, 512 and 504.
#[must_use]
pub const fn window_segments_max(pages_initial: u32, pages_max: u32) -> usize {
    let grows = pages_max.saturating_sub(pages_initial).div_ceil(SEGMENT_PAGES) as usize;
    if grows < SEGMENTS_MAX { 1 + grows } else { SEGMENTS_MAX }
}

/// The smallest and the largest queue of one class. A queue is a power of two, because over shared
/// memory it is a ring.
pub const QUEUE_BYTES_MIN: usize = 4 << 10;
/// See [`QUEUE_BYTES_MIN`].
pub const QUEUE_BYTES_LIMIT: usize = 1 << 20;

/// The connections of one transport, whatever the options say.
pub const CONNECTIONS_LIMIT: u32 = 1 << 16;

/// Runs of pages in one credit frame.
pub(crate) const CREDIT_RUNS_MAX: usize = 128;

/// The first bytes of a TCP batch, read in one piece: its prefix and the beginning of its frames.
pub(crate) const BATCH_HEAD_BYTES: usize = 256;

/// The frames of one TCP batch.
pub(crate) const BATCH_FRAMES_BYTES_MAX: usize = 64 << 10;

/// The placements of one TCP batch; with the head and the frames they fit one system call.
pub(crate) const BATCH_PLACEMENTS_MAX: usize = 512;

/// The pages after which a TCP batch takes no further frame (one frame may have more): 256 KiB.
/// What a control frame may have to wait for.
pub(crate) const BATCH_PAGES: u32 = 64;

/// `TCP_NOTSENT_LOWAT`: what the kernel takes beyond what is on the wire.
pub(crate) const NOT_SENT_BYTES: u32 = 256 << 10;

/// The vectors of one system call (`IOV_MAX` of Linux).
pub(crate) const VECTORS_MAX: usize = 1024;

/// The system calls that one connection may make in one turn before the others have theirs.
pub(crate) const CALLS_PER_TURN: usize = 8;

/// The frames that one connection may deliver in one turn before the others have theirs.
pub(crate) const FRAMES_PER_TURN: usize = 128;

/// Readiness events fetched by one call.
pub(crate) const READINESS_MAX: usize = 128;

/// Connections taken from one listener in one turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 16;

/// Messages read from one Unix socket in one turn.
pub(crate) const NOTICES_PER_TURN: usize = 16;

/// With no TCP socket and no handshake under way the readiness of sockets is asked for this seldom:
/// 200 us.
pub(crate) const READINESS_INTERVAL_NS: u64 = 200_000;

/// How long credits over TCP may wait for a frame that takes them along: 20 us.
pub(crate) const CREDIT_DELAY_NS: u64 = 20_000;

/// How long a sender whose wish for a larger window was refused waits before it asks again: 100 ms.
pub(crate) const WANT_INTERVAL_NS: u64 = 100_000_000;

/// The messages that one side of an RDMA connection may have sent without hearing that they were
/// taken, each of at most a page. With the initial window they are what an idle connection has
/// registered: 24 KiB and 32 KiB.
pub(crate) const RDMA_SLOTS: u32 = 6;

// What an idle connection has registered, with the window that it has at first by default.
const _: () = assert!(RDMA_SLOTS as usize * 4096 + 8 * 4096 <= 64 << 10);

/// The work requests that one RDMA connection may have at once.
pub(crate) const RDMA_SENDS_MAX: u32 = 2 * PAYLOADS_MAX as u32;

/// How long an RDMA connection that was closed here may go on sending what was posted: 1 s.
pub(crate) const RDMA_LINGER_NS: u64 = 1_000_000_000;

/// How long a device that does not say so may take to give back the receives of a queue pair that
/// was disconnected: 50 ms.
pub(crate) const RDMA_DRAIN_NS: u64 = 50_000_000;

/// What the RDMA connection manager is asked for in one turn.
pub(crate) const REPORTS_PER_TURN: usize = 64;

/// How long after an RDMA device is gone, and after each try in vain, a listener tries whether it has
/// come back: 500 ms.
pub(crate) const EAR_REST_NS: u64 = 500_000_000;

/// Connections that wait to be accepted.
pub(crate) const RDMA_BACKLOG: i32 = 128;

/// How long a listener rests after the process ran out of file descriptors: 100 ms.
pub(crate) const ACCEPT_REST_NS: u64 = 100_000_000;

const _: () = assert!(BATCH_PLACEMENTS_MAX + 2 <= VECTORS_MAX);
const _: () = assert!(BATCH_PLACEMENTS_MAX >= PAYLOADS_MAX);
const _: () = assert!(BATCH_FRAMES_BYTES_MAX >= FRAME_BYTES_LIMIT + 8 + 8 * PAYLOADS_MAX);
const _: () = assert!(PLACEMENT_PAGES_MAX <= u16::MAX as u32);
const _: () = assert!(8 + 8 * CREDIT_RUNS_MAX <= QUEUE_BYTES_MIN / 2);
const _: () = assert!(window_segments_max(8, 1024) == 3);
const _: () = assert!(window_segments_max(0, WINDOW_PAGES_LIMIT) == SEGMENTS_MAX);
