//! A copyset at its quota refuses what would map more, and nothing else.

mod rig;

use culvert::client::ClientOptions;
use culvert::cluster::{Cluster, Document};
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
