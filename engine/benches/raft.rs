//! What consensus costs: three groups in one thread, storage and network left out.
//!
//! An element is one entry on all three replicas: proposed, appended, acknowledged, committed and
//! applied. Batches show what gathering the entries of a turn is worth.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert::ids::{
    BatchNumber, BlockRange, ChunkId, CopysetId, Epoch, Extent, Extents, LogIndex, ReplicaId,
    RequestNumber, SessionId, Term,
};
use culvert::raft_group::{
    AppendRange, Group, GroupOptions, Host, Log, LogEntry, Outbox, Role, StoredEntry,
};
use culvert::record::{Operation, Proposal, RecordView};
use culvert::wire::AppendHeader;
use culvert_memory::Pages;
use raft::eraftpb::{ConfState, HardState};

const COPYSET: CopysetId = CopysetId(1);
const TICK_NS: u64 = 10_000_000;
const REPLICAS: u64 = 3;
/// Entries kept behind the applied one.
const RETAINED: u64 = 1024;

/// Everything is durable at once, and applying does nothing.
#[derive(Default)]
struct Nothing {
    batch: u64,
}

impl Host for Nothing {
    fn open_batch(&self) -> BatchNumber {
        BatchNumber(self.batch + 1)
    }
    fn store_hard_state(&mut self, _: CopysetId, _: Term, _: u64, _: LogIndex) {}
    fn store_entry(&mut self, _: &StoredEntry<'_>, _: &[Pages]) -> Extents {
        Extents::new()
    }
    fn release(&mut self, _: &[Extent]) {}
    fn store_conf_state(&mut self, _: CopysetId, _: &ConfState) {}
    fn apply(&mut self, _: &LogEntry<'_>) {}
    fn install_snapshot(&mut self, _: LogIndex, _: Term, _: &ConfState) {}
    fn doubt_over(&mut self, _: CopysetId) {}
    fn role_changed(&mut self, _: Role, _: Option<ReplicaId>) {}
}

struct Replica {
    group: Group,
    host: Nothing,
    outbox: Outbox,
}

/// Three replicas wired to each other.
struct Wired {
    replicas: Vec<Replica>,
    now_ns: u64,
}

impl Wired {
    /// With the first replica as leader.
    fn new() -> Wired {
        let options = GroupOptions {
            tick_ns: TICK_NS,
            election_ticks: 10,
            heartbeat_ticks: 2,
            lease_margin_ns: TICK_NS,
            inflight_messages_max: 256,
            message_entries_max: 64,
        };
        let voters = ConfState { voters: (1..=REPLICAS).collect(), ..ConfState::default() };
        let replica = |id| {
            let log = Log::new(HardState::default(), voters.clone(), (LogIndex(0), Term(0)));
            let group = Group::new(COPYSET, ReplicaId(id), log, LogIndex(0), 0, options, 0);
            Replica { group, host: Nothing::default(), outbox: Outbox::default() }
        };
        let mut wired =
            Wired { replicas: (1..=REPLICAS).map(replica).collect(), now_ns: TICK_NS * 1000 };
        while !wired.replicas[0].group.has_applied_own_term() {
            wired.replicas[0].group.campaign();
            wired.settle();
        }
        wired
    }

    /// One turn of each replica; false when there was nothing to do.
    fn turn(&mut self) -> bool {
        let now_ns = self.now_ns;
        let mut busy = false;
        for replica in &mut self.replicas {
            if !replica.group.has_ready() && replica.group.waits_for().is_none() {
                continue;
            }
            busy = true;
            replica.group.ready(&mut replica.host, &mut replica.outbox, now_ns);
            replica.host.batch += 1;
            replica.group.durable(BatchNumber(replica.host.batch), &mut replica.outbox, now_ns);
        }
        for from in 0..self.replicas.len() {
            let mut outbox = std::mem::take(&mut self.replicas[from].outbox);
            for message in outbox.messages.drain(..) {
                let to = &mut self.replicas[message.to.0 as usize - 1];
                to.group.step(&message, now_ns).expect("a correct peer");
            }
            for range in outbox.appends.drain(..) {
                self.append(from, &range);
            }
            self.replicas[from].outbox = outbox;
        }
        busy
    }

    fn append(&mut self, from: usize, range: &AppendRange) {
        let to = range.to.0 as usize - 1;
        let [sender, receiver] = self.replicas.get_disjoint_mut([from, to]).expect("two replicas");
        let log = sender.group.log();
        let header = AppendHeader {
            copyset: COPYSET,
            from: sender.group.replica(),
            to: range.to,
            term: range.term,
            previous_index: range.previous_index,
            previous_term: range.previous_term,
            commit: range.commit,
            sent_ns: self.now_ns,
        };
        let first = range.previous_index.0 + 1;
        let entries = (first..first + u64::from(range.count)).map(|index| {
            let record = log.get(LogIndex(index)).expect("an entry of the log").record;
            let record = RecordView::parse(record.bytes()).expect("a record");
            (StoredEntry { record, live_mask: 0, superseded_by: None }, &[][..])
        });
        receiver.group.step_append(&header, entries, self.now_ns).expect("a correct leader");
    }

    fn settle(&mut self) {
        while self.turn() {}
    }

    /// Proposes entries and goes on until the leader has applied them.
    fn commit(&mut self, entries: u64) {
        for _ in 0..entries {
            self.replicas[0].group.propose(&write(), None).expect("the leader");
        }
        self.settle();
        let applied = self.replicas[0].group.applied();
        assert_eq!(applied, self.replicas[0].group.log().last(), "all of it was committed");
        for replica in &mut self.replicas {
            let applied = replica.group.applied().0;
            replica.group.compact(LogIndex(applied.saturating_sub(RETAINED)));
        }
    }
}

fn write() -> Proposal<'static> {
    Proposal {
        operation: Operation::Write,
        chunk: ChunkId(1),
        range: BlockRange { first: 0, blocks: 1 },
        sequence: 0,
        epoch: Epoch(0),
        session: SessionId(0),
        request: RequestNumber(0),
        crcs: &[1],
        body: &[],
    }
}

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft");
    for entries in [1, 16, 64] {
        let mut wired = Wired::new();
        group.throughput(Throughput::Elements(entries));
        group.bench_function(format!("three_replicas_{entries}_entries"), |bencher| {
            bencher.iter(|| wired.commit(entries));
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
