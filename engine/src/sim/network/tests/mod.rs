//! The rules of the transport's contract, held against the modelled network, and what it is for:
//! faults, and pages that are corrupted where they were given back too early.

mod faults;
mod flow;
mod life;
mod rig;
mod torture;
mod windows;
