//! Answers to clients: kept in order per connection, and never behind another connection's.

use std::collections::VecDeque;

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
}

impl QueuedReply {
    pub fn new(connection: ConnectionId, token: u64, status: ReplyStatus) -> QueuedReply {
        QueuedReply { connection, token, status, value: 0, index: 0, write_taken_ns: None }
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
    /// Its queue was full; answers wait in `backlog` until it is writable.
    blocked: bool,
    backlog: VecDeque<QueuedReply>,
    /// The status text it reads in pieces.
    text: String,
}

/// See the module's documentation.
pub(super) struct Replies {
    queue: VecDeque<QueuedReply>,
    /// By the connection's slot.
    clients: Vec<Option<Client>>,
    frame: Box<[u8; FRAME_BYTES_MAX]>,
    /// Pieces of status text to send: connection, token, offset.
    texts: VecDeque<(ConnectionId, u64, u32)>,
}

impl Default for Replies {
    fn default() -> Self {
        Replies {
            queue: VecDeque::with_capacity(1024),
            clients: Vec::new(),
            frame: Box::new([0; FRAME_BYTES_MAX]),
            texts: VecDeque::new(),
        }
    }
}

impl Replies {
    pub fn push(&mut self, reply: QueuedReply) {
        self.queue.push_back(reply);
    }

    pub fn connected(&mut self, connection: ConnectionId, identity: Identity) {
        let slot = connection.slot() as usize;
        if self.clients.len() <= slot {
            self.clients.resize_with(slot + 1, || None);
        }
        self.clients[slot] = Some(Client {
            connection,
            identity,
            blocked: false,
            backlog: VecDeque::new(),
            text: String::new(),
        });
    }

    pub fn writable(&mut self, connection: ConnectionId) {
        if let Some(client) = self.client(connection) {
            client.blocked = false;
            let backlog = std::mem::take(&mut client.backlog);
            self.queue.extend(backlog);
        }
    }

    pub fn closed(&mut self, connection: ConnectionId) {
        if self.client(connection).is_some() {
            self.clients[connection.slot() as usize] = None;
        }
    }

    fn client(&mut self, connection: ConnectionId) -> Option<&mut Client> {
        let client = self.clients.get_mut(connection.slot() as usize)?.as_mut()?;
        (client.connection == connection).then_some(client)
    }

    /// Who is behind a client's connection.
    pub fn identity(&mut self, connection: ConnectionId) -> Option<Identity> {
        self.client(connection).map(|client| client.identity)
    }

    /// Connected clients.
    pub fn clients(&self) -> impl Iterator<Item = (ConnectionId, Identity)> + '_ {
        self.clients.iter().flatten().map(|client| (client.connection, client.identity))
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.texts.is_empty()
    }

    /// Keeps `text` for the client and queues the piece at `offset`; an empty `text` keeps the old.
    pub fn text(
        &mut self,
        connection: ConnectionId,
        token: u64,
        offset: u32,
        text: Option<String>,
    ) {
        if let (Some(client), Some(text)) = (self.client(connection), text) {
            client.text = text;
        }
        self.texts.push_back((connection, token, offset));
    }

    /// Sends what can be sent.
    pub fn send<N: Network>(
        &mut self,
        network: &mut N,
        counters: &mut Counters,
        stages: &mut Stages,
    ) {
        while let Some(queued) = self.queue.pop_front() {
            let Some(client) = self.client(queued.connection) else { continue };
            if client.blocked {
                client.backlog.push_back(queued);
                continue;
            }
            let reply = Reply {
                value: queued.value,
                index: queued.index,
                ..Reply::new(queued.status, queued.token)
            };
            let frame = reply.emit(&mut self.frame[..]);
            match network.send(queued.connection, Class::Data, frame, &[]) {
                Ok(()) => {
                    counters.replies_sent += 1;
                    if let Some(taken_ns) = queued.write_taken_ns {
                        stages.note(Stage::WriteReply, taken_ns, 1);
                    }
                }
                Err(SendError::Full) => self.block(queued),
                Err(_closed) => {}
            }
        }
        while let Some((connection, token, offset)) = self.texts.pop_front() {
            self.send_text(network, connection, token, offset);
        }
    }

    fn block(&mut self, queued: QueuedReply) {
        if let Some(client) = self.client(queued.connection) {
            client.blocked = true;
            client.backlog.push_back(queued);
        }
    }

    fn send_text<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        token: u64,
        offset: u32,
    ) {
        let Some(client) = self.client(connection) else { return };
        let text = std::mem::take(&mut client.text);
        let start = (offset as usize).min(text.len());
        let end = (start + BLOCK_SIZE).min(text.len());
        let reply = Reply {
            value: text.len() as u64,
            trailing: &text.as_bytes()[start..end],
            ..Reply::new(ReplyStatus::Ok, token)
        };
        // A piece that finds no room is lost; the client asks again after its timeout.
        let _refused = network.send(connection, Class::Data, reply.emit(&mut self.frame[..]), &[]);
        if let Some(client) = self.client(connection) {
            client.text = text;
        }
    }
}
