//! A copyset at its quota refuses what would map more, and nothing else.

mod rig;

use culvert::client::{ClientError, ClientOptions, Operation};
use culvert::cluster::{Cluster, Document};
use culvert::ids::Epoch;
use culvert::node::SystemClock;
use culvert::reactor::Clock;
use culvert::wire::{ReplyStatus, RequestKind};
use culvert_transport::PeerKind;
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, client, emulated};
use rig::raw::{NOBODY, Raw, request, spot};

const QUOTA: u64 = 64;
const CHUNK_BLOCKS: u64 = 32;

/// One copyset, and a client whose cluster file promises it more than the nodes do.
fn start(folder: &TempDir) -> (Nodes, Load) {
    let wishes = Wishes {
        copysets: 1,
        quota_blocks: QUOTA,
        chunk_bytes: CHUNK_BLOCKS * 4096,
        volume_bytes: QUOTA * 4096,
        ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", ""))
    };
    let nodes = Nodes::start(&wishes);
    let mut document: Document = nodes.plan.cluster.document().clone();
    document.copysets[0].quota_blocks = 100 * QUOTA;
    document.volumes[0].size = 4 * QUOTA * 4096;
    let generous = Cluster::check(document).expect("a generous cluster");
    let client = client(&generous, 1, ClientOptions::default());
    let load = Load::new(client, VOLUME, 8, 1);
    (nodes, load)
}

#[test]
fn a_copyset_at_its_quota_says_so_and_goes_on() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let (mut nodes, mut load) = start(&folder);
    for first in (0..QUOTA).step_by(8) {
        load.write(first, 8);
    }
    load.settle(|| nodes.turn());
    assert_eq!(load.done.writes, QUOTA / 8, "what the quota promises can be written");

    load.space_may_end = true;
    for first in (QUOTA..2 * QUOTA).step_by(8) {
        load.write(first, 8);
    }
    load.settle(|| nodes.turn());
    assert_eq!(load.done.no_space, QUOTA / 8, "not a block beyond it");
    load.space_may_end = false;

    let leader = nodes.leader_of(1).expect("a leader");
    let status = nodes.status(leader);
    assert_eq!(status.copysets[0].mapped_blocks, QUOTA);
    assert_eq!(status.copysets[0].quota_blocks, QUOTA);

    load.read_all(|| nodes.turn());
    for round in 0..20 {
        for first in (0..QUOTA).step_by(8) {
            load.write(first, 8);
        }
        load.settle(|| nodes.turn());
        assert_eq!(load.done.writes, (round + 2) * QUOTA / 8, "overwrites always fit");
    }

    load.discard(8, 16);
    load.settle(|| nodes.turn());
    load.write(QUOTA, 8);
    load.write(QUOTA + 8, 8);
    load.settle(|| nodes.turn());
    load.space_may_end = true;
    load.write(QUOTA + 16, 1);
    load.settle(|| nodes.turn());
    assert_eq!(load.done.no_space, QUOTA / 8 + 1, "what was discarded is there again, no more");
    load.read_all(|| nodes.turn());
}

/// What a user does who has filled a volume: its own client deletes and goes on.
#[test]
fn a_full_volume_is_emptied_by_its_client() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let (mut nodes, mut load) = start(&folder);
    for first in (0..QUOTA).step_by(8) {
        load.write(first, 8);
    }
    load.settle(|| nodes.turn());
    load.space_may_end = true;
    load.write(QUOTA, 1);
    load.settle(|| nodes.turn());
    assert_eq!(load.done.no_space, 1);
    // A client that comes when all is full: it can open a session, too.
    let mut other = nodes.client(2);
    let volume = other.open_volume(VOLUME).expect("the volume");
    let blocks = volume.set_blocks();
    other.submit(Operation::Delete { volume, offset_blocks: 0, blocks }, 1).expect("room");
    let mut finish = |client: &mut culvert::client::Client<culvert_transport::Transport>| {
        let mut result = Ok(());
        while client.in_flight() > 0 {
            nodes.turn();
            let now_ns = SystemClock.now_ns();
            client.poll(now_ns, &mut |completion| result = completion.result);
        }
        result
    };
    assert_eq!(finish(&mut other), Ok(()));
    other.submit(Operation::Fence { volume, copyset: 0, epoch: Epoch(3) }, 2).expect("room");
    assert_eq!(finish(&mut other), Ok(()));
    let pages = other.pool().acquire(1).expect("a page").freeze();
    other.submit(Operation::Write { volume, offset_blocks: 0, pages }, 3).expect("room");
    assert_eq!(finish(&mut other), Ok(()), "there is room again");
    // The first client holds epoch 0.
    let client = load.client();
    let volume = client.open_volume(VOLUME).expect("the volume");
    client.submit(Operation::Read { volume, offset_blocks: 0, blocks: 1 }, 4).expect("room");
    assert_eq!(finish(client), Err(ClientError::Fenced(Epoch(3))));
}

#[test]
fn a_deleted_chunk_gives_its_blocks_back() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let (mut nodes, mut load) = start(&folder);
    for first in (0..QUOTA).step_by(8) {
        load.write(first, 8);
    }
    load.settle(|| nodes.turn());
    let leader = nodes.leader_of(1).expect("a leader");
    let cluster = nodes.plan.cluster.clone();
    let address = cluster.nodes()[leader].reactors[0].addresses[0].clone();
    let mut raw = Raw::connect(&address, PeerKind::Client, NOBODY, &mut || nodes.turn());
    // Its first chunk: the client does not know, so it looks at the others only.
    raw.request(&request(RequestKind::Delete, spot(&cluster, 0), 7), None, &mut || nodes.turn());
    assert_eq!(raw.answer(7, &mut || nodes.turn()).status, ReplyStatus::Ok);
    let status = nodes.status(leader);
    assert_eq!(status.copysets[0].mapped_blocks, QUOTA - CHUNK_BLOCKS);
    for first in (QUOTA..QUOTA + CHUNK_BLOCKS).step_by(8) {
        load.write(first, 8);
    }
    load.settle(|| nodes.turn());
    load.space_may_end = true;
    load.write(QUOTA + CHUNK_BLOCKS, 8);
    load.settle(|| nodes.turn());
    assert_eq!(load.done.no_space, 1);
}
