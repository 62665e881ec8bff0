//! Reactors on threads of their own, until somebody says stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use super::{ClaimedDevices, NodeError, NodeReactor};
use crate::chunkserver::AbsentReplicas;
use crate::cluster::Cluster;
use crate::config::NodeConfig;
use crate::network::Address;

/// Ends a node: each reactor finishes its turn and closes its devices. A sleeping reactor sees it
/// at its next tick.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks all reactors to stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Runs all reactors of a node, each on a thread pinned to its core, until `stop`. `ready` is
/// called once, with every address that the node listens on, when all reactors serve.
///
/// # Errors
///
/// The first [`NodeError`] of a reactor; the others are stopped then.
pub fn serve(
    config: &NodeConfig,
    cluster: &Cluster,
    absent: impl Into<AbsentReplicas>,
    stop: &Stop,
    ready: impl FnOnce(&[Address]),
) -> Result<(), NodeError> {
    let absent: AbsentReplicas = absent.into();
    let claims = ClaimedDevices::take(config)?;
    thread::scope(|scope| {
        let (sender, opened) = mpsc::channel();
        let mut threads = Vec::new();
        for number in 0..config.reactors.len() {
            let sender = sender.clone();
            let claims = claims.clone();
            let open = move || NodeReactor::open_claimed(&claims, config, cluster, number, absent);
            let core = config.reactors[number].core;
            let run = move || run_reactor((number, core), open, stop, &sender);
            let thread = thread::Builder::new().name(format!("reactor-{number}"));
            match thread.spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    stop.stop();
                    return Err(NodeError::Thread { reactor: number, source });
                }
            }
        }
        drop(sender);
        let mut addresses = Vec::new();
        let mut result = Ok(());
        for _ in 0..threads.len() {
            match opened.recv() {
                Ok(Ok(listening)) => addresses.extend(listening),
                Ok(Err(error)) if result.is_ok() => {
                    stop.stop();
                    result = Err(error);
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        if result.is_ok() {
            ready(&addresses);
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        result
    })
}

fn run_reactor(
    (number, core): (usize, usize),
    open: impl FnOnce() -> Result<NodeReactor, NodeError>,
    stop: &Stop,
    opened: &mpsc::Sender<Result<Vec<Address>, NodeError>>,
) {
    if let Err(error) = culvert_memory::pin_current_thread(core) {
        tracing::warn!(number, core, %error, "reactor is not pinned to its core");
    }
    let mut reactor = match open() {
        Ok(reactor) => reactor,
        Err(error) => {
            // The receiver is gone only where another reactor failed before.
            let _gone = opened.send(Err(error));
            return;
        }
    };
    let _gone = opened.send(Ok(reactor.listening().to_vec()));
    while !stop.is_asked() {
        reactor.turn_or_idle();
    }
}
