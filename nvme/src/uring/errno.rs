//! Results of system calls as command status.
//!
//! The kernel's block layer translates the status of NVMe devices into errno values
//! (`block/blk-core.c`, `blk_errors`); this is the way back, as far as there is one. What does not
//! fit a code is *Internal Error*; nothing becomes success.

use rustix::io::Errno;

use crate::command_table::Kind;
use crate::status::Status;

/// Results from here to -1 are errno values.
const ERRNO_LAST: i32 = -4095;

/// The status of a request that the kernel ended with `result`, where `expected` bytes were to be
/// moved.
#[inline]
pub(super) fn status_of(kind: Kind, result: i32, expected: u32) -> Status {
    if result < 0 {
        return match result {
            ERRNO_LAST..0 => status_of_errno(kind, Errno::from_raw_os_error(-result)),
            _ => Status::INTERNAL_ERROR,
        };
    }
    let moves_bytes = matches!(kind, Kind::Read | Kind::Write);
    if moves_bytes && result as u32 != expected {
        // A short transfer: the file ended, or the kernel gave up in the middle.
        return Status::DATA_TRANSFER_ERROR;
    }
    Status::SUCCESS
}

/// The status that stands for `errno`.
#[cold]
fn status_of_errno(kind: Kind, errno: Errno) -> Status {
    match errno {
        Errno::IO | Errno::NODATA | Errno::UCLEAN => match kind {
            Kind::Read => Status::UNRECOVERED_READ_ERROR,
            Kind::Write | Kind::WriteZeroes => Status::WRITE_FAULT,
            Kind::Flush | Kind::Deallocate => Status::INTERNAL_ERROR,
        },
        Errno::ILSEQ => Status::GUARD_CHECK_ERROR,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Status::CAPACITY_EXCEEDED,
        Errno::INVAL => Status::INVALID_FIELD,
        Errno::FAULT => Status::DATA_TRANSFER_ERROR,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => Status::INVALID_OPCODE,
        Errno::PERM | Errno::ACCESS | Errno::ROFS | Errno::TXTBSY => Status::ACCESS_DENIED,
        Errno::NODEV | Errno::NXIO | Errno::BADF | Errno::SHUTDOWN => Status::HOST_PATHING_ERROR,
        Errno::CANCELED => Status::ABORT_REQUESTED,
        Errno::BUSY | Errno::AGAIN | Errno::INTR => Status::NAMESPACE_NOT_READY,
        _ => Status::INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_transfers_are_errors() {
        assert_eq!(status_of(Kind::Read, 4096, 4096), Status::SUCCESS);
        assert_eq!(status_of(Kind::Read, 512, 4096), Status::DATA_TRANSFER_ERROR);
        assert_eq!(status_of(Kind::Write, 0, 4096), Status::DATA_TRANSFER_ERROR);
        assert_eq!(status_of(Kind::Flush, 0, 0), Status::SUCCESS);
    }

    #[test]
    fn every_errno_is_an_error() {
        for errno in 1..=133 {
            for kind in [Kind::Read, Kind::Write, Kind::Flush, Kind::WriteZeroes, Kind::Deallocate]
            {
                assert!(!status_of(kind, -errno, 0).is_success(), "errno {errno}");
            }
        }
        let eio = Errno::IO.raw_os_error();
        assert_eq!(status_of(Kind::Read, -eio, 512), Status::UNRECOVERED_READ_ERROR);
        assert_eq!(status_of(Kind::Write, -eio, 512), Status::WRITE_FAULT);
        assert!(!status_of(Kind::Read, i32::MIN, 512).is_success());
    }
}
