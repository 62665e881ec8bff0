//! Frames that lie, peers that vanish: one clear error each, and nobody else notices.

mod rig;

use culvert::ids::BlockRange;
use culvert::wire::{FrameKind, Request, RequestKind, emit_header};
use culvert_memory::Pages;
use culvert_transport::{Address, CloseReason, PeerKind, SendError};
use std::collections::BTreeMap;
use tempfile::TempDir;

use culvert::wire::ReplyStatus;
use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};
use rig::raw::{NOBODY, Raw, checksums, request, spot};
use rig::relay::Relay;
use rig::said::Said;

/// Offset of the kind in a frame.
const KIND_AT: usize = 0;
/// Offset of the length in a frame.
const LENGTH_AT: usize = 4;

struct Rig {
    nodes: Nodes,
    load: Load,
    /// The node that leads the only copyset, and where it listens.
    address: Address,
    said: Said,
    _folder: TempDir,
}

impl Rig {
    fn new(tcp: bool) -> Rig {
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let devices = emulated(folder.path(), "64MiB", "");
        let wishes = Wishes { copysets: 1, tcp, ..Wishes::new(folder.path(), devices) };
        let said = Said::listen();
        let mut nodes = Nodes::start(&wishes);
        let mut load = Load::new(nodes.client(1), VOLUME, 8, 1);
        load.write(0, 8);
        load.settle(|| nodes.turn());
        let leader = nodes.leader_of(1).expect("a leader");
        let address = nodes.plan.cluster.nodes()[leader].reactors[0].addresses[0].clone();
        said.take();
        Rig { nodes, load, address, said, _folder: folder }
    }

    fn raw(&mut self, kind: PeerKind) -> Raw {
        Raw::connect(&self.address, kind, NOBODY, &mut || self.nodes.turn())
    }

    /// A request for block 0 of the volume.
    fn request(&self, kind: RequestKind) -> Request<'static> {
        request(kind, spot(&self.nodes.plan.cluster, 0), 1)
    }

    /// Sends a frame after which the node closes the connection, and says why in these words.
    fn offends(&mut self, frame: &[u8], pages: Option<Pages>, words: &str) {
        let mut raw = self.raw(PeerKind::Client);
        raw.send(frame, pages, &mut || self.nodes.turn()).expect("an open connection");
        raw.closing(&mut || self.nodes.turn());
        self.says(words);
        self.others_go_on();
    }

    /// Sends a request that is answered in this way; the connection stays.
    fn refuses(&mut self, request: &Request<'_>, pages: Option<u32>, status: ReplyStatus) {
        let mut raw = self.raw(PeerKind::Client);
        let pages = pages.map(|blocks| raw.pages(blocks, 7));
        raw.request(request, pages, &mut || self.nodes.turn());
        let answer = raw.answer(request.token, &mut || self.nodes.turn());
        assert_eq!(answer.status, status, "{request:?}");
        let status = self.request(RequestKind::Status);
        raw.request(&Request { token: 99, ..status }, None, &mut || self.nodes.turn());
        let answer = raw.answer(99, &mut || self.nodes.turn());
        assert_eq!(answer.status, ReplyStatus::Ok, "the connection goes on");
        assert_eq!(self.said.take(), "", "a refusal is the client's business, not the log's");
        self.others_go_on();
    }

    /// One line of the log, and these words in it.
    fn says(&mut self, words: &str) {
        let said = self.said.take();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(words)).collect();
        assert_eq!(lines.len(), 1, "one line with {words:?} in:\n{said}");
        assert_eq!(said.lines().count(), 1, "one clear error:\n{said}");
    }

    /// A client that was there before goes on working.
    fn others_go_on(&mut self) {
        self.load.write(3, 8);
        self.load.settle(|| self.nodes.turn());
        self.load.read(0, 8);
        self.load.settle(|| self.nodes.turn());
    }
}

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = [0; 1024];
    request.emit(&mut bytes).to_vec()
}

#[test]
fn a_frame_of_unknown_kind() {
    let mut rig = Rig::new(false);
    let mut bytes = frame(&rig.request(RequestKind::Read));
    bytes[KIND_AT] = 77;
    rig.offends(&bytes, None, "frame kind 77 is unknown");
}

#[test]
fn a_frame_that_lies_about_its_length() {
    let mut rig = Rig::new(false);
    let mut bytes = frame(&rig.request(RequestKind::Read));
    bytes[LENGTH_AT] += 8;
    rig.offends(&bytes, None, "frame says it has 88 bytes, 80 arrived");
    bytes[LENGTH_AT..LENGTH_AT + 4].fill(0xff);
    rig.offends(&bytes, None, "frame says it has 4294967295 bytes, 80 arrived");
}

#[test]
fn a_truncated_frame() {
    let mut rig = Rig::new(false);
    let whole = frame(&rig.request(RequestKind::Read));
    for length in [1, 7, 8, 20, whole.len() - 1] {
        let mut bytes = whole[..length].to_vec();
        if length >= 8 {
            bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&(length as u32).to_le_bytes());
        }
        rig.offends(&bytes, None, "frame is truncated");
    }
}

#[test]
fn a_request_of_unknown_kind() {
    let mut rig = Rig::new(false);
    let mut bytes = frame(&rig.request(RequestKind::Read));
    bytes[8] = 200;
    rig.offends(&bytes, None, "frame field kind holds an impossible value");
}

#[test]
fn a_write_of_no_blocks_or_too_many() {
    let mut rig = Rig::new(false);
    let write = rig.request(RequestKind::Write);
    let blocks = |blocks| Request { range: BlockRange { first: 0, blocks }, ..write };
    rig.offends(&frame(&blocks(0)), None, "frame field blocks holds an impossible value");
    rig.offends(&frame(&blocks(33)), None, "frame field blocks holds an impossible value");
    rig.offends(&frame(&blocks(8)), None, "frame field crcs holds an impossible value");
}

/// The protocol counts offsets and lengths in blocks, so that the only way to say that a range is
/// not whole blocks is to bring something else than a checksum for each.
#[test]
fn a_range_that_is_not_whole_blocks() {
    let words = "frame field crcs holds an impossible value";
    for tcp in [false, true] {
        let mut rig = Rig::new(tcp);
        let crcs = checksums(3, 7);
        let range = BlockRange { first: 0, blocks: 2 };
        for bytes in [1, 4, 6, 7, 9, 12] {
            let write = Request { range, crcs: &crcs[..bytes], ..rig.request(RequestKind::Write) };
            let pages = rig.raw(PeerKind::Client).pages(2, 7);
            rig.offends(&frame(&write), Some(pages), words);
        }
        for kind in [RequestKind::Read, RequestKind::Discard, RequestKind::Delete] {
            let request = Request { range, crcs: &crcs[..2], ..rig.request(kind) };
            rig.offends(&frame(&request), None, words);
        }
    }
}

#[test]
fn a_payload_of_another_length() {
    let mut rig = Rig::new(false);
    let crcs = checksums(2, 7);
    let range = BlockRange { first: 0, blocks: 2 };
    let write = Request { range, crcs: &crcs, ..rig.request(RequestKind::Write) };
    let pages = rig.raw(PeerKind::Client).pages(3, 7);
    rig.offends(&frame(&write), None, "2 blocks said, 0 pages came");
    rig.offends(&frame(&write), Some(pages), "2 blocks said, 3 pages came");
    let read = rig.request(RequestKind::Read);
    let pages = rig.raw(PeerKind::Client).pages(1, 7);
    rig.offends(&frame(&read), Some(pages), "0 blocks said, 1 pages came");
}

#[test]
fn a_range_past_the_chunk() {
    let mut rig = Rig::new(false);
    let chunk_blocks = rig.nodes.plan.cluster.chunk_blocks();
    let crcs = checksums(2, 7);
    for (first, blocks) in [(chunk_blocks - 1, 2), (chunk_blocks, 2), (u32::MAX, 2)] {
        let range = BlockRange { first, blocks };
        for kind in [RequestKind::Read, RequestKind::Discard] {
            let request = Request { range, ..rig.request(kind) };
            rig.refuses(&request, None, ReplyStatus::OutOfRange);
        }
        let write = Request { range, crcs: &crcs, ..rig.request(RequestKind::Write) };
        rig.refuses(&write, Some(2), ReplyStatus::OutOfRange);
    }
    for kind in [RequestKind::Read, RequestKind::Discard] {
        let request = Request { range: BlockRange { first: 0, blocks: 0 }, ..rig.request(kind) };
        rig.refuses(&request, None, ReplyStatus::OutOfRange);
    }
}

#[test]
fn a_copyset_that_is_not_here() {
    let mut rig = Rig::new(false);
    let read = rig.request(RequestKind::Read);
    let elsewhere = Request { copyset: culvert::ids::CopysetId(4711), ..read };
    rig.refuses(&elsewhere, None, ReplyStatus::NoCopyset);
}

#[test]
fn a_payload_that_does_not_match_its_checksums() {
    let mut rig = Rig::new(false);
    let crcs = checksums(1, 8);
    let write = Request { crcs: &crcs, ..rig.request(RequestKind::Write) };
    rig.refuses(&write, Some(1), ReplyStatus::PayloadChecksum);
}

#[test]
fn a_status_offset_that_is_nowhere() {
    let mut rig = Rig::new(false);
    let mut raw = rig.raw(PeerKind::Client);
    let status = rig.request(RequestKind::Status);
    let ask = |raw: &mut Raw, nodes: &mut Nodes, token, first| {
        let range = BlockRange { first, blocks: 0 };
        raw.request(&Request { token, range, ..status }, None, &mut || nodes.turn());
        raw.answer(token, &mut || nodes.turn())
    };
    let whole = ask(&mut raw, &mut rig.nodes, 1, 0);
    assert_eq!(whole.status, ReplyStatus::Ok);
    let piece = ask(&mut raw, &mut rig.nodes, 2, 13);
    assert_eq!(piece.trailing[..100], whole.trailing[13..113], "an odd offset is one all the same");
    let behind = ask(&mut raw, &mut rig.nodes, 3, u32::MAX);
    assert_eq!(behind.trailing, b"", "behind the end there is nothing");
    assert_eq!(behind.value, whole.value);
    rig.others_go_on();
}

#[test]
fn a_client_that_speaks_as_a_node() {
    let mut rig = Rig::new(false);
    for (kind, name) in [
        (FrameKind::Append, "Append"),
        (FrameKind::PeerMessages, "PeerMessages"),
        (FrameKind::CatchUp, "CatchUp"),
        (FrameKind::Repair, "Repair"),
        (FrameKind::Reply, "Reply"),
    ] {
        let mut bytes = [0; 64];
        emit_header(kind, 1, 64, &mut bytes);
        let words = format!("frame kind {name} does not belong on this connection");
        rig.offends(&bytes, None, &words);
    }
}

/// Without a key everybody may call himself a node, but one that the cluster file does not list is
/// no peer.
#[test]
fn a_node_that_the_cluster_does_not_know() {
    let mut rig = Rig::new(false);
    let mut raw = Raw::dial(&rig.address, PeerKind::Node, NOBODY);
    raw.closing(&mut || rig.nodes.turn());
    rig.says(&format!("node {NOBODY} endpoint 0 is no peer of this reactor"));
    rig.others_go_on();
}

/// It takes the place of the real one, which connects again once it is gone.
#[test]
fn a_node_that_speaks_as_a_client() {
    let mut rig = Rig::new(false);
    let leader = rig.nodes.leader_of(1).expect("a leader");
    let node = rig.nodes.plan.cluster.nodes()[(leader + 1) % 3].uuid;
    let turn = &mut || rig.nodes.turn();
    let mut raw = Raw::connect(&rig.address, PeerKind::Node, node, turn);
    let read = request(RequestKind::Read, spot(&rig.load.client().cluster().clone(), 0), 1);
    raw.send(&frame(&read), None, turn).expect("an open connection");
    raw.closing(turn);
    let said = rig.said.take();
    let words = "frame kind Request does not belong on this connection";
    assert_eq!(said.lines().filter(|line| line.contains(words)).count(), 1, "{said}");
    rig.others_go_on();
    rig.nodes.run_until("the real one is back", |nodes| {
        let peers = nodes.status(leader).peers;
        peers.iter().all(|peer| peer.connected)
    });
}

/// A read names pages of a window that its owner allocates; this one's is the server's to fill.
#[test]
fn a_read_into_pages_that_were_not_granted() {
    let mut rig = Rig::new(false);
    let read = rig.request(RequestKind::Read);
    for landing_page in [0, 1, 4711, u32::MAX] {
        rig.refuses(&Request { landing_page, ..read }, None, ReplyStatus::Malformed);
    }
}

#[test]
fn an_oversized_frame_is_the_senders_error() {
    let mut rig = Rig::new(false);
    let mut raw = rig.raw(PeerKind::Client);
    let bytes = vec![0; raw.frame_bytes_max() + 1];
    let sent = raw.send(&bytes, None, &mut || rig.nodes.turn());
    assert_eq!(sent, Err(SendError::TooLarge));
    rig.others_go_on();
}

#[test]
fn a_peer_that_vanishes_between_frames() {
    for tcp in [false, true] {
        let mut rig = Rig::new(tcp);
        let leader = rig.nodes.leader_of(1).expect("a leader");
        let before = rig.nodes.status(leader).clients;
        let raw = rig.raw(PeerKind::Client);
        let count = |clients: &BTreeMap<&str, usize>| clients.values().sum::<usize>();
        assert_eq!(count(&rig.nodes.status(leader).clients), count(&before) + 1);
        raw.vanish();
        rig.nodes.run_until("the node notices", |nodes| nodes.status(leader).clients == before);
        rig.others_go_on();
    }
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_a_payload() {
    let mut rig = Rig::new(true);
    let leader = rig.nodes.leader_of(1).expect("a leader");
    let before = rig.nodes.status(leader);
    let relay = Relay::new(&rig.address);
    let mut raw = Raw::connect(&relay.address, PeerKind::Client, NOBODY, &mut || rig.nodes.turn());
    let crcs = checksums(4, 7);
    let range = BlockRange { first: 0, blocks: 4 };
    let write = Request { range, crcs: &crcs, ..rig.request(RequestKind::Write) };
    let pages = raw.pages(4, 7);
    relay.cut_after(2 * 4096);
    raw.request(&write, Some(pages), &mut || rig.nodes.turn());
    let reason = raw.closing(&mut || rig.nodes.turn());
    assert!(
        matches!(reason, CloseReason::PeerClosed | CloseReason::PeerVanished | CloseReason::Io(_)),
        "{reason}"
    );
    relay.join();
    rig.nodes.run_until("the node notices", |nodes| nodes.status(leader).clients == before.clients);
    let after = rig.nodes.status(leader);
    assert_eq!(after.counters.writes, before.counters.writes, "half a payload is no write");
    assert_eq!(after.pool_pages_free, before.pool_pages_free, "its pages are back");
    rig.others_go_on();
}
