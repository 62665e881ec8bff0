//! An NVMe namespace as the character device that the kernel makes for it, `/dev/ngXnY`.
//!
//! It takes commands as they are, past the kernel's block layer. The same namespace has a block
//! device; it is opened exclusively for as long, so that nobody mounts it meanwhile.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::target::{SysfsDevice, UringError, is_busy};
use super::{BACKEND, UringOptions, admin};
use crate::claim::{self, Access, Holder, Refused};
use crate::config::TRANSFER_BYTES_MAX;
use crate::contract::Namespace;
use crate::identify::{IdentifyController, IdentifyNamespace, structure};
use crate::open::OpenError;
use crate::submission_entry::NamespaceId;

/// Before Linux 6.5 the driver of NVMe looked for what is polled by its memory: a command without any
/// brings the kernel down.
const POLLED_SINCE: (u32, u32) = (6, 5);

/// More segments than that make no difference.
const SEGMENTS_MAX: u64 = 4095;

/// Bytes of a page, of which each may be a segment of a transfer of its own.
const PAGE_BYTES: u64 = culvert_memory::PAGE_SIZE as u64;

/// A namespace that is claimed.
#[derive(Debug)]
pub(crate) struct Generic {
    pub(super) file: File,
    /// Keeps others away from it.
    _block_device: File,
    pub(super) id: NamespaceId,
    pub(super) namespace: Namespace,
    /// Segments of a command's memory that its driver takes at most.
    pub(super) segments_max: usize,
}

impl Generic {
    /// Whether that is what stands at a path.
    pub(crate) fn is_at(options: &UringOptions) -> bool {
        std::fs::metadata(&options.path).is_ok_and(|found| found.file_type().is_char_device())
    }

    /// Opens and claims a namespace.
    pub(crate) fn open(options: &UringOptions, access: Access) -> Result<Generic, OpenError> {
        let path = &options.path;
        let failed = |source| OpenError::Uring { path: path.clone(), source };
        let in_use = |holder| OpenError::InUse { path: path.clone(), holder };
        if options.bytes.is_some() {
            return Err(failed(UringError::SizeOfDevice));
        }
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|error| failed(UringError::Open(error)))?;
        let block_device = block_device(&file).map_err(failed)?;
        let exclusive = if access == Access::Exclusive { libc::O_EXCL } else { 0 };
        let held = claim::patiently(is_busy, || {
            OpenOptions::new().read(true).custom_flags(exclusive).open(&block_device)
        });
        let held = held.map_err(|error| match is_busy(&error) {
            true => in_use(Holder::Exclusive),
            false => failed(UringError::Open(error)),
        })?;
        claim::lock(&held, access).map_err(|refused| match refused {
            Refused::InUse(holder) => in_use(holder),
            Refused::Failed(errno) => failed(UringError::Lock(errno.into())),
        })?;
        Generic::new(file, held, options).map_err(failed)
    }

    /// A namespace that is claimed by its block device.
    fn new(file: File, held: File, options: &UringOptions) -> Result<Generic, UringError> {
        let id = admin::namespace_id(&file)?;
        let controller: Box<IdentifyController> =
            admin::identify(&file, structure::CONTROLLER, NamespaceId::NONE)?;
        let identified: Box<IdentifyNamespace> = admin::identify(&file, structure::NAMESPACE, id)?;
        let geometry = identified.geometry()?;
        let block_size = geometry.block_size;
        if geometry.metadata_bytes > 0 {
            return Err(UringError::Metadata { bytes: geometry.metadata_bytes });
        }
        if options.block_size.is_some_and(|wanted| wanted != block_size) {
            return Err(UringError::Formatted { block_size });
        }
        let metadata = held.metadata().map_err(UringError::Open)?;
        let queue = SysfsDevice::new(metadata.rdev());
        if options.polled {
            if kernel() < POLLED_SINCE {
                return Err(UringError::PolledKernel);
            }
            if queue.read("queue/io_poll").is_none_or(|on| on != "1") {
                return Err(UringError::NoPollQueues);
            }
        }
        let segments_max = number(&queue, "queue/max_segments").unwrap_or(1).min(SEGMENTS_MAX);
        let volatile_write_cache =
            controller.has_volatile_write_cache() && admin::is_cache_enabled(&file)?;
        let namespace = Namespace {
            block_size,
            blocks: geometry.blocks,
            volatile_write_cache,
            transfer_bytes_max: transfer_bytes_max(&queue, segments_max),
            metadata_bytes: 0,
            model: controller.model,
            serial: controller.serial,
            backend: BACKEND,
        };
        Ok(Generic {
            file,
            _block_device: held,
            id,
            namespace,
            segments_max: segments_max as usize,
        })
    }
}

impl Drop for Generic {
    /// Ends the claim now, whatever else in the kernel still has the file.
    fn drop(&mut self) {
        claim::unlock(&self._block_device);
    }
}

/// The block device of the same namespace.
fn block_device(file: &File) -> Result<PathBuf, UringError> {
    let number = file.metadata().map_err(UringError::Open)?.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let own = std::fs::canonicalize(format!("/sys/dev/char/{major}:{minor}"));
    let own = own.map_err(|_| UringError::Kind)?;
    let name = own.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix("ng")).ok_or(UringError::Kind)?;
    let name = format!("nvme{number}");
    if !own.with_file_name(&name).exists() {
        return Err(UringError::Kind);
    }
    Ok(PathBuf::from("/dev").join(name))
}

/// What the kernel passes through in one command: it splits nothing. Each page may be a segment.
fn transfer_bytes_max(queue: &SysfsDevice, segments_max: u64) -> u32 {
    let bytes = number(queue, "queue/max_hw_sectors_kb").map_or(PAGE_BYTES, |kib| kib << 10);
    let most = bytes.min(segments_max * PAGE_BYTES).clamp(PAGE_BYTES, TRANSFER_BYTES_MAX.into());
    1 << most.ilog2()
}

/// Major and minor version.
fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|other: char| !other.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

fn number(queue: &SysfsDevice, name: &str) -> Option<u64> {
    queue.read(name)?.parse().ok()
}
