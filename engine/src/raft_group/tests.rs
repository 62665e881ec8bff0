//! Three groups in one thread, wired by queues; their "journal" is durable when the test says so.

use culvert_memory::Pages;
use proptest::prelude::*;
use raft::eraftpb::ConfState;

use super::*;
use crate::ids::{
    BatchNumber, BlockRange, ChunkId, Epoch, Extent, Extents, RequestNumber, SessionId,
};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use crate::wire::{AppendHeader, PeerMessage, PeerMessageKind};

const COPYSET: CopysetId = CopysetId(7);
const TICK_NS: u64 = 10_000_000;

fn options() -> GroupOptions {
    GroupOptions {
        tick_ns: TICK_NS,
        election_ticks: 10,
        heartbeat_ticks: 2,
        lease_margin_ns: TICK_NS,
        inflight_messages_max: 64,
        message_entries_max: 16,
    }
}

/// Stores nothing but remembers what it was told, in order.
#[derive(Default)]
struct Journal {
    batch: u64,
    stored: Vec<(u64, u64, u32)>,
    applied: Vec<(u64, Vec<u8>)>,
    hard_states: Vec<(u64, u64)>,
    released: Vec<Extent>,
    next_extent: u32,
}

impl Host for Journal {
    fn open_batch(&self) -> BatchNumber {
        BatchNumber(self.batch + 1)
    }
    fn store_hard_state(&mut self, _: CopysetId, term: Term, vote: u64, _: LogIndex) {
        self.hard_states.push((term.0, vote));
    }
    fn store_entry(&mut self, entry: &StoredEntry<'_>, _payload: &[Pages]) -> Extents {
        let record = &entry.record;
        self.stored.push((record.index().0, record.term().0, record.payload_blocks()));
        let blocks = record.payload_blocks();
        let extent = Extent { start: self.next_extent, blocks };
        self.next_extent += blocks;
        if blocks == 0 { Extents::new() } else { std::iter::once(extent).collect() }
    }
    fn release(&mut self, extents: &[Extent]) {
        self.released.extend(extents);
    }
    fn store_conf_state(&mut self, _: CopysetId, _: &ConfState) {}
    fn apply(&mut self, entry: &LogEntry<'_>) {
        self.applied.push((entry.record.index().0, entry.record.bytes().to_vec()));
    }
    fn install_snapshot(&mut self, _: LogIndex, _: Term, _: &ConfState) {}
    fn doubt_over(&mut self, _: CopysetId) {}
    fn role_changed(&mut self, _: Role, _: Option<ReplicaId>) {}
}

struct Node {
    group: Group,
    journal: Journal,
    outbox: Outbox,
    cut: bool,
}

struct World {
    nodes: Vec<Node>,
    now_ns: u64,
}

fn conf_state(voters: u64) -> ConfState {
    ConfState { voters: (1..=voters).collect(), ..ConfState::default() }
}

fn fresh_log(voters: u64) -> Log {
    Log::new(Default::default(), conf_state(voters), (LogIndex(0), Term(0)))
}

fn write(token: u64) -> Proposal<'static> {
    Proposal {
        operation: Operation::Write,
        chunk: ChunkId(token),
        range: BlockRange { first: 0, blocks: 1 },
        sequence: 0,
        epoch: Epoch(0),
        session: SessionId(0),
        request: RequestNumber(0),
        crcs: &[1],
        body: &[],
    }
}

impl World {
    fn new(voters: u64) -> World {
        let nodes = (1..=voters)
            .map(|id| Node {
                group: Group::new(
                    COPYSET,
                    ReplicaId(id),
                    fresh_log(voters),
                    LogIndex(0),
                    0,
                    options(),
                    0,
                ),
                journal: Journal::default(),
                outbox: Outbox::default(),
                cut: false,
            })
            .collect();
        World { nodes, now_ns: TICK_NS * 100 }
    }

    fn tick(&mut self) {
        self.now_ns += TICK_NS;
        for node in &mut self.nodes {
            node.group.tick();
        }
    }

    /// Everything ready is stored, made durable and delivered; once around.
    fn turn(&mut self) {
        let now_ns = self.now_ns;
        for node in &mut self.nodes {
            if node.group.has_ready() {
                node.group.ready(&mut node.journal, &mut node.outbox, now_ns);
            }
            node.journal.batch += 1;
            node.group.durable(BatchNumber(node.journal.batch), &mut node.outbox, now_ns);
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        for from in 0..self.nodes.len() {
            let outbox = std::mem::take(&mut self.nodes[from].outbox);
            if self.nodes[from].cut {
                continue;
            }
            for message in outbox.messages {
                let to = &mut self.nodes[message.to.0 as usize - 1];
                if !to.cut {
                    let _silent_or_stale = to.group.step(&message, self.now_ns);
                }
            }
            for range in outbox.appends {
                self.deliver_append(from, range);
            }
        }
    }

    fn deliver_append(&mut self, from: usize, range: AppendRange) {
        let sender = &self.nodes[from].group;
        let header = AppendHeader {
            copyset: COPYSET,
            from: sender.replica(),
            to: range.to,
            term: range.term,
            previous_index: range.previous_index,
            previous_term: range.previous_term,
            commit: range.commit,
            sent_ns: self.now_ns,
        };
        let first = range.previous_index.0 + 1;
        let records: Vec<Vec<u8>> = (first..first + u64::from(range.count))
            .filter_map(|index| Some(sender.log().get(LogIndex(index))?.record.bytes().to_vec()))
            .collect();
        let to = &mut self.nodes[range.to.0 as usize - 1];
        if to.cut {
            return;
        }
        let entries = records.iter().map(|bytes| {
            let record = RecordView::parse(bytes).expect("a record of the log");
            (StoredEntry { record, live_mask: 0, superseded_by: None }, &[][..])
        });
        match to.group.step_append(&header, entries, self.now_ns) {
            Ok(()) | Err(Refusal::InDoubt) => {}
            Err(refusal) => panic!("a correct leader's append: {refusal}"),
        }
    }

    /// A replica loses its journal from behind entry `kept` on, votes and all, and starts again.
    fn forget(&mut self, at: usize, kept: u64, restarts: u64) {
        let node = &mut self.nodes[at];
        let voters = node.group.voters().len() as u64;
        let mut log = fresh_log(voters);
        for index in 1..=kept {
            let entry = node.group.log().get(LogIndex(index)).expect("nothing is compacted");
            log.append(&entry.record, &entry.extents(), None, None);
        }
        let term = log.term_at(LogIndex(kept)).expect("within the log").0;
        let hard_state = raft::eraftpb::HardState { term, commit: kept, ..Default::default() };
        log.set_hard_state(&hard_state);
        let (id, now_ns) = (ReplicaId(at as u64 + 1), self.now_ns);
        let applied = LogIndex(kept);
        node.group = Group::new(COPYSET, id, log, applied, restarts, options(), now_ns);
        node.group.put_in_doubt(true);
        node.journal.applied.truncate(kept as usize);
        node.outbox = Outbox::default();
        for (other, node) in self.nodes.iter_mut().enumerate() {
            if other != at && node.group.is_leader() {
                node.group.report_unreachable(id);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..12 {
            self.turn();
        }
    }

    /// Ticks until somebody leads; who it is depends on hashes only.
    fn elect(&mut self) -> usize {
        for _ in 0..200 {
            self.tick();
            self.settle();
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody was elected");
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| !node.cut && node.group.has_applied_own_term())
    }
}

#[test]
fn elects_replicates_and_applies_in_order() {
    let mut world = World::new(3);
    let leader = world.elect();
    for token in 0..100 {
        let node = &mut world.nodes[leader];
        node.group.propose(&write(token), None).expect("the leader takes proposals");
        if token % 7 == 0 {
            world.turn();
        }
    }
    for _ in 0..4 {
        world.settle();
        world.tick();
    }
    world.settle();
    let expected = world.nodes[leader].journal.applied.clone();
    assert_eq!(expected.len(), 101, "the term's first entry and a hundred writes");
    for node in &world.nodes {
        assert_eq!(node.journal.applied, expected);
    }
}

#[test]
fn nothing_is_acknowledged_or_applied_before_it_is_durable() {
    let mut world = World::new(3);
    let leader = world.elect();
    let before = world.nodes[leader].journal.applied.len();
    world.nodes[leader].group.propose(&write(1), None).expect("leader");
    for _ in 0..10 {
        let now_ns = world.now_ns;
        for node in &mut world.nodes {
            if node.group.has_ready() {
                node.group.ready(&mut node.journal, &mut node.outbox, now_ns);
            }
        }
        world.deliver();
    }
    assert_eq!(world.nodes[leader].journal.applied.len(), before, "nobody's batch is durable");
    world.settle();
    assert_eq!(world.nodes[leader].journal.applied.len(), before + 1);
}

#[test]
fn a_deposed_leader_loses_its_lease_before_another_leads() {
    let mut world = World::new(3);
    let old = world.elect();
    world.tick();
    world.tick();
    world.settle();
    assert!(world.nodes[old].group.holds_lease(world.now_ns));
    world.nodes[old].cut = true;
    let mut new = None;
    for _ in 0..200 {
        world.tick();
        world.settle();
        let elected = world.leader();
        if elected.is_some() {
            assert!(!world.nodes[old].group.holds_lease(world.now_ns), "two may answer reads");
            new = elected;
            break;
        }
    }
    assert!(new.is_some(), "the others elect one of them");
}

#[test]
fn uncommitted_entries_give_way_and_release_their_extents() {
    let mut world = World::new(3);
    let old = world.elect();
    world.nodes[old].cut = true;
    for token in 0..5 {
        world.nodes[old].group.propose(&write(token), None).expect("it does not know yet");
    }
    world.settle();
    let new = world.elect();
    world.nodes[new].group.propose(&write(9), None).expect("leader");
    world.settle();
    world.nodes[old].cut = false;
    for _ in 0..30 {
        world.tick();
        world.settle();
    }
    assert_eq!(world.nodes[old].journal.applied, world.nodes[new].journal.applied);
    let released: u32 = world.nodes[old].journal.released.iter().map(|e| e.blocks).sum();
    assert_eq!(released, 5);
}

#[test]
fn who_gives_way_leaves_the_next_elections_to_others() {
    let mut world = World::new(5);
    let old = world.elect();
    world.nodes[old].group.propose(&write(1), None).expect("the leader takes proposals");
    world.nodes[old].group.give_way();
    assert!(!world.nodes[old].group.is_leader() && !world.nodes[old].group.holds_lease(0));
    let new = world.elect();
    assert_ne!(new, old);
    world.nodes[new].group.propose(&write(2), None).expect("the leader takes proposals");
    for _ in 0..4 {
        world.settle();
        world.tick();
    }
    world.settle();
    let expected = world.nodes[new].journal.applied.clone();
    assert!(world.nodes.iter().all(|node| node.journal.applied == expected));
}

#[test]
fn who_gives_way_in_vain_stands_again_later() {
    let mut world = World::new(3);
    let old = world.elect();
    // The other two cannot elect anybody without it: one is gone, and one has less.
    world.nodes[(old + 1) % 3].cut = true;
    world.nodes[(old + 2) % 3].cut = true;
    world.nodes[old].group.propose(&write(1), None).expect("the leader takes proposals");
    world.settle();
    world.nodes[(old + 2) % 3].cut = false;
    world.nodes[old].group.give_way();
    let mut ticks = 0;
    while world.leader().is_none() {
        world.tick();
        world.settle();
        ticks += 1;
        assert!(ticks < 20 * options().election_ticks, "nobody leads any more");
    }
    assert_eq!(world.leader(), Some(old));
    assert!(ticks > ABSTENTION_ELECTIONS * options().election_ticks / 2);
}

#[test]
fn a_replica_that_just_started_gives_no_vote() {
    let mut world = World::new(3);
    world.now_ns = 0;
    let request = PeerMessage {
        kind: PeerMessageKind::RequestVote,
        reject: false,
        copyset: COPYSET,
        from: ReplicaId(2),
        to: ReplicaId(1),
        term: Term(9),
        log_term: Term(9),
        index: LogIndex(9),
        commit: LogIndex(0),
        commit_term: Term(0),
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        sent_ns: 0,
        context: 0,
    };
    let group = &mut world.nodes[0].group;
    assert_eq!(group.step(&request, 0), Err(Refusal::Promised));
    let after = options().promise_ns();
    assert_eq!(group.step(&request, after), Ok(()));
}

/// The library's own promise ends with any word of a higher term, such as the refusal of a pre-vote
/// that this replica asked for before it heard of its leader.
#[test]
fn a_promise_to_a_leader_outlives_a_higher_term() {
    let mut world = World::new(3);
    let group = &mut world.nodes[1].group;
    let started_ns = options().promise_ns();
    let heartbeat = PeerMessage { sent_ns: 5, ..leaders_word(PeerMessageKind::Heartbeat, 0) };
    group.step(&heartbeat, started_ns).expect("a leader's word");
    let of_third = |kind, term| PeerMessage {
        from: ReplicaId(3),
        term: Term(term),
        log_term: Term(9),
        ..leaders_word(kind, 9)
    };
    let refusal =
        PeerMessage { reject: true, ..of_third(PeerMessageKind::RequestPreVoteResponse, 4) };
    group.step(&refusal, started_ns).expect("an answer");
    assert_eq!((group.term(), group.leader()), (Term(4), None));
    let until_ns = started_ns + options().promise_ns();
    for kind in [PeerMessageKind::RequestPreVote, PeerMessageKind::RequestVote] {
        let request = of_third(kind, 5);
        assert_eq!(group.step(&request, until_ns - 1), Err(Refusal::Promised));
    }
    // Its leader has given its lease up before it asked somebody to campaign.
    let asked = PeerMessage {
        context: super::message::CONTEXT_TRANSFER,
        ..of_third(PeerMessageKind::RequestVote, 5)
    };
    group.step(&asked, until_ns - 1).expect("no promise covers that");
    assert_eq!(group.term(), Term(5));
    // A leader of the past is promised nothing.
    group.step(&heartbeat, until_ns).expect("an old word");
    group.step(&of_third(PeerMessageKind::RequestVote, 6), until_ns).expect("nobody was promised");
}

/// What the library calls messages of a ready that waits for its persistence are then those of the
/// leader that this replica was before: with entries that its log may not hold any more.
#[test]
fn a_leader_that_is_deposed_before_its_ready_sends_no_entries() {
    let mut world = World::new(3);
    let leader = world.elect();
    let other = ReplicaId(((leader + 1) % 3 + 1) as u64);
    let now_ns = world.now_ns;
    let node = &mut world.nodes[leader];
    let term = Term(node.group.term().0 + 1);
    node.group.propose(&write(1), None).expect("leader");
    // Proposals are handed to the library here, which answers with messages of their entries.
    node.group.report_unreachable(other);
    let heartbeat = PeerMessage {
        kind: PeerMessageKind::Heartbeat,
        reject: false,
        copyset: COPYSET,
        from: other,
        to: node.group.replica(),
        term,
        log_term: Term(0),
        index: LogIndex(0),
        commit: LogIndex(0),
        commit_term: Term(0),
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        sent_ns: now_ns,
        context: 0,
    };
    node.group.step(&heartbeat, now_ns).expect("a new leader's word");
    assert!(!node.group.is_leader());
    node.group.ready(&mut node.journal, &mut node.outbox, now_ns);
    node.journal.batch += 1;
    node.group.durable(BatchNumber(node.journal.batch), &mut node.outbox, now_ns);
    assert_eq!(node.outbox.appends.len(), 0);
    assert!(node.outbox.messages.iter().all(|message| message.term == term), "of the new term");
}

#[test]
fn a_lone_voter_elects_itself() {
    let mut world = World::new(1);
    let leader = world.elect();
    world.nodes[leader].group.propose(&write(1), None).expect("leader");
    world.settle();
    assert_eq!(world.nodes[leader].journal.applied.len(), 2);
}

#[test]
fn membership_changes_through_a_joint_configuration() {
    let mut world = World::new(3);
    let leader = world.elect();
    let gone = ReplicaId(if leader == 0 { 2 } else { 1 });
    let changes = [Change::Remove(gone), Change::AddLearner(gone)];
    world.nodes[leader].group.propose_membership(&changes[..1]).expect("leader");
    for _ in 0..10 {
        world.settle();
        world.tick();
    }
    let group = &world.nodes[leader].group;
    assert_eq!(group.voters().len(), 2);
    assert!(group.log().conf_state().get_voters_outgoing().is_empty(), "joint state was left");
}

#[test]
fn read_index_waits_for_a_majority() {
    let mut world = World::new(3);
    let leader = world.elect();
    let context = world.nodes[leader].group.read_index().expect("leader with applied term");
    let now_ns = world.now_ns;
    let node = &mut world.nodes[leader];
    node.group.ready(&mut node.journal, &mut node.outbox, now_ns);
    assert!(node.outbox.reads.is_empty());
    world.deliver();
    let mut confirmed = Vec::new();
    for _ in 0..6 {
        for node in &mut world.nodes {
            if node.group.has_ready() {
                node.group.ready(&mut node.journal, &mut node.outbox, now_ns);
            }
            node.journal.batch += 1;
            node.group.durable(BatchNumber(node.journal.batch), &mut node.outbox, now_ns);
        }
        confirmed.append(&mut world.nodes[leader].outbox.reads);
        world.deliver();
    }
    assert_eq!(confirmed.len(), 1);
    assert_eq!(confirmed[0].0, context);
}

#[test]
fn equal_histories_elect_equal_leaders() {
    let first = World::new(3).elect();
    for _ in 0..5 {
        assert_eq!(World::new(3).elect(), first);
    }
}

fn any_message() -> impl Strategy<Value = PeerMessage> {
    let count = prop_oneof![0u64..6, 0u64..40, Just(u64::MAX), Just(1 << 55)];
    let ids = 0u64..5;
    (
        (1u8..=9, any::<bool>(), ids.clone(), ids),
        prop::collection::vec(count, 7),
        prop_oneof![Just(0u64), Just(1), Just(99)],
    )
        .prop_map(|((kind, reject, from, to), counts, context)| PeerMessage {
            kind: PeerMessageKind::from_byte(kind).expect("a kind"),
            reject,
            copyset: COPYSET,
            from: ReplicaId(from),
            to: ReplicaId(to),
            term: Term(counts[0]),
            log_term: Term(counts[1]),
            index: LogIndex(counts[2]),
            commit: LogIndex(counts[3]),
            commit_term: Term(counts[4]),
            reject_hint: LogIndex(counts[5]),
            request_snapshot: LogIndex(counts[6]),
            sent_ns: context,
            context,
        })
}

fn any_append() -> impl Strategy<Value = (AppendHeader, Vec<u64>)> {
    let count = prop_oneof![0u64..6, 0u64..40, Just(u64::MAX)];
    (prop::collection::vec(count, 4), 0u64..5, prop::collection::vec(0u64..9, 0..5)).prop_map(
        |(counts, from, terms)| {
            let header = AppendHeader {
                copyset: COPYSET,
                from: ReplicaId(from),
                to: ReplicaId(1),
                term: Term(counts[0]),
                previous_index: LogIndex(counts[1]),
                previous_term: Term(counts[2]),
                commit: LogIndex(counts[3]),
                sent_ns: 1,
            };
            (header, terms)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000.max(ProptestConfig::default().cases), ..ProptestConfig::default() })]

    /// No message of a peer reaches one of the library's panics, whatever the replica's state.
    #[test]
    fn lies_do_not_end_the_process(
        leads in any::<bool>(),
        messages in prop::collection::vec(prop_oneof![
            any_message().prop_map(|message| (Some(message), None)),
            any_append().prop_map(|append| (None, Some(append))),
        ], 1..12),
    ) {
        let mut world = World::new(3);
        let leader = world.elect();
        for token in 0..4 {
            world.nodes[leader].group.propose(&write(token), None).expect("leader");
        }
        world.settle();
        let victim = if leads { leader } else { (leader + 1) % 3 };
        world.nodes[victim].group.compact(LogIndex(2));
        let own = world.nodes[victim].group.replica();
        for (message, append) in messages {
            let node = &mut world.nodes[victim];
            if let Some(mut message) = message {
                if message.to.0 != 0 { message.to = own; }
                let _refused = node.group.step(&message, world.now_ns);
            }
            if let Some((mut header, terms)) = append {
                header.to = own;
                let mut bytes = Vec::new();
                let mut index = header.previous_index;
                for term in terms {
                    if index.0 > 1 << 57 { break; }
                    index = index.next();
                    let mut out = [0; RECORD_BYTES_MAX];
                    bytes.push(Proposal::noop().emit(COPYSET, Term(term), index, &mut out).to_vec());
                }
                let entries = bytes.iter().map(|bytes| {
                    let record = RecordView::parse(bytes).expect("own record");
                    (StoredEntry { record, live_mask: 0, superseded_by: None }, &[][..])
                });
                let _refused = node.group.step_append(&header, entries, world.now_ns);
            }
            node.group.tick();
            if node.group.has_ready() {
                node.group.ready(&mut node.journal, &mut node.outbox, world.now_ns);
            }
            node.journal.batch += 1;
            node.group.durable(BatchNumber(node.journal.batch), &mut node.outbox, world.now_ns);
        }
    }
}

fn leaders_word(kind: PeerMessageKind, index: u64) -> PeerMessage {
    PeerMessage {
        kind,
        reject: false,
        copyset: COPYSET,
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(3),
        log_term: Term(3),
        index: LogIndex(index),
        commit: LogIndex(0),
        commit_term: Term(0),
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        sent_ns: 0,
        context: 0,
    }
}

/// A raft snapshot that a catch-up prepared: the log begins anew, payload of applied entries stays
/// with the chunks, and nobody campaigns before it is durable.
#[test]
fn a_raft_snapshot_restarts_the_log() {
    let mut log = fresh_log(3);
    for index in 1..=6 {
        let mut bytes = [0; RECORD_BYTES_MAX];
        let record = write(index).emit(COPYSET, Term(1), LogIndex(index), &mut bytes);
        let extent = Extent { start: 100 + index as u32, blocks: 1 };
        log.append(&RecordView::trusted(record), &[extent], None, None);
    }
    log.set_hard_state(&raft::eraftpb::HardState {
        term: 1,
        vote: 0,
        commit: 4,
        ..Default::default()
    });
    let mut group = Group::new(COPYSET, ReplicaId(2), log, LogIndex(4), 0, options(), 0);
    let (mut journal, mut outbox) = (Journal::default(), Outbox::default());
    let now_ns = TICK_NS * 100;

    let snapshot = leaders_word(PeerMessageKind::Snapshot, 50);
    assert_eq!(group.step(&snapshot, now_ns), Err(Refusal::UnpreparedSnapshot));
    let (index, term) = (LogIndex(50), Term(3));
    let expected = ExpectedSnapshot { index, term, conf_state: conf_state(3) };
    group.expect_snapshot(Some(expected));
    assert_eq!(group.step(&snapshot, now_ns), Ok(()));
    group.ready(&mut journal, &mut outbox, now_ns);
    assert_eq!(group.log().base(), (index, term));
    assert_eq!((group.applied(), group.commit()), (index, index));
    let released: Vec<u32> = journal.released.iter().map(|extent| extent.start).collect();
    assert_eq!(released, [106, 105], "entries 1 to 4 were applied: their payload is the chunks'");

    let order = leaders_word(PeerMessageKind::TimeoutNow, 0);
    assert_eq!(group.step(&order, now_ns), Err(Refusal::Restoring));
    group.campaign();
    (0..100).for_each(|_| group.tick());
    assert_eq!(group.step(&snapshot, now_ns), Err(Refusal::UnpreparedSnapshot), "once only");
    group.durable(journal.open_batch(), &mut outbox, now_ns);
    let answer = outbox.messages.last().expect("an answer");
    assert_eq!((answer.kind, answer.index), (PeerMessageKind::AppendResponse, index));
    (0..100).for_each(|_| group.tick());
    group.ready(&mut journal, &mut outbox, now_ns);
    assert_eq!(group.role(), Role::Candidate, "it may campaign now");
}

/// A membership that a peer made up does not reach the library.
#[test]
fn only_memberships_that_can_be_are_restored() {
    let lists = |voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64]| ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        voters_outgoing: outgoing.to_vec(),
        learners_next: next.to_vec(),
        ..ConfState::default()
    };
    let can = |conf_state: ConfState| can_restore(&conf_state, ReplicaId(2));
    assert!(can(lists(&[1, 2, 3], &[], &[], &[])));
    assert!(can(lists(&[1], &[2], &[], &[])));
    assert!(can(lists(&[1, 3], &[], &[1, 2], &[2])));
    assert!(!can(lists(&[1, 3], &[], &[], &[])), "without us");
    assert!(!can(lists(&[1, 2, 2], &[], &[], &[])));
    assert!(!can(lists(&[0, 2], &[], &[], &[])));
    assert!(!can(lists(&[1, 2], &[2], &[], &[])));
    assert!(!can(lists(&[1, 2], &[], &[1], &[3])));
    assert!(!can(lists(&[], &[2], &[], &[])));
}

#[test]
fn a_replica_in_doubt_promises_nothing_until_all_others_answered() {
    let mut world = World::new(3);
    let leader = world.elect();
    for token in 0..5 {
        world.nodes[leader].group.propose(&write(token), None).expect("leader");
    }
    for _ in 0..4 {
        world.settle();
        world.tick();
    }
    let (doubtful, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.forget(doubtful, 2, 1);
    world.nodes[other].cut = true;
    for _ in 0..60 {
        world.tick();
        world.settle();
        assert_eq!(world.nodes[doubtful].group.doubt_stage(), Some(DoubtStage::Asking));
        assert_eq!(world.nodes[doubtful].group.log().last(), LogIndex(2), "it takes nothing in");
    }
    assert_eq!(world.leader(), None, "its answers are no majority's");
    let now_ns = world.now_ns;
    let request = PeerMessage {
        from: ReplicaId(leader as u64 + 1),
        to: ReplicaId(doubtful as u64 + 1),
        term: Term(9),
        ..leaders_word(PeerMessageKind::RequestVote, 9)
    };
    assert_eq!(world.nodes[doubtful].group.step(&request, now_ns), Err(Refusal::InDoubt));
    world.nodes[other].cut = false;
    world.elect();
    for _ in 0..20 {
        world.tick();
        world.settle();
    }
    assert_eq!(world.nodes[doubtful].group.doubt_stage(), None);
    let expected = world.nodes[leader].journal.applied.clone();
    assert!(expected.len() >= 6);
    assert_eq!(world.nodes[doubtful].journal.applied, expected);
}

#[test]
fn readmission_is_good_for_one_question_and_one_term() {
    let mut group = Group::new(COPYSET, ReplicaId(2), fresh_log(3), LogIndex(0), 4, options(), 0);
    group.put_in_doubt(false);
    let (mut journal, mut outbox) = (Journal::default(), Outbox::default());
    let now_ns = TICK_NS * 100;
    let heartbeat = leaders_word(PeerMessageKind::Heartbeat, 0);
    assert_eq!(group.step(&heartbeat, now_ns), Err(Refusal::InDoubt));
    assert!(!group.has_ready(), "what it is now is not durable yet");
    group.settle_doubt();
    assert_eq!(group.step(&heartbeat, now_ns), Err(Refusal::InDoubt));
    group.ready(&mut journal, &mut outbox, now_ns);
    let question = outbox.messages.pop().expect("a question");
    assert_eq!((question.kind, question.to), (PeerMessageKind::Doubt, heartbeat.from));
    let mut answer = leaders_word(PeerMessageKind::Readmit, 7);
    answer.context = question.context + 1;
    assert_eq!(group.step(&answer, now_ns), Ok(()));
    assert_eq!(group.doubt_stage(), Some(DoubtStage::Asking), "another question was meant");
    answer.context = question.context;
    assert_eq!(group.step(&answer, now_ns), Ok(()));
    assert_eq!(group.doubt_stage(), Some(DoubtStage::Following));
    assert_eq!(group.step(&heartbeat, now_ns), Ok(()));
    let later = PeerMessage { term: Term(heartbeat.term.0 + 1), ..heartbeat };
    assert_eq!(group.step(&later, now_ns), Err(Refusal::InDoubt));
    assert_eq!(group.step(&answer, now_ns), Ok(()), "too late");
    assert_eq!(group.doubt_stage(), Some(DoubtStage::Asking));
}

/// What any replica applied at an index, all apply there, although replicas forget what they
/// promised: one at a time, as the others have to know what it knew.
fn forgetful(seed: u64, voters: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % bound
    };
    let mut world = World::new(voters);
    let mut decided: Vec<Vec<u8>> = Vec::new();
    let (mut token, mut restarts, mut forgotten) = (0, 0, 0);
    for step in 0..700 {
        let healing = step >= 600;
        let at = below(voters) as usize;
        let in_doubt = world.nodes.iter().any(|node| node.group.doubt_stage().is_some());
        match below(12) {
            _ if healing => world.nodes.iter_mut().for_each(|node| node.cut = false),
            0 => world.nodes[at].cut = true,
            1 | 2 => world.nodes[at].cut = false,
            3 if !in_doubt => {
                restarts += 1;
                forgotten += 1;
                let applied = world.nodes[at].group.applied().0;
                world.forget(at, below(applied + 1), restarts);
            }
            4..8 if world.nodes[at].group.is_leader() => {
                token += 1;
                let _handing_over = world.nodes[at].group.propose(&write(token), None);
            }
            _ => {}
        }
        if below(2) == 0 {
            world.tick();
        }
        (0..below(4)).for_each(|_| world.turn());
        for node in &world.nodes {
            for (at, (index, bytes)) in node.journal.applied.iter().enumerate() {
                assert_eq!(*index, at as u64 + 1);
                match decided.get(at) {
                    Some(known) => assert_eq!(known, bytes, "entry {index} of seed {seed}"),
                    None => decided.push(bytes.clone()),
                }
            }
        }
    }
    for _ in 0..80 {
        world.tick();
        world.settle();
    }
    assert!(forgotten > 0);
    for node in &world.nodes {
        assert_eq!(node.group.doubt_stage(), None, "seed {seed}");
        assert!(node.journal.applied.len() >= decided.len(), "seed {seed}");
    }
}

#[test]
fn nothing_decided_is_lost_with_what_one_replica_forgets() {
    (0..150).for_each(|seed| forgetful(seed, 3));
    (0..60).for_each(|seed| forgetful(seed, 5));
}
