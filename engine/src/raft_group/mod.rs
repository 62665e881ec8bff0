//! One raft group: the library's contract, kept in one place.
//!
//! A [`Group`] turns proposals, peers' messages, ticks and durability into entries to store,
//! messages to send and entries to apply. It owns the in-memory [`Log`] and the leader's
//! [`Lease`]; it knows no journal, device, network or clock: the [`Host`] stores and applies, the
//! caller sends, time is an argument.
//!
//! Invariants, each asserted where it is kept:
//!
//! * An entry is in the log before the library is told that it may read it
//!   (`advance_append_async`), and in an open journal batch before that.
//! * `on_persist_ready(n)` is called only when the journal batch that holds ready `n`, and every
//!   batch before it, is durable, payloads included ([`Group::durable`]). A follower's answers
//!   leave only then; a leader's messages leave at once.
//! * Hard state and entries of one ready are in one batch, hard state first.
//! * The library's panics are out of a peer's reach: `guard` clamps or refuses what would
//!   trip them.
//! * The election timeout is a hash of replica, term and restart count, never random.

mod arena;
mod guard;
mod handover;
mod lease;
mod log;
mod membership;
mod message;
mod proposals;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use culvert_memory::Pages;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, Message, MessageType};
use raft::{Config, RawNode, StateRole};

pub use guard::Refusal;
pub use lease::Lease;
pub use log::{Log, LogEntry};
pub use membership::{Change, MembershipError, can_restore, encode_conf_state, parse_conf_state};
pub use proposals::NotLeader;

use crate::ids::{BatchNumber, CopysetId, Extent, Extents, LogIndex, ReplicaId, Term};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};
use crate::wire::{AppendHeader, PeerMessage, PeerMessageKind};
use proposals::Stash;

/// Ticks that a reactor which slept or was stopped catches up with at most, and by how many the
/// ticks of any stretch of time exceed the whole tick lengths in it. More would only say again that
/// the leader was not heard of for a long time.
pub const TICKS_CAUGHT_UP_MAX: u64 = 2;

/// Timings and limits of a group. Ticks are the unit of elections, as in the library.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// Length of a tick.
    pub tick_ns: u64,
    /// Ticks without word from a leader before an election, at least; at most one less than twice.
    pub election_ticks: u32,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// How much shorter than what a follower's ticks promise a lease is, for clocks that drift.
    pub lease_margin_ns: u64,
    /// Append messages in flight to one follower.
    pub inflight_messages_max: usize,
    /// Entries in one append message.
    pub message_entries_max: u32,
}

impl GroupOptions {
    /// How long a lease lasts from the send of what a majority answered.
    ///
    /// A follower refuses its vote for `election_ticks` ticks, and a late reactor runs up to
    /// [`TICKS_CAUGHT_UP_MAX`] of them at once, all of which may stand for time before the message.
    #[must_use]
    pub fn lease_ns(&self) -> u64 {
        let ticks = u64::from(self.election_ticks) - TICKS_CAUGHT_UP_MAX;
        (ticks * self.tick_ns).saturating_sub(self.lease_margin_ns)
    }
}

/// What keeps a group's entries and carries out what was decided.
pub trait Host {
    /// The batch that is open: everything stored now becomes durable with it.
    fn open_batch(&self) -> BatchNumber;
    /// Stores the hard state in the open batch.
    fn store_hard_state(&mut self, copyset: CopysetId, term: Term, vote: u64, commit: LogIndex);
    /// Stores a record in the open batch and its payload in fresh extents, which are returned.
    /// `payload` holds the live blocks, in order; the extents cover all blocks of the range, those
    /// without payload by a run that starts at [`MISSING`](crate::store::MISSING).
    fn store_entry(&mut self, entry: &StoredEntry<'_>, payload: &[Pages]) -> Extents;
    /// Entries that never committed gave way to others: their extents are released by the open
    /// batch, which holds what replaced them.
    fn release(&mut self, extents: &[Extent]);
    /// The membership changed; stores it in the open batch.
    fn store_conf_state(&mut self, copyset: CopysetId, conf_state: &ConfState);
    /// Applies a committed entry. Called once per index, in order.
    fn apply(&mut self, entry: &LogEntry<'_>);
    /// The group starts anew behind a raft snapshot that a catch-up led to.
    fn install_snapshot(&mut self, index: LogIndex, term: Term, conf_state: &ConfState);
    /// The group's role or leader changed.
    fn role_changed(&mut self, role: Role, leader: Option<ReplicaId>);
}

/// An entry on its way to the journal.
pub struct StoredEntry<'a> {
    /// The record.
    pub record: RecordView<'a>,
    /// Bit n: block n of the range has payload. All blocks of a write unless superseded.
    pub live_mask: u32,
    /// The later entry that overwrote what has no payload.
    pub superseded_by: Option<LogIndex>,
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes or pre-votes.
    Candidate,
    /// Leads the group.
    Leader,
}

/// Appended entries to send: the caller reads them from the log by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendRange {
    /// To whom.
    pub to: ReplicaId,
    /// Sender's term; the range is void in any other.
    pub term: Term,
    /// Index of the entry before the first.
    pub previous_index: LogIndex,
    /// Term of that entry.
    pub previous_term: Term,
    /// Entries in the range.
    pub count: u32,
    /// Commit index to tell.
    pub commit: LogIndex,
}

/// What a group wants sent; emptied by the caller.
#[derive(Default)]
pub struct Outbox {
    /// Entries for followers.
    pub appends: Vec<AppendRange>,
    /// Everything else.
    pub messages: Vec<PeerMessage>,
    /// Read-index rounds that a majority confirmed: context and index to wait for.
    pub reads: Vec<(u64, LogIndex)>,
}

/// A ready whose batch is not durable yet.
struct Unpersisted {
    number: u64,
    batch: BatchNumber,
    messages: Vec<Message>,
}

/// The raft snapshot that a catch-up has prepared this replica for.
#[derive(Clone, Debug)]
pub struct ExpectedSnapshot {
    /// Its index.
    pub index: LogIndex,
    /// Term of the entry there.
    pub term: Term,
    /// The membership as of its index.
    pub conf_state: ConfState,
}

/// See the module's documentation.
pub struct Group {
    copyset: CopysetId,
    replica: ReplicaId,
    raw: RawNode<Log>,
    options: GroupOptions,
    restarts: u64,
    stash: Stash,
    unpersisted: VecDeque<Unpersisted>,
    lease: Lease,
    /// Index of this leader's first entry; reads wait until it is applied.
    term_start: LogIndex,
    applied: LogIndex,
    role: Role,
    leader: Option<ReplicaId>,
    /// Latest send time of the leader's messages that this replica processed in `heard_term`.
    heard_sent_ns: u64,
    heard_term: Term,
    silent_until_ns: u64,
    read_round: u64,
    expected_snapshot: Option<ExpectedSnapshot>,
}

impl Group {
    /// Starts a replica from what recovery found. `restarts` counts the times this replica was
    /// started; `applied` is the index up to which the host has applied entries already.
    ///
    /// # Panics
    ///
    /// If `applied` lies outside of the log, or the commit index past its end: recovery clamps
    /// both.
    #[must_use]
    pub fn new(
        copyset: CopysetId,
        replica: ReplicaId,
        log: Log,
        applied: LogIndex,
        restarts: u64,
        options: GroupOptions,
        now_ns: u64,
    ) -> Group {
        assert!(log.base().0 <= applied);
        assert!(applied.0 <= log.hard_state().commit);
        assert!(log.hard_state().commit <= log.last().0);
        let config = Config {
            id: replica.0,
            election_tick: options.election_ticks as usize,
            heartbeat_tick: options.heartbeat_ticks as usize,
            applied: applied.0,
            max_size_per_msg: u64::from(options.message_entries_max) * 16,
            max_inflight_msgs: options.inflight_messages_max,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            batch_append: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger).expect("a validated configuration");
        let mut group = Group {
            copyset,
            replica,
            raw,
            options,
            restarts,
            stash: Stash::default(),
            unpersisted: VecDeque::new(),
            lease: Lease::new(options.lease_ns()),
            term_start: LogIndex(u64::MAX),
            applied,
            role: Role::Follower,
            leader: None,
            heard_sent_ns: 0,
            heard_term: Term(0),
            silent_until_ns: now_ns + options.lease_ns() + options.lease_margin_ns,
            read_round: message::CONTEXT_TRANSFER,
            expected_snapshot: None,
        };
        group.set_election_timeout();
        group
    }

    /// The copyset.
    #[must_use]
    pub fn copyset(&self) -> CopysetId {
        self.copyset
    }

    /// This replica.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.raw.store()
    }

    /// The log, for payload, compaction and raft snapshots.
    pub fn log_mut(&mut self) -> &mut Log {
        self.raw.mut_store()
    }

    /// Drops the log's entries up to `index`, as far as they are applied.
    pub fn compact(&mut self, index: LogIndex) {
        let index = index.min(self.applied);
        self.raw.mut_store().compact(index);
    }

    /// Role as of the last [`Self::ready`].
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this replica leads its group, in the library's eyes.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader this replica knows of.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        let id = self.raw.raft.leader_id;
        (id != 0).then_some(ReplicaId(id))
    }

    /// Current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// Commit index.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Replicas that vote, both halves of a joint configuration.
    #[must_use]
    pub fn voters(&self) -> &[u64] {
        self.raw.store().conf_state().get_voters()
    }

    /// What the leader knows of its followers: replica, match index and the library's state.
    pub fn progress(&self) -> impl Iterator<Item = (ReplicaId, LogIndex, String)> + '_ {
        self.raw.raft.prs().iter().map(|(id, progress)| {
            (ReplicaId(*id), LogIndex(progress.matched), progress.state.to_string())
        })
    }

    /// The smallest index that every replica is known to have; a leader may compact up to it
    /// without pushing anybody into a catch-up beyond the log.
    #[must_use]
    pub fn matched_by_all(&self) -> LogIndex {
        let progress = self.raw.raft.prs().iter();
        LogIndex(progress.map(|(_, progress)| progress.matched).min().unwrap_or(0))
    }

    /// Whether reads may be served at `now_ns` without asking the others.
    #[must_use]
    pub fn holds_lease(&self, now_ns: u64) -> bool {
        self.is_leader()
            && self.applied >= self.term_start
            && self.raw.raft.lead_transferee.is_none()
            && self.lease.holds(now_ns)
    }

    /// Whether this leader has applied an entry of its own term, so that what it applied is all
    /// that was committed before it came.
    #[must_use]
    pub fn has_applied_own_term(&self) -> bool {
        self.is_leader() && self.applied >= self.term_start
    }

    /// End of the lease, for `status`.
    #[must_use]
    pub fn lease_until_ns(&self) -> u64 {
        self.lease.until_ns()
    }

    /// Starts a read-index round; its context comes back in [`Outbox::reads`]. `None` until this
    /// leader has applied an entry of its own term.
    pub fn read_index(&mut self) -> Option<u64> {
        if !self.is_leader() || self.applied < self.term_start {
            return None;
        }
        self.read_round += 1;
        self.raw.read_index(self.read_round.to_le_bytes().to_vec());
        Some(self.read_round)
    }

    /// One tick of the group's clock.
    pub fn tick(&mut self) {
        if self.is_restoring() {
            return;
        }
        // A lone voter would lead at once, and the library then requires that nothing it wrote
        // as a follower is still on its way to the device.
        if !self.is_leader() && self.voters().len() == 1 && !self.unpersisted.is_empty() {
            return;
        }
        self.raw.tick();
        self.set_election_timeout();
    }

    /// Asks the library to hand leadership to `to`. The lease ends here.
    pub fn transfer(&mut self, to: ReplicaId) {
        self.flush_proposals();
        self.lease.bar();
        self.raw.transfer_leader(to.0);
    }

    /// Starts an election at once; for tests and single-replica copysets.
    pub fn campaign(&mut self) {
        if self.is_restoring() {
            return;
        }
        let _refused_while_changing_members = self.raw.campaign();
        self.set_election_timeout();
    }

    /// Messages to `peer` may have been lost: its progress goes back to probing.
    pub fn report_unreachable(&mut self, peer: ReplicaId) {
        self.flush_proposals();
        self.raw.report_unreachable(peer.0);
    }

    /// The highest index that `peer` is known to have, where this replica leads.
    #[must_use]
    pub fn matched(&self, peer: ReplicaId) -> Option<LogIndex> {
        let progress = self.raw.raft.prs().get(peer.0).filter(|_| self.is_leader())?;
        Some(LogIndex(progress.matched))
    }

    /// The raft snapshot offered to `peer` was refused or lost.
    pub fn report_snapshot_failed(&mut self, peer: ReplicaId) {
        if self.is_leader() {
            self.raw.report_snapshot(peer.0, raft::SnapshotStatus::Failure);
        }
    }

    /// Takes a leader's append message: entries with the runs of pages that hold their live blocks,
    /// in order. Pages of entries that the library does not want go back.
    ///
    /// # Errors
    ///
    /// [`Refusal`] where the message cannot come from a correct leader.
    pub fn step_append<'a>(
        &mut self,
        header: &AppendHeader,
        entries: impl Iterator<Item = (StoredEntry<'a>, &'a [Pages])>,
    ) -> Result<(), Refusal> {
        self.flush_proposals();
        guard::append(self, header)?;
        let mut message = Message {
            from: header.from.0,
            to: header.to.0,
            term: header.term.0,
            index: header.previous_index.0,
            log_term: header.previous_term.0,
            commit: header.commit.0,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        let mut list = handover::entries(entries.size_hint().0);
        let mut term_before = header.previous_term;
        for (entry, payload) in entries {
            if entry.record.term() < term_before {
                self.stash.clear();
                return Err(Refusal::TermsRunBackwards);
            }
            term_before = entry.record.term();
            list.push(proposals::library_entry(&entry.record));
            self.stash.push(&entry, payload);
        }
        message.set_entries(list.into());
        self.heard(header.term, header.sent_ns);
        self.step_library(message);
        Ok(())
    }

    /// Takes any other message of a peer.
    ///
    /// # Errors
    ///
    /// [`Refusal`] where the message cannot come from a correct replica, or must not be answered.
    pub fn step(&mut self, message: &PeerMessage, now_ns: u64) -> Result<(), Refusal> {
        let answers_leader = matches!(
            message.kind,
            PeerMessageKind::AppendResponse | PeerMessageKind::HeartbeatResponse
        );
        if !answers_leader || message.term != self.term() {
            self.flush_proposals();
        }
        let message = guard::message(self, message, now_ns)?;
        if answers_leader && self.is_leader() && message.term == self.term() {
            self.renew_lease(message.from, message.sent_ns, now_ns);
        }
        if message.kind == PeerMessageKind::Heartbeat {
            self.heard(message.term, message.sent_ns);
        }
        // Of all messages only a raft snapshot carries a membership, and the guard has seen to it
        // that it is the expected one.
        let conf_state = match &self.expected_snapshot {
            Some(expected) if message.kind == PeerMessageKind::Snapshot => {
                expected.conf_state.clone()
            }
            _ => ConfState::default(),
        };
        self.step_library(message::incoming(&message, &conf_state));
        Ok(())
    }

    fn step_library(&mut self, message: Message) {
        // The library refuses answers of strangers; nobody needs to know.
        let _stranger = self.raw.step(message);
        self.set_election_timeout();
    }

    fn heard(&mut self, term: Term, sent_ns: u64) {
        if term > self.heard_term {
            self.heard_term = term;
            self.heard_sent_ns = 0;
        }
        if term == self.heard_term {
            self.heard_sent_ns = self.heard_sent_ns.max(sent_ns);
        }
    }

    fn renew_lease(&mut self, from: ReplicaId, sent_ns: u64, now_ns: u64) {
        if self.raw.raft.lead_transferee.is_some() {
            return;
        }
        let conf_state = self.raw.store().conf_state();
        let halves = [conf_state.get_voters(), conf_state.get_voters_outgoing()];
        let halves = if halves[1].is_empty() { &halves[..1] } else { &halves[..] };
        self.lease.answered(from, sent_ns, now_ns, self.replica, halves);
    }

    /// Term of the entry at `index`, whether the library or the log holds it.
    fn log_term(&self, index: LogIndex) -> Option<Term> {
        self.raw.raft.raft_log.term(index.0).ok().map(Term)
    }

    /// A catch-up has brought this replica to where the raft snapshot that ends it may come; or, with
    /// `None`, begins anew, and what was expected before must not come any more.
    pub fn expect_snapshot(&mut self, expected: Option<ExpectedSnapshot>) {
        self.expected_snapshot = expected;
    }

    fn expects_snapshot(&self, index: LogIndex, term: Term) -> bool {
        let expected = self.expected_snapshot.as_ref();
        expected.is_some_and(|expected| (expected.index, expected.term) == (index, term))
    }

    /// Whether [`Self::ready`] has anything to do.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.stash.has_proposals() || self.raw.has_ready()
    }

    /// Carries out what the library decided: stores, applies, and fills `outbox`.
    pub fn ready<H: Host>(&mut self, host: &mut H, outbox: &mut Outbox, now_ns: u64) {
        self.flush_proposals();
        if !self.raw.has_ready() {
            self.stash.clear();
            return;
        }
        let mut ready = self.raw.ready();
        if ready.ss().is_some() {
            self.note_role(host);
        }
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot().get_metadata(), host);
        }
        let stores = ready.must_sync();
        if let Some(hard_state) = ready.hs() {
            if stores {
                let commit = LogIndex(hard_state.commit);
                let term = Term(hard_state.term);
                host.store_hard_state(self.copyset, term, hard_state.vote, commit);
            }
            self.raw.mut_store().set_hard_state(hard_state.clone());
        }
        for entry in ready.take_entries() {
            self.store(&entry, host);
        }
        self.stash.clear();
        for message in ready.take_messages() {
            self.send(&message, outbox, now_ns);
        }
        outbox.reads.extend(ready.take_read_states().iter().filter_map(|state| {
            let context = state.request_ctx[..].try_into().ok()?;
            Some((u64::from_le_bytes(context), LogIndex(state.index)))
        }));
        let committed = ready.take_committed_entries();
        let messages = ready.take_persisted_messages();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        // What stores nothing waits only for what was stored before it, if for anything.
        let before = self.unpersisted.back().map(|waiting| waiting.batch);
        match if stores { Some(host.open_batch()) } else { before } {
            Some(batch) => self.unpersisted.push_back(Unpersisted { number, batch, messages }),
            None => self.persisted(number, &messages, outbox, now_ns),
        }
        self.apply(&committed, host);
    }

    /// Everything that the library handed over up to ready `number` is durable.
    fn persisted(&mut self, number: u64, messages: &[Message], outbox: &mut Outbox, now_ns: u64) {
        for message in messages {
            self.send(message, outbox, now_ns);
        }
        self.raw.on_persist_ready(number);
        // A raft snapshot counts as applied for the library once it is durable.
        if self.is_restoring() && self.raw.raft.raft_log.persisted >= self.applied.0 {
            self.raw.advance_apply_to(self.applied.0);
        }
    }

    /// Whether a raft snapshot is on its way to the device. The library must not campaign then: it
    /// would look for the entries behind what it thinks was applied, and panic because the log
    /// does not have them.
    fn is_restoring(&self) -> bool {
        self.raw.raft.raft_log.applied < self.applied.0
    }

    /// Everything up to `batch` is durable. Answers that waited for it go to `outbox`.
    pub fn durable(&mut self, batch: BatchNumber, outbox: &mut Outbox, now_ns: u64) {
        while self.unpersisted.front().is_some_and(|waiting| waiting.batch <= batch) {
            let done = self.unpersisted.pop_front().expect("a front that was seen");
            self.persisted(done.number, &done.messages, outbox, now_ns);
        }
    }

    /// The batch whose durability this replica waits for last.
    #[must_use]
    pub fn waits_for(&self) -> Option<BatchNumber> {
        self.unpersisted.back().map(|waiting| waiting.batch)
    }

    fn store<H: Host>(&mut self, entry: &Entry, host: &mut H) {
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        let leads = self.is_leader();
        let log = self.raw.mut_store();
        // Released behind the entry that replaces them, so that they count with its batch.
        let mut replaced = Vec::new();
        log.truncate(index, |extents| replaced.push(extents));
        if let Some((stored, payload)) = self.stash.claim(index, term) {
            let extents = host.store_entry(&stored, payload);
            // Only a leader sends from these pages again; a follower's are free once durable.
            let payload = payload.first().filter(|_| leads).cloned();
            log.append(&stored.record, &extents, stored.superseded_by, payload);
            replaced.iter().for_each(|extents| host.release(extents));
            return;
        }
        // The library's own: a new leader's empty entry, or the way out of a joint configuration.
        let mut bytes = [0; RECORD_BYTES_MAX];
        let proposal = Proposal { operation: proposals::operation_of(entry), ..Proposal::noop() };
        let record = RecordView::trusted(proposal.emit(self.copyset, term, index, &mut bytes));
        let stored = StoredEntry { record, live_mask: 0, superseded_by: None };
        let extents = host.store_entry(&stored, &[]);
        log.append(&record, &extents, None, None);
        replaced.iter().for_each(|extents| host.release(extents));
    }

    fn apply<H: Host>(&mut self, committed: &[Entry], host: &mut H) {
        for entry in committed {
            let index = LogIndex(entry.index);
            assert_eq!(index, self.applied.next(), "entries are applied in order, once");
            let stored = self.raw.store().get(index).expect("a committed entry is in the log");
            assert_eq!(stored.record.term().0, entry.term, "log and library agree on terms");
            host.apply(&stored);
            let change = (stored.record.operation() == Operation::ConfChange)
                .then(|| membership::decode(stored.record.body()));
            self.applied = index;
            self.raw.mut_store().drop_payload(index);
            if let Some(change) = change {
                self.apply_membership(change, host);
            }
        }
        if !committed.is_empty() {
            self.raw.advance_apply_to(self.applied.0);
        }
    }

    fn apply_membership<H: Host>(&mut self, change: Option<ConfChangeV2>, host: &mut H) {
        // A body that no version wrote, or a change the library finds impossible, changes nothing,
        // on every replica alike.
        let Some(change) = change else { return };
        if let Ok(conf_state) = self.raw.apply_conf_change(&change) {
            self.lease.forget_answers();
            host.store_conf_state(self.copyset, &conf_state);
            self.raw.mut_store().set_conf_state(conf_state);
        }
    }

    fn install<H: Host>(&mut self, metadata: &raft::eraftpb::SnapshotMetadata, host: &mut H) {
        let (index, term) = (LogIndex(metadata.index), Term(metadata.term));
        // Stored before anything is released: a release counts with the batch that is open then.
        host.install_snapshot(index, term, metadata.get_conf_state());
        // The payload of entries that were applied is the chunks'.
        let log = self.raw.mut_store();
        log.truncate(self.applied.next(), |extents| host.release(&extents));
        log.restart_at(index, term, metadata.get_conf_state().clone());
        self.applied = index;
        self.expected_snapshot = None;
    }

    fn note_role<H: Host>(&mut self, host: &mut H) {
        let role = match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        if role == Role::Leader && self.role != Role::Leader {
            // The library appends the empty entry of the new term in the same step.
            self.term_start = LogIndex(self.raw.raft.raft_log.last_index());
            self.lease.revoke();
        }
        if role != Role::Leader {
            self.term_start = LogIndex(u64::MAX);
            self.lease.revoke();
            let (first, last) = (self.applied.0 + 1, self.raw.store().last().0);
            for index in first..=last {
                self.raw.mut_store().drop_payload(LogIndex(index));
            }
        }
        self.role = role;
        self.leader = self.leader();
        host.role_changed(role, self.leader);
    }

    fn send(&mut self, message: &Message, outbox: &mut Outbox, now_ns: u64) {
        if message.get_msg_type() == MessageType::MsgAppend {
            // A leader that is deposed before its ready leaves its messages to the follower that it
            // has become. Its log may have lost those entries to the new leader meanwhile.
            if !self.is_leader() || message.term != self.raw.raft.term {
                return;
            }
            outbox.appends.push(AppendRange {
                to: ReplicaId(message.to),
                term: Term(message.term),
                previous_index: LogIndex(message.index),
                previous_term: Term(message.log_term),
                count: message.entries.len() as u32,
                commit: LogIndex(message.commit),
            });
            return;
        }
        let Some(mut out) = message::outgoing(self.copyset, message) else { return };
        out.sent_ns = match out.kind {
            PeerMessageKind::Heartbeat => now_ns,
            PeerMessageKind::AppendResponse | PeerMessageKind::HeartbeatResponse
                if out.term == self.heard_term =>
            {
                self.heard_sent_ns
            }
            _ => 0,
        };
        outbox.messages.push(out);
    }

    /// The library draws its timeout from a thread's generator at every reset; this replaces the
    /// draw by a hash, so that equal histories elect equal leaders.
    fn set_election_timeout(&mut self) {
        let base = self.options.election_ticks as u64;
        let mut hash = self.replica.0 ^ self.raw.raft.term.rotate_left(24) ^ (self.restarts << 48);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        self.raw.raft.set_randomized_election_timeout((base + hash % base) as usize);
    }
}
