//! Recovery from a checkpoint whose parts were captured at different indexes gives the state that
//! the crash interrupted.

use proptest::prelude::*;

use super::checkpoint::Checkpoint;
use super::node::{COPYSET, Node, Plan, plan, record};
use crate::copyset::*;

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
        let mut valid = Checkpoint::begin(&node);
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
        prop_assert_eq!(node.store.verify(live, &[]), Ok(0));

        // What the journal proves to be committed lies between what made releases durable and
        // what was applied.
        let low = durable_commit.max(valid.done).0;
        let commit = LogIndex(low + commit.index((node.state.applied().0 - low + 1) as usize) as u64);
        let mut recovered = valid.recover(&node, commit, &[]);
        recovered.apply_to(node.state.applied());
        prop_assert_eq!(recovered.digest(true), node.digest(true));
        let end = LogIndex(node.log.len() as u64);
        for node in [&mut node, &mut recovered] {
            node.apply_to(end);
            node.turn();
            prop_assert_eq!(node.store.verify([], &[]), Ok(0));
        }
        prop_assert_eq!(recovered.digest(true), node.digest(true));
    }
}
