//! A client that behaves badly, or a device, stops nobody else.

mod rig;

use std::time::{Duration, Instant};

use culvert::client::{ClientOptions, Transports};
use culvert::ids::BlockRange;
use culvert::wire::{ReplyStatus, Request, RequestKind};
use culvert_transport::{Address, CloseReason, PeerKind, SendError};
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::odd::OddNode;
use rig::plan::{VOLUME, Wishes, client, emulated};
use rig::raw::{NOBODY, Raw, Spot, request, spot};

/// How long another client may wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests that nobody takes the answers of: more than a ring or socket has room for.
const REQUESTS: usize = 3000;

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = [0; 1024];
    request.emit(&mut bytes).to_vec()
}

/// Sends the same frame over and over, and takes no answer. Returns how often it was sent.
fn send_on(raw: &mut Raw, frame: &[u8], count: usize, turn: &mut impl FnMut() -> bool) -> usize {
    let mut sent = 0;
    let since = Instant::now();
    while sent < count && since.elapsed() < PATIENCE {
        match raw.send(frame, None, turn) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => drop(turn()),
            Err(_closed) => break,
        }
        if sent % 64 == 0 {
            turn();
        }
    }
    for _ in 0..1000 {
        turn();
    }
    sent
}

fn done_in_time(what: &str, load: &mut Load, turn: &mut impl FnMut() -> bool) {
    let since = Instant::now();
    while load.longest_wait() > Duration::ZERO {
        let busy = turn();
        if !load.poll() && !busy {
            std::thread::yield_now();
        }
        assert!(since.elapsed() < PATIENCE, "another client waits for a {what}");
    }
}

fn reads_that_nobody_takes(tcp: bool) {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        copysets: 1,
        tcp,
        adjust: |config| config.turn.operations_max = 256,
        ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", ""))
    };
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 8, 1);
    load.write(0, 8);
    load.settle(|| nodes.turn());
    let leader = nodes.leader_of(1).expect("a leader");
    let address = nodes.plan.cluster.nodes()[leader].reactors[0].addresses[0].clone();
    let mut raw = Raw::connect(&address, PeerKind::Client, NOBODY, &mut || nodes.turn());
    let read = request(RequestKind::Read, spot(&nodes.plan.cluster, 0), 1);
    let read = Request { range: BlockRange { first: 0, blocks: 8 }, ..read };
    send_on(&mut raw, &frame(&read), REQUESTS, &mut || nodes.turn());

    load.read(0, 8);
    done_in_time("read", &mut load, &mut || nodes.turn());
    load.write(16, 8);
    done_in_time("write", &mut load, &mut || nodes.turn());
    load.read(16, 8);
    done_in_time("read", &mut load, &mut || nodes.turn());

    let since = Instant::now();
    nodes.run_until("what the writes left over is done", |_| {
        since.elapsed() > Duration::from_millis(300)
    });
    let before = nodes.status(leader).counters;
    for _ in 0..2000 {
        nodes.turn();
    }
    let after = nodes.status(leader).counters;
    let (turns, empty) = (after.turns - before.turns, after.empty_turns - before.empty_turns);
    assert!(empty * 10 >= turns * 8, "{empty} of {turns} turns have nothing to do");

    // What it could not take before it gets when it reads on, each answer once.
    if raw.closed.is_none() && !tcp {
        let mut answers = 0;
        let since = Instant::now();
        while answers < REQUESTS && since.elapsed() < PATIENCE {
            nodes.turn();
            raw.poll();
            answers += raw.take_answers(|answer| {
                let status = answer.status;
                assert!(matches!(status, ReplyStatus::Ok | ReplyStatus::Malformed), "{status}");
            });
        }
        assert_eq!(answers, REQUESTS);
    }
}

#[test]
fn reads_that_nobody_takes_over_shared_memory() {
    reads_that_nobody_takes(false);
}

#[test]
fn reads_that_nobody_takes_over_tcp() {
    reads_that_nobody_takes(true);
}

#[test]
fn more_requests_than_answers_are_owed() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        copysets: 1,
        adjust: |config| {
            config.transport.window_max_pages = 64;
            config.transport.requests_max = 128;
        },
        ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", ""))
    };
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 8, 1);
    load.write(0, 8);
    load.settle(|| nodes.turn());
    let leader = nodes.leader_of(1).expect("a leader");
    let address = nodes.plan.cluster.nodes()[leader].reactors[0].addresses[0].clone();
    let mut raw = Raw::connect(&address, PeerKind::Client, NOBODY, &mut || nodes.turn());
    let read = request(RequestKind::Read, spot(&nodes.plan.cluster, 0), 1);
    let refused = Request { range: BlockRange { first: u32::MAX, blocks: 8 }, ..read };
    let sent = send_on(&mut raw, &frame(&refused), 100_000, &mut || nodes.turn());
    assert!(sent < 10_000, "{sent} requests were taken in");
    assert_eq!(raw.closing(&mut || nodes.turn()), CloseReason::PeerClosed);
    load.write(16, 8);
    done_in_time("write", &mut load, &mut || nodes.turn());
}

#[test]
fn one_status_text_for_all_who_ask_in_a_turn() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut rig = OddNode::start(folder.path(), |_| {});
    let address = Address::Shm(folder.path().join("node.sock"));
    let node = &mut rig.node;
    let mut raws: Vec<Raw> = (0..3)
        .map(|_| Raw::connect(&address, PeerKind::Client, NOBODY, &mut || node.turn()))
        .collect();
    let before = node.reactor().chunkserver().counters().status_texts;
    let status = request(RequestKind::Status, spot(&rig.cluster, 0), 1);
    for raw in &mut raws {
        for token in 0..8 {
            raw.request(&Request { token, ..status }, None, &mut || false);
        }
    }
    let texts: Vec<Vec<u8>> =
        raws.iter_mut().map(|raw| raw.answer(7, &mut || node.turn()).trailing).collect();
    assert!(texts.iter().all(|text| !text.is_empty() && *text == texts[0]));
    let made = node.reactor().chunkserver().counters().status_texts - before;
    assert!(made <= 2, "{made} texts for 24 requests in one turn or two");
}

/// A spot on each of the two devices.
fn spots(rig: &OddNode) -> [(u64, Spot); 2] {
    let first = spot(&rig.cluster, 0);
    let other = (0..1024).map(|block| (block, spot(&rig.cluster, block)));
    let other = other.into_iter().find(|(_, spot)| spot.copyset != first.copyset);
    [(0, first), other.expect("the volume lies on both copysets")]
}

/// Position of the device that holds a copyset.
fn device_of(rig: &OddNode, spot: &Spot) -> usize {
    let replica = &rig.cluster.copyset(spot.copyset).expect("one of the cluster's").replicas[0];
    rig.cluster.devices().iter().position(|device| device.uuid == replica.device).expect("listed")
}

#[test]
fn a_device_that_hangs_stops_no_other() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut rig = OddNode::start(folder.path(), |config| config.turn.operations_max = 64);
    let [(hung_block, hung), (healthy_block, _)] = spots(&rig);
    let mut load = Load::new(client(&rig.cluster, 1, ClientOptions::default()), VOLUME, 8, 1);
    load.write(hung_block, 8);
    load.write(healthy_block, 8);
    let hung_device = device_of(&rig, &hung);
    let address = Address::Shm(folder.path().join("node.sock"));
    let OddNode { node, orders, cluster, .. } = &mut rig;
    load.settle(|| node.turn());

    orders[hung_device].hangs.set(true);
    let read = request(RequestKind::Read, spot(cluster, hung_block), 1);
    // Several clients, so that all shares of the hung device are taken.
    let mut raws = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(&address, PeerKind::Client, NOBODY, &mut || node.turn());
        send_on(&mut raw, &frame(&read), 200, &mut || node.turn());
        raws.push(raw);
    }
    for _ in 0..20 {
        load.read(healthy_block, 8);
        done_in_time("read", &mut load, &mut || node.turn());
    }
    orders[hung_device].hangs.set(false);
    load.read(hung_block, 8);
    done_in_time("read", &mut load, &mut || {
        raws.iter_mut().for_each(Raw::poll);
        node.turn()
    });
}

/// The memory that a device refuses is our shortage, not the device's failure.
#[test]
fn a_device_that_takes_no_more_memory() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut rig = OddNode::start(folder.path(), |_| {});
    let options = |transports| ClientOptions { transports, ..ClientOptions::default() };
    let mut load = Load::new(client(&rig.cluster, 1, options(Transports::Any)), VOLUME, 8, 1);
    load.write(0, 8);
    load.settle(|| rig.node.turn());
    let address = Address::Shm(folder.path().join("node.sock"));
    let mut growing = Raw::connect(&address, PeerKind::Client, NOBODY, &mut || rig.node.turn());
    // Only one of the two refuses: the other must forget what it has taken.
    rig.orders[1].refuses_memory.set(true);
    assert!(!growing.wish_for(32), "a window begins with less");
    assert_eq!(growing.closing(&mut || rig.node.turn()), CloseReason::PeerClosed);
    let mut raw = Raw::dial(&address, PeerKind::Client, NOBODY);
    let reason = raw.closing(&mut || rig.node.turn());
    assert!(matches!(reason, CloseReason::RefusedByPeer(_)), "{reason}");
    // A window that is there grows no more, and its connection says so by its end.
    let since = Instant::now();
    let mut block = 0;
    while since.elapsed() < Duration::from_secs(1) {
        if load.is_idle(block, 8) {
            load.write(block, 8);
        }
        block = (block + 8) % 512;
        load.poll();
        rig.node.turn();
        if load.longest_wait() > Duration::from_millis(200) {
            break;
        }
    }
    let status = rig.node.reactor().chunkserver().status();
    assert!(status.shards.iter().all(|shard| shard.failure.is_empty()), "no device has failed");
    rig.orders[1].refuses_memory.set(false);
    load.settle(|| rig.node.turn());
    load.read_all(|| rig.node.turn());
    let status = rig.node.reactor().chunkserver().status();
    assert!(status.shards.iter().all(|shard| shard.failure.is_empty()), "no device has failed");
}
