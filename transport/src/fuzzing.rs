//! The parsers of this crate, for `fuzz/` alone: they are private, and no other build has this.

use std::rc::Rc;

use uuid::Uuid;
use zerocopy::IntoBytes;

use crate::envelope::{Kind, Record, WireGrant, WirePlacedGrant};
use crate::handshake::message::{HELLO_BYTES as HELLO, Hello, Introduction, WirePlace};
use crate::handshake::proof::Role;
use crate::handshake::state::{Handshake, Step};
use crate::shm::notice::Notice;
use crate::{Identity, PeerKind, WindowMode};

/// Bytes of the first message of a peer.
pub const HELLO_BYTES: usize = HELLO;

const RECORD_BYTES_MAX: usize = 4096;

/// Looks at bytes as records that follow each other on a connection.
///
/// # Panics
///
/// Here and below, where what was parsed contradicts itself.
pub fn envelope(mut bytes: &[u8]) {
    while let Ok(record) = Record::parse(bytes, RECORD_BYTES_MAX) {
        assert!(record.padded <= bytes.len());
        assert!(record.body.len() <= RECORD_BYTES_MAX);
        assert_eq!(record.placements().count(), record.payloads());
        for place in record.placements().flatten() {
            assert!(place.pages() > 0);
        }
        if record.kind == Kind::Credits
            && let Ok(runs) = record.credits()
        {
            runs.for_each(drop);
        }
        if matches!(record.kind, Kind::Want | Kind::Grant | Kind::Taken) {
            // Any two numbers are a grant; whoever takes it compares it with the window.
            let _grant = WireGrant::parse(record.body);
            let _placed = WirePlacedGrant::parse(record.body);
        }
        bytes = &bytes[record.padded..];
    }
}

/// Looks at bytes as a message on the socket beside shared memory.
pub fn notice(bytes: &[u8]) {
    if let Ok(notice) = Notice::parse(bytes) {
        assert_eq!(Notice::parse(notice.emit().as_bytes()), Ok(notice));
    }
}

/// Looks at bytes as the private data of a connection request over RDMA, as they come and with their
/// first bytes put right.
pub fn short_hello(bytes: &[u8]) {
    let mut right = bytes.to_vec();
    if let Some(head) = right.first_chunk_mut() {
        *head = *b"CLVT\x01\0";
    }
    for bytes in [bytes, &right] {
        let Ok(hello) = Hello::lengthen(bytes) else { continue };
        if let Ok(introduction) = hello.introduction() {
            let short = hello.shorten();
            let again = Hello::lengthen(short.as_bytes()).expect("a Hello of our own");
            assert_eq!(again.introduction(), Ok(introduction));
        }
    }
}

/// Leads one side of a handshake to its end, with `said` for all that the peer says.
pub fn handshake(acceptor: bool, keyed: bool, mut said: &[u8]) {
    let mut side = side(acceptor, keyed);
    loop {
        let expected = side.expected_bytes();
        let Some((message, rest)) = said.split_at_checked(expected) else {
            // What has come of a message is looked at before the rest is there.
            let _stop = side.check_beginning(said);
            return;
        };
        said = rest;
        let Ok(step) = side.receive(message) else { return };
        let peer = side.peer().expect("it has introduced itself");
        assert_eq!(peer.keyed, keyed);
        let window_pages_max = peer.window_pages_max;
        match step {
            Step::Reply(_) => {}
            Step::Prepare => {
                side.confirm(8, WirePlace::default());
                if acceptor {
                    return;
                }
            }
            Step::Done => {
                assert!(side.peer_window_pages() <= window_pages_max);
                return;
            }
        }
    }
}

/// What an honest peer says to the side that [`handshake`] leads.
#[must_use]
pub fn right_answers(acceptor: bool, keyed: bool) -> Vec<u8> {
    let mut us = side(acceptor, keyed);
    let mut peer = side(!acceptor, keyed);
    let (first, second) = if acceptor { (&mut peer, &mut us) } else { (&mut us, &mut peer) };
    let Ok(Step::Reply(reply)) = second.receive(first.hello().as_bytes()) else {
        return Vec::new();
    };
    let hello = if acceptor { *first.hello() } else { reply };
    // Both sides are at the same point now: the connector confirms, then the acceptor.
    let _prepare = first.receive(reply.as_bytes());
    let connector = first.confirm(8, WirePlace::default());
    let _prepare = second.receive(connector.as_bytes());
    let confirm = if acceptor { connector } else { second.confirm(8, WirePlace::default()) };
    [hello.as_bytes(), confirm.as_bytes()].concat()
}

fn side(acceptor: bool, keyed: bool) -> Handshake {
    let (role, nonce) = if acceptor { (Role::Acceptor, 1) } else { (Role::Connector, 2) };
    let key = keyed.then(|| Rc::from(&b"a key of sixteen"[..]));
    Handshake::new(role, introduction(keyed), key, [nonce; 32])
}

fn introduction(keyed: bool) -> Introduction {
    Introduction {
        identity: Identity { node: Uuid::from_u128(1), kind: PeerKind::Client, endpoint: 3 },
        window_mode: WindowMode::Named,
        keyed,
        frame_bytes_max: 8192,
        data_queue_bytes: 65536,
        control_queue_bytes: 8192,
        window_pages_max: 1024,
    }
}
