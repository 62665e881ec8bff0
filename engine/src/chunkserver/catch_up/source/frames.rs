//! The frames of a task, one function each: what they say, and the phase that follows.

use culvert_memory::Pages;
use zerocopy::IntoBytes;

use super::super::{WINDOW_FRAMES, plain_head};
use super::ending::{Ending, Stop};
use super::plan::{Manifest, Plan};
use super::sending::Sending;
use super::{Desk, Phase, Source};
use crate::ids::ChunkId;
use crate::network::{Class, Network, Placement, SendError};
use crate::wire::{
    CATCH_UP_BODY_BYTES, CHUNK_NAMES_MAX, CatchUpHead, CatchUpKind, ChunkName, emit_catch_up,
};

impl Source {
    pub(super) fn send_begin<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        let head = CatchUpHead { index_term: self.round.term, ..self.head(CatchUpKind::Begin) };
        let conf_state = std::mem::take(&mut self.round.conf_state);
        let sent = self.send(head, 0, &conf_state, &[], desk);
        self.round.conf_state = conf_state;
        sent?;
        self.manifest = Manifest::default();
        self.plan = Plan::default();
        self.phase = Phase::Listing(0);
        Ok(())
    }

    pub(super) fn send_list<N: Network>(
        &mut self,
        from: usize,
        desk: &mut Desk<'_, N>,
    ) -> Result<(), Stop> {
        let to = self.round.chunks.len().min(from + CHUNK_NAMES_MAX);
        let names: Vec<ChunkName> =
            self.round.chunks[from..to].iter().map(|chunk| chunk.0.into()).collect();
        let head = CatchUpHead {
            first: from == 0,
            last: to == self.round.chunks.len(),
            total: self.round.chunks.len() as u32,
            ..self.head(CatchUpKind::Retain)
        };
        self.send(head, names.len() as u16, names.as_bytes(), &[], desk)?;
        self.phase = if head.last { Phase::Asking(None) } else { Phase::Listing(to) };
        Ok(())
    }

    pub(super) fn ask<N: Network>(
        &mut self,
        after: Option<ChunkId>,
        desk: &mut Desk<'_, N>,
    ) -> Result<(), Stop> {
        let head = CatchUpHead {
            first: after.is_none(),
            chunk: after.unwrap_or_default(),
            ..self.head(CatchUpKind::List)
        };
        self.send(head, 0, &[], &[], desk)?;
        self.phase = Phase::Asked(after);
        Ok(())
    }

    pub(super) fn send_chunk<N: Network>(&mut self, desk: &mut Desk<'_, N>) -> Result<(), Stop> {
        if self.chunk.is_none() {
            let Some(work) = self.plan.front() else {
                self.phase = Phase::Settling;
                return Ok(());
            };
            let opened = Sending::open(work, self.round.index, desk)?;
            self.plan.pop_front();
            self.chunk = opened;
        }
        let Some(mut chunk) = self.chunk.take() else { return Ok(()) };
        let sent = self.send_blocks(&mut chunk, desk);
        if sent == Ok(true) {
            chunk.close(desk);
        } else {
            self.chunk = Some(chunk);
        }
        sent.map(drop)
    }

    /// Sends a frame of a chunk. Returns whether it was the last.
    fn send_blocks<N: Network>(
        &mut self,
        chunk: &mut Sending,
        desk: &mut Desk<'_, N>,
    ) -> Result<bool, Stop> {
        chunk.read_ahead(self.whom.task, desk)?;
        if !desk.throttle.is_open() || !self.has_window() {
            return Err(Stop::Wait);
        }
        let mut batch = chunk.batch(desk)?;
        let head = CatchUpHead {
            first: chunk.first,
            last: batch.last,
            index: chunk.as_of,
            chunk: chunk.summary.key.chunk,
            birth: chunk.summary.birth,
            applied: chunk.summary.applied,
            since: chunk.since,
            ..self.head(CatchUpKind::Chunk)
        };
        let count = batch.items.len() as u16;
        if let Err(stop) = self.send(head, count, batch.bytes(), &batch.payloads, desk) {
            batch.cancel(desk);
            return Err(stop);
        }
        chunk.sent(&batch);
        let bytes = batch.payload_bytes();
        desk.throttle.take(bytes);
        desk.counters.catch_up_bytes_sent += bytes;
        self.blocks_sent += u64::from(count);
        self.bytes_sent += bytes;
        Ok(batch.last)
    }

    pub(super) fn send_state<N: Network>(
        &mut self,
        from: usize,
        desk: &mut Desk<'_, N>,
    ) -> Result<(), Stop> {
        let state = std::mem::take(&mut self.round.state);
        let to = state.len().min(from + CATCH_UP_BODY_BYTES);
        let head = CatchUpHead {
            first: from == 0,
            last: to == state.len(),
            index_term: self.round.term,
            total: state.len() as u32,
            ..self.head(CatchUpKind::State)
        };
        let sent = self.send(head, 0, &state[from..to], &[], desk);
        self.round.state = state;
        sent?;
        self.phase = if head.last { Phase::Confirming } else { Phase::State(to) };
        Ok(())
    }

    fn head(&self, kind: CatchUpKind) -> CatchUpHead {
        let head = plain_head(kind, &self.whom, self.sent + 1);
        CatchUpHead { index: self.round.index, ..head }
    }

    /// Whether every frame was answered.
    pub(super) fn is_idle(&self) -> bool {
        self.sent == self.answered
    }

    fn has_window(&self) -> bool {
        self.sent - self.answered < WINDOW_FRAMES
    }

    fn send<N: Network>(
        &mut self,
        head: CatchUpHead,
        count: u16,
        body: &[u8],
        payloads: &[(Placement, Pages)],
        desk: &mut Desk<'_, N>,
    ) -> Result<(), Stop> {
        if !self.has_window() {
            return Err(Stop::Wait);
        }
        let frame = emit_catch_up(&head, count, body, desk.frame);
        match desk.network.send(self.connection, Class::Data, frame, payloads) {
            Ok(()) => {}
            Err(SendError::Full) => return Err(Stop::Blocked),
            Err(_closed) => return Err(Stop::End(Ending::Closed)),
        }
        if self.is_idle() {
            self.heard_ns = desk.now_ns;
        }
        self.sent += 1;
        Ok(())
    }
}
