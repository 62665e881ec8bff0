//! Reading a node's status: JSON, in pieces of one frame.
//!
//! One fetch at a time, of the control plane: it allocates and is not retried.

use super::config::STATUS_BYTES_MAX;
use super::core::Core;
use super::endpoint::EndpointId;
use crate::ids::{BlockRange, ChunkId, CopysetId, Epoch, RequestNumber, SessionId};
use crate::network::{Class, ConnectionId, Network, SendError};
use crate::wire::{Reply, ReplyStatus, Request, RequestKind};

/// The index in the tokens of status requests.
pub(super) const STATUS_INDEX: u32 = u32::MAX;

/// Why a status was not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// Caller: there is no such endpoint in the cluster file.
    #[error("there is no such endpoint in the cluster file")]
    UnknownEndpoint,
    /// Caller: another status is being fetched.
    #[error("another status is being fetched")]
    InProgress,
    /// Network: no connection, or no answer in time.
    #[error("the node cannot be reached or does not answer")]
    Unreachable,
    /// Server: it answers something else than its status.
    #[error("the node answers: {0}")]
    Refused(ReplyStatus),
    /// Server: what it sends is not text, too long, or does not fit together.
    #[error("the node's status is malformed")]
    Malformed,
}

/// A fetch under way, or its result.
#[derive(Debug)]
pub(super) struct StatusFetch {
    endpoint: EndpointId,
    text: Vec<u8>,
    /// The attempt on its way.
    awaited: Option<(ConnectionId, u32)>,
    /// Set at the first turn.
    deadline_ns: Option<u64>,
    result: Option<Result<String, StatusError>>,
}

impl Core {
    pub(super) fn start_status(&mut self, endpoint: EndpointId) -> Result<(), StatusError> {
        if endpoint.0 as usize >= self.endpoints.len() {
            return Err(StatusError::UnknownEndpoint);
        }
        if self.status.is_some() {
            return Err(StatusError::InProgress);
        }
        self.status = Some(StatusFetch {
            endpoint,
            text: Vec::new(),
            awaited: None,
            deadline_ns: None,
            result: None,
        });
        self.endpoint(endpoint).wanted = true;
        Ok(())
    }

    pub(super) fn take_status(&mut self) -> Option<Result<String, StatusError>> {
        let result = self.status.as_mut()?.result.take()?;
        self.status = None;
        Some(result)
    }

    /// Gives the fetch its time, with the first turn after it was asked for.
    pub(super) fn start_status_timer(&mut self) {
        let deadline_ns = self.now_ns.saturating_add(self.settings.request_timeout_ns);
        if let Some(fetch) = &mut self.status
            && fetch.deadline_ns.is_none()
        {
            fetch.deadline_ns = Some(deadline_ns);
            self.timer.note(deadline_ns);
        }
    }

    /// Asks for the next piece, if the endpoint is the one whose status is wanted.
    pub(super) fn dispatch_status<N: Network>(
        &mut self,
        network: &mut N,
        id: EndpointId,
        connection: ConnectionId,
    ) {
        let nonce = self.nonce.wrapping_add(1);
        let Some(fetch) = &mut self.status else { return };
        if fetch.endpoint != id || fetch.awaited.is_some() || fetch.result.is_some() {
            return;
        }
        let request = Request {
            kind: RequestKind::Status,
            token: u64::from(nonce) << 32 | u64::from(STATUS_INDEX),
            copyset: CopysetId(0),
            chunk: ChunkId(0),
            range: BlockRange { first: fetch.text.len() as u32, blocks: 0 },
            landing_page: 0,
            epoch: Epoch(0),
            session: SessionId(0),
            request: RequestNumber(0),
            sequence: 0,
            crcs: &[],
        };
        match network.send(connection, Class::Data, request.emit(&mut self.frame[..]), &[]) {
            Ok(()) => {
                fetch.awaited = Some((connection, nonce));
                self.nonce = nonce;
                self.statistics.requests += 1;
            }
            Err(SendError::Full | SendError::Closed) => {}
            Err(SendError::TooLarge | SendError::OutsideWindow) => {
                self.end_status(Err(StatusError::Unreachable));
            }
        }
    }

    pub(super) fn on_status_reply(
        &mut self,
        connection: ConnectionId,
        nonce: u32,
        reply: &Reply<'_>,
    ) {
        let Some(fetch) = &mut self.status else { return };
        if fetch.awaited != Some((connection, nonce)) {
            return;
        }
        fetch.awaited = None;
        if reply.status != ReplyStatus::Ok {
            return self.end_status(Err(StatusError::Refused(reply.status)));
        }
        let total = reply.value;
        fetch.text.extend_from_slice(reply.trailing);
        let length = fetch.text.len() as u64;
        if total > STATUS_BYTES_MAX
            || length > total
            || (reply.trailing.is_empty() && length < total)
        {
            return self.end_status(Err(StatusError::Malformed));
        }
        if length == total {
            let text = String::from_utf8(std::mem::take(&mut fetch.text));
            self.end_status(text.map_err(|_| StatusError::Malformed));
        }
    }

    /// A lost connection takes the snapshot with it: from the start again.
    pub(super) fn interrupt_status(&mut self, connection: ConnectionId) {
        if let Some(fetch) = &mut self.status
            && fetch.awaited.is_some_and(|(awaited, _)| awaited == connection)
        {
            fetch.awaited = None;
            fetch.text.clear();
        }
    }

    pub(super) fn expire_status(&mut self) {
        let Some(deadline_ns) = self.status.as_ref().and_then(|fetch| fetch.deadline_ns) else {
            return;
        };
        if deadline_ns <= self.now_ns {
            self.end_status(Err(StatusError::Unreachable));
        } else {
            self.timer.note(deadline_ns);
        }
    }

    fn end_status(&mut self, result: Result<String, StatusError>) {
        let Some(fetch) = &mut self.status else { return };
        if fetch.result.is_none() {
            fetch.result = Some(result);
            fetch.awaited = None;
            let endpoint = fetch.endpoint;
            self.endpoint(endpoint).wanted = false;
        }
    }
}
