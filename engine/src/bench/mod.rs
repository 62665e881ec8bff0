//! The harness: a matrix of loads on servers of its own, measured from a client's side.
//!
//! `culvert bench` is a thin front of this. What is measured, and under which names it is
//! reported, is [`CaseResult`]; how machines disturb it is [`machine`].

mod case;
mod cleanup;
mod html;
mod load;
mod machine;
mod places;
mod result;
mod server_process;
mod table;
mod totals;
mod turns;

pub use case::{CaseError, Pattern, Row, TransportKind, rows};
pub use cleanup::{Scratch, on_signals};
pub use html::render as render_html;
pub use load::{Load, LoadError, Measured};
pub use machine::{CoreTimes, memcpy_gb_s, process_time_ns};
pub use places::Places;
pub use result::{CaseResult, LatencyUs, Nodes, STEAL_PERCENT_MAX};
pub use server_process::ServerProcess;
pub use table::{render as render_table, render_costs};
pub use totals::Totals;
pub use turns::{Alone, Turns};
