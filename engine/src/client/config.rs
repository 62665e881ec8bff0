//! Every capacity of the client, and how they relate.

use std::time::Duration;

use crate::cluster::{STRIPE_BLOCKS_MIN, STRIPE_CHUNKS_MAX};
use crate::ids::OPERATION_BLOCKS_MAX;

/// Blocks of one read or write of the caller: 1 MiB.
pub const SUBMISSION_BLOCKS_MAX: u32 = 256;

/// Pieces that one operation of the caller is split into at most.
pub const OPERATION_PIECES_MAX: usize = 66;

/// Chunk sets that one discard may be as long as.
pub(super) const DISCARD_SETS_MAX: u64 = 2;

/// Operations in flight, whatever the options say.
pub const IN_FLIGHT_LIMIT: u32 = 1 << 16;

/// Pieces in flight for each operation in flight: what 1 MiB is usually split into.
pub(super) const PIECES_PER_OPERATION: u32 = 9;

/// How long a request waits for its answer before other replicas are asked who leads: the shortest
/// election timeout of the servers' defaults.
pub(super) const LEADER_PATIENCE_NS: u64 = 250_000_000;

/// ... and after which time they are asked again, while it waits.
pub(super) const LEADER_ASKED_AGAIN_NS: u64 = 100_000_000;

/// How long a connection over a later address is used before the preferred one is tried again; each
/// further pause is twice as long.
pub(super) const RETURN_PAUSE_NS: u64 = 1_000_000_000;

/// The longest of these pauses.
pub(super) const RETURN_PAUSE_NS_MAX: u64 = 60_000_000_000;

/// How long requests are held back until those on the old connection are answered.
pub(super) const DRAIN_PATIENCE_NS: u64 = 100_000_000;

/// How long closing a client may take.
pub const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// Request numbers of one session between the oldest without an outcome and the newest. The
/// servers' window is twice as wide, so that none of them ever falls below it.
pub(super) const NUMBERS_OUTSTANDING_MAX: u64 = 512;

/// Events taken from the network in one turn.
pub(super) const EVENTS_PER_TURN: usize = 256;

/// Answers "not the leader, ask that one" that a piece follows without pausing, one after another.
pub(super) const HINTS_MAX: u8 = 2;

/// How long a read waits for the landing window to grow before it makes do with what there is:
/// 2 ms.
pub(super) const LANDING_PATIENCE_NS: u64 = 2_000_000;

/// Attempts of one piece that may fail for damaged bytes.
pub(super) const DAMAGED_MAX: u8 = 8;

/// Bytes of a node's status that are believed at most.
pub(super) const STATUS_BYTES_MAX: u64 = 16 << 20;

const _: () = assert!(
    SUBMISSION_BLOCKS_MAX as usize / STRIPE_BLOCKS_MIN as usize + 2 <= OPERATION_PIECES_MAX
);
const _: () = assert!(STRIPE_BLOCKS_MIN <= OPERATION_BLOCKS_MAX);
const _: () =
    assert!((DISCARD_SETS_MAX as usize + 1) * STRIPE_CHUNKS_MAX as usize <= OPERATION_PIECES_MAX);
