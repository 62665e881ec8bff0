//! A receiver that takes over what changed, chunk by chunk, ends where its sender is, whatever it
//! applies of its own log meanwhile and however often it crashes.

use proptest::prelude::*;

use super::checkpoint::{Checkpoint, Taken, What};
use super::node::{COPYSET, Node, Plan, plan, record};
use crate::copyset::*;
use crate::ids::ChunkId;
use crate::store::{InstallBlock, Place};

#[derive(Clone, Debug)]
enum Step {
    /// The sender goes on.
    Send(Plan),
    /// The receiver gets the list.
    List,
    /// The receiver gets a chunk.
    Chunk(u64),
    /// The receiver applies an entry of its own log.
    Apply,
    Turn,
    /// The receiver captures one more part of a checkpoint.
    Checkpoint,
    /// It crashes; a part of what its journal does not yet have to hold is lost.
    Crash {
        commit: usize,
        kept: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => plan().prop_map(Step::Send),
        1 => Just(Step::List),
        3 => (0..super::node::CHUNKS).prop_map(Step::Chunk),
        1 => Just(Step::Apply),
        1 => Just(Step::Turn),
        3 => Just(Step::Checkpoint),
        1 => (any::<usize>(), any::<usize>())
            .prop_map(|(commit, kept)| Step::Crash { commit, kept }),
    ]
}

struct Pair {
    sender: Node,
    receiver: Node,
    /// What the receiver's journal holds of what it took over.
    taken: Vec<Taken>,
    /// Of those, how many are durable, and what is known to be committed by what is durable.
    durable: (usize, LogIndex),
    /// The receiver's last checkpoint, and the one in work, with the first of `taken` each needs.
    valid: (Checkpoint, usize),
    current: Option<(Checkpoint, usize)>,
}

impl Pair {
    fn new() -> Pair {
        let receiver = Node::new();
        Pair {
            valid: (Checkpoint::begin(&receiver), 0),
            sender: Node::new(),
            receiver,
            taken: Vec::new(),
            durable: (0, LogIndex(0)),
            current: None,
        }
    }

    fn take(&mut self, what: What) {
        let taken = Taken { applied: self.receiver.state.applied(), what };
        taken.take(&mut self.receiver.store);
        self.taken.push(taken);
    }

    fn turn(&mut self) {
        self.durable = (self.taken.len(), self.receiver.state.applied());
        self.receiver.turn();
    }

    fn checkpoint(&mut self) {
        let begin = || (Checkpoint::begin(&self.receiver), self.taken.len());
        let (mut checkpoint, first) = self.current.take().unwrap_or_else(begin);
        checkpoint.go_on(&mut self.receiver);
        if checkpoint.done == LogIndex(0) {
            self.current = Some((checkpoint, first));
            return;
        }
        self.receiver.store.forget_deletions(COPYSET, checkpoint.base);
        self.durable = (self.taken.len(), self.receiver.state.applied());
        self.valid = (checkpoint, first);
    }

    fn crash(&mut self, commit: usize, kept: usize) {
        let (taken, committed) = self.durable;
        self.taken.truncate(taken + kept % (self.taken.len() - taken + 1));
        let replayed = &self.taken[self.valid.1..];
        let low = replayed.iter().map(|taken| taken.applied).max().max(Some(committed));
        let low = low.expect("at least zero").0 as usize;
        let commit = low + commit % (self.receiver.state.applied().0 as usize - low + 1);
        self.receiver = self.valid.0.recover(&self.receiver, LogIndex(commit as u64), replayed);
        self.current = None;
        // What was found is durable, and what recovery released is free at once.
        self.durable = (self.taken.len(), LogIndex(commit as u64));
        assert_eq!(self.receiver.store.verify(self.receiver.live(), &[]), Ok(0));
    }

    fn send(&mut self, plan: &Plan) {
        let index = LogIndex(self.sender.log.len() as u64 + 1);
        self.sender.append(record(plan, index));
        self.sender.apply();
        self.sender.turn();
    }

    fn list(&mut self) -> Vec<ChunkId> {
        let mut list = Vec::new();
        while let Some(chunk) = self.sender.store.chunk_after(COPYSET, list.last().copied()) {
            list.push(chunk.key.chunk);
        }
        self.take(What::List { as_of: self.sender.state.applied(), present: list.clone() });
        list
    }

    /// Sends what the receiver lacks of a chunk.
    fn chunk(&mut self, chunk: ChunkId) {
        let key = ChunkKey { copyset: COPYSET, chunk };
        let Ok(frozen) = self.sender.store.freeze(key) else { return };
        let summary = self.sender.store.frozen_summary(frozen);
        let since = match self.receiver.store.chunk(key) {
            Some(held) if held.birth == summary.birth => held.applied,
            _ => LogIndex(0),
        };
        let mut blocks = Vec::new();
        if since < summary.applied {
            for (block, mut state) in self.sender.store.frozen_blocks(frozen, since, 0) {
                if matches!(state.place, Place::At(_)) {
                    let extents = self.receiver.store.allocate(1).expect("room");
                    state.place = Place::At(extents[0].start);
                }
                blocks.push(InstallBlock { block, state });
            }
        }
        let as_of = self.sender.state.applied();
        let indexes = [summary.birth, summary.applied, as_of, since.min(summary.applied)];
        self.take(What::Chunk { key, indexes, blocks });
        self.sender.store.thaw(frozen);
    }

    /// The receiver drops its log behind `index` and continues from the sender's state at `index`.
    fn install_state(&mut self, index: LogIndex, image: &[u8]) {
        let receiver = &mut self.receiver;
        if receiver.state.applied() < index {
            for entry in &receiver.log[receiver.state.applied().0 as usize..] {
                for &extent in &entry.extents {
                    receiver.store.release(extent);
                }
            }
            receiver.log.truncate(receiver.state.applied().0 as usize);
            receiver.state = CopysetState::parse(image).expect("own image");
            for at in receiver.log.len()..index.0 as usize {
                let bytes = self.sender.log[at].bytes.clone();
                receiver.log.push(super::node::Logged { bytes, extents: [].into_iter().collect() });
            }
        }
        for at in receiver.log.len()..self.sender.log.len() {
            receiver.append(self.sender.log[at].bytes.clone());
            receiver.apply_to(LogIndex(at as u64 + 1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_receiver_ends_where_the_sender_is(
        both in prop::collection::vec(plan(), 1..40),
        unapplied in prop::collection::vec(plan(), 0..20),
        steps in prop::collection::vec(step(), 0..120),
        finish in any::<bool>(),
        last in prop::collection::vec(plan(), 0..30),
        late in 0..10,
    ) {
        let mut pair = Pair::new();
        for plan in &both {
            pair.send(plan);
            let bytes = pair.sender.log.last().expect("sent").bytes.clone();
            pair.receiver.append(bytes);
            pair.receiver.apply();
        }
        for plan in &unapplied {
            pair.send(plan);
            let bytes = pair.sender.log.last().expect("sent").bytes.clone();
            pair.receiver.append(bytes);
        }
        for step in steps {
            match step {
                Step::Send(plan) => pair.send(&plan),
                Step::List => drop(pair.list()),
                Step::Chunk(chunk) => pair.chunk(ChunkId(chunk)),
                Step::Apply => {
                    if (pair.receiver.state.applied().0 as usize) < pair.receiver.log.len() {
                        pair.receiver.apply();
                    }
                }
                Step::Turn => pair.turn(),
                Step::Checkpoint => pair.checkpoint(),
                Step::Crash { commit, kept } => pair.crash(commit, kept),
            }
        }
        if finish {
            // The last round: the state at the list's index, then all chunks of the list, while
            // the sender goes on.
            let index = pair.sender.state.applied();
            let mut image = Vec::new();
            pair.sender.state.encode(&mut image);
            let mut last = last.iter();
            for chunk in pair.list() {
                pair.chunk(chunk);
                last.next().into_iter().for_each(|plan| pair.send(plan));
            }
            last.for_each(|plan| pair.send(plan));
            // A heartbeat commits what the receiver still has in its own log.
            for _ in 0..late {
                if (pair.receiver.state.applied().0 as usize) < pair.receiver.log.len() {
                    pair.receiver.apply();
                }
            }
            pair.install_state(index, &image);
        } else {
            // The leader changed, and the new one still has every entry: the log goes on from
            // where the receiver's ends, over chunks that are ahead of it.
            let index = pair.receiver.state.applied();
            let end = LogIndex(pair.receiver.log.len() as u64);
            pair.receiver.apply_to(end);
            pair.install_state(index, &[]);
        }
        pair.receiver.turn();
        prop_assert_eq!(pair.receiver.digest(false), pair.sender.digest(false));
        prop_assert_eq!(pair.receiver.store.verify([], &[]), Ok(0));
        prop_assert_eq!(pair.sender.store.verify([], &[]), Ok(0));
    }
}
