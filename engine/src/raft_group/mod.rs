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
//!
//! | part | what |
//! | --- | --- |
//! | [`Group`], here | what a replica knows; ticks, elections and reads |
//! | `proposals` | this leader's proposals on their way into the log |
//! | `incoming`, `guard`, `message` | peers' messages on their way in |
//! | `ready`, `host` | what the library decided, and who carries it out |
//! | `outbox` | what is to be sent |
//! | `snapshot` | the raft snapshot that ends a catch-up |
//! | `log`, `arena` | the log in memory |
//! | `handover` | memory that the library takes |
//! | `lease` | a leader's promise bounded in time |
//! | `doubt` | a replica that may have forgotten its promises |
//! | `membership`, `options` | who votes; timings and limits |

mod arena;
mod doubt;
mod guard;
mod handover;
mod host;
mod incoming;
mod lease;
mod log;
mod membership;
mod message;
mod options;
mod outbox;
mod proposals;
mod ready;
mod snapshot;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use raft::{Config, RawNode, StateRole};

pub use doubt::DoubtStage;
pub use guard::Refusal;
pub use host::{Host, Role, StoredEntry};
pub use lease::Lease;
pub use log::{Log, LogEntry};
pub use membership::{Change, MembershipError, can_restore, encode_conf_state, parse_conf_state};
pub use options::{GroupOptions, TICKS_CAUGHT_UP_MAX};
pub use outbox::{AppendRange, Outbox};
pub use proposals::NotLeader;
pub use snapshot::ExpectedSnapshot;

use crate::ids::{CopysetId, LogIndex, ReplicaId, Term};
use crate::wire::PeerMessage;
use proposals::Stash;
use ready::Unpersisted;

/// Who gives way leaves so many elections to others.
const ABSTENTION_ELECTIONS: u32 = 4;

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
    /// Until then it votes for nobody but those whom its leader asks to campaign: a lease may count
    /// on it. The library keeps that promise only while it knows its leader, and forgets it with any
    /// word of a higher term.
    promised_until_ns: u64,
    /// Ticks for which it stands for no election.
    abstains: u32,
    read_round: u64,
    expected_snapshot: Option<ExpectedSnapshot>,
    /// This replica may have forgotten what it promised.
    doubt: Option<doubt::Doubt>,
    /// Followers that may, and ask this leader.
    questions: Vec<doubt::Question>,
    /// Messages of our own, not the library's.
    said: Vec<PeerMessage>,
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
            // It may have promised before it was started.
            promised_until_ns: now_ns + options.promise_ns(),
            abstains: 0,
            read_round: message::CONTEXT_TRANSFER,
            expected_snapshot: None,
            doubt: None,
            questions: Vec::new(),
            said: Vec::new(),
        };
        group.set_election_timeout();
        group
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

    /// Whether reads may be served at `now_ns` without asking the others.
    #[must_use]
    pub fn holds_lease(&self, now_ns: u64) -> bool {
        self.has_applied_own_term()
            && self.raw.raft.lead_transferee.is_none()
            && self.lease.holds(now_ns)
    }

    /// Whether this leader has applied an entry of its own term, so that what it applied is all
    /// that was committed before it came.
    #[must_use]
    pub fn has_applied_own_term(&self) -> bool {
        self.is_leader() && self.applied >= self.term_start
    }

    /// Starts a read-index round; its context comes back in [`Outbox::reads`]. `None` until this
    /// leader has applied an entry of its own term.
    pub fn read_index(&mut self) -> Option<u64> {
        if !self.has_applied_own_term() {
            return None;
        }
        self.read_round += 1;
        self.raw.read_index(self.read_round.to_le_bytes().to_vec());
        Some(self.read_round)
    }

    /// One tick of the group's clock.
    pub fn tick(&mut self) {
        if self.is_restoring() || self.doubt.is_some() {
            return;
        }
        // A lone voter would lead at once, and the library then requires that nothing it wrote
        // as a follower is still on its way to the device.
        if !self.is_leader() && self.voters().len() == 1 && !self.unpersisted.is_empty() {
            return;
        }
        if self.leader().is_some() {
            // Another one leads, or nobody else could.
            self.abstains = 0;
        } else if self.abstains > 0 {
            self.abstains -= 1;
            let raft = &self.raw.raft;
            if raft.election_elapsed + 1 >= raft.randomized_election_timeout() {
                return;
            }
        }
        self.raw.tick();
        self.set_election_timeout();
    }

    /// Gives up leadership, and leaves the next elections to others: this replica cannot send what
    /// it holds. If nobody else can be elected, it stands again later.
    pub fn give_way(&mut self) {
        if self.is_leader() {
            self.flush_proposals();
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.set_election_timeout();
            self.abstains = ABSTENTION_ELECTIONS * self.options.election_ticks;
        }
    }

    /// Asks the library to hand leadership to `to`. The lease ends here.
    pub fn transfer(&mut self, to: ReplicaId) {
        self.flush_proposals();
        self.lease.bar();
        self.raw.transfer_leader(to.0);
    }

    /// Starts an election at once; for tests and single-replica copysets.
    pub fn campaign(&mut self) {
        if self.is_restoring() || self.doubt.is_some() {
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

    /// Term of the entry at `index`, whether the library or the log holds it.
    fn log_term(&self, index: LogIndex) -> Option<Term> {
        self.raw.raft.raft_log.term(index.0).ok().map(Term)
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
