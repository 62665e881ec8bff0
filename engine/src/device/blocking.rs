//! One command at a time, waited for: for formatting, reading headers and checking, never for the
//! data plane.

use culvert_memory::{Buffer, Pages};
use culvert_nvme::{Completion, Lba, Operation, QueuePair, Status, Submission, Tag};

/// Completions that one poll visits.
const POLL_BUDGET: usize = 64;

/// Why a command did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceIoError {
    /// Device: it said so.
    #[error("the device failed at {lba}: {status}")]
    Device {
        /// The first block of the command.
        lba: Lba,
        /// What the device said.
        status: Status,
    },
    /// Caller: the pool has no pages for the command.
    #[error("too few pages in the pool")]
    Memory,
}

/// A queue pair that nobody else uses meanwhile.
pub struct Blocking<'q, Q: QueuePair + ?Sized> {
    queue: &'q mut Q,
}

impl<'q, Q: QueuePair + ?Sized> Blocking<'q, Q> {
    /// Uses a queue pair; the caller has registered the memory.
    pub fn new(queue: &'q mut Q) -> Blocking<'q, Q> {
        Blocking { queue }
    }

    /// The queue pair.
    pub fn queue(&mut self) -> &mut Q {
        self.queue
    }

    /// Fills a buffer from a byte of the device on.
    ///
    /// # Errors
    ///
    /// [`DeviceIoError::Device`].
    pub fn read(&mut self, at: u64, buffer: Buffer) -> Result<Buffer, DeviceIoError> {
        let lba = self.lba(at);
        let done = self.run(Operation::Read { lba, buffer });
        success(lba, done.status)?;
        Ok(done.buffer.expect("a read hands its buffer back"))
    }

    /// Writes pages from a byte of the device on, durably.
    ///
    /// # Errors
    ///
    /// [`DeviceIoError::Device`].
    pub fn write(&mut self, at: u64, pages: Pages) -> Result<(), DeviceIoError> {
        let fua = self.queue.namespace().volatile_write_cache;
        let lba = self.lba(at);
        success(lba, self.run(Operation::Write { lba, pages, fua }).status)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// [`DeviceIoError::Device`].
    pub fn flush(&mut self) -> Result<(), DeviceIoError> {
        success(Lba(0), self.run(Operation::Flush).status)
    }

    fn lba(&self, at: u64) -> Lba {
        Lba(at / u64::from(self.queue.namespace().block_size))
    }

    /// Runs one command. Nothing else is in flight, so the queue has room for it.
    fn run(&mut self, operation: Operation) -> Completion {
        let submission = Submission { tag: Tag(0), operation };
        if self.queue.submit(submission).is_err() {
            unreachable!("nothing else is in flight");
        }
        self.queue.ring();
        let mut done = None;
        while done.is_none() {
            self.queue.poll(POLL_BUDGET, &mut |completion| done = Some(completion));
        }
        done.expect("the loop ends with it")
    }
}

fn success(lba: Lba, status: Status) -> Result<(), DeviceIoError> {
    if status.is_success() { Ok(()) } else { Err(DeviceIoError::Device { lba, status }) }
}
