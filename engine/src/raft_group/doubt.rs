//! A replica that may have forgotten what it promised, and how its leader readmits it.
//!
//! Damage to a journal below the mark may take votes and acknowledged entries with it; so does a
//! wiped device. Such a replica is *in doubt*. Until it is readmitted it gives no vote, stands for
//! no election and acknowledges nothing; then it follows, and gives its votes again when it has
//! everything that its leader had.
//!
//! 1. It *asks* whoever sends it heartbeats as its leader.
//! 2. The leader, of term `t`, waits until every other voter has answered something that it sent
//!    after it was asked, in `t`. Then it *readmits*: it says its term and its last index, `i`.
//! 3. From there on the replica follows that leader, in that term only. When everything up to `i` is
//!    committed and durable here, the doubt is over.
//!
//! **Why that is enough.** What was forgotten are votes for a candidate, and acknowledgements to a
//! leader, in some term `p`. Whoever stood or led in `p` is another voter, and had `p` as its term
//! since; it answered in `t` later, so `p <= t`. A vote in `p < t` can be given to nobody any more,
//! and in `t` there is a leader already, for whom alone this replica can still vote. An entry that
//! was committed with a forgotten acknowledgement was in a term `p <= t`. The leader of `t` has it:
//! it won with a majority of votes of which one came from another holder of that entry, if not from
//! this replica before it forgot, or it made the entry itself. So it stands at `i` or below, and is
//! here when `i` is; only then may this replica help to elect somebody who lacks it.
//!
//! All other voters must answer, not a majority of them: with five, a candidate that the four others
//! did not all hear of could be the one that the forgotten vote was given to. Two replicas of one
//! group in doubt at the same time therefore wait for each other in vain: what they knew together
//! may be lost, and only a person can decide to go on without it.

use arrayvec::ArrayVec;

use super::lease::VOTERS_MAX;
use super::{Group, Host, Refusal};
use crate::ids::{LogIndex, ReplicaId, Term};
use crate::wire::{PeerMessage, PeerMessageKind};

/// See the module's documentation.
pub(super) struct Doubt {
    /// Number of its question: an answer to an older one means nothing.
    question: u64,
    /// Whether what it is now would be found again after a crash.
    settled: bool,
    /// The term in which it was readmitted, and the leader's last index then.
    readmitted: Option<(Term, LogIndex)>,
}

/// The question of a follower in doubt, at its leader.
pub(super) struct Question {
    from: ReplicaId,
    number: u64,
    term: Term,
    since_ns: u64,
    /// Other voters that answered something sent later.
    heard: ArrayVec<u64, VOTERS_MAX>,
}

/// How far a replica in doubt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtStage {
    /// What it is now is being written to a checkpoint.
    Settling,
    /// It asks its leader.
    Asking,
    /// It was readmitted and takes in what it lacks.
    Following,
}

impl Group {
    /// This replica may have forgotten votes and acknowledgements. `settled`: recovery would find
    /// it again just as it is now; it says nothing before that.
    pub fn put_in_doubt(&mut self, settled: bool) {
        let question = self.restarts << 32;
        self.doubt = Some(Doubt { question, settled, readmitted: None });
    }

    /// Recovery would find the replica as it was when it was put in doubt.
    pub fn settle_doubt(&mut self) {
        if let Some(doubt) = &mut self.doubt {
            doubt.settled = true;
        }
    }

    /// How far it is, where it is in doubt.
    #[must_use]
    pub fn doubt_stage(&self) -> Option<DoubtStage> {
        let doubt = self.doubt.as_ref()?;
        Some(match (doubt.settled, doubt.readmitted) {
            (false, _) => DoubtStage::Settling,
            (true, None) => DoubtStage::Asking,
            (true, Some(_)) => DoubtStage::Following,
        })
    }

    /// Whether a leader of `term` may be followed. Readmission is good for one term.
    pub(super) fn may_follow(&mut self, term: Term) -> bool {
        let Some(doubt) = &mut self.doubt else { return true };
        if doubt.readmitted.is_some_and(|(readmitted, _)| readmitted < term) {
            doubt.readmitted = None;
            doubt.question += 1;
        }
        doubt.readmitted.is_some_and(|(readmitted, _)| readmitted == term)
    }

    /// What a replica in doubt makes of a message, which the guard has let in.
    pub(super) fn doubts(&mut self, message: &PeerMessage) -> Result<(), Refusal> {
        if self.doubt.is_none() {
            return Ok(());
        }
        let leads = matches!(message.kind, PeerMessageKind::Heartbeat | PeerMessageKind::Snapshot);
        if leads && self.may_follow(message.term) {
            return Ok(());
        }
        if message.kind == PeerMessageKind::Heartbeat {
            self.ask(message.from);
        }
        Err(Refusal::InDoubt)
    }

    fn ask(&mut self, leader: ReplicaId) {
        let Some(doubt) = self.doubt.as_ref().filter(|doubt| doubt.settled) else { return };
        // One that was born in doubt knows no term at all.
        let term = self.term().max(Term(1));
        self.said.push(PeerMessage {
            context: doubt.question,
            ..self.word(PeerMessageKind::Doubt, leader, term)
        });
    }

    fn word(&self, kind: PeerMessageKind, to: ReplicaId, term: Term) -> PeerMessage {
        PeerMessage {
            kind,
            reject: false,
            copyset: self.copyset,
            from: self.replica,
            to,
            term,
            log_term: Term(0),
            index: LogIndex(0),
            commit: LogIndex(0),
            commit_term: Term(0),
            reject_hint: LogIndex(0),
            request_snapshot: LogIndex(0),
            sent_ns: 0,
            context: 0,
        }
    }

    /// A follower in doubt asks this replica.
    pub(super) fn asked(&mut self, message: &PeerMessage, now_ns: u64) {
        let member = self.raw.raft.prs().get(message.from.0).is_some();
        if !self.is_leader() || !member {
            return;
        }
        if message.term > self.term() {
            // It has seen a later term: this leader has to win that, too.
            let answer = PeerMessage { kind: PeerMessageKind::HeartbeatResponse, ..*message };
            let none = raft::eraftpb::ConfState::default();
            self.step_library(super::message::incoming(&answer, &none));
            return;
        }
        let (from, number, term) = (message.from, message.context, self.term());
        let known = self.questions.iter().any(|question| {
            (question.from, question.number, question.term) == (from, number, term)
        });
        if !known {
            self.questions.retain(|question| question.from != from && question.term == term);
            let heard = ArrayVec::new();
            self.questions.push(Question { from, number, term, since_ns: now_ns, heard });
        }
        self.readmit();
    }

    /// A follower answered, in this leader's term, something that was sent at `sent_ns`.
    pub(super) fn note_answer(&mut self, from: ReplicaId, sent_ns: u64) {
        if self.questions.is_empty() {
            return;
        }
        for question in &mut self.questions {
            let late = sent_ns > question.since_ns && from != question.from;
            if late && !question.heard.contains(&from.0) {
                let _more_than_can_vote = question.heard.try_push(from.0);
            }
        }
        self.readmit();
    }

    /// Readmits whoever waits for no further answer.
    fn readmit(&mut self) {
        let term = self.term();
        let mut questions = std::mem::take(&mut self.questions);
        questions.retain(|question| {
            let waits = question.term == term && self.waits_for_others(question);
            if question.term == term && !waits {
                self.readmit_one(question);
            }
            waits
        });
        self.questions = questions;
    }

    fn waits_for_others(&self, question: &Question) -> bool {
        let conf_state = self.raw.store().conf_state();
        let voters = conf_state.get_voters().iter().chain(conf_state.get_voters_outgoing());
        let mut others =
            voters.filter(|voter| **voter != self.replica.0 && **voter != question.from.0);
        others.any(|voter| !question.heard.contains(voter))
    }

    fn readmit_one(&mut self, question: &Question) {
        let last = self.raw.raft.raft_log.last_index();
        // What it was known to have, it may have no more.
        let Some(progress) = self.raw.raft.mut_prs().get_mut(question.from.0) else { return };
        progress.become_probe();
        progress.matched = 0;
        progress.next_idx = last + 1;
        self.said.push(PeerMessage {
            index: LogIndex(last),
            context: question.number,
            ..self.word(PeerMessageKind::Readmit, question.from, self.term())
        });
    }

    /// A leader readmits this replica.
    pub(super) fn readmitted(&mut self, message: &PeerMessage) {
        let term = self.term();
        let Some(doubt) = &mut self.doubt else { return };
        let answers = doubt.settled && doubt.question == message.context;
        if answers && doubt.readmitted.is_none() && message.term >= term {
            doubt.readmitted = Some((message.term, message.index));
        }
    }

    /// Whether it has everything that its leader had when it was readmitted.
    pub(super) fn is_doubt_over(&self) -> bool {
        let Some((term, index)) = self.doubt.as_ref().and_then(|doubt| doubt.readmitted) else {
            return false;
        };
        let log = &self.raw.raft.raft_log;
        let whole = log.committed >= index.0 && log.persisted >= index.0;
        self.term() == term && whole && !self.is_restoring()
    }

    /// Ends the doubt where it is over, durably before any vote: in the open batch.
    pub(super) fn end_doubt<H: Host>(&mut self, host: &mut H) {
        if self.is_doubt_over() {
            self.doubt = None;
            host.doubt_over(self.copyset);
        }
    }
}
