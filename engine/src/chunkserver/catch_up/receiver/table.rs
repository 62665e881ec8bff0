//! The receivers of one chunkserver: where they begin, get their turns and end.

use culvert_memory::Buffer;

use super::super::WINDOW_FRAMES;
use super::round::Desk;
use super::{Inbound, Receiver};
use crate::chunkserver::{Chunkserver, Offence, RunningShard};
use crate::network::{ConnectionId, Network, Payloads};
use crate::wire::{CatchUpHead, CatchUpKind, FrameError};

impl Chunkserver {
    /// Takes a frame of a leader.
    pub(in crate::chunkserver::catch_up) fn take_in(
        &mut self,
        position: u32,
        connection: ConnectionId,
        head: &CatchUpHead,
        count: u16,
        body: &[u8],
        payloads: &mut Payloads,
    ) -> Result<(), Offence> {
        let copyset = &mut self.copysets[position as usize];
        if head.kind == CatchUpKind::Begin && head.number == 1 {
            if let Some(old) = copyset.receiver.take() {
                old.give_up(&mut self.shards[copyset.shard].shard);
            }
            tracing::info!(copyset = %head.copyset, from = %head.from, index = %head.index, "catch-up begins");
            copyset.receiver = Some(Box::new(Receiver::new(connection, head)));
            if !self.receiving.contains(&position) {
                self.receiving.push(position);
            }
        }
        let Some(receiver) = copyset.receiver.as_mut().filter(|r| r.is_of(connection, head)) else {
            // Of a task that is over: its leader hears of that, or has ended it itself.
            return Ok(());
        };
        let waiting = receiver.inbox.len() as u64;
        if head.number != receiver.taken + 1 || waiting >= WINDOW_FRAMES {
            return Err(Offence::Frame(FrameError::Field("number")));
        }
        receiver.taken += 1;
        receiver.inbox.push_back(Inbound {
            head: *head,
            count,
            body: body.to_vec(),
            runs: payloads.drain(..).map(Buffer::freeze).collect(),
            staged: false,
        });
        Ok(())
    }

    /// The leader ended the task.
    pub(in crate::chunkserver::catch_up) fn abort_receiver(
        &mut self,
        position: u32,
        connection: ConnectionId,
        head: &CatchUpHead,
    ) {
        let copyset = &mut self.copysets[position as usize];
        if let Some(receiver) = copyset.receiver.take_if(|r| r.is_of(connection, head)) {
            tracing::info!(copyset = %head.copyset, "catch-up given up by its leader");
            receiver.give_up(&mut self.shards[copyset.shard].shard);
        }
    }

    pub(in crate::chunkserver::catch_up) fn run_receivers<N: Network>(&mut self, network: &mut N) {
        let mut receiving = std::mem::take(&mut self.receiving);
        let was_empty = receiving.is_empty();
        receiving.retain(|position| {
            let position = *position as usize;
            let copyset = &mut self.copysets[position];
            let applied = copyset.group.applied();
            if copyset.arrival.as_ref().is_some_and(|arrival| arrival.index <= applied) {
                copyset.arrival = None;
                copyset.group.expect_snapshot(None);
            }
            if let Some(receiver) = copyset.receiver.take() {
                self.run_receiver(position, receiver, network);
            }
            let copyset = &self.copysets[position];
            copyset.receiver.is_some() || copyset.arrival.is_some()
        });
        if !was_empty && receiving.is_empty() {
            let arriving = |running: &RunningShard| running.shard.store().arriving_blocks();
            assert!(self.shards.iter().all(|running| arriving(running) == 0), "nobody receives");
        }
        self.receiving = receiving;
    }

    fn run_receiver<N: Network>(
        &mut self,
        position: usize,
        mut receiver: Box<Receiver>,
        network: &mut N,
    ) {
        let copyset = &mut self.copysets[position];
        let running = &mut self.shards[copyset.shard];
        let peer = copyset.peer_of(receiver.whom.to);
        let connected = peer.and_then(|peer| self.peers.connection(peer));
        let lives = connected == Some(receiver.connection)
            && copyset.group.term() == receiver.whom.term
            && !copyset.group.is_leader()
            && !running.failed;
        if !lives {
            tracing::info!(copyset = %copyset.id, "catch-up interrupted; what was installed stays");
            if connected == Some(receiver.connection) {
                receiver.say_abort(network);
            }
            receiver.give_up(&mut running.shard);
            return;
        }
        let mut desk = Desk { copyset, shard: &mut running.shard, short_of_space: false };
        match receiver.step(&mut desk) {
            Ok(worked) => self.sources.busy |= worked,
            Err(fault) => {
                tracing::warn!(copyset = %desk.copyset.id, from = %receiver.whom.to, %fault, "catch-up refused");
                receiver.say_abort(network);
                receiver.give_up(desk.shard);
                return;
            }
        }
        let is_short = desk.short_of_space && receiver.is_amid_chunk();
        let is_long_short = receiver.is_long_cramped(is_short, self.now_ns);
        if receiver.answer(&desk, network) {
            receiver.give_up(desk.shard);
        } else if is_long_short || is_short && self.comes_behind_another(position) {
            let copyset = &self.copysets[position];
            tracing::info!(copyset = %copyset.id, "catch-up finds no space; it gives back what it has");
            receiver.say_abort(network);
            receiver.give_up(&mut self.shards[copyset.shard].shard);
        } else {
            self.copysets[position].receiver = Some(receiver);
        }
    }

    /// Whether a copyset before it has a chunk on its way to the same shard.
    fn comes_behind_another(&self, position: usize) -> bool {
        let shard = self.copysets[position].shard;
        self.copysets[..position].iter().any(|other| {
            let receiver = other.receiver.as_ref();
            other.shard == shard && receiver.is_some_and(|receiver| receiver.is_amid_chunk())
        })
    }
}
