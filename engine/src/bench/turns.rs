//! Who gets the client's thread while the client waits.

use culvert::client::{Client, Clock, Completion};
use culvert::network::Network;

/// Turns of a client, and of whatever shares its thread.
pub trait Turns<N: Network> {
    /// Goes on until something was reported to `handler`, or for one turn at least.
    fn turn(
        &mut self,
        client: &mut Client<N>,
        clock: &Clock,
        handler: &mut dyn FnMut(Completion<'_>),
    );
}
