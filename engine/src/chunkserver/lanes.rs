//! Reads that wait for their turn: a queue for each shard, a lane for each client on each shard.
//!
//! A read is *parked* in its client's lane, or *taken*: it is in its shard's queue, waits for a
//! read-index round, or is started. A client has at most its allowance of taken reads on one shard.
//! Usually that is its share, a quarter of what the shard can have started. When an answer finds no
//! room the allowance falls to [`ALLOWANCE_MIN`] and grows by one with every answer that goes out,
//! so that what is read in vain for a slow client stays in proportion to what it takes.
//!
//! What is parked is bounded by the requests that a connection may have without an answer. What is
//! taken is bounded for each shard, one more is answered "busy": so also a leader without a lease,
//! which serves nothing, keeps no more than that.

use std::collections::VecDeque;

use super::reading::QueuedRead;
use crate::ids::OPERATION_BLOCKS_MAX;
use crate::network::ConnectionId;

/// Reads of one client that a shard works on after an answer found no room.
const ALLOWANCE_MIN: u32 = 4;

/// Clients that may each have their whole share of a shard started.
const SHARES: u32 = 4;

/// The part of the pool that reads may take, of all shards together.
const POOL_PART: u32 = 4;

/// What is taken of a shard's reads.
#[derive(Default)]
struct ShardReads {
    queue: VecDeque<QueuedRead>,
    taken: u32,
    started: u32,
    /// Pages of the ranges of what is started.
    pages: u32,
    /// Its first read waits for a completion.
    stalled: bool,
}

/// The reads of one client on one shard.
#[derive(Default)]
struct Lane {
    taken: u32,
    allowance: u32,
    parked: VecDeque<QueuedRead>,
}

/// See the module's documentation.
pub(super) struct Lanes {
    shards: Vec<ShardReads>,
    /// By the connection's slot and then the shard. A lane whose connection is gone passes on what
    /// it has taken to the next in its slot.
    lanes: Vec<Lane>,
    /// By the connection's slot: whose answers find no room.
    blocked: Vec<Option<ConnectionId>>,
    /// Of each shard.
    shard_started_max: u32,
    shard_taken_max: u32,
    shard_pages_max: u32,
    share: u32,
}

impl Lanes {
    /// Lanes for `capacity` started reads on `shards` shards with a pool of `pool_pages`.
    pub fn new(capacity: u32, shards: usize, pool_pages: u32) -> Lanes {
        let count = shards.max(1) as u32;
        let started_max = (capacity / count).max(1);
        Lanes {
            shards: (0..shards).map(|_| ShardReads::default()).collect(),
            lanes: Vec::new(),
            blocked: Vec::new(),
            shard_started_max: started_max,
            shard_taken_max: 2 * started_max,
            shard_pages_max: (pool_pages / POOL_PART / count).max(OPERATION_BLOCKS_MAX),
            share: started_max.div_ceil(SHARES),
        }
    }

    /// Reads of all shards that may be started.
    pub fn started_max(&self) -> usize {
        self.shard_started_max as usize * self.shards.len()
    }

    /// A client has come.
    pub fn connected(&mut self, connection: ConnectionId) {
        let slot = connection.slot() as usize;
        if self.blocked.len() <= slot {
            self.blocked.resize(slot + 1, None);
            self.lanes.resize_with((slot + 1) * self.shards.len(), Lane::default);
        }
        self.blocked[slot] = None;
        let share = self.share;
        for lane in self.lanes_of(connection) {
            lane.allowance = share;
            lane.parked.clear();
        }
    }

    /// A client has gone; what it has taken ends by itself.
    pub fn closed(&mut self, connection: ConnectionId) {
        if (connection.slot() as usize) < self.blocked.len() {
            self.lanes_of(connection).iter_mut().for_each(|lane| lane.parked = VecDeque::new());
        }
    }

    /// Answers may find room again.
    pub fn writable(&mut self, connection: ConnectionId) {
        if self.is_blocked(connection) {
            self.blocked[connection.slot() as usize] = None;
            for shard in 0..self.shards.len() {
                self.unpark(connection, shard);
            }
        }
    }

    /// Takes or parks a read; `false` where the shard has all that it may.
    pub fn push(&mut self, read: QueuedRead) -> bool {
        let blocked = self.is_blocked(read.connection);
        let shard_is_full = self.shards[read.shard as usize].taken >= self.shard_taken_max;
        let lane = self.lane(read.connection, read.shard as usize);
        if blocked || lane.taken >= lane.allowance {
            lane.parked.push_back(read);
            return true;
        }
        if shard_is_full {
            return false;
        }
        self.take(read);
        true
    }

    fn take(&mut self, read: QueuedRead) {
        self.lane(read.connection, read.shard as usize).taken += 1;
        let shard = &mut self.shards[read.shard as usize];
        shard.taken += 1;
        shard.queue.push_back(read);
    }

    /// The shard's next read, of a client that takes answers.
    pub fn next(&mut self, shard: usize) -> Option<QueuedRead> {
        self.shards[shard].stalled = false;
        loop {
            let read = self.shards[shard].queue.pop_front()?;
            if !self.is_blocked(read.connection) {
                return Some(read);
            }
            self.park(&read);
        }
    }

    /// A read is the shard's next again. `stalled`: until something of the shard completes.
    pub fn put_back(&mut self, read: QueuedRead, stalled: bool) {
        let shard = &mut self.shards[read.shard as usize];
        shard.queue.push_front(read);
        shard.stalled = stalled;
    }

    /// A read whose round is confirmed needs no lease any more.
    pub fn confirmed(&mut self, read: QueuedRead) {
        let shard = &mut self.shards[read.shard as usize];
        shard.queue.push_back(QueuedRead { confirmed: true, ..read });
    }

    /// A read that waited for a repair is carried out from the beginning.
    pub fn again(&mut self, read: QueuedRead) {
        let shard = &mut self.shards[read.shard as usize];
        shard.queue.push_back(QueuedRead { confirmed: false, ..read });
    }

    /// Whether the shard's share of table and pool has room for a read.
    pub fn has_room(&self, read: &QueuedRead) -> bool {
        let shard = &self.shards[read.shard as usize];
        shard.started < self.shard_started_max
            && shard.pages + read.range.blocks <= self.shard_pages_max
    }

    /// A taken read has a place in the table.
    pub fn start(&mut self, read: &QueuedRead) {
        let shard = &mut self.shards[read.shard as usize];
        shard.started += 1;
        shard.pages += read.range.blocks;
    }

    /// It has given its place back.
    pub fn end(&mut self, read: &QueuedRead) {
        let shard = &mut self.shards[read.shard as usize];
        shard.started -= 1;
        shard.pages -= read.range.blocks;
    }

    /// Its answer found no room: the read is parked, and so is what else its client asks for.
    pub fn block(&mut self, read: &QueuedRead) {
        self.blocked[read.connection.slot() as usize] = Some(read.connection);
        let least = ALLOWANCE_MIN.min(self.share);
        self.lanes_of(read.connection).iter_mut().for_each(|lane| lane.allowance = least);
        self.park(read);
    }

    fn park(&mut self, read: &QueuedRead) {
        self.shards[read.shard as usize].taken -= 1;
        let lane = self.lane(read.connection, read.shard as usize);
        lane.taken -= 1;
        // What a round has confirmed may be stale by the time it is read.
        lane.parked.push_back(QueuedRead { confirmed: false, ..*read });
    }

    /// A taken read is over: answered, refused, or its client is gone. `sent`: with its data.
    pub fn leave(&mut self, read: &QueuedRead, sent: bool) {
        let shard = read.shard as usize;
        self.shards[shard].taken -= 1;
        let share = self.share;
        let lane = self.lane(read.connection, shard);
        lane.taken -= 1;
        if sent && lane.allowance < share {
            lane.allowance += 1;
        }
        if !lane.parked.is_empty() && self.blocked[read.connection.slot() as usize].is_none() {
            self.unpark(read.connection, shard);
        }
    }

    /// Takes what is parked and allowed.
    fn unpark(&mut self, connection: ConnectionId, shard: usize) {
        loop {
            let lane = self.lane(connection, shard);
            if lane.taken >= lane.allowance {
                return;
            }
            let Some(read) = lane.parked.pop_front() else { return };
            self.take(read);
        }
    }

    /// Whether answers to this client find no room.
    pub fn is_blocked(&self, connection: ConnectionId) -> bool {
        self.blocked[connection.slot() as usize] == Some(connection)
    }

    /// Whether a queue has a read that does not wait for a completion.
    pub fn has_work(&self) -> bool {
        self.shards.iter().any(|shard| !shard.stalled && !shard.queue.is_empty())
    }

    fn lanes_of(&mut self, connection: ConnectionId) -> &mut [Lane] {
        let shards = self.shards.len();
        let first = connection.slot() as usize * shards;
        &mut self.lanes[first..first + shards]
    }

    fn lane(&mut self, connection: ConnectionId, shard: usize) -> &mut Lane {
        &mut self.lanes_of(connection)[shard]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BlockRange, ChunkId};

    fn read(slot: u32, shard: u32) -> QueuedRead {
        QueuedRead {
            connection: ConnectionId::new(slot, 0),
            token: 0,
            position: 0,
            shard,
            confirmed: false,
            chunk: ChunkId(0),
            range: BlockRange { first: 0, blocks: 8 },
            landing_page: 0,
            taken_ns: 0,
        }
    }

    /// 32 started reads on each of two shards; 8 of one client.
    fn lanes(clients: u32) -> Lanes {
        let mut lanes = Lanes::new(64, 2, 1 << 16);
        (0..clients).for_each(|slot| lanes.connected(ConnectionId::new(slot, 0)));
        lanes
    }

    fn drain(lanes: &mut Lanes, shard: usize) -> usize {
        std::iter::from_fn(|| lanes.next(shard)).count()
    }

    #[test]
    fn a_client_has_its_share_of_a_shard_and_the_rest_waits_for_it() {
        let mut lanes = lanes(2);
        assert!((0..100).all(|_| lanes.push(read(0, 0))));
        assert!(lanes.push(read(1, 0)));
        assert!(lanes.push(read(0, 1)), "another shard has a share of its own");
        assert_eq!(drain(&mut lanes, 0), 9);
        assert_eq!(drain(&mut lanes, 1), 1);
        lanes.leave(&read(0, 0), true);
        assert_eq!(drain(&mut lanes, 0), 1, "one has left and one is taken");
    }

    #[test]
    fn what_is_taken_of_a_shard_is_bounded() {
        let mut lanes = lanes(20);
        let taken = |lanes: &mut Lanes| {
            let all = (0..20).flat_map(|slot| (0..8).map(move |_| slot));
            all.filter(|slot| lanes.push(read(*slot, 0))).count()
        };
        assert_eq!(taken(&mut lanes), 64, "more is answered busy, whatever became of these");
        assert_eq!(drain(&mut lanes, 0), 64);
        assert_eq!(taken(&mut lanes), 64, "eight clients have their share and are parked");
        assert_eq!(drain(&mut lanes, 0), 0);
        assert!(lanes.push(read(0, 1)), "the other shard has room");
    }

    #[test]
    fn a_client_that_takes_no_answers_makes_no_work() {
        let mut lanes = lanes(1);
        (0..8).for_each(|_| assert!(lanes.push(read(0, 0))));
        let first = lanes.next(0).expect("it was pushed");
        assert!(lanes.has_work());
        lanes.block(&first);
        assert_eq!(drain(&mut lanes, 0), 0);
        assert!(!lanes.has_work());
        assert!(lanes.push(read(0, 0)), "it is parked");
        lanes.writable(ConnectionId::new(0, 0));
        assert_eq!(drain(&mut lanes, 0), ALLOWANCE_MIN as usize, "it begins with a few");
        lanes.leave(&read(0, 0), true);
        assert_eq!(drain(&mut lanes, 0), 2, "and is allowed one more with each answer");
    }

    #[test]
    fn a_shard_that_waits_for_completions_is_no_work() {
        let mut lanes = lanes(1);
        assert!(lanes.push(read(0, 0)));
        let next = lanes.next(0).expect("it was pushed");
        lanes.put_back(next, true);
        assert!(!lanes.has_work());
        let next = lanes.next(0).expect("it was put back");
        lanes.put_back(next, false);
        assert!(lanes.has_work(), "nobody tells when the pool has pages again");
    }
}
