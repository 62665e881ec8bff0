//! The backend for other machines without RDMA: one non-blocking stream per connection.
//!
//! The stream is a sequence of batches: a fixed head, the frames of a turn, then their payloads in
//! order. The receiver therefore knows the size of everything before it reads it, and payload goes
//! from the kernel straight into the pages that the sender named. In steady state a batch costs the
//! sender one system call and the receiver two.

pub(crate) mod batch;
pub(crate) mod link;
pub(crate) mod receiver;
pub(crate) mod sender;
pub(crate) mod socket;
pub(crate) mod vectors;
