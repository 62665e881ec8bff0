//! Completion queue entries: the 16 bytes with which a controller answers.
//!
//! Layout: NVM Express Base Specification 2.0, section 3.3.3.2, figure 90. The entry is whole when
//! its phase tag has flipped, and the phase tag lies in the last of its four dwords: so dword 3 is
//! read first (with acquire) and written last (with release), and the rest in between.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::status::Status;
use crate::submission_entry::CommandId;

/// One entry of a completion queue: 16 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(16))]
pub struct CompletionEntry {
    /// Dword 0: command specific result.
    pub result: U32,
    /// Dword 1: command specific.
    pub dword1: U32,
    /// Dword 2, bits 15:0: entries of the submission queue that the controller has fetched, as the
    /// index of the next one. Fetched, not done.
    pub submission_head: U16,
    /// Dword 2, bits 31:16: submission queue that the command came from.
    pub submission_queue: U16,
    /// Dword 3, bits 15:0: the command.
    pub command_id: U16,
    /// Dword 3, bits 31:16: phase tag (bit 0) and status.
    pub status_and_phase: U16,
}

const _: () = assert!(size_of::<CompletionEntry>() == 16);
const _: () = assert!(align_of::<CompletionEntry>() == 16);

impl CompletionEntry {
    /// Dword 3 of an entry: command, status and phase tag.
    pub(crate) const fn dword3(command_id: CommandId, status: Status, phase: bool) -> u32 {
        command_id.0 as u32 | (status.to_completion_field(phase) as u32) << 16
    }

    /// Phase tag in a dword 3.
    pub(crate) const fn phase_of(dword3: u32) -> bool {
        dword3 & (1 << 16) != 0
    }

    /// The command.
    pub fn command_id(&self) -> CommandId {
        CommandId(self.command_id.get())
    }

    /// What became of it.
    pub fn status(&self) -> Status {
        Status::from_completion_field(self.status_and_phase.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_byte_exact() {
        let entry = CompletionEntry {
            result: U32::new(0x0403_0201),
            dword1: U32::ZERO,
            submission_head: U16::new(0x0605),
            submission_queue: U16::new(0x0007),
            command_id: U16::new(0x0908),
            status_and_phase: U16::new(Status(0x0281).to_completion_field(true)),
        };
        let bytes = [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 0, 8, 9, 0x03, 0x05];
        assert_eq!(entry.as_bytes(), bytes);

        let read = CompletionEntry::read_from_bytes(&bytes).expect("16 bytes");
        assert_eq!(read, entry);
        assert_eq!(read.command_id(), CommandId(0x0908));
        assert_eq!(read.status(), Status::UNRECOVERED_READ_ERROR);
    }

    #[test]
    fn dword3_is_what_lies_in_memory() {
        let dword3 = CompletionEntry::dword3(CommandId(0x0908), Status(0x0281), true);
        assert_eq!(dword3.to_le_bytes(), [8, 9, 0x03, 0x05]);
        assert!(CompletionEntry::phase_of(dword3));
        let flipped = CompletionEntry::dword3(CommandId(0xffff), Status(0x7fff), false);
        assert!(!CompletionEntry::phase_of(flipped));
    }
}
