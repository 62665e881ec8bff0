//! Requests of clients: what is refused, what is answered at once, what is proposed or read.

use super::copyset::Waiting;
use super::reading::QueuedRead;
use super::replies::{QueuedReply, status_of, status_of_refusal};
use super::{Chunkserver, Offence, RunningShard};
use crate::copyset::{self, Admission};
use crate::ids::{BLOCK_SIZE, BlockRange, OPERATION_BLOCKS_MAX};
use crate::journal::Space;
use crate::network::{ConnectionId, Payloads};
use crate::record::{Operation, Proposal, RECORD_BYTES_MAX};
use crate::wire::{ReplyStatus, Request, RequestKind};

/// A request that is not carried out, and what its client is told.
struct Refused(ReplyStatus, u64);

impl Chunkserver {
    /// Takes one request.
    pub(super) fn request(
        &mut self,
        connection: ConnectionId,
        request: &Request<'_>,
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let came: u32 = payloads.iter().map(culvert_memory::Buffer::pages).sum();
        let said = if request.kind == RequestKind::Write { request.range.blocks } else { 0 };
        if came != said || payloads.len() > 1 {
            return Err(Offence::Payload { said, came });
        }
        let outcome = match request.kind {
            RequestKind::Status => {
                self.replies.text(connection, request.token, request.range.first);
                Ok(())
            }
            RequestKind::Read => self.read_request(connection, request),
            RequestKind::Leader => self.leader_request(connection, request),
            _ => self.write_request(connection, request, payloads),
        };
        if let Err(Refused(status, value)) = outcome {
            self.counters.refused += 1;
            let mut reply = QueuedReply::new(connection, request.token, status);
            reply.value = value;
            self.replies.push(reply);
        }
        Ok(())
    }

    fn leader_request(
        &mut self,
        connection: ConnectionId,
        request: &Request<'_>,
    ) -> Result<(), Refused> {
        let group = &self.copysets[self.served(request)? as usize].group;
        self.replies.push(QueuedReply {
            value: group.leader().map_or(0, |leader| leader.0),
            index: group.term().0,
            ..QueuedReply::new(connection, request.token, ReplyStatus::Ok)
        });
        Ok(())
    }

    /// The position of a copyset that this replica serves.
    fn served(&self, request: &Request<'_>) -> Result<u32, Refused> {
        let position = self.position(request.copyset).ok_or(Refused(ReplyStatus::NoCopyset, 0))?;
        if !self.in_service(position) {
            return Err(Refused(ReplyStatus::DeviceFailed, 0));
        }
        Ok(position)
    }

    /// The position of a copyset that this replica leads and serves.
    fn led(&self, request: &Request<'_>) -> Result<u32, Refused> {
        let position = self.served(request)?;
        let group = &self.copysets[position as usize].group;
        if !group.is_leader() {
            return Err(Refused(ReplyStatus::NotLeader, group.leader().map_or(0, |id| id.0)));
        }
        Ok(position)
    }

    fn check_range(&self, range: BlockRange, blocks_max: u32) -> Result<(), Refused> {
        let end = range.first.checked_add(range.blocks);
        let inside = end.is_some_and(|end| end <= self.options.chunk_blocks);
        if range.blocks == 0 || range.blocks > blocks_max || !inside {
            return Err(Refused(ReplyStatus::OutOfRange, u64::from(self.options.chunk_blocks)));
        }
        Ok(())
    }

    fn read_request(
        &mut self,
        connection: ConnectionId,
        request: &Request<'_>,
    ) -> Result<(), Refused> {
        self.counters.reads += 1;
        let position = self.led(request)?;
        self.check_range(request.range, OPERATION_BLOCKS_MAX)?;
        let epoch = self.copysets[position as usize].state.epoch();
        if request.epoch < epoch {
            return Err(Refused(ReplyStatus::Fenced, epoch.0));
        }
        let read = QueuedRead {
            connection,
            token: request.token,
            position,
            shard: self.copysets[position as usize].shard as u32,
            confirmed: false,
            chunk: request.chunk,
            range: request.range,
            landing_page: request.landing_page,
            taken_ns: self.taken_ns,
        };
        if self.reads.lanes.push(read) { Ok(()) } else { Err(Refused(ReplyStatus::Busy, 0)) }
    }

    fn write_request(
        &mut self,
        connection: ConnectionId,
        request: &Request<'_>,
        payloads: &mut Payloads,
    ) -> Result<(), Refused> {
        let operation = match request.kind {
            RequestKind::Write => Operation::Write,
            RequestKind::Discard => Operation::Discard,
            RequestKind::Delete => Operation::Delete,
            RequestKind::OpenSession => Operation::OpenSession,
            RequestKind::Fence => Operation::Fence,
            RequestKind::CloseSession => Operation::ExpireSession,
            RequestKind::Read | RequestKind::Status | RequestKind::Leader => {
                return Err(Refused(ReplyStatus::Malformed, 0));
            }
        };
        let position = self.led(request)?;
        match operation {
            Operation::Write => {
                self.counters.writes += 1;
                self.check_range(request.range, OPERATION_BLOCKS_MAX)?;
                self.check_payload(request, payloads)?;
            }
            Operation::Discard => self.check_range(request.range, self.options.chunk_blocks)?,
            _ => self.counters.other_requests += 1,
        }
        let Some(charge) = self.admit(position, connection, request, operation)? else {
            return Ok(());
        };
        self.propose(position, connection, request, operation, charge, payloads)
    }

    fn check_payload(&mut self, request: &Request<'_>, payloads: &Payloads) -> Result<(), Refused> {
        for (block, crc) in request.crcs().enumerate() {
            if payloads[0].crc32c(block * BLOCK_SIZE, BLOCK_SIZE) != crc {
                self.counters.bad_payloads += 1;
                return Err(Refused(ReplyStatus::PayloadChecksum, block as u64));
            }
        }
        Ok(())
    }

    /// The charge of a request that is to be proposed; `None` where it was answered already.
    fn admit(
        &mut self,
        position: u32,
        connection: ConnectionId,
        request: &Request<'_>,
        operation: Operation,
    ) -> Result<Option<u32>, Refused> {
        let copyset = &mut self.copysets[position as usize];
        let RunningShard { shard, room, .. } = &self.shards[copyset.shard];
        // Replicated state is believed only once it is this leader's own.
        if !copyset.group.has_applied_own_term() {
            return Err(Refused(ReplyStatus::Busy, 0));
        }
        if shard.space() != Space::Normal {
            return Err(Refused(ReplyStatus::Busy, 0));
        }
        let blocks = if operation == Operation::Write { request.range.blocks } else { 0 };
        let spare = shard.store().spare_blocks();
        if blocks > 0 && spare < u64::from(blocks + self.options.reserve_blocks) {
            return Err(Refused(ReplyStatus::Busy, 0));
        }
        if operation == Operation::ExpireSession {
            let client = self.replies.identity(connection).map(|client| client.node.into_bytes());
            if client.is_none() || copyset.state.client(request.session) != client {
                return Err(Refused(ReplyStatus::NoSession, 0));
            }
        }
        copyset.state.touch(request.session, self.now_ns);
        let asked = copyset::Request {
            operation,
            chunk: request.chunk,
            range: request.range,
            epoch: request.epoch,
            session: request.session,
            request: request.request,
        };
        let no_room = operation == Operation::OpenSession
            && copyset.state.sessions_promised() >= room.sessions_max;
        match copyset.state.admit(&asked, shard.store()) {
            Admission::Fresh { .. } if no_room => {
                Err(Refused(status_of(copyset::ResultCode::SessionsFull), 0))
            }
            Admission::Fresh { charge } => Ok(Some(charge)),
            Admission::Repeated => {
                let status = status_of(copyset::ResultCode::Ok);
                self.replies.push(QueuedReply::new(connection, request.token, status));
                Ok(None)
            }
            Admission::Refused(refusal) => {
                let (status, value) = status_of_refusal(refusal);
                Err(Refused(status, value))
            }
        }
    }

    fn propose(
        &mut self,
        position: u32,
        connection: ConnectionId,
        request: &Request<'_>,
        operation: Operation,
        charge: u32,
        payloads: &mut Payloads,
    ) -> Result<(), Refused> {
        let mut crcs = [0; OPERATION_BLOCKS_MAX as usize];
        let mut count = 0;
        for (slot, crc) in crcs.iter_mut().zip(request.crcs()) {
            *slot = crc;
            count += 1;
        }
        let client = match operation {
            Operation::OpenSession => {
                let identity = self.replies.identity(connection);
                identity.ok_or(Refused(ReplyStatus::Malformed, 0))?.node.into_bytes()
            }
            _ => [0; 16],
        };
        let body: &[u8] = if operation == Operation::OpenSession { &client } else { &[] };
        let proposal = Proposal {
            operation,
            chunk: request.chunk,
            range: request.range,
            sequence: request.sequence,
            epoch: request.epoch,
            session: request.session,
            request: request.request,
            crcs: &crcs[..count],
            body,
        };
        let copyset = &mut self.copysets[position as usize];
        let blocks = if operation == Operation::Write { request.range.blocks } else { 0 };
        if !self.shards[copyset.shard].stage(RECORD_BYTES_MAX, blocks) {
            return Err(Refused(ReplyStatus::Busy, 0));
        }
        let payload = payloads.pop().map(culvert_memory::Buffer::freeze);
        let (index, term) = copyset.group.propose(&proposal, payload).map_err(|refused| {
            Refused(ReplyStatus::NotLeader, refused.hint.map_or(0, |hint| hint.0))
        })?;
        copyset.state.proposed(index, charge);
        if operation == Operation::OpenSession {
            copyset.state.opening(index);
        }
        let (token, taken_ns) = (request.token, self.taken_ns);
        copyset.waiting.push_back(Waiting { index, term, connection, token, taken_ns });
        self.mark_dirty(position);
        Ok(())
    }
}
