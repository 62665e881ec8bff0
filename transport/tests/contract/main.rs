//! What every backend promises, run over each of them.
//!
//! The suite knows backends only by their address. Two transports live in one thread and are pumped
//! in turn, except where a test is about threads or processes.

mod flow;
mod growth;
mod harness;
mod hostile;
mod lifecycle;
mod raw;
mod security;
mod sleep;
mod windows;

/// Runs each test of a module over each backend.
macro_rules! over_backends {
    ($($test:ident),+ $(,)?) => {
        mod shm {
            $(#[test] fn $test() { super::$test(crate::harness::Scheme::Shm); })+
        }
        mod tcp {
            $(#[test] fn $test() { super::$test(crate::harness::Scheme::Tcp); })+
        }
    };
}
pub(crate) use over_backends;
