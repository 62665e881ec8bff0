//! A checkpoint of a replica, captured part by part while the replica goes on.

use super::node::{COPYSET, Node, geometry, live};
use crate::copyset::*;
use crate::ids::{ChunkId, Extents};
use crate::store::{ChunkInstall, InstallBlock, Loaded, PIECE_BYTES_MIN};

/// A list of a peer, or a chunk, as the journal holds it.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// The replica's applied index when it was taken over: replay takes it over there again.
    pub(super) applied: LogIndex,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    List { as_of: LogIndex, present: Vec<ChunkId> },
    Chunk { key: ChunkKey, indexes: [LogIndex; 4], blocks: Vec<InstallBlock> },
}

impl Taken {
    pub(super) fn take(&self, store: &mut Store) {
        match &self.what {
            What::List { as_of, present } => store.retain_chunks(COPYSET, *as_of, present),
            What::Chunk { key, indexes: [birth, applied, as_of, since], blocks } => {
                let (key, birth, applied) = (*key, *birth, *applied);
                let (as_of, since) = (*as_of, *since);
                let install = ChunkInstall { key, birth, applied, as_of, since, blocks };
                store.install(&install).expect("it fits");
            }
        }
    }
}

/// A checkpoint while it is written, and when it is done.
#[derive(Default)]
pub(super) struct Checkpoint {
    pub(super) state: Vec<u8>,
    pub(super) base: LogIndex,
    pieces: Vec<Vec<u8>>,
    after: Option<ChunkId>,
    /// The applied index when the last part was captured; zero: it is not done.
    pub(super) done: LogIndex,
}

impl Checkpoint {
    pub(super) fn begin(node: &Node) -> Checkpoint {
        let mut state = Vec::new();
        node.state.encode(&mut state);
        Checkpoint { state, base: node.state.applied(), ..Checkpoint::default() }
    }

    /// Captures one more chunk, or in the end the absences.
    pub(super) fn go_on(&mut self, node: &mut Node) {
        let mut out = vec![0; PIECE_BYTES_MIN];
        let Some(chunk) = node.store.chunk_after(COPYSET, self.after) else {
            let encoded = node.store.encode_absences(COPYSET, None, &mut out);
            assert_eq!(encoded.next, None);
            if encoded.bytes > 0 {
                self.pieces.push(out[..encoded.bytes].to_vec());
            }
            self.done = node.state.applied();
            return;
        };
        self.after = Some(chunk.key.chunk);
        let frozen = node.store.freeze(chunk.key).expect("a chunk");
        let mut from = Some(0);
        while let Some(block) = from {
            let encoded = node.store.encode_chunk(frozen, LogIndex(0), block, &mut out);
            self.pieces.push(out[..encoded.bytes].to_vec());
            from = encoded.next;
        }
        node.store.thaw(frozen);
    }

    /// Recovers a node whose journal proves entries up to `commit` to be committed, and holds what
    /// was taken over from a peer since the checkpoint began.
    pub(super) fn recover(&self, node: &Node, commit: LogIndex, taken: &[Taken]) -> Node {
        let mut recovered = Node {
            state: CopysetState::parse(&self.state).expect("own image"),
            store: Store::recovering(geometry()),
            log: node.log.clone(),
            batch: node.batch,
        };
        for piece in &self.pieces {
            assert!(!matches!(recovered.store.load(piece), Ok(Loaded::Part(_)) | Err(_)));
        }
        for taken in taken {
            recovered.apply_to(taken.applied);
            taken.take(&mut recovered.store);
        }
        recovered.apply_to(commit);
        for at in commit.0 as usize..recovered.log.len() {
            let entry = &recovered.log[at];
            if recovered.store.covers(entry.key(), entry.view().index()) {
                recovered.log[at].extents = Extents::new();
            }
        }
        let live = live(&recovered.log[commit.0 as usize..]);
        recovered.store.finish_recovery(live, &[]).expect("nothing is used twice");
        recovered
    }
}
