//! The way back: completions into durable batches and events.

use culvert_nvme::{Completion, Status};

use super::{Event, FailedCommand, Failure, Purpose, Shard};
use crate::stages::Stage;

impl Shard {
    /// Takes a completion of one of this shard's commands; what it brought about goes to `events`.
    /// Returns the stage that ended with it, if one did, and when its command was submitted.
    pub fn complete(
        &mut self,
        _now: u64,
        completion: Completion,
        events: &mut Vec<Event>,
    ) -> Option<(Stage, u64)> {
        let Completion { tag, status, buffer, pages } = completion;
        drop(pages);
        let (purpose, submitted_ns) = self.commands.finish(tag)?;
        let mut stage = status.is_success().then(|| stage_of(purpose)).flatten();
        match purpose {
            Purpose::Read { token } => {
                let buffer = buffer.expect("a read hands its buffer back");
                events.push(Event::ReadDone { token, buffer, status });
                if status.is_device_gone() {
                    self.fail(FailedCommand::Read, status);
                    self.tell_failure(events);
                }
                return stage.map(|stage| (stage, submitted_ns));
            }
            Purpose::Deallocate => {
                for extent in self.deallocating.drain(..) {
                    self.store.deallocated(extent);
                }
                return None;
            }
            _ => {}
        }
        if !status.is_success() {
            self.fail(failed_command(purpose), status);
        }
        if self.failure.is_none() {
            self.advance(purpose, events);
        }
        if let Purpose::Journal(_) = purpose
            && self.appender.is_writing()
        {
            // The batch takes more than one command, and others of them are still out.
            stage = None;
        }
        if std::mem::take(&mut self.checkpoint_too_large) {
            events.push(Event::CheckpointTooLarge);
        }
        self.tell_failure(events);
        stage.map(|stage| (stage, submitted_ns))
    }

    /// Says once that the shard is poisoned.
    fn tell_failure(&mut self, events: &mut Vec<Event>) {
        if let Some(failure) = self.failure
            && !self.failure_told
        {
            self.failure_told = true;
            events.push(Event::Failed(failure));
        }
    }

    /// A write or a flush succeeded.
    fn advance(&mut self, purpose: Purpose, events: &mut Vec<Event>) {
        match purpose {
            Purpose::Payload(batch) => self.batches.payload_done(batch),
            Purpose::PayloadWithEntry(batch) => {
                self.batches.payload_done(batch);
                self.appender.metadata_written();
            }
            Purpose::Journal(batch) => {
                if self.batches.journal_done(batch) {
                    self.appender.written();
                }
            }
            Purpose::Flush => self.batches.flush_done(),
            Purpose::CheckpointRun(run) => self.checkpointing.run_done(run),
            Purpose::CheckpointFlush => self.checkpoint_flushed(),
            Purpose::Superblock => self.superblock_done(events),
            Purpose::Read { .. } | Purpose::Deallocate => unreachable!("dealt with before"),
        }
        let marked = self.batches.marked();
        if let Some(durable) = self.batches.advance() {
            events.push(Event::Durable(durable));
            if self.batches.marked() > marked {
                self.store.durable(self.batches.marked());
            }
        }
        self.begin_flush();
    }

    /// Poisons the shard.
    fn fail(&mut self, what: FailedCommand, status: Status) {
        self.failure.get_or_insert(Failure { what, status });
    }
}

/// The stage that ends with a command.
fn stage_of(purpose: Purpose) -> Option<Stage> {
    match purpose {
        Purpose::Payload(_) | Purpose::PayloadWithEntry(_) => Some(Stage::DeviceWrite),
        Purpose::Journal(_) => Some(Stage::JournalWrite),
        Purpose::Flush => Some(Stage::DeviceFlush),
        Purpose::Read { .. } => Some(Stage::DeviceRead),
        Purpose::CheckpointRun(_)
        | Purpose::CheckpointFlush
        | Purpose::Superblock
        | Purpose::Deallocate => None,
    }
}

fn failed_command(purpose: Purpose) -> FailedCommand {
    match purpose {
        Purpose::Payload(_) | Purpose::PayloadWithEntry(_) => FailedCommand::Payload,
        Purpose::Journal(_) => FailedCommand::Journal,
        Purpose::Flush | Purpose::CheckpointFlush => FailedCommand::Flush,
        Purpose::CheckpointRun(_) => FailedCommand::Checkpoint,
        Purpose::Superblock => FailedCommand::Superblock,
        Purpose::Read { .. } | Purpose::Deallocate => unreachable!("they do not poison"),
    }
}
