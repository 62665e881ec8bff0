//! The end of what is in flight: a process dies, the power fails, or the disk goes away.
//!
//! A command in flight is at random carried out as if it had ended, in part, or no further than it
//! has come. Memory of the process is read for that, for the last time, and never written.

use culvert_nvme::Status;

use super::command::{Command, Kind, Turn};
use super::controller::{Controller, carry_out};
use super::faults::DiskFaults;

/// What ends the process that uses a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It dies alone: the disk keeps its cache.
    Kill,
    /// The power fails: each sector that is not durable is kept or lost.
    Power,
}

impl Controller {
    /// Ends all queue pairs; nothing of theirs is visited any more.
    pub(super) fn crash(&mut self, now_ns: u64, kind: Crash) {
        self.advance(now_ns);
        self.cut(drop);
        self.sessions.clear();
        if kind == Crash::Power {
            let (lost, kept) = self.medium.lose_power(&mut self.crashes);
            self.injected.lost_sectors += lost;
            self.injected.kept_sectors += kept;
        }
    }

    /// Switches faults on or off; a disk that goes away answers at once.
    pub(super) fn set_faults(&mut self, faults: DiskFaults) {
        assert!(faults.latency_factor > 0, "a command takes some time");
        let goes_away = faults.gone && !self.faults.gone;
        self.faults = faults;
        if goes_away {
            self.go_away();
        }
    }

    /// A command meets a disk that is not there.
    pub(super) fn refuse(&mut self, mut command: Command) {
        command.status = Status::HOST_PATHING_ERROR;
        self.injected.gone += 1;
        self.deliver(command);
    }

    fn go_away(&mut self) {
        let mut in_flight = Vec::new();
        self.cut(|command| in_flight.push(command));
        for session in self.sessions.values_mut() {
            session.lost = true;
            in_flight.append(&mut session.queued);
        }
        in_flight.into_iter().for_each(|command| self.refuse(command));
    }

    /// Takes every command in flight out, in any order, after it has done what it may still do.
    fn cut(&mut self, mut release: impl FnMut(Command)) {
        self.forget_events();
        let mut numbers: Vec<u64> = self.commands.keys().copied().collect();
        while !numbers.is_empty() {
            let next = self.crashes.below(numbers.len() as u64) as usize;
            let number = numbers.swap_remove(next);
            let mut command = self.commands.remove(&number).expect("it was listed");
            if command.kind != Kind::Read {
                self.cut_one(number, &mut command);
            }
            self.injected.cut += 1;
            release(command);
        }
        // The disk has seen the end of them all: what they stored is as good as any other write.
        self.medium.end_all(self.commands_ended);
        if !self.options.volatile_write_cache {
            self.medium.settle_all();
        }
    }

    fn cut_one(&mut self, number: u64, command: &mut Command) {
        let outcome = self.crashes.below(3);
        if outcome == 0 {
            return;
        }
        let is_whole = outcome == 1;
        for index in 0..command.steps.len() {
            let is_due = matches!(command.steps[index].turn, Turn::Touch(_));
            if is_due && (is_whole || self.crashes.below(2) == 0) {
                carry_out(&mut self.medium, number, command, index);
            }
        }
        if is_whole {
            self.finish(number, command);
        }
    }
}
