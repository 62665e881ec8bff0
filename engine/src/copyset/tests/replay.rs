//! Recovery from a checkpoint whose parts were captured at different indexes gives the state that
//! the crash interrupted.

use proptest::prelude::*;

use super::node::{COPYSET, Node, Plan, geometry, plan, record};
use crate::copyset::*;
use crate::ids::{ChunkId, Extents};
use crate::store::{Loaded, PIECE_BYTES_MIN};

/// A checkpoint while it is written, and when it is done.
#[derive(Default)]
struct Checkpoint {
    state: Vec<u8>,
    base: LogIndex,
    pieces: Vec<Vec<u8>>,
    after: Option<ChunkId>,
    /// The applied index when the last part was captured; zero: it is not done.
    done: LogIndex,
}

impl Checkpoint {
    fn begin(node: &Node) -> Checkpoint {
        let mut state = Vec::new();
        node.state.encode(&mut state);
        Checkpoint { state, base: node.state.applied(), ..Checkpoint::default() }
    }

    /// Captures one more chunk, or in the end the absences.
    fn go_on(&mut self, node: &mut Node) {
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
            let encoded = node.store.encode_chunk(frozen, block, &mut out);
            self.pieces.push(out[..encoded.bytes].to_vec());
            from = encoded.next;
        }
        node.store.thaw(frozen);
    }

    /// Recovers a node that knows entries up to `commit` to be committed.
    fn recover(&self, node: &Node, commit: LogIndex) -> Node {
        let mut recovered = Node {
            state: CopysetState::parse(&self.state).expect("own image"),
            store: Store::recovering(geometry()),
            log: node.log.clone(),
            batch: 0,
        };
        for piece in &self.pieces {
            assert!(!matches!(recovered.store.load(piece), Ok(Loaded::Part(_)) | Err(_)));
        }
        recovered.apply_to(commit);
        for at in commit.0 as usize..recovered.log.len() {
            let entry = &recovered.log[at];
            if recovered.store.covers(entry.key(), entry.view().index()) {
                recovered.log[at].extents = Extents::new();
            }
        }
        let live: Vec<_> = recovered.log[commit.0 as usize..]
            .iter()
            .map(|entry| crate::store::LivePayload {
                key: entry.key(),
                index: entry.view().index(),
                extents: &entry.extents,
            })
            .collect();
        recovered.store.finish_recovery(live).expect("nothing is used twice");
        recovered
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Plan),
    Apply(usize),
    /// Seals a batch that says how far is committed, and makes all before it durable.
    Batch,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => plan().prop_map(Step::Append),
        3 => (1_usize..5).prop_map(Step::Apply),
        3 => Just(Step::Batch),
        3 => Just(Step::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn recovery_ends_where_the_node_was(
        steps in prop::collection::vec(step(), 1..300),
        commit in any::<prop::sample::Index>(),
    ) {
        let mut node = Node::new();
        let mut valid = Checkpoint { done: LogIndex(0), ..Checkpoint::begin(&node) };
        let mut current: Option<Checkpoint> = None;
        let mut durable_commit = LogIndex(0);
        for step in steps {
            match step {
                Step::Append(plan) => {
                    let index = LogIndex(node.log.len() as u64 + 1);
                    node.append(record(&plan, index));
                }
                Step::Apply(count) => {
                    let end = (node.state.applied().0 + count as u64).min(node.log.len() as u64);
                    node.apply_to(LogIndex(end));
                }
                Step::Batch => {
                    durable_commit = node.state.applied();
                    node.turn();
                }
                Step::Checkpoint => {
                    let mut checkpoint = current.take().unwrap_or_else(|| Checkpoint::begin(&node));
                    checkpoint.go_on(&mut node);
                    if checkpoint.done > LogIndex(0) {
                        node.store.forget_deletions(COPYSET, checkpoint.base);
                        valid = checkpoint;
                    } else {
                        current = Some(checkpoint);
                    }
                }
            }
        }
        let live = node.live();
        prop_assert_eq!(node.store.verify(live), Ok(0));

        // What the journal proves to be committed lies between what made releases durable and
        // what was applied.
        let low = durable_commit.max(valid.done).0;
        let commit = LogIndex(low + commit.index((node.state.applied().0 - low + 1) as usize) as u64);
        let mut recovered = valid.recover(&node, commit);
        recovered.apply_to(node.state.applied());
        prop_assert_eq!(recovered.digest(true), node.digest(true));
        let end = LogIndex(node.log.len() as u64);
        for node in [&mut node, &mut recovered] {
            node.apply_to(end);
            node.turn();
            prop_assert_eq!(node.store.verify([]), Ok(0));
        }
        prop_assert_eq!(recovered.digest(true), node.digest(true));
    }
}
