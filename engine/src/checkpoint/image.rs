//! What a checkpoint keeps of one copyset, while it is collected.

use super::section::{CopysetHead, SectionKind, section_head};
use crate::ids::{CopysetId, Extent, LogIndex, Term};
use crate::journal::{Entry, HardState, Item, ScrubNote, StatePart};
use crate::record::RecordView;

/// A sink for the state of one copyset. Recovery hands back what went in: the items as if the
/// journal had begun with them, the state byte for byte.
///
/// What must go in: the hard state, the configuration, the start of the log, every entry that is
/// not applied, and the state machine's own state as of the applied index. Applied entries may go
/// in too, for the sake of followers that are behind.
#[derive(Debug, Default)]
pub struct CopysetImage {
    copyset: CopysetId,
    items: Vec<u8>,
    state: Vec<u8>,
}

impl CopysetImage {
    /// Empties the image for another copyset; keeps its memory.
    pub(crate) fn begin(&mut self, copyset: CopysetId) {
        self.copyset = copyset;
        self.items.clear();
        self.state.clear();
    }

    /// The log begins behind this index, whose entry had this term.
    pub fn log_start(&mut self, index: LogIndex, term: Term) {
        Item::LogStart(self.copyset, index, term).emit(&mut self.items);
    }

    /// An entry of the log; in order.
    pub fn entry(
        &mut self,
        record: RecordView<'_>,
        extents: &[Extent],
        superseded_by: Option<LogIndex>,
    ) {
        debug_assert_eq!(record.copyset(), self.copyset);
        let entry = Entry { record, extents: extents.into(), superseded_by };
        Item::Entry(entry).emit(&mut self.items);
    }

    /// Raft's hard state.
    pub fn hard_state(&mut self, hard_state: HardState) {
        Item::HardState(self.copyset, hard_state).emit(&mut self.items);
    }

    /// Raft's configuration, in the composer's encoding.
    pub fn conf_state(&mut self, bytes: &[u8]) {
        Item::ConfState(self.copyset, bytes).emit(&mut self.items);
    }

    /// The newest catch-up mark, if a catch-up is not over.
    pub fn catch_up(&mut self, bytes: &[u8]) {
        Item::CatchUp(self.copyset, bytes).emit(&mut self.items);
    }

    /// The first bytes, of `total`, of a state that a catch-up is journalling part by part: the
    /// journal's parts from the checkpoint's position on continue them.
    pub fn partial_state(&mut self, total: u32, bytes: &[u8]) {
        let part = StatePart { total, offset: 0, bytes };
        Item::StatePart(self.copyset, part).emit(&mut self.items);
    }

    /// How far the scrub has come with the copyset.
    pub fn scrub(&mut self, note: &ScrubNote) {
        debug_assert_eq!(note.copyset, self.copyset);
        Item::ScrubNote(*note).emit(&mut self.items);
    }

    /// The composer's own state, appended to what was given before.
    pub fn state(&mut self) -> &mut Vec<u8> {
        &mut self.state
    }

    /// The section.
    pub(crate) fn emit(&self, head: &CopysetHead, out: &mut Vec<u8>) {
        assert_eq!(head.copyset, self.copyset, "an image belongs to its copyset");
        let before = out.len();
        out.extend_from_slice(&section_head(SectionKind::Copyset, 0));
        let body = out.len();
        head.emit(self.items.len(), out);
        out.extend_from_slice(&self.items);
        out.extend_from_slice(&self.state);
        let head = section_head(SectionKind::Copyset, out.len() - body);
        out[before..body].copy_from_slice(&head);
    }
}
