//! The modelled servers: per copyset one state, kept by whoever leads.
//!
//! Consensus is abstracted away: what is committed is the same everywhere. Proposals take a while
//! to commit; those outstanding when the lead is lost may be committed by the next leader or not.

use std::collections::{BTreeMap, HashMap};

use culvert_memory::{PAGE_SIZE, Pages};

use super::world::{Faults, Random};
use crate::cluster::{Cluster, EndpointIndex};
use crate::ids::{BlockRange, ChunkId, CopysetId};
use crate::network::ConnectionId;
use crate::wire::{FRAME_BYTES_MAX, Reply, ReplyStatus, Request, RequestKind};

/// Request numbers that a session remembers.
const WINDOW: u64 = 1024;

/// The content of a block that write `tag` puts at `block` of its volume. Tag 0: never written.
pub fn content(tag: u64, block: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    if tag != 0 {
        for (index, chunk) in bytes.chunks_exact_mut(16).enumerate() {
            chunk[..8].copy_from_slice(&tag.to_le_bytes());
            chunk[8..].copy_from_slice(&(block ^ (index as u64) << 32).to_le_bytes());
        }
    }
    bytes
}

/// The tag and the block that a content says.
pub fn parse_content(bytes: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(bytes, content(word(0), word(8)), "a block is as it was written");
    (word(0), word(8))
}

pub struct Answer {
    pub connection: ConnectionId,
    pub token: u64,
    pub frame: Vec<u8>,
    /// For the client's window: first page and bytes.
    pub payload: Option<(u32, Vec<u8>)>,
}

#[derive(Clone)]
enum Change {
    Write(ChunkId, BlockRange, Vec<(u64, u64)>),
    Discard(ChunkId, BlockRange),
    Delete(ChunkId),
    OpenSession,
    CloseSession,
}

struct Proposal {
    copyset: usize,
    connection: ConnectionId,
    token: u64,
    session: u64,
    number: u64,
    change: Change,
    /// The lead was lost since.
    orphaned: bool,
}

#[derive(Default)]
struct SessionState {
    highest: u64,
    done: BTreeMap<u64, ReplyStatus>,
}

struct CopysetState {
    id: CopysetId,
    /// Index of the leading replica.
    leader: usize,
    term: u64,
    replicas: usize,
    /// Tag and volume block per chunk block.
    blocks: HashMap<(ChunkId, u32), (u64, u64)>,
    sessions: HashMap<u64, SessionState>,
    next_session: u64,
    epoch: u64,
}

pub struct Servers {
    copysets: Vec<CopysetState>,
    proposals: HashMap<u64, Proposal>,
    next_proposal: u64,
    /// How often each block of each write was executed.
    pub executions: HashMap<(u64, u64), u32>,
    /// Answered to every request to open a session or to change, if set.
    pub verdict: Option<(ReplyStatus, u64)>,
    /// Answers to status requests.
    pub status: String,
    /// Epochs of all changes and session requests.
    pub epochs: Vec<u64>,
    /// Ranges of the changes in the order of their arrival.
    pub arrivals: Vec<(RequestKind, u32)>,
}

fn reply(connection: ConnectionId, reply: &Reply<'_>) -> Answer {
    let mut out = [0; FRAME_BYTES_MAX];
    let frame = reply.emit(&mut out).to_vec();
    Answer { connection, token: reply.token, frame, payload: None }
}

impl Servers {
    pub fn new(cluster: &Cluster) -> Servers {
        let copysets = cluster.copysets().iter().map(|copyset| CopysetState {
            id: copyset.id,
            leader: 0,
            term: 1,
            replicas: copyset.replicas.len(),
            blocks: HashMap::new(),
            sessions: HashMap::new(),
            next_session: 1,
            epoch: 0,
        });
        Servers {
            copysets: copysets.collect(),
            proposals: HashMap::new(),
            next_proposal: 0,
            executions: HashMap::new(),
            verdict: None,
            status: String::from("{}"),
            epochs: Vec::new(),
            arrivals: Vec::new(),
        }
    }

    /// The tag of a block of a chunk.
    pub fn tag(&self, copyset: CopysetId, chunk: ChunkId, block: u32) -> u64 {
        let state = self.copysets.iter().find(|state| state.id == copyset).expect("known");
        state.blocks.get(&(chunk, block)).map_or(0, |(tag, _)| *tag)
    }

    /// Open sessions of all copysets.
    pub fn sessions(&self) -> usize {
        self.copysets.iter().map(|copyset| copyset.sessions.len()).sum()
    }

    pub fn set_leader(&mut self, copyset: usize, replica: usize) {
        self.copysets[copyset].leader = replica;
        self.copysets[copyset].term += 1;
    }

    pub fn change_leader(&mut self, random: &mut Random) -> Vec<Answer> {
        let index = random.below(self.copysets.len() as u64) as usize;
        let leader = random.below(self.copysets[index].replicas as u64) as usize;
        self.depose(index, leader, random)
    }

    /// Moves the leads of a node's replicas elsewhere.
    pub fn depose_node(&mut self, node: usize, cluster: &Cluster, random: &mut Random) {
        for (index, copyset) in cluster.copysets().iter().enumerate() {
            let leads =
                |replica: usize| cluster.endpoint_of(&copyset.replicas[replica]).node == node;
            if leads(self.copysets[index].leader) {
                let next = (0..copyset.replicas.len()).find(|replica| !leads(*replica));
                self.depose(index, next.expect("replicas elsewhere"), random);
            }
        }
    }

    fn depose(&mut self, index: usize, leader: usize, random: &mut Random) -> Vec<Answer> {
        if self.copysets[index].leader == leader {
            return Vec::new();
        }
        self.copysets[index].leader = leader;
        self.copysets[index].term += 1;
        let mut answers = Vec::new();
        for proposal in self.proposals.values_mut().filter(|p| p.copyset == index) {
            proposal.orphaned = true;
            if random.chance(500) {
                let said = Reply::new(ReplyStatus::Deposed, proposal.token);
                answers.push(reply(proposal.connection, &said));
            }
        }
        answers
    }

    pub fn expire_sessions(&mut self, random: &mut Random) {
        let index = random.below(self.copysets.len() as u64) as usize;
        self.copysets[index].sessions.clear();
    }

    pub fn expire_all_sessions(&mut self) {
        self.copysets.iter_mut().for_each(|copyset| copyset.sessions.clear());
    }

    pub fn handle(
        &mut self,
        cluster: &Cluster,
        (connection, endpoint): (ConnectionId, EndpointIndex),
        request: &Request<'_>,
        payload: &[Pages],
        faults: &Faults,
        random: &mut Random,
    ) -> (Vec<Answer>, Option<u64>) {
        let say = |status, value| {
            let said = Reply { value, ..Reply::new(status, request.token) };
            (vec![reply(connection, &said)], None)
        };
        if request.kind == RequestKind::Status {
            return (vec![self.status_piece(connection, request)], None);
        }
        let index = self.copysets.iter().position(|state| state.id == request.copyset);
        let index = index.expect("a copyset of the cluster");
        let copyset = &cluster.copysets()[index];
        let leader = &copyset.replicas[self.copysets[index].leader];
        if request.kind == RequestKind::Leader {
            let mut said = Reply::new(ReplyStatus::Ok, request.token);
            (said.value, said.index) = (leader.id.0, self.copysets[index].term);
            if random.chance(faults.bad_hint) {
                let any = random.below(copyset.replicas.len() as u64) as usize;
                said.value = copyset.replicas[any].id.0;
                said.index = random.below(said.index);
            }
            return (vec![reply(connection, &said)], None);
        }
        if faults.no_leader {
            return say(ReplyStatus::NotLeader, 0);
        }
        if cluster.endpoint_of(leader) != endpoint {
            let hint = match random.chance(faults.bad_hint) {
                true if random.chance(500) => 0,
                true => copyset.replicas[random.below(copyset.replicas.len() as u64) as usize].id.0,
                false => leader.id.0,
            };
            return say(ReplyStatus::NotLeader, hint);
        }
        if random.chance(faults.busy) {
            return say(ReplyStatus::Busy, 0);
        }
        let state = &mut self.copysets[index];
        if request.epoch.0 < state.epoch {
            return say(ReplyStatus::Fenced, state.epoch);
        }
        if request.kind == RequestKind::Fence {
            assert_eq!((request.session.0, request.request.0), (0, 0));
            state.epoch = request.epoch.0;
            return say(ReplyStatus::Ok, 0);
        }
        if request.kind == RequestKind::Read {
            if random.chance(faults.media) {
                return say(ReplyStatus::Media, 0);
            }
            return (vec![self.read(index, connection, request)], None);
        }
        self.epochs.push(request.epoch.0);
        if let Some((status, value)) = self.verdict {
            return say(status, value);
        }
        match self.change(index, request, payload, random.chance(faults.damage_write)) {
            Ok(change) => {
                if request.kind != RequestKind::OpenSession {
                    self.arrivals.push((request.kind, request.range.blocks));
                }
                self.next_proposal += 1;
                let proposal = Proposal {
                    copyset: index,
                    connection,
                    token: request.token,
                    session: request.session.0,
                    number: request.request.0,
                    change,
                    orphaned: false,
                };
                self.proposals.insert(self.next_proposal, proposal);
                (Vec::new(), Some(self.next_proposal))
            }
            Err(status) => say(status, 0),
        }
    }

    /// Admits a change, or says why not.
    fn change(
        &self,
        index: usize,
        request: &Request<'_>,
        payload: &[Pages],
        damage: bool,
    ) -> Result<Change, ReplyStatus> {
        if request.kind == RequestKind::OpenSession {
            return Ok(Change::OpenSession);
        }
        if request.kind == RequestKind::CloseSession {
            return Ok(Change::CloseSession);
        }
        let sessions = &self.copysets[index].sessions;
        let session = sessions.get(&request.session.0).ok_or(ReplyStatus::NoSession)?;
        if request.request.0 + WINDOW <= session.highest {
            return Err(ReplyStatus::BelowWindow);
        }
        if let Some(status) = session.done.get(&request.request.0) {
            return Err(*status);
        }
        match request.kind {
            RequestKind::Write => {
                let blocks: u32 = payload.iter().map(Pages::pages).sum();
                assert_eq!(blocks, request.range.blocks);
                if damage {
                    return Err(ReplyStatus::PayloadChecksum);
                }
                let mut crcs = request.crcs();
                let mut tags = Vec::new();
                for block in payload.iter().flat_map(|p| (0..p.pages()).map(|i| p.slice(i, 1))) {
                    assert_eq!(crcs.next(), Some(block.crc32c(0, PAGE_SIZE)));
                    let mut bytes = [0; PAGE_SIZE];
                    block.copy_to_slice(0, &mut bytes);
                    tags.push(parse_content(&bytes));
                }
                Ok(Change::Write(request.chunk, request.range, tags))
            }
            RequestKind::Discard => Ok(Change::Discard(request.chunk, request.range)),
            RequestKind::Delete => Ok(Change::Delete(request.chunk)),
            other => panic!("{other:?} is not a change"),
        }
    }

    /// A proposal is committed, or lost with the leader that made it.
    pub fn commit(&mut self, proposal: u64, random: &mut Random) -> Vec<Answer> {
        let proposal = self.proposals.remove(&proposal).expect("committed once");
        if proposal.orphaned && random.chance(500) {
            return Vec::new();
        }
        let (status, value) = self.apply(&proposal);
        if proposal.orphaned {
            return Vec::new();
        }
        let said = Reply { value, ..Reply::new(status, proposal.token) };
        vec![reply(proposal.connection, &said)]
    }

    fn apply(&mut self, proposal: &Proposal) -> (ReplyStatus, u64) {
        let state = &mut self.copysets[proposal.copyset];
        if matches!(proposal.change, Change::OpenSession) {
            let session = state.next_session;
            state.next_session += 1;
            state.sessions.insert(session, SessionState::default());
            return (ReplyStatus::Ok, session);
        }
        if matches!(proposal.change, Change::CloseSession) {
            let closed = state.sessions.remove(&proposal.session).is_some();
            return (if closed { ReplyStatus::Ok } else { ReplyStatus::NoSession }, 0);
        }
        let Some(session) = state.sessions.get_mut(&proposal.session) else {
            return (ReplyStatus::NoSession, 0);
        };
        if let Some(status) = session.done.get(&proposal.number) {
            return (*status, 0);
        }
        session.highest = session.highest.max(proposal.number);
        let below = (session.highest + 1).saturating_sub(WINDOW);
        session.done = session.done.split_off(&below);
        session.done.insert(proposal.number, ReplyStatus::Ok);
        match &proposal.change {
            Change::Write(chunk, range, tags) => {
                for (block, tag) in (range.first..).zip(tags) {
                    state.blocks.insert((*chunk, block), *tag);
                    *self.executions.entry(*tag).or_default() += 1;
                }
            }
            Change::Discard(chunk, range) => {
                for block in range.first..range.first + range.blocks {
                    state.blocks.remove(&(*chunk, block));
                }
            }
            Change::Delete(chunk) => state.blocks.retain(|(of, _), _| of != chunk),
            Change::OpenSession | Change::CloseSession => unreachable!("handled above"),
        }
        (ReplyStatus::Ok, 0)
    }

    fn read(&self, index: usize, connection: ConnectionId, request: &Request<'_>) -> Answer {
        let state = &self.copysets[index];
        let (mut bytes, mut crcs) = (Vec::new(), Vec::new());
        for block in request.range.first..request.range.first + request.range.blocks {
            let (tag, at) = state.blocks.get(&(request.chunk, block)).copied().unwrap_or_default();
            let content = content(tag, at);
            crcs.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
            bytes.extend_from_slice(&content);
        }
        let said = Reply {
            blocks: request.range.blocks as u16,
            trailing: &crcs,
            ..Reply::new(ReplyStatus::Ok, request.token)
        };
        Answer { payload: Some((request.landing_page, bytes)), ..reply(connection, &said) }
    }

    fn status_piece(&self, connection: ConnectionId, request: &Request<'_>) -> Answer {
        let from = (request.range.first as usize).min(self.status.len());
        let to = (from + 4000).min(self.status.len());
        let said = Reply {
            value: self.status.len() as u64,
            trailing: &self.status.as_bytes()[from..to],
            ..Reply::new(ReplyStatus::Ok, request.token)
        };
        reply(connection, &said)
    }
}
