//! The whole cluster from one seed: production reactors and clients over a modelled network,
//! modelled devices and modelled clocks, in one thread.
//!
//! | part | what |
//! | --- | --- |
//! | `random` | chance, from the seed alone |
//! | `device` | disks that outlive processes, and the queue pairs on them |
//! | `network` | hosts, connections and one-sided writes between them |
//! | `history` | what clients saw, and whether a store of blocks could have said so |
//!
//! Nothing here is known to the production code: it implements the traits that the reactor and the
//! client are written against.

pub mod history;
pub mod random;
