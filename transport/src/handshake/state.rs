//! The course of a handshake on one side.

use std::rc::Rc;

use zerocopy::FromBytes;

use crate::handshake::message::{
    CONFIRM_BYTES, Confirm, HELLO_BYTES, Hello, Introduction, PREAMBLE_BYTES, Preamble, WirePlace,
};
use crate::handshake::proof::{Role, Transcript, prove, verify};
use crate::{CloseReason, Refusal};

/// The key, shared by the handshakes of one transport.
pub(crate) type Key = Option<Rc<[u8]>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitHello,
    AwaitConfirm,
    /// The driver prepares our window, and then asks for our Confirm.
    Prepare,
    Done,
}

/// One side of a handshake.
pub(crate) struct Handshake {
    role: Role,
    phase: Phase,
    me: Introduction,
    key: Key,
    mine: Hello,
    theirs: Option<Hello>,
    peer: Option<Introduction>,
    peer_window_pages: u32,
    peer_place: WirePlace,
}

/// What a message led to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this and wait for the next message.
    Reply(Hello),
    /// Prepare our window, then send [`Handshake::confirm`].
    Prepare,
    /// The connection stands.
    Done,
}

/// A handshake that has come to nothing.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) reason: CloseReason,
    /// What to tell the peer, as the message it expects.
    pub(crate) reply: Option<Farewell>,
}

/// The last message to a peer that is refused: of the kind that it expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    Hello(Refusal),
    Confirm(Refusal),
}

impl Handshake {
    pub(crate) fn new(role: Role, me: Introduction, key: Key, nonce: [u8; 32]) -> Self {
        let mine = Hello::new(&me, nonce);
        Self {
            role,
            phase: Phase::AwaitHello,
            me,
            key,
            mine,
            theirs: None,
            peer: None,
            peer_window_pages: 0,
            peer_place: WirePlace::default(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The Hello that the connector begins with.
    pub(crate) fn hello(&self) -> &Hello {
        &self.mine
    }

    /// Bytes of the message expected next; 0 when it is our turn.
    pub(crate) fn expected_bytes(&self) -> usize {
        match self.phase {
            Phase::AwaitHello => HELLO_BYTES,
            Phase::AwaitConfirm => CONFIRM_BYTES,
            Phase::Prepare | Phase::Done => 0,
        }
    }

    /// Whether the peer has said who it is.
    pub(crate) fn peer(&self) -> Option<&Introduction> {
        self.peer.as_ref()
    }

    /// Pages of the first segment of the peer's window.
    pub(crate) fn peer_window_pages(&self) -> u32 {
        self.peer_window_pages
    }

    /// Where that segment is, over RDMA.
    pub(crate) fn peer_place(&self) -> WirePlace {
        self.peer_place
    }

    /// Looks at the beginning of a message of which not all may have come in.
    pub(crate) fn check_beginning(&self, bytes: &[u8]) -> Result<(), Stop> {
        let Some(preamble) = bytes.first_chunk::<PREAMBLE_BYTES>() else { return Ok(()) };
        match Preamble::parse(preamble) {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => {
                Err(Stop { reason: CloseReason::RefusedByPeer(refusal), reply: None })
            }
            Err(refusal) => Err(self.refuse(refusal)),
        }
    }

    /// Takes a message of [`Handshake::expected_bytes`] bytes.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        debug_assert_eq!(bytes.len(), self.expected_bytes());
        self.check_beginning(bytes)?;
        match self.phase {
            Phase::AwaitHello => self.receive_hello(bytes),
            Phase::AwaitConfirm => self.receive_confirm(bytes),
            Phase::Prepare | Phase::Done => Err(self.refuse(Refusal::Malformed)),
        }
    }

    /// Our Confirm, with the pages of our window's first segment and where that is.
    pub(crate) fn confirm(&mut self, window_pages: u32, place: WirePlace) -> Confirm {
        debug_assert_eq!(self.phase, Phase::Prepare);
        let proof = match (&self.key, self.transcript()) {
            (Some(key), Some(transcript)) => prove(key, self.role, &transcript, window_pages),
            _ => [0; 32],
        };
        self.phase = match self.role {
            Role::Connector => Phase::AwaitConfirm,
            Role::Acceptor => Phase::Done,
        };
        Confirm::new(window_pages, place, proof)
    }

    /// The end for a reason found here.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Stop {
        let reply = match (refusal, self.role, self.theirs) {
            (Refusal::NotThisProtocol, ..) => None,
            // The peer that waits for a Confirm gets one, the other a Hello.
            (_, Role::Acceptor, None) => Some(Farewell::Hello(refusal)),
            _ => Some(Farewell::Confirm(refusal)),
        };
        Stop { reason: CloseReason::RefusedHere(refusal), reply }
    }

    fn receive_hello(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let hello = Hello::read_from_bytes(bytes).map_err(|_| self.refuse(Refusal::Malformed))?;
        let peer = hello.introduction().map_err(|refusal| self.refuse(refusal))?;
        match (self.me.keyed, peer.keyed) {
            (true, false) => return Err(self.refuse(Refusal::KeyRequired)),
            (false, true) => return Err(self.refuse(Refusal::KeyUnknown)),
            _ => {}
        }
        self.theirs = Some(hello);
        self.peer = Some(peer);
        match self.role {
            Role::Connector => {
                self.phase = Phase::Prepare;
                Ok(Step::Prepare)
            }
            Role::Acceptor => {
                self.phase = Phase::AwaitConfirm;
                Ok(Step::Reply(self.mine))
            }
        }
    }

    fn receive_confirm(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let confirm =
            Confirm::read_from_bytes(bytes).map_err(|_| self.refuse(Refusal::Malformed))?;
        let (window_pages, place, proof) =
            confirm.content().map_err(|refusal| self.refuse(refusal))?;
        if self.peer.is_none_or(|peer| window_pages > peer.window_pages_max) {
            return Err(self.refuse(Refusal::Malformed));
        }
        if let (Some(key), Some(transcript)) = (&self.key, self.transcript())
            && !verify(key, self.role.other(), &transcript, window_pages, &proof)
        {
            return Err(self.refuse(Refusal::WrongKey));
        }
        self.peer_window_pages = window_pages;
        self.peer_place = place;
        match self.role {
            Role::Connector => {
                self.phase = Phase::Done;
                Ok(Step::Done)
            }
            Role::Acceptor => {
                self.phase = Phase::Prepare;
                Ok(Step::Prepare)
            }
        }
    }

    fn transcript(&self) -> Option<Transcript> {
        let theirs = self.theirs?;
        Some(match self.role {
            Role::Connector => Transcript { connector: self.mine, acceptor: theirs },
            Role::Acceptor => Transcript { connector: theirs, acceptor: self.mine },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::message::tests::introduction;
    use zerocopy::IntoBytes;

    fn side(role: Role, key: Option<&[u8]>, nonce: u8) -> Handshake {
        let me = Introduction { keyed: key.is_some(), ..introduction() };
        Handshake::new(role, me, key.map(Rc::from), [nonce; 32])
    }

    /// Runs both sides against each other; the reasons for which they stopped.
    fn run(
        connector: Option<&[u8]>,
        acceptor: Option<&[u8]>,
    ) -> (Option<CloseReason>, Option<CloseReason>) {
        let mut c = side(Role::Connector, connector, 1);
        let mut a = side(Role::Acceptor, acceptor, 2);
        let reply = match a.receive(c.hello().as_bytes()) {
            Ok(Step::Reply(hello)) => hello,
            Ok(step) => panic!("{step:?}"),
            Err(stop) => return (farewell(&mut c, &stop), Some(stop.reason)),
        };
        match c.receive(reply.as_bytes()) {
            Ok(step) => assert!(matches!(step, Step::Prepare)),
            Err(stop) => return (Some(stop.reason), farewell(&mut a, &stop)),
        }
        match a.receive(c.confirm(8, WirePlace::default()).as_bytes()) {
            Ok(step) => assert!(matches!(step, Step::Prepare)),
            Err(stop) => return (farewell(&mut c, &stop), Some(stop.reason)),
        }
        match c.receive(a.confirm(9, WirePlace::default()).as_bytes()) {
            Ok(step) => assert!(matches!(step, Step::Done)),
            Err(stop) => return (Some(stop.reason), None),
        }
        assert_eq!((c.peer_window_pages(), a.peer_window_pages()), (9, 8));
        (None, None)
    }

    fn farewell(side: &mut Handshake, stop: &Stop) -> Option<CloseReason> {
        let bytes = match stop.reply.as_ref()? {
            Farewell::Hello(refusal) => Hello::refusal(*refusal).as_bytes().to_vec(),
            Farewell::Confirm(refusal) => Confirm::refusal(*refusal).as_bytes().to_vec(),
        };
        assert_eq!(bytes.len(), side.expected_bytes(), "a refusal comes as the message expected");
        Some(side.receive(&bytes).expect_err("a refusal").reason)
    }

    fn both(refusal: Refusal) -> (Option<CloseReason>, Option<CloseReason>) {
        (Some(CloseReason::RefusedByPeer(refusal)), Some(CloseReason::RefusedHere(refusal)))
    }

    #[test]
    fn equal_keys_meet() {
        assert_eq!(run(None, None), (None, None));
        assert_eq!(run(Some(b"key"), Some(b"key")), (None, None));
    }

    #[test]
    fn unequal_keys_do_not() {
        assert_eq!(run(Some(b"key"), Some(b"other")), both(Refusal::WrongKey));
        assert_eq!(run(None, Some(b"key")), both(Refusal::KeyRequired));
        assert_eq!(run(Some(b"key"), None), both(Refusal::KeyUnknown));
    }

    #[test]
    fn the_acceptor_must_prove_the_key_too() {
        let mut c = side(Role::Connector, Some(b"key"), 1);
        let mut a = side(Role::Acceptor, Some(b"guess"), 2);
        let Ok(Step::Reply(hello)) = a.receive(c.hello().as_bytes()) else { panic!("a Hello") };
        c.receive(hello.as_bytes()).expect("keyed");
        c.confirm(8, WirePlace::default());
        a.phase = Phase::Prepare;
        let stop =
            c.receive(a.confirm(8, WirePlace::default()).as_bytes()).expect_err("not the key");
        assert_eq!(stop.reason, CloseReason::RefusedHere(Refusal::WrongKey));
    }

    #[test]
    fn a_reflected_proof_is_refused() {
        let mut c = side(Role::Connector, Some(b"key"), 1);
        // The attacker sends everything back that the connector sends.
        let hello = *c.hello();
        c.receive(hello.as_bytes()).expect("a Hello like any other");
        let confirm = c.confirm(8, WirePlace::default());
        assert!(c.receive(confirm.as_bytes()).is_err());
    }

    #[test]
    fn garbage_is_seen_from_its_first_bytes() {
        let a = side(Role::Acceptor, None, 2);
        assert!(a.check_beginning(b"GET /").is_ok());
        let stop = a.check_beginning(b"GET / HTTP/1.1").expect_err("not ours");
        assert_eq!(stop.reason, CloseReason::RefusedHere(Refusal::NotThisProtocol));
        assert!(stop.reply.is_none());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, HELLO_BYTES)) {
            let mut a = side(Role::Acceptor, None, 2);
            let mut hello = a.hello().as_bytes().to_vec();
            hello[12..].copy_from_slice(&bytes[12..]);
            let _ = a.receive(&hello);
            let _ = side(Role::Acceptor, None, 2).receive(&bytes);
        }
    }
}
