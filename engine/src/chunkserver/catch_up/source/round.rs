//! What a round begins with, all of it as of one index, A0: see [`catch_up`](super::super).

use crate::chunkserver::Copyset;
use crate::ids::{ChunkId, LogIndex, Term};
use crate::raft_group::encode_conf_state;
use crate::store::Store;

/// See the module's documentation.
pub(super) struct Round {
    pub index: LogIndex,
    /// Of the entry at `index`.
    pub term: Term,
    pub conf_state: Vec<u8>,
    /// The copyset's state, encoded.
    pub state: Vec<u8>,
    /// The chunks that there were, ascending.
    pub chunks: Vec<ChunkId>,
}

impl Round {
    /// Takes everything as it is now, which is as of the copyset's applied index.
    pub fn begin(copyset: &Copyset, store: &Store) -> Round {
        let mut state = Vec::with_capacity(copyset.state.image_bytes());
        copyset.state.encode(&mut state);
        let mut chunks = Vec::new();
        let mut after = None;
        while let Some(chunk) = store.chunk_after(copyset.id, after) {
            after = Some(chunk.key.chunk);
            chunks.push(chunk.key.chunk);
        }
        Round {
            index: copyset.state.applied(),
            term: copyset.state.applied_term(),
            conf_state: encode_conf_state(copyset.group.log().conf_state()).to_vec(),
            state,
            chunks,
        }
    }
}
