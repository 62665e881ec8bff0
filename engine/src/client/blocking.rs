//! One operation at a time, for tools and tests that would rather wait.

use culvert_memory::Pages;

use super::clock::Clock;
use super::{
    Client, ClientError, Completion, Operation, ReadData, Refusal, SUBMISSION_BLOCKS_MAX,
    StatusError, VolumeHandle,
};
use crate::cluster::EndpointIndex;
use crate::ids::{BLOCK_SIZE, Epoch};
use crate::network::Network;

/// How a blocking call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// The operation was executed in vain, or perhaps executed: see there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The operation was not possible.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Caller: the bytes are not whole blocks. Nothing was written or read.
    #[error("{bytes} bytes are not whole blocks of {BLOCK_SIZE} bytes")]
    Unaligned {
        /// Bytes handed in.
        bytes: usize,
    },
    /// The pool has no pages for the caller's bytes.
    #[error("the pool has no free pages")]
    NoPages,
}

/// A client whose calls return when their operation is over.
pub struct BlockingClient<N: Network> {
    client: Client<N>,
    clock: Clock,
}

impl<N: Network> BlockingClient<N> {
    /// Wraps a client that has nothing in flight.
    ///
    /// # Panics
    ///
    /// If it has.
    pub fn new(client: Client<N>) -> BlockingClient<N> {
        assert_eq!(client.in_flight(), 0, "nobody else waits for completions");
        BlockingClient { client, clock: Clock::default() }
    }

    /// The client.
    pub fn client(&self) -> &Client<N> {
        &self.client
    }

    /// The client. Wait for what you submit to it before the next blocking call.
    pub fn client_mut(&mut self) -> &mut Client<N> {
        &mut self.client
    }

    /// The clock by which the client is polled.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Ends blocking: the client and the clock by which it must go on.
    pub fn into_parts(self) -> (Client<N>, Clock) {
        (self.client, self.clock)
    }

    /// Closes the client and its sessions; see [`Client::close`].
    pub fn close(self) {
        self.client.close(&self.clock);
    }

    /// Writes pages, at most 1 MiB.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`] says.
    pub fn write(
        &mut self,
        volume: VolumeHandle,
        offset_blocks: u64,
        pages: Pages,
    ) -> Result<(), BlockingError> {
        self.execute(Operation::Write { volume, offset_blocks, pages }, |_| ())
    }

    /// Writes bytes, whole blocks of any number, by way of the pool.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`] says. What is longer than 1 MiB may have been written in part.
    pub fn write_bytes(
        &mut self,
        volume: VolumeHandle,
        offset_blocks: u64,
        bytes: &[u8],
    ) -> Result<(), BlockingError> {
        check_alignment(bytes)?;
        let (mut at, mut left) = (offset_blocks, bytes);
        while !left.is_empty() {
            let blocks = (left.len() / BLOCK_SIZE).min(SUBMISSION_BLOCKS_MAX as usize) as u32;
            let halves = std::iter::successors(Some(blocks), |blocks| Some(blocks / 2));
            let mut acquired =
                halves.take_while(|n| *n > 0).filter_map(|n| self.client.pool().acquire(n));
            let mut buffer = acquired.next().ok_or(BlockingError::NoPages)?;
            let (piece, rest) = left.split_at(buffer.len());
            buffer.copy_from_slice(0, piece);
            let blocks = u64::from(buffer.pages());
            self.write(volume, at, buffer.freeze())?;
            (at, left) = (at + blocks, rest);
        }
        Ok(())
    }

    /// Reads bytes, whole blocks of any number.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`] says; the bytes are undefined then.
    pub fn read_bytes(
        &mut self,
        volume: VolumeHandle,
        offset_blocks: u64,
        bytes: &mut [u8],
    ) -> Result<(), BlockingError> {
        check_alignment(bytes)?;
        let mut at = offset_blocks;
        for piece in bytes.chunks_mut(SUBMISSION_BLOCKS_MAX as usize * BLOCK_SIZE) {
            let blocks = (piece.len() / BLOCK_SIZE) as u32;
            let operation = Operation::Read { volume, offset_blocks: at, blocks };
            self.execute(operation, |data| data.copy_to_slice(piece))?;
            at += u64::from(blocks);
        }
        Ok(())
    }

    /// Unmaps blocks of any number.
    ///
    /// # Errors
    ///
    /// As [`BlockingError`] says; some may be unmapped then.
    pub fn discard(
        &mut self,
        volume: VolumeHandle,
        offset_blocks: u64,
        blocks: u64,
    ) -> Result<(), BlockingError> {
        self.in_runs(volume, offset_blocks, blocks, |offset_blocks, blocks| Operation::Discard {
            volume,
            offset_blocks,
            blocks,
        })
    }

    /// Deletes the chunks of whole chunk sets, of any number; see [`Operation::Delete`].
    ///
    /// # Errors
    ///
    /// As [`BlockingError`] says; some may be deleted then.
    pub fn delete(
        &mut self,
        volume: VolumeHandle,
        offset_blocks: u64,
        blocks: u64,
    ) -> Result<(), BlockingError> {
        self.in_runs(volume, offset_blocks, blocks, |offset_blocks, blocks| Operation::Delete {
            volume,
            offset_blocks,
            blocks,
        })
    }

    /// Executes one operation after the other, each on as many blocks as one may have.
    fn in_runs(
        &mut self,
        volume: VolumeHandle,
        offset_blocks: u64,
        blocks: u64,
        operation: impl Fn(u64, u64) -> Operation,
    ) -> Result<(), BlockingError> {
        let end = offset_blocks.checked_add(blocks).ok_or(Refusal::OutOfRange)?;
        let mut at = offset_blocks;
        while at < end {
            let blocks = (end - at).min(volume.discard_blocks_max());
            self.execute(operation(at, blocks), |_| ())?;
            at += blocks;
        }
        Ok(())
    }

    /// Raises the fencing epoch of all copysets of a volume; see [`Operation::Fence`].
    ///
    /// # Errors
    ///
    /// As [`BlockingError`] says; some may be fenced then. Fencing again mends that.
    pub fn fence(&mut self, volume: VolumeHandle, epoch: Epoch) -> Result<(), BlockingError> {
        for copyset in 0..volume.copysets() {
            self.execute(Operation::Fence { volume, copyset, epoch }, |_| ())?;
        }
        Ok(())
    }

    /// Fetches a node's status from one of its reactors, as JSON.
    ///
    /// # Errors
    ///
    /// [`StatusError`] where the endpoint is unknown, not reached in time, or answers nonsense.
    pub fn fetch_status(&mut self, endpoint: EndpointIndex) -> Result<String, StatusError> {
        self.client.fetch_status(endpoint, &self.clock, &mut |_| {})
    }

    /// Submits an operation and waits for it; `read` sees what it has read.
    fn execute(
        &mut self,
        operation: Operation,
        mut read: impl FnMut(&mut ReadData),
    ) -> Result<(), BlockingError> {
        self.client.submit(operation, 0).map_err(|refused| refused.reason)?;
        let mut result = Ok(());
        let mut handler = |completion: Completion<'_>| {
            result = completion.result;
            if result.is_ok() {
                read(completion.data);
            }
        };
        self.client.wait(&self.clock, &mut handler);
        Ok(result?)
    }
}

fn check_alignment(bytes: &[u8]) -> Result<(), BlockingError> {
    let whole = bytes.len().is_multiple_of(BLOCK_SIZE);
    if whole { Ok(()) } else { Err(BlockingError::Unaligned { bytes: bytes.len() }) }
}
