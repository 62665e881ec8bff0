//! A port for a node that does not run yet.
//!
//! A cluster file names ports before anybody listens there. A port that was bound to see that it is
//! free, and let go, may be somebody else's by then. So it stays bound here, by a socket that does
//! not listen: the kernel gives such a port to nobody who asks for any, and a server that names it
//! may bind and listen all the same, because both sockets are marked reusable. It may be killed
//! and come back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// A TCP port of an address of this machine, kept for servers of this program's choosing until it is
/// dropped.
#[derive(Debug)]
pub struct KeptPort {
    address: SocketAddr,
    _socket: OwnedFd,
}

impl KeptPort {
    /// Keeps a port of 127.0.0.1 that nobody uses.
    ///
    /// # Errors
    ///
    /// When the kernel has none left, or there is no loopback interface.
    pub fn of_loopback() -> io::Result<KeptPort> {
        KeptPort::of(Ipv4Addr::LOCALHOST.into())
    }

    /// Keeps a port of `address` that nobody uses.
    ///
    /// # Errors
    ///
    /// When the kernel has none left, or the address is not of this machine.
    pub fn of(address: IpAddr) -> io::Result<KeptPort> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddr::from((address, 0)))?;
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(KeptPort { address, _socket: socket })
    }

    /// The address to put into configurations.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_kept_port_is_given_to_nobody_else_and_taken_by_name() {
        let port = KeptPort::of_loopback().expect("a loopback interface");
        assert!(TcpStream::connect(port.address()).is_err(), "nobody listens");
        let others: Vec<_> = (0..2000).map_while(|_| KeptPort::of_loopback().ok()).collect();
        let mut names: BTreeSet<_> = others.iter().map(KeptPort::address).collect();
        assert_eq!(names.len(), others.len(), "each is kept once");
        assert!(names.insert(port.address()));
        for _ in 0..2 {
            let server = TcpListener::bind(port.address()).expect("it is kept for this");
            TcpStream::connect(port.address()).expect("the server listens");
            TcpListener::bind(port.address()).expect_err("one server listens at a time");
            drop(server);
        }
    }
}
