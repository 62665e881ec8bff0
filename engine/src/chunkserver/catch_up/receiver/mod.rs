//! The receiving side: frames in, chunks installed, answers out.
//!
//! Frames wait in an inbox, at most as many as the leader may send unanswered, and are dealt with in
//! order while the shard has space, commands and journal room; so a slow device holds the sender
//! back and nobody else. Payload is written as it comes; the record that installs a chunk is
//! appended when all of it was, and the map follows in the same step.
//!
//! A chunk on its way lies beside the one that it replaces. Where several are on their way to one
//! shard and space runs short, they would wait for each other for ever: all but the first give their
//! blocks back and begin again later. One fits beside what quotas promise, since entries leave a
//! chunk's room ([`Store::spare_blocks`](crate::store::Store::spare_blocks)); where the chunks here,
//! which are of different indices, are more than their quota, it gives its blocks back after a
//! while, too.
//!
//! | part | what |
//! | --- | --- |
//! | `table` | the receivers of one chunkserver: where they begin, get their turns and end |
//! | [`Receiver`], here | one receiver: its inbox, its stages, its answers |
//! | `round` | what each frame of a round does |
//! | `staging` | a chunk on its way |
//! | `arrival` | the copyset's state on its way |
//! | `fault` | why a task ends here |

mod arrival;
mod fault;
mod round;
mod staging;
mod table;

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use culvert_memory::Pages;
use zerocopy::IntoBytes;

use super::{CRAMPED_NS, FRAMES_PER_TURN, Parties, plain_head};
use crate::ids::ChunkId;
use crate::network::{Class, ConnectionId, Network, SendError};
use crate::shard::Shard;
use crate::wire::{
    CatchUpHead, CatchUpKind, FRAME_BYTES_MAX, MANIFEST_ITEMS_MAX, ManifestItem, emit_catch_up,
};
pub(in crate::chunkserver) use arrival::Arrival;
use fault::Fault;
use round::{Desk, Round};

/// A frame that waits.
struct Inbound {
    head: CatchUpHead,
    count: u16,
    body: Vec<u8>,
    runs: Vec<Pages>,
    /// What it brought was taken in; what is left is what its being the last calls for.
    staged: bool,
}

enum Answer {
    Done(u64),
    Manifest { number: u64, after: Option<ChunkId> },
}

/// What became of a frame.
enum Dealt {
    Done(Answer),
    /// It is dealt with, and answered when everything is durable.
    Later,
    /// It cannot be dealt with yet.
    NotNow,
}

/// Where a receiver stands. Only in the first two, frames may come.
enum Stage {
    /// No round has begun.
    Opened,
    /// One is under way.
    Receiving(Round),
    /// The state is complete; its frame, of this number, is answered when everything is durable.
    Finishing { round: Round, arrival: Box<Arrival>, number: u64 },
    /// The raft snapshot may come; what is left is to say so.
    Finished,
}

/// See the module's documentation.
pub(in crate::chunkserver) struct Receiver {
    connection: ConnectionId,
    /// The receiver speaking to the leader.
    whom: Parties,
    /// Number of the last frame that came.
    taken: u64,
    inbox: VecDeque<Inbound>,
    answers: VecDeque<Answer>,
    stage: Stage,
    /// Since when a frame waits for space.
    cramped_since_ns: Option<u64>,
}

impl Receiver {
    fn new(connection: ConnectionId, head: &CatchUpHead) -> Receiver {
        let whom = Parties {
            copyset: head.copyset,
            from: head.to,
            to: head.from,
            term: head.term,
            task: head.task,
        };
        Receiver {
            connection,
            whom,
            taken: 0,
            inbox: VecDeque::new(),
            answers: VecDeque::new(),
            stage: Stage::Opened,
            cramped_since_ns: None,
        }
    }

    fn is_of(&self, connection: ConnectionId, head: &CatchUpHead) -> bool {
        self.connection == connection && self.whom.task == head.task && self.whom.to == head.from
    }

    /// The bytes of a state that are journalled, and how many the whole state has.
    pub fn journalled_state(&self) -> Option<(u32, &[u8])> {
        match &self.stage {
            Stage::Receiving(round) => round.journalled_state(),
            Stage::Finishing { arrival, .. } => Some(arrival.journalled()),
            Stage::Opened | Stage::Finished => None,
        }
    }

    /// Whether blocks of a chunk lie on the device that no map names yet.
    pub fn is_amid_chunk(&self) -> bool {
        matches!(&self.stage, Stage::Receiving(round) if round.is_amid_chunk())
    }

    /// Notes whether a frame waits for space now. Returns whether one has for long.
    fn is_long_cramped(&mut self, short_of_space: bool, now_ns: u64) -> bool {
        if !short_of_space {
            self.cramped_since_ns = None;
            return false;
        }
        let since_ns = *self.cramped_since_ns.get_or_insert(now_ns);
        now_ns.saturating_sub(since_ns) > CRAMPED_NS
    }

    /// Gives back what is not installed.
    pub fn give_up(self, shard: &mut Shard) {
        match self.stage {
            Stage::Receiving(round) | Stage::Finishing { round, .. } => round.give_up(shard),
            Stage::Opened | Stage::Finished => {}
        }
    }

    /// Deals with frames as far as possible. Returns whether any was.
    fn step(&mut self, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let mut worked = false;
        for _ in 0..FRAMES_PER_TURN {
            let Some(mut inbound) = self.inbox.pop_front() else { break };
            match self.deal_with(&mut inbound, desk)? {
                Dealt::Done(answer) => self.answers.push_back(answer),
                Dealt::Later => {}
                Dealt::NotNow => {
                    self.inbox.push_front(inbound);
                    break;
                }
            }
            worked = true;
        }
        Ok(self.finish(desk) || worked)
    }

    fn deal_with(&mut self, inbound: &mut Inbound, desk: &mut Desk<'_>) -> Result<Dealt, Fault> {
        let head = inbound.head;
        let round = match (&mut self.stage, head.kind) {
            (Stage::Opened, CatchUpKind::Begin) => return self.begin(inbound, desk),
            (Stage::Receiving(round), CatchUpKind::Begin) if !round.is_amid_chunk() => {
                return self.begin(inbound, desk);
            }
            (Stage::Receiving(round), _) => round,
            (Stage::Opened | Stage::Finishing { .. } | Stage::Finished, _) => {
                return Err(Fault::Order);
            }
        };
        let done = match head.kind {
            CatchUpKind::List => {
                let after = (!head.first).then_some(head.chunk);
                return Ok(Dealt::Done(Answer::Manifest { number: head.number, after }));
            }
            CatchUpKind::State if head.last => {
                let arrival = Box::new(round.state_end(inbound, desk)?);
                return Ok(self.complete(arrival, head.number));
            }
            CatchUpKind::Retain => round.retain(inbound, desk)?,
            CatchUpKind::Chunk => round.chunk(inbound, desk)?,
            CatchUpKind::State => round.state_part(inbound, desk)?,
            CatchUpKind::Begin | CatchUpKind::Manifest | CatchUpKind::Done | CatchUpKind::Abort => {
                return Err(Fault::Order);
            }
        };
        Ok(if done { Dealt::Done(Answer::Done(head.number)) } else { Dealt::NotNow })
    }

    /// A round begins, the first one or in place of another.
    fn begin(&mut self, inbound: &Inbound, desk: &mut Desk<'_>) -> Result<Dealt, Fault> {
        let Some(round) = Round::begin(inbound, desk)? else { return Ok(Dealt::NotNow) };
        self.stage = Stage::Receiving(round);
        Ok(Dealt::Done(Answer::Done(inbound.head.number)))
    }

    /// The round's state is complete.
    fn complete(&mut self, arrival: Box<Arrival>, number: u64) -> Dealt {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Opened) {
            Stage::Receiving(round) => Stage::Finishing { round, arrival, number },
            _ => unreachable!("a state completes its round"),
        };
        Dealt::Later
    }

    /// Where everything is durable the raft snapshot may come. Returns whether that is so now.
    fn finish(&mut self, desk: &mut Desk<'_>) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Finishing { round, arrival, number } if round.is_durable(desk.shard) => {
                desk.copyset.arrival = Some(arrival);
                desk.copyset.group.expect_snapshot(Some(round.into_expected()));
                self.answers.push_back(Answer::Done(number));
                true
            }
            other => {
                self.stage = other;
                false
            }
        }
    }

    /// Ends the task at its leader. Where that cannot be sent the leader ends it because nothing is
    /// answered.
    fn say_abort<N: Network>(&self, network: &mut N) {
        let mut frame = [0; FRAME_BYTES_MAX];
        let head = plain_head(CatchUpKind::Abort, &self.whom, self.taken);
        let frame = emit_catch_up(&head, 0, &[], &mut frame);
        let _full = network.send(self.connection, Class::Data, frame, &[]);
    }

    /// Sends answers. Returns whether the receiver is done with.
    fn answer<N: Network>(&mut self, desk: &Desk<'_>, network: &mut N) -> bool {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Some(answer) = self.answers.front() {
            let frame = match answer {
                Answer::Done(number) => {
                    let head = plain_head(CatchUpKind::Done, &self.whom, *number);
                    emit_catch_up(&head, 0, &[], &mut frame)
                }
                Answer::Manifest { number, after } => {
                    let mut head = plain_head(CatchUpKind::Manifest, &self.whom, *number);
                    let (items, last) = manifest(desk, *after);
                    head.last = last;
                    emit_catch_up(&head, items.len() as u16, items.as_bytes(), &mut frame)
                }
            };
            match network.send(self.connection, Class::Data, frame, &[]) {
                Ok(()) => {}
                Err(SendError::Full) => return false,
                Err(_closed) => return true,
            }
            self.answers.pop_front();
        }
        matches!(self.stage, Stage::Finished)
    }
}

/// The chunks behind `after` that fit a frame, and whether they are the last.
fn manifest(
    desk: &Desk<'_>,
    mut after: Option<ChunkId>,
) -> (ArrayVec<ManifestItem, MANIFEST_ITEMS_MAX>, bool) {
    let mut items = ArrayVec::new();
    while !items.is_full() {
        let Some(chunk) = desk.shard.store().chunk_after(desk.copyset.id, after) else {
            return (items, true);
        };
        items.push(ManifestItem {
            chunk: chunk.key.chunk.0.into(),
            birth: chunk.birth.0.into(),
            applied: chunk.applied.0.into(),
            mapped: chunk.mapped.into(),
            reserved: 0.into(),
        });
        after = Some(chunk.key.chunk);
    }
    (items, false)
}
