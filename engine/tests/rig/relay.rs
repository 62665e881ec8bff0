//! A wire between a client and a node that may be cut at any byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use culvert_transport::Address;

/// Forwards one TCP connection.
pub struct Relay {
    /// Where it listens.
    pub address: Address,
    left: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay to `target`, which takes one connection.
    pub fn new(target: &Address) -> Relay {
        let Address::Tcp(target) = target else { panic!("a relay is for TCP") };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
        let address = Address::Tcp(listener.local_addr().expect("it is bound"));
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let (target, limit) = (*target, Arc::clone(&left));
        let thread = thread::spawn(move || forward(&listener, target, &limit));
        Relay { address, left, thread: Some(thread) }
    }

    /// Cuts the wire when so many more bytes went to the node.
    pub fn cut_after(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Waits until the wire is cut.
    pub fn join(mut self) {
        self.thread.take().expect("joined once").join().expect("it does not panic");
    }
}

fn forward(listener: &TcpListener, target: SocketAddr, left: &AtomicU64) {
    let (mut client, _) = listener.accept().expect("a client");
    let mut node = TcpStream::connect(target).expect("the node listens");
    client.set_nodelay(true).expect("a socket");
    node.set_nodelay(true).expect("a socket");
    let (mut from_node, mut to_client) =
        (node.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
    let back = thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from_node.read(&mut bytes) {
            if to_client.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
    });
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let allowed = (left.load(Ordering::SeqCst).min(count as u64)) as usize;
        let sent = node.write_all(&bytes[..allowed]);
        if left.load(Ordering::SeqCst) != u64::MAX {
            left.fetch_sub(allowed as u64, Ordering::SeqCst);
        }
        if sent.is_err() || allowed < count {
            break;
        }
    }
    // Either side may have closed first.
    let _closed = node.shutdown(Shutdown::Both);
    let _closed = client.shutdown(Shutdown::Both);
    back.join().expect("it does not panic");
}
