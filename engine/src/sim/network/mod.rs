//! The modelled network: hosts, connections between them, and one-sided writes.
//!
//! A [`Fabric`] is all of it. Each process has a [`SimNetwork`], which keeps the rules of
//! [`Network`](culvert::network::Network) exactly, and is as unpleasant as they allow:
//!
//! - Payload is read from the sender's pages and written into the receiver's window sector by
//!   sector, in any order, between the post of its frame and its delivery. The sender's pages are
//!   let go when the last sector was read.
//! - Sectors that are under way when one end closes or dies may land in the other end's window
//!   until that has been told. A page that was given back too early is thereby corrupted.
//! - Frames of one class arrive in order; the two classes overtake each other, and so does
//!   everything on different connections.
//! - A slot in the table of connections may be used again before the process was told that its
//!   last connection is closed.
//!
//! It has no bandwidth: what is under way does not make anything else slower. A process that does
//! not poll fills the queues of its peers, nothing else.
//!
//! Fault model: processes die, routes are partitioned one way, heal, or become slow, and
//! connections break; the world decides when. Frames are never changed, doubled, or lost from the
//! middle of a connection. Time and chance come from outside: equal seeds and equal calls give
//! equal events.
//!
//! | file | what |
//! | --- | --- |
//! | `state` | everything there is, and the course of time |
//! | `agenda`, `weather` | what will happen, and what lies between hosts |
//! | `link`, `way`, `flight` | a connection, one direction of it, a frame under way |
//! | `process`, `landing`, `credits`, `runs` | what one side has and knows |
//! | `opening`, `sending`, `growth`, `delivering`, `closing` | the steps of a connection's life |

mod adapter;
mod address;
mod agenda;
mod closing;
mod credits;
mod delivering;
mod flight;
mod growth;
mod landing;
mod link;
mod opening;
mod options;
mod process;
mod runs;
mod sending;
mod state;
mod way;
mod weather;

pub use adapter::SimNetwork;
#[cfg(test)]
pub use options::FabricInjected;
pub use options::FabricOptions;

use std::cell::RefCell;
use std::rc::Rc;

use culvert::network::{Address, Identity};

use self::agenda::{Bound, Entry};
use self::state::State;
use super::random::Random;

/// Where the process on a host listens.
///
/// # Panics
///
/// For a host beyond 253: the network has no more addresses.
pub fn address_of(host: usize) -> Address {
    address::of_host(host)
}

/// The whole network; cloning shares it. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Fabric {
    state: Rc<RefCell<State>>,
}

impl Fabric {
    /// A network without hosts.
    pub fn new(options: FabricOptions, random: Random) -> Fabric {
        Fabric { state: Rc::new(RefCell::new(State::new(options, random))) }
    }

    /// The network of a process that has just been started on a host. An earlier process there is
    /// dead from here on.
    ///
    /// A process that says it is a node has its regions reported, and must call
    /// [`Network::regions`](culvert::network::Network::regions) before anybody is connected; a
    /// client has no devices, and need not, as in production.
    pub fn host(&self, host: usize, identity: Identity) -> SimNetwork {
        let process = self.state.borrow_mut().start(host, identity);
        SimNetwork::new(Rc::clone(&self.state), process)
    }

    /// When something happens next.
    pub fn next_ns(&self) -> Option<u64> {
        self.state.borrow().agenda.next_ns()
    }

    /// Carries out everything that is due by `now_ns`, in order.
    pub fn advance(&self, now_ns: u64) {
        self.state.borrow_mut().advance(now_ns);
    }

    /// Whether the process on a host would get something from a poll now, or has regions to look
    /// at.
    pub fn has_events(&self, host: usize) -> bool {
        self.state.borrow().processes.get(&host).is_some_and(|process| process.has_events())
    }

    /// The process on a host dies. Its peers notice later.
    pub fn kill(&self, host: usize) {
        let mut state = self.state.borrow_mut();
        let died = state.die(host);
        state.injected.kills += u64::from(died);
    }

    /// Nothing that comes from one host arrives at the other until [`Fabric::heal`]. What is under
    /// way waits. Connections that this lasts too long for break.
    pub fn partition(&self, from: usize, to: usize) {
        let mut state = self.state.borrow_mut();
        if let Some(episode) = state.weather.partition((from, to)) {
            state.injected.partitions += 1;
            state.schedule_bound(Bound { from, to, episode });
        }
    }

    /// Ends a partition: what has waited arrives soon.
    pub fn heal(&self, from: usize, to: usize) {
        let mut state = self.state.borrow_mut();
        let Some(held) = state.weather.heal((from, to)) else { return };
        state.injected.heals += 1;
        for due in held {
            let at_ns = state.now_ns + state.latency_ns(due.link, due.to);
            state.agenda.schedule(at_ns, Entry::Due(due));
        }
    }

    /// Everything from one host to the other takes `factor` times as long; 1 ends it.
    pub fn slow(&self, from: usize, to: usize, factor: u64) {
        let mut state = self.state.borrow_mut();
        state.injected.slowdowns += u64::from(factor > 1);
        state.weather.slow((from, to), factor);
    }

    /// Breaks all connections between two hosts. Each end notices by itself, and frames under way
    /// are lost from some point on.
    pub fn cut(&self, a: usize, b: usize) {
        let mut state = self.state.borrow_mut();
        state.injected.cuts += 1;
        state.break_between(a, b, false);
    }

    /// What was injected so far.
    #[cfg(test)]
    pub fn injected(&self) -> FabricInjected {
        self.state.borrow().injected
    }
}

#[cfg(test)]
mod tests;
