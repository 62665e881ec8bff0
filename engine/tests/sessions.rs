//! A request that is repeated takes effect once, whoever leads by then.

mod rig;

use culvert::ids::{RequestNumber, SessionId};
use culvert::wire::{ReplyStatus, Request, RequestKind};
use culvert_transport::PeerKind;
use tempfile::TempDir;

use rig::nodes::Nodes;
use rig::plan::{Wishes, emulated};
use rig::raw::{Answer, NOBODY, Raw, checksums, request, spot};

/// Requests that a session remembers.
const WINDOW: u64 = 1024;

fn start(folder: &TempDir) -> Nodes {
    let wishes = Wishes {
        copysets: 1,
        adjust: |config| config.raft.session_idle_s = 10,
        ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", ""))
    };
    Nodes::start(&wishes)
}

/// A connection to the node that leads.
fn to_leader(nodes: &mut Nodes) -> Raw {
    nodes.run_until("somebody leads", |nodes| nodes.leader_of(1).is_some());
    let leader = nodes.leader_of(1).expect("waited for");
    let address = nodes.plan.cluster.nodes()[leader].reactors[0].addresses[0].clone();
    Raw::connect(&address, PeerKind::Client, NOBODY, &mut || nodes.turn())
}

/// Sends a request again and again until it is not "busy": a new leader answers so until an entry
/// of its own is applied.
fn ask(raw: &mut Raw, nodes: &mut Nodes, asked: &Request<'_>, byte: Option<u8>) -> Answer {
    loop {
        let pages = byte.map(|byte| raw.pages(1, byte));
        raw.request(asked, pages, &mut || nodes.turn());
        let answer = raw.answer(asked.token, &mut || nodes.turn());
        if answer.status != ReplyStatus::Busy {
            return answer;
        }
    }
}

fn open_session(raw: &mut Raw, nodes: &mut Nodes) -> SessionId {
    let open = request(RequestKind::OpenSession, spot(&nodes.plan.cluster, 0), 1);
    let answer = ask(raw, nodes, &open, None);
    assert_eq!(answer.status, ReplyStatus::Ok);
    SessionId(answer.value)
}

/// Writes block 0 full of a byte as request `number` of a session.
fn write(raw: &mut Raw, nodes: &mut Nodes, session: SessionId, number: u64, byte: u8) -> Answer {
    let crcs = checksums(1, byte);
    let request = Request {
        session,
        request: RequestNumber(number),
        crcs: &crcs,
        ..request(RequestKind::Write, spot(&nodes.plan.cluster, 0), 1000 + number)
    };
    ask(raw, nodes, &request, Some(byte))
}

/// What every byte of block 0 is.
fn block_0(nodes: &mut Nodes) -> u8 {
    let mut found = None;
    let mut client = nodes.client(9);
    rig::load::read_block(&mut client, 0, || nodes.turn(), |bytes| found = Some(bytes[0]));
    found.expect("it was read")
}

fn leader_dies(nodes: &mut Nodes) {
    let leader = nodes.leader_of(1).expect("a leader");
    nodes.kill(leader);
    nodes.run_until("another one leads", |nodes| nodes.leader_of(1).is_some());
    nodes.open(leader, false);
}

#[test]
fn a_repeated_request_takes_effect_once() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut nodes = start(&folder);
    let mut raw = to_leader(&mut nodes);
    let session = open_session(&mut raw, &mut nodes);
    assert_eq!(write(&mut raw, &mut nodes, session, 1, b'a').status, ReplyStatus::Ok);
    assert_eq!(write(&mut raw, &mut nodes, session, 2, b'b').status, ReplyStatus::Ok);

    // Different bytes show whether it was written again: nobody does so for another reason.
    let again = write(&mut raw, &mut nodes, session, 1, b'c');
    assert_eq!(again.status, ReplyStatus::Ok, "it was done");
    assert_eq!(block_0(&mut nodes), b'b');

    for round in 0..3 {
        leader_dies(&mut nodes);
        raw = to_leader(&mut nodes);
        for number in [1, 2] {
            let again = write(&mut raw, &mut nodes, session, number, b'c');
            assert_eq!(again.status, ReplyStatus::Ok, "number {number} after {round} deaths");
            assert_eq!(block_0(&mut nodes), b'b', "number {number} after {round} deaths");
        }
    }
    assert_eq!(write(&mut raw, &mut nodes, session, 3, b'd').status, ReplyStatus::Ok);
    assert_eq!(block_0(&mut nodes), b'd', "the session goes on");
}

#[test]
fn a_request_below_the_window_is_refused() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut nodes = start(&folder);
    let mut raw = to_leader(&mut nodes);
    let session = open_session(&mut raw, &mut nodes);
    assert_eq!(write(&mut raw, &mut nodes, session, 1, b'a').status, ReplyStatus::Ok);
    let highest = 1 + WINDOW;
    assert_eq!(write(&mut raw, &mut nodes, session, highest, b'b').status, ReplyStatus::Ok);
    let below = write(&mut raw, &mut nodes, session, 1, b'c');
    assert_eq!(below.status, ReplyStatus::BelowWindow);
    let inside = write(&mut raw, &mut nodes, session, 2, b'd');
    assert_eq!(inside.status, ReplyStatus::Ok, "the oldest of the window was not seen yet");

    leader_dies(&mut nodes);
    let mut raw = to_leader(&mut nodes);
    let below = write(&mut raw, &mut nodes, session, 1, b'c');
    assert_eq!(below.status, ReplyStatus::BelowWindow);
    assert_eq!(block_0(&mut nodes), b'd');
}

#[test]
fn a_session_that_nobody_opened_or_that_expired_is_refused() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut nodes = start(&folder);
    let mut raw = to_leader(&mut nodes);
    let unknown = write(&mut raw, &mut nodes, SessionId(4711), 1, b'a');
    assert_eq!(unknown.status, ReplyStatus::NoSession);

    let session = open_session(&mut raw, &mut nodes);
    assert_eq!(write(&mut raw, &mut nodes, session, 1, b'a').status, ReplyStatus::Ok);
    let leader = nodes.leader_of(1).expect("a leader");
    let before = nodes.status(leader).copysets[0].applied;
    nodes.run_until("the session expires, through the log", |nodes| {
        nodes.status(leader).copysets[0].applied > before
    });
    let expired = write(&mut raw, &mut nodes, session, 2, b'b');
    assert_eq!(expired.status, ReplyStatus::NoSession);
    let repeated = write(&mut raw, &mut nodes, session, 1, b'b');
    assert_eq!(repeated.status, ReplyStatus::NoSession, "what it did is forgotten with it");

    leader_dies(&mut nodes);
    let mut raw = to_leader(&mut nodes);
    let expired = write(&mut raw, &mut nodes, session, 2, b'b');
    assert_eq!(expired.status, ReplyStatus::NoSession, "for every leader");
    let session = open_session(&mut raw, &mut nodes);
    assert_eq!(write(&mut raw, &mut nodes, session, 1, b'e').status, ReplyStatus::Ok);
    assert_eq!(block_0(&mut nodes), b'e');
}
