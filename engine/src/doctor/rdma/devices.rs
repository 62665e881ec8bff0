//! The devices that `rdma://` could use, and under which addresses.

use std::net::IpAddr;

use serde::Serialize;

use super::super::machine::Machine;
use super::{DEVICES, Device, gid, port};

/// An RDMA device, for whoever wants to listen on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaDevice {
    /// Its name: `mlx5_0`.
    pub device: String,
    /// What drives it: that of a card, or `rxe` or `siw`, which are software.
    pub driver: String,
    /// Whether the kernel does in software what a card would do.
    pub soft: bool,
    /// Addresses of its active ports, IPv4 first. None for iWARP and InfiniBand, whose addresses
    /// are not in sysfs.
    #[serde(skip)]
    pub addresses: Vec<IpAddr>,
}

/// All devices of a machine.
#[must_use]
pub fn rdma_devices(machine: &Machine) -> Vec<RdmaDevice> {
    let names = machine.names(DEVICES).unwrap_or_default();
    names.into_iter().map(|name| describe(machine, Device::new(machine, name))).collect()
}

fn describe(machine: &Machine, device: Device) -> RdmaDevice {
    let software = if device.is_iwarp { "siw" } else { "rxe" };
    RdmaDevice {
        addresses: if device.is_iwarp { Vec::new() } else { addresses(machine, &device) },
        soft: device.driver.is_none(),
        driver: device.driver.unwrap_or_else(|| software.to_owned()),
        device: device.name,
    }
}

fn addresses(machine: &Machine, device: &Device) -> Vec<IpAddr> {
    let ports = format!("{}/ports", device.folder());
    let numbers = machine.numbered(&ports, "").unwrap_or_default();
    let folders = numbers.into_iter().map(|number| format!("{ports}/{number}"));
    let active = folders.filter(|folder| port::is_active(machine, folder));
    let gids = active.flat_map(|folder| gid::table(machine, &folder));
    let usable = gids.filter(|gid| gid.is_for_nodes());
    let mut found: Vec<IpAddr> = usable.map(|gid| gid.address.to_canonical()).collect();
    // IPv4 before IPv6, each in the order of the table.
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    found
}
