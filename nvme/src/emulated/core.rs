//! A controller and what it can reach: everything that moves when it works.

use super::controller::Controller;
use super::host_memory::HostMemory;

/// Controller and host memory, kept together since the one works on the other.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) controller: Controller,
    pub(super) memory: HostMemory,
}

impl Core {
    /// Executes up to `budget` commands; returns how many completions were posted.
    #[inline]
    pub(super) fn step(&mut self, budget: usize) -> usize {
        self.controller.step(&self.memory, budget)
    }

    /// Whether a step would find something to do.
    pub(super) fn has_work(&self) -> bool {
        self.controller.has_work()
    }
}
