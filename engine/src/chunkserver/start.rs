//! From what recovery found on the shards, and what the cluster file asks for, to a chunkserver.
//!
//! A replica is started only where file and device agree on its name. One that the device does not
//! hold is created only on an explicit wish, once, and that is recorded in the journal before
//! anything that it says can leave; one that is unnamed stays out of service and says so in
//! `status`. One that lost records to damage goes on from before them, in doubt: it promises
//! nothing before its leader has readmitted it. So nobody votes who may have forgotten a vote.

use std::collections::VecDeque;

use culvert_memory::Pool;
use raft::eraftpb::{ConfState, HardState};
use uuid::Uuid;

use super::catch_up::{Sources, mark};
use super::checkpoint::{Held, Room, SESSIONS_MIN};
use super::peers::Peers;
use super::reading::Reads;
use super::repair::Repairs;
use super::replaying::{self, Gap, Live, ReplayError, Salvaged};
use super::replication::Feed;
use super::replies::Replies;
use super::scrub::Scrub;
use super::status::OutOfService;
use super::timers::Ticker;
use super::{
    Chunkserver, ChunkserverOptions, Copyset, DeviceStatus, Endpoint, ReplicaPlace, RunningShard,
};
use crate::by_copyset::ByCopyset;
use crate::copyset::{self, CopysetState};
use crate::counters::{Counters, DriverCounters};
use crate::ids::{BatchNumber, CopysetId, LogIndex, Term};
use crate::journal::{Item, ReplicaIdentity, ScrubNote};
use crate::raft_group::{Group, Log, MembershipError, Outbox, parse_conf_state};
use crate::shard::{Recovered, RecoveredGroup, RecoveryReport, Shard};
use crate::stages::Stages;
use crate::store::{LivePayload, SpaceError};

/// A replica that the cluster file puts on a shard.
#[derive(Clone, Debug)]
pub struct ReplicaPlan {
    /// Its copyset.
    pub copyset: CopysetId,
    /// Logical blocks that the copyset may map.
    pub quota_blocks: u64,
    /// Its names.
    pub identity: ReplicaIdentity,
    /// All replicas of the copyset and where they are.
    pub places: Vec<ReplicaPlace>,
}

/// A shard that was opened, and the replicas that belong on it.
pub struct ShardPlan {
    /// The device that it is on.
    pub device: DeviceStatus,
    /// What recovery found.
    pub recovered: Recovered,
    /// What the cluster file wants.
    pub replicas: Vec<ReplicaPlan>,
    /// What becomes of those that the device does not hold.
    pub absent: AbsentReplicas,
}

/// What becomes of replicas that the cluster file puts on a device that does not hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsentReplicas {
    /// They stay out of service.
    LeaveOut,
    /// They are created, and vote at once: once only, when the cluster is new.
    Create,
    /// They are created in doubt, on a device that took the place of one that is lost: they have
    /// everything of their leaders before they vote.
    Rejoin,
}

impl From<bool> for AbsentReplicas {
    /// Whether to create them.
    fn from(create: bool) -> AbsentReplicas {
        if create { AbsentReplicas::Create } else { AbsentReplicas::LeaveOut }
    }
}

/// Why a chunkserver does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pool has no pages for the tables.
    #[error("the reactor's pool is too small; raise pool_bytes")]
    Pool,
    /// Maps and records contradict each other.
    #[error("shard {shard} contradicts itself; run `culvert check` on the device")]
    Space {
        /// Position of the shard.
        shard: usize,
        /// What contradicts what.
        source: SpaceError,
    },
    /// Too many copysets for the checkpoint areas.
    #[error(
        "shard {shard}: its checkpoint area of {bytes} bytes has no room for the state of \
         {copysets} copysets; format the device with a larger --checkpoint-size, or put fewer \
         copysets on it"
    )]
    CheckpointArea {
        /// Position of the shard.
        shard: usize,
        /// Bytes of one area.
        bytes: u64,
        /// Copysets that it holds.
        copysets: usize,
    },
}

/// Why one replica does not serve.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("the device holds another replica of this copyset: {0}")]
    Foreign(Uuid),
    #[error(
        "the device does not hold it; start with --create-replicas to create it, once, or with \
         --rejoin-replicas where it takes the place of a lost one"
    )]
    Absent,
    #[error("the cluster file puts no replica of this copyset here")]
    Unlisted,
    #[error("its stored state cannot be read: {0}")]
    State(#[from] copyset::ImageError),
    #[error("{0}")]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Gap(#[from] Gap),
}

/// Applied entries that a log keeps, however many copysets share the reactor.
const RETAINED_MIN: u64 = 64;

/// What the checkpoints of a shard have room for, with all replicas that are or will be there.
fn room(
    position: usize,
    shard: &Shard,
    replicas: &[ReplicaPlan],
    groups: &[RecoveredGroup],
) -> Result<Room, StartError> {
    let listed =
        |group: &&RecoveredGroup| replicas.iter().any(|replica| replica.copyset == group.copyset);
    let copysets = replicas.len() + groups.iter().filter(|group| !listed(group)).count();
    let layout = shard.layout();
    let bytes = layout.checkpoint_bytes;
    let room = Room::of(bytes, layout.data_blocks().into(), copysets);
    if copysets > 0 && room.sessions_max < SESSIONS_MIN {
        return Err(StartError::CheckpointArea { shard: position, bytes, copysets });
    }
    Ok(room)
}

/// Logs what an opening found.
fn tell(device: &str, report: &RecoveryReport) {
    tracing::info!(
        device,
        checkpoint_pages = report.checkpoint_pages,
        from = report.position,
        to = report.end,
        items = report.items,
        in_metadata = report.metadata_entries,
        torn_blocks = report.torn_blocks,
        payload_blocks = report.payload_blocks,
        "shard recovered"
    );
    if report.bad_superblock || report.fell_back {
        tracing::warn!(
            device,
            bad_superblock = report.bad_superblock,
            fell_back = report.fell_back,
            "a superblock or checkpoint of the shard is damaged; the next one takes its place"
        );
    }
    if !report.holes.is_empty() {
        let (holes, groups) = (report.holes.len(), report.cut_off_groups);
        tracing::warn!(
            device,
            holes,
            groups,
            "the journal was damaged: replicas lost records to it"
        );
    }
}

impl Chunkserver {
    /// Starts all replicas that are fit to serve. `own` names this reactor.
    ///
    /// # Errors
    ///
    /// [`StartError`] where a shard contradicts itself or memory is short.
    pub fn start(
        options: ChunkserverOptions,
        pool: Pool,
        own: (Uuid, u32),
        endpoints: Vec<Endpoint>,
        plans: Vec<ShardPlan>,
        now_ns: u64,
    ) -> Result<Chunkserver, StartError> {
        let reads = Reads::new(options.reads_max, plans.len(), &pool).ok_or(StartError::Pool)?;
        let options_rate = options.catch_up_bytes_per_second;
        let requests_max = options.requests_max;
        let copysets = plans.iter().map(|plan| plan.replicas.len()).sum();
        let mut server = Chunkserver {
            peers: Peers::new(own, endpoints, copysets, options.peers),
            ticker: Ticker::new(options.group.tick_ns, now_ns),
            options,
            pool,
            shards: Vec::new(),
            copysets: Vec::new(),
            by_id: ByCopyset::default(),
            out_of_service: Vec::new(),
            held: Vec::new(),
            reads,
            replies: Replies::new(requests_max),
            sources: Sources::new(options_rate),
            repairs: Repairs::default(),
            dirty: VecDeque::new(),
            feeding: Vec::with_capacity(copysets),
            receiving: Vec::new(),
            rounds: Vec::with_capacity(copysets),
            outbox: Outbox::default(),
            shard_events: Vec::new(),
            counters: Counters::default(),
            stages: Stages::default(),
            now_ns,
            taken_ns: now_ns,
            retained: 0,
            next_expiry_ns: now_ns,
            drivers: DriverCounters::default(),
        };
        for plan in plans {
            server.start_shard(plan)?;
        }
        let copysets = server.copysets.len().max(1) as u64;
        server.retained = (server.options.log_entries_retained / copysets).max(RETAINED_MIN);
        Ok(server)
    }

    fn start_shard(&mut self, plan: ShardPlan) -> Result<(), StartError> {
        let position = self.shards.len();
        let Recovered { mut shard, mut groups, report } = plan.recovered;
        tell(&plan.device.uri, &report);
        let room = room(position, &shard, &plan.replicas, &groups)?;
        let mut live = Vec::new();
        let mut unserved = Vec::new();
        let mut damaged = Vec::new();
        for replica in plan.replicas {
            let found = groups.iter().position(|group| group.copyset == replica.copyset);
            let found = found.map(|at| groups.swap_remove(at));
            match restore(&mut shard, found, &replica, plan.absent) {
                Ok(revived) => {
                    live.extend(replaying::live_payload(&revived.log, &revived.state));
                    if revived.doubt == Some(Doubt::CutOff) {
                        damaged.push(replica.copyset);
                    }
                    self.start_replica(position, &shard, &replica, revived);
                }
                Err((unfit, found)) => {
                    self.leave_out(position, replica.copyset, &unfit);
                    unserved.extend(found.map(|found| *found));
                }
            }
        }
        for group in groups {
            self.leave_out(position, group.copyset, &Unfit::Unlisted);
            unserved.push(group);
        }
        for found in unserved {
            let kept = self.hold(position, &mut shard, &found);
            live.extend(kept.live);
            if !kept.whole {
                damaged.push(found.copyset);
            }
        }
        let payloads = live.iter().map(|(key, index, extents)| LivePayload {
            key: *key,
            index: *index,
            extents,
        });
        let lost = shard
            .finish_recovery(payloads, &damaged)
            .map_err(|source| StartError::Space { shard: position, source })?;
        let harmed = report.bad_superblock || !report.holes.is_empty();
        if !damaged.is_empty() || harmed {
            // It leaves the damage behind. Until then it would be found again, and damaged replicas
            // as they were, not as they are.
            shard.start_checkpoint();
        }
        for (copyset, blocks) in lost {
            tracing::warn!(%copyset, blocks, "blocks of a damaged replica belong to others by now");
        }
        let scrub = Scrub::new(self.options.scrub, self.now_ns);
        self.shards.push(RunningShard::new(shard, plan.device, room, scrub));
        Ok(())
    }

    /// Keeps what was found of a replica that does not serve, as far as it hangs together.
    fn hold(&mut self, position: usize, shard: &mut Shard, found: &RecoveredGroup) -> Kept {
        let id = found.copyset;
        let Salvaged { mut log, state, ahead, whole } =
            replaying::salvage(shard.store_mut(), found);
        settle_hard_state(&mut log, found, &state);
        if !whole {
            shard.set_in_doubt(id);
        }
        let live = replaying::live_payload(&log, &state);
        self.held.push(Held { id, shard: position, log, state, ahead });
        Kept { live, whole }
    }

    fn start_replica(
        &mut self,
        shard_position: usize,
        shard: &Shard,
        plan: &ReplicaPlan,
        revived: Revived,
    ) {
        let Revived { log, state, ahead, doubt, scrubbed } = revived;
        let id = plan.copyset;
        let applied = state.applied();
        let restarts = u64::from(shard.incarnation());
        let mut group = Group::new(
            id,
            plan.identity.id,
            log,
            applied,
            restarts,
            self.options.group,
            self.now_ns,
        );
        if let Some(doubt) = doubt {
            tracing::warn!(copyset = %id, %applied, "replica is in doubt: it waits for its leader");
            group.put_in_doubt(doubt != Doubt::CutOff);
        }
        let others = plan.places.iter();
        let feeds =
            others.filter_map(|place| Some(Feed::new(place.replica, place.peer?))).collect();
        self.by_id.insert(id, self.copysets.len() as u32);
        self.copysets.push(Copyset {
            id,
            shard: shard_position,
            group,
            state,
            places: plan.places.clone(),
            waiting: VecDeque::new(),
            feeds,
            round_reads: VecDeque::new(),
            round: None,
            receiver: None,
            arrival: None,
            ahead,
            waits_in: BatchNumber(0),
            floor: None,
            scrubbed,
            dirty: false,
            feeding: false,
        });
    }

    fn leave_out(&mut self, shard: usize, copyset: CopysetId, unfit: &Unfit) {
        tracing::warn!(%copyset, reason = %unfit, "replica is out of service");
        self.out_of_service.push(OutOfService { copyset, shard, reason: unfit.to_string() });
    }
}

/// What is kept of a replica that does not serve.
struct Kept {
    /// Payload of its entries that are not applied.
    live: Vec<Live>,
    /// See [`Salvaged::whole`].
    whole: bool,
}

/// Why a replica does not serve, and what was found of it.
type LeftOut = (Unfit, Option<Box<RecoveredGroup>>);

/// One replica as it starts.
struct Revived {
    log: Log,
    state: CopysetState,
    /// See [`Copyset::ahead`].
    ahead: LogIndex,
    /// Whether it may have forgotten what it promised.
    doubt: Option<Doubt>,
    /// How far the scrub had come.
    scrubbed: Option<ScrubNote>,
}

/// Why a replica may have forgotten what it promised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It lost records to damage and is what it was before them. What it names gives way to others,
    /// and that is not durable before the next checkpoint.
    CutOff,
    /// So it was found, or made.
    Known,
}

/// Log and state of one replica, applied as far as the device knows that it is committed; or why
/// it does not serve, and what was found of it.
fn restore(
    shard: &mut Shard,
    found: Option<RecoveredGroup>,
    plan: &ReplicaPlan,
    absent: AbsentReplicas,
) -> Result<Revived, LeftOut> {
    let Some(found) = found else {
        match absent {
            AbsentReplicas::LeaveOut => return Err((Unfit::Absent, None)),
            AbsentReplicas::Rejoin => return Ok(begin_anew(shard, plan)),
            AbsentReplicas::Create => {}
        }
        shard.append_item(&Item::ReplicaCreated(plan.copyset, plan.identity, &[]));
        let state = CopysetState::new(plan.copyset, plan.quota_blocks);
        let log = Log::new(HardState::default(), first_members(plan), first_base());
        return Ok(Revived { log, state, ahead: LogIndex(0), doubt: None, scrubbed: None });
    };
    match revive(shard, &found, plan) {
        Ok(revived) => Ok(revived),
        Err(unfit) if found.cut_off && !matches!(unfit, Unfit::Foreign(_)) => {
            tracing::warn!(
                copyset = %plan.copyset,
                reason = %unfit,
                "what damage left of the replica does not hang together: it begins from nothing"
            );
            Ok(begin_anew(shard, plan))
        }
        Err(unfit) => Err((unfit, Some(Box::new(found)))),
    }
}

/// A replica with nothing in it, that may once have been more.
fn begin_anew(shard: &mut Shard, plan: &ReplicaPlan) -> Revived {
    shard.store_mut().remove_copyset(plan.copyset);
    shard.append_item(&Item::ReplicaCreated(plan.copyset, plan.identity, &[]));
    shard.append_item(&Item::Doubt(plan.copyset, true));
    let state = CopysetState::new(plan.copyset, plan.quota_blocks);
    let log = Log::new(HardState::default(), first_members(plan), first_base());
    Revived { log, state, ahead: LogIndex(0), doubt: Some(Doubt::Known), scrubbed: None }
}

fn revive(shard: &mut Shard, found: &RecoveredGroup, plan: &ReplicaPlan) -> Result<Revived, Unfit> {
    let identity = found.identity.ok_or(Unfit::Absent)?;
    if identity != plan.identity {
        return Err(Unfit::Foreign(identity.uuid));
    }
    let mut ahead = mark::parse(found.catch_up.as_deref());
    for past in &found.past {
        ahead =
            ahead.max(replaying::past(past, plan.copyset, plan.quota_blocks, shard.store_mut())?);
    }
    let mut state = match &found.image {
        Some(bytes) => CopysetState::parse(bytes)?,
        None => CopysetState::new(plan.copyset, plan.quota_blocks),
    };
    let members = match &found.conf_state {
        Some(bytes) => parse_conf_state(bytes)?,
        None => first_members(plan),
    };
    let base = found.log_start.unwrap_or(first_base());
    let mut log = Log::new(HardState::default(), members, base);
    replaying::fill(&mut log, &found.entries)?;
    settle_hard_state(&mut log, found, &state);
    if state.applied() < base.0 {
        return Err(Gap(state.applied().next()).into());
    }
    let changed = replaying::changes(&found.changes, &log, &mut state, shard.store_mut())?;
    replaying::apply(&log, &mut state, found.applied_note.min(log.last()), shard.store_mut())?;
    replaying::repairs(&found.repairs, shard.store_mut()).map_err(ReplayError::from)?;
    let mut ahead = ahead.max(changed);
    let mut doubt = found.in_doubt.then_some(Doubt::Known);
    if found.cut_off {
        ahead = ahead.max(replaying::cut_off(&mut log, &state, shard.store()));
        settle_hard_state(&mut log, found, &state);
        doubt = Some(Doubt::CutOff);
    }
    replaying::drop_covered(&mut log, &state, ahead, shard.store());
    Ok(Revived { log, state, ahead, doubt, scrubbed: found.scrub })
}

/// Every replica of a new copyset votes.
fn first_members(plan: &ReplicaPlan) -> ConfState {
    let voters = plan.places.iter().map(|place| place.replica.0).collect();
    ConfState { voters, ..ConfState::default() }
}

/// Where the log of a new copyset begins.
pub(super) fn first_base() -> (LogIndex, Term) {
    (LogIndex(0), Term(0))
}

/// Takes the stored hard state, and clamps the commit index to what is held: the library panics
/// on one beyond its log.
fn settle_hard_state(log: &mut Log, found: &RecoveredGroup, state: &CopysetState) {
    let stored = &found.hard_state;
    let mut hard_state =
        HardState { term: stored.term.0, vote: stored.vote.0, ..HardState::default() };
    let commit = stored.commit.max(found.applied_note).max(state.applied());
    hard_state.commit = commit.min(log.last()).0;
    let last_term = log.term_at(log.last()).map_or(0, |term| term.0);
    if hard_state.term < last_term {
        // The hard state of that term was torn away; a vote in it was never sent.
        hard_state.term = last_term;
        hard_state.vote = 0;
    }
    log.set_hard_state(&hard_state);
}
