//! A request that is repeated takes effect once, whoever leads by then.

mod rig;

use std::time::Duration;

use culvert::copyset::SESSIONS_OF_CLIENT_MAX;
use culvert::ids::{RequestNumber, SessionId};
use culvert::node::SystemClock;
use culvert::reactor::Clock;
use culvert::wire::{ReplyStatus, Request, RequestKind};
use culvert_transport::PeerKind;
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};
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

/// Sessions at the leader, once all changes in flight are applied.
fn sessions(nodes: &mut Nodes) -> usize {
    let leader = nodes.leader_of(1).expect("a leader");
    nodes.status(leader).copysets[0].sessions
}

#[test]
fn clients_that_end_leave_no_sessions() {
    for tcp in [false, true] {
        let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let wishes = Wishes {
            copysets: 1,
            tcp,
            ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", ""))
        };
        let mut nodes = Nodes::start(&wishes);
        let mut load = Load::new(nodes.client(1), VOLUME, 8, 1);
        load.write(0, 8);
        load.settle(|| nodes.turn());
        assert_eq!(sessions(&mut nodes), 1);
        let client = load.client();
        client.begin_close(SystemClock.now_ns(), Duration::from_secs(10));
        while !client.is_closed() {
            nodes.turn();
            client.poll(SystemClock.now_ns(), &mut |_| unreachable!("nothing is in flight"));
        }
        assert_eq!(sessions(&mut nodes), 0, "closed");

        let mut load = Load::new(nodes.client(2), VOLUME, 8, 1);
        load.write(0, 8);
        load.settle(|| nodes.turn());
        assert_eq!(sessions(&mut nodes), 1);
        drop(load);
        nodes.run_until("the servers have heard it", |nodes| sessions(nodes) == 0);
    }
}

#[test]
fn nobody_closes_the_sessions_of_others() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let mut nodes = start(&folder);
    let mut load = Load::new(nodes.client(1), VOLUME, 8, 1);
    load.write(0, 8);
    load.settle(|| nodes.turn());
    let mut raw = to_leader(&mut nodes);
    let close = RequestKind::CloseSession;
    for session in 0..20 {
        let session = SessionId(session);
        let asked = Request { session, ..request(close, spot(&nodes.plan.cluster, 0), 5) };
        assert_eq!(ask(&mut raw, &mut nodes, &asked, None).status, ReplyStatus::NoSession);
    }
    let own = open_session(&mut raw, &mut nodes);
    assert_eq!(sessions(&mut nodes), 2);
    let asked = Request { session: own, ..request(close, spot(&nodes.plan.cluster, 0), 6) };
    assert_eq!(ask(&mut raw, &mut nodes, &asked, None).status, ReplyStatus::Ok);
    assert_eq!(sessions(&mut nodes), 1);
    assert_eq!(ask(&mut raw, &mut nodes, &asked, None).status, ReplyStatus::NoSession);
}

/// As many clients as may come open as many sessions as they may: what the checkpoints have to
/// hold of them fits, and the journal goes round.
#[test]
fn all_the_sessions_that_may_be_open_fit_a_checkpoint() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let devices = emulated(folder.path(), "64MiB", "");
    let mut nodes = Nodes::start(&Wishes { copysets: 8, ..Wishes::new(folder.path(), devices) });
    nodes.run_until("somebody leads", |nodes| nodes.leader_of(1).is_some());
    let leader = nodes.leader_of(1).expect("waited for");
    let address = nodes.plan.cluster.nodes()[leader].reactors[0].addresses[0].clone();
    let mut load = Load::new(nodes.client(1), VOLUME, 16, 1);
    nodes.run_until("a session with every copyset", |_| {
        load.turn();
        load.done.writes > 1000
    });
    load.settle(|| nodes.turn());
    let mut opened = 0;
    let mut refused = false;
    for client in 1..1024 {
        let name = uuid::Uuid::from_u128(0xfee1_0000 + client);
        let mut raw = Raw::connect(&address, PeerKind::Client, name, &mut || nodes.turn());
        for token in 1..=SESSIONS_OF_CLIENT_MAX as u64 {
            let open = request(RequestKind::OpenSession, spot(&nodes.plan.cluster, 0), token);
            match ask(&mut raw, &mut nodes, &open, None).status {
                ReplyStatus::Ok => opened += 1,
                status => {
                    assert_eq!(status, ReplyStatus::SessionsFull);
                    refused = true;
                }
            }
        }
        raw.vanish();
        if refused {
            break;
        }
    }
    assert!(refused, "{opened} sessions were opened and more could be");
    assert!(opened >= 64, "only {opened} sessions could be opened");
    let before = nodes.status(leader).shards[0].counters.checkpoints;
    nodes.run_until("three checkpoints", |nodes| {
        load.turn();
        nodes.status(leader).shards[0].counters.checkpoints >= before + 3
    });
    load.settle(|| nodes.turn());
}
