//! The harness: a matrix of loads on servers of its own, measured from a client's side.
//!
//! `culvert bench` is a thin front of this. What is measured, and under which names it is reported,
//! is [`result::CaseResult`]; how machines disturb it is [`machine`].

pub mod addresses;
pub mod case;
pub mod cleanup;
mod costs;
pub mod hardware;
pub mod html;
pub mod load;
pub mod local_cluster;
pub mod machine;
pub mod matrix;
mod measure;
mod places;
pub mod result;
pub mod room;
pub mod scenario;
pub mod server_process;
pub mod servers;
pub mod site;
pub mod table;
mod totals;
mod turns;
