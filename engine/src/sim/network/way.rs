//! One direction of a connection: two queues, in order each and independent of each other.

use std::collections::VecDeque;

use culvert::network::Class;

use super::flight::Flight;
use crate::sim::random::Random;

/// Frames of one class.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Bytes of the queue in use: sent, and not yet known to be taken by the receiver's poll.
    pub(super) occupied: usize,
    /// Whether a frame was refused since there was last room.
    pub(super) refused: bool,
    /// Sent and not yet posted.
    pub(super) queued: VecDeque<Flight>,
    /// Posted and not yet whole at the receiver, or behind one that is not.
    pub(super) wire: VecDeque<Flight>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Way {
    lanes: [Lane; 2],
    /// Will never arrive; sectors of their payloads may.
    lost: Vec<Flight>,
    /// Nothing that is posted from here on arrives.
    pub(super) severed: bool,
    /// The sender has closed, and word of it has arrived.
    pub(super) fin: bool,
}

impl Way {
    pub(super) fn lane_mut(&mut self, class: Class) -> &mut Lane {
        &mut self.lanes[index(class)]
    }

    /// Whether nothing is under way that will arrive.
    pub(super) fn is_quiet(&self) -> bool {
        self.lanes.iter().all(|lane| lane.wire.is_empty())
    }

    /// Takes a posted frame that will never arrive.
    pub(super) fn lose(&mut self, flight: Flight) {
        self.lost.push(flight);
    }

    /// The frame of this number, wherever it is under way.
    pub(super) fn flight_mut(&mut self, number: u64) -> Option<&mut Flight> {
        let Way { lanes, lost, .. } = self;
        let wires = lanes.iter_mut().flat_map(|lane| lane.wire.iter_mut());
        wires.chain(lost).find(|flight| flight.number == number)
    }

    /// Takes the next frame of a class that is whole.
    pub(super) fn pop_complete(&mut self, class: Class) -> Option<Flight> {
        let wire = &mut self.lane_mut(class).wire;
        if wire.front().is_some_and(Flight::is_complete) { wire.pop_front() } else { None }
    }

    /// Breaks: in each class the frames under way are lost from some point on. Answers how many,
    /// and when sectors of them will be written all the same.
    pub(super) fn sever(
        &mut self,
        now_ns: u64,
        span_ns: u64,
        random: &mut Random,
    ) -> (u64, Vec<(u64, usize, u64)>) {
        self.severed = true;
        let mut times = Vec::new();
        let mut count = 0;
        for lane in &mut self.lanes {
            let kept = random.below(lane.wire.len() as u64 + 1) as usize;
            for mut flight in lane.wire.split_off(kept) {
                flight.delay(now_ns, span_ns, random);
                let number = flight.number;
                times.extend(flight.times().map(|(group, at_ns)| (number, group, at_ns)));
                count += 1;
                self.lost.push(flight);
            }
        }
        (count, times)
    }

    /// The sender is gone: it gets all its pages back. What is under way may still arrive. Answers
    /// the bytes that were copied for that.
    pub(super) fn leave_sender(&mut self) -> u64 {
        let Way { lanes, lost, .. } = self;
        lanes.iter_mut().for_each(|lane| lane.queued.clear());
        let wires = lanes.iter_mut().flat_map(|lane| lane.wire.iter_mut());
        wires.chain(lost).map(Flight::leave_sender).sum()
    }
}

fn index(class: Class) -> usize {
    match class {
        Class::Data => 0,
        Class::Control => 1,
    }
}
