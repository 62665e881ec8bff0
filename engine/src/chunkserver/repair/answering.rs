//! The other side of a repair: a peer asks for a block, and gets it if it is good here.
//!
//! A question is looked up when it comes, and its block is read and verified before it leaves. What
//! is bad here too is suspected here as well. Questions have a bound, for each connection and for
//! all; one more is dropped, and its asker asks somebody else after a while.

use culvert_memory::{Buffer, Pages};
use culvert_nvme::Status;

use super::{ANSWER_TOKEN, COMMANDS_HEADROOM, REPAIR_TOKEN, ROOM_NS, Spot};
use crate::chunkserver::Chunkserver;
use crate::ids::{BLOCK_SIZE, Extent};
use crate::network::{Class, ConnectionId, Network, SendError};
use crate::store::{BlockState, Place, ReadTicket};
use crate::wire::{RepairFrame, RepairKind};

/// Questions at once.
const ANSWERS_MAX: usize = 64;

/// Questions of one connection at once.
const CONNECTION_MAX: usize = 32;

/// Where a question stands.
enum Stage {
    /// Its block is to be read.
    Wanted,
    Reading {
        state: BlockState,
        ticket: ReadTicket,
    },
    Good(Pages),
    Say(RepairKind),
}

struct Answer {
    connection: ConnectionId,
    position: u32,
    frame: RepairFrame,
    stage: Stage,
}

impl Answer {
    fn spot(&self) -> Spot {
        let RepairFrame { chunk, block, .. } = self.frame;
        Spot { position: self.position, chunk, block }
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Answers {
    answers: Vec<Option<Answer>>,
    count: usize,
}

impl Answers {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push(&mut self, answer: Answer) -> bool {
        let of_connection = |other: &&Answer| other.connection == answer.connection;
        if self.answers.iter().flatten().filter(of_connection).count() >= CONNECTION_MAX {
            return false;
        }
        let slot = self.answers.iter().position(Option::is_none);
        match slot {
            Some(slot) => self.answers[slot] = Some(answer),
            None if self.answers.len() < ANSWERS_MAX => self.answers.push(Some(answer)),
            None => return false,
        }
        self.count += 1;
        true
    }

    fn end(&mut self, slot: usize) {
        self.count -= usize::from(self.answers[slot].take().is_some());
    }
}

impl Chunkserver {
    /// A replica asks for a block.
    pub(super) fn take_question(
        &mut self,
        position: u32,
        connection: ConnectionId,
        frame: &RepairFrame,
    ) {
        let stage = self.judge_question(position, frame);
        let answer = Answer { connection, position, frame: *frame, stage };
        if self.repairs.answers.push(answer) {
            self.repairs.busy = true;
        } else {
            self.counters.messages_refused += 1;
        }
    }

    /// What the map here says of the block.
    fn judge_question(&mut self, position: u32, frame: &RepairFrame) -> Stage {
        let spot = Spot { position, chunk: frame.chunk, block: frame.block };
        let key = self.key_of(spot);
        let store = self.shard_of(spot).shard.store();
        if frame.block >= store.geometry().chunk_blocks {
            return Stage::Say(RepairKind::Absent);
        }
        let Some(state) = store.block(key, frame.block) else {
            return Stage::Say(RepairKind::Absent);
        };
        // While a catch-up is under way the block may just be being written: ask again later.
        let in_flux = self.copysets[position as usize].is_catching_up();
        match state.place {
            _ if state.index > frame.index => Stage::Say(RepairKind::Newer),
            _ if in_flux => Stage::Say(RepairKind::Absent),
            Place::At(_) if (state.index, state.crc) == (frame.index, frame.crc) => Stage::Wanted,
            Place::Missing if (state.index, state.crc) == (frame.index, frame.crc) => {
                self.suspect(spot);
                Stage::Say(RepairKind::Bad)
            }
            _ => Stage::Say(RepairKind::Absent),
        }
    }

    /// Lets answers go on.
    pub(super) fn run_answers<N: Network>(&mut self, network: &mut N) {
        for slot in 0..self.repairs.answers.answers.len() {
            let Some(answer) = self.repairs.answers.answers[slot].take() else { continue };
            let left = self.run_answer(slot, answer, network);
            self.repairs.answers.count -= usize::from(left.is_none());
            self.repairs.answers.answers[slot] = left;
        }
    }

    /// The next step of an answer; what is left of it.
    fn run_answer<N: Network>(
        &mut self,
        slot: usize,
        mut answer: Answer,
        network: &mut N,
    ) -> Option<Answer> {
        if matches!(answer.stage, Stage::Reading { .. }) {
            return Some(answer);
        }
        let known = self.peers.by_connection(answer.connection).is_some();
        if !known || !self.in_service(answer.position) {
            return None;
        }
        if matches!(answer.stage, Stage::Wanted) {
            self.read_answer(slot, &mut answer);
            return Some(answer);
        }
        let (kind, pages) = match &answer.stage {
            Stage::Good(pages) => (RepairKind::Found, Some(pages)),
            Stage::Say(kind) => (*kind, None),
            Stage::Wanted | Stage::Reading { .. } => unreachable!("dealt with before"),
        };
        let frame = answer.frame.answer(kind).emit();
        let sent = match pages {
            None => network.send(answer.connection, Class::Data, &frame, &[]),
            Some(pages) => match network.reserve(answer.connection, 1) {
                None => Err(SendError::Full),
                Some(place) => {
                    let pages = [(place, pages.clone())];
                    let sent = network.send(answer.connection, Class::Data, &frame, &pages);
                    if sent.is_err() {
                        network.cancel(answer.connection, place);
                    }
                    sent
                }
            },
        };
        if sent == Err(SendError::Full) {
            // The connection says when it has room.
            return Some(answer);
        }
        self.counters.repair_answers += u64::from(kind == RepairKind::Found);
        None
    }

    /// Starts the read for an answer, where there is room; or finds that the block is no more.
    fn read_answer(&mut self, slot: usize, answer: &mut Answer) {
        let spot = answer.spot();
        let told = (answer.frame.index, answer.frame.crc);
        let in_flux = self.copysets[answer.position as usize].is_catching_up();
        let state = self.mapped(spot).filter(|state| (state.index, state.crc) == told && !in_flux);
        let Some((state, Place::At(start))) = state.map(|state| (state, state.place)) else {
            self.repairs.busy = true;
            answer.stage = self.judge_question(answer.position, &answer.frame);
            return;
        };
        let room = self.shard_of(spot).shard.commands_free() > COMMANDS_HEADROOM;
        let Some(buffer) = room.then(|| self.pool.acquire(1)).flatten() else {
            self.repairs.look_ns = Some(self.now_ns + ROOM_NS);
            return;
        };
        let shard = &mut self.shard_of(spot).shard;
        let ticket = shard.store_mut().read_begin();
        let token = REPAIR_TOKEN | ANSWER_TOKEN | slot as u64;
        shard.read(token, Extent { start, blocks: 1 }, buffer);
        answer.stage = Stage::Reading { state, ticket };
    }

    pub(super) fn answer_read_done(&mut self, slot: usize, buffer: Buffer, status: Status) {
        self.repairs.busy = true;
        let answer = self.repairs.answers.answers[slot].as_mut().expect("kept while it is read");
        let spot = answer.spot();
        let bad = Stage::Say(RepairKind::Bad);
        let Stage::Reading { state, ticket } = std::mem::replace(&mut answer.stage, bad) else {
            panic!("a read that ends was begun")
        };
        let good = status.is_success() && buffer.crc32c(0, BLOCK_SIZE) == state.crc;
        if good {
            answer.stage = Stage::Good(buffer.freeze());
        }
        self.shard_of(spot).shard.store_mut().read_end(ticket);
        if status.is_device_gone() {
            self.repairs.answers.end(slot);
        } else if !good {
            self.suspect(spot);
        }
    }
}
