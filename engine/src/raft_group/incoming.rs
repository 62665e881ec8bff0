//! Messages of peers on their way to the library, and what this replica learns from them itself:
//! when its leader was heard of, and who answered a leader's lease.

use culvert_memory::Pages;
use raft::eraftpb::{ConfState, Message, MessageType};

use super::{Group, Refusal, StoredEntry, guard, handover, message, proposals};
use crate::ids::{ReplicaId, Term};
use crate::wire::{AppendHeader, PeerMessage, PeerMessageKind};

impl Group {
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
        now_ns: u64,
    ) -> Result<(), Refusal> {
        self.flush_proposals();
        guard::append(self, header)?;
        if !self.may_follow(header.term) {
            return Err(Refusal::InDoubt);
        }
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
        self.heard(header.term, header.sent_ns, now_ns);
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
        match message.kind {
            PeerMessageKind::Doubt => {
                self.asked(&message, now_ns);
                return Ok(());
            }
            PeerMessageKind::Readmit => {
                self.readmitted(&message);
                return Ok(());
            }
            _ => self.doubts(&message)?,
        }
        if answers_leader && self.is_leader() && message.term == self.term() {
            self.renew_lease(message.from, message.sent_ns, now_ns);
            self.note_answer(message.from, message.sent_ns);
        }
        if message.kind == PeerMessageKind::Heartbeat {
            self.heard(message.term, message.sent_ns, now_ns);
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

    pub(super) fn step_library(&mut self, message: Message) {
        // The library refuses answers of strangers; nobody needs to know.
        let _stranger = self.raw.step(message);
        self.set_election_timeout();
    }

    /// A leader of `term` was heard of. What this replica answers with `sent_ns` is also its promise,
    /// which is made here.
    fn heard(&mut self, term: Term, sent_ns: u64, now_ns: u64) {
        if term >= self.term() {
            let until_ns = now_ns + self.options.promise_ns();
            self.promised_until_ns = self.promised_until_ns.max(until_ns);
        }
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
}
