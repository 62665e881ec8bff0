#![allow(unsafe_code)]
//! The bus between the driver half and the controller in the same process.

use std::ptr::NonNull;
use std::sync::Arc;

use culvert_memory::Region;

use super::core::Core;
use super::register_file::RegisterFile;
use super::thread::ControllerThread;
use crate::bus::Bus;
use crate::contract::{RegisterError, Wake};
use crate::controller_error::ControllerError;
use crate::queue_memory::own_region;
use crate::registers::Register;

/// Who makes the controller work.
#[derive(Debug)]
pub(super) enum Engine {
    /// The driver's own thread, at each poll.
    Inline(Box<Core>),
    /// A thread of its own.
    Thread(ControllerThread),
}

/// Registers, the controller behind them, and the memory it can reach.
///
/// `engine` is dropped before `regions`: when the memory goes, nobody can touch it any more.
#[derive(Debug)]
pub(super) struct LocalBus {
    engine: Engine,
    registers: Arc<RegisterFile>,
    regions: Vec<Region>,
    regions_max: u32,
    /// Regions of the driver half, which do not count.
    own_regions: usize,
    copies: bool,
}

impl LocalBus {
    /// `copies` says whether the medium has bytes to copy.
    pub(super) fn new(
        engine: Engine,
        registers: Arc<RegisterFile>,
        regions_max: u32,
        copies: bool,
    ) -> LocalBus {
        let regions = Vec::new();
        LocalBus { engine, registers, regions, regions_max, own_regions: 0, copies }
    }

    /// Calls `act` while the controller stands still.
    pub(super) fn with_core<T>(&mut self, act: impl FnOnce(&mut Core) -> T) -> T {
        match &mut self.engine {
            Engine::Inline(core) => act(core),
            Engine::Thread(thread) => thread.with_core(act),
        }
    }

    #[inline]
    fn notify(&self) -> u64 {
        match &self.engine {
            Engine::Inline(_) => 0,
            Engine::Thread(thread) => thread.notify(),
        }
    }
}

impl Bus for LocalBus {
    fn read32(&self, register: Register) -> u32 {
        self.registers.read32(register)
    }

    fn read64(&self, register: Register) -> u64 {
        self.registers.read64(register)
    }

    fn write32(&self, register: Register, value: u32) {
        self.registers.write32(register, value);
        self.notify();
    }

    fn write64(&self, register: Register, value: u64) {
        self.registers.write64(register, value);
        self.notify();
    }

    #[inline]
    fn ring(&self, doorbell: Register, value: u16) -> u64 {
        self.registers.ring(doorbell, value);
        self.notify()
    }

    fn map_own(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.own_regions += 1;
        self.map(region)
    }

    fn map(&mut self, region: &Region) -> Result<(), RegisterError> {
        if self.regions.iter().any(|known| known.same_as(region)) {
            return Ok(());
        }
        if self.regions.len() >= self.regions_max as usize + self.own_regions {
            return Err(RegisterError::TableFull { regions_max: self.regions_max });
        }
        self.regions.push(region.clone());
        let (base, bytes) = (region.base(), region.len());
        // SAFETY: the region stays mapped while `regions` holds it, which is until `unmap` has
        // removed the range; distinct regions are distinct mappings.
        self.with_core(|core| unsafe { core.memory.insert(base, bytes) });
        Ok(())
    }

    fn admin_memory(&mut self, bytes: usize) -> Result<(NonNull<u8>, u64), ControllerError> {
        let region = own_region(bytes).map_err(|_| ControllerError::QueueMemory)?;
        self.map_own(&region).map_err(|_| ControllerError::QueueMemory)?;
        Ok((region.base(), region.base().as_ptr() as u64))
    }

    fn unmap(&mut self, region: &Region) {
        let Some(index) = self.regions.iter().position(|known| known.same_as(region)) else {
            return;
        };
        self.with_core(|core| core.memory.remove(region.base()));
        self.regions.swap_remove(index);
    }

    #[inline]
    fn device_address(&self, pointer: NonNull<u8>, _bytes: usize) -> Option<u64> {
        // The controller checks addresses itself, as an IOMMU does.
        Some(pointer.as_ptr() as u64)
    }

    fn vector(&mut self, _queue: u16) -> Option<u16> {
        // A controller on a thread of its own needs none to wake a sleeper.
        None
    }

    #[inline]
    fn advance(&mut self) {
        if let Engine::Inline(core) = &mut self.engine {
            core.step(usize::MAX);
        }
    }

    #[inline]
    fn is_gone(&self) -> bool {
        self.registers.is_gone()
    }

    fn check_removal(&mut self) {}

    fn sever(&mut self) -> bool {
        // The controller stopped before it said that it has gone.
        true
    }

    #[inline]
    fn copies_for_dma(&self) -> bool {
        self.copies
    }

    fn wake(&self) -> Wake<'_> {
        match &self.engine {
            Engine::Inline(_) => Wake::Poll,
            Engine::Thread(thread) => Wake::Fd(thread.event()),
        }
    }

    fn request_wake(&mut self) -> bool {
        match &self.engine {
            Engine::Inline(_) => false,
            Engine::Thread(thread) => {
                thread.arm();
                true
            }
        }
    }

    fn cancel_wake(&mut self) -> u64 {
        match &self.engine {
            Engine::Inline(_) => 0,
            Engine::Thread(thread) => thread.disarm(),
        }
    }
}
