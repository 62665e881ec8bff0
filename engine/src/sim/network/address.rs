//! Where hosts are: host 0 at 10.0.0.1, host 1 at 10.0.0.2, and so on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use culvert::network::Address;

/// Where processes listen that were not told otherwise.
const PORT: u16 = 4420;

/// The first of the ports that a process gets which asks for any.
const PORT_ANY: u16 = 40_000;

/// The address of a host.
pub(super) fn of_host(host: usize) -> Address {
    assert!(host < 254, "host {host} has no address");
    Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1)), PORT))
}

/// The host at an address; `None` for one outside the modelled network.
pub(super) fn host_of(address: &Address) -> Option<usize> {
    let Address::Tcp(SocketAddr::V4(address)) = address else { return None };
    match address.ip().octets() {
        [10, 0, 0, last @ 1..=254] => Some(usize::from(last) - 1),
        _ => None,
    }
}

/// The address with a port, for the `number`th listener of a process.
pub(super) fn with_port(address: &Address, number: usize) -> Address {
    match address {
        Address::Tcp(socket) if socket.port() == 0 => {
            Address::Tcp(SocketAddr::new(socket.ip(), PORT_ANY + number as u16))
        }
        other => other.clone(),
    }
}
