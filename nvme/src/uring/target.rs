//! The file or block device behind an io_uring queue pair.
//!
//! Opened with `O_DIRECT`, so that the page cache is in nobody's way and in nobody's books. What
//! does not work is found here, once, and said clearly, and not as `EINVAL` of every later
//! request: file systems without direct I/O, blocks smaller than the device's, missing files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use culvert_memory::{Backing, Mapping, MappingError, MappingOptions, PAGE_SIZE};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::UringOptions;
use crate::claim::{self, Access, Holder, Refused};
use crate::identify::{AsciiField, GeometryError};
use crate::open::OpenError;
use crate::status::Status;

/// Bytes of a block where the URI names none.
const BLOCK_SIZE_DEFAULT: u32 = 4096;
const MODEL_FILE: &str = "file";
const MODEL_DEVICE: &str = "block device";

/// Why a file or block device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// Caller: there is no such file.
    #[error(
        "does not exist; `culvert format` creates it when the URI names a size, as in \
         uring:/path?size=1GiB"
    )]
    NotFound,
    /// Caller: nothing that can be used.
    #[error(
        "is neither a regular file, nor a block device, nor an NVMe namespace as a character device \
         (/dev/ngXnY)"
    )]
    Kind,
    /// Machine: opening failed.
    #[error("opening failed")]
    Open(#[source] io::Error),
    /// Machine: locking failed; its file system may not offer that.
    #[error("locking it failed")]
    Lock(#[source] io::Error),
    /// Caller: the file system does not offer direct I/O.
    #[error(
        "its file system refuses direct I/O (O_DIRECT); use a file on ext4, xfs or btrfs, a block \
         device, or for tests emulated:SIZE?file=PATH, which works on any file system"
    )]
    NoDirectIo,
    /// Caller: blocks smaller than what the device transfers directly.
    #[error("cannot transfer blocks of {block_size} bytes directly; try block=4096")]
    BlockSize {
        /// The size asked for.
        block_size: u32,
    },
    /// Caller: the file holds no block.
    #[error("has {bytes} bytes, not even one block; name a size, as in uring:/path?size=1GiB")]
    Empty {
        /// The size it has.
        bytes: u64,
    },
    /// Caller: a size was named for a device.
    #[error("is a device, whose size is not ours to set; leave size= out")]
    SizeOfDevice,
    /// Caller: the namespace has other blocks than the URI names.
    #[error("is formatted with blocks of {block_size} bytes; leave block= out")]
    Formatted {
        /// Bytes of its blocks.
        block_size: u32,
    },
    /// Caller: the namespace is formatted in a way that is not supported.
    #[error("its format is not supported")]
    Geometry(#[from] GeometryError),
    /// Caller: the namespace is formatted with metadata.
    #[error("its blocks carry {bytes} bytes of metadata, which only vfio: supports")]
    Metadata {
        /// Bytes of metadata of each block.
        bytes: u32,
    },
    /// Machine: the kernel passes no admin commands through.
    #[error("the kernel's NVMe driver passes no commands through (CAP_SYS_ADMIN is needed)")]
    AdminRefused(#[source] io::Error),
    /// Device: an admin command failed.
    #[error("admin command {opcode:#04x} failed: {status}")]
    Admin {
        /// Which.
        opcode: u8,
        /// How.
        status: Status,
    },
    /// Machine: polling would bring it down.
    #[error("polling passes commands through safely from Linux 6.5 on: leave polled= out")]
    PolledKernel,
    /// Machine: nothing to poll.
    #[error(
        "its driver has no queues that are polled: load the module nvme with poll_queues=N, or leave \
         polled= out"
    )]
    NoPollQueues,
    /// Caller: only NVMe namespaces are polled.
    #[error("is no NVMe namespace as a character device (/dev/ngXnY): leave polled= out")]
    Polled,
    /// Caller: the file has more bytes than the URI names; the rest would be out of reach.
    #[error("has {actual} bytes where the URI names {expected}; name its real size or none")]
    Larger {
        /// The size named.
        expected: u64,
        /// The size it has.
        actual: u64,
    },
    /// Machine: the file could not be brought to its size.
    #[error("allocating {bytes} bytes failed")]
    Allocate {
        /// The size asked for.
        bytes: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Machine: no memory for a first read.
    #[error("allocating memory failed")]
    Memory(#[from] MappingError),
    /// Machine: no io_uring.
    #[error(
        "io_uring is not available (see /proc/sys/kernel/io_uring_disabled; containers often \
         forbid it)"
    )]
    Unavailable(#[source] io::Error),
    /// Machine: the ring could not be set up.
    #[error("setting up io_uring failed")]
    Setup(#[source] io::Error),
}

/// What is read and written.
#[derive(Debug)]
pub(crate) struct Target {
    pub(super) file: File,
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    pub(super) is_block_device: bool,
    pub(super) volatile_write_cache: bool,
    pub(super) model: AsciiField<40>,
    pub(super) serial: AsciiField<20>,
}

impl Target {
    /// Opens and claims what `options` name, creating or extending a file when they name a size.
    pub(crate) fn open(options: &UringOptions, access: Access) -> Result<Target, OpenError> {
        let path = &options.path;
        let failed = |source| OpenError::Uring { path: path.clone(), source };
        let in_use = |holder| OpenError::InUse { path: path.clone(), holder };
        if options.polled {
            return Err(failed(UringError::Polled));
        }
        let kind = kind_of(options).map_err(failed)?;
        let file = open_direct(path, kind, access).map_err(|error| match error {
            UringError::Open(error) if is_busy(&error) => in_use(Holder::Exclusive),
            error => failed(error),
        })?;
        claim::lock(&file, access).map_err(|refused| match refused {
            Refused::InUse(holder) => in_use(holder),
            Refused::Failed(errno) => failed(UringError::Lock(errno.into())),
        })?;
        Target::new(file, options).map_err(failed)
    }

    /// A file that is claimed.
    fn new(file: File, options: &UringOptions) -> Result<Target, UringError> {
        if let Some(bytes) = options.bytes {
            extend(&file, bytes)?;
        }
        let metadata = file.metadata().map_err(UringError::Open)?;
        let is_block_device = metadata.file_type().is_block_device();
        let bytes = if is_block_device {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
                .map_err(|errno| UringError::Open(errno.into()))?
        } else {
            metadata.len()
        };
        let block_size = options.block_size.unwrap_or(BLOCK_SIZE_DEFAULT);
        let blocks = bytes / u64::from(block_size);
        if blocks == 0 {
            return Err(UringError::Empty { bytes });
        }
        try_last_block(&file, block_size, blocks)?;
        let sysfs = is_block_device.then(|| SysfsDevice::new(metadata.rdev()));
        Ok(Target {
            file,
            block_size,
            blocks,
            is_block_device,
            // The page cache is out of the way, but the disk's own cache below the file system is
            // not known here: so fdatasync is needed until the opposite is known.
            volatile_write_cache: sysfs.as_ref().is_none_or(SysfsDevice::has_volatile_cache),
            model: AsciiField::new(&match &sysfs {
                Some(sysfs) => sysfs.read("device/model").unwrap_or(MODEL_DEVICE.into()),
                None => MODEL_FILE.into(),
            }),
            serial: AsciiField::new(&match &sysfs {
                Some(sysfs) => sysfs.read("device/serial").unwrap_or_else(|| sysfs.number()),
                None => format!("{:x}-{:x}", metadata.dev(), metadata.ino()),
            }),
        })
    }
}

impl Drop for Target {
    /// Ends the claim now: nothing is in flight, whatever else in the kernel still has the file.
    fn drop(&mut self) {
        claim::unlock(&self.file);
    }
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
    /// Nothing; a size is named, so a file is to be made.
    Missing,
}

fn kind_of(options: &UringOptions) -> Result<Kind, UringError> {
    let kind = match std::fs::metadata(&options.path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if options.bytes.is_some() {
                Ok(Kind::Missing)
            } else {
                Err(UringError::NotFound)
            };
        }
        Err(error) => return Err(UringError::Open(error)),
    };
    match (kind.is_file(), kind.is_block_device()) {
        (true, _) => Ok(Kind::File),
        (_, true) if options.bytes.is_some() => Err(UringError::SizeOfDevice),
        (_, true) => Ok(Kind::BlockDevice),
        _ => Err(UringError::Kind),
    }
}

/// Opens for direct I/O. On a block device `O_EXCL` keeps out whoever asks for it too, as mounting
/// does; readers leave it, because it would keep other readers out.
fn open_direct(path: &Path, kind: Kind, access: Access) -> Result<File, UringError> {
    let exclusive = kind == Kind::BlockDevice && access == Access::Exclusive;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(kind == Kind::Missing);
    options.custom_flags(libc::O_DIRECT | if exclusive { libc::O_EXCL } else { 0 });
    let opened = claim::patiently(is_busy, || options.open(path));
    opened.map_err(|error| {
        if kind == Kind::Missing && error.kind() != io::ErrorKind::AlreadyExists {
            // It was made a moment ago, and is of no use.
            drop(std::fs::remove_file(path));
        }
        match error.raw_os_error() {
            Some(libc::EINVAL) => UringError::NoDirectIo,
            Some(libc::ENOENT) => UringError::NotFound,
            _ => UringError::Open(error),
        }
    })
}

/// Whether somebody else opened the block device exclusively.
pub(super) fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Brings a file to the size that is named.
fn extend(file: &File, bytes: u64) -> Result<(), UringError> {
    let actual = file.metadata().map_err(UringError::Open)?.len();
    if actual > bytes {
        return Err(UringError::Larger { expected: bytes, actual });
    }
    if actual < bytes {
        allocate(file, bytes)
            .map_err(|errno| UringError::Allocate { bytes, source: errno.into() })?;
        // A file that is gone after a crash holds nothing.
        file.sync_all().map_err(UringError::Open)?;
    }
    Ok(())
}

/// Brings a file to `bytes` bytes, allocated where the file system can.
fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(file, bytes),
        result => result,
    }
}

/// Reads the last block: its offset and size are the least aligned of all.
fn try_last_block(file: &File, block_size: u32, blocks: u64) -> Result<(), UringError> {
    let mapping = Mapping::create(&MappingOptions {
        name: String::from("culvert-nvme-probe"),
        bytes: PAGE_SIZE,
        backing: Backing::Ordinary,
        ..MappingOptions::default()
    })?;
    let offset = (blocks - 1) * u64::from(block_size);
    match super::probe::read(file, &mapping, block_size as usize, offset) {
        Err(Errno::INVAL) => Err(UringError::BlockSize { block_size }),
        // A block that cannot be read may be written yet; commands will say so.
        _ => Ok(()),
    }
}

/// A block device as sysfs shows it.
#[derive(Debug)]
pub(super) struct SysfsDevice {
    directory: PathBuf,
}

impl SysfsDevice {
    pub(super) fn new(device: u64) -> SysfsDevice {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let directory = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        SysfsDevice { directory }
    }

    /// An attribute of the device, or of the disk when the device is one of its partitions.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let own = std::fs::read_to_string(self.directory.join(name));
        let text = own.or_else(|_| std::fs::read_to_string(self.directory.join("..").join(name)));
        text.ok().map(|text| text.trim().to_owned())
    }

    /// What the kernel calls it, for devices that have no name of their own.
    fn number(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// `queue/write_cache` is "write back" or "write through".
    fn has_volatile_cache(&self) -> bool {
        self.read("queue/write_cache").is_none_or(|mode| mode != "write through")
    }
}
