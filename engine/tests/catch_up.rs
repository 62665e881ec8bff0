//! Catch-up by block difference, end to end: a node is away for longer than any log reaches back.

mod rig;

use std::time::{Duration, Instant};

use culvert::config::{ByteSize, NodeConfig};
use culvert::ids::{
    BlockRange, ChunkId, CopysetId, LogIndex, ReplicaId, RequestNumber, SessionId, Term,
};
use culvert::wire::{
    CatchUpHead, CatchUpKind, ChunkBlock, FRAME_BYTES_MAX, PeerMessage, PeerMessageKind,
    PeerMessagesWriter, ReplyStatus, Request, RequestKind, emit_catch_up,
};
use culvert_transport::PeerKind;
use uuid::Uuid;
use zerocopy::IntoBytes;

use rig::history::BLOCK;
use rig::local::{COPYSETS, Rig};
use rig::random::Random;
use rig::raw::{Answer, NOBODY, Raw, Spot, checksums, request};

/// The name of node 2 in the cluster file.
const NODE_2: Uuid = Uuid::from_u128(0xc017_0002);

fn short_logs(config: &mut NodeConfig) {
    config.store.retained_entries = 64;
}

fn short_logs_and_slow(config: &mut NodeConfig) {
    short_logs(config);
    config.store.catch_up_bytes_per_second = ByteSize::mib(4);
}

/// Seeds of this run: CATCH_UP_SEEDS=10..40 for more.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("CATCH_UP_SEEDS") else { return 1..2 };
    let (from, to) = text.split_once("..").expect("a range like 1..20");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn catches_up(tcp: bool) {
    for seed in seeds() {
        let mut rig = Rig::new(tcp, seed, short_logs);
        rig.churn(2000);
        let behind = seed as usize % 3;
        rig.leave_behind(behind);
        rig.reopen(behind);
        rig.settle();
        assert!(rig.catch_up_bytes() > 0, "the log was enough: nothing was tested");
        rig.compare_stores();
        rig.read_all();
    }
}

#[test]
fn a_node_that_was_away_catches_up_over_shared_memory() {
    catches_up(false);
}

#[test]
fn a_node_that_was_away_catches_up_over_tcp() {
    catches_up(true);
}

/// Only what changed is sent: a node that holds nearly everything gets little.
#[test]
fn only_the_difference_is_sent() {
    let mut rig = Rig::new(false, 7, short_logs);
    rig.churn(6000);
    rig.settle();
    rig.local.kill(2);
    // The same few blocks over and over.
    for round in 0..1500u64 {
        rig.random = Random::new(round % 4 + 1);
        rig.change(1);
    }
    rig.churn(0);
    for _ in 0..40 {
        rig.random = Random::new(77);
        rig.change(60);
    }
    rig.reopen(2);
    rig.settle();
    let bytes = rig.catch_up_bytes();
    assert!(bytes > 0, "the log was enough: nothing was tested");
    assert!(bytes <= 64 * 4096, "{bytes} bytes for 64 blocks");
    rig.compare_stores();
}

#[test]
fn writes_go_on_meanwhile() {
    for seed in seeds() {
        let mut rig = Rig::new(false, seed, short_logs_and_slow);
        rig.churn(4000);
        let behind = seed as usize % 3;
        rig.leave_behind(behind);
        rig.reopen(behind);
        for _ in 0..60 {
            rig.change(24);
        }
        rig.settle();
        assert!(rig.catch_up_bytes() > 0, "the log was enough: nothing was tested");
        rig.compare_stores();
        rig.read_all();
    }
}

/// The throttle is kept to, and what a catch-up sends is counted.
#[test]
fn the_throttle_is_respected() {
    let mut rig = Rig::new(false, 3, short_logs_and_slow);
    rig.churn(4000);
    rig.leave_behind(1);
    let begun = Instant::now();
    rig.reopen(1);
    let mut shown = false;
    rig.turn_until("the node catches up", |rig| {
        for node in [0, 2] {
            let status = rig.status(node).expect("it runs");
            let mut tasks = status.copysets.iter().flat_map(|copyset| &copyset.catch_ups);
            shown |= tasks.any(|task| {
                task.bytes_sent > 0 && task.chunks_known > 0 && task.bytes_per_second > 0
            });
        }
        rig.is_settled()
    });
    assert!(shown, "the leader's status says nothing of it");
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = rig.catch_up_bytes() as f64;
    // Two leaders may each send at the configured rate.
    let most = 2.0 * (4 << 20) as f64 * (seconds + 0.1) + 4.0 * 131_072.0;
    assert!(bytes <= most, "{bytes} bytes in {seconds} seconds");
    rig.settle();
    rig.compare_stores();
}

/// Kills the receiver in the middle, again and again, at moments of all kinds.
#[test]
fn the_receiver_dies_in_the_middle() {
    for seed in seeds() {
        let mut rig = Rig::new(false, seed, short_logs);
        rig.churn(3000);
        let behind = seed as usize % 3;
        rig.leave_behind(behind);
        for round in 0..8 {
            rig.reopen(behind);
            rig.turn_until("the catch-up begins", |rig| rig.catches_up(behind) || rig.is_settled());
            let turns = 1 + rig.random.below(20 << round);
            rig.turns(turns);
            if round % 2 == 0 {
                rig.change(20);
            }
            rig.local.kill(behind);
            rig.churn(64);
        }
        rig.reopen(behind);
        rig.settle();
        rig.compare_stores();
        rig.read_all();
    }
}

/// Kills a leader in the middle: another one goes on from what is there.
#[test]
fn the_leader_dies_in_the_middle() {
    for seed in seeds() {
        let mut rig = Rig::new(false, seed, short_logs_and_slow);
        rig.churn(3000);
        let behind = seed as usize % 3;
        rig.leave_behind(behind);
        // A long log on both others: the entry that the next leader must have is with them.
        rig.reopen(behind);
        rig.turn_until("the catch-up begins", |rig| rig.catches_up(behind));
        let turns = rig.random.below(3000);
        rig.turns(turns);
        let leader = rig.leader_of(1).expect("somebody leads");
        assert_ne!(leader, behind);
        rig.local.kill(leader);
        let turns = rig.random.below(2000);
        rig.turns(turns);
        rig.reopen(leader);
        rig.settle();
        rig.compare_stores();
        rig.read_all();
    }
}

/// Chunks that were deleted, and such that were born anew, with sessions that are remembered.
#[test]
fn deletions_and_sessions_survive() {
    for seed in seeds() {
        let mut rig = Rig::new(false, seed, short_logs);
        rig.churn(300);
        let copyset = 1;
        let opened = ask(&mut rig, &asked(RequestKind::OpenSession, copyset, 0, 0), 0);
        assert_eq!(opened.status, ReplyStatus::Ok);
        let mut number = 0;
        // Chunks of no volume, so that the client does not mind.
        let mut change = |rig: &mut Rig, kind, chunk: u64, block, value| {
            number += 1;
            let asked = Request {
                session: SessionId(opened.value),
                request: RequestNumber(number),
                ..asked(kind, copyset, chunk << 32, block)
            };
            assert_eq!(ask(rig, &asked, value).status, ReplyStatus::Ok);
            asked
        };
        for chunk in 100..106u64 {
            for block in 0..4 {
                change(&mut rig, RequestKind::Write, chunk, block, 1);
            }
        }
        let behind = (rig.leader_of(copyset).expect("a leader") + 1 + seed as usize % 2) % 3;
        rig.local.kill(behind);
        change(&mut rig, RequestKind::Delete, 100, 0, 0);
        change(&mut rig, RequestKind::Delete, 101, 0, 0);
        change(&mut rig, RequestKind::Write, 101, 9, 2);
        change(&mut rig, RequestKind::Write, 110, 3, 3);
        let repeated = change(&mut rig, RequestKind::Write, 102, 1, 4);
        change(&mut rig, RequestKind::Write, 102, 1, 5);
        rig.churn(3000);
        rig.reopen(behind);
        // Deleted and born anew while the node catches up.
        change(&mut rig, RequestKind::Delete, 103, 0, 0);
        change(&mut rig, RequestKind::Write, 103, 7, 6);
        change(&mut rig, RequestKind::Delete, 104, 0, 0);
        rig.settle();
        assert!(rig.catch_up_bytes() > 0, "the log was enough: nothing was tested");
        rig.compare_stores();
        lead(&mut rig, behind, copyset);
        // The caught-up replica leads and still knows that this was done: it is not done again.
        let before = rig.copyset(behind, copyset).expect("it runs").applied;
        assert_eq!(ask(&mut rig, &repeated, 4).status, ReplyStatus::Ok);
        let after = rig.copyset(behind, copyset).expect("it runs");
        assert_eq!((after.role, after.applied), ("leader", before), "it was proposed again");
        rig.compare_stores();
        rig.read_all();
    }
}

/// A request for one block of a chunk outside any session.
fn asked(kind: RequestKind, copyset: u32, chunk: u64, block: u32) -> Request<'static> {
    let blocks = u32::from(kind == RequestKind::Write);
    let range = BlockRange { first: block, blocks };
    request(kind, Spot { copyset: CopysetId(copyset), chunk: ChunkId(chunk), range }, 1)
}

/// Asks the copyset's leader, whoever that is, until it is not busy. What is written is a block
/// full of `value`.
fn ask(rig: &mut Rig, asked: &Request<'_>, value: u8) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline, "nobody answers");
        rig.turns(1);
        let Some(leader) = rig.leader_of(asked.copyset.0) else { continue };
        let mut raw = rig.raw(leader, PeerKind::Client, NOBODY);
        let writes = asked.kind == RequestKind::Write;
        let crcs = if writes { checksums(1, value) } else { Vec::new() };
        let pages = writes.then(|| raw.pages(1, value));
        raw.request(&Request { crcs: &crcs, ..*asked }, pages, &mut || rig.local.turn());
        let answer = raw.answer(asked.token, &mut || rig.local.turn());
        if !matches!(answer.status, ReplyStatus::Busy | ReplyStatus::NotLeader) {
            return answer;
        }
    }
}

/// Makes a node lead a copyset, by killing others as long as they do.
fn lead(rig: &mut Rig, node: usize, copyset: u32) {
    for _ in 0..50 {
        let Some(leader) = rig.leader_of(copyset) else {
            rig.turns(1);
            continue;
        };
        if leader == node {
            rig.settle();
            return;
        }
        rig.local.kill(leader);
        rig.turn_until("another one leads", |rig| rig.leader_of(copyset).is_some());
        rig.reopen(leader);
        rig.settle();
    }
    panic!("node {node} was never elected");
}

/// Makes a replica believe that another one leads its group, in a later term than the one there.
fn claim_to_lead(rig: &mut Rig, raw: &mut Raw, (id, own, there): (u32, u64, u64)) {
    let Some(status) = rig.copyset(0, id).filter(|status| status.leader != own) else { return };
    let mut writer = PeerMessagesWriter::default();
    writer.push(&PeerMessage {
        kind: PeerMessageKind::Heartbeat,
        reject: false,
        copyset: CopysetId(id),
        from: ReplicaId(own),
        to: ReplicaId(there),
        term: Term(status.term + 1),
        log_term: Term(0),
        index: LogIndex(0),
        commit: LogIndex(0),
        commit_term: Term(0),
        reject_hint: LogIndex(0),
        request_snapshot: LogIndex(0),
        sent_ns: 0,
        context: 0,
    });
    raw.try_send(writer.frame(), 0, 0);
    raw.poll();
    rig.turns(20);
}

/// Frames of a catch-up that mean nothing, or nothing good, from node 2, which is down, to node 0;
/// with a claim to lead before each task, or without.
fn send_hostile_frames(rig: &mut Rig, claims: bool) {
    const KINDS: [CatchUpKind; 8] = [
        CatchUpKind::Begin,
        CatchUpKind::List,
        CatchUpKind::Manifest,
        CatchUpKind::Chunk,
        CatchUpKind::Retain,
        CatchUpKind::State,
        CatchUpKind::Done,
        CatchUpKind::Abort,
    ];
    let copysets: Vec<_> = rig
        .local
        .cluster()
        .copysets()
        .iter()
        .map(|copyset| {
            let cluster = rig.local.cluster();
            let replica = |node| {
                let at = copyset.replicas.iter().find(|r| cluster.endpoint_of(r).node == node);
                at.expect("a replica on every node").id.0
            };
            (copyset.id.0, replica(2), replica(0))
        })
        .collect();
    let mut node: Option<Raw> = None;
    let (mut task, mut number) = (0, 0);
    let sevens = crc32c::crc32c(&[7; BLOCK]);
    let mut id = 1;
    for _ in 0..6000 {
        let lost = node.take_if(|node| node.closed.is_some()).is_some();
        let raw = node.get_or_insert_with(|| rig.raw(0, PeerKind::Node, NODE_2));
        if lost || rig.random.below(40) == 0 {
            (task, number) = (task + 1, 0);
        }
        if number == 0 {
            id = 1 + rig.random.below(3) as u32;
            if claims {
                claim_to_lead(rig, raw, copysets[id as usize - 1]);
            }
        }
        let (_, own, there) = copysets[id as usize - 1];
        let term = rig.copyset(0, id).map_or(1, |status| status.term);
        let applied = rig.copyset(0, id).map_or(1, |status| status.applied);
        number += 1;
        let begins = number == 1;
        // Mostly what goes deep: questions, chunks, lists.
        let kind = if begins {
            0
        } else {
            [1, 1, 3, 3, 3, 3, 3, 4, 5, 0, 2, 6, 7][rig.random.below(13) as usize]
        };
        let mut count = |most: u64| rig.random.below(most);
        let sane = count(20) > 0;
        let (first, last) =
            if sane && kind == 3 { (true, true) } else { (count(2) == 0, count(2) == 0) };
        let head = CatchUpHead {
            kind: KINDS[kind],
            first,
            last,
            copyset: CopysetId(id),
            from: ReplicaId(own),
            to: ReplicaId(there),
            term: Term(term),
            task,
            number: if sane { number } else { count(9) },
            index: LogIndex(applied + 10 * count(3)),
            index_term: Term(term),
            chunk: ChunkId(1 << 32 | count(20)),
            birth: LogIndex(applied - 5 + count(4)),
            applied: LogIndex(applied + count(3)),
            since: LogIndex(if sane { 0 } else { count(1 << 40) }),
            total: count(9000) as u32,
        };
        let mut items = count(6) as u16;
        let bytes = match KINDS[kind] {
            _ if !sane => count(300),
            CatchUpKind::Manifest => u64::from(items) * 32,
            CatchUpKind::Retain => u64::from(items) * 8,
            CatchUpKind::State => count(3000),
            _ => 0,
        };
        let mut body: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
        let mut pages = 0;
        if kind == 0 && sane {
            body = vec![0, 3];
            [own, there, 77].iter().for_each(|id| body.extend_from_slice(&id.to_le_bytes()));
            body.extend_from_slice(&[0, 0, 0]);
        }
        if kind == 3 {
            pages = count(3) as u32;
            items = pages as u16;
            let crc = if sane { sevens } else { 0x5ca1_ab1e };
            let blocks: Vec<_> = (0..pages)
                .map(|at| ChunkBlock {
                    block: (at * (1 + count(100) as u32)).into(),
                    crc: crc.into(),
                    index: (head.applied.0 - count(2)).into(),
                    mapped: 1.into(),
                })
                .collect();
            body = blocks.as_bytes().to_vec();
        }
        let mut out = [0; FRAME_BYTES_MAX];
        let frame = emit_catch_up(&head, items, &body, &mut out);
        raw.try_send(frame, pages, 7);
        rig.turns(1);
        raw.poll();
    }
}

/// A rig whose node 2 is down, and leads nothing any more in the eyes of node 0.
fn without_node_2(seed: u64) -> Rig {
    let mut rig = Rig::new(false, seed, short_logs);
    rig.churn(300);
    rig.settle();
    rig.local.kill(2);
    rig.turn_until("the others lead", |rig| {
        (1..=COPYSETS).all(|id| {
            let leader = rig.leader_of(id).and_then(|node| rig.copyset(node, id));
            let known = rig.copyset(0, id).expect("it runs").leader;
            leader.is_some_and(|leader| leader.replica == known)
        })
    });
    rig
}

/// The node goes on, and what it did is in its journal: a recovery does not mind it either.
fn goes_on_and_comes_back(rig: &mut Rig, node: usize) {
    rig.turns(2000);
    in_service(rig, node);
    rig.local.kill(node);
    rig.reopen(node);
    rig.turns(2000);
    in_service(rig, node);
}

fn in_service(rig: &mut Rig, node: usize) {
    let status = rig.status(node).expect("it runs");
    assert!(status.shards.iter().all(|shard| shard.failure.is_empty()), "{status:?}");
    assert_eq!(status.copysets.len(), COPYSETS as usize, "{status:?}");
    assert!(status.copysets.iter().all(|copyset| copyset.role != "out of service"), "{status:?}");
}

/// From a node that does not lead: nothing of it is taken for true.
#[test]
fn hostile_frames_do_no_harm() {
    for seed in seeds() {
        let mut rig = without_node_2(seed);
        send_hostile_frames(&mut rig, false);
        goes_on_and_comes_back(&mut rig, 0);
        rig.reopen(2);
        rig.churn(300);
        rig.settle();
        rig.read_all();
        rig.compare_stores();
    }
}

/// From a node that says that it leads in a later term, which none but a leader should: its frames
/// go deep, and what it installs counts for that one replica. The others are whole without it.
#[test]
fn frames_of_a_false_leader_harm_nobody_else() {
    for seed in seeds() {
        let mut rig = without_node_2(seed);
        send_hostile_frames(&mut rig, true);
        goes_on_and_comes_back(&mut rig, 0);
        assert!(!rig.hold_the_same(0, 1), "nothing was taken in: the test shows nothing");
        rig.local.kill(0);
        rig.reopen(2);
        rig.churn(300);
        rig.turn_until("both replicas are equal", |rig| {
            (1..=COPYSETS).all(|id| {
                let [one, two] = [1, 2].map(|node| rig.copyset(node, id).expect("it runs"));
                one.last == one.applied && two.last == two.applied && one.last == two.last
            })
        });
        rig.read_all();
        // What is durable is on the devices when the last flush is.
        rig.turns(2000);
        rig.compare_stores_of(&[1, 2]);
    }
}

/// More is written during a round than even the log that is held back keeps: there are more rounds.
#[test]
fn a_round_that_is_outrun_is_repeated() {
    for seed in seeds() {
        let mut rig = Rig::new(false, seed, |config| {
            short_logs(config);
            config.store.catch_up_bytes_per_second = ByteSize::mib(2);
        });
        rig.churn(4000);
        rig.leave_behind(2);
        rig.churn(3000);
        rig.reopen(2);
        let mut written = 0;
        // Written for as long as it takes: how much fits into a round is a matter of the machine.
        let mut round = 0;
        while round < 2 {
            rig.change(64);
            let nodes = [0, 1].map(|node| rig.status(node).expect("it runs"));
            let copysets = nodes.iter().flat_map(|status| &status.copysets);
            let tasks = copysets.flat_map(|copyset| &copyset.catch_ups);
            round = tasks.map(|task| task.round).max().unwrap_or(0).max(round);
            written += 64;
            assert!(written < 1_000_000, "one round was enough for all of them");
        }
        rig.turn_until("all replicas are equal", Rig::is_settled);
        rig.settle();
        rig.compare_stores();
        rig.read_all();
    }
}
