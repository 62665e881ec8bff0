//! What a poll hands over.

use culvert::network::{Class, CloseReason, ConnectionId, Event, Identity, Payloads, WindowMode};
use culvert_memory::PAGE_SIZE;

use super::agenda::What;
use super::flight::Flight;
use super::link::{LinkId, Side};
use super::process::{Pending, ProcessId};
use super::state::State;

/// How often, in a million, a control frame overtakes data frames that came before it.
const OVERTAKES: u32 = 500_000;

/// An event that owns what it says, so that the handler runs while the fabric is free.
#[derive(Debug)]
pub(super) enum Delivery {
    Connected { connection: ConnectionId, peer: Identity, initiated: bool },
    Frame { connection: ConnectionId, class: Class, bytes: Vec<u8>, payloads: Box<Payloads> },
    Writable { connection: ConnectionId },
    Closed { connection: ConnectionId, reason: CloseReason },
}

impl Delivery {
    /// Gives it to a handler.
    pub(super) fn hand_to(self, handler: &mut dyn FnMut(Event<'_>)) {
        match self {
            Delivery::Connected { connection, peer, initiated } => {
                handler(Event::Connected { connection, peer, initiated, scheme: "tcp" });
            }
            Delivery::Frame { connection, class, bytes, mut payloads } => {
                let (bytes, payloads) = (&bytes[..], &mut payloads);
                handler(Event::Frame { connection, class, bytes, payloads });
            }
            Delivery::Writable { connection } => handler(Event::Writable { connection }),
            Delivery::Closed { connection, reason } => {
                handler(Event::Closed { connection, reason });
            }
        }
    }
}

impl State {
    /// Takes the next event of a process.
    pub(super) fn next_delivery(&mut self, id: ProcessId) -> Option<Delivery> {
        loop {
            let overtake = self.random.chance(OVERTAKES);
            match self.process(id)?.pop_event(overtake)? {
                Pending::Connected { connection, peer, initiated } => {
                    return Some(Delivery::Connected { connection, peer, initiated });
                }
                Pending::Writable { connection } => {
                    return Some(Delivery::Writable { connection });
                }
                Pending::Frame { connection, at, flight } => {
                    return Some(self.deliver_frame(id, connection, at, flight));
                }
                Pending::Ending { at, reason } => self.end_in_turn(at, reason),
                Pending::Closed { connection, at, reason } => {
                    self.revoke(at);
                    return Some(Delivery::Closed { connection, reason });
                }
            }
        }
    }

    /// Claims the pages of a frame, and tells the sender that its queue has room.
    fn deliver_frame(
        &mut self,
        id: ProcessId,
        connection: ConnectionId,
        at: (LinkId, Side),
        flight: Flight,
    ) -> Delivery {
        let (class, bytes) = (flight.class, flight.record_bytes);
        let mut payloads = Box::new(Payloads::new());
        let link = self.links.get_mut(&at.0).expect("frames of a closed connection are dropped");
        let landing = &mut link.end_mut(at.1).landing;
        if landing.mode() == WindowMode::Granted {
            payloads.extend(flight.places().map(|place| landing.claim(place)));
        }
        self.send_word((at.0, at.1.other()), What::Room { class, bytes });
        if let Some(process) = self.process(id) {
            let pages: u32 = flight.places().map(|place| place.pages()).sum();
            process.counters.frames_received += 1;
            process.counters.frame_bytes_received += flight.frame.len() as u64;
            process.counters.payload_bytes_received += u64::from(pages) * PAGE_SIZE as u64;
        }
        Delivery::Frame { connection, class, bytes: flight.frame, payloads }
    }
}
