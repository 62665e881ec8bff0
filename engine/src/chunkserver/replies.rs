//! Answers to clients: kept in order per connection, and never behind another connection's.
//!
//! Every request takes a slot of its connection when it comes in and gives it back when its answer
//! was handed to the network. So what waits here for a client that does not read has a bound, and
//! a client that goes past it loses its connection.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::copyset::{Refusal, ResultCode};
use crate::counters::Counters;
use crate::ids::BLOCK_SIZE;
use crate::network::{Class, ConnectionId, Identity, Network, SendError};
use crate::stages::{Stage, Stages};
use crate::wire::{FRAME_BYTES_MAX, Reply, ReplyStatus};

/// An answer without payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedReply {
    pub connection: ConnectionId,
    pub token: u64,
    pub status: ReplyStatus,
    pub value: u64,
    pub index: u64,
    /// When the write that it answers was taken off the wire; `None` for all other answers.
    pub write_taken_ns: Option<u64>,
    /// It carries the client's status text from this byte on.
    pub text_from: Option<u32>,
}

impl QueuedReply {
    pub fn new(connection: ConnectionId, token: u64, status: ReplyStatus) -> QueuedReply {
        QueuedReply {
            connection,
            token,
            status,
            value: 0,
            index: 0,
            write_taken_ns: None,
            text_from: None,
        }
    }
}

/// The reply status of an applied entry.
pub(super) fn status_of(result: ResultCode) -> ReplyStatus {
    match result {
        ResultCode::Ok => ReplyStatus::Ok,
        ResultCode::Fenced => ReplyStatus::Fenced,
        ResultCode::NoSession => ReplyStatus::NoSession,
        ResultCode::BelowWindow => ReplyStatus::BelowWindow,
        ResultCode::NoSpace => ReplyStatus::NoSpace,
        ResultCode::OutOfRange => ReplyStatus::OutOfRange,
        ResultCode::SessionsFull => ReplyStatus::SessionsFull,
    }
}

/// The reply status of a request that is not proposed, and the reply's value.
pub(super) fn status_of_refusal(refusal: Refusal) -> (ReplyStatus, u64) {
    match refusal {
        Refusal::NoSession => (ReplyStatus::NoSession, 0),
        Refusal::BelowWindow => (ReplyStatus::BelowWindow, 0),
        Refusal::Fenced { current } => (ReplyStatus::Fenced, current.0),
        Refusal::NoSpace => (ReplyStatus::NoSpace, 0),
        Refusal::OutOfRange => (ReplyStatus::OutOfRange, 0),
        Refusal::SessionsFull => (ReplyStatus::SessionsFull, 0),
    }
}

/// A client's connection.
struct Client {
    connection: ConnectionId,
    identity: Identity,
    /// Over what it is connected.
    scheme: &'static str,
    /// Requests that were taken in and not answered.
    owed: u32,
    /// Its queue was full; answers wait in `backlog` until it is writable.
    blocked: bool,
    backlog: VecDeque<QueuedReply>,
    /// The status text it reads in pieces.
    text: Option<Rc<str>>,
    /// It has asked for a new one in this turn.
    asks: bool,
}

/// See the module's documentation. No queue here is longer than the requests that are owed.
pub(super) struct Replies {
    queue: VecDeque<QueuedReply>,
    /// By the connection's slot.
    clients: Vec<Option<Client>>,
    /// Requests of one connection without an answer, at most.
    requests_max: u32,
    /// Whether a client asks for a status text.
    asked: bool,
    frame: Box<[u8; FRAME_BYTES_MAX]>,
}

impl Replies {
    pub fn new(requests_max: u32) -> Replies {
        Replies {
            queue: VecDeque::with_capacity(1024),
            clients: Vec::new(),
            requests_max,
            asked: false,
            frame: Box::new([0; FRAME_BYTES_MAX]),
        }
    }

    /// Reserves the answer of a request; `false` where its connection has no slot left.
    pub fn reserve(&mut self, connection: ConnectionId) -> bool {
        let requests_max = self.requests_max;
        let Some(client) = self.client(connection) else { return false };
        if client.owed >= requests_max {
            return false;
        }
        client.owed += 1;
        true
    }

    /// An answer was handed to the network, or cannot be any more.
    pub fn answered(&mut self, connection: ConnectionId) {
        if let Some(client) = self.client(connection) {
            debug_assert!(client.owed > 0, "every answer was reserved");
            client.owed -= 1;
        }
    }

    pub fn push(&mut self, reply: QueuedReply) {
        self.queue.push_back(reply);
    }

    pub fn connected(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
        scheme: &'static str,
    ) {
        let slot = connection.slot() as usize;
        if self.clients.len() <= slot {
            self.clients.resize_with(slot + 1, || None);
        }
        self.clients[slot] = Some(Client {
            connection,
            identity,
            scheme,
            owed: 0,
            blocked: false,
            backlog: VecDeque::new(),
            text: None,
            asks: false,
        });
    }

    /// Answers may find room again. Returns whether the connection is a client's.
    pub fn writable(&mut self, connection: ConnectionId) -> bool {
        let slot = connection.slot() as usize;
        let Some(Some(client)) = self.clients.get_mut(slot) else { return false };
        if client.connection != connection {
            return false;
        }
        client.blocked = false;
        self.queue.extend(client.backlog.drain(..));
        true
    }

    /// A connection is gone. Returns whether it was a client's.
    pub fn closed(&mut self, connection: ConnectionId) -> bool {
        let known = self.client(connection).is_some();
        if known {
            self.clients[connection.slot() as usize] = None;
        }
        known
    }

    fn client(&mut self, connection: ConnectionId) -> Option<&mut Client> {
        let client = self.clients.get_mut(connection.slot() as usize)?.as_mut()?;
        (client.connection == connection).then_some(client)
    }

    /// Who is behind a client's connection.
    pub fn identity(&mut self, connection: ConnectionId) -> Option<Identity> {
        self.client(connection).map(|client| client.identity)
    }

    /// Over what each connected client is connected.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.clients.iter().flatten().map(|client| client.scheme)
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Queues the piece of the client's status text at `offset`; 0 asks for a new text, which is
    /// made once for all who ask in the turn.
    pub fn text(&mut self, connection: ConnectionId, token: u64, offset: u32) {
        if offset == 0
            && let Some(client) = self.client(connection)
        {
            client.asks = true;
            self.asked = true;
        }
        let reply = QueuedReply::new(connection, token, ReplyStatus::Ok);
        self.push(QueuedReply { text_from: Some(offset), ..reply });
    }

    /// Whether somebody asks for a status text.
    pub fn wants_text(&self) -> bool {
        self.asked
    }

    /// Gives it to those who ask.
    pub fn set_text(&mut self, text: &Rc<str>) {
        self.asked = false;
        for client in self.clients.iter_mut().flatten().filter(|client| client.asks) {
            client.asks = false;
            client.text = Some(text.clone());
        }
    }

    /// Sends what can be sent.
    pub fn send<N: Network>(
        &mut self,
        network: &mut N,
        counters: &mut Counters,
        stages: &mut Stages,
    ) {
        while let Some(queued) = self.queue.pop_front() {
            let slot = queued.connection.slot() as usize;
            let Some(Some(client)) = self.clients.get_mut(slot) else { continue };
            if client.connection != queued.connection {
                continue;
            }
            if client.blocked {
                client.backlog.push_back(queued);
                continue;
            }
            let text = client.text.as_deref().unwrap_or_default();
            let reply = reply_of(&queued, text);
            let frame = reply.emit(&mut self.frame[..]);
            match network.send(queued.connection, Class::Data, frame, &[]) {
                Err(SendError::Full) => {
                    client.blocked = true;
                    client.backlog.push_back(queued);
                    continue;
                }
                Ok(()) => {
                    counters.replies_sent += 1;
                    if let Some(taken_ns) = queued.write_taken_ns {
                        stages.note(Stage::WriteReply, taken_ns, 1);
                    }
                }
                Err(_closed) => {}
            }
            client.owed -= 1;
        }
    }
}

/// The frame of an answer; `text` is the status text that its client reads.
fn reply_of<'a>(queued: &QueuedReply, text: &'a str) -> Reply<'a> {
    let reply = Reply {
        value: queued.value,
        index: queued.index,
        ..Reply::new(queued.status, queued.token)
    };
    let Some(from) = queued.text_from else { return reply };
    let start = (from as usize).min(text.len());
    let end = (start + BLOCK_SIZE).min(text.len());
    Reply { value: text.len() as u64, trailing: &text.as_bytes()[start..end], ..reply }
}
