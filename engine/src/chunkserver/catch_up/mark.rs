//! The durable mark of a replica in the middle of a catch-up: the index up to which its chunks may
//! be ahead of its state. It is over as soon as the state has come so far, whichever way.
//!
//! Byte map: the index, u64, little-endian. Installed chunks and lists raise it without another
//! mark, because their records say of which index they are.

use crate::ids::LogIndex;
use crate::store::LOG_INDEX_MAX;

/// The mark as the journal and checkpoints keep it.
pub fn emit(ahead: LogIndex) -> [u8; 8] {
    ahead.0.to_le_bytes()
}

/// The index of a stored mark; zero where there is none or its bytes are not one.
pub fn parse(bytes: Option<&[u8]>) -> LogIndex {
    let bytes: Option<[u8; 8]> = bytes.and_then(|bytes| bytes.try_into().ok());
    let index = bytes.map_or(0, u64::from_le_bytes);
    LogIndex(index.min(LOG_INDEX_MAX.0))
}
