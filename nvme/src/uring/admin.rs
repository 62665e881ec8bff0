#![allow(unsafe_code)]
//! Admin commands through the kernel's NVMe driver: `include/uapi/linux/nvme_ioctl.h`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::target::UringError;
use crate::status::Status;
use crate::submission_entry::{NamespaceId, admin_opcode, feature};

/// `_IO('N', 0x40)`: the number of the namespace.
const GET_ID: libc::Ioctl = 0x4e40;
/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const ADMIN: libc::Ioctl = 0xc048_4e41_u32 as libc::Ioctl;

/// `struct nvme_passthru_cmd`, and `struct nvme_uring_cmd` but for its last field.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct PassedCommand {
    pub(super) opcode: u8,
    pub(super) flags: u8,
    pub(super) reserved: u16,
    pub(super) namespace: u32,
    pub(super) dwords_2: [u32; 2],
    pub(super) metadata: u64,
    pub(super) address: u64,
    pub(super) metadata_bytes: u32,
    pub(super) bytes: u32,
    pub(super) dwords_10: [u32; 6],
    /// 0: what the driver allows.
    pub(super) timeout_ms: u32,
    pub(super) result: u32,
}

const _: () = assert!(size_of::<PassedCommand>() == 72);

/// The namespace that a character device stands for.
pub(super) fn namespace_id(file: &File) -> Result<NamespaceId, UringError> {
    // SAFETY: the call has no argument.
    let id = unsafe { libc::ioctl(file.as_raw_fd(), GET_ID) };
    if id <= 0 { Err(refused()) } else { Ok(NamespaceId(id as u32)) }
}

/// One structure of Identify.
pub(super) fn identify<T: FromBytes + IntoBytes + Immutable>(
    file: &File,
    structure: u8,
    namespace: NamespaceId,
) -> Result<Box<T>, UringError> {
    const { assert!(size_of::<T>() == 4096) };
    let mut data = Box::new(T::new_zeroed());
    let mut command = PassedCommand {
        opcode: admin_opcode::IDENTIFY,
        namespace: namespace.0,
        address: std::ptr::from_mut(&mut *data) as u64,
        bytes: size_of::<T>() as u32,
        ..PassedCommand::default()
    };
    command.dwords_10[0] = structure.into();
    run(file, &mut command)?;
    Ok(data)
}

/// Whether the volatile write cache, which the controller has, is switched on.
pub(super) fn is_cache_enabled(file: &File) -> Result<bool, UringError> {
    let mut command =
        PassedCommand { opcode: admin_opcode::GET_FEATURES, ..PassedCommand::default() };
    command.dwords_10[0] = feature::VOLATILE_WRITE_CACHE.into();
    run(file, &mut command)?;
    Ok(command.result & 1 != 0)
}

fn run(file: &File, command: &mut PassedCommand) -> Result<(), UringError> {
    // SAFETY: the structure is the one that the header names; the memory that it points at, if any, is
    // borrowed by the caller, has the length it says, and may hold any bytes.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), ADMIN, std::ptr::from_mut(command)) };
    match status {
        0 => Ok(()),
        status if status > 0 => {
            Err(UringError::Admin { opcode: command.opcode, status: Status(status as u16) })
        }
        _ => Err(refused()),
    }
}

fn refused() -> UringError {
    UringError::AdminRefused(io::Error::last_os_error())
}
