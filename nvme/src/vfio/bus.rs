#![allow(unsafe_code)]
//! The way of one thread to a controller behind VFIO: mapped registers, and memory behind the
//! IOMMU.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use culvert_memory::{MappingError, Region, SharedBytes, device_write_barrier};
use rustix::io::Errno;

use super::device::{Device, Opened};
use super::error::VfioError;
use crate::bus::Bus;
use crate::contract::{RegisterError, Wake};
use crate::controller_error::ControllerError;
use crate::queue_memory::own_mapping;
use crate::registers::{self, ALL_ONES, Register};

#[derive(Debug)]
struct Mapped {
    /// Keeps the memory mapped in this process.
    region: Region,
    /// Where the device finds it.
    address: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct VfioBus {
    registers: SharedBytes,
    device: Arc<Device>,
    /// Until the device was severed.
    opened: Option<Arc<Opened>>,
    regions: Vec<Mapped>,
    /// The one that was found last.
    recent: Cell<usize>,
    regions_max: u32,
    /// Regions of the driver half, which do not count.
    own_regions: usize,
    /// The interrupt vector of the queue pair.
    vector: Option<u16>,
}

impl VfioBus {
    pub(super) fn new(device: Arc<Device>, regions_max: u32) -> Result<VfioBus, VfioError> {
        let opened = device.opened()?;
        Ok(VfioBus {
            registers: opened.map_registers()?,
            device,
            opened: Some(opened),
            regions: Vec::new(),
            recent: Cell::new(0),
            regions_max,
            own_regions: 0,
            vector: None,
        })
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.device.event(self.vector?)
    }

    /// Where the device finds memory of one region.
    #[inline]
    fn translate(&self, index: usize, pointer: NonNull<u8>, bytes: usize) -> Option<u64> {
        let Mapped { region, address } = self.regions.get(index)?;
        let offset = (pointer.as_ptr() as usize).checked_sub(region.base().as_ptr() as usize)?;
        (offset + bytes <= region.len()).then_some(address + offset as u64)
    }

    /// Takes a region away from the device.
    fn release(&self, mapped: Mapped) {
        let Some(opened) = &self.opened else { return };
        if let Err(error) = opened.container.unmap(mapped.region.base()) {
            tracing::error!(%error, "memory could not be unmapped for the device; it is kept");
            std::mem::forget(mapped.region);
        }
    }

    /// Reads the eventfd; nobody is to be woken by what was before.
    fn drain(&self) {
        if let Some(event) = self.event() {
            // An error says that there was nothing to read.
            let _empty = rustix::io::read(event, &mut [0; 8][..]);
        }
    }
}

/// What registers read as where there is no device.
fn absent_registers(bytes: usize) -> Result<SharedBytes, MappingError> {
    let registers = SharedBytes::of_mapping(Rc::new(own_mapping(bytes)?));
    registers.write_bytes(0, &vec![0xff; registers.len()]);
    Ok(registers)
}

fn severed(bytes: usize) -> RegisterError {
    RegisterError::Refused { bytes, source: Errno::NODEV.into() }
}

impl Drop for VfioBus {
    fn drop(&mut self) {
        while let Some(mapped) = self.regions.pop() {
            self.release(mapped);
        }
    }
}

impl Bus for VfioBus {
    fn read32(&self, register: Register) -> u32 {
        let value = self.registers.read_u32(register.0 as usize);
        if value == ALL_ONES && register == registers::STATUS {
            self.device.set_gone();
        }
        value
    }

    fn read64(&self, register: Register) -> u64 {
        self.registers.read_u64(register.0 as usize)
    }

    fn write32(&self, register: Register, value: u32) {
        device_write_barrier();
        self.registers.write_u32(register.0 as usize, value);
    }

    fn write64(&self, register: Register, value: u64) {
        device_write_barrier();
        self.registers.write_u64(register.0 as usize, value);
    }

    #[inline]
    fn ring(&self, doorbell: Register, value: u16) -> u64 {
        device_write_barrier();
        self.registers.write_u32(doorbell.0 as usize, u32::from(value));
        0
    }

    fn map_own(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.own_regions += 1;
        self.map(region)
    }

    fn map(&mut self, region: &Region) -> Result<(), RegisterError> {
        if self.regions.iter().any(|known| known.region.same_as(region)) {
            return Ok(());
        }
        if self.regions.len() >= self.regions_max as usize + self.own_regions {
            return Err(RegisterError::TableFull { regions_max: self.regions_max });
        }
        let opened = self.opened.as_ref().ok_or_else(|| severed(region.len()))?;
        // SAFETY: the region's handle is kept until the memory was unmapped, or for ever.
        let address = unsafe { opened.container.map(region.base(), region.len()) }?;
        self.regions.push(Mapped { region: region.clone(), address });
        Ok(())
    }

    fn admin_memory(&mut self, bytes: usize) -> Result<(NonNull<u8>, u64), ControllerError> {
        let opened = self.opened.as_ref().ok_or(ControllerError::Gone)?;
        let own = opened.container.own(|| own_mapping(bytes).ok());
        own.map_err(|error| {
            tracing::error!(%error, "memory for the admin queue");
            ControllerError::QueueMemory
        })
    }

    fn unmap(&mut self, region: &Region) {
        let index = self.regions.iter().position(|known| known.region.same_as(region));
        if let Some(index) = index {
            let mapped = self.regions.swap_remove(index);
            self.release(mapped);
        }
    }

    #[inline]
    fn device_address(&self, pointer: NonNull<u8>, bytes: usize) -> Option<u64> {
        let recent = self.recent.get();
        self.translate(recent, pointer, bytes).or_else(|| {
            let mut indices = 0..self.regions.len();
            let (index, address) =
                indices.find_map(|index| Some((index, self.translate(index, pointer, bytes)?)))?;
            self.recent.set(index);
            Some(address)
        })
    }

    fn vector(&mut self, queue: u16) -> Option<u16> {
        self.vector = self.device.event(queue).map(|_| queue);
        self.vector
    }

    #[inline]
    fn advance(&mut self) {}

    #[inline]
    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn check_removal(&mut self) {
        self.device.check_removal();
    }

    fn sever(&mut self) -> bool {
        let Some(opened) = &self.opened else { return true };
        if let Err(error) = opened.container.revoke() {
            tracing::error!(%error, "memory cannot be taken from a device that has gone away");
            return false;
        }
        // A mapping of registers keeps the kernel from removing the device.
        match absent_registers(self.registers.len()) {
            Ok(registers) => self.registers = registers,
            Err(error) => tracing::error!(%error, "the registers stay mapped, and the device held"),
        }
        self.regions.clear();
        self.opened = None;
        self.device.close();
        true
    }

    #[inline]
    fn copies_for_dma(&self) -> bool {
        false
    }

    fn wake(&self) -> Wake<'_> {
        self.event().map_or(Wake::Poll, Wake::Fd)
    }

    fn request_wake(&mut self) -> bool {
        // Completions interrupt whether anybody sleeps or not: what they have signalled so far is
        // old news.
        self.drain();
        self.vector.is_some()
    }

    fn cancel_wake(&mut self) -> u64 {
        self.drain();
        1
    }
}
