//! The whole cluster from one seed: production reactors and clients over a modelled network,
//! modelled devices and modelled clocks, in one thread.
//!
//! | part | what |
//! | --- | --- |
//! | `run` | one seed from beginning to end, and its verdict |
//! | `world` | hosts, wires and time, which moves from one event to the next |
//! | `scene` | the cluster that is simulated |
//! | `temper` | what one seed's world is like: sizes, speeds, habits |
//! | `faults`, `plots` | what goes wrong, when, and for how long; one by one, or several together |
//! | `damage`, `wound` | devices that go bad while their node is down, and while it runs |
//! | `coverage` | which faults met which states |
//! | `process`, `guest` | a node's process, a client |
//! | `clock` | a node's own clock |
//! | `device` | disks that outlive processes, and the queue pairs on them |
//! | `network` | hosts, connections and one-sided writes between them |
//! | `history` | what clients saw, and whether a store of blocks could have said so |
//! | `agreement` | what the replicas say, compared |
//! | `watch` | raft's promises, watched after every turn |
//! | `random` | chance, from the seed alone |
//!
//! Nothing here is known to the production code: it implements the traits that the reactor and the
//! client are written against.

mod agreement;
mod clock;
pub mod coverage;
mod damage;
mod device;
pub mod faults;
mod guest;
mod history;
mod network;
mod plots;
mod process;
mod random;
pub mod run;
mod scene;
mod temper;
mod watch;
mod world;
mod wound;

#[cfg(test)]
mod tests;
