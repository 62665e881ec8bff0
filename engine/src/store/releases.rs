//! Releases: extents that nobody names any more and that are not free yet.
//!
//! An extent goes through three gates in order of its release:
//!
//! 1. *durable*: [`Releases::seal`] ties all that was released since the last seal to a journal
//!    batch, the one that holds what released it (the commit of the overwriting entry, the
//!    truncation, the delete); [`Releases::durable`] says that the batch is;
//! 2. *unread*: every ticket that was out at the seal has come back;
//! 3. *deallocated*, where that is switched on and the extent was discarded or deleted: the device
//!    was told and has answered. One in whose metadata recovery may need something is not told.
//!
//! A deleted chunk is released leaf by leaf, unopened: [`Releases::reclaim`] frees its blocks a
//! bounded number at a time.
//!
//! Worked example: blocks 7 and 8 are overwritten and released, a read takes a ticket, batch 5 is
//! sealed, batch 5 is durable: 7 and 8 are still held, because the ticket belongs to the epoch
//! which the seal ended. The ticket comes back: the next `reclaim` frees them.

use std::collections::VecDeque;

use crate::ids::{BatchNumber, Extent};
use crate::store::allocator::Allocator;
use crate::store::leaf::{LeafId, LeafPool};
use crate::store::tickets::{ReadTicket, Tickets};

/// Blocks that one call of [`Releases::reclaim`] frees, give or take a leaf.
const RECLAIM_BLOCKS: u32 = 2048;

/// Extents that are freed without a deallocate at once.
const SKIPPED_DEALLOCATIONS: usize = 64;

/// Room of the queues at the start.
const QUEUE_ITEMS: usize = 1024;

/// Something released.
#[derive(Clone, Copy, Debug)]
enum Released {
    /// Overwritten, truncated or refused.
    Extent(Extent),
    /// Discarded: the device may be told.
    Discarded(Extent),
    /// All that a leaf of a deleted chunk names: the device may be told.
    Leaf(LeafId),
}

/// What was released between two seals.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    batch: BatchNumber,
    /// The epoch of tickets that must be over.
    epoch: u64,
    items: u32,
}

/// Extents on their way to being free, in order of release.
#[derive(Debug)]
pub(super) struct Releases {
    queue: VecDeque<Released>,
    sealed: VecDeque<Sealed>,
    /// Items at the queue's end that no seal covers yet.
    open: u32,
    durable: BatchNumber,
    tickets: Tickets,
    /// Blocks in `queue`.
    waiting: u64,
    deallocate: bool,
    /// Extents that wait to be handed out for a deallocate.
    deallocations: VecDeque<Extent>,
    /// Blocks in `deallocations`.
    deallocations_waiting: u64,
    /// Blocks handed out.
    deallocating: u64,
    /// While a shard recovers there is no free space to return to, and nothing is kept.
    ignoring: bool,
}

impl Releases {
    pub(super) fn new(deallocate: bool, ignoring: bool) -> Releases {
        Releases {
            queue: VecDeque::with_capacity(QUEUE_ITEMS),
            sealed: VecDeque::with_capacity(QUEUE_ITEMS),
            open: 0,
            durable: BatchNumber(0),
            tickets: Tickets::new(),
            waiting: 0,
            deallocate,
            deallocations: VecDeque::new(),
            deallocations_waiting: 0,
            deallocating: 0,
            ignoring,
        }
    }

    /// Ends recovery: from now on releases count.
    pub(super) fn start(&mut self) {
        assert!(self.ignoring);
        self.ignoring = false;
    }

    pub(super) fn release(&mut self, extent: Extent) {
        self.push(Released::Extent(extent), extent.blocks);
    }

    pub(super) fn release_discarded(&mut self, extent: Extent) {
        let item = if self.deallocate { Released::Discarded } else { Released::Extent };
        self.push(item(extent), extent.blocks);
    }

    /// Releases all that an abandoned leaf names, and the leaf.
    pub(super) fn release_leaf(&mut self, leaf: LeafId, leaves: &mut LeafPool) {
        if self.ignoring || leaves.placed(leaf) == 0 {
            leaves.reuse(leaf);
        } else {
            self.push(Released::Leaf(leaf), leaves.placed(leaf));
        }
    }

    fn push(&mut self, item: Released, blocks: u32) {
        if self.ignoring || blocks == 0 {
            return;
        }
        self.waiting += u64::from(blocks);
        if self.open > 0
            && let Some(last) = self.queue.back_mut()
            && join(last, item)
        {
            return;
        }
        self.queue.push_back(item);
        self.open += 1;
    }

    /// Ties everything released since the last seal to `batch`.
    pub(super) fn seal(&mut self, batch: BatchNumber) {
        assert!(batch > self.durable, "{batch} is durable already");
        assert!(self.sealed.back().is_none_or(|last| last.batch < batch), "batches ascend");
        if self.open == 0 {
            return;
        }
        let items = std::mem::take(&mut self.open);
        self.sealed.push_back(Sealed { batch, epoch: self.tickets.cut(), items });
    }

    /// Notes that `batch` and all before it are durable.
    pub(super) fn durable(&mut self, batch: BatchNumber) {
        self.durable = self.durable.max(batch);
    }

    pub(super) fn read_begin(&mut self) -> ReadTicket {
        self.tickets.begin()
    }

    pub(super) fn read_end(&mut self, ticket: ReadTicket) {
        self.tickets.end(ticket);
    }

    /// Frees what may be freed, up to a bound; returns whether more could be freed at once.
    pub(super) fn reclaim(&mut self, space: &mut Allocator, leaves: &mut LeafPool) -> bool {
        let mut budget = RECLAIM_BLOCKS;
        while let Some(group) = self.sealed.front_mut() {
            if group.batch > self.durable || !self.tickets.is_over(group.epoch) {
                return false;
            }
            while group.items > 0 {
                if budget == 0 {
                    return true;
                }
                let item = self.queue.pop_front().expect("a sealed item");
                group.items -= 1;
                let blocks = match item {
                    Released::Extent(extent) => {
                        space.free(extent);
                        extent.blocks
                    }
                    Released::Discarded(extent) if space.holds(extent) => {
                        space.free(extent);
                        extent.blocks
                    }
                    Released::Discarded(extent) => {
                        self.deallocations.push_back(extent);
                        self.deallocations_waiting += u64::from(extent.blocks);
                        extent.blocks
                    }
                    Released::Leaf(leaf) => {
                        let blocks = leaves.placed(leaf);
                        let deallocations = self.deallocate.then_some(&mut self.deallocations);
                        let queued = free_leaf(leaf, leaves, space, deallocations);
                        self.deallocations_waiting += u64::from(queued);
                        blocks
                    }
                };
                self.waiting -= u64::from(blocks);
                budget = budget.saturating_sub(blocks);
            }
            self.sealed.pop_front();
        }
        false
    }

    /// Frees extents whose deallocate was not sent yet, without one: space is short. Returns
    /// whether there were any.
    pub(super) fn skip_deallocations(&mut self, space: &mut Allocator) -> bool {
        let count = self.deallocations.len().min(SKIPPED_DEALLOCATIONS);
        for extent in self.deallocations.drain(..count) {
            self.deallocations_waiting -= u64::from(extent.blocks);
            space.free(extent);
        }
        count > 0
    }

    /// Hands out extents that the device is to be told of.
    pub(super) fn take_deallocations(&mut self, max: usize, out: &mut Vec<Extent>) {
        for _ in 0..max {
            let Some(extent) = self.deallocations.pop_front() else { return };
            self.deallocations_waiting -= u64::from(extent.blocks);
            self.deallocating += u64::from(extent.blocks);
            out.push(extent);
        }
    }

    /// Frees an extent that was handed out.
    pub(super) fn deallocated(&mut self, extent: Extent, space: &mut Allocator) {
        assert!(self.deallocating >= u64::from(extent.blocks), "nothing was handed out");
        self.deallocating -= u64::from(extent.blocks);
        space.free(extent);
    }

    /// Blocks that are not free yet, those below included.
    pub(super) fn waiting_blocks(&self) -> u64 {
        self.waiting + self.deallocating_blocks()
    }

    /// Blocks that wait for a deallocate to be sent or answered.
    pub(super) fn deallocating_blocks(&self) -> u64 {
        self.deallocations_waiting + self.deallocating
    }

    /// Blocks handed out for a deallocate: the caller knows them, this queue no longer does.
    pub(super) fn handed_out_blocks(&self) -> u64 {
        self.deallocating
    }

    /// Tickets out.
    pub(super) fn reads(&self) -> u64 {
        self.tickets.outstanding()
    }

    /// Every extent that waits here, for the offline check.
    pub(super) fn extents(&self, leaves: &LeafPool, mut each: impl FnMut(Extent)) {
        for item in &self.queue {
            match *item {
                Released::Extent(extent) | Released::Discarded(extent) => each(extent),
                Released::Leaf(leaf) => leaves.each_run(leaf, &mut each),
            }
        }
        self.deallocations.iter().copied().for_each(each);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.queue.capacity() * size_of::<Released>()
            + self.sealed.capacity() * size_of::<Sealed>()
            + self.deallocations.capacity() * size_of::<Extent>()
            + self.tickets.memory_bytes()
    }
}

/// Lengthens the last item by one that lies right behind it.
fn join(last: &mut Released, item: Released) -> bool {
    let (last, extent) = match (last, item) {
        (Released::Extent(last), Released::Extent(extent))
        | (Released::Discarded(last), Released::Discarded(extent)) => (last, extent),
        _ => return false,
    };
    let follows = last.end() == extent.start;
    if follows {
        last.blocks += extent.blocks;
    }
    follows
}

/// Frees what a leaf names, or queues it for deallocation, in runs; returns the blocks queued.
fn free_leaf(
    leaf: LeafId,
    leaves: &mut LeafPool,
    space: &mut Allocator,
    mut deallocations: Option<&mut VecDeque<Extent>>,
) -> u32 {
    let mut queued = 0;
    leaves.each_run(leaf, |run| match &mut deallocations {
        Some(queue) if !space.holds(run) => {
            queued += run.blocks;
            queue.push_back(run);
        }
        _ => space.free(run),
    });
    leaves.reuse(leaf);
    queued
}
