//! TCP between clients and nodes, and between nodes, that can be cut, held up or swallowed.
//!
//! A [`Route`] leads from somebody to a node: it listens, and forwards every connection to where
//! the node really listens. What happens to bytes is said for each direction of a route, and holds
//! for its connections of now and of later. Bytes are never changed, reordered or dropped out of
//! the middle: a connection of which something was swallowed is closed when the swallowing ends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const READ_BYTES: usize = 16 << 10;

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Open,
    /// They arrive so much later.
    Late(Duration),
    /// They arrive when the way is open again.
    Held,
    /// They never arrive, and nobody is told.
    Swallowed,
}

/// Directions of a route: towards the node, and back.
pub const DIRECTIONS: usize = 2;

/// See the module's documentation.
pub struct Route {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    address: SocketAddr,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ways: [Way; DIRECTIONS],
    /// Connections, with a number each; both their sockets.
    open: Vec<(u64, [TcpStream; 2])>,
    next: u64,
    ends: bool,
}

impl Route {
    /// A route to a node that listens at `target`, now or later.
    pub fn new(target: SocketAddr) -> Route {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
        let address = listener.local_addr().expect("it is bound");
        let ways = [Way::Open; DIRECTIONS];
        let state = Mutex::new(State { ways, open: Vec::new(), next: 0, ends: false });
        let shared = Arc::new(Shared { target, state, changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &accepting));
        Route { shared, acceptor: Some(acceptor), address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says what becomes of the bytes of both directions from now on. Where some may have been
    /// swallowed, all connections are cut.
    pub fn set(&self, ways: [Way; DIRECTIONS]) {
        let mut state = self.shared.lock();
        let gap = |(old, new): (&Way, &Way)| *old == Way::Swallowed && *new != Way::Swallowed;
        if state.ways.iter().zip(&ways).any(gap) {
            state.cut();
        }
        state.ways = ways;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections, at whatever byte they are.
    pub fn cut(&self) {
        self.shared.lock().cut();
        self.shared.changed.notify_all();
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ends = true;
        state.cut();
        drop(state);
        self.shared.changed.notify_all();
        // It waits for a connection: this one. That it is refused means that it has ended.
        let _woken = TcpStream::connect(self.address);
        let ended = self.acceptor.take().expect("dropped once").join();
        if !thread::panicking() {
            ended.expect("it does not panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Waits until bytes that were read at `since` may go on. Whether they are to arrive; `None`:
    /// the connection is cut.
    fn pass(&self, connection: u64, direction: usize, since: Instant) -> Option<bool> {
        let mut state = self.lock();
        loop {
            if !state.open.iter().any(|(number, _)| *number == connection) {
                return None;
            }
            let left = match state.ways[direction] {
                Way::Open => return Some(true),
                Way::Swallowed => return Some(false),
                Way::Held => Duration::MAX,
                Way::Late(delay) => delay.saturating_sub(since.elapsed()),
            };
            if left.is_zero() {
                return Some(true);
            }
            let left = left.min(Duration::from_secs(1));
            state = self.changed.wait_timeout(state, left).expect("as above").0;
        }
    }
}

impl State {
    fn cut(&mut self) {
        for (_, sockets) in self.open.drain(..) {
            for socket in sockets {
                // Its peer may have closed it first.
                let _closed = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let Ok((near, _)) = listener.accept() else { continue };
        if shared.lock().ends {
            break;
        }
        pumps.retain(|pump| !pump.is_finished());
        // A node that is dead refuses, and so its peer is refused here.
        let Ok(far) = TcpStream::connect(shared.target) else { continue };
        pumps.extend(forward(shared, near, far));
    }
    for pump in pumps {
        pump.join().expect("it does not panic");
    }
}

/// Starts to forward one connection in both directions.
fn forward(shared: &Arc<Shared>, near: TcpStream, far: TcpStream) -> [JoinHandle<()>; DIRECTIONS] {
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("a socket");
    }
    let copy = |socket: &TcpStream| socket.try_clone().expect("a socket more");
    let mut state = shared.lock();
    let connection = state.next;
    state.next += 1;
    state.open.push((connection, [copy(&near), copy(&far)]));
    drop(state);
    let ways = [(copy(&near), copy(&far)), (far, near)];
    let mut direction = 0..;
    ways.map(|(from, to)| {
        let shared = Arc::clone(shared);
        let direction = direction.next().expect("two directions");
        thread::spawn(move || pump(&shared, connection, direction, from, to))
    })
}

fn pump(
    shared: &Shared,
    connection: u64,
    direction: usize,
    mut from: TcpStream,
    mut to: TcpStream,
) {
    let mut bytes = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        match shared.pass(connection, direction, Instant::now()) {
            Some(true) if to.write_all(&bytes[..count]).is_ok() => {}
            Some(false) => {}
            _ => break,
        }
    }
    // The end of one direction is the end of the connection. Either side may have closed first.
    let _closed = to.shutdown(Shutdown::Both);
    let _closed = from.shutdown(Shutdown::Both);
    shared.lock().open.retain(|(number, _)| *number != connection);
}
