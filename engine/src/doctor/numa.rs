//! NUMA nodes: which cores they have, and how far it is from one to the other.

use super::cores::Cores;
use super::machine::{Machine, Unread};

const NODES: &str = "/sys/devices/system/node";

/// A part of the machine with memory or cores of its own.
#[derive(Clone, Debug)]
pub(super) struct NumaNode {
    pub(super) id: u32,
    pub(super) cores: Cores,
    /// To the nodes of the machine, in their order. By convention 10 is here, 20 is twice as far.
    distances: Vec<u32>,
}

impl NumaNode {
    /// Its folder in sysfs.
    pub(super) fn folder(&self) -> String {
        format!("{NODES}/node{}", self.id)
    }
}

/// The nodes that are online; an error where the kernel knows of none.
pub(super) fn nodes(machine: &Machine) -> Result<Vec<NumaNode>, Unread> {
    let node = |id| {
        let folder = format!("{NODES}/node{id}");
        let distances = machine.text(&format!("{folder}/distance")).unwrap_or_default();
        Ok(NumaNode {
            id,
            cores: machine.parsed(&format!("{folder}/cpulist"))?,
            distances: distances.split_whitespace().map_while(|d| d.parse().ok()).collect(),
        })
    };
    let found: Result<Vec<NumaNode>, Unread> =
        machine.numbered(NODES, "node")?.into_iter().map(node).collect();
    match found {
        Ok(nodes) if nodes.is_empty() => Err(Unread::Missing { path: format!("{NODES}/node0") }),
        found => found,
    }
}

/// How far it is from one node to each other that has cores: `21 from node 0`.
pub(super) fn distances(nodes: &[NumaNode], from: &NumaNode) -> String {
    let others = nodes.iter().zip(&from.distances).filter(|(node, _)| {
        let other = node.id != from.id;
        other && !node.cores.is_empty()
    });
    let far: Vec<String> =
        others.map(|(node, distance)| format!("{distance} from node {}", node.id)).collect();
    far.join(", ")
}

/// Where a device is, given its folder in sysfs: its node, the cores there, and the way from the
/// others. Nothing where the machine has one node only.
pub(super) fn place_of(machine: &Machine, device: &str) -> Option<String> {
    let nodes = nodes(machine).ok().filter(|nodes| nodes.len() > 1)?;
    let id: i64 = machine.parsed(&format!("{device}/numa_node")).ok()?;
    let Some(node) = nodes.iter().find(|node| i64::from(node.id) == id) else {
        return Some("NUMA node not told".to_owned());
    };
    let far = distances(&nodes, node);
    let far = if far.is_empty() { far } else { format!(", distance {far}") };
    Some(format!("NUMA node {id} (cores {}{far})", node.cores))
}
