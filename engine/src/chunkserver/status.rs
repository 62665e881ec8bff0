//! What `culvert status` shows of one reactor. Built on request, off the data path.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{CatchUpStatus, Chunkserver, RunningShard, ScrubStatus};
use crate::counters::{Counters, DriverCounters};
use crate::ids::{CopysetId, ReplicaId};
use crate::journal::Space;
use crate::raft_group::{DoubtStage, Group, Role};
use crate::shard::ShardCounters;
use crate::stages::StageStatus;
use crate::store::StoreStatistics;

/// A replica that serves nothing, and why.
#[derive(Clone, Debug)]
pub struct OutOfService {
    /// The copyset.
    pub copyset: CopysetId,
    /// Position of its shard.
    pub shard: usize,
    /// Why.
    pub reason: String,
}

/// A device, as it was asked at the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceStatus {
    /// As configured.
    pub uri: String,
    /// Its name.
    pub uuid: String,
    /// What it is opened through.
    pub backend: &'static str,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Whether the journal's entries of single blocks stand in the metadata of these blocks.
    pub metadata: bool,
    /// Whether its writes may be lost until it is flushed: durable means more than complete then.
    pub volatile_write_cache: bool,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardStatus {
    /// Number of the shard on its device.
    pub shard: u32,
    /// The device that it is on.
    pub device: DeviceStatus,
    /// Times that it was opened.
    pub incarnation: u32,
    /// Why it is out of service; empty otherwise.
    pub failure: String,
    /// Blocks of the journal's ring in use.
    pub ring_blocks_used: u64,
    /// Blocks of the ring.
    pub ring_blocks: u64,
    /// Whether the ring is so full that proposals are refused.
    pub ring_full: bool,
    /// Whether a checkpoint is being written.
    pub checkpointing: bool,
    /// Whether the last checkpoint was given up because it did not fit its area: the ring cannot
    /// be emptied.
    pub checkpoint_too_large: bool,
    /// When the newest checkpoint was begun, in nanoseconds of the node's clock
    /// (`CLOCK_BOOTTIME`); 0 where none was since the start.
    pub checkpoint_began_ns: u64,
    /// When it was ended; before its begin while it is being written.
    pub checkpoint_ended_ns: u64,
    /// Blocks of the data space.
    pub data_blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Blocks released and not free yet.
    pub waiting_blocks: u64,
    /// Logical blocks mapped.
    pub mapped_blocks: u64,
    /// Chunks.
    pub chunks: u64,
    /// Memory of maps, allocator and queues.
    pub memory_bytes: u64,
    /// The walk over everything stored.
    pub scrub: ScrubStatus,
    /// What it counted.
    pub counters: ShardCounters,
}

impl ShardStatus {
    fn of(running: &RunningShard, scrub: ScrubStatus) -> ShardStatus {
        let shard = &running.shard;
        let (ring_blocks_used, ring_blocks) = shard.ring_use();
        let store = shard.store().statistics();
        ShardStatus {
            device: running.device.clone(),
            shard: shard.layout().shard,
            incarnation: shard.incarnation(),
            failure: shard.failure().map_or(String::new(), |failure| failure.to_string()),
            ring_blocks_used,
            ring_blocks,
            ring_full: shard.space() != Space::Normal,
            checkpointing: shard.is_checkpointing(),
            checkpoint_too_large: shard.is_checkpoint_too_large(),
            checkpoint_began_ns: running.checkpoint_times.began_ns,
            checkpoint_ended_ns: running.checkpoint_times.ended_ns,
            data_blocks: store.data_blocks,
            free_blocks: store.free_blocks,
            waiting_blocks: store.waiting_blocks,
            mapped_blocks: store.mapped_blocks,
            chunks: store.chunks,
            memory_bytes: store.memory_bytes,
            scrub,
            counters: *shard.counters(),
        }
    }
}

/// A follower as its leader sees it.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// Raft id of the replica.
    pub replica: u64,
    /// The last index it is known to have.
    pub matched: u64,
    /// State of the library's progress.
    pub state: String,
}

/// A replica.
#[derive(Clone, Debug, Serialize)]
pub struct CopysetStatus {
    /// The copyset.
    pub id: u32,
    /// Raft id of this replica.
    pub replica: u64,
    /// `leader`, `follower`, `candidate`, `in doubt` (it may have forgotten what it promised, and
    /// waits to be readmitted) or `out of service`.
    pub role: &'static str,
    /// Why it is out of service, or how far it is where it is in doubt; empty otherwise.
    pub reason: String,
    /// Raft id of the leader, 0 if none is known.
    pub leader: u64,
    /// Current term.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// Newest index of the log.
    pub last: u64,
    /// Whether this leader may serve reads without asking.
    pub lease: bool,
    /// Fencing epoch.
    pub epoch: u64,
    /// Open sessions of clients.
    pub sessions: usize,
    /// Blocks mapped.
    pub mapped_blocks: u64,
    /// Blocks it may map.
    pub quota_blocks: u64,
    /// The other replicas, where this one leads.
    pub peers: Vec<PeerStatus>,
    /// Whether this replica is being brought up to date beyond the log.
    pub catching_up: bool,
    /// The replicas that this leader brings up to date.
    pub catch_ups: Vec<CatchUpStatus>,
}

/// A connection to another node.
#[derive(Clone, Debug, Serialize)]
pub struct PeerConnection {
    /// The node.
    pub node: String,
    /// The reactor within it.
    pub reactor: u32,
    /// Over what the connection goes: `rdma`, `tcp`, `shm`; nothing where there is none.
    pub over: Option<&'static str>,
    /// Whether there is a connection.
    pub connected: bool,
}

/// One reactor.
#[derive(Clone, Debug, Serialize)]
pub struct ChunkserverStatus {
    /// Shards it runs.
    pub shards: Vec<ShardStatus>,
    /// Replicas.
    pub copysets: Vec<CopysetStatus>,
    /// Connections to other nodes.
    pub peers: Vec<PeerConnection>,
    /// Connected clients, by what they are connected over: `rdma`, `tcp`, `shm`.
    pub clients: BTreeMap<&'static str, usize>,
    /// Blocks that are being repaired from peers.
    pub repairs: usize,
    /// Blocks that no replica had whole when they were last asked, among those remembered.
    pub repairs_given_up: usize,
    /// Pages of the pool that are free.
    pub pool_pages_free: u32,
    /// Pages of the pool.
    pub pool_pages: u32,
    /// What it counted.
    pub counters: Counters,
    /// What its drivers counted.
    pub drivers: DriverCounters,
    /// Latencies by [`Stage`](crate::stages::Stage).
    pub stages: BTreeMap<&'static str, StageStatus>,
}

impl Chunkserver {
    /// The raft groups of the replicas in service; for those who watch from outside.
    pub fn groups(&self) -> impl Iterator<Item = (CopysetId, &Group)> {
        let served = self.copysets.iter().enumerate();
        let served = served.filter(|(at, _)| self.in_service(*at as u32));
        served.map(|(_, copyset)| (copyset.id, &copyset.group))
    }

    /// What the store of each shard holds.
    #[must_use]
    pub fn store_statistics(&self) -> Vec<StoreStatistics> {
        self.shards.iter().map(|running| running.shard.store().statistics()).collect()
    }

    /// The part of the status that speaks of the replicas.
    #[must_use]
    pub fn copyset_statuses(&self) -> Vec<CopysetStatus> {
        let out_of_service = self.out_of_service.iter().map(|replica| CopysetStatus {
            reason: replica.reason.clone(),
            ..CopysetStatus::absent(replica.copyset)
        });
        let served = self.copysets.iter().enumerate();
        let served = served.filter(|(at, _)| self.in_service(*at as u32));
        served.map(|(at, _)| self.copyset_status(at)).chain(out_of_service).collect()
    }

    /// Hands leadership of a copyset to another replica, where this reactor leads it. Returns
    /// whether it does.
    pub fn transfer(&mut self, copyset: CopysetId, to: ReplicaId) -> bool {
        let Some(position) = self.position(copyset).filter(|at| self.in_service(*at)) else {
            return false;
        };
        let group = &mut self.copysets[position as usize].group;
        if !group.is_leader() || group.replica() == to {
            return false;
        }
        group.transfer(to);
        self.mark_dirty(position);
        true
    }

    /// The status of this reactor.
    #[must_use]
    pub fn status(&self) -> ChunkserverStatus {
        let (repairs, repairs_given_up) = self.repairs.counts();
        ChunkserverStatus {
            shards: self
                .shards
                .iter()
                .enumerate()
                .map(|(at, running)| ShardStatus::of(running, self.scrub_status(at)))
                .collect(),
            copysets: self.copyset_statuses(),
            peers: self
                .peers
                .iter()
                .map(|(endpoint, connected, over)| PeerConnection {
                    node: endpoint.node.to_string(),
                    reactor: endpoint.reactor,
                    connected,
                    over,
                })
                .collect(),
            clients: self.clients(),
            repairs,
            repairs_given_up,
            pool_pages_free: self.pool.free_pages(),
            pool_pages: self.pool.total_pages(),
            counters: self.counters,
            drivers: self.drivers,
            stages: self.stages.status(),
        }
    }

    fn clients(&self) -> BTreeMap<&'static str, usize> {
        let mut clients = BTreeMap::new();
        for scheme in self.replies.schemes() {
            *clients.entry(scheme).or_default() += 1;
        }
        clients
    }

    pub(super) fn status_text(&self) -> String {
        serde_json::to_string(&self.status()).expect("plain data has a JSON form")
    }

    fn copyset_status(&self, position: usize) -> CopysetStatus {
        let copyset = &self.copysets[position];
        let group = &copyset.group;
        let store = self.shards[copyset.shard].shard.store();
        let peers = if group.is_leader() {
            group
                .progress()
                .filter(|(replica, ..)| *replica != group.replica())
                .map(|(replica, matched, state)| PeerStatus {
                    replica: replica.0,
                    matched: matched.0,
                    state,
                })
                .collect()
        } else {
            Vec::new()
        };
        CopysetStatus {
            id: copyset.id.0,
            replica: group.replica().0,
            role: match (group.doubt_stage(), group.role()) {
                (Some(_), _) => "in doubt",
                (None, Role::Leader) => "leader",
                (None, Role::Follower) => "follower",
                (None, Role::Candidate) => "candidate",
            },
            reason: match group.doubt_stage() {
                Some(DoubtStage::Settling) => "lost records; a checkpoint is written first".into(),
                Some(DoubtStage::Asking) => {
                    "waits for a leader that all other voters answer".into()
                }
                Some(DoubtStage::Following) => "takes in what its leader has".into(),
                None => String::new(),
            },
            leader: group.leader().map_or(0, |leader| leader.0),
            term: group.term().0,
            commit: group.commit().0,
            applied: group.applied().0,
            last: group.log().last().0,
            lease: group.holds_lease(self.now_ns),
            epoch: copyset.state.epoch().0,
            sessions: copyset.state.sessions(),
            mapped_blocks: store.mapped_blocks(copyset.id),
            quota_blocks: copyset.state.quota(),
            peers,
            catching_up: copyset.is_catching_up(),
            catch_ups: self.catch_up_status(position),
        }
    }
}

impl CopysetStatus {
    fn absent(id: CopysetId) -> CopysetStatus {
        CopysetStatus {
            id: id.0,
            replica: 0,
            role: "out of service",
            reason: String::new(),
            leader: 0,
            term: 0,
            commit: 0,
            applied: 0,
            last: 0,
            lease: false,
            epoch: 0,
            sessions: 0,
            mapped_blocks: 0,
            quota_blocks: 0,
            peers: Vec::new(),
            catching_up: false,
            catch_ups: Vec::new(),
        }
    }
}
