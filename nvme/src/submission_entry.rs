//! Submission queue entries: the 64 bytes that tell a controller what to do.
//!
//! Layout: NVM Express Base Specification 2.0, section 3.3.3.1, figure 86 (common command format);
//! the command dwords of reads, writes and their kin are those of the NVM Command Set
//! Specification 1.0, section 3.2. Fused commands and SGLs are not used; metadata only where a
//! namespace insists on some.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::contract::{Lba, LbaRange};
use crate::prp::PrpPair;

/// Identifier of a command that is in flight on one queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u16);

/// Identifier of a namespace; 0 is "none", `0xffff_ffff` is "all".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceId(pub u32);

impl NamespaceId {
    /// For commands that concern no namespace.
    pub const NONE: NamespaceId = NamespaceId(0);
    /// For commands that concern every namespace.
    pub const ALL: NamespaceId = NamespaceId(0xffff_ffff);
}

/// Opcodes of the NVM command set (NVM Command Set Specification 1.0, figure 21).
pub mod io_opcode {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Opcodes of admin commands (Base Specification 2.0, figure 138).
pub mod admin_opcode {
    /// Delete I/O Submission Queue.
    pub const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
    /// Create I/O Submission Queue.
    pub const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue.
    pub const DELETE_COMPLETION_QUEUE: u8 = 0x04;
    /// Create I/O Completion Queue.
    pub const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub const ASYNCHRONOUS_EVENT_REQUEST: u8 = 0x0c;
}

/// Feature identifiers (Base Specification 2.0, figure 317).
pub mod feature {
    /// Volatile Write Cache, section 5.27.1.4.
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues, section 5.27.1.5.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Asynchronous Event Configuration, section 5.27.1.8.
    pub const ASYNCHRONOUS_EVENTS: u8 = 0x0b;
}

/// Dword 12, bit 30, of Write and Write Zeroes: Force Unit Access.
pub(crate) const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// Dword 12, bit 25, of Write Zeroes: Deallocate.
pub(crate) const WRITE_ZEROES_DEALLOCATE: u32 = 1 << 25;
/// Dword 11, bit 2, of Dataset Management: Attribute - Deallocate.
pub(crate) const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
/// Bits 15:14 of dword 0: PRP or SGL for data transfer.
const PSDT_MASK: u8 = 0xc0;
/// Bits 9:8 of dword 0: fused operation.
const FUSE_MASK: u8 = 0x03;

/// One entry of a submission queue: 64 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct SubmissionEntry {
    /// Dword 0, bits 7:0: what to do.
    pub opcode: u8,
    /// Dword 0, bits 15:8: fused operation (bits 1:0) and PSDT (bits 7:6); always zero here.
    pub flags: u8,
    /// Dword 0, bits 31:16: name of the command while it is in flight.
    pub command_id: U16,
    /// Dword 1: namespace.
    pub namespace_id: U32,
    /// Dword 2: command specific.
    pub dword2: U32,
    /// Dword 3: command specific.
    pub dword3: U32,
    /// Dwords 4 and 5: metadata pointer.
    pub metadata: U64,
    /// Dwords 6 and 7: PRP entry 1.
    pub prp1: U64,
    /// Dwords 8 and 9: PRP entry 2.
    pub prp2: U64,
    /// Dword 10: command specific.
    pub dword10: U32,
    /// Dword 11: command specific.
    pub dword11: U32,
    /// Dword 12: command specific.
    pub dword12: U32,
    /// Dword 13: command specific.
    pub dword13: U32,
    /// Dword 14: command specific.
    pub dword14: U32,
    /// Dword 15: command specific.
    pub dword15: U32,
}

const _: () = assert!(size_of::<SubmissionEntry>() == 64);
const _: () = assert!(align_of::<SubmissionEntry>() == 64);

impl SubmissionEntry {
    /// An entry without data and with all command dwords zero.
    pub const fn new(opcode: u8, command_id: CommandId, namespace_id: NamespaceId) -> Self {
        SubmissionEntry {
            opcode,
            flags: 0,
            command_id: U16::new(command_id.0),
            namespace_id: U32::new(namespace_id.0),
            dword2: U32::ZERO,
            dword3: U32::ZERO,
            metadata: U64::ZERO,
            prp1: U64::ZERO,
            prp2: U64::ZERO,
            dword10: U32::ZERO,
            dword11: U32::ZERO,
            dword12: U32::ZERO,
            dword13: U32::ZERO,
            dword14: U32::ZERO,
            dword15: U32::ZERO,
        }
    }

    /// Read: `blocks` logical blocks, not zero, from `lba` into `data`.
    pub fn read(id: CommandId, namespace: NamespaceId, range: LbaRange, data: PrpPair) -> Self {
        let mut entry = Self::new(io_opcode::READ, id, namespace);
        entry.set_prps(data);
        entry.set_range(range);
        entry
    }

    /// Write: `blocks` logical blocks, not zero, from `data` to `lba`.
    pub fn write(
        id: CommandId,
        namespace: NamespaceId,
        range: LbaRange,
        data: PrpPair,
        fua: bool,
    ) -> Self {
        let mut entry = Self::new(io_opcode::WRITE, id, namespace);
        entry.set_prps(data);
        entry.set_range(range);
        if fua {
            entry.dword12 |= U32::new(FORCE_UNIT_ACCESS);
        }
        entry
    }

    /// Flush of one namespace.
    pub const fn flush(id: CommandId, namespace: NamespaceId) -> Self {
        Self::new(io_opcode::FLUSH, id, namespace)
    }

    /// Write Zeroes, with the hint that the blocks may be deallocated.
    pub fn write_zeroes(
        id: CommandId,
        namespace: NamespaceId,
        range: LbaRange,
        deallocate: bool,
    ) -> Self {
        let mut entry = Self::new(io_opcode::WRITE_ZEROES, id, namespace);
        entry.set_range(range);
        if deallocate {
            entry.dword12 |= U32::new(WRITE_ZEROES_DEALLOCATE);
        }
        entry
    }

    /// Dataset Management, deallocate: `ranges` entries of [`DatasetRange`] lie in `data`.
    pub fn deallocate(id: CommandId, namespace: NamespaceId, ranges: u8, data: PrpPair) -> Self {
        debug_assert!(ranges > 0, "the number of ranges is zero-based");
        let mut entry = Self::new(io_opcode::DATASET_MANAGEMENT, id, namespace);
        entry.set_prps(data);
        entry.dword10 = U32::new(u32::from(ranges) - 1);
        entry.dword11 = U32::new(ATTRIBUTE_DEALLOCATE);
        entry
    }

    /// Sets both PRP entries.
    pub fn set_prps(&mut self, data: PrpPair) {
        self.prp1 = U64::new(data.prp1);
        self.prp2 = U64::new(data.prp2);
    }

    /// Both PRP entries.
    pub fn prps(&self) -> PrpPair {
        PrpPair { prp1: self.prp1.get(), prp2: self.prp2.get() }
    }

    /// Starting LBA in dwords 10 and 11, number of blocks, zero-based, in dword 12, bits 15:0.
    fn set_range(&mut self, range: LbaRange) {
        debug_assert!(range.blocks > 0, "the number of blocks is zero-based");
        debug_assert!(range.blocks <= 1 << 16, "the number of blocks has 16 bits");
        self.dword10 = U32::new(range.start.0 as u32);
        self.dword11 = U32::new((range.start.0 >> 32) as u32);
        self.dword12 = U32::new((range.blocks - 1) & 0xffff);
    }

    /// The range of a read, write or write zeroes.
    pub fn range(&self) -> LbaRange {
        LbaRange {
            start: Lba(u64::from(self.dword11.get()) << 32 | u64::from(self.dword10.get())),
            blocks: (self.dword12.get() & 0xffff) + 1,
        }
    }

    /// Whether the command asks for fused operation or SGLs.
    pub(crate) fn wants_more_than_prps(&self) -> bool {
        self.flags & (PSDT_MASK | FUSE_MASK) != 0
    }
}

/// One range of a dataset management command: 16 bytes (NVM Command Set Specification 1.0,
/// section 3.2.3, figure 40).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DatasetRange {
    /// Context attributes; hints that nobody here gives.
    pub attributes: U32,
    /// Length in logical blocks, not zero-based.
    pub blocks: U32,
    /// First logical block.
    pub start: U64,
}

const _: () = assert!(size_of::<DatasetRange>() == 16);

impl From<LbaRange> for DatasetRange {
    fn from(range: LbaRange) -> Self {
        DatasetRange {
            attributes: U32::ZERO,
            blocks: U32::new(range.blocks),
            start: U64::new(range.start.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: CommandId = CommandId(0x1234);
    const NAMESPACE: NamespaceId = NamespaceId(1);
    const RANGE: LbaRange = LbaRange { start: Lba(0x0102_0304_0506_0708), blocks: 8 };
    const DATA: PrpPair = PrpPair { prp1: 0x1122_3344_5566_7000, prp2: 0x8899_aabb_ccdd_e000 };

    /// The first 12 bytes, which are alike but for the opcode, and zeroes up to 64.
    fn expected(opcode: u8) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&[opcode, 0, 0x34, 0x12, 1, 0, 0, 0]);
        bytes
    }

    fn with_data(mut bytes: [u8; 64]) -> [u8; 64] {
        bytes[24..32].copy_from_slice(&[0x00, 0x70, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        bytes[32..40].copy_from_slice(&[0x00, 0xe0, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88]);
        bytes
    }

    fn with_range(mut bytes: [u8; 64], upper_dword12: u8) -> [u8; 64] {
        bytes[40..48].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        bytes[48..52].copy_from_slice(&[7, 0, 0, upper_dword12]);
        bytes
    }

    #[test]
    fn read_is_byte_exact() {
        let entry = SubmissionEntry::read(ID, NAMESPACE, RANGE, DATA);
        assert_eq!(entry.as_bytes(), with_range(with_data(expected(0x02)), 0));
        assert_eq!(entry.range(), RANGE);
        assert_eq!(entry.prps(), DATA);
    }

    #[test]
    fn write_is_byte_exact() {
        let entry = SubmissionEntry::write(ID, NAMESPACE, RANGE, DATA, false);
        assert_eq!(entry.as_bytes(), with_range(with_data(expected(0x01)), 0));
        let fua = SubmissionEntry::write(ID, NAMESPACE, RANGE, DATA, true);
        assert_eq!(fua.as_bytes(), with_range(with_data(expected(0x01)), 0x40));
        assert_eq!(fua.range(), RANGE);
    }

    #[test]
    fn flush_is_byte_exact() {
        let entry = SubmissionEntry::flush(ID, NAMESPACE);
        assert_eq!(entry.as_bytes(), expected(0x00));
    }

    #[test]
    fn write_zeroes_is_byte_exact() {
        let keep = SubmissionEntry::write_zeroes(ID, NAMESPACE, RANGE, false);
        assert_eq!(keep.as_bytes(), with_range(expected(0x08), 0));
        let deallocate = SubmissionEntry::write_zeroes(ID, NAMESPACE, RANGE, true);
        assert_eq!(deallocate.as_bytes(), with_range(expected(0x08), 0x02));
    }

    #[test]
    fn deallocate_is_byte_exact() {
        let entry = SubmissionEntry::deallocate(ID, NAMESPACE, 16, DATA);
        let mut bytes = with_data(expected(0x09));
        bytes[40] = 15;
        bytes[44] = 4;
        assert_eq!(entry.as_bytes(), bytes);

        let range = DatasetRange::from(RANGE);
        let expected = [0, 0, 0, 0, 8, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(range.as_bytes(), expected);
    }

    #[test]
    fn the_largest_transfer_has_all_ones() {
        let range = LbaRange { start: Lba(0), blocks: 1 << 16 };
        let entry = SubmissionEntry::read(ID, NAMESPACE, range, DATA);
        assert_eq!(entry.dword12.get(), 0xffff);
        assert_eq!(entry.range(), range);
    }
}
