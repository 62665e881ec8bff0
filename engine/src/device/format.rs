//! Formatting a device, and reading back what it is.

use culvert_memory::Pool;
use culvert_nvme::QueuePair;
use uuid::Uuid;

use super::STRUCTURE_BYTES;
use super::blocking::{Blocking, DeviceIoError};
use super::header::{DeviceHeader, HeaderError};
use super::layout::{HEADER_COPY_AT, Layout, LayoutError, LayoutOptions};
use super::superblock::Superblock;

/// What `format` is told.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// The device's name, minted by the caller.
    pub uuid: Uuid,
    /// The time, nanoseconds since 1970.
    pub now_ns: u64,
    /// The layout.
    pub layout: LayoutOptions,
    /// Format a device whatever is on it.
    pub force: bool,
}

/// Why a device was not formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Caller: it is a Culvert device, and `force` was not given. Nothing was written.
    #[error("the device is the Culvert device {uuid}; formatting would destroy it")]
    AlreadyFormatted {
        /// Its name.
        uuid: Uuid,
    },
    /// Caller: another version of Culvert formatted it, and `force` was not given.
    #[error("the device was formatted by another version of Culvert (format version {version})")]
    OtherVersion {
        /// Its format version.
        version: u32,
    },
    /// Caller: something else is there, such as a filesystem or a partition table, and `force` was
    /// not given. Nothing was written.
    #[error(
        "the device is not empty: byte {at} is not zero; formatting would destroy what it holds"
    )]
    NotEmpty {
        /// The first byte that is not zero.
        at: u64,
    },
    /// Device: entries in metadata were asked for, and its blocks have none, or too few.
    #[error(
        "its blocks have {metadata_bytes} bytes of metadata; entries in them need at least {}",
        culvert_nvme::METADATA_BYTES
    )]
    Metadata {
        /// Bytes of metadata of each block.
        metadata_bytes: u32,
    },
    /// The layout is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A command failed.
    #[error(transparent)]
    Io(#[from] DeviceIoError),
}

/// Why a device cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenDeviceError {
    /// Its header says why.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A command failed.
    #[error(transparent)]
    Io(#[from] DeviceIoError),
}

/// Writes header and superblocks of an empty device. What was there before is lost.
///
/// The primary header is written last: a crash before leaves a device that is not Culvert's.
///
/// # Errors
///
/// [`FormatError`].
pub fn format<Q: QueuePair + ?Sized>(
    queue: &mut Q,
    pool: &Pool,
    options: &FormatOptions,
) -> Result<DeviceHeader, FormatError> {
    let bytes = queue.namespace().bytes();
    let block_size = queue.namespace().block_size;
    if !options.force {
        refuse_formatted(queue, pool)?;
    }
    let layout = Layout::plan(bytes, block_size, &options.layout)?;
    let metadata_bytes = queue.namespace().metadata_bytes;
    if layout.metadata && (metadata_bytes as usize) < culvert_nvme::METADATA_BYTES {
        return Err(FormatError::Metadata { metadata_bytes });
    }
    let header = DeviceHeader { uuid: options.uuid, created_ns: options.now_ns, layout };
    let mut device = Blocking::new(queue);
    // An interrupted format must not leave the old header over new superblocks.
    write(&mut device, pool, 0, &[0; STRUCTURE_BYTES])?;
    write(&mut device, pool, HEADER_COPY_AT, &[0; STRUCTURE_BYTES])?;
    for shard in &header.layout.shards {
        let superblock = Superblock::empty();
        let bytes = superblock.emit(shard.shard, header.salt(shard.shard));
        write(&mut device, pool, shard.superblock(superblock.sequence + 1), &[0; STRUCTURE_BYTES])?;
        write(&mut device, pool, shard.superblock(superblock.sequence), &bytes)?;
    }
    write(&mut device, pool, HEADER_COPY_AT, &header.emit())?;
    write(&mut device, pool, 0, &header.emit())?;
    device.flush()?;
    Ok(header)
}

/// Bytes at the front of a device in which partition tables, filesystems and volume managers leave
/// their marks.
const MARKS_BYTES: u64 = 128 << 10;

/// Refuses a device that is one of Culvert's, or that seems to be somebody's.
fn refuse_formatted<Q: QueuePair + ?Sized>(queue: &mut Q, pool: &Pool) -> Result<(), FormatError> {
    match read_copies(queue, pool)? {
        [Ok(header), _] | [_, Ok(header)] => {
            Err(FormatError::AlreadyFormatted { uuid: header.uuid })
        }
        [Err(HeaderError::Version { found }), _] | [_, Err(HeaderError::Version { found })] => {
            Err(FormatError::OtherVersion { version: found })
        }
        _ => refuse_marked(queue, pool),
    }
}

/// Refuses a device whose front is not all zeroes.
fn refuse_marked<Q: QueuePair + ?Sized>(queue: &mut Q, pool: &Pool) -> Result<(), FormatError> {
    let pages = queue.namespace().bytes().min(MARKS_BYTES) / STRUCTURE_BYTES as u64;
    let mut device = Blocking::new(queue);
    for at in (0..pages).map(|page| page * STRUCTURE_BYTES as u64) {
        let buffer = pool.acquire(1).ok_or(DeviceIoError::Memory)?;
        let buffer = device.read(at, buffer)?;
        if let Some(position) = buffer.as_slice().iter().position(|byte| *byte != 0) {
            return Err(FormatError::NotEmpty { at: at + position as u64 });
        }
    }
    Ok(())
}

/// Reads the header of a device and checks that it belongs there.
///
/// # Errors
///
/// [`OpenDeviceError`]: not a Culvert device, another version, damaged, or of another geometry.
pub fn read_header<Q: QueuePair + ?Sized>(
    queue: &mut Q,
    pool: &Pool,
) -> Result<DeviceHeader, OpenDeviceError> {
    let header = match read_copies(queue, pool)? {
        [Ok(header), _] | [_, Ok(header)] => header,
        [Err(HeaderError::NotCulvert), Err(error)] | [Err(error), Err(_)] => {
            return Err(error.into());
        }
    };
    let namespace = queue.namespace();
    header.check_geometry(namespace.bytes(), namespace.block_size, namespace.metadata_bytes)?;
    Ok(header)
}

/// Reads the header of a device that nobody else uses, as [`read_header`] does, and writes a copy
/// of it that went bad anew.
///
/// # Errors
///
/// [`OpenDeviceError`], likewise.
pub fn read_and_mend_header<Q: QueuePair + ?Sized>(
    queue: &mut Q,
    pool: &Pool,
) -> Result<DeviceHeader, OpenDeviceError> {
    let header = read_header(queue, pool)?;
    let copies = read_copies(queue, pool)?;
    for (copy, at) in copies.iter().zip([0, HEADER_COPY_AT]) {
        if copy.is_err() {
            tracing::warn!(device = %header.uuid, at, "a copy of the header is bad: written anew");
            let mut device = Blocking::new(queue);
            write(&mut device, pool, at, &header.emit())?;
            device.flush()?;
        }
    }
    Ok(header)
}

/// Both copies of the header, the primary first.
pub(crate) fn read_copies<Q: QueuePair + ?Sized>(
    queue: &mut Q,
    pool: &Pool,
) -> Result<[Result<DeviceHeader, HeaderError>; 2], DeviceIoError> {
    let bytes = queue.namespace().bytes();
    let mut device = Blocking::new(queue);
    let mut copy = |at: u64| {
        if at + STRUCTURE_BYTES as u64 > bytes {
            return Ok(Err(HeaderError::NotCulvert));
        }
        let buffer = pool.acquire(1).ok_or(DeviceIoError::Memory)?;
        match device.read(at, buffer) {
            Ok(buffer) => {
                let bytes = buffer.as_slice().try_into().expect("a page is as long as a header");
                Ok(DeviceHeader::parse(bytes))
            }
            Err(DeviceIoError::Device { .. }) => Ok(Err(HeaderError::Checksum)),
            Err(error) => Err(error),
        }
    };
    Ok([copy(0)?, copy(HEADER_COPY_AT)?])
}

fn write<Q: QueuePair + ?Sized>(
    device: &mut Blocking<'_, Q>,
    pool: &Pool,
    at: u64,
    bytes: &[u8; STRUCTURE_BYTES],
) -> Result<(), DeviceIoError> {
    let mut buffer = pool.acquire(1).ok_or(DeviceIoError::Memory)?;
    buffer.copy_from_slice(0, bytes);
    device.write(at, buffer.freeze())
}
