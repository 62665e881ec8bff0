//! Commands in flight: a fixed table keyed by command identifier.
//!
//! Identifiers come from a free list and not from the position in the submission queue, since
//! completions arrive in any order. The table also holds what was moved into each operation until
//! its completion hands it back, and the answers to operations that no device ever saw.

use std::collections::VecDeque;

use culvert_memory::{Buffer, Pages};

use crate::contract::{Completion, Tag};
use crate::counters::Counters;
use crate::status::Status;
use crate::submission_entry::CommandId;

/// What a command is, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
    WriteZeroes,
    Deallocate,
}

/// What was moved into an operation.
#[derive(Debug)]
pub(crate) enum Held {
    Nothing,
    Buffer(Buffer),
    Pages(Pages),
}

/// Time of whoever looks after commands that take too long. It goes round; so commands are looked
/// at far more often than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(u8);

impl Tick {
    /// Ticks from `earlier` to this.
    pub(crate) fn since(self, earlier: Tick) -> u8 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The tick of a time, where so many nanoseconds are one.
    pub(crate) fn at(now_ns: u64, tick_ns: u64) -> Tick {
        Tick((now_ns / tick_ns) as u8)
    }
}

/// A command in flight.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) tag: Tag,
    pub(crate) kind: Kind,
    pub(crate) held: Held,
    /// Bytes that it transfers.
    pub(crate) bytes: u32,
    /// Since which tick it is in flight, or its abort was asked for ([`Tick`]).
    pub(crate) since: Tick,
    /// Whether its abort was asked for.
    pub(crate) abort_asked: bool,
    /// Set once an answer waits in the table: the device's, should one come, is not for it.
    answered: bool,
}

impl Command {
    pub(crate) fn new(tag: Tag, kind: Kind, held: Held, bytes: u32) -> Command {
        Command { tag, kind, held, bytes, since: Tick(0), abort_asked: false, answered: false }
    }

    /// Counts the command and hands back what it held.
    #[inline]
    pub(crate) fn complete(self, status: Status, counters: &mut Counters) -> Completion {
        let bytes = if status.is_success() { u64::from(self.bytes) } else { 0 };
        counters.errors += u64::from(!status.is_success());
        match self.kind {
            Kind::Read => {
                counters.reads += 1;
                counters.bytes_read += bytes;
            }
            Kind::Write => {
                counters.writes += 1;
                counters.bytes_written += bytes;
            }
            Kind::Flush => counters.flushes += 1,
            Kind::WriteZeroes => counters.write_zeroes += 1,
            Kind::Deallocate => counters.deallocates += 1,
        }
        let (buffer, pages) = match self.held {
            Held::Nothing => (None, None),
            Held::Buffer(buffer) => (Some(buffer), None),
            Held::Pages(pages) => (None, Some(pages)),
        };
        Completion { tag: self.tag, status, buffer, pages }
    }
}

/// The commands in flight on one queue pair.
#[derive(Debug)]
pub(crate) struct CommandTable {
    slots: Box<[Option<Command>]>,
    /// Identifiers not in use; a stack, so that the one used last is warm.
    free: Vec<u16>,
    /// Answers that came from no device, oldest first; at most one for each slot.
    answers: VecDeque<(CommandId, Status)>,
}

impl CommandTable {
    /// A table for `depth` commands.
    pub(crate) fn new(depth: u16) -> CommandTable {
        assert!(depth > 0, "a queue pair has a depth");
        CommandTable {
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            answers: VecDeque::with_capacity(usize::from(depth)),
        }
    }

    /// Most commands in flight.
    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Commands in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The identifier that the next [`CommandTable::insert`] uses; `None` when the table is full.
    #[inline]
    pub(crate) fn next_id(&self) -> Option<CommandId> {
        self.free.last().copied().map(CommandId)
    }

    /// Puts a command in flight.
    ///
    /// # Panics
    ///
    /// When the table is full.
    #[inline]
    pub(crate) fn insert(&mut self, command: Command) -> CommandId {
        let id = self.free.pop().expect("next_id said that there is room");
        let slot = &mut self.slots[usize::from(id)];
        debug_assert!(slot.is_none(), "a free identifier is not in flight");
        *slot = Some(command);
        CommandId(id)
    }

    /// The command `id`, if it is in flight and has no answer yet.
    pub(crate) fn get(&self, id: CommandId) -> Option<&Command> {
        let command = self.slots.get(usize::from(id.0))?.as_ref()?;
        (!command.answered).then_some(command)
    }

    /// Takes out the command that the device has completed; `None` when it was not the device's
    /// to complete.
    #[inline]
    pub(crate) fn take(&mut self, id: CommandId) -> Option<Command> {
        let slot = self.slots.get_mut(usize::from(id.0))?;
        if slot.as_ref()?.answered {
            return None;
        }
        let command = slot.take();
        self.free.push(id.0);
        command
    }

    /// Answers a command on behalf of the device, which must not know of it any more.
    ///
    /// # Panics
    ///
    /// When it is not in flight.
    pub(crate) fn answer(&mut self, id: CommandId, status: Status) {
        let command = self.slots[usize::from(id.0)].as_mut().expect("the command is in flight");
        assert!(!command.answered, "a command has one answer");
        command.answered = true;
        self.answers.push_back((id, status));
    }

    /// Answers every command in flight that has no answer yet.
    pub(crate) fn answer_all(&mut self, status: Status) {
        for id in 0..self.slots.len() {
            let id = CommandId(id as u16);
            if self.get(id).is_some() {
                self.answer(id, status);
            }
        }
    }

    /// Whether an answer waits to be taken.
    #[inline]
    pub(crate) fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Takes out the command with the oldest waiting answer.
    pub(crate) fn take_answer(&mut self) -> Option<(Command, Status)> {
        let (id, status) = self.answers.pop_front()?;
        let command = self.slots[usize::from(id.0)].take().expect("an answer has its command");
        self.free.push(id.0);
        Some((command, status))
    }

    /// Visits up to `budget` answers, oldest first; answers how many.
    #[cold]
    pub(crate) fn visit_answers(
        &mut self,
        budget: usize,
        counters: &mut Counters,
        complete: &mut dyn FnMut(Completion),
    ) -> usize {
        let mut visited = 0;
        while visited < budget {
            let Some((command, status)) = self.take_answer() else { break };
            complete(command.complete(status, counters));
            visited += 1;
        }
        visited
    }

    /// The command that has been in flight for longest, among those without an answer.
    pub(crate) fn oldest(&mut self, now: Tick) -> Option<(CommandId, &mut Command)> {
        let slots = self.slots.iter_mut().enumerate();
        let unanswered = slots.filter_map(|(id, slot)| {
            let command = slot.as_mut().filter(|command| !command.answered)?;
            Some((CommandId(id as u16), command))
        });
        unanswered.max_by_key(|(_, command)| now.since(command.since))
    }

    /// Keeps what commands in flight hold from being given back, for ever.
    pub(crate) fn forget(&mut self) {
        self.slots.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
    }

    /// The identifier of the command with this tag that has no answer yet. Searches.
    pub(crate) fn find(&self, tag: Tag) -> Option<CommandId> {
        (0..self.slots.len() as u16)
            .map(CommandId)
            .find(|id| self.get(*id).is_some_and(|command| command.tag == tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn flush(tag: u64) -> Command {
        Command::new(Tag(tag), Kind::Flush, Held::Nothing, 0)
    }

    #[test]
    fn a_full_table_has_no_identifier() {
        let mut table = CommandTable::new(2);
        table.insert(flush(1));
        let second = table.insert(flush(2));
        assert_eq!(table.next_id(), None);
        assert_eq!(table.in_flight(), 2);
        assert_eq!(table.take(second).map(|command| command.tag), Some(Tag(2)));
        assert_eq!(table.next_id(), Some(second));
        assert!(table.take(second).is_none());
        assert!(table.take(CommandId(7)).is_none());
    }

    #[test]
    fn an_answered_command_is_not_the_devices() {
        let mut table = CommandTable::new(2);
        let id = table.insert(flush(1));
        table.answer(id, Status::INVALID_FIELD);
        assert!(table.take(id).is_none());
        assert!(table.find(Tag(1)).is_none());
        let (command, status) = table.take_answer().expect("one answer");
        assert_eq!((command.tag, status), (Tag(1), Status::INVALID_FIELD));
        assert_eq!(table.in_flight(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0u8..4, any::<u16>()), 0..200)) {
            let mut table = CommandTable::new(8);
            let mut model: BTreeMap<u16, (u64, bool)> = BTreeMap::new();
            for (tag, (action, choice)) in steps.into_iter().enumerate() {
                let tag = tag as u64;
                match action {
                    0 | 1 if model.len() < 8 => {
                        let expected = table.next_id();
                        let id = table.insert(flush(tag));
                        prop_assert_eq!(expected, Some(id));
                        prop_assert!(model.insert(id.0, (tag, false)).is_none());
                    }
                    2 => {
                        let id = choice % 8;
                        let expected = match model.get(&id) {
                            Some((tag, false)) => Some(Tag(*tag)),
                            _ => None,
                        };
                        let taken = table.take(CommandId(id)).map(|command| command.tag);
                        prop_assert_eq!(taken, expected);
                        if expected.is_some() {
                            model.remove(&id);
                        }
                    }
                    3 => {
                        let id = choice % 8;
                        if let Some((_, answered @ false)) = model.get_mut(&id) {
                            table.answer(CommandId(id), Status::INTERNAL_ERROR);
                            *answered = true;
                        }
                    }
                    _ => {
                        if let Some((command, _)) = table.take_answer() {
                            let position = model
                                .iter()
                                .find(|(_, value)| **value == (command.tag.0, true))
                                .map(|(id, _)| *id);
                            prop_assert!(position.is_some());
                            model.remove(&position.expect("checked"));
                        }
                    }
                }
                prop_assert_eq!(table.in_flight(), model.len());
            }
        }
    }
}
