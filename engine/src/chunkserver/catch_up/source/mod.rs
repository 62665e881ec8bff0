//! The sending side: one task for each replica that catches up, at its leader.
//!
//! | part | what |
//! | --- | --- |
//! | `table` | the tasks of one reactor: where they begin, get their turns and end |
//! | [`Source`], here | one task: the phases of its rounds |
//! | `frames` | its frames, and which phase follows each |
//! | `round` | what a round begins with |
//! | `plan` | the list of chunks compared with what the receiver holds |
//! | `sending`, `blocks` | a chunk on its way out, and its reads of the device |
//! | `throttle` | how fast blocks may be sent |
//! | `ending` | why a task waits, or ends before its end |

mod blocks;
mod ending;
mod frames;
mod plan;
mod round;
mod sending;
mod table;
mod throttle;

use culvert_memory::Pool;

use super::{FRAMES_PER_TURN, OFFER_NS, Parties, SILENCE_NS, plain_head};
use crate::chunkserver::repair::Spot;
use crate::chunkserver::{Copyset, RunningShard};
use crate::counters::Counters;
use crate::ids::{ChunkId, LogIndex};
use crate::network::{Class, ConnectionId, Network};
use crate::wire::{CatchUpHead, CatchUpKind, FRAME_BYTES_MAX, ManifestItem, emit_catch_up};
use blocks::BlockReads;
use ending::{Ending, Stop};
use plan::{Manifest, Plan};
use round::Round;
use sending::Sending;
pub(in crate::chunkserver) use table::Sources;
use throttle::Throttle;

/// Where a round stands. The phases follow each other in this order; from [`Phase::Settling`] the
/// way may lead back to the beginning of another round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The round is to be announced.
    Beginning,
    /// The list of chunks goes out; so many names have.
    Listing(usize),
    /// The receiver is to be asked what it holds, behind this chunk.
    Asking(Option<ChunkId>),
    /// Its answer is awaited.
    Asked(Option<ChunkId>),
    /// All of its answer is here, and to be compared with the list.
    Comparing,
    /// Chunks go out.
    Sending,
    /// All chunks are out; their answers are awaited.
    Settling,
    /// The state goes out; so many bytes have.
    State(usize),
    /// The receiver makes everything durable.
    Confirming,
    /// The library has the raft snapshot to send, since then.
    Offered(u64),
    /// The receiver has it, and now follows the log that was held back for it.
    Following,
}

impl Phase {
    /// Whether the throttle may hold it back.
    fn is_throttled(self) -> bool {
        matches!(self, Phase::Comparing | Phase::Sending)
    }
}

/// See the module's documentation.
pub(super) struct Source {
    pub position: u32,
    pub whom: Parties,
    connection: ConnectionId,
    pub phase: Phase,
    round: Round,
    pub rounds: u32,
    /// Frames sent, and how many of them were answered.
    sent: u64,
    answered: u64,
    /// When the last answer came, or the first frame that waits for one was sent.
    heard_ns: u64,
    blocked: bool,
    manifest: Manifest,
    plan: Plan,
    /// The chunk on its way; only while chunks go out.
    chunk: Option<Sending>,
    pub blocks_sent: u64,
    pub bytes_sent: u64,
    pub started_ns: u64,
}

/// What a task may use in one step.
struct Desk<'a, N> {
    /// Position of the copyset.
    position: u32,
    copyset: &'a mut Copyset,
    running: &'a mut RunningShard,
    pool: &'a Pool,
    network: &'a mut N,
    connection: ConnectionId,
    reads: &'a mut BlockReads,
    /// Blocks that are missing here.
    suspects: &'a mut Vec<Spot>,
    throttle: &'a mut Throttle,
    frame: &'a mut [u8; FRAME_BYTES_MAX],
    counters: &'a mut Counters,
    now_ns: u64,
}

impl Source {
    fn new(
        position: u32,
        whom: Parties,
        connection: ConnectionId,
        round: Round,
        now_ns: u64,
    ) -> Source {
        Source {
            position,
            whom,
            connection,
            phase: Phase::Beginning,
            round,
            rounds: 1,
            sent: 0,
            answered: 0,
            heard_ns: now_ns,
            blocked: false,
            manifest: Manifest::default(),
            plan: Plan::default(),
            chunk: None,
            blocks_sent: 0,
            bytes_sent: 0,
            started_ns: now_ns,
        }
    }

    /// Chunks of the round in which the receiver differs; none until they are known.
    pub fn chunks_known(&self) -> usize {
        self.plan.total()
    }

    /// Those of them that are dealt with.
    pub fn chunks_done(&self) -> usize {
        self.plan.begun() - usize::from(self.chunk.is_some())
    }

    /// The first index that the leader's log has to keep for it, less one.
    pub fn floor(&self, copyset: &Copyset) -> LogIndex {
        match self.phase {
            Phase::Following => copyset.group.matched(self.whom.to).unwrap_or_default(),
            _ => self.round.index,
        }
    }

    /// Whether the receiver follows the log like any other again.
    fn is_over(&self, copyset: &Copyset, log_retained: u64) -> bool {
        let matched = copyset.group.matched(self.whom.to).unwrap_or_default();
        let behind = copyset.group.applied().0.saturating_sub(matched.0);
        self.phase == Phase::Following && behind <= log_retained / 2
    }

    /// Goes on as far as possible.
    fn step<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Stop {
        if !self.is_idle() && desk.now_ns.saturating_sub(self.heard_ns) > SILENCE_NS {
            return Stop::End(Ending::Silent);
        }
        for _ in 0..FRAMES_PER_TURN {
            if let Err(stop) = self.advance(desk) {
                return stop;
            }
        }
        Stop::Wait
    }

    /// The next step of the round: at most one frame.
    fn advance<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        assert!(self.chunk.is_none() || self.phase == Phase::Sending);
        match self.phase {
            Phase::Beginning => self.send_begin(desk),
            Phase::Listing(from) => self.send_list(from, desk),
            Phase::Asking(after) => self.ask(after, desk),
            Phase::Asked(_) => Err(Stop::Wait),
            Phase::Comparing => {
                self.compare(desk);
                self.send_chunk(desk)
            }
            Phase::Sending => self.send_chunk(desk),
            Phase::Settling | Phase::Confirming if !self.is_idle() => Err(Stop::Wait),
            Phase::Settling if self.is_outrun(desk) => {
                self.begin_again(desk);
                Ok(())
            }
            Phase::Settling => {
                self.phase = Phase::State(0);
                Ok(())
            }
            Phase::State(from) => self.send_state(from, desk),
            Phase::Confirming => {
                let (to, index, term) = (self.whom.to, self.round.index, self.round.term);
                desk.copyset.group.log_mut().offer_snapshot(to, index, term);
                self.phase = Phase::Offered(desk.now_ns);
                Ok(())
            }
            Phase::Offered(since_ns) => self.await_snapshot(since_ns, desk),
            Phase::Following => Err(Stop::Wait),
        }
    }

    /// Whether the log no longer reaches back to where the round began.
    fn is_outrun<N>(&self, desk: &Desk<'_, N>) -> bool {
        desk.copyset.group.log().base().0 > self.round.index
    }

    fn begin_again<N>(&mut self, desk: &mut Desk<'_, N>) {
        assert!(self.is_idle(), "a round ends with all its frames answered");
        self.round = Round::begin(desk.copyset, desk.running.shard.store());
        self.rounds += 1;
        self.phase = Phase::Beginning;
    }

    fn compare<N>(&mut self, desk: &Desk<'_, N>) {
        let manifest = std::mem::take(&mut self.manifest);
        let store = desk.running.shard.store();
        self.plan = Plan::new(desk.copyset.id, &self.round, &manifest, store);
        self.phase = Phase::Sending;
    }

    fn await_snapshot<N>(&mut self, since_ns: u64, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let matched = desk.copyset.group.matched(self.whom.to).unwrap_or_default();
        if matched >= self.round.index {
            desk.copyset.group.log_mut().withdraw_snapshot(self.whom.to);
            self.phase = Phase::Following;
            tracing::info!(copyset = %self.whom.copyset, receiver = %self.whom.to, index = %self.round.index, "catch-up done");
            return Ok(());
        }
        if desk.now_ns.saturating_sub(since_ns) > OFFER_NS {
            return Err(Stop::End(Ending::SnapshotLost));
        }
        if self.is_outrun(desk) {
            // Its receiver has all of the round and is over: only another task can begin anew.
            return Err(Stop::End(Ending::Outrun));
        }
        Err(Stop::Wait)
    }

    /// Takes an answer.
    fn answer(
        &mut self,
        head: &CatchUpHead,
        items: &[ManifestItem],
        now_ns: u64,
    ) -> Result<(), Ending> {
        if head.number != self.answered + 1 || head.number > self.sent {
            return Err(Ending::Nonsense);
        }
        self.answered = head.number;
        self.heard_ns = now_ns;
        if head.kind != CatchUpKind::Manifest {
            return Ok(());
        }
        let Phase::Asked(after) = self.phase else { return Err(Ending::Nonsense) };
        let after = self.manifest.add(after, items)?;
        if items.is_empty() && !head.last {
            return Err(Ending::Nonsense);
        }
        self.phase = if head.last { Phase::Comparing } else { Phase::Asking(after) };
        Ok(())
    }

    /// Ends it: what it froze is thawed, and the library is not left waiting.
    fn end<N: Network>(mut self, ending: Ending, desk: &mut Desk<'_, N>) {
        if let Some(chunk) = self.chunk.take() {
            chunk.close(desk);
        }
        let group = &mut desk.copyset.group;
        group.log_mut().withdraw_snapshot(self.whom.to);
        group.report_snapshot_failed(self.whom.to);
        if ending.is_to_be_told() {
            let head = plain_head(CatchUpKind::Abort, &self.whom, self.sent + 1);
            let frame = emit_catch_up(&head, 0, &[], desk.frame);
            // Where it cannot be sent the receiver waits for a next task, which replaces this one.
            let _full = desk.network.send(self.connection, Class::Data, frame, &[]);
        }
        tracing::warn!(copyset = %self.whom.copyset, receiver = %self.whom.to, reason = %ending, "catch-up interrupted");
    }
}
