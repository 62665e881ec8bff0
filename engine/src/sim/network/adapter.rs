//! The network of one process, as its reactor or client sees it.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use culvert::network::{
    Address, Class, ConnectError, ConnectionId, Event, ListenError, Network, NetworkCounters,
    Placement, RegionEvent, RegionHandler, SendError, WindowMode,
};
use culvert_memory::{Buffer, Pages};

use super::process::ProcessId;
use super::state::State;

/// See the module's documentation.
///
/// It belongs to its process: once that is dead, or another was started on its host, every call is
/// answered as if all connections were closed, and there are no events. Dropping it closes what is
/// open, as the end of a process does.
///
/// Times given to it are the process's own and may be wrong; the network has its own.
#[derive(Debug)]
pub struct SimNetwork {
    state: Rc<RefCell<State>>,
    process: ProcessId,
}

impl SimNetwork {
    pub(super) fn new(state: Rc<RefCell<State>>, process: ProcessId) -> SimNetwork {
        SimNetwork { state, process }
    }

    /// What one end of a connection says of itself while frames may be sent.
    fn end<T>(
        &self,
        connection: ConnectionId,
        answer: impl FnOnce(&super::link::End) -> T,
    ) -> Option<T> {
        let state = self.state.borrow();
        let (link, side) = state.find_open(self.process, connection)?;
        Some(answer(state.links[&link].end(side)))
    }
}

impl Network for SimNetwork {
    fn listen(&mut self, address: &Address) -> Result<Address, ListenError> {
        self.state.borrow_mut().listen(self.process, address)
    }

    fn connect(
        &mut self,
        address: &Address,
        window: WindowMode,
    ) -> Result<ConnectionId, ConnectError> {
        self.state.borrow_mut().connect(self.process, address, window)
    }

    fn poll(&mut self, _: u64, budget: usize, handler: &mut dyn FnMut(Event<'_>)) -> usize {
        for count in 0..budget {
            let delivery = self.state.borrow_mut().next_delivery(self.process);
            let Some(delivery) = delivery else { return count };
            delivery.hand_to(handler);
        }
        budget
    }

    fn reserve(&mut self, connection: ConnectionId, pages: u32) -> Option<Placement> {
        self.state.borrow_mut().reserve(self.process, connection, pages)
    }

    fn cancel(&mut self, connection: ConnectionId, placement: Placement) {
        self.state.borrow_mut().cancel(self.process, connection, placement);
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        class: Class,
        frame: &[u8],
        payloads: &[(Placement, Pages)],
    ) -> Result<(), SendError> {
        self.state.borrow_mut().send(self.process, connection, (class, frame), payloads)
    }

    fn unsent_pages(&self, connection: ConnectionId) -> u32 {
        self.end(connection, |end| end.unsent_pages).unwrap_or(0)
    }

    fn post(&mut self, _: u64) {
        self.state.borrow_mut().post(self.process);
    }

    fn close(&mut self, connection: ConnectionId, reason: &'static str) {
        self.state.borrow_mut().close(self.process, connection, reason);
    }

    fn acquire_named(&mut self, connection: ConnectionId, pages: u32) -> Option<Buffer> {
        self.state.borrow_mut().acquire_named(self.process, connection, pages)
    }

    fn named_page(&self, connection: ConnectionId, buffer: &Buffer) -> Option<u32> {
        self.end(connection, |end| end.landing.page_of(buffer))?
    }

    fn window_pages_granted(&self, connection: ConnectionId) -> u32 {
        self.end(connection, |end| end.credits.pages()).unwrap_or(0)
    }

    fn regions(&mut self, handler: &mut RegionHandler<'_>) {
        let (events, waiting) = self.state.borrow_mut().take_regions(self.process);
        let mut refused = Vec::new();
        for event in events {
            let added = match &event {
                RegionEvent::Added(region) => Some(region.id()),
                RegionEvent::Retired(_) => None,
            };
            if handler(event).is_err() {
                refused.extend(added);
            }
        }
        for at in waiting {
            self.state.borrow_mut().reported(at, &refused);
        }
    }

    fn counters(&self) -> NetworkCounters {
        self.state
            .borrow_mut()
            .process(self.process)
            .map_or_else(NetworkCounters::default, |process| process.counters)
    }

    fn prepare_sleep(&mut self) -> bool {
        let mut state = self.state.borrow_mut();
        state.post(self.process);
        !state.process(self.process).is_some_and(|process| process.has_events())
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }

    fn finish_sleep(&mut self) {}

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for SimNetwork {
    fn drop(&mut self) {
        // While the fabric itself panics there is nothing left to be said.
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.leave(self.process);
        }
    }
}
