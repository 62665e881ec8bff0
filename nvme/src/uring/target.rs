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
use crate::identify::AsciiField;

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
    /// Caller: neither a regular file nor a block device.
    #[error("is neither a regular file nor a block device")]
    Kind,
    /// Machine: opening failed.
    #[error("opening failed")]
    Open(#[source] io::Error),
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
    /// Caller: a size was named for a block device.
    #[error("is a block device, whose size is not ours to set; leave size= out")]
    SizeOfBlockDevice,
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
pub(super) struct Target {
    pub(super) file: File,
    pub(super) blocks: u64,
    pub(super) is_block_device: bool,
    pub(super) volatile_write_cache: bool,
    pub(super) model: AsciiField<40>,
    pub(super) serial: AsciiField<20>,
}

impl Target {
    /// Opens what `options` name, creating or extending a file when they name a size.
    pub(super) fn open(options: &UringOptions) -> Result<Target, UringError> {
        let path = &options.path;
        let created = create(options)?;
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(|error| open_error(error, path));
        let file = direct.inspect_err(|_| {
            if created {
                // It was made a moment ago, and is of no use.
                drop(std::fs::remove_file(path));
            }
        })?;
        let metadata = file.metadata().map_err(UringError::Open)?;
        let is_block_device = metadata.file_type().is_block_device();
        let bytes = if is_block_device {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
                .map_err(|errno| UringError::Open(errno.into()))?
        } else {
            metadata.len()
        };
        let blocks = bytes / u64::from(options.block_size);
        if blocks == 0 {
            return Err(UringError::Empty { bytes });
        }
        try_last_block(&file, options.block_size, blocks)?;
        let sysfs = is_block_device.then(|| SysfsDevice::new(metadata.rdev()));
        Ok(Target {
            file,
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

/// Creates or extends a file whose size is named; true when it was created.
fn create(options: &UringOptions) -> Result<bool, UringError> {
    let found = match std::fs::metadata(&options.path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(UringError::Open(error)),
    };
    if let Some(metadata) = &found {
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(UringError::Kind);
        }
        if kind.is_block_device() && options.bytes.is_some() {
            return Err(UringError::SizeOfBlockDevice);
        }
    }
    let Some(bytes) = options.bytes else {
        return if found.is_some() { Ok(false) } else { Err(UringError::NotFound) };
    };
    let actual = found.as_ref().map_or(0, std::fs::Metadata::len);
    if actual > bytes {
        return Err(UringError::Larger { expected: bytes, actual });
    }
    if actual < bytes {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&options.path)
            .map_err(UringError::Open)?;
        allocate(&file, bytes)
            .map_err(|errno| UringError::Allocate { bytes, source: errno.into() })?;
        // A file that is gone after a crash holds nothing.
        file.sync_all().map_err(UringError::Open)?;
    }
    Ok(found.is_none())
}

/// Brings a file to `bytes` bytes, allocated where the file system can.
fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(file, bytes),
        result => result,
    }
}

/// Tells the refusal of `O_DIRECT` from other failures.
fn open_error(error: io::Error, path: &Path) -> UringError {
    match error.raw_os_error() {
        Some(libc::EINVAL) if path.exists() => UringError::NoDirectIo,
        Some(libc::ENOENT) => UringError::NotFound,
        _ => UringError::Open(error),
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
struct SysfsDevice {
    directory: PathBuf,
}

impl SysfsDevice {
    fn new(device: u64) -> SysfsDevice {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let directory = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        SysfsDevice { directory }
    }

    /// An attribute of the device, or of the disk when the device is one of its partitions.
    fn read(&self, name: &str) -> Option<String> {
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
