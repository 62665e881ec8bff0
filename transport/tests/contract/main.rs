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
        mod rdma {
            $(#[test] fn $test() {
                if crate::harness::has_rdma() {
                    super::$test(crate::harness::Scheme::Rdma);
                }
            })+
        }
    };
}
pub(crate) use over_backends;

/// As [`over_backends`], for tests that speak to sockets themselves.
macro_rules! over_sockets {
    ($($test:ident),+ $(,)?) => {
        mod shm_socket {
            $(#[test] fn $test() { super::$test(crate::harness::Scheme::Shm); })+
        }
        mod tcp_socket {
            $(#[test] fn $test() { super::$test(crate::harness::Scheme::Tcp); })+
        }
    };
}
pub(crate) use over_sockets;
