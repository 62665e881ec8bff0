//! The GID table of a port: under which addresses it may be reached.
//!
//! A RoCE v2 GID is an IP address of the network device: IPv6 as it is, IPv4 mapped into
//! `::ffff:0:0/96` (InfiniBand Architecture Specification, annex 17). A RoCE v1 GID does not pass
//! routers, and the connection manager does not choose it by an IP address of ours.

use std::net::Ipv6Addr;

use super::super::machine::Machine;

/// How packets are made of a GID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ethernet frames of their own type, or InfiniBand.
    V1,
    /// UDP over IP.
    V2,
    /// The kernel does not say.
    Untold,
}

/// An entry that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gid {
    pub(super) index: u32,
    pub(super) address: Ipv6Addr,
    pub(super) kind: Kind,
    /// The network device whose address it is.
    pub(super) net: Option<String>,
}

impl Gid {
    /// Whether nodes can be configured with its address.
    pub(super) fn is_for_nodes(&self) -> bool {
        self.kind == Kind::V2 && !self.address.is_unicast_link_local()
    }
}

/// The entries of a port, given its folder in sysfs. Empty ones are all zeroes.
pub(super) fn table(machine: &Machine, port: &str) -> Vec<Gid> {
    let indexes = machine.numbered(&format!("{port}/gids"), "").unwrap_or_default();
    let entry = |index| {
        let address: Ipv6Addr = machine.parsed(&format!("{port}/gids/{index}")).ok()?;
        if address.is_unspecified() {
            return None;
        }
        let kind = machine.text(&format!("{port}/gid_attrs/types/{index}"));
        let kind = match kind.as_deref() {
            Ok("RoCE v2") => Kind::V2,
            Ok("IB/RoCE v1") => Kind::V1,
            _ => Kind::Untold,
        };
        let net = machine.text(&format!("{port}/gid_attrs/ndevs/{index}")).ok();
        Some(Gid { index, address, kind, net: net.filter(|net| !net.is_empty()) })
    };
    let mut gids: Vec<Gid> = indexes.into_iter().filter_map(entry).collect();
    gids.sort_by_key(|gid| gid.index);
    gids
}
