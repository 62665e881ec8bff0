#![allow(unsafe_code)]
//! The kernel's VFIO interface, call by call: `include/uapi/linux/vfio.h`.
//!
//! Structures are those of the `vfio-bindings` crate. Everything but [`map`] is safe: the kernel
//! checks what it is given, and no other call lets anybody touch our memory.

use std::ffi::CStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use vfio_bindings::bindings::vfio as sys;

/// Number of a call: `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn call(number: u32) -> libc::Ioctl {
    ((sys::VFIO_TYPE as u32) << 8 | (sys::VFIO_BASE + number)) as libc::Ioctl
}

const GET_API_VERSION: libc::Ioctl = call(0);
const CHECK_EXTENSION: libc::Ioctl = call(1);
const SET_IOMMU: libc::Ioctl = call(2);
const GROUP_GET_STATUS: libc::Ioctl = call(3);
const GROUP_SET_CONTAINER: libc::Ioctl = call(4);
const GROUP_GET_DEVICE_FD: libc::Ioctl = call(6);
const DEVICE_GET_REGION_INFO: libc::Ioctl = call(8);
const DEVICE_GET_IRQ_INFO: libc::Ioctl = call(9);
const DEVICE_SET_IRQS: libc::Ioctl = call(10);
const IOMMU_GET_INFO: libc::Ioctl = call(12);
const IOMMU_MAP_DMA: libc::Ioctl = call(13);
const IOMMU_UNMAP_DMA: libc::Ioctl = call(14);

/// Most ranges of device addresses that are looked at.
const RANGES_MAX: usize = 64;

/// Calls with a number, or with nothing (0).
fn call_with(fd: BorrowedFd<'_>, call: libc::Ioctl, value: u32) -> io::Result<i32> {
    // SAFETY: these calls take their argument by value and touch no memory.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), call, libc::c_ulong::from(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls with a structure, which the kernel reads and may fill.
fn call_on<T>(fd: BorrowedFd<'_>, call: libc::Ioctl, structure: &mut T) -> io::Result<i32> {
    // SAFETY: every call here is made with the structure that the header names for it; its `argsz`
    // says how much of it there is, and the kernel touches no more.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), call, std::ptr::from_mut(structure)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Bytes of a structure, as its `argsz`.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Whether a container speaks this interface, with an IOMMU that unmaps exactly what was mapped.
pub(super) fn is_usable(container: BorrowedFd<'_>) -> io::Result<bool> {
    let version = call_with(container, GET_API_VERSION, 0)?;
    let extension = call_with(container, CHECK_EXTENSION, sys::VFIO_TYPE1v2_IOMMU)?;
    Ok(version == sys::VFIO_API_VERSION as i32 && extension == 1)
}

/// Whether all devices of a group are VFIO's, so that nobody else can harm or be harmed.
pub(super) fn is_viable(group: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status =
        sys::vfio_group_status { argsz: size::<sys::vfio_group_status>(), ..Default::default() };
    call_on(group, GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags & sys::VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts a group into a container and gives that its IOMMU.
pub(super) fn attach(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    call_on(group, GROUP_SET_CONTAINER, &mut container.as_raw_fd())?;
    call_with(container, SET_IOMMU, sys::VFIO_TYPE1v2_IOMMU)?;
    Ok(())
}

/// Opens a device of a group.
pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the name up to its end.
    let fd = unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD, name.as_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A part of a device's file: registers, or configuration space.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceRegion {
    /// Where it begins in the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Whether it can be mapped into memory.
    pub(super) mappable: bool,
}

/// Region `index` of a device.
pub(super) fn region(device: BorrowedFd<'_>, index: u32) -> io::Result<DeviceRegion> {
    let argsz = size::<sys::vfio_region_info>();
    let mut info = sys::vfio_region_info { argsz, index, ..Default::default() };
    call_on(device, DEVICE_GET_REGION_INFO, &mut info)?;
    let mappable = info.flags & sys::VFIO_REGION_INFO_FLAG_MMAP != 0;
    Ok(DeviceRegion { offset: info.offset, bytes: info.size, mappable })
}

/// A kind of interrupt of a device.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Interrupts {
    /// Of the device itself, by vector.
    MsiX = sys::VFIO_PCI_MSIX_IRQ_INDEX,
    /// An error that cannot be mended was reported for it.
    Error = sys::VFIO_PCI_ERR_IRQ_INDEX,
    /// The kernel wants it back.
    Request = sys::VFIO_PCI_REQ_IRQ_INDEX,
}

/// How many interrupts of a kind a device has.
pub(super) fn count(device: BorrowedFd<'_>, kind: Interrupts) -> io::Result<u32> {
    let (argsz, index) = (size::<sys::vfio_irq_info>(), kind as u32);
    let mut info = sys::vfio_irq_info { argsz, index, ..Default::default() };
    call_on(device, DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok(info.count)
}

/// Lets interrupts 0, 1, .. of a kind signal these eventfds.
pub(super) fn set_events(
    device: BorrowedFd<'_>,
    kind: Interrupts,
    events: &[OwnedFd],
) -> io::Result<()> {
    // `struct vfio_irq_set`: five words, and a descriptor for each vector.
    const HEAD: usize = 5;
    let flags = sys::VFIO_IRQ_SET_DATA_EVENTFD | sys::VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut words = vec![0; HEAD];
    words.extend(events.iter().map(|event| event.as_raw_fd() as u32));
    let argsz = size_of_val(&words[..]) as u32;
    words[..HEAD].copy_from_slice(&[argsz, flags, kind as u32, 0, events.len() as u32]);
    // SAFETY: the words are a `struct vfio_irq_set` with as many descriptors as it says, of which
    // `argsz` says how long it is; the kernel only reads it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_SET_IRQS, words.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The head of what a container says of its IOMMU, with room for the capabilities behind it.
#[repr(C)]
struct IommuInfo {
    info: sys::vfio_iommu_type1_info,
    capabilities: [u64; 4 * RANGES_MAX],
}

/// Device addresses that may be mapped: a container says where there are holes, such as the window
/// of message signalled interrupts.
pub(super) fn address_ranges(container: BorrowedFd<'_>) -> io::Result<Vec<Range<u64>>> {
    let mut answer = IommuInfo { info: Default::default(), capabilities: [0; 4 * RANGES_MAX] };
    answer.info.argsz = size::<IommuInfo>();
    call_on(container, IOMMU_GET_INFO, &mut answer)?;
    let head = size_of::<sys::vfio_iommu_type1_info>();
    let has = answer.info.flags & sys::VFIO_IOMMU_INFO_CAPS != 0;
    let first = (answer.info.cap_offset as usize).checked_sub(head).filter(|_| has);
    let bytes: Vec<u8> = answer.capabilities.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(first.map_or_else(Vec::new, |first| parse_ranges(&bytes, head, first)))
}

/// Finds the ranges in a chain of capabilities that begins at `first` in `bytes`. Offsets in the
/// chain count from `head` bytes before.
fn parse_ranges(bytes: &[u8], head: usize, first: usize) -> Vec<Range<u64>> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let mut at = Some(first);
    // A chain that goes round ends all the same.
    for _ in 0..RANGES_MAX {
        let Some(here) = at else { break };
        let (Some(id), Some(next)) = (word(here), word(here + 4)) else { break };
        if id & 0xffff == sys::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = word(here + 8).unwrap_or(0) as usize;
            let starts = (0..count.min(RANGES_MAX)).map(|index| here + 16 + 16 * index);
            // The kernel's ranges include their last byte.
            let ranges = starts.map_while(|at| Some(long(at)?..long(at + 8)?.saturating_add(1)));
            return ranges.collect();
        }
        at = (next as usize).checked_sub(head).filter(|_| next != 0);
    }
    Vec::new()
}

/// Lets the devices of a container read and write memory at a device address.
///
/// # Safety
///
/// The memory stays mapped in this process, and nobody relies on its bytes against what devices
/// are told to do, until [`unmap`] has returned or the container is closed.
pub(super) unsafe fn map(
    container: BorrowedFd<'_>,
    base: NonNull<u8>,
    bytes: usize,
    address: u64,
) -> io::Result<()> {
    let mut map = sys::vfio_iommu_type1_dma_map {
        argsz: size::<sys::vfio_iommu_type1_dma_map>(),
        flags: sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: base.as_ptr() as u64,
        iova: address,
        size: bytes as u64,
    };
    call_on(container, IOMMU_MAP_DMA, &mut map).map(drop)
}

/// Ends that: on return the devices cannot reach the memory any more.
pub(super) fn unmap(container: BorrowedFd<'_>, address: u64, bytes: usize) -> io::Result<()> {
    let mut unmap = sys::vfio_iommu_type1_dma_unmap {
        argsz: size::<sys::vfio_iommu_type1_dma_unmap>(),
        iova: address,
        size: bytes as u64,
        ..Default::default()
    };
    call_on(container, IOMMU_UNMAP_DMA, &mut unmap).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_numbers_of_the_header() {
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(IOMMU_MAP_DMA, 0x3b71);
    }

    #[test]
    fn ranges_are_found_in_the_chain() {
        let head = size_of::<sys::vfio_iommu_type1_info>();
        let mut bytes = Vec::new();
        let words = |bytes: &mut Vec<u8>, words: &[u32]| {
            words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        };
        // Another capability, then the one that is looked for, with two ranges.
        words(&mut bytes, &[3 | 1 << 16, (head + 12) as u32, 7]);
        words(&mut bytes, &[1 | 1 << 16, 0, 2, 0]);
        for value in [0, 0xfedf_ffff_u64, 0xfef0_0000, 0x7f_ffff_ffff] {
            bytes.extend(value.to_ne_bytes());
        }
        let found = parse_ranges(&bytes, head, 0);
        assert_eq!(found, [0..0xfee0_0000, 0xfef0_0000..0x80_0000_0000]);
        // Cut off, empty, or a chain that leads to itself.
        assert_eq!(parse_ranges(&bytes[..44], head, 0), found[..1]);
        assert!(parse_ranges(&[], head, 0).is_empty());
        let mut round = Vec::new();
        words(&mut round, &[9, head as u32, 0]);
        assert!(parse_ranges(&round, head, 0).is_empty());
    }
}
