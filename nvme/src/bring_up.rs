//! A controller's registers from power-on to a working admin queue, and back: NVM Express Base
//! Specification 2.0, sections 3.5 and 3.6.
//!
//! Every wait is bounded by what the controller promised in CAP.TO.

use std::time::{Duration, Instant};

use crate::admin_queue::AdminQueue;
use crate::bus::Bus;
use crate::config::ADMIN_ENTRIES;
use crate::controller_error::{ControllerError, Step};
use crate::queue_memory::AdminMemory;
use crate::registers::{self, AdminQueueAttributes, Capabilities, Configuration, ControllerStatus};

/// Reads CAP and checks what cannot be worked around.
pub(crate) fn capabilities(bus: &impl Bus) -> Result<Capabilities, ControllerError> {
    let value = bus.read64(registers::CAPABILITIES);
    if value == u64::MAX {
        return Err(ControllerError::Gone);
    }
    let capabilities = Capabilities(value);
    if !capabilities.has_nvm_command_set() || capabilities.page_size_min() != 4096 {
        return Err(ControllerError::Unsupported);
    }
    Ok(capabilities)
}

/// When a wait that starts now has to be over.
pub(crate) fn deadline(capabilities: Capabilities) -> Instant {
    // A controller may promise 0; it still gets one unit.
    Instant::now() + Duration::from_millis(capabilities.timeout_ms().max(500))
}

/// Disables the controller: afterwards it touches no memory.
pub(crate) fn disable(
    bus: &mut impl Bus,
    capabilities: Capabilities,
) -> Result<(), ControllerError> {
    bus.write32(registers::CONFIGURATION, Configuration::DISABLED.0);
    // A fatal status is what a reset is for, so it does not end this wait.
    wait(bus, Step::Disable, deadline(capabilities), |status| Some(!status.is_ready()))
}

/// Tells the controller that it will lose power, and waits until it has nothing left to lose.
pub(crate) fn shut_down(
    bus: &mut impl Bus,
    capabilities: Capabilities,
) -> Result<(), ControllerError> {
    bus.write32(registers::CONFIGURATION, Configuration::SHUTTING_DOWN.0);
    wait(bus, Step::Shutdown, deadline(capabilities), |status| {
        (!status.is_fatal()).then_some(status.is_shut_down())
    })
}

/// Waits until `done` says so; `None` from it means the controller gave up.
fn wait(
    bus: &mut impl Bus,
    step: Step,
    deadline: Instant,
    done: impl Fn(ControllerStatus) -> Option<bool>,
) -> Result<(), ControllerError> {
    loop {
        bus.advance();
        let status = ControllerStatus(bus.read32(registers::STATUS));
        if status.is_gone() {
            return Err(ControllerError::Gone);
        }
        match done(status) {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => return Err(ControllerError::Fatal { step }),
        }
        if Instant::now() > deadline {
            return Err(ControllerError::Timeout { step });
        }
        std::thread::yield_now();
    }
}

/// Resets and enables the controller: afterwards its admin queue works, and nothing else.
pub(crate) fn enable(
    bus: &mut impl Bus,
    memory: &AdminMemory,
    capabilities: Capabilities,
) -> Result<AdminQueue, ControllerError> {
    disable(bus, capabilities)?;
    let admin = AdminQueue::new(memory, capabilities.doorbell_stride());
    let attributes = AdminQueueAttributes::new(ADMIN_ENTRIES);
    bus.write32(registers::ADMIN_QUEUE_ATTRIBUTES, attributes.0);
    bus.write64(registers::ADMIN_SUBMISSION_QUEUE, memory.submission().1);
    bus.write64(registers::ADMIN_COMPLETION_QUEUE, memory.completion().1);
    bus.write32(registers::CONFIGURATION, Configuration::ENABLED.0);
    wait(bus, Step::Enable, deadline(capabilities), |status| {
        (!status.is_fatal()).then_some(status.is_ready())
    })?;
    Ok(admin)
}
