//! What can go wrong, by operation, and whose fault it is.

use culvert_memory::{ClaimError, CursorError, MappingError};
use rustix::io::Errno;
use thiserror::Error;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer broke the protocol or refused us.
    Peer,
    /// This process or its caller: a wish, a limit, missing memory.
    Local,
    /// The way between the two, or a peer that is simply gone.
    Network,
}

/// Why [`Transport::new`](crate::Transport::new) refused its options.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// Caller: a number outside its range.
    #[error("{name} is {value}, allowed is {min} to {max}")]
    OutOfRange {
        /// The field.
        name: &'static str,
        /// What it was.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// Caller: a queue size that is no power of two.
    #[error("{name} is {value}, which is not a power of two")]
    NotAPowerOfTwo {
        /// The field.
        name: &'static str,
        /// What it was.
        value: u64,
    },
    /// Caller: an empty pre-shared key, which would let everybody in who offers an empty one too.
    #[error("the pre-shared key is empty")]
    EmptyKey,
    /// Machine: no epoll instance.
    #[error("epoll_create failed")]
    Epoll(#[source] Errno),
}

/// Why [`Transport::listen`](crate::Transport::listen) failed.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Machine: what `rdma://` needs is missing.
    #[error("rdma:// needs rdma-core (libibverbs.so.1, librdmacm.so.1): {0}")]
    NoVerbs(String),
    /// Machine: no RDMA device has the address.
    #[error("no RDMA device has this address; `rdma link` lists the devices")]
    NoDevice,
    /// Caller: somebody listens there already.
    #[error("the address is in use (is this node already running?)")]
    InUse,
    /// Machine: what the kernel refused.
    #[error("{step} failed")]
    Io {
        /// The system call.
        step: &'static str,
        /// Its answer.
        source: Errno,
    },
}

/// The status of a work completion, as `verbs.h` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkStatus(u32);

impl WorkStatus {
    pub(crate) const fn new(status: u32) -> Self {
        Self(status)
    }

    /// Whether the work was done.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// Whether it was given back undone because the queue pair had ended.
    #[must_use]
    pub const fn is_flushed(self) -> bool {
        self.0 == 5
    }
}

impl std::fmt::Display for WorkStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 24] = [
            "success",
            "local length error",
            "local queue pair operation error",
            "local EE context operation error",
            "local protection error",
            "flushed",
            "memory window bind error",
            "bad response",
            "local access error",
            "remote invalid request",
            "remote access error",
            "remote operation error",
            "transport retry counter exceeded",
            "receiver-not-ready retry counter exceeded",
            "local RDD violation",
            "remote invalid RD request",
            "remote aborted",
            "invalid EE context number",
            "invalid EE context state",
            "fatal error",
            "response timeout",
            "general error",
            "tag matching error",
            "tag matching rendezvous incomplete",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "unknown status {}", self.0),
        }
    }
}

/// Why [`Transport::connect`](crate::Transport::connect) failed at once. Later failures arrive as
/// [`Event::Closed`](crate::Event::Closed).
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Local: as many connections as `connections_max` allows.
    #[error("all connections are in use")]
    TableFull,
    /// Machine: what `rdma://` needs is missing.
    #[error("rdma:// needs rdma-core (libibverbs.so.1, librdmacm.so.1): {0}")]
    NoVerbs(String),
    /// Machine or network: what the kernel refused.
    #[error("{step} failed")]
    Io {
        /// The system call.
        step: &'static str,
        /// Its answer.
        source: Errno,
    },
}

/// Why [`Transport::send`](crate::Transport::send) took nothing. The caller keeps frame, pages and
/// placements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// No room in the queue of this class: [`Event::Writable`](crate::Event::Writable) follows.
    #[error("the queue is full")]
    Full,
    /// The connection is closed, or not yet established, or was just reset because more pages were
    /// unsent than `unsent_pages_max`.
    #[error("the connection is closed")]
    Closed,
    /// Caller: a frame longer than
    /// [`Transport::frame_bytes_max`](crate::Transport::frame_bytes_max) of its class, or more than
    /// [`PAYLOADS_MAX`](crate::PAYLOADS_MAX) payloads.
    #[error("the frame is too large")]
    TooLarge,
    /// Peer: it named a place that is not in its window, or its window is a granted one, where only
    /// places that were reserved may be written.
    #[error("the placement lies outside what may be written of the peer's window")]
    OutsideWindow,
}

/// Why a handshake was refused. On the wire as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[repr(u16)]
pub enum Refusal {
    /// The peer speaks another version of the protocol.
    #[error("another protocol version")]
    Version = 1,
    /// A pre-shared key is required here and the peer offers none.
    #[error("a pre-shared key is required")]
    KeyRequired = 2,
    /// The peer wants a pre-shared key to be proved and there is none here.
    #[error("a pre-shared key was offered and none is known")]
    KeyUnknown = 3,
    /// The peer does not know the key.
    #[error("the proof of the pre-shared key is wrong")]
    WrongKey = 4,
    /// A field of the handshake has no sense.
    #[error("malformed handshake")]
    Malformed = 5,
    /// No free connection or no memory.
    #[error("no resources for another connection")]
    Resources = 6,
    /// The first bytes are not those of this protocol.
    #[error("not this protocol")]
    NotThisProtocol = 7,
}

impl Refusal {
    /// The reason of a number from the wire; 0 is "not refused" and unknown ones are
    /// [`Refusal::Malformed`].
    pub(crate) fn from_wire(status: u16) -> Option<Self> {
        match status {
            0 => None,
            1 => Some(Self::Version),
            2 => Some(Self::KeyRequired),
            3 => Some(Self::KeyUnknown),
            4 => Some(Self::WrongKey),
            6 => Some(Self::Resources),
            7 => Some(Self::NotThisProtocol),
            _ => Some(Self::Malformed),
        }
    }
}

/// How a peer broke the protocol. Every one closes the connection, and only that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// A batch does not begin with the magic number.
    #[error("a batch without magic number")]
    BatchMagic,
    /// The checksum over a batch's prefix and frames is wrong.
    #[error("wrong checksum over the frames of a batch")]
    BatchChecksum,
    /// A batch announces more frames than allowed.
    #[error("a batch with {bytes} bytes of frames")]
    BatchTooLong {
        /// What it announces.
        bytes: u32,
    },
    /// The payload announced by a batch is not what its frames say.
    #[error("a batch announces {announced} payload pages, its frames {counted}")]
    BatchPayload {
        /// What the prefix says.
        announced: u32,
        /// What the placements of the frames add up to.
        counted: u32,
    },
    /// A frame's length does not fit its envelope, its limit, or what there is.
    #[error("a frame of {bytes} bytes")]
    FrameLength {
        /// What the envelope says.
        bytes: u32,
    },
    /// A frame of no known kind.
    #[error("a frame of kind {kind}")]
    FrameKind {
        /// What the envelope says.
        kind: u8,
    },
    /// Bytes that must be zero are not, or a body has not its size.
    #[error("a malformed frame")]
    FrameMalformed,
    /// A placement that is empty, too long or outside the window.
    #[error("a placement of {pages} pages at page {page} outside the window")]
    Placement {
        /// First page named.
        page: u32,
        /// Number of pages named.
        pages: u32,
    },
    /// A page written again before its credit was given back.
    #[error("a placement at page {page} whose credit the peer does not hold")]
    PageReused {
        /// First page named.
        page: u32,
    },
    /// Credits given back for pages that were not in use.
    #[error("credits for {pages} pages at page {page}, which were not in use")]
    CreditOverrun {
        /// First page named.
        page: u32,
        /// Number of pages named.
        pages: u32,
    },
    /// A grant that does not continue the window or exceeds its limits.
    #[error("a grant of {pages} pages at page {page}")]
    Grant {
        /// First page granted.
        page: u32,
        /// Number of pages granted.
        pages: u32,
    },
    /// A grant that was not asked for, or a wish of a peer that allocates nothing in our window.
    #[error("a notice out of place")]
    NoticeOutOfPlace,
    /// So many notices unread that its socket is full; a peer that keeps the rules never has more
    /// than a few.
    #[error("notices left unread until the socket was full")]
    NoticesUnread,
    /// A ring index that is further ahead than the ring is long, or that went back.
    #[error("a ring index moved from {held} to {index}, at most {allowed} further")]
    RingIndex {
        /// The peer's index.
        index: u32,
        /// The one we held.
        held: u32,
        /// How far it might have moved.
        allowed: u32,
    },
    /// A message beyond those that the peer may have under way, or one that gives back slots that
    /// were not used.
    #[error("a message out of turn: it gives back {told} slots of {outstanding}")]
    Slots {
        /// What it gives back.
        told: u32,
        /// What there was to be given back.
        outstanding: u32,
    },
    /// A one-sided write outside the window, or another work request that is not allowed.
    #[error("a work request outside the window or of a kind that is not allowed")]
    RemoteAccess,
    /// A shared-memory file that is not what was agreed on.
    #[error("a shared-memory file that is missing, unsealed or of the wrong size")]
    SharedMemory,
}

/// Why a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// Local: the caller closed it, for a reason of his own.
    #[error("closed here: {0}")]
    Caller(&'static str),
    /// The peer closed it in an orderly place.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer vanished in the middle of a frame or a payload.
    #[error("the peer vanished in the middle of a frame or payload")]
    PeerVanished,
    /// The connection could not be made, or broke.
    #[error(transparent)]
    Io(Errno),
    /// The peer refused the handshake.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(Refusal),
    /// The peer's handshake was refused here.
    #[error("refused here: {0}")]
    RefusedHere(Refusal),
    /// The handshake was not finished within `handshake_timeout`.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// The peer broke the protocol.
    #[error("protocol violation: {0}")]
    Violation(Violation),
    /// More pages were unsent than `unsent_pages_max`: the peer is too slow, and must not hold our
    /// pages.
    #[error("more pages unsent than allowed")]
    UnsentBound,
    /// Memory for a window or a ring could not be had.
    #[error("no memory for the connection")]
    NoMemory,
    /// A work request failed; the device has given the connection up.
    #[error("a work request failed: {0}")]
    WorkRequest(WorkStatus),
    /// The device has ended the queue pair, and does not say why: where it reports nothing else, that
    /// is how a peer's request looks that it refused.
    #[error(
        "the device ended the queue pair: a request that it does not allow, or a fault of its own"
    )]
    QueuePairFatal,
    /// The device's port went down.
    #[error("the RDMA port is down")]
    PortDown,
    /// The device has failed or was removed.
    #[error("the RDMA device is gone")]
    DeviceGone,
    /// Whoever registers memory with devices refused a window ([`RegionRefused`]).
    ///
    /// [`RegionRefused`]: crate::RegionRefused
    #[error("a device does not take the memory of the connection's window")]
    RegionRefused,
}

impl CloseReason {
    /// Whose fault it is.
    pub const fn fault(self) -> Fault {
        match self {
            Self::Caller(_) | Self::NoMemory | Self::RegionRefused => Fault::Local,
            Self::PeerClosed
            | Self::PeerVanished
            | Self::Io(_)
            | Self::HandshakeTimeout
            | Self::UnsentBound
            | Self::WorkRequest(_)
            | Self::QueuePairFatal
            | Self::PortDown
            | Self::DeviceGone => Fault::Network,
            Self::RefusedByPeer(_) | Self::RefusedHere(_) | Self::Violation(_) => Fault::Peer,
        }
    }
}

impl CloseReason {
    /// Whether a way has died, over which the same peer cannot be reached for now: another address of
    /// its may do at once.
    #[must_use]
    pub const fn is_dead_way(self) -> bool {
        matches!(
            self,
            Self::WorkRequest(_) | Self::QueuePairFatal | Self::PortDown | Self::DeviceGone
        )
    }
}

impl From<Violation> for CloseReason {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// A claim that the memory refused, in the words of the protocol. `page` and `pages` are the
/// window's.
pub(crate) fn claim_violation(error: ClaimError, page: u32, pages: u32) -> Violation {
    match error {
        ClaimError::AlreadyClaimed { .. } => Violation::PageReused { page },
        ClaimError::Empty | ClaimError::OutOfBounds { .. } => Violation::Placement { page, pages },
    }
}

impl From<CursorError> for Violation {
    fn from(error: CursorError) -> Self {
        Self::RingIndex { index: error.to, held: error.from, allowed: error.allowed }
    }
}

/// A mapping of a peer's file that failed: his fault, or want of memory here.
pub(crate) fn mapping_reason(error: &MappingError) -> CloseReason {
    match error {
        MappingError::Unsealed
        | MappingError::SizeMismatch { .. }
        | MappingError::InvalidSize { .. } => CloseReason::Violation(Violation::SharedMemory),
        _ => CloseReason::NoMemory,
    }
}
