//! The seam between the driver half and a controller: register access and address translation.
//!
//! The driver half ([`Driver`](crate::driver::Driver)) builds entries, rings doorbells and reads
//! phase tags; it does not know what is behind its bus. The emulated controller is reached through
//! registers in memory, a real one through its mapped BAR and an IOMMU.
//!
//! A bus keeps every mapped [`Region`] alive until it is unmapped, so that a device never touches
//! memory that has been given back.

use std::ptr::NonNull;

use culvert_memory::Region;

use crate::contract::{RegisterError, Wake};
use crate::controller_error::ControllerError;
use crate::registers::Register;

/// How the driver half reaches one controller.
pub(crate) trait Bus {
    /// Reads a 32-bit register; all ones when the device has gone away.
    fn read32(&self, register: Register) -> u32;

    /// Reads a 64-bit register; all ones when the device has gone away.
    fn read64(&self, register: Register) -> u64;

    /// Writes a 32-bit register.
    fn write32(&self, register: Register, value: u32);

    /// Writes a 64-bit register.
    fn write64(&self, register: Register, value: u64);

    /// Rings a doorbell, after every earlier store to queue memory (release). Returns the number
    /// of system calls that took: zero, unless somebody had to be woken.
    fn ring(&self, doorbell: Register, value: u16) -> u64;

    /// Makes a region reachable for the device, and keeps it alive.
    fn map(&mut self, region: &Region) -> Result<(), RegisterError>;

    /// The same for memory of the driver half, which takes none of the places that the caller has.
    fn map_own(&mut self, region: &Region) -> Result<(), RegisterError>;

    /// Memory for the admin queue, of so many bytes from the start of a page on, and where the
    /// device finds it. The bus keeps it: as long as any bus to this controller lives.
    fn admin_memory(&mut self, bytes: usize) -> Result<(NonNull<u8>, u64), ControllerError>;

    /// Ends that of [`Bus::map`]. On return the device cannot reach the region any more.
    fn unmap(&mut self, region: &Region);

    /// Where the device finds `bytes` bytes from `pointer` on, contiguously; `None` when they are
    /// known not to be mapped. (The emulation leaves that check to its controller, which makes the
    /// one an IOMMU makes.)
    fn device_address(&self, pointer: NonNull<u8>, bytes: usize) -> Option<u64>;

    /// The interrupt of the completions of a queue; `None` where there are none.
    fn vector(&mut self, queue: u16) -> Option<u16>;

    /// Called at each poll and in loops that wait for the controller: an emulated controller
    /// without a thread does its work here.
    fn advance(&mut self);

    /// Whether the device has gone away, or is to be given back.
    fn is_gone(&self) -> bool;

    /// Asks the system, now and then, whether it wants the device back or has lost it.
    fn check_removal(&mut self);

    /// Takes all memory from a device that has gone away, and lets go of it. False when that is not
    /// certain: then nothing that the device could reach may be given back.
    fn sever(&mut self) -> bool;

    /// Whether a CPU copies the bytes of each transfer, in place of the device's DMA.
    fn copies_for_dma(&self) -> bool;

    /// How a sleeper learns of completions.
    fn wake(&self) -> Wake<'_>;

    /// Asks for one wake-up; completions posted from now on cause it. False when there is none.
    fn request_wake(&mut self) -> bool;

    /// Withdraws the request, or clears the wake-up if it has already been given. Returns the
    /// number of system calls that took.
    fn cancel_wake(&mut self) -> u64;
}
