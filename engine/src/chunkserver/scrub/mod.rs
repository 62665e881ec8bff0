//! Scrub: the walk over everything stored, so that a block that nobody reads is found bad, and
//! repaired, while others still have it.
//!
//! Each shard is walked by itself: copyset by copyset, chunk by chunk, in order of their names,
//! what lies together on the device in one read. A round over all is a *pass*; the next begins when
//! the period is over. The rate is bounded ([`pace`]), few reads are under way at once, and none
//! where commands or pages are short: clients come first. What does not match, or is missing, goes
//! to `repair`, which looks again before it believes it.
//!
//! A read holds a ticket of the store like every other, so its block may be overwritten meanwhile
//! and is no finding.
//!
//! Where a pass stands is noted in the journal for each copyset, now and then and at its end, and
//! kept by checkpoints: a restart goes on there. Time is counted only while the server runs.
//!
//! What a replica that catches up has stored is read, but not judged: the writes may be under way.
//!
//! Not here: the comparison with other replicas. What matches its checksum is taken for good.
//!
//! Fault model: any read may fail, and any block may be bad. A position that means nothing any more
//! is one between two chunks.

mod pace;
mod status;

use arrayvec::ArrayVec;
use culvert_memory::Buffer;
use culvert_nvme::Status;

pub use status::ScrubStatus;

use super::repair::{Spot, Suspicion};
use super::{Chunkserver, RunningShard};
use crate::ids::{BLOCK_SIZE, BlockRange, ChunkId, CopysetId, Extent, OPERATION_BLOCKS_MAX};
use crate::journal::{Item, ScrubNote, Space};
use crate::store::{BlockStates, ChunkKey, Place, ReadTicket};
use pace::Pace;

/// Marks the tokens of device reads for the scrub. Those of repairs have a bit above it.
const SCRUB_TOKEN: u64 = 1 << 59;

/// Reads of one shard at once.
const READS_MAX: usize = 4;

/// Blocks of a chunk that are looked up at once.
const WINDOW_BLOCKS: u32 = OPERATION_BLOCKS_MAX;

/// Steps of one turn: looks at a window, a chunk, a copyset.
const STEPS_PER_TURN: u32 = 32;

/// Commands of a shard that are left for others.
const COMMANDS_HEADROOM: u32 = 128;

/// The part of the pool that is left for others.
const POOL_PART: u32 = 4;

/// Where there is no room it is tried again after so long.
const ROOM_NS: u64 = 20_000_000;

/// How often the position is noted.
const NOTE_NS: u64 = 10_000_000_000;

/// Room in the journal that is left for others when a note is appended.
const JOURNAL_HEADROOM_BYTES: usize = 4096;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Whether a device read is the scrub's; not to be asked for those with a bit above it.
pub(super) fn is_scrub(token: u64) -> bool {
    token & SCRUB_TOKEN != 0
}

/// How much a scrub may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// Bytes read in a second on each shard; 0: no scrub.
    pub bytes_per_second: u64,
    /// A pass begins so long after the one before it began, or when that ends.
    pub period_ns: u64,
}

/// Blocks that lie one behind the other on the device.
struct Read {
    position: u32,
    chunk: ChunkId,
    first: u32,
    states: BlockStates,
    ticket: ReadTicket,
    /// A catch-up was under way when it began: a block may just have been being written.
    in_flux: bool,
}

/// Everything before it is verified, or being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    copyset: CopysetId,
    chunk: ChunkId,
    block: u32,
}

/// The scrub of one shard. See the module's documentation.
#[derive(Default)]
pub(super) struct Scrub {
    options: ScrubOptions,
    /// Whether it was looked up where the last process stood.
    resumed: bool,
    pass: u32,
    /// Whether a pass is under way.
    running: bool,
    cursor: Cursor,
    pace: Pace,
    reads: ArrayVec<Option<Read>, READS_MAX>,
    /// When the pass began, and the last one ended; as if the server had run all the time.
    began_ns: u64,
    ended_ns: u64,
    noted_ns: u64,
    /// Blocks of the pass that were verified before the server was started, and since.
    before: u64,
    verified: u64,
    suspected: u64,
}

/// What a step came to.
enum Went {
    /// So many blocks are being read.
    Reading(u32),
    /// The cursor has moved on.
    On,
    /// Reads under way must end first.
    Waits,
    NoRoom,
    /// The pass is over.
    Over,
}

impl Scrub {
    pub fn new(options: ScrubOptions, now_ns: u64) -> Scrub {
        let pace = Pace::new(options.bytes_per_second, now_ns);
        Scrub { options, pace, ..Scrub::default() }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        self.options.bytes_per_second > 0 && now_ns >= self.pace.next_ns() && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.reads.is_full() && self.reads.iter().all(Option::is_some)
    }

    fn is_reading(&self) -> bool {
        self.reads.iter().any(Option::is_some)
    }

    /// When it goes on by the clock; otherwise a read that ends moves it on.
    pub fn deadline_ns(&self) -> u64 {
        let off = self.options.bytes_per_second == 0;
        if off || self.is_reading() { u64::MAX } else { self.pace.next_ns() }
    }

    fn slot(&mut self) -> usize {
        let free = self.reads.iter().position(Option::is_none);
        free.unwrap_or_else(|| {
            self.reads.push(None);
            self.reads.len() - 1
        })
    }

    fn begin_pass(&mut self, now_ns: u64) {
        self.pass += 1;
        self.running = true;
        self.cursor = Cursor::default();
        self.began_ns = now_ns;
        self.noted_ns = now_ns;
        (self.before, self.verified, self.suspected) = (0, 0, 0);
    }

    fn end_pass(&mut self, now_ns: u64) {
        self.running = false;
        self.ended_ns = now_ns;
        self.pace.end(now_ns);
        self.pace.pause(self.began_ns.saturating_add(self.options.period_ns));
    }
}

impl Chunkserver {
    /// Lets the scrubs go on.
    pub(super) fn run_scrubs(&mut self) {
        for shard in 0..self.shards.len() {
            let running = &mut self.shards[shard];
            if running.failed || !running.scrub.is_due(self.now_ns) {
                continue;
            }
            let mut scrub = std::mem::take(&mut running.scrub);
            self.run_scrub(shard, &mut scrub);
            self.shards[shard].scrub = scrub;
        }
    }

    pub(super) fn scrubs_deadline_ns(&self) -> u64 {
        let well = self.shards.iter().filter(|running| !running.failed);
        well.map(|running| running.scrub.deadline_ns()).min().unwrap_or(u64::MAX)
    }

    fn run_scrub(&mut self, shard: usize, scrub: &mut Scrub) {
        let now_ns = self.now_ns;
        if !std::mem::replace(&mut scrub.resumed, true) {
            self.resume_scrub(shard, scrub);
            if !scrub.is_due(now_ns) {
                return;
            }
        }
        if !scrub.running {
            scrub.begin_pass(now_ns);
        }
        for _ in 0..STEPS_PER_TURN {
            if scrub.pace.left(now_ns) == 0 || scrub.is_full() {
                return;
            }
            match self.step_scrub(shard, scrub) {
                Went::Reading(blocks) => scrub.pace.take(blocks, now_ns),
                Went::On => {}
                Went::Waits => return,
                Went::NoRoom => return scrub.pace.pause(now_ns + ROOM_NS),
                Went::Over => {
                    scrub.end_pass(now_ns);
                    let (pass, blocks) = (scrub.pass, scrub.verified);
                    tracing::debug!(shard, pass, blocks, "a scrub is done");
                    return;
                }
            }
        }
    }

    /// The shard's copyset at or behind a name.
    fn copyset_from(&self, shard: usize, from: CopysetId) -> Option<(CopysetId, u32)> {
        let after = from.0.checked_sub(1).map(CopysetId);
        let mut behind = self.by_id.iter_after(after).map(|(id, position)| (id, *position));
        behind.find(|(_, position)| self.copysets[*position as usize].shard == shard)
    }

    /// One step: a read, or the cursor moves on.
    fn step_scrub(&mut self, shard: usize, scrub: &mut Scrub) -> Went {
        let Cursor { copyset, chunk, block } = scrub.cursor;
        let Some((id, position)) = self.copyset_from(shard, copyset) else {
            return if scrub.is_reading() { Went::Waits } else { Went::Over };
        };
        if id != copyset {
            scrub.cursor = Cursor { copyset: id, ..Cursor::default() };
            return Went::On;
        }
        if !scrub.is_reading() && self.now_ns.saturating_sub(scrub.noted_ns) >= NOTE_NS {
            self.note_scrub(position, scrub, (chunk, block));
        }
        let running = &self.shards[shard];
        let store = running.shard.store();
        let key = ChunkKey { copyset: id, chunk };
        let here = store.chunk(key).filter(|_| block < store.geometry().chunk_blocks);
        if here.is_none() {
            let Some(next) = store.chunk_after(id, Some(chunk)) else {
                return self.end_copyset(position, scrub);
            };
            scrub.cursor = Cursor { chunk: next.key.chunk, block: 0, ..scrub.cursor };
            return Went::On;
        }
        let room = running.shard.commands_free() > COMMANDS_HEADROOM
            && self.pool.free_pages() > self.pool.total_pages() / POOL_PART
            && self.repairs.has_room();
        if !room {
            return Went::NoRoom;
        }
        self.scrub_window(shard, scrub, (position, key))
    }

    /// Reads the first run of the window at the cursor, or moves the cursor over it.
    fn scrub_window(
        &mut self,
        shard: usize,
        scrub: &mut Scrub,
        (position, key): (u32, ChunkKey),
    ) -> Went {
        let first = scrub.cursor.block;
        let running = &mut self.shards[shard];
        let chunk_blocks = running.shard.store().geometry().chunk_blocks;
        let blocks = WINDOW_BLOCKS.min(chunk_blocks - first);
        let mut states = BlockStates::new();
        running.shard.store().lookup(key, BlockRange { first, blocks }, &mut states);
        let holes = states.iter().take_while(|state| state.place == Place::Hole).count() as u32;
        scrub.cursor.block += holes;
        if holes > 0 {
            return Went::On;
        }
        let start = match states[0].place {
            Place::At(start) => start,
            Place::Missing | Place::Hole => {
                let spot = Spot { position, chunk: key.chunk, block: first };
                if self.suspect(spot) == Suspicion::Full {
                    return Went::NoRoom;
                }
                scrub.cursor.block += 1;
                return Went::On;
            }
        };
        let follows = |(at, state): &(u32, &_)| {
            let state: &crate::store::BlockState = state;
            state.place == Place::At(start + at)
        };
        let run = (0..).zip(&states).take_while(follows).count() as u32;
        let run = run.min(running.shard.read_blocks_max()).min(scrub.pace.left(self.now_ns));
        let Some(buffer) = self.pool.acquire(run) else { return Went::NoRoom };
        states.truncate(run as usize);
        let ticket = running.shard.store_mut().read_begin();
        let slot = scrub.slot();
        let token = SCRUB_TOKEN | (shard as u64) << 8 | slot as u64;
        running.shard.read(token, Extent { start, blocks: run }, buffer);
        let in_flux = self.copysets[position as usize].is_catching_up();
        let read = Read { position, chunk: key.chunk, first, states, ticket, in_flux };
        scrub.reads[slot] = Some(read);
        scrub.cursor.block += run;
        Went::Reading(run)
    }

    /// A device read of a scrub has ended.
    pub(super) fn scrub_read_done(&mut self, token: u64, buffer: Buffer, status: Status) {
        let (shard, slot) = ((token >> 8) as usize & 0xffff, (token & 0xff) as usize);
        let RunningShard { scrub, shard: store, .. } = &mut self.shards[shard];
        let read = scrub.reads[slot].take().expect("a read that ends was begun");
        let Read { position, chunk, first, states, ticket, in_flux } = read;
        store.store_mut().read_end(ticket);
        if status.is_device_gone() {
            return;
        }
        scrub.verified += states.len() as u64;
        self.counters.blocks_scrubbed += states.len() as u64;
        let key = ChunkKey { copyset: self.copysets[position as usize].id, chunk };
        if in_flux {
            // What does not match was perhaps not written yet. The next pass looks again.
            return;
        }
        for (at, state) in (0..).zip(&states) {
            let matches = buffer.crc32c(at as usize * BLOCK_SIZE, BLOCK_SIZE) == state.crc;
            self.counters.mismatched_blocks += u64::from(status.is_success() && !matches);
            let good = status.is_success() && matches;
            let block = first + at;
            let running = &mut self.shards[shard];
            if good || running.shard.store().block(key, block) != Some(*state) {
                continue;
            }
            running.scrub.suspected += 1;
            if self.suspect(Spot { position, chunk, block }) == Suspicion::Full {
                // From there once more, when there is room.
                let cursor = Cursor { copyset: key.copyset, chunk, block };
                self.shards[shard].scrub.cursor = cursor;
                return;
            }
        }
    }

    /// All of a copyset is verified.
    fn end_copyset(&mut self, position: u32, scrub: &mut Scrub) -> Went {
        if scrub.is_reading() {
            return Went::Waits;
        }
        self.note_scrub(position, scrub, (ScrubNote::DONE, 0));
        let Some(next) = scrub.cursor.copyset.0.checked_add(1) else { return Went::Over };
        scrub.cursor = Cursor { copyset: CopysetId(next), ..Cursor::default() };
        Went::On
    }

    /// Notes where a copyset stands; durable when there is room for it.
    fn note_scrub(&mut self, position: u32, scrub: &mut Scrub, (chunk, block): (ChunkId, u32)) {
        scrub.noted_ns = self.now_ns;
        let copyset = &mut self.copysets[position as usize];
        let elapsed_s = self.now_ns.saturating_sub(scrub.began_ns) / NS_PER_SECOND;
        let elapsed_s = elapsed_s.min(u32::MAX.into()) as u32;
        let note = ScrubNote { copyset: copyset.id, pass: scrub.pass, chunk, block, elapsed_s };
        copyset.scrubbed = Some(note);
        let shard = &mut self.shards[copyset.shard].shard;
        if shard.space() == Space::Normal && shard.room() >= JOURNAL_HEADROOM_BYTES {
            shard.append_item(&Item::ScrubNote(note));
        }
    }

    /// Finds where the last process stood.
    fn resume_scrub(&mut self, shard: usize, scrub: &mut Scrub) {
        let of_shard = |copyset: &&super::Copyset| copyset.shard == shard;
        let notes = || self.copysets.iter().filter(of_shard).filter_map(|copyset| copyset.scrubbed);
        let Some(pass) = notes().map(|note| note.pass).max() else { return };
        let of_pass = |note: &ScrubNote| note.pass == pass;
        let elapsed_s = notes().filter(of_pass).map(|note| note.elapsed_s).max().unwrap_or(0);
        scrub.pass = pass;
        let elapsed_ns = u64::from(elapsed_s) * NS_PER_SECOND;
        scrub.began_ns = self.now_ns.saturating_sub(elapsed_ns);
        scrub.noted_ns = self.now_ns;
        let store = self.shards[shard].shard.store();
        let mut from = CopysetId(0);
        while let Some((id, position)) = self.copyset_from(shard, from) {
            let note = self.copysets[position as usize].scrubbed.filter(of_pass);
            match note {
                Some(note) if note.chunk == ScrubNote::DONE => {
                    scrub.before += store.mapped_blocks(id);
                }
                note => {
                    let (chunk, block) = note.map_or_else(Default::default, |n| (n.chunk, n.block));
                    let mut after = None;
                    while let Some(before) = store.chunk_after(id, after)
                        && before.key.chunk < chunk
                    {
                        scrub.before += u64::from(before.mapped);
                        after = Some(before.key.chunk);
                    }
                    scrub.cursor = Cursor { copyset: id, chunk, block };
                    scrub.running = true;
                    return;
                }
            }
            let Some(next) = id.0.checked_add(1) else { break };
            from = CopysetId(next);
        }
        scrub.end_pass(self.now_ns);
    }
}
