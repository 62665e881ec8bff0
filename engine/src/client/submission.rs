//! Taking operations and splitting them into pieces.

use culvert_memory::SlotId;

use super::config::SUBMISSION_BLOCKS_MAX;
use super::core::{Core, OperationSlot};
use super::operation::{Operation, OperationKind, Refusal, Refused};
use super::piece::{PieceIndex, PieceKind, PieceState};
use super::route::{Lane, RouteIndex};
use crate::cluster::Part;
use crate::ids::{BLOCK_SIZE, BlockRange, Epoch, OPERATION_BLOCKS_MAX};

impl Core {
    /// Takes an operation; it starts with the next turn.
    pub(super) fn submit(&mut self, operation: Operation, token: u64) -> Result<(), Refused> {
        match self.admit(&operation, token) {
            Ok(()) => {
                self.statistics.submitted += 1;
                Ok(())
            }
            Err(reason) => Err(Refused { operation, reason }),
        }
    }

    fn admit(&mut self, operation: &Operation, token: u64) -> Result<(), Refusal> {
        if self.ends {
            return Err(Refusal::Closed);
        }
        let handle = operation.volume();
        let volume = self.volumes.get(handle.index as usize).ok_or(Refusal::OutOfRange)?;
        let layout = volume.layout;
        if let Operation::Fence { copyset, epoch, .. } = operation {
            let route = volume.routes.get(*copyset as usize).ok_or(Refusal::OutOfRange)?;
            return self.admit_fence(*route, *epoch, token);
        }
        let (offset, blocks) = operation.range();
        let kind = operation.kind();
        let end = offset.checked_add(blocks).filter(|end| *end <= layout.blocks());
        let Some(end) = end.filter(|_| blocks > 0) else { return Err(Refusal::OutOfRange) };
        let whole_chunks = matches!(kind, OperationKind::Discard | OperationKind::Delete);
        let blocks_max = match whole_chunks {
            true => handle.discard_blocks_max(),
            false => u64::from(SUBMISSION_BLOCKS_MAX),
        };
        if blocks > blocks_max {
            return Err(Refusal::TooLarge);
        }
        let set_begins = |at: u64| at.is_multiple_of(handle.set_blocks());
        let whole_sets = set_begins(offset) && (set_begins(end) || end == layout.blocks());
        if kind == OperationKind::Delete && !whole_sets {
            return Err(Refusal::NotWholeSets);
        }
        let parts = || Parts::new(whole_chunks, layout, offset, blocks);
        // Splitting is arithmetic only, so it is done once to count and once to do.
        let wanted = parts().count() as u32;
        if self.operations.is_full() || self.pieces.vacant_count() < wanted {
            return Err(Refusal::Full);
        }
        let slot =
            OperationSlot { token, kind, first: None, open: wanted, executed: false, error: None };
        let id = self.operations.insert(slot).expect("looked at before");
        let mut last: Option<PieceIndex> = None;
        for part in parts() {
            let index = self.add_piece(id, operation, &part, offset);
            match last {
                None => self.operations.get_mut(id).expect("just inserted").first = Some(index),
                Some(last) => self.pieces[last].sibling = Some(index),
            }
            last = Some(index);
        }
        self.fresh.push(id);
        Ok(())
    }

    /// One piece without blocks.
    fn admit_fence(&mut self, route: RouteIndex, epoch: Epoch, token: u64) -> Result<(), Refusal> {
        if self.operations.is_full() || self.pieces.vacant_count() == 0 {
            return Err(Refusal::Full);
        }
        let index = self.pieces.acquire().expect("looked at before");
        let kind = OperationKind::Fence;
        let slot = OperationSlot {
            token,
            kind,
            first: Some(index),
            open: 1,
            executed: false,
            error: None,
        };
        let id = self.operations.insert(slot).expect("looked at before");
        let piece = &mut self.pieces[index];
        piece.reset(PieceKind::Fence, route);
        piece.operation = Some(id);
        piece.range = BlockRange::default();
        piece.epoch = epoch;
        self.fresh.push(id);
        Ok(())
    }

    fn add_piece(
        &mut self,
        id: SlotId,
        operation: &Operation,
        part: &Part,
        start: u64,
    ) -> PieceIndex {
        let volume = &self.volumes[operation.volume().index as usize];
        let route = volume.routes[part.copyset as usize];
        let index = self.pieces.acquire().expect("counted before");
        let piece = &mut self.pieces[index];
        let kind = match operation {
            Operation::Write { .. } => PieceKind::Write,
            Operation::Read { .. } => PieceKind::Read,
            Operation::Discard { .. } => PieceKind::Discard,
            Operation::Delete { .. } => PieceKind::Delete,
            Operation::Fence { .. } => unreachable!("has no parts"),
        };
        piece.reset(kind, route);
        piece.operation = Some(id);
        piece.chunk = part.chunk;
        piece.range = part.range;
        piece.offset = part.offset;
        if let Operation::Write { pages, .. } = operation {
            let pages = pages.slice((part.offset - start) as u32, part.range.blocks);
            for block in 0..part.range.blocks as usize {
                piece.crcs[block] = pages.crc32c(block * BLOCK_SIZE, BLOCK_SIZE).to_le_bytes();
            }
            piece.pages = Some(pages);
        }
        index
    }

    /// Starts the operations taken since the last turn; whether there were any.
    pub(super) fn start_fresh(&mut self) -> bool {
        let any = !self.fresh.is_empty();
        let deadline_ns = self.now_ns.saturating_add(self.settings.request_timeout_ns);
        let mut fresh = std::mem::take(&mut self.fresh);
        for id in fresh.drain(..) {
            let mut next = self.operations.get(id).expect("taken and not started").first;
            while let Some(index) = next {
                let piece = &mut self.pieces[index];
                next = piece.sibling;
                piece.deadline_ns = deadline_ns;
                piece.state = PieceState::Queued;
                let (route, lane) = (piece.route, lane_of(piece.kind));
                let queue = &mut self.routes[route.0 as usize].queues[lane as usize];
                self.pieces.push_back(queue, index);
                self.list(route, lane);
            }
            self.timer.note(deadline_ns);
        }
        self.fresh = fresh;
        any
    }
}

/// The lane in which a piece waits.
pub(super) fn lane_of(kind: PieceKind) -> Lane {
    match kind {
        // A fence goes without a session: who raises the epoch may hold one too old to open any.
        PieceKind::Read | PieceKind::Fence => Lane::Reads,
        PieceKind::Write
        | PieceKind::Discard
        | PieceKind::Delete
        | PieceKind::OpenSession
        | PieceKind::CloseSession => Lane::Changes,
    }
}

/// The parts of an operation: by stripes and 32 blocks, or by chunks.
enum Parts<S, C> {
    Stripes(S),
    Chunks(C),
}

impl Parts<(), ()> {
    fn new(
        whole_chunks: bool,
        layout: crate::cluster::VolumeLayout,
        offset: u64,
        blocks: u64,
    ) -> Parts<impl Iterator<Item = Part>, impl Iterator<Item = Part>> {
        if whole_chunks {
            Parts::Chunks(layout.chunk_parts(offset, blocks))
        } else {
            Parts::Stripes(layout.parts(offset, blocks, OPERATION_BLOCKS_MAX))
        }
    }
}

impl<S: Iterator<Item = Part>, C: Iterator<Item = Part>> Iterator for Parts<S, C> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        match self {
            Parts::Stripes(parts) => parts.next(),
            Parts::Chunks(parts) => parts.next(),
        }
    }
}
