//! A ready: what the library decided, carried out in the order that it must be.

use raft::StateRole;
use raft::eraftpb::{ConfChangeV2, Entry, Message};

use super::{Group, Host, Outbox, Role, Stash, StoredEntry, membership, proposals};
use crate::ids::{BatchNumber, LogIndex, Term};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX, RecordView};

/// A ready whose batch is not durable yet.
pub(super) struct Unpersisted {
    number: u64,
    batch: BatchNumber,
    messages: Vec<Message>,
}

impl Group {
    /// Whether [`Self::ready`] has anything to do.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let library = self.raw.has_ready() || self.raw.store().wants_snapshot();
        !self.stash.is_empty() || library || !self.said.is_empty() || self.is_doubt_over()
    }

    /// Carries out what the library decided: stores, applies, and fills `outbox`.
    pub fn ready<H: Host>(&mut self, host: &mut H, outbox: &mut Outbox, now_ns: u64) {
        self.flush_proposals();
        self.end_doubt(host);
        outbox.messages.append(&mut self.said);
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
            self.raw.mut_store().set_hard_state(hard_state);
        }
        for entry in ready.entries() {
            self.store(entry, host);
        }
        self.stash.clear();
        for message in &ready.take_messages() {
            self.send(message, outbox, now_ns);
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
            self.drop_payloads();
        }
        self.role = role;
        self.leader = self.leader();
        host.role_changed(role, self.leader);
    }

    /// Lets go of the payload of all that is not applied.
    fn drop_payloads(&mut self) {
        let (first, last) = (self.applied.0 + 1, self.raw.store().last().0);
        for index in first..=last {
            self.raw.mut_store().drop_payload(LogIndex(index));
        }
    }

    /// This replica has left service for good and is not run again: pages of peers that it holds go
    /// back, or their windows would stay full.
    pub fn abandon(&mut self) {
        self.stash = Stash::default();
        self.drop_payloads();
    }
}
