//! The receiving side: frames in, chunks installed, answers out.
//!
//! Frames wait in an inbox, at most as many as the leader may send unanswered, and are dealt with in
//! order while the shard has space, commands and journal room; so a slow device holds the sender
//! back and nobody else. Payload is written as it comes; the record that installs a chunk is
//! appended when all of it was, and the map follows in the same step.

use std::collections::VecDeque;

use culvert_memory::{Buffer, Pages};
use raft::eraftpb::ConfState;

use super::staging::Staging;
use super::{FRAMES_PER_TURN, JOURNAL_HEADROOM_BYTES, Parties, WINDOW_FRAMES, mark, plain_head};
use crate::chunkserver::{Chunkserver, Copyset, Offence};
use crate::copyset::{self, CopysetState};
use crate::ids::{BatchNumber, ChunkId, LogIndex, Term};
use crate::journal::{ChunkInstalled, ChunkList, Item, Space, StatePart};
use crate::network::{Class, ConnectionId, Network, Payloads, SendError};
use crate::raft_group::{ExpectedSnapshot, Group, can_restore, parse_conf_state};
use crate::shard::Shard;
use crate::store::{InstallError, LOG_INDEX_MAX};
use crate::wire::{
    CatchUpHead, CatchUpKind, ChunkBlock, ChunkName, FRAME_BYTES_MAX, FrameError,
    MANIFEST_ITEMS_MAX, ManifestItem, catch_up_items, emit_catch_up,
};

/// Why a task ends on its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("frames come out of order")]
    Order,
    #[error("the sender does not lead the group")]
    NotLeader,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("block {0} is out of order, outside of the chunk or of no kind")]
    Block(u32),
    #[error("payload is not what the frame says")]
    Payload,
    #[error("block {0} does not match its checksum")]
    Checksum(u32),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("the list of chunks is not ascending, or of another length than it says")]
    List,
    #[error("the copyset's state: {0}")]
    State(#[from] copyset::ImageError),
    #[error("the copyset's state is that of another index, copyset or length")]
    StateOf,
    #[error("the membership cannot be that of this replica's group")]
    Membership,
    #[error("an item of {bytes} bytes does not fit the journal's batches; raise batch_bytes")]
    TooLong { bytes: usize },
}

/// A frame that waits.
struct Inbound {
    head: CatchUpHead,
    count: u16,
    body: Vec<u8>,
    runs: Vec<Pages>,
    /// Its payload is written; what is left is to install the chunk.
    staged: bool,
}

enum Answer {
    Done(u64),
    Manifest { number: u64, after: Option<ChunkId> },
}

/// The index that a round leads to.
struct Round {
    index: LogIndex,
    term: Term,
    conf_state: ConfState,
}

/// A state that is complete and durable but for its last part, for the raft snapshot that brings
/// it into force.
pub(in crate::chunkserver) struct Arrival {
    pub index: LogIndex,
    pub state: CopysetState,
    /// The whole image.
    image: Vec<u8>,
    /// Where its last part begins.
    tail: usize,
}

impl Arrival {
    /// The part that is not journalled yet.
    pub fn last_part(&self) -> StatePart<'_> {
        StatePart {
            total: self.image.len() as u32,
            offset: self.tail as u32,
            bytes: &self.image[self.tail..],
        }
    }

    /// The bytes that are journalled, and how many the whole state has.
    pub fn journalled(&self) -> (u32, &[u8]) {
        (self.image.len() as u32, &self.image[..self.tail])
    }
}

/// See the module's documentation.
pub(in crate::chunkserver) struct Receiver {
    connection: ConnectionId,
    /// The receiver speaking to the leader.
    whom: Parties,
    taken: u64,
    inbox: VecDeque<Inbound>,
    answers: VecDeque<Answer>,
    round: Option<Round>,
    staging: Option<Staging>,
    list: Vec<ChunkId>,
    state: Vec<u8>,
    state_total: u32,
    /// The batch of the last item that was appended.
    last_batch: BatchNumber,
    /// The state is complete; its frame is answered when everything is durable.
    finishing: Option<(Arrival, u64)>,
    finished: bool,
    scratch: Vec<u8>,
}

/// Whether nobody but the sender is known to lead the group in its term, which is the sender's:
/// what a replica installs from a catch-up is what its leader has committed.
fn may_lead(head: &CatchUpHead, group: &Group) -> bool {
    group.leader().is_none_or(|leader| leader == head.from)
}

/// What is borrowed of the copyset and its shard for one step.
struct Desk<'a> {
    copyset: &'a mut Copyset,
    shard: &'a mut Shard,
    reserve_blocks: u32,
}

impl Desk<'_> {
    /// Whether an item may be appended now.
    fn has_room(&self, bytes: usize) -> Result<bool, Fault> {
        let needed = bytes + JOURNAL_HEADROOM_BYTES;
        if needed > self.shard.item_bytes_max() {
            return Err(Fault::TooLong { bytes });
        }
        Ok(self.shard.space() == Space::Normal && self.shard.room() >= needed)
    }

    /// Chunks may be ahead up to `index` from now on.
    fn raise_ahead(&mut self, index: LogIndex) {
        self.copyset.ahead = self.copyset.ahead.max(index);
    }
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
            round: None,
            staging: None,
            list: Vec::new(),
            state: Vec::new(),
            state_total: 0,
            last_batch: BatchNumber(0),
            finishing: None,
            finished: false,
            scratch: Vec::new(),
        }
    }

    fn is_of(&self, connection: ConnectionId, head: &CatchUpHead) -> bool {
        self.connection == connection && self.whom.task == head.task && self.whom.to == head.from
    }

    /// The bytes of a state that are journalled, and how many the whole state has.
    pub fn journalled_state(&self) -> Option<(u32, &[u8])> {
        match &self.finishing {
            Some((arrival, _)) => Some(arrival.journalled()),
            None => (!self.state.is_empty()).then_some((self.state_total, &self.state[..])),
        }
    }

    /// Gives back what is not installed.
    pub fn give_up(mut self, shard: &mut Shard) {
        if let Some(staging) = self.staging.take() {
            staging.release(shard);
        }
    }

    /// Deals with frames as far as possible. Returns whether any was.
    fn step(&mut self, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let mut worked = false;
        for _ in 0..FRAMES_PER_TURN {
            let Some(mut inbound) = self.inbox.pop_front() else { break };
            match self.deal_with(&mut inbound, desk)? {
                Some(answer) => self.answers.extend(answer),
                None => {
                    self.inbox.push_front(inbound);
                    break;
                }
            }
            worked = true;
        }
        if self.finishing.is_some() && desk.shard.durable() >= self.last_batch {
            self.finish(desk);
            worked = true;
        }
        Ok(worked)
    }

    /// `None`: not now. `Some(None)`: done, and the answer comes later.
    #[allow(clippy::option_option)]
    fn deal_with(
        &mut self,
        inbound: &mut Inbound,
        desk: &mut Desk<'_>,
    ) -> Result<Option<Option<Answer>>, Fault> {
        let head = inbound.head;
        if self.finishing.is_some() || self.finished {
            return Err(Fault::Order);
        }
        if head.kind != CatchUpKind::Begin && self.round.is_none() {
            return Err(Fault::Order);
        }
        let done = match head.kind {
            CatchUpKind::Begin => self.begin(inbound, desk)?,
            CatchUpKind::List => {
                let after = (!head.first).then_some(head.chunk);
                return Ok(Some(Some(Answer::Manifest { number: head.number, after })));
            }
            CatchUpKind::Retain => self.retain(inbound, desk)?,
            CatchUpKind::Chunk => self.chunk(inbound, desk)?,
            CatchUpKind::State => {
                let done = self.state_part(inbound, desk)?;
                if done && head.last {
                    return Ok(Some(None));
                }
                done
            }
            CatchUpKind::Manifest | CatchUpKind::Done | CatchUpKind::Abort => {
                return Err(Fault::Order);
            }
        };
        Ok(done.then_some(Some(Answer::Done(head.number))))
    }

    /// A round begins: whatever was expected before is void.
    fn begin(&mut self, inbound: &Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let head = &inbound.head;
        if !may_lead(head, &desk.copyset.group) {
            return Err(Fault::NotLeader);
        }
        if self.staging.is_some() || head.index == LogIndex(0) || head.index > LOG_INDEX_MAX {
            return Err(Fault::Order);
        }
        let conf_state = parse_conf_state(&inbound.body).map_err(|_| Fault::Membership)?;
        if !can_restore(&conf_state, desk.copyset.group.replica()) {
            return Err(Fault::Membership);
        }
        let mark = mark::emit(head.index);
        let item = Item::CatchUp(desk.copyset.id, &mark);
        if !desk.has_room(item.length())? {
            return Ok(false);
        }
        desk.copyset.group.expect_snapshot(None);
        desk.copyset.arrival = None;
        self.last_batch = desk.shard.append_item(&item);
        desk.raise_ahead(head.index);
        self.list.clear();
        self.state.clear();
        self.round = Some(Round { index: head.index, term: head.index_term, conf_state });
        Ok(true)
    }

    /// A part of the list of chunks; with the last, all others go.
    fn retain(&mut self, inbound: &mut Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let head = inbound.head;
        if !std::mem::replace(&mut inbound.staged, true) {
            let names: &[ChunkName] = catch_up_items(inbound.count, &inbound.body)?;
            if head.first != self.list.is_empty() && !names.is_empty() {
                return Err(Fault::Order);
            }
            self.list.extend(names.iter().map(|name| ChunkId(name.get())));
            let bytes = self.list.len() * size_of::<ChunkName>();
            if bytes > desk.shard.item_bytes_max() {
                return Err(Fault::TooLong { bytes });
            }
        }
        if !head.last {
            return Ok(true);
        }
        let ascending = self.list.is_sorted_by(|one, next| one < next);
        if !ascending || self.list.len() != head.total as usize {
            return Err(Fault::List);
        }
        let round = self.round.as_ref().ok_or(Fault::Order)?;
        if head.index != round.index {
            return Err(Fault::List);
        }
        self.scratch.clear();
        ChunkList::encode(self.list.iter().copied(), &mut self.scratch);
        let list = ChunkList::parse(&self.scratch).map_err(|_| Fault::List)?;
        let item = Item::ChunksRetained(desk.copyset.id, head.index, list);
        if !desk.has_room(item.length())? {
            return Ok(false);
        }
        self.last_batch = desk.shard.append_item(&item);
        desk.shard.store_mut().retain_chunks(desk.copyset.id, head.index, &self.list);
        desk.raise_ahead(head.index);
        Ok(true)
    }

    /// Blocks of a chunk; with the last, the chunk is installed.
    fn chunk(&mut self, inbound: &mut Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let (head, id) = (inbound.head, desk.copyset.id);
        if head.index > LOG_INDEX_MAX {
            return Err(Fault::Order);
        }
        if !inbound.staged {
            let staging = match &mut self.staging {
                Some(staging) if !head.first && staging.continues(id, &head) => staging,
                none @ None if head.first && head.applied <= head.index => {
                    none.insert(Staging::new(id, &head))
                }
                _ => return Err(Fault::Order),
            };
            let items: &[ChunkBlock] = catch_up_items(inbound.count, &inbound.body)?;
            if !staging.add(items, &inbound.runs, desk.shard, desk.reserve_blocks)? {
                // Begun anew with the same frame.
                if head.first {
                    self.staging = None;
                }
                return Ok(false);
            }
            inbound.staged = true;
            inbound.runs.clear();
        }
        if head.last { self.install(desk) } else { Ok(true) }
    }

    fn install(&mut self, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let staging = self.staging.take().ok_or(Fault::Order)?;
        let install = staging.install();
        let fresh = match check(&install, desk.shard) {
            Ok(fresh) => fresh,
            Err(error) => {
                staging.release(desk.shard);
                return Err(error.into());
            }
        };
        if !fresh {
            staging.release(desk.shard);
            return Ok(true);
        }
        self.scratch.clear();
        staging.encode(&mut self.scratch);
        let record = ChunkInstalled::parse(&self.scratch).expect("just encoded");
        let item = Item::ChunkInstalled(record);
        let room = desk.has_room(item.length());
        if room != Ok(true) {
            self.staging = Some(staging);
            return room;
        }
        self.last_batch = desk.shard.append_item(&item);
        // Behind the append: what it releases counts with the record's batch.
        desk.shard.store_mut().install(&install).expect("judged before");
        desk.raise_ahead(staging.as_of());
        Ok(true)
    }

    /// A part of the state. All but the last are journalled as they come.
    fn state_part(&mut self, inbound: &Inbound, desk: &mut Desk<'_>) -> Result<bool, Fault> {
        let head = &inbound.head;
        let round = self.round.as_ref().ok_or(Fault::Order)?;
        let (offset, bytes) = (self.state.len(), &inbound.body[..]);
        let of_round = (head.index, head.index_term) == (round.index, round.term);
        if self.staging.is_some() || !of_round || bytes.is_empty() {
            return Err(Fault::Order);
        }
        let known = offset == 0 || head.total == self.state_total;
        let end = offset + bytes.len();
        if head.first != (offset == 0) || head.last != (end == head.total as usize) {
            return Err(Fault::StateOf);
        }
        if !known || end > head.total as usize || head.total > copyset::IMAGE_BYTES_MAX {
            return Err(Fault::StateOf);
        }
        if !head.last {
            let part = StatePart { total: head.total, offset: offset as u32, bytes };
            let item = Item::StatePart(desk.copyset.id, part);
            if !desk.has_room(item.length())? {
                return Ok(false);
            }
            self.last_batch = desk.shard.append_item(&item);
        }
        self.state_total = head.total;
        self.state.extend_from_slice(bytes);
        if head.last {
            let state = CopysetState::parse(&self.state)?;
            let (index, term) = (state.applied(), state.applied_term());
            if state.id() != desk.copyset.id || (index, term) != (round.index, round.term) {
                return Err(Fault::StateOf);
            }
            let image = std::mem::take(&mut self.state);
            self.finishing = Some((Arrival { index, state, image, tail: offset }, head.number));
        }
        Ok(true)
    }

    /// Everything is durable: the raft snapshot may come.
    fn finish(&mut self, desk: &mut Desk<'_>) {
        let (arrival, number) = self.finishing.take().expect("a complete state");
        let Round { index, term, conf_state } = self.round.take().expect("a round");
        desk.copyset.arrival = Some(Box::new(arrival));
        desk.copyset.group.expect_snapshot(Some(ExpectedSnapshot { index, term, conf_state }));
        self.answers.push_back(Answer::Done(number));
        self.finished = true;
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
                    self.scratch.clear();
                    head.last = manifest(desk, *after, &mut self.scratch);
                    let count = self.scratch.len() / size_of::<ManifestItem>();
                    emit_catch_up(&head, count as u16, &self.scratch, &mut frame)
                }
            };
            match network.send(self.connection, Class::Data, frame, &[]) {
                Ok(()) => {}
                Err(SendError::Full) => return false,
                Err(_closed) => return true,
            }
            self.answers.pop_front();
        }
        self.finished
    }
}

/// Whether an install changes anything here. One that brings a difference needs the life that it
/// is a difference to.
fn check(install: &crate::store::ChunkInstall<'_>, shard: &Shard) -> Result<bool, InstallError> {
    let fresh = shard.store().judge_install(install)?;
    let held = shard.store().chunk(install.key);
    let same_life = held.is_some_and(|held| held.birth == install.birth);
    if fresh && install.since > LogIndex(0) && !same_life {
        return Err(InstallError::Gap);
    }
    Ok(fresh)
}

/// Appends the chunks behind `after` that fit a frame. Returns whether they were the last.
fn manifest(desk: &Desk<'_>, mut after: Option<ChunkId>, out: &mut Vec<u8>) -> bool {
    use zerocopy::IntoBytes;
    for _ in 0..MANIFEST_ITEMS_MAX {
        let Some(chunk) = desk.shard.store().chunk_after(desk.copyset.id, after) else {
            return true;
        };
        let item = ManifestItem {
            chunk: chunk.key.chunk.0.into(),
            birth: chunk.birth.0.into(),
            applied: chunk.applied.0.into(),
            mapped: chunk.mapped.into(),
            reserved: 0.into(),
        };
        out.extend_from_slice(item.as_bytes());
        after = Some(chunk.key.chunk);
    }
    false
}

impl Chunkserver {
    /// Takes a frame of a leader.
    pub(super) fn take_in(
        &mut self,
        position: u32,
        connection: ConnectionId,
        head: &CatchUpHead,
        count: u16,
        body: &[u8],
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let copyset = &mut self.copysets[position as usize];
        if head.kind == CatchUpKind::Begin && head.number == 1 {
            if let Some(old) = copyset.receiver.take() {
                old.give_up(&mut self.shards[copyset.shard].shard);
            }
            tracing::info!(copyset = %head.copyset, from = %head.from, index = %head.index, "catch-up begins");
            copyset.receiver = Some(Box::new(Receiver::new(connection, head)));
        }
        let Some(receiver) = copyset.receiver.as_mut().filter(|r| r.is_of(connection, head)) else {
            // Of a task that is over: its leader hears of that, or has ended it itself.
            return Ok(());
        };
        let waiting = receiver.inbox.len() as u64;
        if head.number != receiver.taken + 1 || waiting >= WINDOW_FRAMES {
            return Err(Offence::Frame(FrameError::Field("number")));
        }
        receiver.taken += 1;
        receiver.inbox.push_back(Inbound {
            head: *head,
            count,
            body: body.to_vec(),
            runs: payloads.drain(..).map(Buffer::freeze).collect(),
            staged: false,
        });
        Ok(())
    }

    /// The leader ended the task.
    pub(super) fn abort_receiver(
        &mut self,
        position: u32,
        connection: ConnectionId,
        head: &CatchUpHead,
    ) {
        let copyset = &mut self.copysets[position as usize];
        if let Some(receiver) = copyset.receiver.take_if(|r| r.is_of(connection, head)) {
            tracing::info!(copyset = %head.copyset, "catch-up given up by its leader");
            receiver.give_up(&mut self.shards[copyset.shard].shard);
        }
    }

    pub(super) fn run_receivers<N: Network>(&mut self, network: &mut N) {
        for position in 0..self.copysets.len() {
            let copyset = &mut self.copysets[position];
            let applied = copyset.group.applied();
            if copyset.arrival.as_ref().is_some_and(|arrival| arrival.index <= applied) {
                copyset.arrival = None;
                copyset.group.expect_snapshot(None);
            }
            if let Some(receiver) = self.copysets[position].receiver.take() {
                self.run_receiver(position, receiver, network);
            }
        }
    }

    fn run_receiver<N: Network>(
        &mut self,
        position: usize,
        mut receiver: Box<Receiver>,
        network: &mut N,
    ) {
        let copyset = &mut self.copysets[position];
        let running = &mut self.shards[copyset.shard];
        let peer = copyset.peer_of(receiver.whom.to);
        let connected = peer.and_then(|peer| self.peers.connection(peer));
        let lives = connected == Some(receiver.connection)
            && copyset.group.term() == receiver.whom.term
            && !copyset.group.is_leader()
            && !running.failed;
        if !lives {
            tracing::info!(copyset = %copyset.id, "catch-up interrupted; what was installed stays");
            if connected == Some(receiver.connection) {
                receiver.say_abort(network);
            }
            receiver.give_up(&mut running.shard);
            return;
        }
        let reserve_blocks = self.options.reserve_blocks;
        let mut desk = Desk { copyset, shard: &mut running.shard, reserve_blocks };
        match receiver.step(&mut desk) {
            Ok(worked) => self.sources.busy |= worked,
            Err(fault) => {
                tracing::warn!(copyset = %desk.copyset.id, from = %receiver.whom.to, %fault, "catch-up refused");
                receiver.say_abort(network);
                receiver.give_up(desk.shard);
                return;
            }
        }
        if receiver.answer(&desk, network) {
            receiver.give_up(desk.shard);
        } else {
            desk.copyset.receiver = Some(receiver);
        }
    }
}
