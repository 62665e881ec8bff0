//! Faults on purpose, for the tests of the layers above.
//!
//! A [`Faults`] handle belongs to one emulated controller and may be used from any thread. What it
//! is told takes effect at the controller's next command. While it has been told nothing, it costs
//! one load and one branch a command. Faults that happen by chance draw from a seed, so the same
//! commands fail again.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use crate::contract::{Lba, LbaRange};
use crate::status::Status;

/// Which commands a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// Reads fail with Unrecovered Read Error (281h).
    Reads,
    /// Writes and write zeroes fail with Write Fault (280h) and change nothing.
    Writes,
    /// Flushes fail with Internal Error (06h) and destage nothing.
    Flushes,
}

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The next so many commands it is for.
    Next(u32),
    /// Every command it is for.
    Always,
    /// Each command it is for with a chance of one in `one_in` (not zero), drawn from `seed`.
    Chance {
        /// One in so many.
        one_in: u32,
        /// Where the numbers come from.
        seed: u64,
    },
}

/// What becomes of a command that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Struck {
    /// It fails.
    Failed(Status),
    /// It waits until it is aborted.
    Held,
    /// It is forgotten.
    Lost,
}

impl From<Status> for Struck {
    fn from(status: Status) -> Struck {
        Struck::Failed(status)
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Fail,
    Hold,
    Lose,
}

#[derive(Debug)]
struct Rule {
    deed: Deed,
    target: FaultTarget,
    blocks: Range<Lba>,
    times: Times,
    random: Random,
}

/// Bits to be flipped on the medium.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flip {
    pub(super) lba: Lba,
    pub(super) byte: u32,
    pub(super) mask: u8,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    flips: Vec<Flip>,
    removed: bool,
    /// The controller fails, and answers nothing until it is reset.
    fatal: bool,
    /// Its critical warnings change.
    warnings: Option<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether the plan holds anything.
    armed: AtomicBool,
    plan: Mutex<Plan>,
}

/// A handle to the faults of one emulated controller; cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

/// All blocks, for faults that do not care which.
pub const ANYWHERE: Range<Lba> = Lba(0)..Lba(u64::MAX);

impl Faults {
    /// Makes commands fail that touch `blocks` (flushes touch all).
    pub fn fail(&self, target: FaultTarget, blocks: Range<Lba>, times: Times) {
        self.add(Deed::Fail, target, blocks, times);
    }

    /// Makes commands take for ever, until they are aborted or the controller is reset.
    pub fn hold(&self, target: FaultTarget, blocks: Range<Lba>, times: Times) {
        self.add(Deed::Hold, target, blocks, times);
    }

    /// Makes the controller forget commands: not even an abort finds them, only a reset ends them.
    pub fn lose(&self, target: FaultTarget, blocks: Range<Lba>, times: Times) {
        self.add(Deed::Lose, target, blocks, times);
    }

    /// Stops the controller with a fatal status (CSTS.CFS) until it is reset.
    pub fn fail_controller(&self) {
        self.change(|plan| plan.fatal = true);
    }

    /// Changes the critical warnings (SMART / Health Information, byte 0), and reports that.
    pub fn warn(&self, warnings: u8) {
        self.change(|plan| plan.warnings = Some(warnings));
    }

    fn add(&self, deed: Deed, target: FaultTarget, blocks: Range<Lba>, times: Times) {
        let seed = match times {
            Times::Chance { seed, .. } => seed,
            Times::Next(_) | Times::Always => 0,
        };
        let random = Random::new(seed);
        self.change(|plan| plan.rules.push(Rule { deed, target, blocks, times, random }));
    }

    /// Flips the bits `mask` of byte `byte` of a block on the medium. What the volatile write
    /// cache holds of that block is not touched.
    pub fn flip_bits(&self, lba: Lba, byte: u32, mask: u8) {
        self.change(|plan| plan.flips.push(Flip { lba, byte, mask }));
    }

    /// Takes the device away: commands in flight and all later ones fail with
    /// [`Status::HOST_PATHING_ERROR`]. What was not flushed is lost.
    pub fn remove_device(&self) {
        self.change(|plan| plan.removed = true);
    }

    /// Ends every fault but the removal of the device.
    pub fn clear(&self) {
        self.change(|plan| {
            plan.rules.clear();
            plan.flips.clear();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        let mut plan = self.plan();
        change(&mut plan);
        self.rearm(&plan);
    }

    fn rearm(&self, plan: &Plan) {
        let whole = plan.removed || plan.fatal || plan.warnings.is_some();
        let armed = whole || !plan.rules.is_empty() || !plan.flips.is_empty();
        self.0.armed.store(armed, Ordering::Release);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        // A plan is whole between any two of its changes.
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the controller asks.
impl Faults {
    /// Whether there is anything to ask.
    #[inline]
    pub(super) fn is_armed(&self) -> bool {
        self.0.armed.load(Ordering::Acquire)
    }

    /// Whether the device is to go away.
    pub(super) fn is_removed(&self) -> bool {
        self.plan().removed
    }

    /// Whether the controller is to fail now.
    pub(super) fn take_fatal(&self) -> bool {
        let mut plan = self.plan();
        let fatal = std::mem::take(&mut plan.fatal);
        self.rearm(&plan);
        fatal
    }

    /// Critical warnings that are due.
    pub(super) fn take_warnings(&self) -> Option<u8> {
        let mut plan = self.plan();
        let warnings = plan.warnings.take();
        self.rearm(&plan);
        warnings
    }

    /// Takes the flips that are due.
    pub(super) fn take_flips(&self) -> Vec<Flip> {
        let mut plan = self.plan();
        let flips = std::mem::take(&mut plan.flips);
        self.rearm(&plan);
        flips
    }

    /// What becomes of a command, if a fault strikes it. `range` of `None` is all blocks.
    #[cold]
    pub(super) fn strike(&self, target: FaultTarget, range: Option<LbaRange>) -> Option<Struck> {
        let mut plan = self.plan();
        let mut meant =
            plan.rules.iter_mut().filter(|rule| rule.target == target && rule.touches(range));
        let struck = meant.find_map(|rule| rule.draw().then_some(rule.deed));
        plan.rules.retain(|rule| rule.times != Times::Next(0));
        self.rearm(&plan);
        let status = match target {
            FaultTarget::Reads => Status::UNRECOVERED_READ_ERROR,
            FaultTarget::Writes => Status::WRITE_FAULT,
            FaultTarget::Flushes => Status::INTERNAL_ERROR,
        };
        Some(match struck? {
            Deed::Fail => Struck::Failed(status),
            Deed::Hold => Struck::Held,
            Deed::Lose => Struck::Lost,
        })
    }
}

impl Rule {
    fn touches(&self, range: Option<LbaRange>) -> bool {
        let Some(range) = range else { return true };
        let end = range.end().unwrap_or(Lba(u64::MAX));
        range.start < self.blocks.end && self.blocks.start < end
    }

    /// Whether the rule strikes this time.
    fn draw(&mut self) -> bool {
        match &mut self.times {
            Times::Always => true,
            Times::Next(0) => false,
            Times::Next(left) => {
                *left -= 1;
                true
            }
            Times::Chance { one_in, .. } => self.random.below(u64::from((*one_in).max(1))) == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Option<LbaRange> = Some(LbaRange { start: Lba(8), blocks: 8 });

    #[test]
    fn rules_end_and_disarm() {
        let faults = Faults::default();
        assert!(!faults.is_armed());
        faults.fail(FaultTarget::Reads, Lba(15)..Lba(16), Times::Next(2));
        assert!(faults.is_armed());
        let missed = LbaRange { start: Lba(16), blocks: 4 };
        assert_eq!(faults.strike(FaultTarget::Reads, Some(missed)), None);
        assert_eq!(faults.strike(FaultTarget::Writes, RANGE), None);
        let expected = Some(Struck::Failed(Status::UNRECOVERED_READ_ERROR));
        assert_eq!(faults.strike(FaultTarget::Reads, RANGE), expected);
        assert_eq!(faults.strike(FaultTarget::Reads, RANGE), expected);
        assert_eq!(faults.strike(FaultTarget::Reads, RANGE), None);
        assert!(!faults.is_armed());
    }

    #[test]
    fn chance_repeats_with_its_seed() {
        let draw = |seed| {
            let faults = Faults::default();
            faults.fail(FaultTarget::Flushes, ANYWHERE, Times::Chance { one_in: 4, seed });
            (0..64).map(|_| faults.strike(FaultTarget::Flushes, None).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let struck = draw(3).into_iter().filter(|struck| *struck).count();
        assert!((4..32).contains(&struck), "{struck} of 64 at one in four");
    }
}
