//! From a send to the moment at which the frame is whole at the receiver.

use culvert::network::{
    Class, CloseReason, ConnectionId, PAYLOADS_MAX, Placement, SendError, WindowMode,
};
use culvert_memory::{PAGE_SIZE, Pages};

use super::agenda::What;
use super::flight::Flight;
use super::link::{LinkId, Side, Stage};
use super::process::{Pending, ProcessId};
use super::state::State;

/// What a frame takes of its queue besides its own bytes, and for each payload.
const HEADER_BYTES: usize = 8;
const PLACEMENT_BYTES: usize = 8;

/// The longest envelope.
const ENVELOPE_BYTES_MAX: usize = HEADER_BYTES + PAYLOADS_MAX * PLACEMENT_BYTES;

const CLASSES: [Class; 2] = [Class::Data, Class::Control];

impl State {
    pub(super) fn reserve(
        &mut self,
        id: ProcessId,
        connection: ConnectionId,
        pages: u32,
    ) -> Option<Placement> {
        let at = self.find_open(id, connection)?;
        let end = self.links.get_mut(&at.0)?.end_mut(at.1);
        let place = end.credits.reserve(pages);
        if place.is_none() && end.credits.mode() == WindowMode::Granted {
            self.wish(at, pages);
        }
        place
    }

    /// # Panics
    ///
    /// When the place is not reserved on an open connection, as the transport does.
    pub(super) fn cancel(&mut self, id: ProcessId, connection: ConnectionId, place: Placement) {
        let Some(at) = self.find_open(id, connection) else { return };
        let Some(link) = self.links.get_mut(&at.0) else { return };
        link.end_mut(at.1).credits.cancel(place);
        self.tell_of_pages(at);
    }

    pub(super) fn send(
        &mut self,
        id: ProcessId,
        connection: ConnectionId,
        (class, frame): (Class, &[u8]),
        payloads: &[(Placement, Pages)],
    ) -> Result<(), SendError> {
        let at = self.find_open(id, connection).ok_or(SendError::Closed)?;
        if frame.len() > self.frame_bytes_max(class) || payloads.len() > PAYLOADS_MAX {
            return Err(SendError::TooLarge);
        }
        let (queue_bytes, unsent_max) = (self.queue_bytes(class), self.options.unsent_pages_max);
        let link = self.links.get_mut(&at.0).ok_or(SendError::Closed)?;
        for (place, content) in payloads {
            assert_eq!(place.pages(), content.pages(), "a payload fills its placement");
            link.end(at.1).credits.check(*place)?;
        }
        let pages: u32 = payloads.iter().map(|(_, content)| content.pages()).sum();
        let record_bytes = record_bytes(payloads.len(), frame.len());
        let lane = link.way_mut(at.1).lane_mut(class);
        if lane.occupied + record_bytes > queue_bytes {
            lane.refused = true;
            return Err(SendError::Full);
        }
        if link.end(at.1).unsent_pages + pages > unsent_max {
            self.end_in_turn(at, CloseReason::UnsentBound);
            return Err(SendError::Closed);
        }
        let flight = Flight::new(self.flights_begun, class, frame, record_bytes, payloads);
        self.flights_begun += 1;
        let lane = link.way_mut(at.1).lane_mut(class);
        lane.occupied += record_bytes;
        lane.queued.push_back(flight);
        let end = link.end_mut(at.1);
        end.unsent_pages += pages;
        payloads.iter().for_each(|(place, _)| end.credits.mark_sent(*place));
        if let Some(process) = self.process(id) {
            process.counters.frames_sent += 1;
            process.counters.frame_bytes_sent += frame.len() as u64;
            process.counters.payload_bytes_sent += u64::from(pages) * PAGE_SIZE as u64;
        }
        Ok(())
    }

    /// Sends what was queued on all connections of a process, and the credits that are due.
    pub(super) fn post(&mut self, id: ProcessId) {
        let Some(process) = self.process(id) else { return };
        process.poll_retiring();
        for at in self.ends_of(id) {
            self.post_end(at);
        }
    }

    /// The ends of connections that a process has.
    pub(super) fn ends_of(&self, id: ProcessId) -> Vec<(LinkId, Side)> {
        let ends = self.links.iter().flat_map(|(link, ends)| {
            Side::BOTH
                .into_iter()
                .filter(|side| ends.end(*side).process == Some(id))
                .map(|side| (*link, side))
        });
        ends.collect()
    }

    /// The same for one connection.
    pub(super) fn post_end(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        if link.end(at.1).stage != Stage::Open {
            return;
        }
        let peer = (at.0, at.1.other());
        let process = link.end(at.1).process;
        let returns = link.end_mut(at.1).landing.poll_released();
        if let Some(process) = process.and_then(|id| self.process(id)) {
            process.counters.credit_frames_sent += returns.len() as u64;
        }
        for run in returns {
            self.send_word(peer, What::Credit { run });
        }
        for class in CLASSES {
            while let Some(flight) = self.next_queued(at, class) {
                self.launch(at, flight);
            }
        }
    }

    fn next_queued(&mut self, (id, side): (LinkId, Side), class: Class) -> Option<Flight> {
        self.links.get_mut(&id)?.way_mut(side).lane_mut(class).queued.pop_front()
    }

    /// Puts a frame on its way.
    fn launch(&mut self, (id, from): (LinkId, Side), mut flight: Flight) {
        let delay_ns = self.latency_ns(id, from.other());
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.way(from).severed {
            // Its pages stay where they are until this end notices.
            return link.way_mut(from).lose(flight);
        }
        flight.plan(self.now_ns, self.now_ns + delay_ns, &mut self.random);
        let (class, number) = (flight.class, flight.number);
        let times: Vec<(usize, u64)> = flight.times().collect();
        link.way_mut(from).lane_mut(class).wire.push_back(flight);
        let to = (id, from.other());
        for (group, at_ns) in times {
            let what = What::Sectors { flight: number, group };
            self.schedule(to, at_ns - self.now_ns, what);
        }
        self.schedule(to, delay_ns, What::Arrival { flight: number });
    }

    /// A group of sectors is written into the window of the end `at`, unless that is revoked.
    pub(super) fn land(&mut self, at: (LinkId, Side), flight: u64, group: usize) {
        let now_ns = self.now_ns;
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let late = !link.end(at.1.other()).is_live();
        let (way, end) = link.receiving(at.1);
        if matches!(end.stage, Stage::Absent | Stage::Gone) {
            return;
        }
        let Some(flight) = way.flight_mut(flight) else { return };
        let (sectors, freed) = flight.land(group, now_ns, &end.landing);
        link.end_mut(at.1.other()).unsent_pages -= freed;
        if late {
            self.injected.late_sectors += sectors;
        }
        self.settle(at);
    }

    /// A frame itself is there.
    pub(super) fn arrive(&mut self, at: (LinkId, Side), flight: u64) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        if let Some(flight) = link.way_mut(at.1.other()).flight_mut(flight) {
            flight.arrived = true;
            self.settle(at);
        }
    }

    /// Hands to the process at an end what is whole and in order, and then the peer's close.
    pub(super) fn settle(&mut self, at: (LinkId, Side)) {
        for class in CLASSES {
            while let Some((connection, flight)) = self.next_complete(at, class) {
                self.tell(at, Pending::Frame { connection, at, flight });
            }
        }
        let Some(link) = self.links.get(&at.0) else { return };
        let way = link.way(at.1.other());
        if way.fin && (way.is_quiet() || link.end(at.1).stage == Stage::Opening) {
            self.conclude(at, CloseReason::PeerClosed);
        }
    }

    fn next_complete(
        &mut self,
        at: (LinkId, Side),
        class: Class,
    ) -> Option<(ConnectionId, Flight)> {
        let (way, end) = self.links.get_mut(&at.0)?.receiving(at.1);
        if !end.takes_frames() {
            return None;
        }
        Some((end.connection, way.pop_complete(class)?))
    }

    /// The peer has taken frames out of a queue of the end `at`.
    pub(super) fn make_room(&mut self, at: (LinkId, Side), class: Class, bytes: usize) {
        let half = self.queue_bytes(class) / 2;
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let lane = link.way_mut(at.1).lane_mut(class);
        lane.occupied -= bytes;
        if lane.occupied <= half && std::mem::take(&mut lane.refused) {
            self.tell_writable(at);
        }
    }

    /// Credits come back to the end `at`.
    pub(super) fn credit(&mut self, at: (LinkId, Side), run: Placement) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        link.end_mut(at.1).credits.credit(run);
        if let Some(process) = link.end(at.1).process.and_then(|id| self.process(id)) {
            process.counters.credit_frames_received += 1;
        }
        self.tell_of_pages(at);
    }

    /// Tells the process when a run can be reserved that was refused before.
    pub(super) fn tell_of_pages(&mut self, at: (LinkId, Side)) {
        let Some(link) = self.links.get_mut(&at.0) else { return };
        let end = link.end_mut(at.1);
        if let Some(pages) = end.wish.pages
            && end.credits.fits(pages)
        {
            end.wish.pages = None;
            self.tell_writable(at);
        }
    }

    fn queue_bytes(&self, class: Class) -> usize {
        match class {
            Class::Data => self.options.data_queue_bytes,
            Class::Control => self.options.control_queue_bytes,
        }
    }

    /// A frame takes at most half of its queue.
    fn frame_bytes_max(&self, class: Class) -> usize {
        self.options.frame_bytes_max.min(self.queue_bytes(class) / 2 - ENVELOPE_BYTES_MAX)
    }
}

/// The bytes that a frame takes of its queue.
fn record_bytes(payloads: usize, frame: usize) -> usize {
    (HEADER_BYTES + payloads * PLACEMENT_BYTES + frame).next_multiple_of(8)
}
