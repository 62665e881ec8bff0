//! Whole volumes to and from files.
//!
//! A bounded number of operations of up to 1 MiB is kept in flight; the file is read and written
//! in order, so that a pipe will do, and hashed on the way. Everything is written, zeroes too.
//! Leaders may change meanwhile: repeating is the client's business. A write whose outcome is
//! unknown is simply made again, because nobody else is expected to write there.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use culvert_memory::{Buffer, Pages};
use sha2::{Digest, Sha256};

use super::clock::Clock;
use super::{
    Client, ClientError, Completion, Operation, Refusal, SUBMISSION_BLOCKS_MAX, VolumeHandle,
};
use crate::ids::BLOCK_SIZE;
use crate::network::Network;

/// How often a write whose outcome is unknown is made again.
const REPEATS_MAX: u32 = 8;

/// How to transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// Operations in flight.
    pub depth: u32,
    /// Blocks of one operation: 1 to 256.
    pub operation_blocks: u32,
}

impl Default for TransferOptions {
    fn default() -> TransferOptions {
        TransferOptions { depth: 8, operation_blocks: SUBMISSION_BLOCKS_MAX }
    }
}

/// What was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferReport {
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of these bytes.
    pub sha256: [u8; 32],
}

/// Why a transfer ended early. The volume or the file is written in part then.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Caller: the options make no sense.
    #[error(
        "a transfer needs a depth of at least 1 and operations of 1 to {SUBMISSION_BLOCKS_MAX} blocks"
    )]
    Options,
    /// Caller: the file is longer than the volume.
    #[error("the file is longer than the volume's {volume_bytes} bytes")]
    TooLong {
        /// Size of the volume.
        volume_bytes: u64,
    },
    /// Machine: the file cannot be read or written.
    #[error("the file failed at byte {offset}")]
    File {
        /// Where.
        offset: u64,
        /// The machine's answer.
        source: io::Error,
    },
    /// Cluster: an operation failed.
    #[error("the volume failed at byte {offset}")]
    Volume {
        /// Where the operation began.
        offset: u64,
        /// How it failed.
        source: ClientError,
    },
    /// Machine: the pool has no pages for even one operation.
    #[error("the pool has no free pages for a transfer")]
    NoPages,
}

/// Writes all of `source` to the start of a volume. Its last block is filled up with zeroes; what
/// the volume has behind it stays as it is. `progress` is told how many bytes are safe.
///
/// The client must have nothing else in flight.
///
/// # Errors
///
/// [`TransferError`] says what failed and where.
///
/// # Panics
///
/// If the client has something in flight.
pub fn import<N: Network>(
    client: &mut Client<N>,
    clock: &Clock,
    volume: VolumeHandle,
    source: &mut dyn Read,
    options: &TransferOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<TransferReport, TransferError> {
    let mut transfer = Transfer::new(client, clock, volume, options)?;
    let result = transfer.import(source, progress);
    transfer.drain();
    result
}

/// Writes all of a volume to `target`. `progress` is told how many bytes are written.
///
/// The client must have nothing else in flight.
///
/// # Errors
///
/// [`TransferError`] says what failed and where.
///
/// # Panics
///
/// If the client has something in flight.
pub fn export<N: Network>(
    client: &mut Client<N>,
    clock: &Clock,
    volume: VolumeHandle,
    target: &mut dyn Write,
    options: &TransferOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<TransferReport, TransferError> {
    let mut transfer = Transfer::new(client, clock, volume, options)?;
    let result = transfer.export(target, progress);
    transfer.drain();
    result
}

/// An operation of the transfer, in the order of the file.
struct Step {
    token: u64,
    /// First byte in file and volume.
    offset: u64,
    /// Bytes of the file.
    bytes: u64,
    content: Content,
    repeats: u32,
    /// How it ended.
    result: Option<Result<(), ClientError>>,
}

/// The memory of a step.
enum Content {
    /// What is written, kept for a repetition.
    Source(Pages),
    /// Where to copy what was read: landing pages are not kept until older steps are done.
    Target(Buffer),
}

struct Transfer<'c, N: Network> {
    client: &'c mut Client<N>,
    clock: &'c Clock,
    volume: VolumeHandle,
    depth: usize,
    operation_blocks: u32,
    /// Steps that are not done, oldest first; their tokens are consecutive.
    steps: VecDeque<Step>,
    next_token: u64,
    hash: Sha256,
    /// Bytes of all steps that are done.
    done: u64,
}

impl<'c, N: Network> Transfer<'c, N> {
    fn new(
        client: &'c mut Client<N>,
        clock: &'c Clock,
        volume: VolumeHandle,
        options: &TransferOptions,
    ) -> Result<Transfer<'c, N>, TransferError> {
        assert_eq!(client.in_flight(), 0, "the completions of others would be lost");
        let (depth, operation_blocks) = (options.depth as usize, options.operation_blocks);
        if depth == 0 || !(1..=SUBMISSION_BLOCKS_MAX).contains(&operation_blocks) {
            return Err(TransferError::Options);
        }
        Ok(Transfer {
            client,
            clock,
            volume,
            depth,
            operation_blocks,
            steps: VecDeque::with_capacity(depth),
            next_token: 0,
            hash: Sha256::new(),
            done: 0,
        })
    }

    fn import(
        &mut self,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<TransferReport, TransferError> {
        let mut read = 0;
        let mut ended = false;
        loop {
            while !ended && self.steps.len() < self.depth {
                let Some(mut buffer) = self.acquire(self.operation_blocks)? else { break };
                let bytes = self.read_source(source, read, &mut buffer)?;
                ended = bytes < buffer.len();
                if bytes > 0 {
                    self.start_write(read, bytes, buffer)?;
                    read += bytes as u64;
                }
            }
            if self.steps.is_empty() {
                return Ok(self.report());
            }
            self.await_first()?;
            self.finish_first(progress);
        }
    }

    fn export(
        &mut self,
        target: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<TransferReport, TransferError> {
        let size = self.volume.bytes();
        let mut asked = 0;
        loop {
            while asked < size && self.steps.len() < self.depth {
                let left = ((size - asked) / BLOCK_SIZE as u64).min(u64::from(u32::MAX)) as u32;
                let Some(buffer) = self.acquire(self.operation_blocks.min(left))? else { break };
                let bytes = buffer.len() as u64;
                self.start(asked, bytes, Content::Target(buffer))?;
                asked += bytes;
            }
            if self.steps.is_empty() {
                let flushed = target.flush();
                flushed.map_err(|source| TransferError::File { offset: size, source })?;
                return Ok(self.report());
            }
            self.await_first()?;
            let step = self.steps.front().expect("awaited");
            if let Content::Target(buffer) = &step.content {
                self.hash.update(buffer.as_slice());
                let written = target.write_all(buffer.as_slice());
                let offset = step.offset;
                written.map_err(|source| TransferError::File { offset, source })?;
            }
            self.finish_first(progress);
        }
    }

    /// Pages for another step. `None`: the pool has none now, but older steps will give some back.
    fn acquire(&mut self, blocks: u32) -> Result<Option<Buffer>, TransferError> {
        let mut wanted = blocks;
        loop {
            match self.client.pool().acquire(wanted) {
                Some(buffer) => return Ok(Some(buffer)),
                None if !self.steps.is_empty() => return Ok(None),
                None if wanted == 1 => return Err(TransferError::NoPages),
                None => wanted /= 2,
            }
        }
    }

    /// Fills the buffer as far as the source goes, hashes that, and sets the rest of the last
    /// block to zero.
    fn read_source(
        &mut self,
        source: &mut dyn Read,
        offset: u64,
        buffer: &mut Buffer,
    ) -> Result<usize, TransferError> {
        let mut bytes = 0;
        while bytes < buffer.len() {
            match source.read(&mut buffer.as_mut_slice()[bytes..]) {
                Ok(0) => break,
                Ok(more) => bytes += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TransferError::File { offset: offset + bytes as u64, source });
                }
            }
        }
        self.hash.update(&buffer.as_slice()[..bytes]);
        buffer.fill_zero(bytes..bytes.next_multiple_of(BLOCK_SIZE));
        Ok(bytes)
    }

    fn start_write(
        &mut self,
        offset: u64,
        bytes: usize,
        buffer: Buffer,
    ) -> Result<(), TransferError> {
        let volume_bytes = self.volume.bytes();
        if offset + bytes as u64 > volume_bytes {
            return Err(TransferError::TooLong { volume_bytes });
        }
        let pages = buffer.freeze().slice(0, bytes.div_ceil(BLOCK_SIZE) as u32);
        self.start(offset, bytes as u64, Content::Source(pages))
    }

    fn start(&mut self, offset: u64, bytes: u64, content: Content) -> Result<(), TransferError> {
        let token = self.next_token;
        self.next_token += 1;
        let step = Step { token, offset, bytes, content, repeats: 0, result: None };
        self.steps.push_back(step);
        self.submit(self.steps.len() - 1)
    }

    /// Submits a step, when the client has room for it.
    fn submit(&mut self, index: usize) -> Result<(), TransferError> {
        loop {
            let step = &self.steps[index];
            let (volume, offset_blocks) = (self.volume, step.offset / BLOCK_SIZE as u64);
            let operation = match &step.content {
                Content::Source(pages) => {
                    Operation::Write { volume, offset_blocks, pages: pages.clone() }
                }
                Content::Target(buffer) => {
                    Operation::Read { volume, offset_blocks, blocks: buffer.pages() }
                }
            };
            match self.client.submit(operation, step.token) {
                Ok(()) => return Ok(()),
                Err(refused) => match refused.reason {
                    Refusal::Full => self.wait(),
                    Refusal::OutOfRange
                    | Refusal::TooLarge
                    | Refusal::NotWholeSets
                    | Refusal::Closed => {
                        let volume_bytes = self.volume.bytes();
                        return Err(TransferError::TooLong { volume_bytes });
                    }
                },
            }
        }
    }

    /// Waits until some step is over.
    fn wait(&mut self) {
        let steps = &mut self.steps;
        let mut handler = |completion: Completion<'_>| {
            let first = steps.front().map_or(0, |step| step.token);
            let index = completion.token.checked_sub(first).map(|index| index as usize);
            let Some(step) = index.and_then(|index| steps.get_mut(index)) else { return };
            step.result = Some(completion.result);
            if let (Ok(()), Content::Target(buffer)) = (completion.result, &mut step.content) {
                completion.data.copy_to_buffer(buffer, 0);
            }
        };
        self.client.wait(self.clock, &mut handler);
    }

    /// Waits until the oldest step has succeeded.
    fn await_first(&mut self) -> Result<(), TransferError> {
        loop {
            let step = self.steps.front_mut().expect("the caller looked");
            match step.result {
                None => self.wait(),
                Some(Ok(())) => return Ok(()),
                Some(Err(ClientError::OutcomeUnknown)) if step.repeats < REPEATS_MAX => {
                    step.repeats += 1;
                    step.result = None;
                    self.submit(0)?;
                }
                Some(Err(source)) => {
                    return Err(TransferError::Volume { offset: step.offset, source });
                }
            }
        }
    }

    fn finish_first(&mut self, progress: &mut dyn FnMut(u64)) {
        let step = self.steps.pop_front().expect("awaited");
        self.done += step.bytes;
        progress(self.done);
    }

    /// Waits for what is still in flight after a failure, so that the client is free again.
    fn drain(&mut self) {
        while self.client.in_flight() > 0 {
            self.wait();
        }
    }

    fn report(&mut self) -> TransferReport {
        TransferReport {
            bytes: self.done,
            sha256: std::mem::take(&mut self.hash).finalize().into(),
        }
    }
}
