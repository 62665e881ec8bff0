//! Where the servers of a local cluster listen, and from where everybody connects.

use std::net::IpAddr;

use culvert::doctor::RdmaDevice;
use culvert_memory::{Pool, PoolOptions};
use culvert_transport::{Address, Identity, ListenError, PeerKind, Transport, TransportOptions};
use serde::Serialize;

use super::case::TransportKind;
use crate::cli::connect::mint_uuid;

/// IP addresses of the nodes, in their order, and behind them that of the client; fewer are used in
/// turn. None at all: the loopback interface, and whatever source the kernel chooses.
///
/// Everybody also connects from its own address, so that all transports of a comparison take the
/// same way, and RDMA the device that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Addresses(Vec<IpAddr>);

/// Why there are no addresses to use.
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// More than anybody has use for.
    #[error(
        "--address names {count} addresses; {nodes} servers and a client have use for one each"
    )]
    TooMany {
        /// How many were named.
        count: usize,
        /// How many servers there are.
        nodes: usize,
    },
    /// No device, or none that is up and has an address.
    #[error(
        "rdma:// needs an RDMA device with an active port and an IP address, and none is seen here: \
         `culvert doctor` says what is missing, --address names addresses that it does not see"
    )]
    NoDevice,
    /// The kernel or rdma-core refuses the address.
    #[error("rdma:// cannot be used at {address}: `culvert doctor` says what is missing")]
    Unusable {
        /// Which address.
        address: IpAddr,
        /// What it says.
        source: ListenError,
    },
}

impl Addresses {
    /// Those that the caller asks for. Otherwise, where `transports` has RDMA: one device for each
    /// server and one for the client, so that everything takes the wire, or where there are not so
    /// many, the first for all. Cards come before software.
    ///
    /// # Errors
    ///
    /// [`AddressesError`] where too many are asked for, or RDMA finds no device.
    pub fn choose(
        asked: &[IpAddr],
        nodes: usize,
        transports: &[TransportKind],
        devices: &[RdmaDevice],
    ) -> Result<Addresses, AddressesError> {
        let places = nodes + 1;
        if asked.len() > places {
            return Err(AddressesError::TooMany { count: asked.len(), nodes });
        }
        if !asked.is_empty() || !transports.contains(&TransportKind::Rdma) {
            return Ok(Addresses(asked.to_vec()));
        }
        let mut devices: Vec<&RdmaDevice> = devices.iter().collect();
        devices.sort_by_key(|device| device.soft);
        let first = |device: &&RdmaDevice| device.addresses.first().copied();
        let mut found: Vec<IpAddr> = devices.iter().filter_map(first).collect();
        match found.len() {
            0 => return Err(AddressesError::NoDevice),
            count if count < places => found.truncate(1),
            _ => found.truncate(places),
        }
        Ok(Addresses(found))
    }

    /// The addresses themselves.
    #[must_use]
    pub fn list(&self) -> &[IpAddr] {
        &self.0
    }

    /// Where node `number` listens, and from where it connects.
    #[must_use]
    pub fn of_node(&self, number: usize) -> Option<IpAddr> {
        self.0.get(number % self.0.len().max(1)).copied()
    }

    /// From where the client of so many nodes connects.
    #[must_use]
    pub fn of_client(&self, nodes: usize) -> Option<IpAddr> {
        self.of_node(nodes)
    }

    /// Takes each address over RDMA for a moment: what is missing is said once, before servers fail
    /// one by one.
    ///
    /// # Errors
    ///
    /// The first [`AddressesError::Unusable`], or no memory.
    pub fn check_rdma(&self) -> anyhow::Result<()> {
        let pool = Pool::new(&PoolOptions { lock: false, ..PoolOptions::default() })?;
        let identity = Identity { node: mint_uuid()?, kind: PeerKind::Client, endpoint: 0 };
        let mut transport = Transport::new(TransportOptions::new(identity, pool))?;
        for &address in &self.0 {
            let bound = transport.bind(&Address::Rdma((address, 0).into()));
            bound.map_err(|source| AddressesError::Unusable { address, source })?;
        }
        Ok(())
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Addresses {
        Addresses(addresses.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::TransportKind::{Rdma, Shm, Tcp};
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn devices(soft: bool, addresses: &[&[&str]]) -> Vec<RdmaDevice> {
        let device = |(number, addresses): (usize, &&[&str])| RdmaDevice {
            device: format!("dev{number}"),
            driver: if soft { "rxe".into() } else { "mlx5_core".into() },
            soft,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        addresses.iter().enumerate().map(device).collect()
    }

    #[test]
    fn a_device_for_everybody_or_one_for_all() {
        let four =
            devices(true, &[&["10.9.0.1", "10.9.1.1"], &["10.9.0.2"], &["::3"], &["10.9.0.4"]]);
        let spread = Addresses::choose(&[], 3, &[Rdma, Tcp], &four).expect("a device");
        assert_eq!(spread.list(), ["10.9.0.1", "10.9.0.2", "::3", "10.9.0.4"].map(ip));
        assert_eq!(spread.of_node(1), Some(ip("10.9.0.2")));
        assert_eq!(spread.of_client(3), Some(ip("10.9.0.4")));
        let single = Addresses::choose(&[], 1, &[Rdma], &four).expect("a device");
        assert_eq!(single.list(), ["10.9.0.1", "10.9.0.2"].map(ip));
        let one = Addresses::choose(&[], 5, &[Rdma, Tcp], &four).expect("a device");
        assert_eq!(one.list(), [ip("10.9.0.1")]);
        assert_eq!(one.of_client(5), Some(ip("10.9.0.1")));
    }

    #[test]
    fn cards_come_before_software_and_ports_that_are_down_do_not_count() {
        let mut all = devices(true, &[&["10.9.0.1"]]);
        all.extend(devices(false, &[&[], &["192.0.2.7"]]));
        let chosen = Addresses::choose(&[], 3, &[Rdma], &all).expect("a device");
        assert_eq!(chosen.list(), [ip("192.0.2.7")]);
        let none = Addresses::choose(&[], 3, &[Tcp, Rdma], &devices(false, &[&[]]));
        let said = none.expect_err("no address").to_string();
        assert!(said.contains("culvert doctor"), "{said}");
    }

    #[test]
    fn those_asked_for_are_used_in_turn() {
        let asked = ["192.0.2.1", "192.0.2.2"].map(ip);
        let chosen = Addresses::choose(&asked, 3, &[Rdma], &[]).expect("no device is asked for");
        let of = |number| chosen.of_node(number).expect("an address");
        assert_eq!([0, 1, 2].map(of), ["192.0.2.1", "192.0.2.2", "192.0.2.1"].map(ip));
        assert_eq!(chosen.of_client(3), Some(asked[1]));
        let many = Addresses::choose(&[asked[0]; 5], 3, &[Tcp], &[]).expect_err("too many");
        assert!(many.to_string().contains("5 addresses; 3 servers and a client"), "{many}");
    }

    #[test]
    fn without_rdma_it_is_the_loopback_interface() {
        let chosen = Addresses::choose(&[], 3, &[Shm, Tcp], &devices(false, &[&["192.0.2.7"]]));
        let chosen = chosen.expect("no device is needed");
        assert_eq!((chosen.of_node(0), chosen.of_client(3)), (None, None));
    }
}
