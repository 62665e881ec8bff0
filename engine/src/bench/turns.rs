//! Who gets the client's thread while the client waits.

use crate::client::{Client, Clock, Completion};
use crate::network::Network;

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

/// The client has its thread for itself: it polls, and sleeps when nothing comes.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl<N: Network> Turns<N> for Alone {
    fn turn(
        &mut self,
        client: &mut Client<N>,
        clock: &Clock,
        handler: &mut dyn FnMut(Completion<'_>),
    ) {
        client.wait(clock, handler);
    }
}
