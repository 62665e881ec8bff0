//! The inside of a disk: commands in flight, their touches and ends in time, and what they do.
//!
//! A command that is rung draws a latency, a few moments inside it, and for each of its sectors one
//! of these moments. Nothing orders commands among each other: where two meet in a sector, the
//! touches decide. Time passes only in [`Controller::advance`].

use std::collections::{BTreeMap, VecDeque};

use culvert_nvme::{METADATA_BYTES, Status};

use super::command::{Command, Held, Kind, Step, Turn};
use super::faults::{DiskFaults, DiskInjected};
use super::medium::{self, Content, Medium};
use super::options::DiskOptions;
use super::{SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::sim::random::Random;

/// Most moments at which one command touches memory and medium.
const TOUCHES_MAX: u64 = 4;

/// Something that happens inside at a moment.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A command carries out the steps of one of its touches.
    Touch { command: u64, touch: u8 },
    /// A command ends.
    End { command: u64 },
}

/// The disk's side of a queue pair.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Submitted and not rung.
    pub(super) queued: Vec<Command>,
    /// Ended and not visited, in the order in which they ended.
    pub(super) completed: VecDeque<Command>,
    /// Submitted and not visited.
    pub(super) in_flight: usize,
    /// It has seen the disk go away.
    pub(super) lost: bool,
}

/// Everything that outlives the queue pairs of a disk, and what they have in flight.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) options: DiskOptions,
    pub(super) faults: DiskFaults,
    pub(super) injected: DiskInjected,
    pub(super) medium: Medium,
    /// Queue pairs of processes that live, by number.
    pub(super) sessions: BTreeMap<u64, Session>,
    sessions_opened: u64,
    /// Rung and not ended, by number.
    pub(super) commands: BTreeMap<u64, Command>,
    commands_begun: u64,
    /// Commands that have ended, on any queue pair.
    pub(super) commands_ended: u64,
    /// What is to happen, by moment and then in the order in which it was planned.
    events: BTreeMap<(u64, u64), Event>,
    events_planned: u64,
    pub(super) now_ns: u64,
    timing: Random,
    /// Decides faults.
    pub(super) chance: Random,
    /// Decides what crashes leave behind.
    pub(super) crashes: Random,
}

impl Controller {
    pub(super) fn new(options: DiskOptions, mut random: Random) -> Controller {
        options.check();
        Controller {
            options,
            faults: DiskFaults::default(),
            injected: DiskInjected::default(),
            medium: Medium::default(),
            sessions: BTreeMap::new(),
            sessions_opened: 0,
            commands: BTreeMap::new(),
            commands_begun: 0,
            commands_ended: 0,
            events: BTreeMap::new(),
            events_planned: 0,
            now_ns: 0,
            timing: random.fork("timing"),
            chance: random.fork("faults"),
            crashes: random.fork("crashes"),
        }
    }

    /// Opens a queue pair and returns its number.
    pub(super) fn open(&mut self) -> u64 {
        assert!(self.commands.is_empty(), "a crash ends what an earlier process had in flight");
        self.sessions_opened += 1;
        let session = Session { lost: self.faults.gone, ..Session::default() };
        self.sessions.insert(self.sessions_opened, session);
        self.sessions_opened
    }

    /// The next moment at which something happens.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    /// Carries out everything that is due, in order.
    pub(super) fn advance(&mut self, now_ns: u64) {
        while let Some(entry) = self.events.first_entry() {
            let at_ns = entry.key().0;
            if at_ns > now_ns {
                break;
            }
            let event = entry.remove();
            debug_assert!(at_ns >= self.now_ns, "nothing is planned for the past");
            self.now_ns = at_ns;
            match event {
                Event::Touch { command, touch } => self.touch(command, touch),
                Event::End { command } => self.end(command),
            }
        }
        // A driven queue pair may have run ahead of the world.
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// Forgets everything that is planned.
    pub(super) fn forget_events(&mut self) {
        self.events.clear();
    }

    /// Takes up a command that was rung.
    pub(super) fn begin(&mut self, mut command: Command) {
        if self.is_gone_by_now() {
            return self.refuse(command);
        }
        self.commands_begun += 1;
        let number = self.commands_begun;
        command.covers = self.commands_ended;
        let latency_ns = self.draw_latency(command.kind);
        self.plan_touches(number, latency_ns, &mut command.steps);
        self.plan(latency_ns, Event::End { command: number });
        if command.kind == Kind::Deallocate {
            self.keep_some(&mut command.steps);
        }
        self.inject(&mut command);
        let is_flush = command.kind == Kind::Flush;
        self.commands.insert(number, command);
        if is_flush {
            self.update_flush_horizon();
        }
    }

    /// Counts a command, with which the disk may go away.
    fn is_gone_by_now(&mut self) -> bool {
        match &mut self.faults.gone_after {
            Some(0) => self.set_faults(DiskFaults { gone: true, ..self.faults.clone() }),
            Some(left) => *left -= 1,
            None => {}
        }
        self.faults.gone
    }

    fn draw_latency(&mut self, kind: Kind) -> u64 {
        let range_ns = match kind {
            Kind::Read => &self.options.read_ns,
            Kind::Flush => &self.options.flush_ns,
            Kind::Write | Kind::WriteZeroes | Kind::Deallocate => &self.options.write_ns,
        };
        self.injected.slowed += u64::from(self.faults.latency_factor > 1);
        self.timing.within(range_ns.clone()) * self.faults.latency_factor
    }

    /// Gives each step a turn with one of a few touches.
    fn plan_touches(&mut self, number: u64, latency_ns: u64, steps: &mut [Step]) {
        if steps.is_empty() {
            return;
        }
        let touches = 1 + self.timing.below(TOUCHES_MAX.min(steps.len() as u64));
        for touch in 0..touches as u8 {
            let after_ns = self.timing.below(latency_ns + 1);
            self.plan(after_ns, Event::Touch { command: number, touch });
        }
        for step in steps {
            step.turn = Turn::Touch(self.timing.below(touches) as u8);
        }
    }

    fn plan(&mut self, after_ns: u64, event: Event) {
        self.events_planned += 1;
        self.events.insert((self.now_ns + after_ns, self.events_planned), event);
    }

    /// What a deallocation leaves is undefined: here each sector is zero or as it was.
    fn keep_some(&mut self, steps: &mut [Step]) {
        for step in steps {
            if self.timing.below(2) == 0 {
                step.turn = Turn::Never;
            }
        }
    }

    fn update_flush_horizon(&mut self) {
        let flushes = self.commands.values().filter(|command| command.kind == Kind::Flush);
        self.medium.flush_horizon = flushes.map(|flush| flush.covers).min();
    }

    fn touch(&mut self, number: u64, touch: u8) {
        let command = self.commands.get_mut(&number).expect("its events go with a command");
        for index in 0..command.steps.len() {
            if command.steps[index].turn == Turn::Touch(touch) {
                carry_out(&mut self.medium, number, command, index);
            }
        }
    }

    fn end(&mut self, number: u64) {
        let mut command = self.commands.remove(&number).expect("its events go with a command");
        self.finish(number, &mut command);
        self.deliver(command);
    }

    /// What a command does at its end.
    pub(super) fn finish(&mut self, number: u64, command: &mut Command) {
        self.commands_ended += 1;
        match command.kind {
            Kind::Read => {
                let unreadable = command.status.same_code(Status::UNRECOVERED_READ_ERROR);
                self.injected.read_errors += u64::from(unreadable);
            }
            Kind::Flush => {
                if command.status.is_success() {
                    self.medium.flush(command.covers);
                } else {
                    self.medium.flush_in_part(command.covers, &mut self.chance);
                }
                self.update_flush_horizon();
            }
            Kind::Write | Kind::WriteZeroes | Kind::Deallocate => {
                self.finish_write(number, command)
            }
        }
    }

    fn finish_write(&mut self, number: u64, command: &Command) {
        let is_forced = command.fua && command.status.is_success();
        let is_durable = is_forced || !self.options.volatile_write_cache;
        for step in &command.steps {
            self.medium.end(step.sector, number, self.commands_ended);
            if is_durable {
                self.medium.settle(step.sector, number);
            }
        }
    }

    /// Lets the queue pair of a command visit it.
    pub(super) fn deliver(&mut self, command: Command) {
        if let Some(session) = self.sessions.get_mut(&command.session) {
            session.completed.push_back(command);
        }
    }

    /// The bytes of a block of 4 KiB, as a read would find them or as they are durable.
    pub(super) fn block(&self, block: u64, durable: bool) -> [u8; super::BLOCK_BYTES] {
        assert!(block < self.options.sectors() / SECTORS_PER_BLOCK, "block {block} of the disk");
        medium::block_of(block, |sector| match durable {
            true => self.medium.durable(sector),
            false => self.medium.newest(sector),
        })
    }
}

/// Moves one sector between memory and medium.
pub(super) fn carry_out(medium: &mut Medium, number: u64, command: &mut Command, index: usize) {
    let step = command.steps[index];
    let Step { sector, offset, .. } = step;
    command.steps[index].turn = Turn::Done;
    match &mut command.held {
        Held::Buffer(buffer) => match medium.read(sector) {
            Ok(bytes) => buffer.copy_from_slice(offset, &bytes[..step.bytes()]),
            Err(medium::Unreadable) => command.status = Status::UNRECOVERED_READ_ERROR,
        },
        Held::Pages(pages) => {
            let mut bytes = Box::new([0; SECTOR_BYTES]);
            if step.is_metadata() {
                bytes[..METADATA_BYTES].copy_from_slice(&command.metadata);
            } else {
                pages.copy_to_slice(offset, &mut bytes[..]);
            }
            if let Some((_, bit)) = command.flip.filter(|(step, _)| *step == index) {
                medium::flip_bit(&mut bytes[..step.bytes()], bit);
            }
            medium.write(sector, Content::Some(bytes), number);
        }
        Held::Nothing => medium.write(sector, Content::None, number),
    }
}
