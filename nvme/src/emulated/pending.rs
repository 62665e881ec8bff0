//! Commands that were fetched and not yet executed.
//!
//! In order, or in an order drawn from a seed: then a random number of them is executed at each
//! step, each picked at random, which is as much freedom as the specification gives a controller
//! (NVM Express Base Specification 2.0, section 3.4.1).

use std::collections::VecDeque;

use super::faults::Struck;
use super::random::Random;
use crate::status::Status;
use crate::submission_entry::{CommandId, SubmissionEntry};

/// Command identifiers, one bit each.
const ID_WORDS: usize = (1 << 16) / 64;

/// Which of several pending commands is executed next.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// The oldest, and all of them at each step.
    Fetched,
    /// Any of them.
    Shuffled(Random),
}

/// A command that was fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingCommand {
    pub(super) entry: SubmissionEntry,
    /// I/O completions posted before the command was fetched: those a flush covers.
    pub(super) posted_before: u64,
    /// The status of a command that is not to be executed.
    pub(super) verdict: Option<Status>,
}

impl PendingCommand {
    pub(super) fn id(&self) -> CommandId {
        CommandId(self.entry.command_id.get())
    }
}

/// The pending commands of one submission queue.
#[derive(Debug)]
pub(super) struct Pending {
    commands: VecDeque<PendingCommand>,
    /// Commands that a fault keeps from being executed.
    held: Vec<PendingCommand>,
    /// Identifiers that were fetched and have no completion yet.
    ids: Box<[u64]>,
    order: Order,
}

impl Pending {
    pub(super) fn new(order: Order) -> Pending {
        let ids = vec![0; ID_WORDS].into_boxed_slice();
        Pending { commands: VecDeque::new(), held: Vec::new(), ids, order }
    }

    /// Makes room for all that a queue of `entries` entries can hold.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.commands.reserve(entries);
    }

    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.held.clear();
        self.ids.fill(0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Adds a command. One whose identifier is still in use will fail with Command ID Conflict.
    #[inline]
    pub(super) fn push(&mut self, entry: SubmissionEntry, posted_before: u64) {
        let id = entry.command_id.get();
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        let conflict = self.ids[word] & bit != 0;
        self.ids[word] |= bit;
        let verdict = conflict.then_some(Status::COMMAND_ID_CONFLICT);
        self.commands.push_back(PendingCommand { entry, posted_before, verdict });
    }

    /// How many commands may be executed in this step.
    #[inline]
    pub(super) fn turn(&mut self) -> usize {
        match &mut self.order {
            Order::Shuffled(random) if !self.commands.is_empty() => {
                1 + random.below(self.commands.len() as u64) as usize
            }
            _ => usize::MAX,
        }
    }

    /// Takes the command to be executed next.
    #[inline]
    pub(super) fn take(&mut self) -> Option<PendingCommand> {
        match &mut self.order {
            Order::Fetched => self.commands.pop_front(),
            Order::Shuffled(_) if self.commands.is_empty() => None,
            Order::Shuffled(random) => {
                let index = random.below(self.commands.len() as u64) as usize;
                self.commands.swap_remove_back(index)
            }
        }
    }

    /// Frees the identifier of a command whose completion was posted.
    #[inline]
    pub(super) fn retire(&mut self, id: CommandId) {
        self.ids[usize::from(id.0 / 64)] &= !(1 << (id.0 % 64));
    }

    /// What becomes of a command that was taken and did not succeed: the status of its completion;
    /// `None` when it has none, yet or ever.
    #[cold]
    pub(super) fn suffer(&mut self, command: &PendingCommand, struck: Struck) -> Option<Status> {
        match struck {
            Struck::Failed(status) => Some(status),
            Struck::Held => {
                self.held.push(*command);
                None
            }
            Struck::Lost => None,
        }
    }

    /// Condemns a command that was not executed yet; false when there is none.
    pub(super) fn abort(&mut self, id: CommandId) -> bool {
        if let Some(index) = self.held.iter().position(|command| command.id() == id) {
            self.commands.push_back(self.held.swap_remove(index));
        }
        let found = self
            .commands
            .iter_mut()
            .find(|command| command.id() == id && command.verdict.is_none());
        match found {
            Some(command) => {
                command.verdict = Some(Status::ABORT_REQUESTED);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission_entry::{NamespaceId, io_opcode};

    fn entry(id: u16) -> SubmissionEntry {
        SubmissionEntry::new(io_opcode::FLUSH, CommandId(id), NamespaceId(1))
    }

    #[test]
    fn a_conflict_condemns_the_second_command() {
        let mut pending = Pending::new(Order::Fetched);
        pending.push(entry(9), 0);
        pending.push(entry(9), 3);
        assert_eq!(pending.take().and_then(|command| command.verdict), None);
        let second = pending.take().expect("two commands");
        assert_eq!(second.verdict, Some(Status::COMMAND_ID_CONFLICT));
        assert_eq!(second.posted_before, 3);
        pending.retire(CommandId(9));
        pending.push(entry(9), 4);
        assert_eq!(pending.take().expect("one command").verdict, None);
    }

    #[test]
    fn shuffling_takes_every_command_once() {
        let mut pending = Pending::new(Order::Shuffled(Random::new(5)));
        for id in 0..100 {
            pending.push(entry(id), 0);
        }
        let mut taken = Vec::new();
        while !pending.is_empty() {
            for _ in 0..pending.turn() {
                taken.extend(pending.take().map(|command| command.id().0));
            }
        }
        assert_ne!(taken, (0..100).collect::<Vec<_>>());
        taken.sort_unstable();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn only_pending_commands_can_be_aborted() {
        let mut pending = Pending::new(Order::Fetched);
        pending.push(entry(1), 0);
        assert!(!pending.abort(CommandId(2)));
        assert!(pending.abort(CommandId(1)));
        assert!(!pending.abort(CommandId(1)));
        assert_eq!(pending.take().expect("one").verdict, Some(Status::ABORT_REQUESTED));
    }
}
