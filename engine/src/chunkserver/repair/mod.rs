//! Repair of single blocks: a block whose bytes are bad here, or missing, comes from a peer and is
//! stored anew.
//!
//! # The way
//!
//! 1. Somebody meets a block whose bytes fail their checksum, cannot be read or are missing: a
//!    client's read, a feed, a catch-up, the scrub, a peer that asks for it. It is *suspected*: put
//!    into the [`table`], once.
//! 2. It is looked up and read once more, by itself. So a neighbour that could not be read with it,
//!    and a block that was overwritten meanwhile, are no finding.
//! 3. The other replicas are asked one after the other, with the index and the checksum that our map
//!    has ([`answering`] is their side). Who leads does not matter. What comes must match *our*
//!    checksum.
//! 4. It is written to an extent of its own. When that is durable, and the map still has this index
//!    and checksum, a record is appended and the map swings in the same step; `store/repaired.rs`
//!    says why no crash can tell.
//! 5. Reads that wait for it ([`waiting`]) are read again. If no replica has the block they are
//!    answered so; nobody gets unverified bytes.
//!
//! A replica that does not answer, lags behind or is ahead may do better soon: after a rest all are
//! asked again, a few times. Then the block is given up for now, and tried again when somebody needs
//! it, or after a minute. A checksum that does not match says nothing of the device as a whole: it
//! goes on.
//!
//! Not here: journal holes; entries that are not applied, whose payload the map does not name.
//!
//! Fault model: every frame is the peer's word. What is no frame closes the connection; an answer
//! that nobody waits for is dropped, and one whose bytes are others counts as none.

mod answering;
mod table;
mod telling;
mod waiting;

use culvert_memory::{Buffer, Pages};
use culvert_nvme::Status;

use super::{Chunkserver, Offence, RunningShard};
use crate::ids::{BLOCK_SIZE, ChunkId, Extent};
use crate::journal::{BlockRepaired, Space};
use crate::network::{Class, ConnectionId, Network, Payloads, SendError};
use crate::store::{BlockState, ChunkKey, Place};
use crate::wire::{RepairFrame, RepairKind};
use answering::Answers;
pub(super) use table::{Spot, Suspicion};
use table::{Step, Table};
use telling::Telling;
use waiting::Waiting;

/// Marks the tokens of device reads for repairs. Those of catch-ups have the bit above it.
const REPAIR_TOKEN: u64 = 1 << 61;

/// ... of reads for a peer's sake.
const ANSWER_TOKEN: u64 = 1 << 60;

/// A peer that has not answered for so long is not waited for.
const ASK_TIMEOUT_NS: u64 = 1_000_000_000;

/// How soon is tried again what found no room.
const ROOM_NS: u64 = 5_000_000;

/// Commands of a shard that are left for others.
const COMMANDS_HEADROOM: u32 = 64;

/// Room in the journal that is left for others when a repair is appended.
const JOURNAL_HEADROOM_BYTES: usize = 4096;

/// Whether a device read belongs to a repair; not to be asked for a feed's or a catch-up's.
pub(super) fn is_repair(token: u64) -> bool {
    token & REPAIR_TOKEN != 0
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Repairs {
    table: Table,
    answers: Answers,
    waiting: Waiting,
    telling: Telling,
    next_number: u64,
    /// Whether the next turn has something to do without an event.
    pub busy: bool,
    /// When to look again, where something found no room.
    look_ns: Option<u64>,
}

/// What a step of one block came to.
enum Went {
    /// It waits for an event or the clock.
    Waits,
    /// It has come on: look at it again.
    On,
    /// There is no room for its next step now.
    NoRoom,
    /// It is over: no longer bad, or no longer there.
    Over,
}

impl Repairs {
    pub fn deadline_ns(&self) -> u64 {
        if self.is_idle() {
            return u64::MAX;
        }
        let due = self.table.due_ns(ASK_TIMEOUT_NS).min(self.waiting.due_ns());
        self.look_ns.map_or(due, |look_ns| due.min(look_ns))
    }

    fn is_idle(&self) -> bool {
        self.table.is_empty() && self.answers.is_empty() && self.waiting.is_empty()
    }

    /// Whether there is room for a block that nobody waits for.
    pub fn has_room(&self) -> bool {
        self.table.has_room()
    }

    /// Blocks under repair, and blocks that were given up for now.
    pub fn counts(&self) -> (usize, usize) {
        self.table.counts()
    }
}

impl Chunkserver {
    /// A block may be bad here.
    pub(super) fn suspect(&mut self, spot: Spot) -> Suspicion {
        self.repairs.busy = true;
        self.repairs.table.suspect(spot, self.now_ns)
    }

    /// Lets repairs and answers go on.
    pub(super) fn run_repairs<N: Network>(&mut self, network: &mut N) {
        self.repairs.busy = false;
        if self.repairs.is_idle() {
            return;
        }
        self.repairs.look_ns = None;
        for slot in 0..self.repairs.table.slots() {
            self.run_repair(slot, network);
        }
        self.run_answers(network);
        self.settle_waiting();
    }

    fn run_repair<N: Network>(&mut self, slot: usize, network: &mut N) {
        loop {
            let Some(work) = self.repairs.table.get_mut(slot) else { return };
            let spot = work.spot;
            if !matches!(work.step, Step::Reading { .. }) && !self.in_service(spot.position) {
                self.repairs.table.end(slot);
                self.repairs.busy = true;
                return;
            }
            match self.step_repair(slot, spot, network) {
                Went::On => {}
                Went::Waits => return,
                Went::NoRoom => {
                    self.repairs.look_ns = Some(self.now_ns + ROOM_NS);
                    return;
                }
                Went::Over => {
                    self.repairs.table.end(slot);
                    self.repairs.busy = true;
                    return;
                }
            }
        }
    }

    fn step_repair<N: Network>(&mut self, slot: usize, spot: Spot, network: &mut N) -> Went {
        let now_ns = self.now_ns;
        let work = self.repairs.table.get_mut(slot).expect("a block under repair");
        match &work.step {
            Step::Suspected => self.look_at(slot, spot),
            Step::Reading { .. } => Went::Waits,
            Step::Wanted { state } => {
                let state = *state;
                self.ask(slot, spot, state, network)
            }
            Step::Asked { state, place, connection, since_ns, .. } => {
                let (state, place, connection) = (*state, *place, *connection);
                let late = now_ns.saturating_sub(*since_ns) >= ASK_TIMEOUT_NS;
                let peer = self.copysets[spot.position as usize].places[place].peer;
                let lost = peer.and_then(|peer| self.peers.connection(peer)) != Some(connection);
                if !late && !lost {
                    return Went::Waits;
                }
                let work = self.repairs.table.get_mut(slot).expect("seen before");
                work.hope = true;
                work.step = Step::Wanted { state };
                Went::On
            }
            Step::Resting { .. } | Step::GivenUp { .. } => {
                if now_ns < work.due_ns(ASK_TIMEOUT_NS) {
                    return Went::Waits;
                }
                work.begin_again();
                Went::On
            }
            Step::Here { .. } => self.store_repair(slot, spot),
            Step::Writing { state, to, batch } => {
                let (state, to, batch) = (*state, *to, *batch);
                if self.shard_of(spot).shard.durable() < batch {
                    return Went::Waits;
                }
                self.install_repair(spot, state, to)
            }
        }
    }

    fn shard_of(&mut self, spot: Spot) -> &mut RunningShard {
        &mut self.shards[self.copysets[spot.position as usize].shard]
    }

    fn key_of(&self, spot: Spot) -> ChunkKey {
        ChunkKey { copyset: self.copysets[spot.position as usize].id, chunk: spot.chunk }
    }

    /// What the map says of a block that is mapped.
    fn mapped(&mut self, spot: Spot) -> Option<BlockState> {
        let key = self.key_of(spot);
        let state = self.shard_of(spot).shard.store().block(key, spot.block);
        state.filter(|state| state.place != Place::Hole)
    }

    /// Reads a block once more, where there is anything to read.
    fn look_at(&mut self, slot: usize, spot: Spot) -> Went {
        let Some(state) = self.mapped(spot) else { return Went::Over };
        if self.copysets[spot.position as usize].is_catching_up() {
            // Perhaps not written yet: whoever needs it meets it again.
            return Went::Over;
        }
        let Place::At(start) = state.place else {
            self.found_bad(slot, spot, state, "missing");
            return Went::On;
        };
        if self.shard_of(spot).shard.commands_free() <= COMMANDS_HEADROOM {
            return Went::NoRoom;
        }
        let Some(buffer) = self.pool.acquire(1) else { return Went::NoRoom };
        let shard = &mut self.shard_of(spot).shard;
        let ticket = shard.store_mut().read_begin();
        shard.read(REPAIR_TOKEN | slot as u64, Extent { start, blocks: 1 }, buffer);
        let work = self.repairs.table.get_mut(slot).expect("a block under repair");
        work.step = Step::Reading { state, ticket };
        Went::Waits
    }

    /// A device read for a repair has ended.
    pub(super) fn repair_read_done(&mut self, token: u64, buffer: Buffer, status: Status) {
        let slot = (token & 0xffff) as usize;
        if token & ANSWER_TOKEN != 0 {
            return self.answer_read_done(slot, buffer, status);
        }
        self.repairs.busy = true;
        let work = self.repairs.table.get_mut(slot).expect("nobody ends a block that is read");
        let spot = work.spot;
        let Step::Reading { state, ticket } = std::mem::replace(&mut work.step, Step::Suspected)
        else {
            panic!("a read that ends was begun")
        };
        self.shard_of(spot).shard.store_mut().read_end(ticket);
        let good = status.is_success() && buffer.crc32c(0, BLOCK_SIZE) == state.crc;
        if good || status.is_device_gone() || self.mapped(spot) != Some(state) {
            // Read well, out of service in a moment, or not the block that it was.
            self.repairs.table.end(slot);
            return;
        }
        let what = if status.is_success() { "its checksum is wrong" } else { "it is unreadable" };
        self.found_bad(slot, spot, state, what);
    }

    /// A block is bad: said once, and wanted from a peer.
    fn found_bad(&mut self, slot: usize, spot: Spot, state: BlockState, what: &'static str) {
        let copyset = self.copysets[spot.position as usize].id;
        let work = self.repairs.table.get_mut(slot).expect("a block under repair");
        work.step = Step::Wanted { state };
        if std::mem::replace(&mut work.told, true) || state.place == Place::Missing {
            // Missing blocks are told when they are repaired, or are not: those of an entry that
            // was superseded are missing for a moment only.
            return;
        }
        self.counters.bad_blocks += 1;
        if self.repairs.telling.may(self.now_ns) {
            let Spot { chunk, block, .. } = spot;
            tracing::error!(%copyset, %chunk, block, place = ?state.place, index = %state.index, what, "a stored block is bad");
        }
    }

    /// Asks the next replica.
    fn ask<N: Network>(
        &mut self,
        slot: usize,
        spot: Spot,
        state: BlockState,
        network: &mut N,
    ) -> Went {
        if self.mapped(spot) != Some(state) {
            return Went::Over;
        }
        let copyset = &self.copysets[spot.position as usize];
        let work = self.repairs.table.get_mut(slot).expect("a block under repair");
        let mut places = copyset.places.iter().enumerate().take(u32::BITS as usize);
        let next = places.find_map(|(at, place)| {
            let peer = place.peer.filter(|_| work.asked >> at & 1 == 0)?;
            Some((at, place.replica, self.peers.connection(peer)))
        });
        let Some((place, to, connection)) = next else {
            work.round_over(self.now_ns);
            if matches!(work.step, Step::GivenUp { .. }) {
                self.give_up(spot, state);
            }
            return Went::On;
        };
        let Some(connection) = connection else {
            work.asked |= 1 << place;
            work.hope = true;
            return Went::On;
        };
        let number = self.repairs.next_number;
        let frame = RepairFrame {
            kind: RepairKind::Ask,
            copyset: copyset.id,
            from: copyset.group.replica(),
            to,
            number,
            chunk: spot.chunk,
            index: state.index,
            block: spot.block,
            crc: state.crc,
        };
        match network.send(connection, Class::Data, &frame.emit(), &[]) {
            Err(SendError::Full) => return Went::NoRoom,
            // One that is closed is found out like one that does not answer.
            _ => self.repairs.next_number += 1,
        }
        work.asked |= 1 << place;
        work.step = Step::Asked { state, place, connection, number, since_ns: self.now_ns };
        Went::Waits
    }

    /// No replica has it.
    fn give_up(&mut self, spot: Spot, state: BlockState) {
        self.repairs.busy = true;
        self.counters.blocks_not_repairable += 1;
        if self.repairs.telling.may(self.now_ns) {
            let copyset = self.copysets[spot.position as usize].id;
            let Spot { chunk, block, .. } = spot;
            tracing::error!(%copyset, %chunk, block, index = %state.index, "no replica has a bad block whole");
        }
    }

    /// Takes a frame of a repair.
    pub(super) fn repair_frame(
        &mut self,
        connection: ConnectionId,
        count: u16,
        body: &[u8],
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let frame = RepairFrame::parse(count, body)?;
        let came: u32 = payloads.iter().map(Buffer::pages).sum();
        let said = u32::from(frame.kind == RepairKind::Found);
        if came != said {
            return Err(Offence::Payload { said, came });
        }
        let Some(position) = self.position(frame.copyset) else { return Ok(()) };
        let copyset = &self.copysets[position as usize];
        let from_there = copyset.peer_of(frame.from) == self.peers.by_connection(connection);
        let to_us = frame.to == copyset.group.replica();
        if !from_there || !to_us || !self.in_service(position) {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        if frame.kind == RepairKind::Ask {
            self.take_question(position, connection, &frame);
        } else {
            let pages = payloads.drain(..).next().map(Buffer::freeze);
            self.take_answer(position, connection, &frame, pages);
        }
        Ok(())
    }

    /// A replica has answered.
    fn take_answer(
        &mut self,
        position: u32,
        connection: ConnectionId,
        frame: &RepairFrame,
        pages: Option<Pages>,
    ) {
        let slot = self.repairs.table.asked(frame.number);
        let Some(work) = slot.and_then(|slot| self.repairs.table.get_mut(slot)) else {
            // Too late, most likely.
            self.counters.messages_refused += 1;
            return;
        };
        let Step::Asked { state, place, connection: asked, .. } = work.step else {
            unreachable!("found by its question")
        };
        let Spot { position: at, chunk, block } = work.spot;
        let replica = self.copysets[at as usize].places[place].replica;
        let about = (frame.chunk, frame.block, frame.index, frame.crc);
        let fits = about == (chunk, block, state.index, state.crc) && at == position;
        if !fits || asked != connection || replica != frame.from {
            self.counters.messages_refused += 1;
            return;
        }
        self.repairs.busy = true;
        work.step = Step::Wanted { state };
        match (frame.kind, pages) {
            (RepairKind::Found, Some(pages)) if pages.crc32c(0, BLOCK_SIZE) == state.crc => {
                work.step = Step::Here { state, pages };
            }
            (RepairKind::Found, _) => {
                // Damaged on the way.
                self.counters.bad_payloads += 1;
                work.hope = true;
            }
            (RepairKind::Newer | RepairKind::Absent, _) => work.hope = true,
            (RepairKind::Bad | RepairKind::Ask, _) => {}
        }
    }

    /// Writes the bytes to a place of their own.
    fn store_repair(&mut self, slot: usize, spot: Spot) -> Went {
        let mapped = self.mapped(spot);
        let shard = &mut self.shards[self.copysets[spot.position as usize].shard].shard;
        let work = self.repairs.table.get_mut(slot).expect("a block under repair");
        let Step::Here { state, pages } = &work.step else { unreachable!("it was looked at") };
        if mapped != Some(*state) {
            return Went::Over;
        }
        // Down to the last block: few are on their way at a time, and each frees another.
        let room = shard.commands_free() > COMMANDS_HEADROOM && shard.space() == Space::Normal;
        let Some(extents) = room.then(|| shard.store_mut().allocate(1)).flatten() else {
            return Went::NoRoom;
        };
        let (batch, to) = (shard.open_batch(), extents[0].start);
        shard.write_payload(&extents, pages);
        work.step = Step::Writing { state: *state, to, batch };
        Went::Waits
    }

    /// The bytes are durable: says so and swings the map, in one step.
    fn install_repair(&mut self, spot: Spot, state: BlockState, to: u32) -> Went {
        let (key, mapped) = (self.key_of(spot), self.mapped(spot));
        let shard = &mut self.shard_of(spot).shard;
        if mapped != Some(state) {
            shard.store_mut().release(Extent { start: to, blocks: 1 });
            return Went::Over;
        }
        if shard.space() != Space::Normal || shard.room() < JOURNAL_HEADROOM_BYTES {
            return Went::NoRoom;
        }
        let batch = shard.append_repaired(BlockRepaired {
            copyset: key.copyset,
            chunk: key.chunk,
            block: spot.block,
            index: state.index,
            crc: state.crc,
            granule: to,
        });
        // Behind the append: what it releases counts with the record's batch, or a later one.
        assert_eq!(batch, shard.open_batch(), "nothing is sealed between record and swing");
        let swung = shard.store_mut().relocate(key, spot.block, state, to);
        assert!(swung, "it was looked up before");
        self.counters.blocks_repaired += 1;
        if state.place == Place::Missing {
            self.counters.bad_blocks += 1;
            self.counters.missing_blocks += 1;
        }
        if self.repairs.telling.may(self.now_ns) {
            let Spot { chunk, block, .. } = spot;
            tracing::warn!(copyset = %key.copyset, %chunk, block, from = ?state.place, to, index = %state.index, "a bad block was repaired from a peer");
        }
        Went::Over
    }
}

/// The blocks of a range whose bits are set.
pub(super) fn spots(
    position: u32,
    chunk: ChunkId,
    first: u32,
    bits: u32,
) -> impl Iterator<Item = Spot> {
    let set = (0..u32::BITS).filter(move |bit| bits >> bit & 1 == 1);
    set.map(move |bit| Spot { position, chunk, block: first + bit })
}
