//! Where a local cluster stands: its addresses, its share of the memory, what of the machine is real.

use std::net::IpAddr;

use culvert::doctor::{Machine, memory_available, rdma_devices};

use super::addresses::Addresses;
use super::case::TransportKind;
use super::cleanup::Scratch;
use super::hardware::Hardware;
use super::room::Room;
use crate::cli::exit::{Outcome, Refuse};

/// What this machine gives to a cluster.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Where everybody listens and connects from.
    pub addresses: Addresses,
    /// How large devices and pools are.
    pub room: Room,
    /// What is emulated.
    pub hardware: Hardware,
}

impl Site {
    /// This machine, for so many nodes, over `transports`; `asked`: addresses that the caller names.
    /// Whether RDMA can be used at all is found out here.
    pub fn here(nodes: u32, transports: &[TransportKind], asked: &[IpAddr]) -> Outcome<Site> {
        let machine = Machine::here();
        let devices = rdma_devices(&machine);
        let addresses = Addresses::choose(asked, nodes as usize, transports, &devices).refuse()?;
        if transports.contains(&TransportKind::Rdma) {
            addresses.check_rdma().refuse()?;
        }
        let free = rustix::fs::statvfs(Scratch::parent()).ok();
        let free = free.map(|free| free.f_bavail * free.f_frsize);
        // A file system of no size, as some of those in memory have, does not say.
        let room = Room::of(nodes, memory_available(&machine), free.filter(|free| *free > 0));
        let hardware = Hardware::of(&machine, transports, &addresses);
        Ok(Site { addresses, room, hardware })
    }
}
