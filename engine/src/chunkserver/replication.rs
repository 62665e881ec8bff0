//! From the library's "send these entries" to frames, payload and credits.
//!
//! A [`Feed`] holds what the library wants one follower of one copyset to get, as index ranges. A
//! range is sent when the follower's window has room. Payload comes out of the client's landing
//! page while the entry is in flight, and from this replica's device afterwards; blocks that later
//! committed entries overwrote are not sent at all, only marked. A follower that takes nothing
//! holds no page: once an entry commits, its page belongs to nobody here.
//!
//! A payload that turns out bad on the device is repaired from a peer where its entry is applied.
//! Where it is not, nobody can tell yet whether it counts: this replica gives up leadership. Either
//! another one has the entry and leads, or a majority has not and it never counted.

mod live;

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use culvert_memory::{Buffer, Pages};
use culvert_nvme::Status;

use self::live::{live_blocks, missing_blocks, superseded_by};
use super::copyset::Copyset;
use super::repair::spots;
use super::{Chunkserver, Offence, RunningShard};
use crate::counters::Counters;
use crate::ids::{BLOCK_SIZE, Extent, LogIndex, OPERATION_EXTENTS_MAX, ReplicaId, Term};
use crate::network::{Class, ConnectionId, Network, Payloads, Placement, SendError};
use crate::raft_group::{AppendRange, LogEntry, Outbox, StoredEntry};
use crate::store::{ChunkKey, ReadTicket};
use crate::wire::{
    APPEND_FRAMES_IN_FLIGHT_MAX, AppendEntry, AppendHeader, AppendReader, AppendWriter,
    live_mask_of,
};

/// Entries that one feed reads from the device ahead of sending.
const FETCHES_MAX: usize = 16;

/// Ranges that wait in one feed. The library has at most [`APPEND_FRAMES_IN_FLIGHT_MAX`] with
/// entries in flight; as many again are for what it sends without counting it, such as probes.
const RANGES_MAX: usize = 2 * APPEND_FRAMES_IN_FLIGHT_MAX as usize;

/// After so many reads in vain the payload of an entry that is not applied counts as bad.
const READS_IN_VAIN_MAX: u32 = 3;

/// Payload runs in one frame.
const FRAME_PAYLOADS_MAX: usize = culvert_transport::PAYLOADS_MAX;

/// Marks the tokens of device reads for feeds.
const FEED_TOKEN: u64 = 1 << 63;

/// An entry whose payload comes from the device.
struct Fetch {
    index: LogIndex,
    /// Names this fetch among all of the feed's, so that a late read finds nothing.
    number: u32,
    live_mask: u32,
    superseded_by: Option<LogIndex>,
    crcs: ArrayVec<u32, 32>,
    pieces: ArrayVec<Option<Pages>, OPERATION_EXTENTS_MAX>,
    outstanding: u32,
    ticket: Option<ReadTicket>,
    failed: bool,
    /// What it was for is no longer wanted; it only waits for its reads.
    void: bool,
}

/// See the module's documentation.
pub(super) struct Feed {
    pub to: ReplicaId,
    pub peer: usize,
    ranges: VecDeque<AppendRange>,
    fetches: VecDeque<Fetch>,
    next_fetch: u32,
    /// Waits for credits or queue room.
    blocked: bool,
    /// The entry that is next to be sent, the term in which it was to be, and how often its payload
    /// was read in vain.
    in_vain: (Term, LogIndex, u32),
}

/// The feed that a device read belongs to: copyset position and feed number.
pub(super) fn feed_of(token: u64) -> Option<(u32, usize)> {
    (token & FEED_TOKEN != 0)
        .then_some(((token >> 40) as u32 & 0x7f_ffff, (token >> 36) as usize & 0xf))
}

fn token_of(position: u32, feed: usize, number: u32, piece: usize) -> u64 {
    assert!(position < 1 << 23);
    assert!(feed < 16);
    FEED_TOKEN
        | u64::from(position) << 40
        | (feed as u64) << 36
        | u64::from(number & 0x0fff_ffff) << 8
        | piece as u64
}

impl Feed {
    pub fn new(to: ReplicaId, peer: usize) -> Feed {
        Feed {
            to,
            peer,
            ranges: VecDeque::new(),
            fetches: VecDeque::new(),
            next_fetch: 0,
            blocked: false,
            in_vain: Default::default(),
        }
    }

    /// Counts a read in vain. Returns how often the entry's payload was.
    fn read_in_vain(&mut self, term: Term, index: LogIndex) -> u32 {
        let same = (self.in_vain.0, self.in_vain.1) == (term, index);
        let before = if same { self.in_vain.2 } else { 0 };
        self.in_vain = (term, index, before + 1);
        before + 1
    }

    /// Forgets what waits. Device reads under way keep their tickets until they end.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.fetches.retain(|fetch| fetch.outstanding > 0);
        for fetch in &mut self.fetches {
            fetch.void = true;
        }
        self.blocked = false;
    }

    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    fn has_work(&self) -> bool {
        !self.ranges.is_empty() && !self.blocked
    }

    /// Queues a range; `false` where too many wait and the library must be told.
    ///
    /// What waits already is not queued again: the library repeats itself with every heartbeat while
    /// a slow device is read.
    pub fn push(&mut self, range: AppendRange) -> bool {
        if self.ranges.iter().any(|waiting| holds(waiting, &range)) {
            return true;
        }
        if self.ranges.len() >= RANGES_MAX {
            return false;
        }
        self.ranges.push_back(range);
        true
    }
}

/// Whether a range that waits says all that another one does; the commit index it tells is that of
/// the time when it is sent.
fn holds(waiting: &AppendRange, range: &AppendRange) -> bool {
    let end = |range: &AppendRange| range.previous_index.0 + u64::from(range.count);
    waiting.term == range.term
        && waiting.previous_index <= range.previous_index
        && end(range) <= end(waiting)
}

/// What stops a feed for now.
enum Stop {
    /// No credits or no queue room: wait for the connection.
    Blocked,
    /// What was accepted for the follower is not on the wire yet.
    Unsent,
    /// A device read is under way.
    Reading,
    /// The range means nothing any more, or cannot be sent: the library must probe again.
    Lost,
}

/// Puts a copyset into a list that its flag says it is not in yet.
fn mark(list: &mut Vec<u32>, listed: &mut bool, position: u32) {
    if !*listed {
        *listed = true;
        list.push(position);
    }
}

impl Chunkserver {
    /// Credits or room came back on a connection.
    pub(super) fn wake_feeds(&mut self, connection: ConnectionId) {
        let Some(peer) = self.peers.by_connection(connection) else { return };
        for (position, copyset) in self.copysets.iter_mut().enumerate() {
            for feed in copyset.feeds.iter_mut().filter(|feed| feed.peer == peer) {
                feed.unblock();
            }
            if copyset.feeds.iter().any(Feed::has_work) {
                mark(&mut self.feeding, &mut copyset.feeding, position as u32);
            }
        }
    }

    /// Sorts what the group of the copyset at `position` wants sent to feeds and peers.
    pub(super) fn route_outbox(&mut self, position: u32) {
        let mut outbox = std::mem::take(&mut self.outbox);
        let Outbox { appends, messages, reads } = &mut outbox;
        let copyset = &mut self.copysets[position as usize];
        for message in &*messages {
            if let Some(peer) = copyset.peer_of(message.to) {
                self.peers.push(peer, message);
            }
        }
        messages.clear();
        for range in appends.drain(..) {
            let Some(feed) = copyset.feeds.iter_mut().find(|feed| feed.to == range.to) else {
                continue;
            };
            if !self.peers.is_connected(feed.peer) || !feed.push(range) {
                feed.clear();
                copyset.group.report_unreachable(range.to);
            } else {
                mark(&mut self.feeding, &mut copyset.feeding, position);
            }
        }
        for (context, index) in reads.drain(..) {
            self.round_done(position, context, index);
        }
        self.outbox = outbox;
    }

    /// Sends what windows and queues have room for.
    pub(super) fn pump_feeds<N: Network>(&mut self, network: &mut N) {
        let mut feeding = std::mem::take(&mut self.feeding);
        feeding.retain(|position| {
            self.pump_copyset(*position as usize, network);
            let copyset = &mut self.copysets[*position as usize];
            copyset.feeding = copyset.feeds.iter().any(Feed::has_work);
            copyset.feeding
        });
        debug_assert!(self.feeding.is_empty(), "nothing is queued while feeds are pumped");
        self.feeding = feeding;
    }

    fn pump_copyset<N: Network>(&mut self, position: usize, network: &mut N) {
        for at in 0..self.copysets[position].feeds.len() {
            let copyset = &mut self.copysets[position];
            if !copyset.feeds[at].has_work() {
                continue;
            }
            let peer = copyset.feeds[at].peer;
            let Some(connection) = self.peers.connection(peer) else {
                copyset.lose(at);
                continue;
            };
            let mut pump = Pump {
                position: position as u32,
                at,
                connection,
                now_ns: self.now_ns,
                shard: &mut self.shards[copyset.shard],
                pool: &self.pool,
                writer: self.peers.append_writer(),
                counters: &mut self.counters,
                unsent_pages_max: self.options.feed_unsent_pages_max,
                room: 0,
                missing: None,
                in_vain: None,
            };
            let run = pump.run(copyset, network);
            let (missing, in_vain) = (pump.missing, pump.in_vain);
            match run {
                Ok(()) | Err(Stop::Reading | Stop::Unsent) => {}
                Err(Stop::Blocked) => copyset.feeds[at].blocked = true,
                Err(Stop::Lost) => {
                    copyset.lose(at);
                    self.mark_dirty(position as u32);
                }
            }
            if let Some((index, bits)) = missing {
                self.suspect_entry(position as u32, index, bits);
            }
            if let Some(index) = in_vain {
                self.read_in_vain(position as u32, at, index);
            }
        }
    }

    /// A device read for a feed has ended.
    pub(super) fn feed_read_done(
        &mut self,
        (position, at): (u32, usize),
        token: u64,
        buffer: Buffer,
        status: Status,
    ) {
        let copyset = &mut self.copysets[position as usize];
        let number = (token >> 8) as u32 & 0x0fff_ffff;
        let feed = &mut copyset.feeds[at];
        let Some(fetch) = feed.fetches.iter_mut().find(|fetch| fetch.number == number) else {
            return;
        };
        fetch.outstanding -= 1;
        fetch.failed |= !status.is_success();
        fetch.pieces[(token & 0xff) as usize] = Some(buffer.freeze());
        if fetch.outstanding > 0 {
            return;
        }
        if let Some(ticket) = fetch.ticket.take() {
            self.shards[copyset.shard].shard.store_mut().read_end(ticket);
        }
        if fetch.void {
            feed.fetches.retain(|fetch| fetch.number != number);
            return;
        }
        self.counters.entries_fed_from_device += 1;
        let mut crcs = fetch.crcs.iter();
        let pages = fetch.pieces.iter().flatten().flat_map(|pages| {
            (0..pages.pages() as usize).map(move |page| pages.crc32c(page * BLOCK_SIZE, BLOCK_SIZE))
        });
        let bad = pages.map(|crc| crcs.next() != Some(&crc));
        // By their bits among the live blocks; where a read failed, all of them may be bad.
        let bad = bad.enumerate().fold(0, |bits, (at, bad)| bits | u32::from(bad) << at);
        if !fetch.failed {
            self.counters.mismatched_blocks += u64::from(bad.count_ones());
        }
        let bad = if fetch.failed { u32::MAX } else { bad };
        fetch.failed |= bad != 0;
        let (index, live_mask) = (fetch.index, fetch.live_mask);
        if bad == 0 {
            return;
        }
        if index <= copyset.applied_or_ahead() {
            self.suspect_entry(position, index, nth_bits(live_mask, bad));
        }
    }

    /// The payload of the next entry to send was read in vain.
    fn read_in_vain(&mut self, position: u32, at: usize, index: LogIndex) {
        let copyset = &mut self.copysets[position as usize];
        let term = copyset.group.term();
        if index <= copyset.applied_or_ahead()
            || copyset.feeds[at].read_in_vain(term, index) < READS_IN_VAIN_MAX
        {
            return;
        }
        copyset.feeds[at].in_vain = Default::default();
        self.counters.bad_payloads += 1;
        tracing::warn!(
            copyset = %copyset.id, %index,
            "the payload of an entry that is not applied yet is bad on the device: this replica \
             gives up leadership",
        );
        copyset.group.give_way();
        self.mark_dirty(position);
    }

    /// Blocks of an applied entry may be bad here.
    fn suspect_entry(&mut self, position: u32, index: LogIndex, bad: u32) {
        let log = self.copysets[position as usize].group.log();
        let Some(entry) = log.get(index).filter(|_| bad != 0) else { return };
        let (chunk, first) = (entry.record.chunk(), entry.record.range().first);
        for spot in spots(position, chunk, first, bad) {
            self.suspect(spot);
        }
    }

    /// Takes an append frame of a leader.
    pub(super) fn append(
        &mut self,
        connection: ConnectionId,
        mut reader: AppendReader<'_>,
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let header = *reader.header();
        let runs: ArrayVec<Pages, FRAME_PAYLOADS_MAX> =
            payloads.drain(..).map(Buffer::freeze).collect();
        let mut entries: ArrayVec<(AppendEntry<'_>, &[Pages]), 128> = ArrayVec::new();
        let mut rest = &runs[..];
        while let Some(entry) = reader.next_entry()? {
            let payload = claim_payload(&entry, &mut rest)?;
            if entries.try_push((entry, payload)).is_err() {
                return Err(Offence::Frame(crate::wire::FrameError::Field("count")));
            }
        }
        let Some(position) = self.position(header.copyset) else { return Ok(()) };
        let copyset = &mut self.copysets[position as usize];
        let from_there = copyset.peer_of(header.from) == self.peers.by_connection(connection);
        if !from_there || !self.in_service(position) {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        if !payloads_match(&entries) {
            // Damaged on the way: as if the frame had been lost. The leader probes again.
            self.counters.bad_payloads += 1;
            return Ok(());
        }
        let copyset = &mut self.copysets[position as usize];
        let running = &mut self.shards[copyset.shard];
        let log = copyset.group.log();
        let fit = entries.iter().take_while(|(entry, _)| {
            // What is here already takes no space again: it must not wait for any.
            let (index, term) = (entry.record.index(), entry.record.term());
            let held = log.term_at(index) == Some(term);
            let blocks = if held { 0 } else { entry.live_mask.count_ones() };
            running.stage(entry.record.bytes().len(), blocks)
        });
        let fit = fit.count();
        if fit < entries.len() {
            // As if the leader had sent no more: it sends the rest again.
            self.counters.messages_refused += 1;
            if fit == 0 {
                return Ok(());
            }
        }
        let stepped = copyset.group.step_append(
            &header,
            // By reference: the list has room for the longest frame and is costly to move.
            entries[..fit].iter().map(|(entry, payload)| {
                let AppendEntry { record, live_mask, superseded_by } = *entry;
                (StoredEntry { record, live_mask, superseded_by }, *payload)
            }),
            self.now_ns,
        );
        if let Err(refusal) = stepped {
            self.counters.messages_refused += 1;
            tracing::warn!(copyset = %header.copyset, from = %header.from, %refusal, "append refused");
        }
        self.mark_ready(position);
        Ok(())
    }
}

impl Copyset {
    /// What the feed was asked to send is lost: the library goes back to probing.
    fn lose(&mut self, at: usize) {
        self.feeds[at].clear();
        let to = self.feeds[at].to;
        self.group.report_unreachable(to);
    }

    /// Entries up to here were committed. What a catch-up left in the chunks is as good as applied.
    fn applied_or_ahead(&self) -> LogIndex {
        self.group.applied().max(self.ahead)
    }

    /// The peer that holds `replica`.
    pub(super) fn peer_of(&self, replica: ReplicaId) -> Option<usize> {
        self.places.iter().find(|place| place.replica == replica)?.peer
    }
}

/// Takes the runs that hold an entry's live blocks off the front of `runs`.
fn claim_payload<'r>(
    entry: &AppendEntry<'_>,
    runs: &mut &'r [Pages],
) -> Result<&'r [Pages], Offence> {
    let said = entry.live_mask.count_ones();
    let (mut count, mut came) = (0, 0);
    while came < said {
        let Some(run) = runs.get(count) else { return Err(Offence::Payload { said, came }) };
        came += run.pages();
        count += 1;
    }
    let (payload, rest) = runs.split_at(count);
    *runs = rest;
    if came == said { Ok(payload) } else { Err(Offence::Payload { said, came }) }
}

/// Whether every payload block that came matches its record.
fn payloads_match(entries: &[(AppendEntry<'_>, &[Pages])]) -> bool {
    entries.iter().all(|(entry, payload)| {
        let mut pages = payload
            .iter()
            .flat_map(|run| (0..run.pages() as usize).map(move |page| (run, page * BLOCK_SIZE)));
        entry.record.crcs().enumerate().all(|(block, crc)| {
            if entry.live_mask >> block & 1 == 0 {
                return true;
            }
            pages.next().is_some_and(|(run, offset)| run.crc32c(offset, BLOCK_SIZE) == crc)
        })
    })
}

/// Those of the bits of `mask` whose number among them, from 0, is a bit of `numbers`.
fn nth_bits(mask: u32, numbers: u32) -> u32 {
    let set = (0..u32::BITS).filter(|bit| mask >> bit & 1 == 1);
    let wanted = set.enumerate().filter(|(number, _)| numbers >> number & 1 == 1);
    wanted.fold(0, |bits, (_, bit)| bits | 1 << bit)
}

/// Sends one feed's ranges; borrowed for one copyset.
struct Pump<'a> {
    position: u32,
    at: usize,
    connection: ConnectionId,
    now_ns: u64,
    shard: &'a mut RunningShard,
    pool: &'a culvert_memory::Pool,
    writer: &'a mut AppendWriter,
    counters: &'a mut Counters,
    /// Pages that sends to one follower may hold, accepted and not on the wire. A stopped follower
    /// holds so many pages of clients' windows, and of one more operation; the rest it gets from
    /// this device later.
    unsent_pages_max: u32,
    /// Pages of them that the frame may still take.
    room: u32,
    /// Blocks of an entry that are missing here, by their bits.
    missing: Option<(LogIndex, u32)>,
    /// The next entry, where its payload was read in vain.
    in_vain: Option<LogIndex>,
}

/// What became of an entry that was to be added to a frame.
enum Added {
    Yes,
    /// The frame is full; send it and go on.
    FrameFull,
}

type FramePayloads = ArrayVec<(Placement, Pages), FRAME_PAYLOADS_MAX>;

impl Pump<'_> {
    fn run<N: Network>(&mut self, copyset: &mut Copyset, network: &mut N) -> Result<(), Stop> {
        while let Some(range) = copyset.feeds[self.at].ranges.front().copied() {
            if !copyset.group.is_leader() || copyset.group.term() != range.term {
                return Err(Stop::Lost);
            }
            self.send_range(copyset, range, network)?;
        }
        Ok(())
    }

    /// Sends as many frames as the range needs; what was sent is taken off it.
    fn send_range<N: Network>(
        &mut self,
        copyset: &mut Copyset,
        mut range: AppendRange,
        network: &mut N,
    ) -> Result<(), Stop> {
        loop {
            let unsent = network.unsent_pages(self.connection);
            self.room = self.unsent_pages_max.saturating_sub(unsent);
            if self.room == 0 {
                return Err(Stop::Unsent);
            }
            let header = AppendHeader {
                copyset: copyset.id,
                from: copyset.group.replica(),
                to: range.to,
                term: range.term,
                previous_index: range.previous_index,
                previous_term: range.previous_term,
                commit: copyset.group.commit(),
                sent_ns: self.now_ns,
            };
            self.writer.start(&header);
            let mut payloads = FramePayloads::new();
            let mut stop = None;
            let mut last = (range.previous_index, range.previous_term);
            while u32::from(self.writer.count()) < range.count {
                let index = last.0.next();
                match self.add(copyset, index, &mut payloads, network) {
                    Ok((Added::Yes, term)) => last = (index, term),
                    Ok((Added::FrameFull, _)) => break,
                    Err(why) => {
                        stop = Some(why);
                        break;
                    }
                }
            }
            let count = u32::from(self.writer.count());
            if count == 0 && range.count > 0 {
                return Err(stop.unwrap_or(Stop::Lost));
            }
            self.send_frame(&payloads, network)?;
            let feed = &mut copyset.feeds[self.at];
            feed.fetches.retain(|fetch| fetch.index > last.0 || fetch.outstanding > 0);
            range.count -= count;
            (range.previous_index, range.previous_term) = last;
            if range.count == 0 {
                feed.ranges.pop_front();
            } else {
                feed.ranges[0] = range;
            }
            match stop {
                Some(why) => return Err(why),
                None if range.count == 0 => return Ok(()),
                None => {}
            }
        }
    }

    fn send_frame<N: Network>(
        &mut self,
        payloads: &FramePayloads,
        network: &mut N,
    ) -> Result<(), Stop> {
        let entries = u64::from(self.writer.count());
        match network.send(self.connection, Class::Data, self.writer.frame(), payloads) {
            Ok(()) => {
                self.counters.append_frames_sent += 1;
                self.counters.entries_sent += entries;
                Ok(())
            }
            Err(refused) => {
                for (placement, _) in payloads {
                    network.cancel(self.connection, *placement);
                }
                Err(if refused == SendError::Full { Stop::Blocked } else { Stop::Lost })
            }
        }
    }

    /// Adds the entry at `index` to the frame, with its payload.
    fn add<N: Network>(
        &mut self,
        copyset: &mut Copyset,
        index: LogIndex,
        payloads: &mut FramePayloads,
        network: &mut N,
    ) -> Result<(Added, crate::ids::Term), Stop> {
        let Some(entry) = copyset.group.log().get(index) else { return Err(Stop::Lost) };
        let term = entry.record.term();
        let blocks = entry.record.payload_blocks();
        let runs_max = if entry.payload.is_some() { 1 } else { blocks as usize };
        let room = FRAME_PAYLOADS_MAX - payloads.len();
        let too_many = blocks > self.room && !payloads.is_empty();
        if !self.writer.fits(entry.record.bytes().len()) || room < runs_max || too_many {
            return Ok((Added::FrameFull, term));
        }
        if blocks == 0 {
            self.writer.push(entry.record.bytes(), 0, None);
            return Ok((Added::Yes, term));
        }
        if let Some(pages) = entry.payload {
            let placement = network.reserve(self.connection, blocks).ok_or(Stop::Blocked)?;
            payloads.push((placement, pages.clone()));
            self.room = self.room.saturating_sub(blocks);
            self.writer.push(entry.record.bytes(), live_mask_of(blocks), None);
            return Ok((Added::Yes, term));
        }
        self.add_fetched(copyset, index, payloads, network)?;
        self.room = self.room.saturating_sub(blocks);
        Ok((Added::Yes, term))
    }

    /// Adds an entry whose payload was read from the device, or starts the read.
    fn add_fetched<N: Network>(
        &mut self,
        copyset: &mut Copyset,
        index: LogIndex,
        payloads: &mut FramePayloads,
        network: &mut N,
    ) -> Result<(), Stop> {
        self.fetch_ahead(copyset, index)?;
        let feed = &copyset.feeds[self.at];
        let fetch = feed
            .fetches
            .iter()
            .find(|fetch| fetch.index == index && !fetch.void)
            .ok_or(Stop::Reading)?;
        if fetch.outstanding > 0 {
            return Err(Stop::Reading);
        }
        if fetch.failed {
            self.in_vain = Some(index);
            return Err(Stop::Lost);
        }
        let before = payloads.len();
        for pages in fetch.pieces.iter().flatten() {
            let Some(placement) = network.reserve(self.connection, pages.pages()) else {
                for (placement, _) in payloads.drain(before..) {
                    network.cancel(self.connection, placement);
                }
                return Err(Stop::Blocked);
            };
            payloads.push((placement, pages.clone()));
        }
        let entry = copyset.group.log().get(index).ok_or(Stop::Lost)?;
        self.writer.push(entry.record.bytes(), fetch.live_mask, fetch.superseded_by);
        Ok(())
    }

    /// Starts device reads for `index` and what follows it in the first range.
    fn fetch_ahead(&mut self, copyset: &mut Copyset, index: LogIndex) -> Result<(), Stop> {
        let range = copyset.feeds[self.at].ranges[0];
        let end = range.previous_index.0 + u64::from(range.count);
        // What an earlier range read ahead and this one does not ask for only takes up room.
        let wanted = range.previous_index.next()..=LogIndex(end);
        let feed = &mut copyset.feeds[self.at];
        feed.fetches.retain(|fetch| fetch.outstanding > 0 || wanted.contains(&fetch.index));
        for index in (index.0..=end).map(LogIndex).take(FETCHES_MAX) {
            let feed = &copyset.feeds[self.at];
            let commands = self.shard.shard.commands_free() as usize;
            if feed.fetches.len() >= FETCHES_MAX || commands < OPERATION_EXTENTS_MAX {
                break;
            }
            if feed.fetches.iter().any(|fetch| fetch.index == index && !fetch.void) {
                continue;
            }
            let Some(entry) = copyset.group.log().get(index) else { return Err(Stop::Lost) };
            if entry.payload.is_some() || entry.record.payload_blocks() == 0 {
                continue;
            }
            let applied = copyset.applied_or_ahead();
            let key = ChunkKey { copyset: copyset.id, chunk: entry.record.chunk() };
            let missing = missing_blocks(&entry, key, applied, self.shard);
            if missing != 0 {
                // Told to be superseded they would be missing at the follower for good.
                self.missing = Some((index, missing));
                return Err(Stop::Lost);
            }
            let number = feed.next_fetch;
            let Some((fetch, reads)) = self.plan(&entry, key, applied, number) else { break };
            let ticket = (!reads.is_empty()).then(|| self.shard.shard.store_mut().read_begin());
            for (piece, (extent, buffer)) in reads.into_iter().enumerate() {
                let token = token_of(self.position, self.at, number, piece);
                self.shard.shard.read(token, extent, buffer);
            }
            let feed = &mut copyset.feeds[self.at];
            feed.next_fetch = (number + 1) & 0x0fff_ffff;
            feed.fetches.push_back(Fetch { ticket, ..fetch });
        }
        Ok(())
    }

    /// Which blocks of an entry still live, where, and pages to read them into. `None`: no pages.
    #[allow(clippy::type_complexity)]
    fn plan(
        &self,
        entry: &LogEntry<'_>,
        key: ChunkKey,
        applied: LogIndex,
        number: u32,
    ) -> Option<(Fetch, ArrayVec<(Extent, Buffer), OPERATION_EXTENTS_MAX>)> {
        let index = entry.record.index();
        let live = live_blocks(entry, key, applied, self.shard);
        let mut runs: ArrayVec<Extent, OPERATION_EXTENTS_MAX> = ArrayVec::new();
        let mut live_mask = 0;
        let mut crcs = ArrayVec::new();
        for (block, (place, crc)) in live.iter().zip(entry.record.crcs()).enumerate() {
            let Some(place) = place else { continue };
            live_mask |= 1 << block;
            crcs.push(crc);
            match runs.last_mut() {
                Some(run) if run.end() == *place => run.blocks += 1,
                _ => runs.push(Extent { start: *place, blocks: 1 }),
            }
        }
        let mut reads = ArrayVec::new();
        for run in runs {
            reads.push((run, self.pool.acquire(run.blocks)?));
        }
        let all = live_mask == live_mask_of(entry.record.payload_blocks());
        let fetch = Fetch {
            index,
            number,
            live_mask,
            superseded_by: (!all).then(|| superseded_by(entry, applied)),
            crcs,
            pieces: reads.iter().map(|_| None).collect(),
            outstanding: reads.len() as u32,
            ticket: None,
            failed: false,
            void: false,
        };
        Some((fetch, reads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(previous_index: u64, count: u32) -> AppendRange {
        AppendRange {
            to: ReplicaId(2),
            term: Term(3),
            previous_index: LogIndex(previous_index),
            previous_term: Term(3),
            count,
            commit: LogIndex(1),
        }
    }

    #[test]
    fn bad_blocks_are_found_among_the_live_ones() {
        assert_eq!(nth_bits(0b1011_0100, 0b0101), 0b0010_0100);
        assert_eq!(nth_bits(0b1011_0100, u32::MAX), 0b1011_0100);
        assert_eq!(nth_bits(u32::MAX, 1 << 31), 1 << 31);
        assert_eq!(nth_bits(0, u32::MAX), 0);
    }

    #[test]
    fn a_feed_keeps_what_the_library_may_have_in_flight_and_no_idle_words() {
        let mut feed = Feed::new(ReplicaId(2), 0);
        for at in 0..u64::from(APPEND_FRAMES_IN_FLIGHT_MAX) {
            assert!(feed.push(range(at, 1)));
            assert!(feed.push(range(at + 1, 0)), "the commit index travels with the entry");
        }
        assert_eq!(feed.ranges.len(), APPEND_FRAMES_IN_FLIGHT_MAX as usize);
        let end = u64::from(APPEND_FRAMES_IN_FLIGHT_MAX);
        assert!(
            feed.push(range(1, 2)) && feed.push(range(0, end as u32)),
            "together they are more"
        );
        assert!(feed.push(range(1, 2)) && feed.push(range(0, end as u32)), "but once is enough");
        assert!(feed.push(range(end + 9, 0)), "a probe elsewhere is not the same");
        assert_eq!(feed.ranges.len(), APPEND_FRAMES_IN_FLIGHT_MAX as usize + 3);
        for at in 100.. {
            if feed.ranges.len() == RANGES_MAX {
                break;
            }
            assert!(feed.push(range(at, 1)));
        }
        assert!(feed.push(range(1, 1)), "it waits already");
        assert!(!feed.push(range(9999, 1)), "more is too much");
    }
}
