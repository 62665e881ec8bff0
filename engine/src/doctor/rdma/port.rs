//! A port: whether it is up, its addresses, and the size of packets.

use std::collections::BTreeSet;

use super::super::Findings;
use super::super::machine::Machine;
use super::gid::{self, Gid, Kind};
use super::{Device, NET, congestion};

/// Payloads of a packet that InfiniBand knows, largest first.
const PATH_MTUS: [u32; 5] = [4096, 2048, 1024, 512, 256];

/// What the kernel's connection manager keeps free for headers when it derives the path MTU of RoCE
/// from the MTU of the network device (`iboe_get_mtu` in `include/rdma/ib_addr.h`): GRH or IPv6 40,
/// UDP 8, BTH 12, XRC 4, atomic 28, ICRC 4. RoCE v2 over IPv4 has shorter headers and is given no
/// more. That soft-RoCE reports its ports with 80 is of no account here: connections are made with
/// this.
const HEADER_BYTES: u32 = 40 + 8 + 12 + 4 + 28 + 4;

/// The round number that people configure for a path MTU of 4096: 4192 would do.
const NET_MTU: u32 = 4200;

/// A block of Culvert.
const BLOCK_BYTES: u32 = 4096;

/// `IFF_UP` of netdevice(7): the operator has switched it on.
const FLAG_UP: u32 = 1;

/// A port of a device.
#[derive(Debug)]
struct Port {
    /// `mlx5_0/1`: device and number.
    name: String,
    folder: String,
    /// The network device of the port itself, without those for VLANs.
    net: Option<String>,
    gids: Vec<Gid>,
}

impl Port {
    fn new(machine: &Machine, device: &Device, number: u32) -> Port {
        let folder = format!("{}/ports/{number}", device.folder());
        let gids = gid::table(machine, &folder);
        let net =
            net_of(machine, device, number).or_else(|| gids.iter().find_map(|gid| gid.net.clone()));
        Port { name: format!("{}/{number}", device.name), folder, net, gids }
    }

    fn says(&self, machine: &Machine, file: &str) -> String {
        machine.text(&format!("{}/{file}", self.folder)).unwrap_or_default()
    }
}

/// Whether the operator has switched a network device on.
pub(super) fn is_up(machine: &Machine, net: &str) -> bool {
    let flags = machine.text(&format!("{NET}/{net}/flags")).unwrap_or_default();
    let flags = flags.strip_prefix("0x").and_then(|flags| u32::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & FLAG_UP != 0)
}

/// The network device of a port: what soft-RoCE was put on, or that of the same number on the same
/// card. `dev_port` counts from 0, ports from 1; a card of one function for each port has 0 only.
fn net_of(machine: &Machine, device: &Device, number: u32) -> Option<String> {
    if let Ok(net) = machine.text(&format!("{}/parent", device.folder())) {
        return Some(net).filter(|net| !net.is_empty());
    }
    let folder = format!("{}/device/net", device.folder());
    let nets = machine.names(&folder).ok()?;
    let own = |net: &&String| {
        let port = machine.parsed::<u32>(&format!("{folder}/{net}/dev_port"));
        port.is_ok_and(|port| port.checked_add(1) == Some(number))
    };
    nets.iter().find(own).or_else(|| nets.first().filter(|_| nets.len() == 1)).cloned()
}

pub(super) fn examine(machine: &Machine, device: &Device, findings: &mut Findings) {
    let numbers = machine.numbered(&format!("{}/ports", device.folder()), "");
    let numbers = match numbers {
        Ok(numbers) => numbers,
        Err(error) => return findings.unknown(&device.name, "ports not told", error),
    };
    for number in numbers {
        let port = Port::new(machine, device, number);
        if !examine_state(machine, &port, findings) || device.is_iwarp {
            continue;
        }
        match port.says(machine, "link_layer").as_str() {
            "Ethernet" => {
                examine_gids(&port, findings);
                examine_mtus(machine, device, &port, findings);
                congestion::examine_flow(
                    machine,
                    device,
                    &port.name,
                    port.net.as_deref(),
                    findings,
                );
            }
            _ => examine_infiniband(&port, findings),
        }
        congestion::examine_counters(machine, &port.name, &port.folder, findings);
    }
}

/// `4: ACTIVE` is `ACTIVE`.
fn word(text: &str) -> &str {
    text.split_once(": ").map_or(text, |(_, word)| word)
}

/// Whether a port, given its folder in sysfs, carries packets.
pub(super) fn is_active(machine: &Machine, folder: &str) -> bool {
    machine.text(&format!("{folder}/state")).is_ok_and(|state| word(&state) == "ACTIVE")
}

/// Returns whether the port carries packets.
fn examine_state(machine: &Machine, port: &Port, findings: &mut Findings) -> bool {
    let (state, physical) = (port.says(machine, "state"), port.says(machine, "phys_state"));
    let (state, physical) = (word(&state), word(&physical));
    let layer = port.says(machine, "link_layer");
    let over = port.net.as_ref().map(|net| format!(", over {net}")).unwrap_or_default();
    if state == "ACTIVE" {
        let rate = port.says(machine, "rate");
        findings.good(&port.name, format!("active, {layer}, {rate}{over}"));
        return true;
    }
    let what = format!("{state} ({physical}), {layer}{over}: it carries nothing");
    match &port.net {
        _ if state.is_empty() => {
            let why = format!("{}/state cannot be read", port.folder);
            findings.unknown(&port.name, "state not told", why);
        }
        Some(net) if !is_up(machine, net) => {
            findings.bad(&port.name, what, format!("ip link set {net} up"));
        }
        _ if layer == "InfiniBand" && physical == "LinkUp" => {
            let what = format!("{what}, until a subnet manager of the fabric sets it up");
            findings.bad(
                &port.name,
                what,
                "systemctl start opensm  # on one machine of the fabric",
            );
        }
        Some(net) => {
            let why = format!("cable, module or switch: ethtool {net}");
            findings.unknown(&port.name, what, why);
        }
        None => findings.unknown(&port.name, what, "cable, module or switch: rdma link show"),
    }
    false
}

fn examine_gids(port: &Port, findings: &mut Findings) {
    let (mut others, mut found) = (Vec::new(), false);
    for gid in &port.gids {
        if !gid.is_for_nodes() {
            let kind = match gid.kind {
                Kind::V1 => "RoCE v1",
                Kind::V2 => "link-local",
                Kind::Untold => "type not told",
            };
            others.push(format!("{} ({kind})", gid.index));
            continue;
        }
        found = true;
        let net = gid.net.as_ref().map(|net| format!(" of {net}")).unwrap_or_default();
        let what = match gid.address.to_ipv4_mapped() {
            Some(address) => format!("RoCE v2 over IPv4, {address}{net}"),
            None => format!("RoCE v2 over IPv6, {}{net}", gid.address),
        };
        findings.good(format!("{} GID {}", port.name, gid.index), what);
    }
    let subject = format!("{} other GIDs", port.name);
    if !found {
        let what = "no RoCE v2 GID but link-local ones: no address for `rdma://`";
        let net = port.net.as_deref().unwrap_or("DEV");
        let mend = format!("ip address add ADDRESS/PREFIX dev {net}");
        findings.bad(format!("{} GIDs", port.name), what, mend);
    }
    if !others.is_empty() {
        findings.good(subject, format!("{}: not for nodes", others.join(", ")));
    }
}

/// The payload of a packet where the network device takes `net_mtu` bytes; `None` where not even
/// the smallest fits.
fn path_mtu(net_mtu: u32) -> Option<u32> {
    let room = net_mtu.saturating_sub(HEADER_BYTES);
    PATH_MTUS.into_iter().find(|mtu| *mtu <= room)
}

/// One line for each network device whose addresses nodes may use.
fn examine_mtus(machine: &Machine, device: &Device, port: &Port, findings: &mut Findings) {
    let usable = port.gids.iter().filter(|gid| gid.is_for_nodes());
    let nets = usable.filter_map(|gid| gid.net.as_deref()).chain(port.net.as_deref());
    let nets: BTreeSet<&str> = nets.collect();
    let subject = format!("{} MTU", port.name);
    if nets.is_empty() {
        let why = format!("its network device is not told: ibv_devinfo -d {}", device.name);
        return findings.unknown(subject, "not told", why);
    }
    for net in nets {
        let net_mtu: u32 = match machine.parsed(&format!("{NET}/{net}/mtu")) {
            Ok(mtu) => mtu,
            Err(error) => {
                findings.unknown(&subject, "not told", error);
                continue;
            }
        };
        match path_mtu(net_mtu) {
            Some(BLOCK_BYTES) => {
                let what = format!(
                    "{BLOCK_BYTES} follows from the {net_mtu} of {net}: a block is one packet"
                );
                findings.good(&subject, what);
            }
            path => {
                let what = match path {
                    Some(path) => format!(
                        "{path} follows from the {net_mtu} of {net}: a block of 4 KiB is {} packets",
                        BLOCK_BYTES / path
                    ),
                    None => format!("the {net_mtu} of {net} is too little for RDMA"),
                };
                let mend = format!("ip link set {net} mtu {NET_MTU}");
                findings.bad(&subject, what, format!("{mend}  # and all nodes and switches"));
            }
        }
    }
}

/// Addresses of `rdma://` are IP addresses, and so are of IPoIB here. The MTU is the subnet
/// manager's, and sysfs does not have it.
fn examine_infiniband(port: &Port, findings: &mut Findings) {
    let subject = format!("{} IPoIB", port.name);
    match &port.net {
        Some(net) => findings.good(subject, format!("addresses of nodes are those of {net}")),
        None => findings.bad(subject, "none: no address for `rdma://`", "modprobe ib_ipoib"),
    }
    let device = port.name.split('/').next().unwrap_or_default();
    let why = format!("ibv_devinfo -d {device}");
    findings.unknown(format!("{} MTU", port.name), "not told for InfiniBand", why);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_mtu_is_what_fits_below_the_headers() {
        for (mtu, path) in [
            (0, None),
            (351, None),
            (352, Some(256)),
            (1500, Some(1024)),
            (2143, Some(1024)),
            (2144, Some(2048)),
            (4096, Some(2048)),
            (4191, Some(2048)),
            (4192, Some(4096)),
            (NET_MTU, Some(4096)),
            (9000, Some(4096)),
            (u32::MAX, Some(4096)),
        ] {
            assert_eq!(path_mtu(mtu), path, "{mtu}");
        }
    }
}
