//! Command status: what a controller says about one command.
//!
//! A [`Status`] is the status field of a completion queue entry without its phase tag
//! (NVM Express Base Specification 2.0, section 3.3.3.2.1, figure 91): status code in bits 7:0,
//! status code type in bits 10:8, command retry delay in bits 12:11, "more" in bit 13 and "do not
//! retry" in bit 14. Backends without a controller (io_uring) translate their errors into the same
//! codes, so that the layers above know one vocabulary.
//!
//! Nothing here decides what to do about a failure; that is the owner's business.

use std::fmt;

/// Bit 14: the same command would fail again.
const DO_NOT_RETRY: u16 = 1 << 14;
/// Bit 13: the error log has more to say.
const MORE: u16 = 1 << 13;
/// Status code type and status code.
const CODE_MASK: u16 = 0x7ff;

/// Status field of a completion, without the phase tag.
///
/// The lower 11 bits are the number that data sheets print: `0x281` is status code type 2, status
/// code 81h, *Unrecovered Read Error*.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u16);

/// Status code type (NVM Express Base Specification 2.0, figure 92).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeType {
    /// 0h: success and errors of any command.
    Generic,
    /// 1h: errors of one command.
    CommandSpecific,
    /// 2h: the medium failed, or data do not have the integrity they should.
    MediaAndDataIntegrity,
    /// 3h: the way to the device failed.
    Path,
    /// 7h: the vendor's own.
    VendorSpecific,
    /// Anything else.
    Reserved(u8),
}

impl Status {
    /// 00h Successful Completion.
    pub const SUCCESS: Status = Status(0x000);
    /// 01h Invalid Command Opcode.
    pub const INVALID_OPCODE: Status = Status(0x001 | DO_NOT_RETRY);
    /// 02h Invalid Field in Command.
    pub const INVALID_FIELD: Status = Status(0x002 | DO_NOT_RETRY);
    /// 03h Command ID Conflict.
    pub const COMMAND_ID_CONFLICT: Status = Status(0x003 | DO_NOT_RETRY);
    /// 04h Data Transfer Error: data or metadata did not get across.
    pub const DATA_TRANSFER_ERROR: Status = Status(0x004);
    /// 06h Internal Error.
    pub const INTERNAL_ERROR: Status = Status(0x006);
    /// 07h Command Abort Requested.
    pub const ABORT_REQUESTED: Status = Status(0x007);
    /// 08h Command Aborted due to SQ Deletion.
    pub const ABORTED_BY_QUEUE_DELETION: Status = Status(0x008);
    /// 0Bh Invalid Namespace or Format.
    pub const INVALID_NAMESPACE: Status = Status(0x00b | DO_NOT_RETRY);
    /// 0Ch Command Sequence Error.
    pub const COMMAND_SEQUENCE_ERROR: Status = Status(0x00c | DO_NOT_RETRY);
    /// 13h PRP Offset Invalid.
    pub const INVALID_PRP_OFFSET: Status = Status(0x013 | DO_NOT_RETRY);
    /// 80h LBA Out of Range.
    pub const LBA_OUT_OF_RANGE: Status = Status(0x080 | DO_NOT_RETRY);
    /// 81h Capacity Exceeded: the host's file system behind a namespace is full.
    pub const CAPACITY_EXCEEDED: Status = Status(0x081 | DO_NOT_RETRY);
    /// 82h Namespace Not Ready.
    pub const NAMESPACE_NOT_READY: Status = Status(0x082);
    /// 100h Completion Queue Invalid (Create I/O Submission Queue).
    pub const COMPLETION_QUEUE_INVALID: Status = Status(0x100 | DO_NOT_RETRY);
    /// 101h Invalid Queue Identifier (queue creation and deletion).
    pub const INVALID_QUEUE_IDENTIFIER: Status = Status(0x101 | DO_NOT_RETRY);
    /// 102h Invalid Queue Size (queue creation).
    pub const INVALID_QUEUE_SIZE: Status = Status(0x102 | DO_NOT_RETRY);
    /// Asynchronous Event Request Limit Exceeded.
    pub const EVENT_REQUEST_LIMIT_EXCEEDED: Status = Status(0x105 | DO_NOT_RETRY);
    /// Invalid Log Page.
    pub const INVALID_LOG_PAGE: Status = Status(0x109 | DO_NOT_RETRY);
    /// 10Ch Invalid Queue Deletion: a completion queue before its submission queue.
    pub const INVALID_QUEUE_DELETION: Status = Status(0x10c | DO_NOT_RETRY);
    /// 280h Write Fault.
    pub const WRITE_FAULT: Status = Status(0x280);
    /// 281h Unrecovered Read Error.
    pub const UNRECOVERED_READ_ERROR: Status = Status(0x281);
    /// 282h End-to-end Guard Check Error.
    pub const GUARD_CHECK_ERROR: Status = Status(0x282);
    /// 286h Access Denied.
    pub const ACCESS_DENIED: Status = Status(0x286 | DO_NOT_RETRY);
    /// 370h Host Pathing Error: said by the host itself when the device has gone away.
    pub const HOST_PATHING_ERROR: Status = Status(0x370 | DO_NOT_RETRY);
    /// 371h Command Aborted By Host: said by the host itself after it reset the controller.
    pub const ABORTED_BY_HOST: Status = Status(0x371);

    /// Takes the status out of the upper half of dword 3 of a completion, phase tag in bit 0.
    pub const fn from_completion_field(field: u16) -> Status {
        Status(field >> 1)
    }

    /// The upper half of dword 3 of a completion with this status and phase tag.
    pub const fn to_completion_field(self, phase: bool) -> u16 {
        (self.0 << 1) | phase as u16
    }

    /// Whether the command succeeded. "More" and the retry hints do not matter for that.
    pub const fn is_success(self) -> bool {
        self.0 & CODE_MASK == 0
    }

    /// Status code type, bits 10:8.
    pub const fn code_type(self) -> CodeType {
        match (self.0 >> 8) & 0x7 {
            0 => CodeType::Generic,
            1 => CodeType::CommandSpecific,
            2 => CodeType::MediaAndDataIntegrity,
            3 => CodeType::Path,
            7 => CodeType::VendorSpecific,
            other => CodeType::Reserved(other as u8),
        }
    }

    /// Status code, bits 7:0; it means something only together with [`Status::code_type`].
    pub const fn code(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Whether the same command may succeed when it is sent again: failed, and "do not retry" is
    /// clear. That a controller allows a retry does not make one wise: a failed write or flush
    /// poisons the device until it has been recovered.
    pub const fn is_retryable(self) -> bool {
        !self.is_success() && self.0 & DO_NOT_RETRY == 0
    }

    /// Whether the host gave the command up because the device has gone away.
    pub const fn is_device_gone(self) -> bool {
        self.same_code(Status::HOST_PATHING_ERROR)
    }

    /// Whether type and code are equal, whatever the retry hints say.
    pub const fn same_code(self, other: Status) -> bool {
        self.0 & CODE_MASK == other.0 & CODE_MASK
    }

    /// The specification's name of type and code, where it has one.
    pub const fn name(self) -> Option<&'static str> {
        let name = match self.0 & CODE_MASK {
            0x000..=0x0ff => return generic_name(self.code()),
            0x100..=0x1ff => return command_specific_name(self.code()),
            0x200..=0x2ff => return media_name(self.code()),
            0x300 => "Internal Path Error",
            0x301 => "Asymmetric Access Persistent Loss",
            0x302 => "Asymmetric Access Inaccessible",
            0x303 => "Asymmetric Access Transition",
            0x360 => "Controller Pathing Error",
            0x370 => "Host Pathing Error",
            0x371 => "Command Aborted By Host",
            _ => return None,
        };
        Some(name)
    }
}

/// Generic command status, figure 94, and its NVM command set part (NVM Command Set Specification
/// 1.0, figure 17).
const fn generic_name(code: u8) -> Option<&'static str> {
    Some(match code {
        0x00 => "Successful Completion",
        0x01 => "Invalid Command Opcode",
        0x02 => "Invalid Field in Command",
        0x03 => "Command ID Conflict",
        0x04 => "Data Transfer Error",
        0x05 => "Commands Aborted due to Power Loss Notification",
        0x06 => "Internal Error",
        0x07 => "Command Abort Requested",
        0x08 => "Command Aborted due to SQ Deletion",
        0x09 => "Command Aborted due to Failed Fused Command",
        0x0a => "Command Aborted due to Missing Fused Command",
        0x0b => "Invalid Namespace or Format",
        0x0c => "Command Sequence Error",
        0x0d => "Invalid SGL Segment Descriptor",
        0x0e => "Invalid Number of SGL Descriptors",
        0x0f => "Data SGL Length Invalid",
        0x10 => "Metadata SGL Length Invalid",
        0x11 => "SGL Descriptor Type Invalid",
        0x12 => "Invalid Use of Controller Memory Buffer",
        0x13 => "PRP Offset Invalid",
        0x14 => "Atomic Write Unit Exceeded",
        0x15 => "Operation Denied",
        0x16 => "SGL Offset Invalid",
        0x18 => "Host Identifier Inconsistent Format",
        0x19 => "Keep Alive Timer Expired",
        0x1a => "Keep Alive Timeout Invalid",
        0x1b => "Command Aborted due to Preempt and Abort",
        0x1c => "Sanitize Failed",
        0x1d => "Sanitize In Progress",
        0x1e => "SGL Data Block Granularity Invalid",
        0x1f => "Command Not Supported for Queue in CMB",
        0x20 => "Namespace is Write Protected",
        0x21 => "Command Interrupted",
        0x22 => "Transient Transport Error",
        0x80 => "LBA Out of Range",
        0x81 => "Capacity Exceeded",
        0x82 => "Namespace Not Ready",
        0x83 => "Reservation Conflict",
        0x84 => "Format In Progress",
        _ => return None,
    })
}

/// Command specific status, figure 95, and its NVM command set part.
const fn command_specific_name(code: u8) -> Option<&'static str> {
    Some(match code {
        0x00 => "Completion Queue Invalid",
        0x01 => "Invalid Queue Identifier",
        0x02 => "Invalid Queue Size",
        0x03 => "Abort Command Limit Exceeded",
        0x05 => "Asynchronous Event Request Limit Exceeded",
        0x06 => "Invalid Firmware Slot",
        0x07 => "Invalid Firmware Image",
        0x08 => "Invalid Interrupt Vector",
        0x09 => "Invalid Log Page",
        0x0a => "Invalid Format",
        0x0b => "Firmware Activation Requires Conventional Reset",
        0x0c => "Invalid Queue Deletion",
        0x0d => "Feature Identifier Not Saveable",
        0x0e => "Feature Not Changeable",
        0x0f => "Feature Not Namespace Specific",
        0x80 => "Conflicting Attributes",
        0x81 => "Invalid Protection Information",
        0x82 => "Attempted Write to Read Only Range",
        _ => return None,
    })
}

/// Media and data integrity errors, figure 96.
const fn media_name(code: u8) -> Option<&'static str> {
    Some(match code {
        0x80 => "Write Fault",
        0x81 => "Unrecovered Read Error",
        0x82 => "End-to-end Guard Check Error",
        0x83 => "End-to-end Application Tag Check Error",
        0x84 => "End-to-end Reference Tag Check Error",
        0x85 => "Compare Failure",
        0x86 => "Access Denied",
        0x87 => "Deallocated or Unwritten Logical Block",
        0x88 => "End-to-end Storage Tag Check Error",
        _ => return None,
    })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{:?} status {:02x}h", self.code_type(), self.code())?,
        }
        write!(f, " ({:03x}h", self.0 & CODE_MASK)?;
        if self.0 & DO_NOT_RETRY != 0 {
            f.write_str(", do not retry")?;
        }
        if self.0 & MORE != 0 {
            f.write_str(", more in the error log")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#06x}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_field_of_a_completion() {
        // Unrecovered Read Error, do not retry, phase 1: bits 31:16 of dword 3.
        let status = Status::from_completion_field((0x4281 << 1) | 1);
        assert_eq!(status, Status(0x4281));
        assert_eq!(status.code_type(), CodeType::MediaAndDataIntegrity);
        assert_eq!(status.code(), 0x81);
        assert!(!status.is_success());
        assert!(!status.is_retryable());
        assert_eq!(status.to_completion_field(true), 0x8503);
        assert_eq!(status.to_completion_field(false), 0x8502);
    }

    #[test]
    fn success_ignores_the_hints() {
        assert!(Status(MORE).is_success());
        assert!(Status::SUCCESS.is_success());
        assert!(!Status::SUCCESS.is_retryable());
        assert!(Status::WRITE_FAULT.is_retryable());
    }

    #[test]
    fn prints_name_and_number() {
        assert_eq!(Status::LBA_OUT_OF_RANGE.to_string(), "LBA Out of Range (080h, do not retry)");
        assert_eq!(Status::UNRECOVERED_READ_ERROR.to_string(), "Unrecovered Read Error (281h)");
        assert_eq!(Status(0x7c0).to_string(), "VendorSpecific status c0h (7c0h)");
        assert_eq!(Status(0x4c5).to_string(), "Reserved(4) status c5h (4c5h)");
    }
}
